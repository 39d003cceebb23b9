//! Free indices: a lock-free stack for all workers, and each worker's small cache before it.
//!
//! The links lie in the region beside what they link. The head is the index plus one (zero: empty)
//! below a tag that changes with every operation, so that a list whose head came back is told from
//! the same list (claim 6). Indices move in batches: one exchange of the head for up to [`BATCH`].

use crate::{
    key::{high32, low32},
    ordering,
    sync::{Acquire, AtomicU32, AtomicU64, Relaxed},
};

/// Indices that move between a worker's cache and the shared list at once.
pub(crate) const BATCH: usize = if cfg!(loom) { 1 } else { 32 };

/// Indices a worker's cache holds at most: two batches, so that it does not trade at every second
/// index.
const CACHE_MAX: usize = 2 * BATCH;

/// Exchanges of the head that are tried before a worker does without.
const ATTEMPTS_MAX: u32 = if cfg!(loom) { 2 } else { 64 };

/// Finds the link of an index: where the next index of its list is kept.
pub(crate) trait Links {
    /// The link of `index`.
    fn link(&self, index: u32) -> Option<&AtomicU32>;
}

/// A stack of free indices that all workers share.
#[derive(Debug, Default)]
#[repr(align(64))] // A line of its own: its head is the most contended word of the table.
pub(crate) struct FreeList {
    head: AtomicU64,
}

impl FreeList {
    /// Takes up to `wanted.len()` indices; returns how many.
    pub(crate) fn pop(&self, links: &impl Links, wanted: &mut [u32]) -> usize {
        for _ in 0..ATTEMPTS_MAX {
            let head = self.head.load(Acquire);
            let mut next = low32(head);
            let mut count = 0usize;
            for slot in wanted.iter_mut() {
                // The links may change while they are followed; then the head has changed too, and
                // nothing is taken.
                let Some(index) = next.checked_sub(1) else { break };
                let Some(link) = links.link(index) else { break };
                *slot = index;
                count = count.saturating_add(1);
                next = link.load(Relaxed);
            }
            if count == 0 {
                return 0;
            }
            if self
                .head
                .compare_exchange(head, tagged(head, next), ordering::exchange_head(), Relaxed)
                .is_ok()
            {
                return count;
            }
        }
        0
    }

    /// Gives back indices; returns whether it could. Nobody else uses them.
    pub(crate) fn push(&self, links: &impl Links, indices: &[u32]) -> bool {
        let (Some(&first), Some(&last)) = (indices.first(), indices.last()) else { return true };
        for pair in indices.windows(2) {
            if let (&[index, next], Some(link)) = (pair, pair.first().and_then(|&i| links.link(i)))
            {
                debug_assert_ne!(index, next);
                link.store(next.wrapping_add(1), Relaxed);
            }
        }
        let Some(last_link) = links.link(last) else { return false };
        for _ in 0..ATTEMPTS_MAX {
            let head = self.head.load(Relaxed);
            last_link.store(low32(head), Relaxed);
            let next = tagged(head, first.wrapping_add(1));
            if self.head.compare_exchange(head, next, ordering::exchange_head(), Relaxed).is_ok() {
                return true;
            }
        }
        false
    }
}

/// A head with another index and the next tag.
fn tagged(head: u64, index_plus_one: u32) -> u64 {
    let tag = if ordering::tag_head() { high32(head).wrapping_add(1) } else { 0 };
    (u64::from(tag) << 32) | u64::from(index_plus_one)
}

/// One worker's stock of free indices.
#[derive(Debug)]
pub(crate) struct FreeCache {
    indices: [u32; CACHE_MAX],
    len: usize,
}

impl FreeCache {
    pub(crate) fn new() -> Self {
        Self { indices: [0; CACHE_MAX], len: 0 }
    }

    /// Takes one index, from the shared list if need be.
    pub(crate) fn take(&mut self, list: &FreeList, links: &impl Links) -> Option<u32> {
        if self.len == 0 {
            self.len = list.pop(links, self.indices.get_mut(..BATCH)?);
        }
        self.len = self.len.checked_sub(1)?;
        self.indices.get(self.len).copied()
    }

    /// The index that [`Self::take`] gives after `later` others, if it is in stock.
    pub(crate) fn peek(&self, later: usize) -> Option<u32> {
        let position = self.len.checked_sub(later)?.checked_sub(1)?;
        self.indices.get(position).copied()
    }

    /// Gives one index back, and a batch to the shared list if there are too many. Returns whether
    /// there was room.
    pub(crate) fn give(&mut self, list: &FreeList, links: &impl Links, index: u32) -> bool {
        if self.len == CACHE_MAX {
            let Some(batch) = self.indices.get(BATCH..) else { return false };
            if !list.push(links, batch) {
                return false;
            }
            self.len = BATCH;
        }
        let Some(slot) = self.indices.get_mut(self.len) else { return false };
        *slot = index;
        self.len = self.len.saturating_add(1);
        true
    }

    /// Gives all of them back to the shared list.
    pub(crate) fn give_all(&mut self, list: &FreeList, links: &impl Links) {
        if self.indices.get(..self.len).is_some_and(|rest| list.push(links, rest)) {
            self.len = 0;
        }
    }
}
