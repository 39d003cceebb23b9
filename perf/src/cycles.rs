//! The processor's time-stamp counter: cycles of a constant frequency, whatever the core's own is.
//!
//! # Safety boundary
//!
//! The only unsafe code reads the counter, which touches no memory and which every x86-64 processor
//! lets a process do (Linux never forbids it unasked). Elsewhere a cycle is a nanosecond of the
//! monotonic clock.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "reads the time-stamp counter"))]

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long the counter is held against the clock: what reading the clock takes (below 1 µs) is
/// then below 20 millionths of it.
const CALIBRATION: Duration = Duration::from_millis(50);

/// The counter, now.
#[must_use]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of x86-64 and touches no memory.
    let cycles = unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    let cycles = {
        static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        u64::try_from(ORIGIN.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
    };
    cycles
}

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
