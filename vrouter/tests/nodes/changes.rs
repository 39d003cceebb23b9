//! What changes under traffic: links, MAC addresses, MTUs, interfaces.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use vrouter::engine::PortState;

use crate::{
    engine_node::{EngineNode, Tunnel},
    namespace::Namespace,
    plan::{Node, Pod},
    scenarios::{ONE, TWO, underlay, wait_for_ways},
    skip_unless_namespaces,
    traffic::assert_pings,
};

/// How long a test waits for what must happen: the machine may stall for seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// Two engines with one pod each.
fn two_engines() -> [EngineNode; 2] {
    let [one, two] = underlay();
    let mut nodes = [EngineNode::start(one, ONE, TWO), EngineNode::start(two, TWO, ONE)];
    for (node, peer) in nodes.iter_mut().zip([TWO, ONE]) {
        let tunnel = tunnel_to(peer);
        node.attach_pods(1, tunnel.mtu_bytes());
        node.configure(tunnel);
    }
    nodes
}

fn tunnel_to(peer: Node) -> Tunnel {
    Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: peer.router_mac() }
}

#[test]
fn an_underlay_that_changes_under_traffic_is_followed() {
    skip_unless_namespaces!();
    let nodes = two_engines();
    let [one, two] = &nodes;
    let from = &one.pods[0].namespace;
    let [target, _] = two.pods[0].addresses;
    let assert_reaches = || {
        wait_for_ways(one, two);
        assert_pings(from, target);
    };
    assert_reaches();
    two.namespace.sysctl("net.ipv4.conf.up0.arp_notify", "1");
    two.namespace.ip("link set up0 address 02:00:00:00:00:77");
    assert_reaches();
    for node in [two, one] {
        node.namespace.ip("link set up0 down");
        node.namespace.ip("link set up0 up");
        assert_reaches();
    }
    nodes.into_iter().for_each(EngineNode::finish);
}

#[test]
fn packets_go_on_while_a_next_hop_is_asked_for_again() {
    skip_unless_namespaces!();
    let nodes = two_engines();
    let [one, two] = &nodes;
    let (from, [target, _]) = (&one.pods[0].namespace, two.pods[0].addresses);
    let deadline = Instant::now() + PATIENCE;
    loop {
        wait_for_ways(one, two);
        assert_pings(from, target);
        // The other end answers no question, so the kernel goes on asking.
        two.namespace.sysctl("net.ipv4.conf.up0.arp_ignore", "8");
        one.namespace.ip("neigh del 192.0.2.2 dev up0");
        one.wait_for_publication();
        let output = from.try_run(&format!("ping -c 10 -l 10 -i 1 {target}"));
        let text = String::from_utf8_lossy(&output.stdout);
        let state = one.namespace.run("ip neigh show 192.0.2.2 dev up0");
        two.namespace.sysctl("net.ipv4.conf.up0.arp_ignore", "0");
        // A machine that stalls makes the kernel give up meanwhile.
        if text.contains(" 0% packet loss") && state.contains("INCOMPLETE") {
            break;
        }
        assert!(Instant::now() < deadline, "{state} {text}");
    }
    nodes.into_iter().for_each(EngineNode::finish);
}

/// Pings with packets of so many bytes, which may not be fragmented, until the answer is that they
/// are too big for an MTU.
fn assert_too_big(from: &Namespace, to: IpAddr, packet_bytes: u32, mtu_bytes: u32) {
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let payload = packet_bytes - headers;
    let told = [format!("mtu = {mtu_bytes})"), format!("mtu={mtu_bytes}\n")];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = from.try_run(&format!("ping -c 1 -W 1 -M do -s {payload} {to}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if told.iter().any(|told| text.contains(told)) {
            return;
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(Instant::now() < deadline, "{to} {packet_bytes} {mtu_bytes}: {text}{errors}");
    }
}

#[test]
fn an_mtu_that_changes_is_honoured_and_told() {
    skip_unless_namespaces!();
    let nodes = two_engines();
    let [one, two] = &nodes;
    wait_for_ways(one, two);
    let from = &one.pods[0].namespace;
    let pod = two.pods[0].addresses;
    for target in pod {
        assert_pings(from, target);
    }
    // The uplink's own; the encapsulation takes 50 bytes.
    one.namespace.ip("link set up0 mtu 1400");
    let assert_told = |targets: [IpAddr; 2], packet_bytes, mtu_bytes| {
        for target in targets {
            assert_too_big(from, target, packet_bytes, mtu_bytes);
        }
    };
    assert_told(pod, 1400, 1350);
    // The kernel route's.
    one.namespace.ip("link set up0 mtu 1500");
    one.namespace.ip("route add 192.0.2.2/32 dev up0 mtu 1380");
    assert_told(pod, 1340, 1330);
    // The far pod's.
    two.namespace.ip("link set veth10 mtu 1310");
    assert_told(pod, 1320, 1310);
    // The far node's own stack's.
    two.namespace.ip("link set vrhost1 mtu 1300");
    assert_told(TWO.addresses(), 1320, 1300);
    for target in pod.into_iter().chain(TWO.addresses()) {
        assert_pings(from, target);
    }
    nodes.into_iter().for_each(EngineNode::finish);
}

#[test]
fn a_port_is_lost_with_its_own_interface_and_not_with_a_former_one_of_that_name() {
    skip_unless_namespaces!();
    let mut nodes = two_engines();
    let [one, _] = &mut nodes;
    let former = interface_index(one);
    one.namespace.ip("link del veth10");
    let mtu_bytes = tunnel_to(TWO).mtu_bytes();
    one.pods[0] = Pod::create(&one.namespace, ONE, 10, "veth10", mtu_bytes, 1);
    let present = interface_index(one);
    assert_ne!(former, present);
    let [one, two] = &nodes;
    // The former one's end was told, and so the port is on the present one.
    let deadline = Instant::now() + PATIENCE;
    let state = || port_state(one);
    let lose = |index| one.ask(move |engine| engine.lose_interface(index));
    wait_for_ways(one, two);
    while !one.pods[0].namespace.try_run("ping -c 1 -W 1 10.244.1.1").status.success() {
        assert!(Instant::now() < deadline, "{}", one.story());
    }
    lose(former);
    assert_eq!(state(), PortState::Up, "{}", one.story());
    lose(present);
    assert_eq!(state(), PortState::Down, "{}", one.story());
    while state() != PortState::Up {
        assert!(Instant::now() < deadline, "{}", one.story());
    }
    for target in two.pods[0].addresses {
        assert_pings(&one.pods[0].namespace, target);
    }
    nodes.into_iter().for_each(EngineNode::finish);
}

fn interface_index(node: &EngineNode) -> u32 {
    node.namespace.run("cat /sys/class/net/veth10/ifindex").trim().parse().unwrap()
}

fn port_state(node: &EngineNode) -> PortState {
    node.ask(|engine| {
        let port = engine.ports().into_iter().find(|port| &*port.object.name == "default/pod10");
        port.unwrap().state
    })
}
