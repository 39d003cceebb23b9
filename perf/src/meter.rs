//! Measures a worker from inside: cycles and allocations between moments at which so many packets
//! have passed.
//!
//! The pipeline is wrapped, so that a sample is taken where a poll begins: all packets counted by
//! then have left, and their frames are freed. Between two samples the wrapper adds a comparison a
//! poll and an addition a burst.

use std::sync::{
    Arc, OnceLock,
    atomic::{
        AtomicI32, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use vrouter::{
    burst::Burst,
    clock::Now,
    drops::DropReason,
    memory::{FramePool, Region},
    outbox::Outbox,
    packet::Packet,
    port::PortRef,
    stats::WorkerStats,
    worker::Process,
};

use crate::cycles;

/// Where a worker was at a moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sample {
    /// The time-stamp counter.
    pub cycles: u64,
    /// Packets processed since the start.
    pub packets: u64,
    /// Allocations of the worker's thread since its start.
    pub allocations: u64,
}

/// What the worker and the measuring thread share. The worker writes samples, the other one says
/// when it wants them.
#[derive(Debug)]
pub struct Meter {
    /// Packets from one sample to the next; 0: no samples yet.
    packets_per_sample: AtomicU64,
    samples: Box<[OnceLock<Sample>]>,
    taken: AtomicUsize,
    thread: AtomicI32,
}

impl Meter {
    /// A meter for so many samples.
    #[must_use]
    pub fn new(samples: usize) -> Arc<Self> {
        Arc::new(Self {
            packets_per_sample: AtomicU64::new(0),
            samples: (0..samples).map(|_| OnceLock::new()).collect(),
            taken: AtomicUsize::new(0),
            thread: AtomicI32::new(0),
        })
    }

    /// Wants the first sample now, or as soon as packets come, and the next ones after so many
    /// packets each.
    pub fn start(&self, packets_per_sample: u64) {
        self.packets_per_sample.store(packets_per_sample.max(1), Relaxed);
    }

    /// How many samples are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Acquire)
    }

    /// The samples, once all are taken.
    #[must_use]
    pub fn samples(&self) -> Option<Vec<Sample>> {
        let is_done = self.taken() == self.samples.len();
        is_done.then(|| self.samples.iter().filter_map(OnceLock::get).copied().collect())
    }

    /// The worker's thread, by the kernel's number; 0 before it runs.
    #[must_use]
    pub fn thread(&self) -> i32 {
        self.thread.load(Relaxed)
    }
}

/// A pipeline with a meter.
#[derive(Debug)]
pub struct Metered<P> {
    pipeline: P,
    meter: Arc<Meter>,
    /// Allocations of the calling thread so far.
    allocations: fn() -> u64,
    packets: u64,
    /// The next sample is due at so many packets.
    next: u64,
}

impl<P> Metered<P> {
    /// Wraps `pipeline`. `allocations` tells how many there were on the calling thread.
    pub fn new(pipeline: P, meter: Arc<Meter>, allocations: fn() -> u64) -> Self {
        // Before there are packets, no sample says anything.
        Self { pipeline, meter, allocations, packets: 0, next: 1 }
    }

    #[cold]
    fn sample(&mut self) {
        let meter = &*self.meter;
        let step = meter.packets_per_sample.load(Relaxed);
        if step == 0 {
            // Asked again a few bursts later.
            self.next = self.packets.wrapping_add(256);
            return;
        }
        let sample = Sample {
            cycles: cycles::now(),
            packets: self.packets,
            allocations: (self.allocations)(),
        };
        let taken = meter.taken.load(Relaxed);
        let Some(slot) = meter.samples.get(taken) else {
            self.next = u64::MAX;
            return;
        };
        // Each slot is written once.
        let _ = slot.set(sample);
        meter.taken.store(taken + 1, Release);
        self.next = self.packets.saturating_add(step);
    }

    #[cold]
    fn note_thread(&self) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.meter.thread.store(thread, Relaxed);
    }
}

impl<P: Process> Process for Metered<P> {
    fn refresh(&mut self) -> u64 {
        if self.packets >= self.next {
            self.sample();
        } else if self.packets == 0 && self.meter.thread() == 0 {
            self.note_thread();
        }
        self.pipeline.refresh()
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
        self.packets = self.packets.wrapping_add(burst.len() as u64);
        self.pipeline.process(ingress, burst, now, pool, outbox, stats);
    }

    fn note_drop(&mut self, packet: &Packet, reason: DropReason, now: Now, region: &Region) {
        self.pipeline.note_drop(packet, reason, now, region);
    }

    fn housekeep(&mut self, now: Now) {
        self.pipeline.housekeep(now);
    }
}
