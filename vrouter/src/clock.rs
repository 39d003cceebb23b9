//! Time as the data path knows it: read once per poll, and passed in.

use std::time::Instant;

/// Nanoseconds in one tick of the flow table: fine enough for the shortest idle timeout (seconds),
/// coarse enough that 32 bits last 497 days before they wrap.
pub const TICK_NANOSECONDS: u64 = 10_000_000;

/// A moment: nanoseconds of a monotonic clock, or of the virtual clock of a replay.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Now {
    /// Since an origin that stays the same while the process runs.
    pub nanoseconds: u64,
}

impl Now {
    /// The moment in ticks of the flow table; wraps.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "ticks wrap by design")]
    pub fn ticks(self) -> u32 {
        (self.nanoseconds / TICK_NANOSECONDS) as u32
    }
}

/// The clock of a running engine: monotonic, with an origin that all its threads share.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self::start()
    }
}

impl Clock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The moment that it is. Costs about 25 ns, so a worker asks once per poll.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "64 bits of nanoseconds last 584 years")]
    pub fn now(&self) -> Now {
        Now { nanoseconds: self.origin.elapsed().as_nanos() as u64 }
    }
}
