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
//! Behind it, from 16 or 32 on, are the descriptors' states.

use std::sync::{
    Arc,
    atomic::{
        AtomicU8, AtomicU16,
        Ordering::{Relaxed, Release},
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
const PACKED_USED_WORD: usize = 8;
const PACKED_OLD_USED_WORD: usize = 9;
/// Bytes, by their place.
const PACKED_WRAP_BYTE: usize = 20;
const PACKED_OLD_WRAP_BYTE: usize = 21;
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
    bytes: Words<AtomicU8>,
    /// What was there when the ring was made: a predecessor's notes.
    is_new: bool,
}

impl InflightNotes {
    /// The notes of a ring of `size` entries, made if there are none; `None` if the region has no
    /// room for them.
    pub(super) fn open(region: &InflightRegion, format: RingFormat, size: u16) -> Option<Self> {
        let InflightRegion { mapped, offset } = region;
        let words = Words::<AtomicU16>::new(mapped, *offset, LEAD_BYTES / 2)?;
        let bytes = Words::<AtomicU8>::new(mapped, *offset, LEAD_BYTES)?;
        let is_known = |place, value: u16| u16::from_le(words.at(place).load(Relaxed)) == value;
        let is_new = !is_known(VERSION_WORD, VERSION) || !is_known(ENTRIES_WORD, size);
        let notes = Self { words, bytes, is_new };
        if is_new {
            notes.words.at(ENTRIES_WORD).store(size.to_le(), Relaxed);
            if format == RingFormat::Packed {
                let start = PackedIndex { index: 0, wrap: true };
                notes.begin_packed(start);
                notes.end_packed(start);
            }
            notes.words.at(VERSION_WORD).store(VERSION.to_le(), Release);
        }
        Some(notes)
    }

    /// Notes where a split ring's used index stands.
    pub(super) fn note_split(&self, used: u16) {
        self.words.at(SPLIT_USED_WORD).store(used.to_le(), Release);
    }

    /// Notes where a packed ring will stand once what was completed is published.
    pub(super) fn begin_packed(&self, next: PackedIndex) {
        self.words.at(PACKED_USED_WORD).store(next.index.to_le(), Relaxed);
        self.bytes.at(PACKED_WRAP_BYTE).store(next.wrap.into(), Release);
    }

    /// Notes that it is published.
    pub(super) fn end_packed(&self, next: PackedIndex) {
        self.words.at(PACKED_OLD_USED_WORD).store(next.index.to_le(), Release);
        self.bytes.at(PACKED_OLD_WRAP_BYTE).store(next.wrap.into(), Release);
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
        let index = |word| u16::from_le(self.words.at(word).load(Relaxed));
        let wrap = |byte| self.bytes.at(byte).load(Relaxed) != 0;
        let next = PackedIndex { index: index(PACKED_USED_WORD), wrap: wrap(PACKED_WRAP_BYTE) };
        let old =
            PackedIndex { index: index(PACKED_OLD_USED_WORD), wrap: wrap(PACKED_OLD_WRAP_BYTE) };
        if next.index >= size || old.index >= size {
            return None;
        }
        Some(if next == old || is_published(old) { next } else { old })
    }
}
