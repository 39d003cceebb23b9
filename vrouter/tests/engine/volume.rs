//! What an engine with the real pipeline holds to in volume: packets, ports, routes.
//!
//! A debug build does a part of it; `scripts/lib/test-volume` does all.

use std::{
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use control_api::engine as api;
use vrouter::stats::{Stage, StageTotals};

use crate::{
    rig::{PATIENCE, Rig, object, pod},
    traffic::{Traffic, frame, number, send},
};

/// A debug build does the twentieth part.
const PART: u32 = if cfg!(debug_assertions) { 20 } else { 1 };
const FRAMES: u64 = 10_000_000 / PART as u64;
const PORTS: u32 = 10_000 / PART;
const ROUTES: u32 = 1_000_000 / PART;
/// Routes in one batch, as a client would send them.
const ROUTES_PER_BATCH: u32 = 50_000;
/// Of the design: one route among a million is in force within this time.
const ONE_ROUTE_MAX: Duration = Duration::from_millis(10);
/// Routes that are added one by one.
const TRIES: u32 = 50;

/// The `index`th of the prefixes in 32.0.0.0/4, which leads to the node.
fn nth(index: u32) -> (api::Object, [u8; 4]) {
    let address = (0x2000_0000 + (index << 4)).to_be_bytes();
    let prefix = api::Prefix { address: address.into(), length: 28 };
    let route = api::Route {
        key: Some(api::RouteKey { vrf: 0, prefix: Some(prefix) }),
        next_hops: vec![api::NextHop { via: Some(api::next_hop::Via::Port("host".into())) }],
    };
    (object(api::object::Kind::Route(route)), address)
}

#[test]
fn ten_million_packets_one_way_across_two_workers_lose_nothing() {
    let (rig, [host, mut a, mut b]) = Rig::forwarding(2);
    let begin = Instant::now();
    let sent = send(&mut a, &mut b, FRAMES, &AtomicBool::new(false));
    println!("{sent} packets from one worker's port to another's in {:?}", begin.elapsed());
    let (totals, peer_totals) = (rig.port("default/a").totals, rig.port("default/b").totals);
    assert_eq!((totals.rx_packets, totals.forwarded, totals.dropped()), (FRAMES, FRAMES, 0));
    assert_eq!(peer_totals.tx_packets, FRAMES);
    let owners: Vec<_> = rig.engine.workers().iter().map(|worker| worker.queues).collect();
    assert!(owners.iter().all(|queues| *queues > 0), "{owners:?}");
    // The worker that received them says what each stage took.
    for (position, stage) in Stage::ALL.into_iter().enumerate() {
        let measured = rig.engine.workers().iter().any(|worker| {
            let StageTotals { packets, cycles } = worker.stages[position];
            packets > 0 && packets <= FRAMES && cycles > 0
        });
        assert!(measured, "{stage:?}");
    }
    drop((host, a, b));
    let balance = rig.finish().balance();
    assert_eq!((balance.received, balance.sent, balance.dropped), (FRAMES, FRAMES, 0));
}

#[test]
fn one_more_route_among_a_million_is_in_force_in_ten_milliseconds_with_traffic_running() {
    let (mut rig, [mut host, a, b]) = Rig::forwarding(2);
    rig.apply(vec![pod("default/c", 4)], &[]).unwrap();
    let mut c = rig.peer("default/c");
    let traffic = Traffic::start(a, b);
    let begin = Instant::now();
    for first in (0..ROUTES).step_by(ROUTES_PER_BATCH as usize) {
        rig.apply((first..first + ROUTES_PER_BATCH).map(|index| nth(index).0).collect(), &[])
            .unwrap();
    }
    println!("{ROUTES} routes in {:?}", begin.elapsed());
    let mut times = Vec::new();
    for index in ROUTES..ROUTES + TRIES {
        let (route, address) = nth(index);
        let begin = Instant::now();
        rig.apply(vec![route], &[]).unwrap();
        times.push(begin.elapsed());
        // It is in force: a packet takes it.
        assert!(c.send(0, &frame(4, address, u64::from(index))));
        rig.tick_until(|_, _| host.receive().is_some_and(|it| number(&it) == u64::from(index)));
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let sent = traffic.stop();
    println!("one more: median {median:?}, worst of {TRIES} {worst:?}; {sent} packets meanwhile");
    // The machine may stall; the median is the engine's own doing.
    assert!(median <= ONE_ROUTE_MAX, "{median:?}");
    assert!(sent > 0);
    drop((host, c));
    let balance = rig.finish().balance();
    assert_eq!(balance.dropped, 0, "{balance:?}");
    assert_eq!(balance.received, sent + u64::from(TRIES));
}

#[test]
fn ten_thousand_pods_come_and_go_and_the_others_lose_nothing() {
    let (mut rig, [mut host, a, b]) = Rig::forwarding(2);
    let traffic = Traffic::start(a, b);
    let begin = Instant::now();
    for round in 0..PORTS {
        let applied = rig.apply(vec![pod("default/c", 9)], &[]).unwrap();
        assert_eq!(applied.port_errors, []);
        // It has addressed the node with its first packet.
        let mut c = rig.peer("default/c");
        assert!(c.send(0, &frame(9, [192, 0, 2, 1], u64::from(round))));
        rig.tick_until(|_, _| host.receive().is_some_and(|it| number(&it) == u64::from(round)));
        // Some far sides go before the port does, some after.
        let c = (round % 2 == 0).then_some(c);
        rig.apply(vec![], &["default/c"]).unwrap();
        drop(c);
        assert!(begin.elapsed() < PATIENCE * 10, "{round} of {PORTS} ports");
    }
    let sent = traffic.stop();
    println!("{PORTS} ports came and went in {:?}; {sent} packets meanwhile", begin.elapsed());
    drop(host);
    let balance = rig.finish().balance();
    assert_eq!(balance.dropped, 0, "{balance:?}");
    assert_eq!(balance.received, sent + u64::from(PORTS));
}
