//! The processor's time-stamp counter: cycles of a constant frequency, whatever the core's own is.
//!
//! # Safety boundary
//!
//! The only unsafe code reads the counter, which touches no memory and which every x86-64 processor
//! lets a process do (Linux never forbids it unasked). Elsewhere a cycle is a nanosecond of the
//! monotonic clock.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "reads the time-stamp counter"))]

/// The counter, now. It takes some 20 cycles itself.
#[must_use]
#[inline]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is part of x86-64 and touches no memory.
    let cycles = unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    let cycles = {
        use std::{sync::OnceLock, time::Instant};
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        u64::try_from(ORIGIN.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
    };
    cycles
}
