//! The memory orderings that the table's claims rest on, one name a claim, and the steps that may
//! not be skipped.
//!
//! `docs/design/0002-flow-table.md` argues each. Under loom the environment variable
//! `FLOWTABLE_MUTATION` names one to weaken, and the loom test of that claim must then fail:
//! `scripts/lib/test-loom` sees to it. Otherwise these are constants.

use crate::sync::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

macro_rules! claims {
    ($($(#[doc = $doc:literal])+ $name:ident: $strong:expr, not $weak:expr, $kind:ty;)+) => {
        $($(#[doc = $doc])+
        #[inline]
        pub(crate) fn $name() -> $kind {
            if is_mutated(stringify!($name)) { $weak } else { $strong }
        })+
    };
}

claims! {
    /// Claim 1: who finds an index in a bucket finds the entry's words written.
    publish_index: Release, not Relaxed, Ordering;

    /// Claim 2: two inserts of one pair see each other: what one holder of a lock did is seen by
    /// the next.
    lock_bucket: Acquire, not Relaxed, Ordering;

    /// Claim 2, the other end.
    unlock_bucket: Release, not Relaxed, Ordering;

    /// Claim 2: the keys are searched again once the locks are held.
    search_under_lock: true, not false, bool;

    /// Claim 3: how many epochs later what was retired is reused: after one, somebody may still be
    /// in the old epoch.
    grace_epochs: 2, not 1, u64;

    /// Claim 3: a worker that comes online is seen by whoever frees what it may find.
    fence_online: true, not false, bool;

    /// Claim 4: the newest version wins: a worker with an older snapshot gives way under the lock.
    newest_wins: true, not false, bool;

    /// Claim 4: a version is stamped only where nothing was touched since the one before.
    judge_before_restamp: true, not false, bool;

    /// Claim 5: a fragment's words are read as a whole.
    recheck_fragment: true, not false, bool;

    /// Claim 5, the writer's end: the odd version is seen before any of the words that follow.
    fence_fragment: true, not false, bool;

    /// Claim 6: a free list whose head came back to the same index is another list.
    tag_head: true, not false, bool;

    /// Claim 6: who takes an index from a free list finds its links written.
    exchange_head: AcqRel, not Relaxed, Ordering;

    /// Claim 7: a key that moves from one of its buckets to the other is not missed by who looks in
    /// both.
    recheck_moved: true, not false, bool;

    /// Claim 7: who finds that no key of a bucket lies elsewhere finds its version changed, if one has
    /// just come back.
    publish_strays: Release, not Relaxed, Ordering;

    /// Claim 8: who finds a connection alive finds its entries and states written.
    publish_life: Release, not Relaxed, Ordering;

    /// Claim 9: who finds an entry ended finds what took its place, if something did.
    publish_end: Release, not Relaxed, Ordering;
}

#[cfg(not(loom))]
#[inline]
const fn is_mutated(_claim: &str) -> bool {
    false
}

#[cfg(loom)]
fn is_mutated(claim: &str) -> bool {
    use std::sync::OnceLock;
    static MUTATION: OnceLock<Option<String>> = OnceLock::new();
    MUTATION.get_or_init(|| std::env::var("FLOWTABLE_MUTATION").ok()).as_deref() == Some(claim)
}
