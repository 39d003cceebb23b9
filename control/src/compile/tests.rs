//! Tests of the compiler.

use control_api::engine::{Route, Tunnel, next_hop::Via};

use super::{
    replay::{replay_objects, replay_ports},
    *,
};
use crate::manifests::load_folder;

const CLUSTER: &str = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]},
   status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: "2001:db8::1"},
                        {type: Hostname, address: a}]}}
- {apiVersion: v1, kind: Node, metadata: {name: b}, spec: {podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"]},
   status: {addresses: [{type: InternalIP, address: "2001:db8::2"}, {type: InternalIP, address: 192.0.2.2}]}}
- {apiVersion: v1, kind: Node, metadata: {name: six}, spec: {podCIDRs: ["fd00:10:244:3::/64"]},
   status: {addresses: [{type: InternalIP, address: "2001:db8::3"}]}}
- apiVersion: v1
  kind: Node
  metadata:
    name: kernel
    annotations:
      flannel.alpha.coreos.com/backend-type: vxlan
      flannel.alpha.coreos.com/backend-data: '{"VNI":7,"VtepMAC":"c6:03:10:20:30:40"}'
      flannel.alpha.coreos.com/backend-v6-data: '{"VNI":8,"VtepMAC":"c6:03:10:20:30:41"}'
      flannel.alpha.coreos.com/public-ip: 192.0.2.9
      flannel.alpha.coreos.com/public-ipv6: 2001:db8::9
  spec: {podCIDRs: [10.244.9.0/24, "fd00:10:244:9::/64"]}
- {apiVersion: v1, kind: Pod, metadata: {namespace: demo, name: web}, spec: {nodeName: a},
   status: {podIPs: [{ip: 10.244.1.5}, {ip: "fd00:10:244:1::5"}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: away}, spec: {nodeName: b}, status: {podIPs: [{ip: 10.244.2.5}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: agent}, spec: {nodeName: a, hostNetwork: true},
   status: {podIPs: [{ip: 192.0.2.1}]}}
"#;

fn cluster(text: &str) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cluster.yaml"), text).unwrap();
    let (cluster, problems) = load_folder(dir.path());
    assert!(problems.is_empty(), "{problems:?}");
    cluster
}

fn objects(node: &str) -> Vec<Object> {
    replay_objects(&cluster(CLUSTER), &NodeName::new(node)).unwrap()
}

fn tunnels(objects: &[Object]) -> Vec<Tunnel> {
    objects
        .iter()
        .filter_map(|object| match object.kind.clone()? {
            Kind::Tunnel(tunnel) => Some(tunnel),
            _ => None,
        })
        .collect()
}

fn routes(objects: &[Object]) -> Vec<String> {
    let line = |route: Route| {
        let prefix = route.key.unwrap().prefix.unwrap();
        let address: IpAddr = match <[u8; 4]>::try_from(prefix.address.as_slice()) {
            Ok(v4) => v4.into(),
            Err(_) => <[u8; 16]>::try_from(prefix.address.as_slice()).unwrap().into(),
        };
        let via = match route.next_hops[0].via.clone().unwrap() {
            Via::Port(name) | Via::Tunnel(name) => name,
            Via::Discard(_) => "unreachable".to_owned(),
        };
        format!("{address}/{} {via}", prefix.length)
    };
    objects
        .iter()
        .filter_map(|object| match object.kind.clone()? {
            Kind::Route(route) => Some(line(route)),
            _ => None,
        })
        .collect()
}

#[test]
fn every_range_and_address_of_the_cluster_has_a_route() {
    assert_eq!(
        routes(&objects("a")),
        [
            "10.244.1.0/24 unreachable",
            "10.244.2.0/24 b/ipv4",
            "10.244.9.0/24 kernel/ipv4",
            "192.0.2.2/32 b/ipv4",
            "2001:db8::2/128 b/ipv4",
            "2001:db8::3/128 six/ipv6",
            "fd00:10:244:1::/64 unreachable",
            "fd00:10:244:2::/64 b/ipv4",
            "fd00:10:244:3::/64 six/ipv6",
            "fd00:10:244:9::/64 kernel/ipv6",
        ]
    );
}

#[test]
fn a_tunnel_ends_at_the_preferred_family_and_knows_the_peers_router_mac() {
    let tunnels = tunnels(&objects("a"));
    let names: Vec<_> = tunnels.iter().map(|tunnel| &*tunnel.name).collect();
    assert_eq!(names, ["b/ipv4", "kernel/ipv4", "kernel/ipv6", "six/ipv6"]);
    assert_eq!(tunnels[0].remote, [192, 0, 2, 2]);
    assert_eq!((tunnels[0].vni, tunnels[0].udp_port), (OVERLAY_VNI, 4789));
    let mac = MacAddress::from_ip("192.0.2.2".parse().unwrap());
    assert_eq!(tunnels[0].remote_router_mac, mac.octets());
}

#[test]
fn a_kernel_peer_has_the_mac_vni_and_port_of_its_annotations() {
    let tunnels = tunnels(&objects("a"));
    assert_eq!(tunnels[1].remote_router_mac, [0xc6, 0x03, 0x10, 0x20, 0x30, 0x40]);
    assert_eq!((tunnels[1].vni, tunnels[1].udp_port), (7, 8472));
    assert_eq!((tunnels[2].vni, tunnels[2].remote_router_mac[5]), (8, 0x41));
    let objects = objects("a");
    let Some(Kind::Vrf(vrf)) = &objects[1].kind else { panic!("the VRF comes second") };
    assert_eq!(vrf.vnis, [1, 7, 8]);
    let Some(Kind::Node(node)) = &objects[0].kind else { panic!("the node comes first") };
    assert_eq!(node.vxlan.as_ref().unwrap().udp_ports, [4789, 8472]);
}

#[test]
fn a_peer_without_a_common_family_is_named_and_its_routes_are_unreachable() {
    let text = CLUSTER.replace(r#", {type: InternalIP, address: "2001:db8::1"}"#, "");
    let cluster = cluster(&text);
    let node = NodeName::new("a");
    let unreachable = unreachable_peers(&cluster, &node);
    assert_eq!(unreachable.len(), 1);
    assert_eq!(unreachable[0].peer, NodeName::new("six"));
    let objects = replay_objects(&cluster, &node).unwrap();
    assert!(routes(&objects).contains(&"fd00:10:244:3::/64 unreachable".to_owned()));
    // The kernel's IPv6 end is out of reach: its IPv4 one carries both families.
    assert!(routes(&objects).contains(&"fd00:10:244:9::/64 kernel/ipv4".to_owned()));
}

#[test]
fn the_ports_are_host_uplink_and_this_nodes_pods() {
    let ports = replay_ports(&cluster(CLUSTER), &NodeName::new("a")).unwrap();
    let names: Vec<_> = ports.iter().map(|port| &*port.port).collect();
    assert_eq!(names, ["host", "uplink", "demo/web"]);
    assert_eq!(ports[2].mac.to_string(), "0a:58:0a:f4:01:05");
    assert_eq!(ports[2].gateway_mac.unwrap().to_string(), "0a:58:0a:f4:01:01");
    assert_eq!(ports[1].mac.to_string(), "0a:58:c0:00:02:01");
    assert_eq!(ports[1].gateway_mac, None);
}

#[test]
fn guests_over_an_ipv6_underlay_have_20_bytes_less() {
    let guest_mtu = |node: &str| {
        objects(node).into_iter().find_map(|object| match object.kind? {
            Kind::Port(port) if port.name == HOST_PORT => Some(port.mtu_bytes),
            _ => None,
        })
    };
    assert_eq!(guest_mtu("a"), Some(1450));
    assert_eq!(guest_mtu("six"), Some(1430));
}

#[test]
fn a_node_that_is_not_there_is_refused_with_those_that_are() {
    let error = replay_objects(&cluster(CLUSTER), &NodeName::new("z")).unwrap_err();
    assert!(error.to_string().contains("a, b, kernel, six"), "{error}");
}

#[test]
fn the_same_cluster_compiles_to_the_same_objects() {
    assert_eq!(objects("a"), objects("a"));
}

#[test]
fn a_difference_has_what_changed_and_nothing_else() {
    let old = Objects::from(objects("a"));
    assert_eq!(old.since(&old), control_api::engine::ObjectBatch::default());
    let text =
        CLUSTER.replace("10.244.2.0/24", "10.244.20.0/24").replace("10.244.2.5", "10.244.20.5");
    let new = replay_objects(&cluster(&text), &NodeName::new("a")).unwrap();
    let new = Objects::from(new);
    let batch = new.since(&old);
    assert_eq!(routes(&batch.upserts), ["10.244.20.0/24 b/ipv4"]);
    assert_eq!(batch.deletes.len(), 1);
    let nothing = Objects::default();
    assert_eq!((batch.upserts.len(), new.since(&nothing).upserts.len()), (1, new.len()));
    // The node is never deleted: there is always one.
    assert_eq!(nothing.since(&old).deletes.len(), old.len() - 1);
}
