//! Guest ports that come and go while others carry traffic.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use vrouter::drops::DropReason;

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
/// The number of the first of them; the steady pods are 10, 11 and 12.
const FIRST: u8 = 20;
/// How long ports come and go, and how many at most.
const CHURN: Duration = Duration::from_secs(30);
const ROUNDS_MAX: u32 = 250;
/// Rounds that a slow machine may not fall short of, whatever time they take.
const ROUNDS_MIN: u32 = 25;
/// Pause between two datagrams of one flow.
const PACE: Duration = Duration::from_millis(1);
/// Datagrams to each port that comes and goes, at a time.
const FLOOD_BURST: u32 = 8;

/// Sends datagrams, each when the one before it was echoed; none may be lost on either way.
fn exchange(
    from: &Namespace,
    to: &Namespace,
    target: IpAddr,
    is_over: &AtomicBool,
    count: &AtomicU64,
) {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let echo = to.inside(|| UdpSocket::bind((target, 0)).unwrap());
    let socket = from.inside(|| UdpSocket::bind(any).unwrap());
    socket.connect(echo.local_addr().unwrap()).unwrap();
    for end in [&echo, &socket] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buffer = [0; 512];
    while !is_over.load(Relaxed) {
        socket.send(&[0x5a; 256]).unwrap();
        let (bytes, sender) = echo.recv_from(&mut buffer).unwrap();
        echo.send_to(&buffer[..bytes], sender).unwrap();
        assert_eq!(socket.recv(&mut buffer).unwrap(), 256);
        count.fetch_add(1, Relaxed);
        thread::sleep(PACE);
    }
}

/// Ends the traffic, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Makes or removes the interfaces of a round in one call of `ip`.
fn links(at: &Namespace, is_there: bool) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("links");
    let line = |number| {
        if is_there {
            format!(
                "link add churn{number} up type veth peer peer{number}\n\
                 link set peer{number} up\n"
            )
        } else {
            format!("link del churn{number}\n")
        }
    };
    let lines: String = numbers().map(line).collect();
    fs::write(&file, lines).unwrap();
    at.run(&format!("ip -batch {}", file.display()));
}

/// The ports of a round.
fn numbers() -> impl Iterator<Item = u8> {
    (FIRST..).take(PORTS_AT_ONCE.into())
}

/// Sends datagrams to the ports that come and go, whether they are there or not.
fn flood(from: &Namespace, is_over: &AtomicBool) {
    let socket = from.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    while !is_over.load(Relaxed) {
        for number in numbers() {
            let [target, _] = ONE.pod_addresses(number);
            for _ in 0..FLOOD_BURST {
                // Fails while the engine says "unreachable".
                let _ = socket.send_to(&[0xf1; 256], (target, 9));
            }
        }
        thread::sleep(PACE);
    }
}

/// Drops on ports of steady flows, by port and reason, but for what stacks say unasked (group
/// reports, solicitations), which nobody serves.
fn drops_of_steady_flows(engine: &EngineNode) -> Vec<(String, &'static str, u64)> {
    const UNASKED: [DropReason; 2] = [DropReason::ParseMulticast, DropReason::NdUnanswered];
    const STEADY: [&str; 3] = ["default/pod10", "default/pod11", "uplink"];
    let ports = engine.ask(|engine| engine.ports());
    let named = ports.iter().map(|port| (port.object.name.to_string(), &port.totals));
    let steady = named.filter(|(name, _)| STEADY.contains(&name.as_str()));
    let mut drops = Vec::new();
    for (name, totals) in steady {
        for reason in DropReason::ALL.iter().filter(|reason| !UNASKED.contains(reason)) {
            let packets = totals.dropped_for(*reason);
            if packets > 0 {
                drops.push((name.clone(), reason.label(), packets));
            }
        }
    }
    drops
}

#[test]
fn ports_come_and_go_under_traffic_and_nothing_is_lost() {
    skip_unless_namespaces!();
    let [one, two] = underlay_of(2);
    let tunnel = Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: VTEP_MAC };
    let mut engine = EngineNode::start(one, ONE, TWO);
    engine.attach_pods(3, tunnel.mtu_bytes());
    engine.configure(tunnel);
    let linux = LinuxNode::create(two, TWO, ONE, tunnel, 1);
    let pods: Vec<Pod> = engine.pods.drain(..).collect();
    let pairs = [(&pods[0], &pods[1], 0), (&pods[0], &linux.pods[0], 1)];
    for (from, to, family) in pairs {
        assert_pings(&from.namespace, to.addresses[family]);
    }
    let before = drops_of_steady_flows(&engine);
    let (is_over, exchanges) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    let mut rounds = 0;
    let started = Instant::now();
    thread::scope(|scope| {
        for (count, (from, to, family)) in exchanges.iter().zip(pairs) {
            let target = to.addresses[family];
            let (is_over, from, to) = (&is_over, &from.namespace, &to.namespace);
            scope.spawn(move || exchange(from, to, target, is_over, count));
        }
        scope.spawn(|| flood(&pods[2].namespace, &is_over));
        let _end = End(&is_over);
        while rounds < ROUNDS_MIN || rounds < ROUNDS_MAX && started.elapsed() < CHURN {
            links(&engine.namespace, true);
            engine.add_guests(numbers().map(|number| (number, format!("churn{number}"))));
            // Every other time the interface goes first, as when a pod's namespace is deleted.
            if rounds % 2 == 0 {
                engine.remove_guests(numbers());
                links(&engine.namespace, false);
            } else {
                links(&engine.namespace, false);
                engine.remove_guests(numbers());
            }
            rounds += 1;
        }
    });
    let exchanges = exchanges.map(AtomicU64::into_inner);
    let count = rounds * u32::from(PORTS_AT_ONCE);
    eprintln!("{count} ports came and went in {:?}; exchanges: {exchanges:?}", started.elapsed());
    assert!(exchanges.iter().all(|count| *count > 0));
    wait_until_closed(&engine);
    assert_eq!(drops_of_steady_flows(&engine), before, "{}", engine.story());
    let totals = engine.ask(|engine| engine.stats().all_ports());
    eprintln!(
        "in rings of closed ports: {} received, {} to be sent",
        totals.dropped_for(DropReason::RxPortClosed),
        totals.dropped_for(DropReason::TxPortClosed)
    );
    engine.finish();
}

/// Waits until no port is left but those of the node and the three pods.
fn wait_until_closed(engine: &EngineNode) {
    let deadline = Instant::now() + PATIENCE;
    while engine.ask(|engine| engine.ports().len()) > 5 {
        assert!(Instant::now() < deadline, "{}", engine.story());
        thread::yield_now();
    }
}
