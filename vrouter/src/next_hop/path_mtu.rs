//! What the underlay said about the MTU of ways to other nodes.
//!
//! Written by whichever worker received the underlay's message, read by all: one word a slot, so
//! that it is in force with the next packet and no worker waits for another. A word that is old
//! counts no more, and so the way is tried in full again (RFC 1191 section 6.3, RFC 8201 section
//! 4).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{NEXT_HOPS_MAX, NextHopIndex};
use crate::clock::Now;

/// How long a lowered MTU holds: what RFC 1191 section 6.3 recommends.
pub const PATH_MTU_LIFETIME_SECONDS: u64 = 600;

/// Lowered MTUs by next-hop slot.
#[derive(Debug)]
pub struct PathMtus {
    /// The second in which the MTU expires, above 16 bits of MTU; 0: none was heard of. Any worker
    /// writes, any reads.
    words: Box<[AtomicU64]>,
}

impl Default for PathMtus {
    fn default() -> Self {
        Self { words: (0..NEXT_HOPS_MAX).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl PathMtus {
    /// The lower of `mtu_bytes` and what the underlay said about this way.
    #[must_use]
    pub fn limit(&self, index: NextHopIndex, mtu_bytes: u16, now: Now) -> u16 {
        let word = self.words.get(index.0 as usize).map_or(0, |word| word.load(Relaxed));
        if word == 0 {
            mtu_bytes
        } else {
            lowered(word, now).map_or(mtu_bytes, |low| low.min(mtu_bytes))
        }
    }

    /// What the underlay said about this way, if it still counts.
    #[must_use]
    pub fn lowered(&self, index: NextHopIndex, now: Now) -> Option<u16> {
        lowered(self.words.get(index.0 as usize)?.load(Relaxed), now)
    }

    /// Notes that the way carries inner packets of `mtu_bytes` at most. A larger one does not undo
    /// a smaller one.
    pub fn lower(&self, index: NextHopIndex, mtu_bytes: u16, now: Now) {
        let Some(word) = self.words.get(index.0 as usize) else { return };
        let mtu_bytes =
            lowered(word.load(Relaxed), now).map_or(mtu_bytes, |low| low.min(mtu_bytes));
        let expires = (now.nanoseconds / 1_000_000_000).saturating_add(PATH_MTU_LIFETIME_SECONDS);
        // Two workers that write at once both write what they were told: either is a fair answer.
        word.store(expires << 16 | u64::from(mtu_bytes), Relaxed);
    }

    /// Forgets what was said about a slot's former user.
    pub(crate) fn forget(&self, index: NextHopIndex) {
        if let Some(word) = self.words.get(index.0 as usize) {
            word.store(0, Relaxed);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low 16 bits are the MTU")]
fn lowered(word: u64, now: Now) -> Option<u16> {
    (now.nanoseconds / 1_000_000_000 < word >> 16).then_some(word as u16)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::{NextHopIndex, PATH_MTU_LIFETIME_SECONDS, PathMtus};
    use crate::clock::Now;

    const WAY: NextHopIndex = NextHopIndex(7);

    fn at(seconds: u64) -> Now {
        Now { nanoseconds: seconds * 1_000_000_000 }
    }

    #[test]
    fn a_lowered_mtu_expires() {
        let mtus = PathMtus::default();
        assert_eq!(mtus.limit(WAY, 1450, at(5)), 1450);
        mtus.lower(WAY, 1350, at(5));
        assert_eq!(mtus.limit(WAY, 1450, at(5)), 1350);
        assert_eq!(mtus.limit(WAY, 1300, at(5)), 1300);
        assert_eq!(mtus.limit(WAY, 1450, at(5 + PATH_MTU_LIFETIME_SECONDS)), 1450);
        assert_eq!(mtus.limit(NextHopIndex(8), 1450, at(5)), 1450);
    }

    #[test]
    fn a_larger_mtu_does_not_undo_a_smaller_one() {
        let mtus = PathMtus::default();
        mtus.lower(WAY, 1350, at(0));
        mtus.lower(WAY, 1400, at(1));
        assert_eq!(mtus.lowered(WAY, at(2)), Some(1350));
    }
}
