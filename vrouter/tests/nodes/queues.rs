//! Interfaces with more receive queues than the engine has workers.

use std::{
    net::{IpAddr, UdpSocket},
    thread,
    time::Duration,
};

use crate::{
    engine_node::{EngineNode, Tunnel},
    linux_node::{LinuxNode, VTEP_MAC},
    namespace::Namespace,
    scenarios::{ONE, TWO, underlay_of},
    skip_unless_namespaces,
    traffic::{assert_pings, uninterrupted},
};

/// Flows of one direction and family: that one of four queues gets none of 64 is as likely as
/// 4 × 0.75^64, one in 25 million.
const FLOWS: usize = 64;
/// Datagrams of a flow, each sent when the one before it has come back.
const ROUNDS: u8 = 20;
/// How long a datagram may take: the machine may stall for seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends datagrams of many flows to an echo; all have to come back, each once.
fn assert_flows_lose_nothing(from: &Namespace, to: &Namespace, target: IpAddr) {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let echo = to.inside(|| UdpSocket::bind((target, 0)).unwrap());
    let place = echo.local_addr().unwrap();
    echo.set_read_timeout(Some(PATIENCE)).unwrap();
    let flows: Vec<_> = from.inside(|| (0..FLOWS).map(|_| UdpSocket::bind(any).unwrap()).collect());
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..FLOWS * usize::from(ROUNDS) {
                let (_, sender) = uninterrupted(|| echo.recv_from(&mut [0; 4])).unwrap();
                echo.send_to(&[0; 4], sender).unwrap();
            }
        });
        for flow in &flows {
            flow.connect(place).unwrap();
            flow.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        for round in 0..ROUNDS {
            for flow in &flows {
                assert_eq!(flow.send(&[round; 4]).unwrap(), 4);
            }
            for flow in &flows {
                assert_eq!(uninterrupted(|| flow.recv(&mut [0; 8])).unwrap(), 4);
            }
        }
    });
}

/// Asserts that each queue of a veth ran the XDP program.
fn assert_all_queues_received(namespace: &Namespace, interface: &str, queues: u8) {
    let counters = namespace.run(&format!("ethtool -S {interface}"));
    for queue in 0..queues {
        let name = format!("rx_queue_{queue}_xdp_packets:");
        let value = counters.lines().find_map(|line| line.trim().strip_prefix(&name));
        let count: u64 = value.unwrap().trim().parse().unwrap();
        assert!(count > 0, "queue {queue} of {interface} was not put to the test");
    }
}

fn one_worker_serves(queues: u8) {
    let [one, two] = underlay_of(u32::from(queues));
    let tunnel = Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: VTEP_MAC };
    let mut engine = EngineNode::start_with(one, ONE, TWO, 1);
    engine.attach_pods_with(2, tunnel.mtu_bytes(), queues);
    engine.configure(tunnel);
    let linux = LinuxNode::create(two, TWO, ONE, tunnel, 1);
    engine.wait_for_way(&linux.namespace);
    let (pod, neighbour, peer) = (&engine.pods[0], &engine.pods[1], &linux.pods[0]);
    for (own, remote) in pod.addresses.into_iter().zip(peer.addresses) {
        // Addresses are resolved first: a stack drops what waits for that.
        assert_pings(&pod.namespace, remote);
        assert_flows_lose_nothing(&peer.namespace, &pod.namespace, own);
        assert_flows_lose_nothing(&pod.namespace, &peer.namespace, remote);
        assert_pings(&neighbour.namespace, own);
        assert_flows_lose_nothing(&neighbour.namespace, &pod.namespace, own);
    }
    assert_all_queues_received(&engine.namespace, "up0", queues);
    assert_all_queues_received(&engine.namespace, "veth10", queues);
    let ports = engine.ask(|engine| engine.ports());
    for port in ports.iter().filter(|port| port.object.name.to_string() != "host") {
        assert_eq!(port.queues, usize::from(queues), "{}: {}", port.object.name, port.detail);
        assert_eq!(port.kernel_rx_dropped, Some(0), "{}", port.object.name);
    }
    engine.finish();
}

#[test]
fn one_worker_serves_all_queues_of_two_queue_ports() {
    skip_unless_namespaces!();
    one_worker_serves(2);
}

#[test]
fn one_worker_serves_all_queues_of_four_queue_ports() {
    skip_unless_namespaces!();
    one_worker_serves(4);
}

/// As many queues as a NIC has by default on a machine of 64 cores.
const MANY_QUEUES: u32 = 64;

#[test]
fn an_uplink_of_many_queues_leaves_packet_memory_to_pods_that_come_later() {
    skip_unless_namespaces!();
    let [one, two] = underlay_of(MANY_QUEUES);
    let tunnel = Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: VTEP_MAC };
    let mut engine = EngineNode::start_with(one, ONE, TWO, 1);
    engine.configure(tunnel);
    let frames_free = engine.ask(|engine| engine.frames_free());
    assert!(frames_free > 8192, "{frames_free} frames are free");
    engine.attach_pods(2, tunnel.mtu_bytes());
    engine.configure(tunnel);
    let linux = LinuxNode::create(two, TWO, ONE, tunnel, 1);
    engine.wait_for_way(&linux.namespace);
    let (pod, neighbour, peer) = (&engine.pods[0], &engine.pods[1], &linux.pods[0]);
    for (own, remote) in pod.addresses.into_iter().zip(peer.addresses) {
        assert_pings(&pod.namespace, remote);
        assert_flows_lose_nothing(&peer.namespace, &pod.namespace, own);
        assert_pings(&neighbour.namespace, own);
        assert_flows_lose_nothing(&neighbour.namespace, &pod.namespace, own);
    }
    let ports = engine.ask(|engine| engine.ports());
    let uplink = ports.iter().find(|port| port.object.name.to_string() == "uplink").unwrap();
    assert_eq!(uplink.queues, MANY_QUEUES as usize, "{}", uplink.detail);
    engine.finish();
}
