//! What our engines are told of the nodes and pods.

use std::net::{IpAddr, Ipv4Addr};

use control_api::engine::{self as api, object::Kind, port::Backend, port::Role};
use encap::MacAddress;
use perf::peers::Namespace;

use super::{
    super::engine::UPLINK,
    scene::{Scene, host_end},
};

const TUNNEL: &str = "peer/ipv4";

/// A node's tunnel endpoint.
pub(super) fn tunnel_end(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

/// All that the engine of a node needs.
pub(super) fn of(scene: &Scene, node: u8) -> Vec<api::Object> {
    let uplink = if scene.is_across { UPLINK } else { "" };
    let mut objects = self::node(node, uplink);
    if let Some((_, at)) = scene.nodes().find(|(number, _)| *number == node) {
        let kinds = pods(scene, node, at).chain(wire(scene, node, at));
        objects.extend(kinds.map(|kind| api::Object { kind: Some(kind) }));
    }
    objects
}

/// A node that has no port yet.
pub(super) fn node(node: u8, uplink: &str) -> Vec<api::Object> {
    let (gateway, own) = (Ipv4Addr::new(10, 244, node, 1), tunnel_end(node));
    let kinds = [
        Kind::Node(api::Node {
            name: format!("node{node}"),
            vtep_addresses: vec![bytes(own)],
            router_mac: mac(own),
            uplink_port: uplink.into(),
            ..api::Node::default()
        }),
        Kind::Vrf(api::Vrf {
            name: "default".into(),
            vnis: vec![1],
            gateway_addresses: vec![bytes(gateway)],
            gateway_mac: mac(gateway),
            ..api::Vrf::default()
        }),
    ];
    kinds.into_iter().map(|kind| api::Object { kind: Some(kind) }).collect()
}

/// The node's pods.
fn pods<'a>(scene: &'a Scene, node: u8, at: &'a Namespace) -> impl Iterator<Item = Kind> + 'a {
    let here = scene.pods.iter().enumerate();
    let here = here.filter(move |(pod, _)| scene.node_number(*pod) == node);
    here.map(move |(pod, namespace)| {
        let backend = if scene.dataplane.is_tap() {
            Backend::Tap(api::TapBackend {
                interface: "eth0".into(),
                netns_path: path(namespace),
                ..api::TapBackend::default()
            })
        } else {
            Backend::AfXdp(api::AfXdpBackend {
                interface: host_end(pod),
                netns_path: path(at),
                // The pod's stack leaves sums to its interface, which is no hardware.
                partial_checksums: true,
                ..api::AfXdpBackend::default()
            })
        };
        Kind::Port(api::Port {
            name: format!("default/pod{pod}"),
            role: Role::Guest.into(),
            addresses: vec![bytes(scene.address(pod))],
            mac: mac(scene.address(pod)),
            backend: Some(backend),
            ..api::Port::default()
        })
    })
}

/// The way to the other node, if there is one.
fn wire(scene: &Scene, node: u8, at: &Namespace) -> Vec<Kind> {
    if !scene.is_across {
        return Vec::new();
    }
    let (peer, range) = (3 - node, Ipv4Addr::new(10, 244, 3 - node, 0));
    let backend = api::AfXdpBackend {
        interface: "up0".into(),
        netns_path: path(at),
        ..api::AfXdpBackend::default()
    };
    let prefix = api::Prefix { address: bytes(range), length: 24 };
    vec![
        Kind::Port(api::Port {
            name: UPLINK.into(),
            role: Role::Uplink.into(),
            backend: Some(Backend::AfXdp(backend)),
            ..api::Port::default()
        }),
        Kind::Tunnel(api::Tunnel {
            name: TUNNEL.into(),
            remote: bytes(tunnel_end(peer)),
            vni: 1,
            remote_router_mac: mac(tunnel_end(peer)),
            ..api::Tunnel::default()
        }),
        Kind::Route(api::Route {
            key: Some(api::RouteKey { vrf: 0, prefix: Some(prefix) }),
            next_hops: vec![api::NextHop { via: Some(api::next_hop::Via::Tunnel(TUNNEL.into())) }],
        }),
    ]
}

fn path(namespace: &Namespace) -> String {
    format!("/run/netns/{}", namespace.name())
}

fn bytes(address: Ipv4Addr) -> Vec<u8> {
    address.octets().to_vec()
}

fn mac(address: Ipv4Addr) -> Vec<u8> {
    MacAddress::from_ip(IpAddr::V4(address)).octets().to_vec()
}
