//! Pods behind TAP devices.

use crate::{
    engine_node::{EngineNode, Tunnel},
    scenarios::{ONE, TWO, assert_reaches, underlay},
    skip_unless_namespaces,
};

/// A node with so many pods behind veth pairs, and so many behind TAP devices; nobody is at the
/// other end of its uplink.
fn node(veths: u8, taps: u8, mtu_bytes: u16) -> (EngineNode, crate::namespace::Namespace) {
    let [one, two] = underlay();
    let mut node = EngineNode::start(one, ONE, TWO);
    let tunnel = Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: TWO.router_mac() };
    node.attach_pods(veths, mtu_bytes);
    node.attach_tap_pods(taps, mtu_bytes);
    node.configure(tunnel);
    (node, two)
}

#[test]
fn tap_pods_reach_each_other_and_veth_pods_over_both_families() {
    skip_unless_namespaces!();
    let (node, _other) = node(1, 2, 1450);
    let [veth, first, second] = &node.pods[..] else { panic!("three pods") };
    assert_reaches(first.into(), second.into());
    assert_reaches(first.into(), veth.into());
    assert_reaches(veth.into(), second.into());
    node.finish();
}
