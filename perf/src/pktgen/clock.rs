//! The clock of both ends: `CLOCK_MONOTONIC`, which is the same in all processes and network
//! namespaces of a machine, and is read without a system call.
//!
//! The standard library's `Instant` is the same clock, but keeps its number to itself.
//!
//! # Safety boundary
//!
//! One function of the C library, which writes the structure that it is given.
#![expect(unsafe_code, reason = "rustix finds no vDSO under valgrind, and reads what is not there")]

/// Nanoseconds since some moment.
#[must_use]
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec; the clock is always there, so the call does not fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn time_goes_on_in_nanoseconds() {
        let before = now_ns();
        thread::sleep(Duration::from_millis(2));
        assert!(now_ns() - before >= 2_000_000);
    }
}
