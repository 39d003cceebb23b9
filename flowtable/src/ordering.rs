//! The memory orderings that the table's claims rest on, one name a claim, and the steps that may not be skipped.
//!
//! `docs/design/0002-flow-table.md` argues each. A build with `--cfg flowtable_mutation="name"` weakens one of them, and
//! the loom test of that claim must then fail: `scripts/lib/test-loom` sees to it.

use crate::sync::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

/// Claim 1: who finds an index in a bucket finds the entry's words written.
pub(crate) const PUBLISH_INDEX: Ordering =
    if cfg!(flowtable_mutation = "publish_index") { Relaxed } else { Release };

/// Claim 2: two inserts of one pair see each other: what the last holder of a bucket's lock did is seen by the next.
pub(crate) const LOCK_BUCKET: Ordering =
    if cfg!(flowtable_mutation = "lock_bucket") { Relaxed } else { Acquire };

/// Claim 2, the other end.
pub(crate) const UNLOCK_BUCKET: Ordering =
    if cfg!(flowtable_mutation = "unlock_bucket") { Relaxed } else { Release };

/// Claim 2: the keys are searched again once the locks are held.
pub(crate) const SEARCH_UNDER_LOCK: bool = !cfg!(flowtable_mutation = "search_under_lock");

/// Claim 3: an entry is reused only when every worker has passed a quiescent point after its removal.
pub(crate) const WAIT_FOR_GRACE: bool = !cfg!(flowtable_mutation = "wait_for_grace");

/// Claim 3: a worker that comes online is seen by whoever frees what it may find.
pub(crate) const FENCE_ONLINE: bool = !cfg!(flowtable_mutation = "fence_online");

/// Claim 3: an epoch that is announced carries what its worker unlinked before.
pub(crate) const ANNOUNCE_EPOCH: Ordering =
    if cfg!(flowtable_mutation = "announce_epoch") { Relaxed } else { Release };

/// Claim 4: the newest version wins: a worker with an older snapshot gives way under the lock.
pub(crate) const NEWEST_WINS: bool = !cfg!(flowtable_mutation = "newest_wins");

/// Claim 4: a version is stamped onto the very stamp that was judged, or not at all.
pub(crate) const RESTAMP_BY_EXCHANGE: bool = !cfg!(flowtable_mutation = "restamp_by_exchange");

/// Claim 5: a fragment's words are read as a whole.
pub(crate) const RECHECK_FRAGMENT: bool = !cfg!(flowtable_mutation = "recheck_fragment");

/// Claim 5, the writer's end: the odd version is seen before any of the words that follow.
pub(crate) const FENCE_FRAGMENT: bool = !cfg!(flowtable_mutation = "fence_fragment");

/// Claim 6: a free list whose head came back to the same index is another list.
pub(crate) const TAG_HEAD: bool = !cfg!(flowtable_mutation = "tag_head");

/// Claim 6: who takes an index from a free list finds its links written.
pub(crate) const PUSH_HEAD: Ordering =
    if cfg!(flowtable_mutation = "push_head") { Relaxed } else { AcqRel };

/// Claim 7: a key that moves from one of its buckets to the other is not missed by who looks in both.
pub(crate) const RECHECK_MOVED: bool = !cfg!(flowtable_mutation = "recheck_moved");
