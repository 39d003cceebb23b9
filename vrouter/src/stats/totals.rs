//! The sums over all workers, for operators, metrics and tests.
//!
//! Workers go on counting while they are summed up. Each counter on its own is exact and never goes
//! back; across counters the sums agree once traffic stands still.

use std::{
    hint,
    sync::{
        Arc,
        atomic::{
            Ordering::{Acquire, Relaxed},
            fence,
        },
    },
};

use super::{PortCounters, WorkerStats};
use crate::{drops::DropReason, port::PortRef};

/// How often a reader tries again because counters were just moving: a move takes about 100 ns and
/// happens once a slot's reuse.
const READ_TRIES_MAX: u32 = 1000;

/// Reads the counters of all workers.
#[derive(Clone, Debug)]
pub struct EngineStats {
    workers: Arc<[Arc<WorkerStats>]>,
    /// What the main thread counts of queues that it closes.
    closing: Option<Arc<WorkerStats>>,
}

impl EngineStats {
    /// A reader of these workers' counters.
    #[must_use]
    pub fn new(workers: impl IntoIterator<Item = Arc<WorkerStats>>) -> Self {
        Self { workers: workers.into_iter().collect(), closing: None }
    }

    /// Adds the counters that the main thread writes, of queues that it closes.
    #[must_use]
    pub fn with_closing(mut self, closing: &Arc<WorkerStats>) -> Self {
        self.closing = Some(Arc::clone(closing));
        self
    }

    /// What all workers counted of `port`, of this generation of it only.
    #[must_use]
    pub fn port(&self, port: PortRef) -> PortTotals {
        let mut totals = PortTotals::default();
        for worker in self.writers() {
            totals.merge(&worker.consistent(|| worker.port_totals(port)));
        }
        totals
    }

    /// What all workers counted of all ports that are or were.
    #[must_use]
    pub fn all_ports(&self) -> PortTotals {
        let mut totals = PortTotals::default();
        for worker in self.writers() {
            totals.merge(&worker.consistent(|| worker.all_totals()));
        }
        totals
    }

    /// The engine-wide balance of packets.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let ports = self.all_ports();
        let activity = |read: fn(&ActivityTotals) -> u64| {
            self.workers.iter().map(|worker| read(&worker.activity())).sum()
        };
        Balance {
            received: ports.rx_packets,
            generated: activity(|totals| totals.generated),
            replicated: activity(|totals| totals.replicated),
            segmented: activity(|totals| totals.segmented),
            merged: activity(|totals| totals.merged),
            sent: ports.tx_packets,
            consumed: ports.consumed,
            dropped: ports.dropped(),
        }
    }

    /// All that count packets of ports.
    fn writers(&self) -> impl Iterator<Item = &Arc<WorkerStats>> {
        self.workers.iter().chain(&self.closing)
    }

    /// The counters of each worker, in order of their numbers.
    #[must_use]
    pub fn workers(&self) -> &[Arc<WorkerStats>] {
        &self.workers
    }
}

/// The counters of one port, or of all, summed over workers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names are those of the counting functions of `WorkerStats`")]
pub struct PortTotals {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub forwarded: u64,
    pub consumed: u64,
    dropped_by_reason: [u64; DropReason::COUNT],
}

impl Default for PortTotals {
    fn default() -> Self {
        Self {
            rx_packets: 0,
            rx_bytes: 0,
            tx_packets: 0,
            tx_bytes: 0,
            forwarded: 0,
            consumed: 0,
            dropped_by_reason: [0; DropReason::COUNT],
        }
    }
}

impl PortTotals {
    /// Packets dropped for any reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped_by_reason.iter().sum()
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped_by_reason.get(reason as usize).copied().unwrap_or(0)
    }

    /// Received packets whose fate is not counted yet; zero once traffic stands still.
    #[must_use]
    pub fn under_way(&self) -> i64 {
        let settled = self.forwarded.wrapping_add(self.consumed).wrapping_add(self.dropped());
        self.rx_packets.wrapping_sub(settled).cast_signed()
    }

    fn merge(&mut self, other: &Self) {
        let add = |sum: &mut u64, more: u64| *sum = sum.wrapping_add(more);
        add(&mut self.rx_packets, other.rx_packets);
        add(&mut self.rx_bytes, other.rx_bytes);
        add(&mut self.tx_packets, other.tx_packets);
        add(&mut self.tx_bytes, other.tx_bytes);
        add(&mut self.forwarded, other.forwarded);
        add(&mut self.consumed, other.consumed);
        for (sum, more) in self.dropped_by_reason.iter_mut().zip(&other.dropped_by_reason) {
            add(sum, *more);
        }
    }
}

/// Every packet in equals every packet out (invariant 3): received, generated and replicated ones
/// are sent, consumed or dropped.
///
/// What packets were cut into and put together from is counted apart. Segments beyond the first
/// (`segmented`) are among the packets that are sent or dropped; packets that went on as a part of
/// another (`merged`) are not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(missing_docs, reason = "the sentence above names them")]
pub struct Balance {
    pub received: u64,
    pub generated: u64,
    pub replicated: u64,
    pub segmented: u64,
    pub merged: u64,
    pub sent: u64,
    pub consumed: u64,
    pub dropped: u64,
}

impl Balance {
    /// Packets that came in and did not go out yet; zero once traffic stands still.
    #[must_use]
    pub fn under_way(&self) -> i64 {
        let came = [self.received, self.generated, self.replicated, self.segmented];
        let went = [self.sent, self.consumed, self.dropped, self.merged];
        let sum = |counts: [u64; 4]| counts.into_iter().fold(0, u64::wrapping_add);
        sum(came).wrapping_sub(sum(went)).cast_signed()
    }
}

/// What one worker does, apart from ports.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ActivityTotals {
    /// Polls in all.
    pub polls: u64,
    /// Polls that moved no packet.
    pub empty_polls: u64,
    /// Bursts given to the pipeline.
    pub bursts: u64,
    /// Packets in those bursts.
    pub packets: u64,
    /// Time spent in polls that moved packets.
    pub busy_nanoseconds: u64,
    /// When it last polled, on the engine's clock.
    pub last_poll_nanoseconds: u64,
    /// The version that its last poll ran under.
    pub config_version: u64,
    /// Packets that the engine made itself.
    pub generated: u64,
    /// Copies of packets.
    pub replicated: u64,
    /// Segments, beyond the first, that packets were cut into.
    pub segmented: u64,
    /// Packets that went on as a part of another.
    pub merged: u64,
    /// Sleeps on the descriptors.
    pub sleeps: u64,
    /// Frames in the worker's pool.
    pub frames_cached: u64,
}

impl WorkerStats {
    /// What this worker does, apart from ports.
    #[must_use]
    pub fn activity(&self) -> ActivityTotals {
        let activity = &self.activity;
        ActivityTotals {
            polls: activity.polls.get(),
            empty_polls: activity.empty_polls.get(),
            bursts: activity.bursts.get(),
            packets: activity.packets.get(),
            busy_nanoseconds: activity.busy_nanoseconds.get(),
            last_poll_nanoseconds: activity.last_poll_nanoseconds.get(),
            config_version: self.config_version(),
            generated: activity.generated.get(),
            replicated: activity.replicated.get(),
            segmented: activity.segmented.get(),
            merged: activity.merged.get(),
            sleeps: activity.sleeps.get(),
            frames_cached: activity.frames_cached.get(),
        }
    }

    fn port_totals(&self, port: PortRef) -> PortTotals {
        let slot = usize::from(port.index).min(self.ports.len().saturating_sub(1));
        match self.ports.get(slot) {
            Some(counters) if counters.generation.load(Relaxed) == port.generation => {
                counters.totals()
            }
            _ => PortTotals::default(),
        }
    }

    fn all_totals(&self) -> PortTotals {
        let mut totals = self.retired.totals();
        for counters in &self.ports {
            totals.merge(&counters.totals());
        }
        totals
    }

    /// Reads until no counters moved meanwhile.
    fn consistent(&self, read: impl Fn() -> PortTotals) -> PortTotals {
        for _ in 0..READ_TRIES_MAX {
            let before = self.moves.load(Acquire);
            if before.is_multiple_of(2) {
                let totals = read();
                fence(Acquire);
                if self.moves.load(Relaxed) == before {
                    return totals;
                }
            }
            hint::spin_loop();
        }
        read()
    }
}

impl PortCounters {
    fn totals(&self) -> PortTotals {
        let mut dropped_by_reason = [0; DropReason::COUNT];
        for (total, counter) in dropped_by_reason.iter_mut().zip(&self.dropped.0) {
            *total = counter.get();
        }
        PortTotals {
            rx_packets: self.rx_packets.get(),
            rx_bytes: self.rx_bytes.get(),
            tx_packets: self.tx_packets.get(),
            tx_bytes: self.tx_bytes.get(),
            forwarded: self.forwarded.get(),
            consumed: self.consumed.get(),
            dropped_by_reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PORTS_MAX;

    fn stats() -> (Arc<WorkerStats>, EngineStats) {
        let worker = Arc::new(WorkerStats::new());
        let engine = EngineStats::new([Arc::clone(&worker), Arc::new(WorkerStats::new())]);
        (worker, engine)
    }

    #[test]
    fn every_fate_of_a_packet_settles_its_port_and_the_engine() {
        let (worker, engine) = stats();
        let (a, b) = (PortRef { index: 0, generation: 1 }, PortRef { index: 9, generation: 4 });
        worker.rx(a, 4, 400);
        worker.forwarded(a, 1);
        worker.tx(b, 1, 100);
        worker.consumed(a, 1);
        worker.dropped(a, DropReason::RouteNone, 1);
        assert_eq!(engine.port(a).under_way(), 1);
        assert_eq!(engine.balance().under_way(), 1);
        engine.workers()[1].dropped(a, DropReason::TxRingFull, 1);
        assert_eq!(engine.port(a).under_way(), 0);
        assert_eq!(engine.balance().under_way(), 0);
        assert_eq!(engine.port(a).dropped_for(DropReason::TxRingFull), 1);
        assert_eq!((engine.port(b).tx_packets, engine.port(b).tx_bytes), (1, 100));
    }

    #[test]
    fn packets_of_the_engine_have_a_slot_of_their_own() {
        let (worker, engine) = stats();
        worker.generated(2);
        worker.dropped(PortRef::ENGINE, DropReason::PortDown, 1);
        worker.forwarded(PortRef::ENGINE, 1);
        worker.tx(PortRef { index: 0, generation: 0 }, 1, 60);
        assert_eq!(engine.balance().under_way(), 0);
        assert_eq!(engine.port(PortRef::ENGINE).dropped(), 1);
        let last = PortRef { index: u16::try_from(PORTS_MAX - 1).unwrap(), generation: 0 };
        assert_eq!(engine.port(last), PortTotals::default());
    }

    #[test]
    fn a_new_generation_starts_at_zero_and_totals_never_go_back() {
        let (worker, engine) = stats();
        let old = PortRef { index: 3, generation: u16::MAX };
        let new = PortRef { index: 3, generation: 0 };
        for generation in [32_000, 60_000] {
            worker.rx(PortRef { index: 3, generation }, 1, 1);
        }
        worker.rx(old, 10, 1000);
        worker.dropped(old, DropReason::RouteNone, 4);
        worker.rx(new, 1, 60);
        worker.forwarded(old, 6);
        assert_eq!(engine.port(old), PortTotals::default());
        assert_eq!((engine.port(new).rx_packets, engine.port(new).forwarded), (1, 0));
        let all = engine.all_ports();
        assert_eq!((all.rx_packets, all.rx_bytes, all.forwarded, all.dropped()), (13, 1062, 6, 4));
    }

    #[test]
    fn a_reader_never_sees_half_of_a_move() {
        const PACKETS_A_GENERATION: u64 = 7;
        let (worker, engine) = stats();
        let writer = std::thread::spawn(move || {
            for generation in 0..20_000 {
                let port = PortRef { index: 5, generation };
                worker.rx(port, PACKETS_A_GENERATION, 0);
                worker.dropped(port, DropReason::RouteNone, PACKETS_A_GENERATION);
            }
        });
        let mut last = 0;
        while !writer.is_finished() {
            let received = engine.all_ports().rx_packets;
            assert!(received >= last && received.is_multiple_of(PACKETS_A_GENERATION));
            last = received;
        }
        writer.join().unwrap();
        assert_eq!(engine.all_ports().rx_packets, 20_000 * PACKETS_A_GENERATION);
        assert_eq!(engine.balance().under_way(), 0);
    }
}
