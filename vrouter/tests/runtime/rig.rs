//! An engine without a pipeline: memory ports, and a patch table that says where packets go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use vrouter::{
    burst::Burst,
    clock::{Clock, Now},
    drops::DropReason,
    idle::IdleMode,
    memory::{Depot, FramePool, Region, RegionConfig},
    outbox::Outbox,
    placement::WorkerPlace,
    port::{
        OpenedPort, PORTS_MAX, PortRef, Steering,
        memory::{MemoryPeer, MemoryPortConfig, open},
    },
    runtime::{Event, Runtime, RuntimeConfig},
    stats::{EngineStats, WorkerStats},
    worker::Process,
};

/// The machine may stall for seconds.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How many times a scenario repeats something: `full` in release mode, fewer in a debug build.
pub(crate) fn rounds(full: u64) -> u64 {
    if cfg!(debug_assertions) { full / 20 } else { full }
}

/// Nowhere to go: such packets are dropped as `route_none`.
const NOWHERE: u16 = u16::MAX;

/// Where packets go, by ingress slot; and faults of the worker that runs it.
#[derive(Debug)]
pub(crate) struct Patch {
    egress: Vec<AtomicU16>,
    pub(crate) version: AtomicU64,
    /// Milliseconds that the next burst takes.
    pub(crate) stall_ms: AtomicU64,
}

impl Patch {
    pub(crate) fn connect(&self, from: PortRef, to: PortRef) {
        self.egress[usize::from(from.index)].store(to.index, SeqCst);
    }

    pub(crate) fn disconnect(&self, from: PortRef) {
        self.egress[usize::from(from.index)].store(NOWHERE, SeqCst);
    }
}

/// One worker's view of the patch.
pub(crate) struct Patched(Arc<Patch>);

impl Process for Patched {
    fn refresh(&mut self) -> u64 {
        self.0.version.load(SeqCst)
    }

    fn process(
        &mut self,
        _ingress: PortRef,
        burst: &mut Burst,
        _now: Now,
        pool: &mut FramePool,
        outbox: &mut Outbox,
        stats: &WorkerStats,
    ) {
        let stall_ms = self.0.stall_ms.swap(0, SeqCst);
        if stall_ms > 0 {
            thread::sleep(Duration::from_millis(stall_ms));
        }
        for packet in burst.drain(..) {
            let ingress = packet.ingress;
            let egress = self.0.egress[usize::from(ingress.index)].load(SeqCst);
            if let Err(packet) = outbox.push(egress, packet) {
                stats.dropped(ingress, DropReason::RouteNone, 1);
                pool.free_packet(packet);
            }
        }
    }

    fn housekeep(&mut self, _now: Now) {}
}

pub(crate) struct Rig {
    pub(crate) runtime: Runtime<Patched>,
    pub(crate) patch: Arc<Patch>,
    pub(crate) depot: Arc<Depot>,
    generations: Vec<u16>,
}

impl Rig {
    pub(crate) fn new(workers: usize, idle: IdleMode) -> Self {
        let config = RegionConfig { frame_count: 16_384, frame_bytes: 2048, huge_pages: false };
        let depot = Depot::new(Arc::new(Region::create(&config).unwrap()));
        let patch = Arc::new(Patch {
            egress: (0..PORTS_MAX).map(|_| AtomicU16::new(NOWHERE)).collect(),
            version: AtomicU64::new(1),
            stall_ms: AtomicU64::new(0),
        });
        let config = RuntimeConfig { workers: vec![WorkerPlace::default(); workers], idle };
        let runtime =
            Runtime::start(&config, &depot, Clock::start(), |_| Ok(Patched(Arc::clone(&patch))));
        Self { runtime: runtime.unwrap(), patch, depot, generations: vec![0; PORTS_MAX] }
    }

    /// The next port in a slot.
    pub(crate) fn next_port(&mut self, index: u16) -> PortRef {
        let generation = &mut self.generations[usize::from(index)];
        *generation = generation.wrapping_add(1);
        PortRef { index, generation: *generation }
    }

    pub(crate) fn open(&self, port: PortRef, queues: u16) -> (OpenedPort, MemoryPeer) {
        let config = MemoryPortConfig { queues, ..MemoryPortConfig::default() };
        open(port, config, &self.depot).unwrap()
    }

    pub(crate) fn attach(&mut self, port: PortRef, opened: OpenedPort) {
        self.runtime.attach(port, opened).unwrap();
        self.runtime.settle(Instant::now() + PATIENCE).unwrap();
        self.runtime.steer(port, &Steering::Everything).unwrap();
    }

    /// A port in slot `index` that packets come in on.
    pub(crate) fn add(&mut self, index: u16, queues: u16) -> (PortRef, MemoryPeer) {
        let port = self.next_port(index);
        let (opened, peer) = self.open(port, queues);
        self.attach(port, opened);
        (port, peer)
    }

    /// Ticks until `is_done` says so; returns all events.
    pub(crate) fn tick_until(&mut self, mut is_done: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
        let deadline = Instant::now() + PATIENCE;
        let mut events = Vec::new();
        while !is_done(&events) {
            assert!(Instant::now() < deadline, "nothing but {events:?} happened");
            self.runtime.tick(|event| events.push(event));
            thread::yield_now();
        }
        events
    }

    pub(crate) fn wait_for_release(&mut self, port: PortRef) {
        self.tick_until(|events| events.contains(&Event::Released(port)));
    }

    /// Stops the engine after all peers are gone; packets and frames must all be accounted for.
    pub(crate) fn finish(self, ports: &[PortRef]) -> EngineStats {
        let Self { runtime, depot, .. } = self;
        let stopped = runtime.stop().unwrap();
        for port in ports {
            assert_eq!(stopped.stats.port(*port).under_way(), 0, "{port:?}");
        }
        assert_eq!(stopped.stats.balance().under_way(), 0, "{:?}", stopped.stats.balance());
        assert_eq!(stopped.frames_missing, 0, "of {}", depot.region().frame_count());
        stopped.stats
    }
}

/// A frame that carries a number.
pub(crate) fn frame(number: u64) -> [u8; 60] {
    let mut bytes = [0; 60];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub(crate) fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[..8].try_into().unwrap())
}

/// Sends `count` numbered frames from one peer to another, never more under way than rings hold;
/// checks their order.
pub(crate) fn send_in_order(from: &mut MemoryPeer, to: &mut MemoryPeer, count: u64) {
    const UNDER_WAY_MAX: u64 = 768;
    let deadline = Instant::now() + PATIENCE * 5;
    let (mut sent, mut received) = (0, 0);
    let mut burst = Burst::new();
    while received < count {
        while sent < count && sent - received < UNDER_WAY_MAX && !burst.is_full() {
            let Some(packet) = from.packet(&frame(sent)) else { break };
            burst.push(packet);
            sent += 1;
        }
        from.send_burst(0, &mut burst);
        received += receive_in_order(to, received);
        assert!(Instant::now() < deadline, "{received} of {count} arrived");
    }
}

fn receive_in_order(to: &mut MemoryPeer, first: u64) -> u64 {
    let mut burst = Burst::new();
    to.receive_burst(0, &mut burst);
    let count = burst.len() as u64;
    if count == 0 {
        thread::yield_now();
    }
    for (expected, packet) in (first..).zip(burst.drain(..)) {
        assert_eq!(number(packet.data(to.pool().region())), expected);
        to.pool().free_packet(packet);
    }
    count
}
