//! A node whose dataplane is Linux, set up as flannel does it: a vxlan device without learning,
//! static neighbours and forwarding entries, and a bridge for the pods.

use encap::MacAddress;

use crate::{
    engine_node::Tunnel,
    namespace::Namespace,
    plan::{Node, Pod, set_up_uplink},
};

/// The MAC address of the node's vxlan device.
pub(crate) const VTEP_MAC: MacAddress = MacAddress::new([0x0a, 0, 0, 0, 0x0f, 0x02]);

pub(crate) struct LinuxNode {
    pub(crate) namespace: Namespace,
    pub(crate) pods: Vec<Pod>,
}

impl LinuxNode {
    /// Sets up a node in a namespace that has the interface `up0`, with `pods` pods and a tunnel to
    /// `peer`.
    pub(crate) fn create(
        namespace: Namespace,
        node: Node,
        peer: Node,
        tunnel: Tunnel,
        pods: u8,
    ) -> Self {
        set_up_uplink(&namespace, node);
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            namespace.sysctl(key, "1");
        }
        namespace.sysctl("net.ipv4.conf.all.rp_filter", "0");
        namespace.sysctl("net.ipv4.conf.default.rp_filter", "0");
        let (local, remote) = (node.address(tunnel.is_v6), peer.address(tunnel.is_v6));
        let (port, mtu) = (tunnel.udp_port, tunnel.mtu_bytes());
        namespace.ip(&format!(
            "link add flannel.1 address {VTEP_MAC} mtu {mtu} type vxlan id 1 dev up0 \
             local {local} dstport {port} nolearning"
        ));
        namespace.ip("link set flannel.1 up");
        let mac = peer.router_mac();
        namespace.run(&format!("bridge fdb append {mac} dev flannel.1 dst {remote}"));
        for ((range, length), (own, _)) in peer.pod_ranges().into_iter().zip(node.pod_ranges()) {
            let host_length = if own.is_ipv4() { 32 } else { 128 };
            namespace.ip(&format!("addr add {own}/{host_length} dev flannel.1 nodad"));
            namespace.ip(&format!("neigh add {range} lladdr {mac} dev flannel.1 nud permanent"));
            namespace.ip(&format!("route add {range}/{length} via {range} dev flannel.1 onlink"));
        }
        namespace.ip("link add cni0 type bridge");
        namespace.ip("link set cni0 up");
        for (gateway, (_, length)) in node.gateways().into_iter().zip(node.pod_ranges()) {
            namespace.ip(&format!("addr add {gateway}/{length} dev cni0 nodad"));
        }
        let attach = |number: u8| {
            let end = format!("veth{number}");
            let pod = Pod::create(&namespace, node, number, &end, mtu, 1);
            namespace.ip(&format!("link set {end} master cni0"));
            pod
        };
        let pods = (10..).take(usize::from(pods)).map(attach).collect();
        Self { namespace, pods }
    }
}
