//! Finding what a key leads to: one key at once, or a burst of them in stages.
//!
//! ```text
//!            prefetch            prefetch              read
//! hashes ──► first buckets ──► tags match: entries ──► keys are equal: found
//!                          ├─► none does, and no stray has it: a miss, unless keys moved
//!                          └─► none does: second buckets ──► tags match: entries
//!                                                        └─► none does: a miss, unless keys moved
//! ```
//!
//! A burst's cache misses overlap: each stage asks for what the next one reads, for all keys. What
//! is not settled that way, a tag that two keys have or a key that moved meanwhile, is looked up
//! once more by itself.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::Store;
use crate::{
    bucket::{Bucket, NO_ENTRY, slots},
    entry::{EntryIndex, Slabs, Stamp},
    hash::FlowHash,
    key::FlowKey,
    ordering,
    region::prefetch,
    sync::{Acquire, fence},
};

/// Keys that go through the stages together: a burst's. More would not fit the processor's line
/// buffers, of which there are 10 to 48.
pub(crate) const BURST_KEYS_MAX: usize = 64;

/// How often a lookup starts over because a key moved meanwhile. After that it misses, which only
/// costs a slow path.
const PROBES_MAX: u32 = 2;

/// Stands for the entry of a key that is not there. Like [`NO_ENTRY`], which stands for one that
/// must be looked up by itself, it is beyond every slab.
pub(crate) const MISSED: u32 = NO_ENTRY - 1;

/// Stands for the entry of a key whose second bucket must be looked at.
const ELSEWHERE: u32 = NO_ENTRY - 2;

/// What a burst's keys may lead to: numbers of entries.
pub(crate) type Candidates = [u32; BURST_KEYS_MAX];

/// What they are before anything is known.
pub(crate) const NO_CANDIDATES: Candidates = [NO_ENTRY; BURST_KEYS_MAX];

/// An entry that a key led to.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    pub(crate) index: EntryIndex,
    pub(crate) stamp: Stamp,
}

/// What the stages read: kept in registers, where the fields of a [`Store`] would be loaded again
/// after every acquire.
#[derive(Clone, Copy)]
struct Stages<'a> {
    buckets: &'a [Bucket],
    count: u32,
    slabs: Slabs<'a>,
}

impl Store {
    /// Asks for where the lookup of hashes begins.
    #[inline]
    pub(crate) fn prefetch_first_buckets(&self, hashes: &[FlowHash]) {
        let stages = self.stages();
        for hash in hashes {
            prefetch(stages.buckets, hash.first_bucket(stages.count));
        }
    }

    /// Finds out where at most [`BURST_KEYS_MAX`] keys lead: to an entry that is theirs if it has
    /// the same key, to [`MISSED`], or to something else beyond the slabs: then [`Self::probe`]
    /// must tell.
    #[inline]
    pub(crate) fn candidates(&self, hashes: &[FlowHash], candidates: &mut Candidates) {
        let stages = self.stages();
        if stages.look_first(hashes, candidates) {
            stages.look_second(hashes, candidates);
        }
    }

    /// The entry that `key` leads to.
    #[inline]
    pub(crate) fn probe(&self, key: &FlowKey, hash: FlowHash) -> Option<Found> {
        let (first, tag) = (self.buckets.at(hash.first_bucket(self.layout.buckets))?, hash.tag());
        let version = first.version();
        let may_be_there = first.matching(tag) != 0 || first.may_have_stray(tag);
        if may_be_there || has_moved(first, version) { self.probe_both(key, hash) } else { None }
    }

    #[inline(never)]
    fn probe_both(&self, key: &FlowKey, hash: FlowHash) -> Option<Found> {
        // Who found an entry ended finds here what took its place (claim 9).
        fence(Acquire);
        let first = self.buckets.at(hash.first_bucket(self.layout.buckets))?;
        for _ in 0..PROBES_MAX {
            let version = first.version();
            let found = self.probe_locked(key, hash);
            if found.is_some() || !has_moved(first, version) {
                return found;
            }
        }
        None
    }

    /// The entry that `key` leads to. The caller holds the locks of its buckets, so that nothing
    /// moves, or finds out if something did.
    #[inline]
    pub(crate) fn probe_locked(&self, key: &FlowKey, hash: FlowHash) -> Option<Found> {
        let (stages, tag) = (self.stages(), hash.tag());
        let first = stages.bucket(hash.first_bucket(stages.count))?;
        stages.probe_bucket(first, tag, key).or_else(|| {
            if !first.may_have_stray(tag) {
                return None;
            }
            let second = stages.bucket(hash.second_bucket(stages.count))?;
            stages.probe_bucket(second, tag, key)
        })
    }

    #[inline]
    fn stages(&self) -> Stages<'_> {
        Stages {
            buckets: self.buckets.all(),
            count: self.layout.buckets,
            slabs: self.entries.slabs(),
        }
    }
}

impl Stages<'_> {
    /// Looks at the first buckets, and asks for what is read next. Returns whether a key must look
    /// at its second one.
    ///
    /// A function of its own, so that what the loop uses has registers.
    #[inline(never)]
    fn look_first(self, hashes: &[FlowHash], candidates: &mut Candidates) -> bool {
        let mut is_one_elsewhere = false;
        for (&hash, candidate) in hashes.iter().zip(candidates) {
            let Some(bucket) = self.bucket(hash.first_bucket(self.count)) else { continue };
            let version = bucket.version();
            *candidate = if let Some(index) = self.candidate(bucket, hash) {
                index
            } else if !bucket.may_have_stray(hash.tag()) {
                missed(bucket, version)
            } else {
                is_one_elsewhere = true;
                prefetch(self.buckets, hash.second_bucket(self.count));
                ELSEWHERE
            };
        }
        is_one_elsewhere
    }

    /// Looks at the second buckets of keys whose first ones led nowhere, but may have a stray.
    #[inline(never)]
    fn look_second(self, hashes: &[FlowHash], candidates: &mut Candidates) {
        for (&hash, candidate) in hashes.iter().zip(candidates) {
            if *candidate == ELSEWHERE {
                *candidate = self.in_either(hash).unwrap_or(NO_ENTRY);
            }
        }
    }

    /// What a key leads to by its tag, in whichever bucket.
    #[inline]
    fn in_either(self, hash: FlowHash) -> Option<u32> {
        let first = self.bucket(hash.first_bucket(self.count))?;
        let second = self.bucket(hash.second_bucket(self.count))?;
        let version = first.version();
        let found = self.candidate(first, hash).or_else(|| self.candidate(second, hash));
        Some(found.unwrap_or_else(|| missed(first, version)))
    }

    #[inline]
    fn bucket(&self, number: u32) -> Option<&Bucket> {
        self.buckets.get(number as usize)
    }

    /// The entry that the first slot with a hash's tag leads to.
    #[inline]
    fn candidate(&self, bucket: &Bucket, hash: FlowHash) -> Option<u32> {
        let slots = bucket.matching(hash.tag());
        if slots == 0 {
            return None;
        }
        let index = bucket.index(slots.trailing_zeros());
        self.slabs.prefetch(EntryIndex(index));
        Some(index)
    }

    #[inline]
    fn probe_bucket(&self, bucket: &Bucket, tag: u16, key: &FlowKey) -> Option<Found> {
        slots(bucket.matching(tag)).find_map(|slot| {
            let index = EntryIndex(bucket.index(slot));
            Some(Found { index, stamp: self.slabs.stamp_of(index, key)? })
        })
    }
}

/// What a key leads to that was found in neither bucket.
#[inline]
fn missed(first: &Bucket, version: u32) -> u32 {
    if has_moved(first, version) { NO_ENTRY } else { MISSED }
}

/// Whether a key may have moved between a bucket and its other one since the bucket had `version`.
///
/// A key moves only under the locks of both its buckets: if the first stayed as it was, none did
/// (claim 7).
#[inline]
fn has_moved(first: &Bucket, version: u32) -> bool {
    if !ordering::recheck_moved() {
        return false;
    }
    fence(Acquire);
    version & 1 != 0 || first.version() != version
}
