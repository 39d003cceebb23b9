//! Pods whose interfaces do more or less of the work of sending: segmentation and checksums.

use crate::{
    engine_node::{EngineNode, Tunnel},
    plan::Pod,
    scenarios::{ONE, TWO, underlay, wait_for_ways},
    skip_unless_namespaces,
    taps::{assert_bulk, retried, start},
};

/// What a pod's interface is told, and whether packets larger than the MTU leave it then.
const SETTINGS: [(&str, bool); 3] = [
    ("tx on tso on gso on", true),
    ("tx on tso off gso off", false),
    ("tx off tso off gso off", false),
];

/// A program that sends 2,000 datagrams of 1,000 bytes and one of 17, fifty at a time, and leaves
/// it to the interface to take them apart (`UDP_SEGMENT`, udp(7)).
const SEND: &str = "
import socket, sys, time
family, address = (socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET), sys.argv[1]
sender = socket.socket(family, socket.SOCK_DGRAM)
sender.setsockopt(17, 103, 1000)
sender.settimeout(10)
sender.connect((address, 9000))
sender.send(b'hello')
sender.recv(100)
for round in range(40):
    sender.send(b''.join(bytes([round, at]) + bytes(998) for at in range(50)))
    assert sender.recv(100) == bytes([round])
sender.send(bytes(1000) + b'the last is short')
assert sender.recv(100) == b'done'
";

/// Its counterpart: answers each fifty that are there, whole and in order.
const RECEIVE: &str = "
import socket, sys
family, address = (socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET), sys.argv[1]
receiver = socket.socket(family, socket.SOCK_DGRAM)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
receiver.bind((address, 9000))
hello, peer = receiver.recvfrom(2000)
receiver.sendto(hello, peer)
for round in range(40):
    for at in range(50):
        assert receiver.recv(2000) == bytes([round, at]) + bytes(998), (round, at)
    receiver.sendto(bytes([round]), peer)
assert receiver.recv(2000) == bytes(1000)
assert receiver.recv(2000) == b'the last is short'
receiver.sendto(b'done', peer)
";

fn assert_datagrams(from: &Pod, to: &Pod) {
    for address in to.addresses {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (send, receive) = (write("send.py", SEND), write("receive.py", RECEIVE));
        let _receiver = start(&to.namespace, &format!("python3 {receive} {address}"));
        retried(&from.namespace, &format!("python3 {send} {address}"));
    }
}

fn set(pod: &Pod, settings: &str) {
    pod.namespace.run(&format!("ethtool -K eth0 {settings}"));
}

/// Segments that were cut, and packets that were merged, since the node started.
fn cut_and_merged(node: &EngineNode) -> (u64, u64) {
    node.ask(|engine| {
        let balance = engine.stats().balance();
        (balance.segmented, balance.merged)
    })
}

#[test]
fn pods_of_one_node_may_leave_work_to_their_interfaces_or_not() {
    skip_unless_namespaces!();
    let [one, _two] = underlay();
    let mut node = EngineNode::start(one, ONE, TWO);
    node.attach_tap_pods(2, 1500);
    node.configure(Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: TWO.router_mac() });
    let [first, second] = &node.pods[..] else { panic!("two pods") };
    for (settings, _) in SETTINGS {
        set(first, settings);
        let before = cut_and_merged(&node);
        assert_bulk(first, second);
        // Large ones go through whole; those that are not are put together.
        let after = cut_and_merged(&node);
        assert_eq!(before.0, after.0, "{settings}");
    }
    set(first, SETTINGS[0].0);
    let before = cut_and_merged(&node);
    assert_datagrams(first, second);
    assert_eq!(cut_and_merged(&node).0, before.0);
    node.finish();
}

#[test]
fn pods_of_two_nodes_may_leave_work_to_their_interfaces_or_not() {
    skip_unless_namespaces!();
    for is_v6 in [false, true] {
        let [one, two] = underlay();
        let mut nodes = [EngineNode::start(one, ONE, TWO), EngineNode::start(two, TWO, ONE)];
        for (node, peer) in nodes.iter_mut().zip([TWO, ONE]) {
            let remote_router_mac = peer.router_mac();
            let tunnel = Tunnel { is_v6, udp_port: 4789, remote_router_mac };
            node.attach_tap_pods(1, tunnel.mtu_bytes());
            node.configure(tunnel);
        }
        let [one, two] = &nodes;
        wait_for_ways(one, two);
        for (settings, is_large) in SETTINGS {
            set(&one.pods[0], settings);
            let before = [cut_and_merged(one), cut_and_merged(two)];
            assert_bulk(&one.pods[0], &two.pods[0]);
            let after = [cut_and_merged(one), cut_and_merged(two)];
            assert_eq!(after[0].0 > before[0].0, is_large, "{settings}: before the tunnel");
            assert!(after[1].1 > before[1].1, "{settings}: behind it");
        }
        set(&one.pods[0], SETTINGS[0].0);
        let before = cut_and_merged(one);
        assert_datagrams(&one.pods[0], &two.pods[0]);
        assert!(cut_and_merged(one).0 > before.0);
        nodes.into_iter().for_each(EngineNode::finish);
    }
}
