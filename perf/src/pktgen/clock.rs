//! The clock of both ends: `CLOCK_MONOTONIC`, which is the same in all processes and network
//! namespaces of a machine, and is read without a system call.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}
