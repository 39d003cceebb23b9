//! Who has which address: two nodes on one link, each with pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::MacAddress;

use crate::namespace::Namespace;

/// Node 1 or 2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Node(pub(crate) u8);

impl Node {
    pub(crate) fn address(self, is_v6: bool) -> IpAddr {
        if is_v6 {
            Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(self.0)]).into()
        } else {
            Ipv4Addr::from([192, 0, 2, self.0]).into()
        }
    }

    pub(crate) fn addresses(self) -> [IpAddr; 2] {
        [false, true].map(|is_v6| self.address(is_v6))
    }

    /// The MAC address that the node's inner frames have.
    pub(crate) fn router_mac(self) -> MacAddress {
        MacAddress::from_ip(self.address(false))
    }

    pub(crate) fn gateways(self) -> [IpAddr; 2] {
        self.pod_addresses(1)
    }

    pub(crate) fn gateway_mac(self) -> MacAddress {
        MacAddress::from_ip(self.gateways()[0])
    }

    /// The addresses of pod `number`, 10 and up.
    pub(crate) fn pod_addresses(self, number: u8) -> [IpAddr; 2] {
        let v6 = [0xfd00, 0x10, 0x244, u16::from(self.0), 0, 0, 0, u16::from(number)];
        [Ipv4Addr::from([10, 244, self.0, number]).into(), Ipv6Addr::from(v6).into()]
    }

    pub(crate) fn pod_mac(self, number: u8) -> MacAddress {
        MacAddress::from_ip(self.pod_addresses(number)[0])
    }

    /// The ranges of the node's pods.
    pub(crate) fn pod_ranges(self) -> [(IpAddr, u8); 2] {
        let [v4, v6] = self.pod_addresses(0);
        [(v4, 24), (v6, 64)]
    }
}

/// The end of the underlay in a node's namespace, with the node's addresses. Linux leaves checksums
/// to the wire, which a veth pair is not.
pub(crate) fn set_up_uplink(namespace: &Namespace, node: Node) {
    namespace.run("ethtool -K up0 tx off");
    let [v4, v6] = node.addresses();
    namespace.ip(&format!("addr add {v4}/24 dev up0"));
    namespace.ip(&format!("addr add {v6}/64 dev up0 nodad"));
}

/// What a pod's interface `eth0` is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PodPort {
    /// One end of a veth pair; the other end is in the node's namespace.
    Veth,
    /// A TAP device.
    Tap,
}

/// A pod with its interface `eth0`.
pub(crate) struct Pod {
    pub(crate) namespace: Namespace,
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) port: PodPort,
}

impl Pod {
    /// A pod behind a veth pair whose other end is `host_end`.
    pub(crate) fn create(
        at: &Namespace,
        node: Node,
        number: u8,
        host_end: &str,
        mtu_bytes: u16,
        queues: u8,
    ) -> Self {
        let namespace = Namespace::create("pod");
        let mac = node.pod_mac(number);
        let queues = format!("numtxqueues {queues} numrxqueues {queues}");
        at.ip(&format!(
            "link add {host_end} mtu {mtu_bytes} {queues} type veth \
             peer eth0 mtu {mtu_bytes} address {mac} netns {} {queues}",
            namespace.name()
        ));
        at.ip(&format!("link set {host_end} up"));
        namespace.run("ethtool -K eth0 tx off");
        Self::set_up(namespace, node, number, PodPort::Veth)
    }

    /// A pod behind a TAP device.
    pub(crate) fn create_tap(node: Node, number: u8, mtu_bytes: u16) -> Self {
        let namespace = Namespace::create("pod");
        make_tap(&namespace, node, number, mtu_bytes);
        Self::set_up(namespace, node, number, PodPort::Tap)
    }

    /// Makes the pod's TAP device anew, after it was removed.
    pub(crate) fn set_up_tap_again(&self, node: Node, number: u8, mtu_bytes: u16) {
        make_tap(&self.namespace, node, number, mtu_bytes);
        configure(&self.namespace, node, number);
    }

    fn set_up(namespace: Namespace, node: Node, number: u8, port: PodPort) -> Self {
        configure(&namespace, node, number);
        Self { namespace, addresses: node.pod_addresses(number), port }
    }
}

fn make_tap(at: &Namespace, node: Node, number: u8, mtu_bytes: u16) {
    let mac = node.pod_mac(number);
    at.ip("tuntap add dev eth0 mode tap multi_queue vnet_hdr");
    at.ip(&format!("link set eth0 mtu {mtu_bytes} address {mac}"));
}

/// Switches a pod's `eth0` on, with its addresses and routes.
fn configure(namespace: &Namespace, node: Node, number: u8) {
    namespace.ip("link set eth0 up");
    let addresses = node.pod_addresses(number);
    for (address, gateway) in addresses.into_iter().zip(node.gateways()) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        namespace.ip(&format!("addr add {address}/{length} dev eth0 nodad"));
        namespace.ip(&format!("route add {gateway}/{length} dev eth0"));
        namespace.ip(&format!("route add default via {gateway} dev eth0 onlink"));
    }
}
