//! Workers allocate and free nothing, whatever happens to their packets: hits, new flows, tunnels,
//! answers, errors, drops, hand-offs, sleeps, expiry, and a configuration that changes meanwhile.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod counting;
#[path = "../pipeline/rig.rs"]
#[expect(dead_code, reason = "shared with the pipeline's scenarios, which use all of it")]
mod rig;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use control_api::engine as api;
use vrouter::{
    burst::Burst,
    clock::Now,
    config::Batch,
    drops::DropReason,
    engine::{Engine, EngineConfig},
    flows::Flows,
    idle::IdleMode,
    memory::{Depot, FramePool, RegionConfig},
    next_hop::Adjacency,
    outbox::Outbox,
    pipeline::Pipeline,
    placement::WorkerPlace,
    port::{
        PortOpener, PortRef,
        memory::{MemoryOpener, MemoryPeer, MemoryPeers, MemoryPortConfig},
    },
    stats::WorkerStats,
    trace::DropTrace,
    worker::Process,
};

use crate::rig::{Node, Udp, echo_request, input, objects, route, run, sent, via_tunnel};

const PATIENCE: Duration = Duration::from_mins(1);
const PORTS: [&str; 4] = ["uplink", "host", "default/pod10", "default/pod11"];

/// The pipeline, on a thread whose allocations are counted.
struct Counted(Pipeline);

impl Process for Counted {
    fn refresh(&mut self) -> u64 {
        counting::count_this_thread();
        self.0.refresh()
    }

    fn process(
        &mut self,
        ingress: PortRef,
        burst: &mut Burst,
        now: Now,
        pool: &mut FramePool,
        outbox: &mut Outbox,
        stats: &WorkerStats,
    ) {
        self.0.process(ingress, burst, now, pool, outbox, stats);
    }

    fn housekeep(&mut self, now: Now) {
        self.0.housekeep(now);
    }
}

fn start() -> (Engine<Counted>, MemoryPeers) {
    let config = EngineConfig {
        workers: vec![WorkerPlace::default(); 2],
        idle: IdleMode::Adaptive,
        region: RegionConfig { frame_count: 8192, frame_bytes: 2048, huge_pages: false },
    };
    let table = flowtable::Config {
        // Few, so that flows are evicted too.
        ipv4_connections_max: 256,
        ipv6_connections_max: 256,
        fragments_max: 64,
        hash_key: [1, 2],
        memory: flowtable::Memory::Heap,
        tracking: flowtable::Tracking::default(),
    };
    let flows = Arc::new(Flows::create(&table).unwrap());
    let mut peers = MemoryPeers::default();
    let opener = |depot: &Arc<Depot>| -> Box<dyn PortOpener> {
        let opener = MemoryOpener::new(MemoryPortConfig::default(), Arc::clone(depot));
        peers = opener.peers();
        Box::new(opener)
    };
    let pipeline = |worker, snapshots| {
        Pipeline::new(worker, snapshots, Arc::clone(&flows), DropTrace::default()).map(Counted)
    };
    let engine = Engine::start(&config, Arc::clone(&flows), opener, pipeline).unwrap();
    (engine, peers)
}

fn apply(engine: &mut Engine<Counted>, upserts: Vec<api::Object>) {
    let mut batch = Batch::new(engine.config().generation() + 1, false);
    batch.push(api::ObjectBatch { upserts, deletes: vec![] }).unwrap();
    let applied = engine.apply(batch).unwrap();
    assert_eq!(applied.port_errors, []);
}

/// One frame of each kind for each port, as indices into [`PORTS`] with frames. `round` makes new
/// flows.
fn frames(round: u16) -> Vec<(usize, Vec<u8>)> {
    let udp =
        |destination: std::net::IpAddr, ports| Udp { ports, ..Udp::from_pod(destination) }.frame();
    let to_pods: [std::net::IpAddr; 4] = [
        Node::A.pod(11).into(),
        Node::A.pod6(11).into(),
        Node::B.pod(10).into(),
        Node::B.pod6(10).into(),
    ];
    let mut frames = Vec::new();
    for destination in to_pods {
        frames.push((2, udp(destination, (5000, 6000))));
        frames.push((2, udp(destination, (10_000 + round, 6000))));
    }
    frames.push((2, echo_request(Node::A.gateway(), b"ping")));
    frames.push((2, echo_request(Node::A.gateway6(), b"ping")));
    frames.push((2, Udp { ttl: 1, ..Udp::from_pod(Node::A.pod(11)) }.frame()));
    frames.push((2, udp([203, 0, 113, 9].into(), (5000, 6000))));
    let spoofed = Udp { source: [10, 244, 1, 99].into(), ..Udp::from_pod(Node::A.pod(11)) };
    frames.push((2, spoofed.frame()));
    frames.push((0, vec![0xff; 60]));
    frames
}

/// Frames that the other node sends to this one's pods, encapsulated.
fn frames_from_the_peer() -> Vec<Vec<u8>> {
    let from_b = |source: std::net::IpAddr, destination| {
        let macs = (Node::B.pod_mac(10), Node::B.gateway_mac());
        Udp { macs, source, ..Udp::from_pod(destination) }.frame()
    };
    let frames = [
        from_b(Node::B.pod(10).into(), Node::A.pod(10).into()),
        from_b(Node::B.pod6(10).into(), std::net::IpAddr::from(Node::A.pod6(10))),
    ];
    let replayed = run(objects(Node::B), &[input("default/pod10", frames)]);
    let frames: Vec<_> = sent(&replayed, "uplink").into_iter().map(<[u8]>::to_vec).collect();
    assert_eq!(frames.len(), 2);
    frames
}

/// Sends rounds of frames, reads whatever comes out, and waits until every packet has met its fate.
fn traffic(engine: &mut Engine<Counted>, peers: &mut [MemoryPeer], rounds: std::ops::Range<u16>) {
    let from_the_peer = frames_from_the_peer();
    let before = engine.stats().balance().received;
    let mut expected = 0;
    for round in rounds {
        let own = frames(round);
        let tunnelled = from_the_peer.iter().map(|frame| (0, frame.clone()));
        for (port, frame) in own.into_iter().chain(tunnelled) {
            let deadline = Instant::now() + PATIENCE;
            while !peers[port].send(0, &frame) {
                assert!(Instant::now() < deadline);
                thread::yield_now();
            }
            expected += 1;
        }
        for peer in &mut *peers {
            while peer.receive().is_some() {}
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let balance = engine.stats().balance();
        if balance.received - before == expected && balance.under_way() == 0 {
            return;
        }
        assert!(Instant::now() < deadline, "{expected} expected, {balance:?}");
        for peer in &mut *peers {
            while peer.receive().is_some() {}
        }
        engine.tick(drop);
        thread::yield_now();
    }
}

#[test]
fn workers_allocate_nothing_per_packet() {
    let (mut engine, peers) = start();
    apply(&mut engine, objects(Node::A));
    let mut peers: Vec<_> = PORTS.iter().map(|name| peers.take(name).unwrap()).collect();
    let (uplink, _) = engine.config().port_by_name("uplink").unwrap();
    let adjacency = Adjacency::Resolved {
        port: uplink,
        source_mac: Node::A.mac(),
        destination_mac: Node::B.mac(),
        mtu_bytes: u16::MAX,
    };
    let remotes: Vec<_> = engine.config().underlay_addresses().collect();
    for remote in remotes {
        engine.set_adjacency(remote, adjacency);
    }
    // Publishes the adjacency, and lets each thread do what it does once, such as reading the name
    // of its own clock.
    apply(&mut engine, vec![]);
    traffic(&mut engine, &mut peers, 0..20);

    counting::reset();
    thread::spawn(|| {
        counting::count_this_thread();
        drop(std::hint::black_box(vec![0_u8; 100]));
    })
    .join()
    .unwrap();
    assert_ne!(counting::counted(), (0, 0), "the counter counts");

    counting::reset();
    traffic(&mut engine, &mut peers, 20..500);
    for third in 0..4 {
        apply(&mut engine, vec![route([10, 9, third, 0], 24, via_tunnel())]);
        traffic(&mut engine, &mut peers, 500..520);
    }
    let counted = counting::counted();

    let totals = engine.stats().all_ports();
    let sleeps: u64 = engine.workers().iter().map(|worker| worker.activity.sleeps).sum();
    drop(peers);
    let stopped = engine.stop().unwrap();
    assert_eq!(counted, (0, 0), "allocations and frees by workers");
    assert!(sleeps > 0);
    assert!(totals.consumed > 0);
    for reason in [DropReason::TtlExceeded, DropReason::RouteNone, DropReason::RpfSpoofedSource] {
        assert!(totals.dropped_for(reason) > 0, "{reason:?}");
    }
    assert_eq!(stopped.stats.balance().under_way(), 0);
    assert_eq!(stopped.frames_missing, 0);
}
