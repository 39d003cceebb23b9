//! Pods and the node's own stack behind TAP devices.

use std::{
    net::UdpSocket,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use vrouter::{
    drops::DropReason,
    memory::{Depot, FramePool, Region, RegionConfig},
    port::{
        Backend, OpenedPort, PortOpener, PortRef, PortRequest, Role, TapBackend, tap::TapOpener,
    },
};

use crate::{
    engine_node::{EngineNode, Tunnel},
    namespace::Namespace,
    plan::{Pod, PodPort},
    scenarios::{ONE, Place, TWO, assert_reaches, underlay, wait_for_ways},
    skip_unless_namespaces,
    traffic::{PATIENCE, assert_pings, uninterrupted},
};

/// The way from node 1 to node 2.
fn tunnel() -> Tunnel {
    Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: TWO.router_mac() }
}

/// A node with so many pods behind veth pairs, and so many behind TAP devices; nobody is at the
/// other end of its uplink.
fn node(veths: u8, taps: u8, mtu_bytes: u16) -> (EngineNode, Namespace) {
    let [one, two] = underlay();
    let mut node = EngineNode::start(one, ONE, TWO);
    node.attach_pods(veths, mtu_bytes);
    node.attach_tap_pods(taps, mtu_bytes);
    node.configure(tunnel());
    (node, two)
}

/// A process that is ended with the test.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn start(at: &Namespace, command: &str) -> Running {
    let child = Command::new("ip")
        .args(["netns", "exec", at.name()])
        .args(command.split_whitespace())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Running(child.unwrap())
}

/// Runs a command inside until it succeeds; returns what it printed.
pub(crate) fn retried(at: &Namespace, command: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = at.try_run(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return text;
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(Instant::now() < deadline, "{command}: {text}{errors}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Bulk TCP by iperf3 in both directions, and a download by curl.
pub(crate) fn assert_bulk(from: &Pod, to: &Pod) {
    for address in to.addresses {
        let _server = start(&to.namespace, &format!("iperf3 --server --bind {address}"));
        for direction in ["", "--reverse"] {
            let command = format!("iperf3 --client {address} --bytes 32M {direction}");
            retried(&from.namespace, &command);
        }
        let folder = env!("CARGO_MANIFEST_DIR");
        let server = format!("python3 -m http.server 8080 --bind {address} --directory {folder}");
        let _server = start(&to.namespace, &server);
        let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        let command = format!("curl --silent --fail http://{host}:8080/Cargo.toml");
        let manifest = retried(&from.namespace, &command);
        assert_eq!(manifest, include_str!("../../Cargo.toml"));
    }
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

/// Packets as large as the MTU, which must not be fragmented, and ones that have to be.
fn assert_large_pings(from: &Pod, to: &Pod, mtu_bytes: u16) {
    for address in to.addresses {
        assert_pings(&from.namespace, address);
        let header_bytes = if address.is_ipv6() { 48 } else { 28 };
        let whole = mtu_bytes - header_bytes;
        for (bytes, fragments) in [(whole, "-M do"), (2 * whole, "")] {
            retried(
                &from.namespace,
                &format!("ping -c 4 -l 4 -W 10 -s {bytes} {fragments} {address}"),
            );
        }
    }
}

fn programs_pass_data_at(mtu_bytes: u16) {
    skip_unless_namespaces!();
    let (node, _other) = node(2, 2, mtu_bytes);
    let [veth, other_veth, first, second] = &node.pods[..] else { panic!("four pods") };
    for (from, to) in [(first, second), (veth, first), (second, veth), (veth, other_veth)] {
        assert_large_pings(from, to, mtu_bytes);
        assert_bulk(from, to);
    }
    node.finish();
}

#[test]
fn ping_iperf3_and_curl_pass_data_at_an_mtu_of_1400() {
    programs_pass_data_at(1400);
}

#[test]
fn ping_iperf3_and_curl_pass_data_at_an_mtu_of_1500() {
    programs_pass_data_at(1500);
}

#[test]
fn ping_iperf3_and_curl_pass_data_at_an_mtu_of_9000() {
    programs_pass_data_at(9000);
}

#[test]
fn tap_pods_of_two_nodes_reach_each_other_through_the_tunnel() {
    skip_unless_namespaces!();
    for is_v6 in [false, true] {
        let [one, two] = underlay();
        let mut nodes = [EngineNode::start(one, ONE, TWO), EngineNode::start(two, TWO, ONE)];
        for (node, peer) in nodes.iter_mut().zip([TWO, ONE]) {
            let tunnel = Tunnel { is_v6, remote_router_mac: peer.router_mac(), ..tunnel() };
            node.attach_tap_pods(1, tunnel.mtu_bytes());
            node.attach_tap_pods(1, 1400);
            node.configure(tunnel);
        }
        let [one, two] = &nodes;
        wait_for_ways(one, two);
        assert_reaches((&one.pods[0]).into(), (&two.pods[1]).into());
        assert_bulk(&two.pods[0], &one.pods[0]);
        assert_bulk(&two.pods[1], &one.pods[0]);
        nodes.into_iter().for_each(EngineNode::finish);
    }
}

#[test]
fn the_nodes_own_stack_is_reached_behind_a_tap_device() {
    skip_unless_namespaces!();
    let [one, _two] = underlay();
    let mut node = EngineNode::start_behind(one, ONE, TWO, 2, PodPort::Tap);
    node.attach_pods(1, 1450);
    node.attach_tap_pods(1, 1450);
    node.configure(tunnel());
    let stack = Place::new(&node.namespace, ONE.addresses());
    for pod in &node.pods {
        assert_reaches(stack, pod.into());
        assert_reaches(pod.into(), stack);
    }
    node.finish();
}

#[test]
fn a_device_outlives_its_port_and_takes_the_next_one() {
    skip_unless_namespaces!();
    let (mut node, _other) = node(0, 2, 1500);
    let index = |pod: &Pod| pod.namespace.run("cat /sys/class/net/eth0/ifindex");
    let before = index(&node.pods[1]);
    assert_reaches((&node.pods[0]).into(), (&node.pods[1]).into());
    for _ in 0..20 {
        let pod = node.pods.pop().unwrap();
        node.configure(tunnel());
        let carrier = || pod.namespace.try_run("cat /sys/class/net/eth0/carrier").stdout;
        let deadline = Instant::now() + PATIENCE;
        while carrier() == b"1\n" {
            assert!(Instant::now() < deadline, "nobody has its queues open any more");
            thread::sleep(Duration::from_millis(2));
        }
        node.pods.push(pod);
        node.configure(tunnel());
    }
    assert_eq!(index(&node.pods[1]), before);
    assert_reaches((&node.pods[0]).into(), (&node.pods[1]).into());
    node.finish();
}

#[test]
fn a_device_that_is_removed_under_traffic_loses_its_packets_alone_and_may_come_back() {
    skip_unless_namespaces!();
    let (node, _other) = node(0, 3, 1500);
    let [first, second, third] = &node.pods[..] else { panic!("three pods") };
    for pod in [first, second] {
        assert_pings(&third.namespace, pod.addresses[0]);
    }
    let [v4, v6] = second.addresses;
    let _servers = [v4, v6]
        .map(|address| start(&second.namespace, &format!("iperf3 --server --bind {address}")));
    let flood = |address| start(&first.namespace, &format!("ping -q -f {address}"));
    let floods = [v4, v6].map(flood);
    let _bulk = start(&first.namespace, &format!("iperf3 --client {v4} --time 60"));
    let forwarded =
        || node.ask(|engine| engine.ports().iter().map(|port| port.totals.forwarded).sum::<u64>());
    let wait_for_more = |packets: u64| {
        let (before, deadline) = (forwarded(), Instant::now() + PATIENCE);
        while forwarded() < before + packets {
            assert!(Instant::now() < deadline, "traffic has stopped: {}", node.story());
            thread::sleep(Duration::from_millis(5));
        }
    };
    wait_for_more(500);
    second.namespace.ip("link del eth0");
    let is_down = || {
        node.ask(|engine| {
            let ports = engine.ports();
            let port = ports.iter().find(|port| &*port.object.name == "default/pod11").unwrap();
            port.state != vrouter::engine::PortState::Up
        })
    };
    let deadline = Instant::now() + PATIENCE;
    while !is_down() {
        assert!(Instant::now() < deadline, "the port is still up: {}", node.story());
        thread::sleep(Duration::from_millis(5));
    }
    assert_pings(&third.namespace, first.addresses[0]);
    assert_pings(&third.namespace, first.addresses[1]);
    drop(floods);
    second.set_up_tap_again(ONE, 11, 1500);
    let deadline = Instant::now() + PATIENCE;
    while is_down() {
        assert!(Instant::now() < deadline, "the port stays down: {}", node.story());
        thread::sleep(Duration::from_millis(5));
    }
    assert_pings(&third.namespace, v4);
    node.finish();
}

#[test]
fn what_the_stack_does_not_take_is_dropped_with_a_reason() {
    skip_unless_namespaces!();
    let (node, _other) = node(0, 2, 1500);
    let [first, second] = &node.pods[..] else { panic!("two pods") };
    assert_pings(&first.namespace, second.addresses[0]);
    second.namespace.ip("link set eth0 down");
    let address = second.addresses[0];
    let _ = first.namespace.try_run(&format!("ping -c 20 -i 0.002 -W 1 {address}"));
    let dropped = node.ask(|engine| {
        let ports = engine.ports();
        let drops = ports.iter().map(|port| port.totals.dropped_for(DropReason::PortDown));
        drops.sum::<u64>()
    });
    assert!(dropped >= 20, "{dropped}: {}", node.story());
    second.namespace.ip("link set eth0 up");
    node.finish();
}

/// Packet memory for ports without an engine.
fn pool() -> FramePool {
    let config = RegionConfig { frame_count: 256, frame_bytes: 2048, huge_pages: false };
    FramePool::new(Depot::new(Region::create(&config).unwrap().into()))
}

fn try_open(at: &Namespace, interface: &str, queues: Option<u16>) -> Result<OpenedPort, String> {
    let request = PortRequest {
        name: interface.to_owned(),
        port: PortRef { index: 7, generation: 1 },
        role: Role::Guest,
        backend: Backend::Tap(TapBackend {
            interface: interface.to_owned(),
            netns_path: Some(at.path()),
            queues,
        }),
        mtu_bytes: None,
        mac_address: None,
        worker_count: 3,
    };
    TapOpener
        .open(&request, &mut pool())
        .map_err(|error| std::error::Error::source(&error).unwrap().to_string())
}

#[test]
fn what_no_queue_has_room_for_is_the_kernels_drop_and_told() {
    skip_unless_namespaces!();
    let at = Namespace::create("taps");
    at.ip("tuntap add dev tap0 mode tap multi_queue vnet_hdr");
    at.ip("link set tap0 txqueuelen 10");
    let port = try_open(&at, "tap0", Some(1)).unwrap();
    at.ip("link set tap0 up");
    at.ip("addr add 192.0.2.1/24 dev tap0");
    at.ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev tap0");
    // Nobody reads: all beyond ten are dropped.
    let _ = at.try_run("ping -q -c 40 -l 40 -W 1 192.0.2.2");
    let dropped = port.device.kernel_rx_dropped().unwrap();
    assert!((20..=40).contains(&dropped), "{dropped}");
}

#[test]
fn what_cannot_be_opened_says_why_and_what_to_do() {
    skip_unless_namespaces!();
    let at = Namespace::create("taps");
    let complaint = |interface, queues| try_open(&at, interface, queues).err().unwrap();
    let text = complaint("none0", None);
    assert_eq!(text, "there is no interface none0; create it first");
    assert_eq!(at.try_run("ip link show none0").status.code(), Some(1), "and none was made");
    at.ip("link add veth0 type veth peer veth1");
    let text = complaint("veth0", None);
    assert!(text.starts_with("veth0 is no TAP device but a veth interface; remove it"), "{text}");
    at.ip("tuntap add dev tun0 mode tun multi_queue");
    let text = complaint("tun0", None);
    assert!(text.starts_with("tun0 is no TAP device but a TUN device"), "{text}");
    at.ip("tuntap add dev one0 mode tap vnet_hdr");
    let text = complaint("one0", Some(2));
    assert!(text.starts_with("one0 has one queue only, so 2 cannot be opened"), "{text}");
    let one = try_open(&at, "one0", None).unwrap();
    assert_eq!(one.queues.len(), 1);
    let text = complaint("one0", None);
    assert!(text.starts_with("another process has queues of one0 open"), "{text}");
    at.ip("tuntap add dev tap0 mode tap multi_queue vnet_hdr");
    at.ip("link set tap0 mtu 1400 address 0a:58:00:00:00:07");
    let text = complaint("tap0", Some(257));
    assert!(text.contains("256 queues at most, so 257 of tap0"), "{text}");
    let port = try_open(&at, "tap0", None).unwrap();
    assert_eq!(port.queues.len(), 3, "one for each worker");
    assert_eq!((&*port.device.detail(), port.device.kernel_rx_dropped()), ("", Some(0)));
    assert_eq!((port.device.backend(), port.device.mtu_bytes()), ("tap", 1400));
    assert_eq!(port.device.mac_address(), Some([0x0a, 0x58, 0, 0, 0, 7]));
    assert!(port.device.interface().is_some());
    let text = complaint("tap0", None);
    assert!(text.starts_with("another process has queues of tap0 open"), "{text}");
    drop(port);
    // Another test's child may have its descriptors too, until it becomes another program.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = try_open(&at, "tap0", Some(2)) {
        assert!(error.contains("has queues of tap0 open") && Instant::now() < deadline, "{error}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a datagram of many segments at once (`UDP_SEGMENT`), and prints how many bytes were taken.
const SEND_SEGMENTED: &str = "import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
sender = socket.socket(family, socket.SOCK_DGRAM)
sender.setsockopt(socket.SOL_UDP, 103, 1200)
sender.connect((sys.argv[1], int(sys.argv[2])))
print(sender.send(bytes(i // 1200 for i in range(24000))))";

#[test]
fn udp_that_is_sent_in_many_segments_arrives_in_as_many_datagrams() {
    skip_unless_namespaces!();
    let (node, _other) = node(1, 2, 1450);
    let [veth, first, second] = &node.pods[..] else { panic!("three pods") };
    for to in [second, veth] {
        for address in to.addresses {
            assert_pings(&first.namespace, address);
            let receiver = to.namespace.inside(|| UdpSocket::bind((address, 0)).unwrap());
            receiver.set_read_timeout(Some(PATIENCE)).unwrap();
            let port = receiver.local_addr().unwrap().port();
            let sent = Command::new("ip")
                .args(["netns", "exec", first.namespace.name(), "python3", "-c", SEND_SEGMENTED])
                .args([address.to_string(), port.to_string()])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&sent.stdout), "24000\n", "{sent:?}");
            for number in 0..20 {
                let mut datagram = [0; 2000];
                let bytes = uninterrupted(|| receiver.recv(&mut datagram)).unwrap();
                assert_eq!(datagram[..bytes], [number; 1200], "{}", node.story());
            }
        }
    }
    let cut = node.ask(|engine| engine.stats().balance().segmented);
    assert_eq!(cut, 2 * 19, "toward the veth pair alone");
    node.finish();
}
