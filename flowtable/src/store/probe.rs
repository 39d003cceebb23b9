//! Finding what a key leads to: one key at once, or a burst of them in stages.
//!
//! ```text
//!            prefetch            prefetch              read
//! hashes ──► first buckets ──► tags match: entries ──► keys are equal: found
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
    entry::{EntryIndex, EntryView, Stamp},
    hash::FlowHash,
    key::FlowKey,
    ordering,
    sync::{Acquire, fence},
};

/// Keys that go through the stages together: a burst's. More would not fit the processor's line
/// buffers, of which there are 10 to 48.
pub(crate) const BURST_KEYS_MAX: usize = 64;

/// How often a lookup starts over because a key moved meanwhile. After that it misses, which only
/// costs a slow path.
const PROBES_MAX: u32 = 2;

/// An entry that a key led to.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) index: EntryIndex,
    pub(crate) entry: EntryView<'a>,
    pub(crate) stamp: Stamp,
}

/// How far the lookup of a key has come.
#[derive(Clone, Copy)]
enum Stage {
    /// Its tag leads to this entry.
    Candidate(EntryIndex),
    /// The first bucket has no such tag, under this version.
    Second(u32),
    /// Neither bucket has, and no key moved.
    Missed,
    /// Something changed: it begins again.
    Again,
}

/// A burst of keys on its way through the stages.
pub(crate) struct Burst<'a> {
    keys: &'a [FlowKey],
    hashes: &'a [FlowHash],
    stages: [Stage; BURST_KEYS_MAX],
}

impl<'a> Burst<'a> {
    /// Begins with as many keys as there are hashes, at most [`BURST_KEYS_MAX`].
    #[inline]
    pub(crate) fn new(keys: &'a [FlowKey], hashes: &'a [FlowHash]) -> Self {
        Self { keys, hashes, stages: [Stage::Again; BURST_KEYS_MAX] }
    }
}

impl Store {
    /// Looks up a burst; tells what each key leads to, in order.
    #[inline]
    pub(crate) fn probe_burst<'s>(
        &'s self,
        mut burst: Burst<'_>,
        mut found: impl FnMut(Option<Found<'s>>),
    ) {
        let Burst { keys, hashes, stages } = &mut burst;
        for hash in *hashes {
            self.buckets.prefetch(hash.first_bucket(self.layout.buckets));
        }
        for (stage, &hash) in stages.iter_mut().zip(*hashes) {
            *stage = self.look_first(hash);
        }
        for (stage, &hash) in stages.iter_mut().zip(*hashes) {
            if let Stage::Second(version) = *stage {
                *stage = self.look_second(hash, version);
            }
        }
        for ((stage, key), &hash) in stages.iter().zip(*keys).zip(*hashes) {
            let direct = match *stage {
                Stage::Candidate(index) => self.verify(index, key),
                Stage::Missed => {
                    found(None);
                    continue;
                }
                Stage::Second(_) | Stage::Again => None,
            };
            found(direct.or_else(|| self.probe(key, hash)));
        }
    }

    /// Looks at a key's first bucket, and asks for what is read next.
    #[inline]
    fn look_first(&self, hash: FlowHash) -> Stage {
        let Some(bucket) = self.buckets.at(hash.first_bucket(self.layout.buckets)) else {
            return Stage::Again;
        };
        let version = bucket.version();
        self.candidate(bucket, hash).unwrap_or_else(|| {
            self.buckets.prefetch(hash.second_bucket(self.layout.buckets));
            Stage::Second(version)
        })
    }

    /// Looks at a key's second bucket, after the first one led nowhere under `version`.
    #[inline]
    fn look_second(&self, hash: FlowHash, version: u32) -> Stage {
        let (Some(first), Some(second)) = (
            self.buckets.at(hash.first_bucket(self.layout.buckets)),
            self.buckets.at(hash.second_bucket(self.layout.buckets)),
        ) else {
            return Stage::Again;
        };
        self.candidate(second, hash)
            .unwrap_or_else(|| if has_moved(first, version) { Stage::Again } else { Stage::Missed })
    }

    /// The entry that the first slot with a hash's tag leads to.
    #[inline]
    fn candidate(&self, bucket: &Bucket, hash: FlowHash) -> Option<Stage> {
        let slot = slots(bucket.matching(hash.tag())).next()?;
        let index = EntryIndex(bucket.index(slot));
        self.entries.prefetch(index);
        Some(Stage::Candidate(index))
    }

    /// The entry at `index`, if it is that of `key`.
    #[inline]
    fn verify(&self, index: EntryIndex, key: &FlowKey) -> Option<Found<'_>> {
        let entry = self.entries.of_key(index, key)?;
        Some(Found { index, entry, stamp: entry.stamp() })
    }

    /// The entry that `key` leads to.
    pub(crate) fn probe(&self, key: &FlowKey, hash: FlowHash) -> Option<Found<'_>> {
        let first = self.buckets.at(hash.first_bucket(self.layout.buckets))?;
        let second = self.buckets.at(hash.second_bucket(self.layout.buckets))?;
        for _ in 0..PROBES_MAX {
            let version = first.version();
            let found = self
                .probe_bucket(first, hash.tag(), key)
                .or_else(|| self.probe_bucket(second, hash.tag(), key));
            if found.is_some() || !has_moved(first, version) {
                return found;
            }
        }
        None
    }

    fn probe_bucket(&self, bucket: &Bucket, tag: u16, key: &FlowKey) -> Option<Found<'_>> {
        slots(bucket.matching(tag)).find_map(|slot| {
            let index = bucket.index(slot);
            (index != NO_ENTRY).then(|| self.verify(EntryIndex(index), key)).flatten()
        })
    }
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
