//! Buffers under way, noted in memory that outlives the engine
//! (`VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD`).
//!
//! The frontend keeps the region over a restart of the engine and gives it back. Since chains are
//! completed in order and within the burst that took them, no single one is ever noted as under
//! way: what a successor needs is the position up to which they were published. Of a split ring the
//! used ring has it too; of a packed one only this region does for certain.
//!
//! | offset | split | packed |
//! |---|---|---|
//! | 0 | features, not used yet | the same |
//! | 8 | version: 1 | the same |
//! | 10 | entries | the same |
//! | 12 | head of the last batch | free head, and the one before the last batch |
//! | 14, 16 | used index | used index, and the one before the last batch |
//! | 20 | | used wrap counter, and the one before the last batch |
//!
//! Behind it, from 16 or 32 on, are the descriptors' states: none is ever set.
//!
//! An engine may die between any two writes. So what a packed ring notes is one word, written at
//! once: the four fields from 16 on.

use std::sync::{
    Arc,
    atomic::{
        AtomicU16, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use super::{
    access::Words,
    mapping::MappedRegion,
    ring::{PackedIndex, RingFormat},
};

/// The only version of the layout.
const VERSION: u16 = 1;
/// Words of 16 bits, by their place.
const VERSION_WORD: usize = 4;
const ENTRIES_WORD: usize = 5;
const SPLIT_USED_WORD: usize = 7;
/// The word of 64 bits, by its place.
const PACKED_WORD: usize = 2;
/// Bytes before the descriptors' states that are looked at.
const LEAD_BYTES: usize = 24;

/// One queue's part of the inflight region.
#[derive(Clone, Debug)]
pub struct InflightRegion {
    /// The region.
    pub mapped: Arc<MappedRegion>,
    /// Where the queue's part starts in it.
    pub offset: usize,
}

/// The positions that one ring notes.
#[derive(Debug)]
pub(super) struct InflightNotes {
    words: Words<AtomicU16>,
    packed: Words<AtomicU64>,
    /// What was there when the ring was made: a predecessor's notes.
    is_new: bool,
}

/// What a packed ring notes: where it will stand, and where it stood before its last batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct PackedNote {
    next: PackedIndex,
    old: PackedIndex,
}

impl PackedNote {
    fn to_word(self) -> u64 {
        let Self { next, old } = self;
        let [n0, n1] = next.index.to_le_bytes();
        let [o0, o1] = old.index.to_le_bytes();
        u64::from_ne_bytes([n0, n1, o0, o1, next.wrap.into(), old.wrap.into(), 0, 0])
    }

    fn from_word(word: u64) -> Self {
        let [n0, n1, o0, o1, next_wrap, old_wrap, ..] = word.to_ne_bytes();
        let index = |bytes, wrap| PackedIndex { index: u16::from_le_bytes(bytes), wrap: wrap != 0 };
        Self { next: index([n0, n1], next_wrap), old: index([o0, o1], old_wrap) }
    }
}

impl InflightNotes {
    /// The notes of a ring of `size` entries, made if there are none; `None` if the region has no
    /// room for them, or is not aligned.
    pub(super) fn open(region: &InflightRegion, format: RingFormat, size: u16) -> Option<Self> {
        let InflightRegion { mapped, offset } = region;
        let words = Words::<AtomicU16>::new(mapped, *offset, LEAD_BYTES / 2)?;
        let packed = Words::<AtomicU64>::new(mapped, *offset, LEAD_BYTES / 8)?;
        let is_known = |place, value: u16| u16::from_le(words.at(place).load(Relaxed)) == value;
        let is_new = !is_known(VERSION_WORD, VERSION) || !is_known(ENTRIES_WORD, size);
        let notes = Self { words, packed, is_new };
        if is_new {
            notes.words.at(ENTRIES_WORD).store(size.to_le(), Relaxed);
            if format == RingFormat::Packed {
                notes.settle_packed(PackedIndex { index: 0, wrap: true });
            }
            notes.words.at(VERSION_WORD).store(VERSION.to_le(), Release);
        }
        Some(notes)
    }

    /// Notes where a split ring's used index stands.
    pub(super) fn note_split(&self, used: u16) {
        self.words.at(SPLIT_USED_WORD).store(used.to_le(), Release);
    }

    /// Notes where a packed ring will stand once what was completed from `old` on is published.
    pub(super) fn begin_packed(&self, old: PackedIndex, next: PackedIndex) {
        self.packed.at(PACKED_WORD).store(PackedNote { next, old }.to_word(), Release);
    }

    /// Notes that a packed ring stands here, and all before is published.
    pub(super) fn settle_packed(&self, next: PackedIndex) {
        self.begin_packed(next, next);
    }

    /// Where a predecessor left off in a packed ring; `None` if there was none. It may have died
    /// between noting and publishing: `is_published` tells of the first descriptor of its last
    /// batch whether the driver has it back.
    pub(super) fn resume_packed(
        &self,
        size: u16,
        is_published: impl FnOnce(PackedIndex) -> bool,
    ) -> Option<PackedIndex> {
        if self.is_new {
            return None;
        }
        let word = self.packed.at(PACKED_WORD).load(Acquire);
        let PackedNote { next, old } = PackedNote::from_word(word);
        if next.index >= size || old.index >= size {
            return None;
        }
        Some(if next == old || is_published(old) { next } else { old })
    }
}
