//! How fast the processor's time-stamp counter counts.

use std::{
    thread,
    time::{Duration, Instant},
};

pub use vrouter::cycles::now;

/// How long the counter is held against the clock: what reading the clock takes (below 1 µs) is
/// then below 20 millionths of it.
const CALIBRATION: Duration = Duration::from_millis(50);

/// Cycles of the counter a second, measured.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub fn per_second() -> f64 {
    let (clock, before) = (Instant::now(), now());
    thread::sleep(CALIBRATION);
    let cycles = now().wrapping_sub(before);
    cycles as f64 / clock.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_runs_at_some_gigahertz_and_never_back() {
        let before = now();
        let rate = per_second();
        assert!(now() > before);
        assert!((0.5e9..10e9).contains(&rate), "{rate}");
    }
}
