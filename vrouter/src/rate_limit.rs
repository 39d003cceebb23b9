//! A token bucket for messages that the engine makes itself.

#![warn(clippy::indexing_slicing)]

use crate::clock::Now;

/// ICMP errors a second and worker: as many as Linux sends in all by default (`icmp_msgs_per_sec`).
const ICMP_ERRORS_PER_SECOND: u64 = 1000;
/// ICMP errors at once: a traceroute with all its probes, and some more (Linux: 50).
const ICMP_ERRORS_AT_ONCE: u64 = 100;

const NANOSECONDS_PER_SECOND: u64 = 1_000_000_000;

/// Allows so many events a second, and so many at once. One thread's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    nanoseconds_per_token: u64,
    /// As much credit as the bucket holds, in nanoseconds.
    capacity: u64,
    credit: u64,
    last: Now,
}

impl TokenBucket {
    /// A full bucket. `per_second` is at least 1.
    #[must_use]
    pub(crate) fn new(per_second: u64, at_once: u64) -> Self {
        let nanoseconds_per_token = NANOSECONDS_PER_SECOND / per_second.max(1);
        let capacity = nanoseconds_per_token.saturating_mul(at_once);
        Self { nanoseconds_per_token, capacity, credit: capacity, last: Now::default() }
    }

    /// The bucket for ICMP errors.
    #[must_use]
    pub(crate) fn for_icmp_errors() -> Self {
        Self::new(ICMP_ERRORS_PER_SECOND, ICMP_ERRORS_AT_ONCE)
    }

    /// Whether one more event is allowed at `now`; if so it is counted.
    pub(crate) fn take(&mut self, now: Now) -> bool {
        let passed = now.nanoseconds.saturating_sub(self.last.nanoseconds);
        self.last = now;
        self.credit = self.credit.saturating_add(passed).min(self.capacity);
        match self.credit.checked_sub(self.nanoseconds_per_token) {
            Some(rest) => {
                self.credit = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TokenBucket;
    use crate::clock::Now;

    #[test]
    fn a_bucket_allows_a_burst_and_then_its_rate() {
        let mut bucket = TokenBucket::new(10, 3);
        let at = |milliseconds: u64| Now { nanoseconds: milliseconds * 1_000_000 };
        let allowed = |bucket: &mut TokenBucket, milliseconds, tries| {
            (0..tries).filter(|_| bucket.take(at(milliseconds))).count()
        };
        assert_eq!(allowed(&mut bucket, 5, 9), 3);
        assert_eq!(allowed(&mut bucket, 105, 9), 1);
        assert_eq!(allowed(&mut bucket, 5000, 9), 3);
    }
}
