//! One worker on the test's own thread: what a poll does, and costs.

#![expect(clippy::arithmetic_side_effects, reason = "small numbers")]

use std::{
    os::fd::BorrowedFd,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use super::*;
use crate::{
    drops::DropReason,
    idle::Doorbell,
    memory::{Depot, Region, RegionConfig},
    port::{
        PeerGone, PortDevice, Steering,
        memory::{MemoryPeer, MemoryPortConfig, open},
    },
    worker::command::CommandSender,
};

/// Sends packets from port 0 to port 1; drops others.
struct ZeroToOne;

impl Process for ZeroToOne {
    fn refresh(&mut self) -> u64 {
        7
    }

    fn process(
        &mut self,
        ingress: PortRef,
        burst: &mut Burst,
        _now: Now,
        pool: &mut FramePool,
        outbox: &mut Outbox,
        stats: &WorkerStats,
    ) {
        for packet in burst.drain(..) {
            let egress = if ingress.index == 0 { 1 } else { u16::MAX };
            if let Err(packet) = outbox.push(egress, packet) {
                stats.dropped(ingress, DropReason::RouteNone, 1);
                pool.free_packet(packet);
            }
        }
    }

    fn housekeep(&mut self, _now: Now) {}
}

struct Bench {
    worker: Worker<ZeroToOne>,
    commands: CommandSender,
    devices: Vec<Box<dyn PortDevice>>,
    peers: Vec<MemoryPeer>,
}

/// A queue that asks the kernel, and how often it did in vain.
struct Asking {
    inner: Box<dyn PortQueue>,
    in_vain: Arc<AtomicUsize>,
}

impl PortQueue for Asking {
    fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> usize {
        let received = self.inner.rx_burst(pool, burst);
        self.in_vain.fetch_add(usize::from(received == 0), Ordering::Relaxed);
        received
    }

    fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst, stats: &WorkerStats) -> usize {
        self.inner.tx_burst(pool, burst, stats)
    }

    fn flush(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> Result<(), PeerGone> {
        self.inner.flush(pool, stats)
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_descriptor()
    }

    fn asks_kernel(&self) -> bool {
        true
    }

    fn drain(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> usize {
        self.inner.drain(pool, stats)
    }
}

impl Bench {
    fn new(ports: u16) -> Self {
        Self::with(ports, |queue| queue)
    }

    /// As [`Self::new`], with queues that ask the kernel; also how often they did in vain.
    fn asking(ports: u16) -> (Self, Arc<AtomicUsize>) {
        let in_vain = Arc::new(AtomicUsize::new(0));
        let bench =
            Self::with(ports, |inner| Box::new(Asking { inner, in_vain: Arc::clone(&in_vain) }));
        (bench, in_vain)
    }

    fn with(ports: u16, wrap: impl Fn(Box<dyn PortQueue>) -> Box<dyn PortQueue>) -> Self {
        let config = RegionConfig { frame_count: 4096, frame_bytes: 2048, huge_pages: false };
        let depot = Depot::new(Arc::new(Region::create(&config).unwrap()));
        let bell = Arc::new(Doorbell::new().unwrap());
        let (mut commands, receiver) = command::channel(Arc::clone(&bell));
        let worker = Worker::new(WorkerParts {
            pipeline: ZeroToOne,
            pool: FramePool::new(Arc::clone(&depot)),
            handoffs: HandoffRings::mesh(&[Arc::clone(&bell)]).remove(0),
            commands: receiver,
            bed: Bed::new(bell).unwrap(),
            idle: IdleMode::Busy,
            clock: Clock::start(),
            stats: Arc::new(WorkerStats::new()),
        });
        let (mut devices, mut peers) = (Vec::new(), Vec::new());
        for index in 0..ports {
            let port = PortRef { index, generation: 1 };
            let (mut opened, peer) = open(port, MemoryPortConfig::default(), &depot).unwrap();
            opened.device.steer(&Steering::Everything).unwrap();
            devices.push(opened.device);
            peers.push(peer);
            for queue in opened.queues {
                let queue = wrap(queue);
                assert!(commands.send(Command::Attach { port, queue }).is_ok());
            }
        }
        Self { worker, commands, devices, peers }
    }

    fn send(&mut self, port: usize, packets: usize) {
        for _ in 0..packets {
            assert!(self.peers[port].send(0, &[0; 60]));
        }
    }

    fn receive(&mut self, port: usize) -> usize {
        let mut burst = Burst::new();
        let peer = &mut self.peers[port];
        let received = peer.receive_burst(0, &mut burst);
        for packet in burst {
            peer.pool().free_packet(packet);
        }
        received
    }

    /// What a poll with a full burst takes, at best of some tries: nothing else may run on the
    /// machine for so long.
    fn time_of_a_full_burst(&mut self) -> Duration {
        let mut best = Duration::MAX;
        self.send(0, 1);
        while !self.worker.poll() {}
        assert_eq!(self.receive(1), 1);
        for _ in 0..200 {
            self.send(0, BURST_PACKETS_MAX);
            let begin = Instant::now();
            assert!(self.worker.poll());
            best = best.min(begin.elapsed());
            assert_eq!(self.receive(1), BURST_PACKETS_MAX);
        }
        best
    }

    fn time_of_an_empty_poll(&mut self) -> Duration {
        const POLLS: u32 = 100;
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let begin = Instant::now();
            for _ in 0..POLLS {
                assert!(!self.worker.poll());
            }
            best = best.min(begin.elapsed() / POLLS);
        }
        best
    }
}

#[test]
fn a_lone_packet_is_out_within_one_poll() {
    let mut bench = Bench::new(2);
    bench.worker.poll();
    bench.send(0, 1);
    assert!(bench.worker.poll());
    assert_eq!(bench.receive(1), 1);
    assert_eq!(bench.worker.stats.config_version(), 7);
}

#[test]
fn a_packet_on_a_cold_queue_is_found_within_a_round_of_empty_polls() {
    let mut bench = Bench::new(250);
    for _ in 0..100 {
        bench.worker.poll();
    }
    assert_eq!(bench.worker.egress.queues.hot_count(), 0);
    bench.send(0, 1);
    let polls = (1..1000).find(|_| bench.worker.poll()).unwrap();
    assert!(polls <= 16, "{polls}");
    assert_eq!(bench.receive(1), 1);
    assert!(bench.worker.egress.queues.hot_count() == 2);
}

#[test]
fn a_busy_port_does_not_starve_a_cold_one() {
    let mut bench = Bench::new(250);
    for _ in 0..100 {
        bench.worker.poll();
    }
    bench.send(249, 1);
    let cold = PortRef { index: 249, generation: 1 };
    let bursts = (1..1000).find(|_| {
        bench.send(0, BURST_PACKETS_MAX);
        bench.worker.poll();
        bench.receive(1);
        crate::stats::EngineStats::new([Arc::clone(&bench.worker.stats)]).port(cold).rx_packets > 0
    });
    assert!(bursts.unwrap() <= 125, "{bursts:?}");
}

#[test]
fn a_poll_receives_a_bounded_number_of_bursts_and_serves_all_queues_in_turn() {
    let mut bench = Bench::new(20);
    for port in 2..20 {
        bench.send(port, 2 * BURST_PACKETS_MAX);
    }
    let received = |bench: &Bench| bench.worker.stats.activity().packets;
    let mut before = 0;
    while bench.worker.poll() {
        let now = received(&bench);
        assert!(now - before <= (BURSTS_PER_POLL_MAX * BURST_PACKETS_MAX) as u64);
        before = now;
    }
    assert_eq!(before, 18 * 2 * BURST_PACKETS_MAX as u64);
}

#[test]
fn a_queue_that_asks_the_kernel_is_found_by_its_descriptor_and_not_asked_in_vain() {
    let (mut bench, in_vain) = Bench::asking(250);
    for _ in 0..100 {
        bench.worker.poll();
    }
    assert_eq!(bench.worker.egress.queues.hot_count(), 0);
    let before = in_vain.load(Ordering::Relaxed);
    for _ in 0..1000 {
        bench.worker.poll();
    }
    assert_eq!(in_vain.load(Ordering::Relaxed), before);
    bench.send(0, 1);
    let polls = (1..1000).find(|_| bench.worker.poll()).unwrap();
    assert!(polls <= 17, "{polls}");
    assert_eq!(bench.receive(1), 1);
    // Beside a busy one, too; and all of them, if there are more than one look names.
    let others = 2..40;
    for port in others.clone() {
        bench.send(port.into(), 1);
    }
    let received = |bench: &Bench| {
        let stats = crate::stats::EngineStats::new([Arc::clone(&bench.worker.stats)]);
        let port = |index| PortRef { index, generation: 1 };
        others.clone().filter(|index| stats.port(port(*index)).rx_packets > 0).count()
    };
    let bursts = (1..1000).find(|_| {
        // Its ring may be full while the others have their turns.
        for _ in 0..BURST_PACKETS_MAX {
            bench.peers[0].send(0, &[0; 60]);
        }
        bench.worker.poll();
        bench.receive(1);
        received(&bench) == others.len()
    });
    assert!(bursts.unwrap() <= 125, "{bursts:?}");
}

#[test]
fn idle_ports_cost_a_busy_worker_little() {
    assert_cheap(Bench::new(2), Bench::new(252));
}

#[test]
fn idle_ports_that_ask_the_kernel_cost_a_busy_worker_little() {
    assert_cheap(Bench::asking(2).0, Bench::asking(252).0);
}

fn assert_cheap(mut alone: Bench, mut crowded: Bench) {
    for _ in 0..200 {
        alone.worker.poll();
        crowded.worker.poll();
    }
    let (mut without, mut with) = (Duration::MAX, Duration::MAX);
    for _ in 0..10 {
        without = without.min(alone.time_of_a_full_burst());
        with = with.min(crowded.time_of_a_full_burst());
    }
    let empty = (alone.time_of_an_empty_poll(), crowded.time_of_an_empty_poll());
    eprintln!("a poll of 64 packets: {without:?} alone, {with:?} beside 250 idle ports");
    eprintln!("an empty poll: {:?} of 2 ports, {:?} of 252 ports", empty.0, empty.1);
    if !cfg!(debug_assertions) {
        // 5 % of what 64 packets take in a pipeline, at 100 ns each.
        assert!(with.saturating_sub(without) < Duration::from_nanos(320));
    }
}

#[test]
fn a_detached_port_gives_its_queue_back_and_closes_the_way() {
    let mut bench = Bench::new(2);
    bench.worker.poll();
    let port = PortRef { index: 1, generation: 1 };
    assert!(bench.commands.send(Command::Detach { port }).is_ok());
    bench.send(0, 5);
    bench.worker.poll();
    assert!(bench.commands.is_done(bench.commands.sent()));
    assert!(matches!(bench.commands.reply(), Some(Reply::Returned { .. })));
    let ingress = PortRef { index: 0, generation: 1 };
    let stats = crate::stats::EngineStats::new([Arc::clone(&bench.worker.stats)]);
    assert_eq!(stats.port(ingress).dropped_for(DropReason::PortDown), 5);
    assert_eq!(bench.devices.len(), 2);
}
