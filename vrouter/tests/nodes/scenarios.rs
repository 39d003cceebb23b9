//! Who reaches whom.

use std::net::IpAddr;

use crate::{
    engine_node::{EngineNode, Tunnel},
    linux_node::{LinuxNode, VTEP_MAC},
    namespace::{Namespace, join},
    plan::{Node, Pod},
    skip_unless_namespaces,
    traffic::{assert_pings, assert_tcp},
};

pub(crate) const ONE: Node = Node(1);
pub(crate) const TWO: Node = Node(2);

/// The namespaces of two nodes, joined by the underlay.
pub(crate) fn underlay() -> [Namespace; 2] {
    underlay_of(2)
}

/// As [`underlay`], with so many queues at each end.
pub(crate) fn underlay_of(queues: u32) -> [Namespace; 2] {
    let (one, two) = (Namespace::create("one"), Namespace::create("two"));
    join((&one, "up0"), (&two, "up0"), queues, 1500);
    [one, two]
}

/// Waits until both engines know the way to each other, as it is now.
pub(crate) fn wait_for_ways(one: &EngineNode, two: &EngineNode) {
    one.wait_for_way(&two.namespace);
    two.wait_for_way(&one.namespace);
}

/// A place that sends and receives: its namespace and its addresses of both families.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a>(&'a Namespace, [IpAddr; 2]);

impl<'a> From<&'a Pod> for Place<'a> {
    fn from(pod: &'a Pod) -> Self {
        Self(&pod.namespace, pod.addresses)
    }
}

impl<'a> Place<'a> {
    pub(crate) fn new(namespace: &'a Namespace, addresses: [IpAddr; 2]) -> Self {
        Self(namespace, addresses)
    }
}

/// Pings and TCP, over both families, with the source address kept.
pub(crate) fn assert_reaches(from: Place<'_>, to: Place<'_>) {
    for (source, target) in from.1.into_iter().zip(to.1) {
        assert_pings(from.0, target);
        assert_tcp(from.0, source, to.0, target);
    }
}

fn two_engines(is_v6: bool) {
    let [one, two] = underlay();
    let mut nodes = [EngineNode::start(one, ONE, TWO), EngineNode::start(two, TWO, ONE)];
    for (node, peer) in nodes.iter_mut().zip([TWO, ONE]) {
        let remote_router_mac = peer.router_mac();
        let tunnel = Tunnel { is_v6, udp_port: 4789, remote_router_mac };
        node.attach_pods(2, tunnel.mtu_bytes());
        node.configure(tunnel);
    }
    let [one, two] = &nodes;
    wait_for_ways(one, two);
    assert_reaches((&one.pods[0]).into(), (&one.pods[1]).into());
    assert_reaches((&one.pods[0]).into(), (&two.pods[1]).into());
    assert_reaches((&two.pods[0]).into(), (&one.pods[0]).into());
    let [stack_one, stack_two] =
        [(one, ONE), (two, TWO)].map(|(it, node)| Place(&it.namespace, node.addresses()));
    assert_reaches(stack_one, (&one.pods[0]).into());
    assert_reaches((&one.pods[1]).into(), stack_one);
    assert_reaches(stack_one, (&two.pods[0]).into());
    assert_reaches((&one.pods[0]).into(), stack_two);
    nodes.into_iter().for_each(EngineNode::finish);
}

#[test]
fn pods_and_nodes_of_two_engines_reach_each_other_over_ipv4() {
    skip_unless_namespaces!();
    two_engines(false);
}

#[test]
fn pods_and_nodes_of_two_engines_reach_each_other_over_ipv6() {
    skip_unless_namespaces!();
    two_engines(true);
}

#[test]
fn pods_may_leave_checksums_to_their_interfaces() {
    skip_unless_namespaces!();
    let [one, two] = underlay();
    let mut nodes = [EngineNode::start(one, ONE, TWO), EngineNode::start(two, TWO, ONE)];
    for (node, peer) in nodes.iter_mut().zip([TWO, ONE]) {
        let remote_router_mac = peer.router_mac();
        let tunnel = Tunnel { is_v6: false, udp_port: 4789, remote_router_mac };
        node.attach_pods(2, tunnel.mtu_bytes());
        node.let_pods_offload_checksums();
        node.configure(tunnel);
    }
    let [one, two] = &nodes;
    wait_for_ways(one, two);
    assert_reaches((&one.pods[0]).into(), (&one.pods[1]).into());
    assert_reaches((&one.pods[0]).into(), (&two.pods[1]).into());
    nodes.into_iter().for_each(EngineNode::finish);
}

fn linux_peer(is_v6: bool, udp_port: u16) {
    let [one, two] = underlay();
    let tunnel = Tunnel { is_v6, udp_port, remote_router_mac: VTEP_MAC };
    let mut engine = EngineNode::start(one, ONE, TWO);
    engine.attach_pods(2, tunnel.mtu_bytes());
    engine.configure(tunnel);
    let linux = LinuxNode::create(two, TWO, ONE, tunnel, 2);
    engine.wait_for_way(&linux.namespace);
    assert_reaches((&engine.pods[0]).into(), (&linux.pods[0]).into());
    assert_reaches((&linux.pods[1]).into(), (&engine.pods[1]).into());
    let stack = Place(&linux.namespace, TWO.addresses());
    assert_reaches((&engine.pods[0]).into(), stack);
    let totals = engine.tunnel_totals();
    assert!(totals.rx_packets > 0 && totals.rx_bytes >= 60 * totals.rx_packets, "{totals:?}");
    assert!(totals.tx_packets > 0 && totals.tx_bytes >= 60 * totals.tx_packets, "{totals:?}");
    engine.finish();
}

#[test]
fn a_linux_node_is_reached_as_flannel_sets_it_up_over_ipv4() {
    skip_unless_namespaces!();
    linux_peer(false, 8472);
}

#[test]
fn a_linux_node_is_reached_as_flannel_sets_it_up_over_ipv6() {
    skip_unless_namespaces!();
    linux_peer(true, 8472);
}

#[test]
fn a_linux_node_is_reached_on_the_assigned_port_over_ipv4() {
    skip_unless_namespaces!();
    linux_peer(false, 4789);
}

#[test]
fn a_linux_node_is_reached_on_the_assigned_port_over_ipv6() {
    skip_unless_namespaces!();
    linux_peer(true, 4789);
}
