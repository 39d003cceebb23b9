//! What senders see of a next hop that is not known yet, and of one that does not answer.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use control_api::engine::ListDropsRequest;
use tokio_stream::StreamExt;
use vrouter::drops::DropReason;

use crate::{
    daemon_drops::{Daemon, apply},
    engine_node::{EngineNode, Tunnel, objects, set_up_host_port},
    linux_node::{LinuxNode, VTEP_MAC},
    plan::{Pod, PodPort, set_up_uplink},
    scenarios::{ONE, TWO, underlay},
    skip_unless_namespaces,
    traffic::{PATIENCE, assert_pings, uninterrupted},
};

/// How often the engine is asked for its counters.
const TICK: Duration = Duration::from_millis(2);

/// An engine right after its first batch, whose kernel asks for the other node and goes on asking;
/// the other node has no address, so it does not answer.
struct Asking {
    engine: EngineNode,
    linux: LinuxNode,
    is_v6: bool,
}

impl Asking {
    fn create(is_v6: bool) -> Self {
        let [one, two] = underlay();
        let tunnel = Tunnel { is_v6, udp_port: 4789, remote_router_mac: VTEP_MAC };
        let mut engine = EngineNode::start(one, ONE, TWO);
        engine.attach_pods(1, tunnel.mtu_bytes());
        let linux = LinuxNode::create(two, TWO, ONE, tunnel, 1);
        let mut asking = Self { engine, linux, is_v6 };
        asking.address("del");
        asking.ask_times(1000);
        asking.engine.configure(tunnel);
        asking
    }

    /// Adds or takes away the other node's address.
    fn address(&self, what: &str) {
        let length = if self.is_v6 { "64 dev up0 nodad" } else { "24 dev up0" };
        let address = TWO.address(self.is_v6);
        self.linux.namespace.ip(&format!("addr {what} {address}/{length}"));
    }

    /// How often the kernel asks for a neighbour before it gives up.
    fn ask_times(&self, times: u32) {
        let family = if self.is_v6 { "ipv6" } else { "ipv4" };
        let key = format!("net.{family}.neigh.up0.mcast_solicit");
        self.engine.namespace.sysctl(&key, &times.to_string());
    }

    fn neighbour(&self) -> String {
        let address = TWO.address(self.is_v6);
        self.engine.namespace.run(&format!("ip neigh show {address} dev up0"))
    }

    fn unresolved_drops(&self) -> u64 {
        let reason = DropReason::NextHopUnresolved;
        self.engine.ask(move |engine| engine.stats().all_ports().dropped_for(reason))
    }

    /// Connects from our pod to the other node's over both families. When each has asked twice and
    /// neither was told anything, `then` happens; returns what became of them.
    fn connect(&self, then: impl FnOnce()) -> Vec<io::Result<TcpStream>> {
        let (from, to) = (&self.engine.pods[0], &self.linux.pods[0]);
        let listen = |address| TcpListener::bind((address, 0)).unwrap();
        let listeners = to.addresses.map(|address| to.namespace.inside(|| listen(address)));
        thread::scope(|scope| {
            let connect = |listener: &TcpListener| {
                let target = listener.local_addr().unwrap();
                scope.spawn(move || from.namespace.inside(|| connect_to(&target)))
            };
            let connecting: Vec<_> = listeners.iter().map(connect).collect();
            let deadline = Instant::now() + PATIENCE;
            while self.unresolved_drops() < 2 * listeners.len() as u64 {
                assert!(Instant::now() < deadline, "{}", self.engine.story());
                let is_told = connecting.iter().any(ScopedJoinHandle::is_finished);
                assert!(!is_told, "told while the kernel asks");
                thread::sleep(TICK);
            }
            assert!(self.neighbour().contains("INCOMPLETE"), "{}", self.neighbour());
            then();
            connecting.into_iter().map(|connecting| connecting.join().unwrap()).collect()
        })
    }
}

fn connect_to(target: &SocketAddr) -> io::Result<TcpStream> {
    uninterrupted(|| TcpStream::connect_timeout(target, PATIENCE))
}

fn assert_connects_once_the_neighbour_answers(is_v6: bool) {
    let asking = Asking::create(is_v6);
    for connected in asking.connect(|| asking.address("add")) {
        connected.unwrap();
    }
    asking.engine.finish();
}

fn assert_is_told_once_the_neighbour_has_failed(is_v6: bool) {
    let asking = Asking::create(is_v6);
    for connected in asking.connect(|| asking.ask_times(1)) {
        assert_eq!(connected.unwrap_err().kind(), ErrorKind::HostUnreachable);
    }
    assert!(!asking.neighbour().contains("REACHABLE"), "{}", asking.neighbour());
    asking.engine.finish();
}

#[test]
fn a_connect_right_after_apply_succeeds_once_the_neighbour_answers_over_ipv4() {
    skip_unless_namespaces!();
    assert_connects_once_the_neighbour_answers(false);
}

#[test]
fn a_connect_right_after_apply_succeeds_once_the_neighbour_answers_over_ipv6() {
    skip_unless_namespaces!();
    assert_connects_once_the_neighbour_answers(true);
}

#[test]
fn a_connect_is_told_that_its_host_is_unreachable_once_the_neighbour_has_failed_over_ipv4() {
    skip_unless_namespaces!();
    assert_is_told_once_the_neighbour_has_failed(false);
}

#[test]
fn a_connect_is_told_that_its_host_is_unreachable_once_the_neighbour_has_failed_over_ipv6() {
    skip_unless_namespaces!();
    assert_is_told_once_the_neighbour_has_failed(true);
}

/// Pings all the time; ended when dropped.
struct Pings(Child);

impl Pings {
    fn start(from: &Pod, target: &str) -> Self {
        let command = ["netns", "exec", from.namespace.name(), "ping", "-q", "-i", "0.001", target];
        Self(Command::new("ip").args(command).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_packet_finds_a_tunnel_unresolved_whose_next_hop_the_kernel_knows() {
    skip_unless_namespaces!();
    let [one, two] = underlay();
    let tunnel = Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: VTEP_MAC };
    set_up_uplink(&one, ONE);
    set_up_host_port(&one, ONE, PodPort::Veth);
    let pods = [Pod::create(&one, ONE, 10, "veth10", tunnel.mtu_bytes(), 1)];
    let linux = LinuxNode::create(two, TWO, ONE, tunnel, 1);
    assert_pings(&one, TWO.address(false));
    let daemon = Daemon::start_in(&one);
    let mut client = daemon.client().await;
    // Packets are there as soon as the port is: the pod has nothing to ask first.
    let (gateway, mac) = (ONE.gateways()[0], ONE.gateway_mac());
    pods[0].namespace.ip(&format!("neigh add {gateway} lladdr {mac} dev eth0 nud permanent"));
    let target = linux.pods[0].addresses[0];
    let pings = Pings::start(&pods[0], &target.to_string());
    apply(&mut client, objects(ONE, TWO, &pods, tunnel, false)).await;
    assert_pings(&pods[0].namespace, target);
    drop(pings);
    let drops = client.list_drops(ListDropsRequest::default()).await.unwrap().into_inner();
    let drops: Vec<_> = drops.map(Result::unwrap).collect().await;
    assert!(drops.iter().all(|drop| drop.reason != "next_hop_unresolved"), "{drops:?}");
}
