//! Packet counters: one [`WorkerStats`] a worker, written by that worker alone, read by the main
//! thread; and one that the main thread writes, of the rings of queues that it closes.
//!
//! A single writer needs no read-modify-write: a counter is a plain load and store. Counters of a
//! port are kept by slot and generation. The first count of a newer generation moves what the
//! slot's former port had counted to the worker's retired counters, so a new port starts at zero
//! and engine-wide totals never go back.
//!
//! What each packet owes its counters (invariant 3): `rx` once when it is received, then exactly
//! one of `forwarded` and `tx` (by the queue that sent it), `consumed`, or `dropped`. What a packet
//! is cut into beyond its first segment came in on [`PortRef::ENGINE`] and counts as `segmented`; a
//! packet that is merged into another counts as `forwarded` and `merged`, and has no `tx`.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod sent;
mod stages;
mod totals;
mod tunnels;

use std::sync::atomic::{
    AtomicU16, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

pub(crate) use self::sent::SentTally;
use self::{stages::StageClock, tunnels::TunnelTable};
pub use self::{
    stages::{Stage, StageTotals},
    totals::{ActivityTotals, Balance, EngineStats, PortTotals},
    tunnels::TunnelTotals,
};

use crate::{
    clock::Now,
    drops::DropReason,
    port::{PORTS_MAX, PortRef},
};

/// One worker's counters. The worker writes; the main thread reads.
#[derive(Debug)]
pub struct WorkerStats {
    activity: Activity,
    stages: StageClock,
    /// By port slot; the last one is [`PortRef::ENGINE`]'s.
    ports: Box<[PortCounters]>,
    /// What ports counted whose slots have new users since.
    retired: PortCounters,
    tunnels: TunnelTable,
    /// Odd while counters move to `retired`, so that no reader sees half of a move.
    moves: AtomicU64,
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkerStats {
    /// Counters at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            activity: Activity::default(),
            stages: StageClock::default(),
            ports: (0..=PORTS_MAX).map(|_| PortCounters::default()).collect(),
            retired: PortCounters::default(),
            tunnels: TunnelTable::new(),
            moves: AtomicU64::new(0),
        }
    }

    /// Counts packets received on `port`.
    pub fn rx(&self, port: PortRef, packets: u64, bytes: u64) {
        let counters = self.counters(port);
        counters.rx_packets.add(packets);
        counters.rx_bytes.add(bytes);
    }

    /// Counts packets that left through `port`.
    pub fn tx(&self, port: PortRef, packets: u64, bytes: u64) {
        let counters = self.counters(port);
        counters.tx_packets.add(packets);
        counters.tx_bytes.add(bytes);
    }

    /// Counts packets that came in on `ingress` and left through some port.
    pub fn forwarded(&self, ingress: PortRef, packets: u64) {
        self.counters(ingress).forwarded.add(packets);
    }

    /// Counts packets from `ingress` that the engine itself was the receiver of (ARP, ND, ICMP for
    /// the gateway).
    pub fn consumed(&self, ingress: PortRef, packets: u64) {
        self.counters(ingress).consumed.add(packets);
    }

    /// Counts packets from `ingress` that died of `reason`.
    pub fn dropped(&self, ingress: PortRef, reason: DropReason, packets: u64) {
        if let Some(counter) = self.counters(ingress).dropped.get(reason as usize) {
            counter.add(packets);
        }
    }

    /// Counts packets that the engine made itself.
    pub fn generated(&self, packets: u64) {
        self.activity.generated.add(packets);
    }

    /// Counts copies made of packets to send them more than once.
    pub fn replicated(&self, packets: u64) {
        self.activity.replicated.add(packets);
    }

    /// Counts segments, beyond the first, that packets were cut into.
    pub fn segmented(&self, packets: u64) {
        self.activity.segmented.add(packets);
    }

    /// Counts a packet from `ingress` that goes on as a part of the one before it: it has left, and
    /// with the other it is one packet.
    pub fn merged(&self, ingress: PortRef, packets: u64) {
        self.activity.merged.add(packets);
        self.forwarded(ingress, packets);
    }

    /// Counts a burst given to the pipeline.
    pub fn burst(&self, packets: u64) {
        self.activity.bursts.add(1);
        self.activity.packets.add(packets);
    }

    /// Notes the start of a poll under `config_version`: what happens from here on is seen under
    /// that version or a later one.
    ///
    /// `busy_nanoseconds` is what the poll before it took, if that one moved packets.
    pub fn poll(&self, now: Now, config_version: u64, busy_nanoseconds: u64) {
        let activity = &self.activity;
        activity.polls.add(1);
        activity.busy_nanoseconds.add(busy_nanoseconds);
        activity.last_poll_nanoseconds.0.store(now.nanoseconds, Relaxed);
        // Release: whoever sees this version also sees all that was done under the versions before
        // it.
        activity.config_version.0.store(config_version, Release);
    }

    /// Counts a poll that moved no packet.
    pub fn empty_poll(&self) {
        self.activity.empty_polls.add(1);
    }

    /// Counts a sleep on the descriptors.
    pub fn sleep(&self) {
        self.activity.sleeps.add(1);
    }

    /// Notes how many frames the worker's pool holds.
    pub fn frames_cached(&self, frames: u64) {
        self.activity.frames_cached.0.store(frames, Relaxed);
    }

    /// The version that the worker's last poll ran under.
    #[must_use]
    pub fn config_version(&self) -> u64 {
        self.activity.config_version.0.load(Acquire)
    }

    /// When the worker last polled.
    #[must_use]
    pub fn last_poll(&self) -> Now {
        Now { nanoseconds: self.activity.last_poll_nanoseconds.get() }
    }

    fn counters(&self, port: PortRef) -> &PortCounters {
        let slot = usize::from(port.index).min(PORTS_MAX);
        match self.ports.get(slot) {
            Some(counters) if counters.generation.load(Relaxed) == port.generation => counters,
            Some(counters) => self.change_generation(counters, port.generation),
            None => &self.retired,
        }
    }

    /// A slot has a new user: moves what the former one counted. Stragglers of a former one count
    /// as retired at once.
    #[cold]
    fn change_generation<'a>(
        &'a self,
        counters: &'a PortCounters,
        generation: u16,
    ) -> &'a PortCounters {
        let current = counters.generation.load(Relaxed);
        // Generations wrap: the nearer way round tells which is newer.
        if generation.wrapping_sub(current).cast_signed() < 0 {
            return &self.retired;
        }
        let moves = self.moves.load(Relaxed);
        self.moves.store(moves.wrapping_add(1), Relaxed);
        fence(Release);
        for (from, to) in counters.all().zip(self.retired.all()) {
            to.add(from.get());
            from.0.store(0, Relaxed);
        }
        counters.generation.store(generation, Relaxed);
        self.moves.store(moves.wrapping_add(2), Release);
        counters
    }
}

/// What a worker does, apart from ports. The worker writes; the main thread reads.
#[derive(Debug, Default)]
#[repr(align(64))] // No other worker writes into these lines.
struct Activity {
    polls: Counter,
    empty_polls: Counter,
    bursts: Counter,
    packets: Counter,
    busy_nanoseconds: Counter,
    last_poll_nanoseconds: Counter,
    config_version: Counter,
    generated: Counter,
    replicated: Counter,
    segmented: Counter,
    merged: Counter,
    sleeps: Counter,
    frames_cached: Counter,
}

/// What a worker counted of one port. The worker writes; the main thread reads.
#[derive(Debug, Default)]
#[repr(align(64))] // No other worker writes into these lines.
struct PortCounters {
    generation: AtomicU16,
    rx_packets: Counter,
    rx_bytes: Counter,
    tx_packets: Counter,
    tx_bytes: Counter,
    forwarded: Counter,
    consumed: Counter,
    dropped: DropCounters,
}

impl PortCounters {
    fn all(&self) -> impl Iterator<Item = &Counter> {
        [
            &self.rx_packets,
            &self.rx_bytes,
            &self.tx_packets,
            &self.tx_bytes,
            &self.forwarded,
            &self.consumed,
        ]
        .into_iter()
        .chain(&self.dropped.0)
    }
}

#[derive(Debug)]
struct DropCounters([Counter; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([const { Counter(AtomicU64::new(0)) }; DropReason::COUNT])
    }
}

impl DropCounters {
    fn get(&self, reason: usize) -> Option<&Counter> {
        self.0.get(reason)
    }
}

/// Written by one thread, so that no addition is ever lost between its load and its store.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}
