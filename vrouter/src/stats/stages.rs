//! How many cycles a packet takes in each stage: measured on one burst of many, so that it can stay
//! on.
//!
//! Between two readings of the counter lies the work of one stage on a whole burst, and what the
//! readings take is a third of a cycle a packet, or less where bursts are small. The worker writes;
//! the main thread reads.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{Counter, WorkerStats};
use crate::cycles;

/// One burst of so many is measured.
const BURSTS_PER_SAMPLE: u64 = 64;

/// A part of a worker's work on a burst.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Stage {
    /// From the port's queue into a burst.
    Receive,
    /// Headers, decapsulation, flow keys and their hashes.
    Parse,
    /// The burst's keys in the flow table.
    LookUp,
    /// Connection tracking, the slow path where it is needed, new headers.
    Forward,
    /// Into the queues of ports and the rings to other workers.
    Transmit,
}

impl Stage {
    /// All, in the order of a packet's way.
    pub const ALL: [Self; 5] =
        [Self::Receive, Self::Parse, Self::LookUp, Self::Forward, Self::Transmit];

    /// The name, as operators see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Parse => "parse",
            Self::LookUp => "look_up",
            Self::Forward => "forward",
            Self::Transmit => "transmit",
        }
    }
}

/// What was measured of one stage.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct StageTotals {
    /// Packets of the bursts that were measured.
    pub packets: u64,
    /// Cycles of the time-stamp counter that the stage took for them.
    pub cycles: u64,
}

/// One worker's measurements.
#[derive(Debug, Default)]
pub(super) struct StageClock {
    /// When the stage under way began; 0 while nothing is measured.
    began: Counter,
    /// Bursts that are not measured, before the next one that is.
    wait: Counter,
    packets: [Counter; Stage::ALL.len()],
    cycles: [Counter; Stage::ALL.len()],
}

impl WorkerStats {
    /// A burst may be about to be received: if it is one to measure, begins.
    #[inline]
    pub fn begin_stages(&self) {
        if self.stages.wait.get() == 0 {
            self.stages.began.set(cycles::now());
        }
    }

    /// A stage has done its work on `packets` packets.
    #[inline]
    pub fn end_stage(&self, stage: Stage, packets: u64) {
        if self.stages.began.get() != 0 {
            self.measure(stage, packets);
        }
    }

    /// The last stage is done.
    #[inline]
    pub fn end_stages(&self) {
        let clock = &self.stages;
        let is_measured = clock.began.get() != 0;
        let wait = clock.wait.get().checked_sub(1).filter(|_| !is_measured);
        clock.wait.set(wait.unwrap_or(BURSTS_PER_SAMPLE - 1));
        clock.began.set(0);
    }

    /// There was nothing to receive.
    #[inline]
    pub fn cancel_stages(&self) {
        self.stages.began.set(0);
    }

    #[cold]
    fn measure(&self, stage: Stage, packets: u64) {
        let clock = &self.stages;
        let now = cycles::now();
        let took = now.saturating_sub(clock.began.get());
        if let (Some(all), Some(sum)) =
            (clock.packets.get(stage as usize), clock.cycles.get(stage as usize))
        {
            all.add(packets);
            sum.add(took);
        }
        clock.began.set(now);
    }

    /// What was measured so far, in the order of [`Stage::ALL`].
    #[must_use]
    pub fn stages(&self) -> [StageTotals; Stage::ALL.len()] {
        let of = |counters: &[Counter; Stage::ALL.len()]| counters.each_ref().map(Counter::get);
        let mut totals = [StageTotals::default(); Stage::ALL.len()];
        let measured = of(&self.stages.packets).into_iter().zip(of(&self.stages.cycles));
        for (total, (packets, cycles)) in totals.iter_mut().zip(measured) {
            *total = StageTotals { packets, cycles };
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One burst on its way.
    fn burst(stats: &WorkerStats, packets: u64) {
        stats.begin_stages();
        for stage in Stage::ALL {
            stats.end_stage(stage, packets);
        }
        stats.end_stages();
    }

    #[test]
    fn one_burst_of_sixty_four_is_measured_in_every_stage() {
        let stats = WorkerStats::new();
        for _ in 0..3 * BURSTS_PER_SAMPLE {
            burst(&stats, 32);
        }
        for (stage, totals) in Stage::ALL.into_iter().zip(stats.stages()) {
            assert_eq!(totals.packets, 3 * 32, "{stage:?}");
            assert!(totals.cycles > 0, "{stage:?}");
        }
    }

    #[test]
    fn visits_without_packets_neither_count_nor_use_up_a_turn() {
        let stats = WorkerStats::new();
        for _ in 0..10 {
            stats.begin_stages();
            stats.cancel_stages();
        }
        assert_eq!(stats.stages(), [StageTotals::default(); Stage::ALL.len()]);
        burst(&stats, 7);
        assert!(stats.stages().iter().all(|totals| totals.packets == 7));
        burst(&stats, 7);
        assert!(stats.stages().iter().all(|totals| totals.packets == 7), "not its turn");
    }
}
