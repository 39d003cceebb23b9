//! Guest ports that come and go while others carry traffic.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use control_api::engine as api;
use vrouter::{config::Batch, drops::DropReason, stats::PortTotals};

use crate::{
    engine_node::{EngineNode, Tunnel},
    linux_node::{LinuxNode, VTEP_MAC},
    namespace::Namespace,
    plan::Pod,
    scenarios::{ONE, TWO, underlay_of},
    skip_unless_namespaces,
    traffic::{PATIENCE, assert_pings},
};

/// Ports that come and go together, as on a node where pods are replaced.
const PORTS_AT_ONCE: u8 = 8;
/// The first of them, after the steady pods 10 and 11.
const FIRST: u8 = 20;
/// How long ports come and go, and how many at most.
const CHURN: Duration = Duration::from_secs(30);
const ROUNDS_MAX: u32 = 250;
/// Rounds that a slow machine may not fall short of, whatever time they take.
const ROUNDS_MIN: u32 = 15;
/// Pause between two datagrams of one flow.
const PACE: Duration = Duration::from_millis(1);

/// A flow of datagrams, each of which is echoed before the next is sent.
struct Steady {
    is_over: AtomicBool,
    exchanges: AtomicU64,
}

impl Steady {
    /// Sends until it is over; no datagram may be lost on either way.
    fn run(&self, from: &Namespace, to: &Namespace, target: IpAddr) {
        let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let echo = to.inside(|| UdpSocket::bind((target, 0)).unwrap());
        let socket = from.inside(|| UdpSocket::bind(any).unwrap());
        socket.connect(echo.local_addr().unwrap()).unwrap();
        for end in [&echo, &socket] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        let mut buffer = [0; 512];
        while !self.is_over.load(Relaxed) {
            socket.send(&[0x5a; 256]).unwrap();
            let (bytes, sender) = echo.recv_from(&mut buffer).unwrap();
            echo.send_to(&buffer[..bytes], sender).unwrap();
            assert_eq!(socket.recv(&mut buffer).unwrap(), 256);
            self.exchanges.fetch_add(1, Relaxed);
            thread::sleep(PACE);
        }
    }
}

/// Makes or removes the interfaces of a round in one call of `ip`.
fn links(at: &Namespace, is_there: bool) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("links");
    let lines: String = (FIRST..).take(PORTS_AT_ONCE.into()).map(|number| {
        if is_there {
            format!("link add churn{number} up type veth peer peer{number}\nlink set peer{number} up\n")
        } else {
            format!("link del churn{number}\n")
        }
    }).collect();
    fs::write(&file, lines).unwrap();
    at.run(&format!("ip -batch {}", file.display()));
}

/// Adds the ports of a round, or removes them.
fn ports(engine: &mut EngineNode, is_there: bool) {
    let numbers = (FIRST..).take(PORTS_AT_ONCE.into());
    let batch = if is_there {
        let upserts = numbers.map(|number| engine.guest_port(number, &format!("churn{number}")));
        api::ObjectBatch { upserts: upserts.collect(), deletes: vec![] }
    } else {
        let key = |number| api::ObjectKey {
            kind: Some(api::object_key::Kind::Port(EngineNode::guest_name(number))),
        };
        api::ObjectBatch { upserts: vec![], deletes: numbers.map(key).collect() }
    };
    engine.apply(batch);
}

/// Drops that no packet of a steady flow may die of, nor any of the ports that come and go.
fn unexpected_drops(totals: &PortTotals) -> Vec<(&'static str, u64)> {
    // What stacks say unasked when an interface comes up (router solicitations, group reports),
    // and what was in a ring when its port went.
    const EXPECTED: [DropReason; 4] = [
        DropReason::ParseMulticast,
        DropReason::RxPortClosed,
        DropReason::RpfSpoofedSource,
        DropReason::NdUnanswered,
    ];
    let others = DropReason::ALL.iter().filter(|reason| !EXPECTED.contains(reason));
    let counted = others.map(|reason| (reason.label(), totals.dropped_for(*reason)));
    counted.filter(|(_, packets)| *packets > 0).collect()
}

#[test]
fn ports_come_and_go_under_traffic_and_nothing_is_lost() {
    skip_unless_namespaces!();
    let [one, two] = underlay_of(2);
    let tunnel = Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: VTEP_MAC };
    let mut engine = EngineNode::start(one, ONE, TWO);
    engine.attach_pods(2, tunnel.mtu_bytes());
    engine.configure(tunnel);
    let linux = LinuxNode::create(two, TWO, ONE, tunnel, 1);
    let pods: Vec<Pod> = engine.pods.drain(..).collect();
    let steady = [false, true].map(|_| Steady {
        is_over: AtomicBool::new(false),
        exchanges: AtomicU64::new(0),
    });
    let pairs = [(&pods[0], &pods[1], 0), (&pods[0], &linux.pods[0], 1)];
    for (from, to, family) in pairs {
        assert_pings(&from.namespace, to.addresses[family]);
    }
    let before = engine.ask(|engine| engine.stats().all_ports());
    let mut rounds = 0;
    let started = Instant::now();
    thread::scope(|scope| {
        for (flow, (from, to, family)) in steady.iter().zip(pairs) {
            let target = to.addresses[family];
            scope.spawn(move || flow.run(&from.namespace, &to.namespace, target));
        }
        while rounds < ROUNDS_MIN || rounds < ROUNDS_MAX && started.elapsed() < CHURN {
            links(&engine.namespace, true);
            ports(&mut engine, true);
            // Every other time the interface goes first, as when a pod's namespace is deleted.
            if rounds % 2 == 0 {
                ports(&mut engine, false);
                links(&engine.namespace, false);
            } else {
                links(&engine.namespace, false);
                ports(&mut engine, false);
            }
            rounds += 1;
        }
        steady.iter().for_each(|flow| flow.is_over.store(true, Relaxed));
    });
    let exchanges = steady.map(|flow| flow.exchanges.into_inner());
    eprintln!(
        "{} ports came and went in {:?}; {exchanges:?} exchanges meanwhile",
        rounds * u32::from(PORTS_AT_ONCE),
        started.elapsed(),
    );
    assert!(exchanges.iter().all(|count| *count > 0));
    engine.wait_until("all ports that went are closed", |engine| engine.ports().len() == 4);
    let after = engine.ask(|engine| engine.stats().all_ports());
    assert_eq!(unexpected_drops(&after), unexpected_drops(&before), "{}", engine.story());
    engine.finish();
}
