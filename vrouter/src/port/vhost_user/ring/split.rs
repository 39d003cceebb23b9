//! The split ring, device side (VirtIO 1.2 section 2.7).
//!
//! | area | words | who writes |
//! |---|---|---|
//! | descriptors | 16 bytes each | driver |
//! | available | flags, index, entries, `used_event` | driver |
//! | used | flags, index, entries of 8 bytes, `avail_event` | device |

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};

use arrayvec::ArrayVec;

use super::{
    DeviceRing, Heads, RingError, RingFault, RingFeatures, RingFormat, RingPosition, RingSetup,
    chain::{
        Descriptor, Direction, HEADS_MAX, Head, INDIRECT, NEXT, PARTS_MAX, Parts, add_part,
        indirect_count, indirect_words,
    },
    is_event_passed,
};
use crate::port::vhost_user::{
    access::{Words, load_pair},
    inflight::InflightNotes,
    log::RingLog,
    memory::GuestMemory,
};

/// The used ring's flag that says: no kicks, please (VirtIO 1.2 section 2.7.8).
const NO_NOTIFY: u16 = 1;
/// The available ring's flag that says: no calls, please (VirtIO 1.2 section 2.7.6).
const NO_INTERRUPT: u16 = 1;
/// Words of 16 bits before the entries of the available ring.
const LEAD: usize = 2;
/// Bytes before the entries of the used ring, and of one entry.
const USED_LEAD_BYTES: u64 = 4;
const USED_ENTRY_BYTES: u64 = 8;
/// Entries of the used ring in a cache line.
const USED_ENTRIES_A_LINE: usize = 8;

/// A split ring.
#[derive(Debug)]
pub(in crate::port::vhost_user) struct SplitRing {
    descriptors: Words<[AtomicU64; 2]>,
    /// Flags, index, entries, and `used_event` with event indices.
    available: Words<AtomicU16>,
    /// Flags and index.
    used: Words<AtomicU16>,
    used_entries: Words<[AtomicU32; 2]>,
    avail_event: Option<Words<AtomicU16>>,
    size: u16,
    /// Next to look at.
    cursor: u16,
    /// Next to complete, in the available ring and in the used ring.
    next: u16,
    /// Where the used index in memory stands.
    published: u16,
    /// Where the used index stood when the driver was last thought of.
    told: u16,
    inflight: Option<InflightNotes>,
}

impl SplitRing {
    /// The ring at the areas that the setup names.
    pub(super) fn new(setup: &RingSetup) -> Result<Self, RingError> {
        let RingSetup { memory, size, features, .. } = setup;
        let (size, format) = (*size, RingFormat::Split);
        if !size.is_power_of_two() {
            return Err(RingError::Size { format, size });
        }
        let RingPosition::Split(_) = setup.position else {
            return Err(RingError::Position { position: setup.position, format, size });
        };
        let entries = usize::from(size);
        let error = |area, address| move || RingError::Area { area, address };
        let descriptors = memory
            .words(setup.descriptor_area, entries)
            .ok_or_else(error("descriptor table", setup.descriptor_area))?;
        let event_words = usize::from(features.event_index);
        let available = memory
            .words(setup.driver_area, LEAD.saturating_add(entries).saturating_add(event_words))
            .ok_or_else(error("available ring", setup.driver_area))?;
        let used_error = error("used ring", setup.device_area);
        let used_bytes = USED_ENTRY_BYTES.saturating_mul(entries as u64);
        let entries_address = setup.device_area.checked_add(USED_LEAD_BYTES);
        let event_address = entries_address.and_then(|it| it.checked_add(used_bytes));
        let used: Words<AtomicU16> =
            memory.words(setup.device_area, LEAD).ok_or_else(used_error)?;
        let used_entries = entries_address
            .and_then(|address| memory.words(address, entries))
            .ok_or_else(used_error)?;
        let avail_event = match event_address {
            Some(address) if features.event_index => {
                Some(memory.words(address, 1).ok_or_else(used_error)?)
            }
            _ => None,
        };
        // All that was used is published. An engine that died may have gone further than the
        // frontend knows: the ring itself is right.
        let next = u16::from_le(used.at(1).load(Acquire));
        let ring = Self {
            descriptors,
            available,
            used,
            used_entries,
            avail_event,
            size,
            cursor: next,
            next,
            published: next,
            told: next,
            inflight: setup
                .inflight
                .as_ref()
                .and_then(|region| InflightNotes::open(region, format, size)),
        };
        if let Some(notes) = &ring.inflight {
            notes.note_split(next);
        }
        ring.used.at(0).store(NO_NOTIFY.to_le(), Relaxed);
        Ok(ring)
    }

    /// Where the next owner would go on.
    pub(super) fn position(&self) -> RingPosition {
        RingPosition::Split(self.next)
    }

    /// How many chains wait behind the cursor.
    #[inline]
    fn waiting(&self) -> u16 {
        // Acquire: the entries and descriptors up to the index are read after it.
        u16::from_le(self.available.at(1).load(Acquire)).wrapping_sub(self.cursor)
    }

    fn descriptor(&self, index: u16) -> Result<Descriptor, RingFault> {
        if index >= self.size {
            return Err(RingFault::DescriptorIndex { index, size: self.size });
        }
        Ok(Descriptor::from_split(load_pair(self.descriptors.at(usize::from(index)))))
    }

    /// The parts of a chain that lies in an indirect table (VirtIO 1.2 section 2.7.5.3).
    fn indirect_parts<'a>(
        table: Descriptor,
        direction: Direction,
        memory: &'a GuestMemory,
        parts: &mut Parts<'a>,
    ) -> Result<(), RingFault> {
        let count = indirect_count(table.bytes)?;
        let mut index = 0;
        for _ in 0..PARTS_MAX.min(count) {
            if index >= count {
                let index = u16::try_from(index).unwrap_or(u16::MAX);
                let size = u16::try_from(count).unwrap_or(u16::MAX);
                return Err(RingFault::DescriptorIndex { index, size });
            }
            let words = indirect_words(memory, table.address, index)?;
            let descriptor = Descriptor::from_split(words);
            if descriptor.flags & INDIRECT != 0 {
                return Err(RingFault::IndirectMisplaced);
            }
            add_part(memory, direction, descriptor, parts)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = usize::from(descriptor.next);
        }
        Err(RingFault::ChainTooLong { limit: PARTS_MAX.min(count) })
    }

    #[inline]
    fn slot(&self, position: u16) -> usize {
        usize::from(position & self.size.wrapping_sub(1))
    }
}

impl DeviceRing for SplitRing {
    fn has_waiting(&self) -> bool {
        self.waiting() != 0
    }

    #[inline]
    fn peek(&mut self, heads: &mut Heads, heads_max: usize) -> Result<(), RingFault> {
        let waiting = self.waiting();
        if waiting == 0 {
            return Ok(());
        }
        let size = self.size;
        // What the cursor passed and was not completed counts among the entries too.
        let count = waiting.wrapping_add(self.cursor.wrapping_sub(self.next));
        if count > size {
            return Err(RingFault::AvailableIndex { count, size });
        }
        let room = heads.remaining_capacity().min(heads_max).min(usize::from(waiting));
        // Completed chains will be told of there; the driver has read these lines a round ago.
        for ahead in (0..room).step_by(USED_ENTRIES_A_LINE) {
            let position = self.cursor.wrapping_add(u16::try_from(ahead).unwrap_or(0));
            self.used_entries.prefetch_for_write(self.slot(position));
        }
        let mut ids = ArrayVec::<u16, HEADS_MAX>::new();
        let mut result = Ok(());
        for _ in 0..room {
            let entry = self.slot(self.cursor).wrapping_add(LEAD);
            let id = u16::from_le(self.available.at(entry).load(Relaxed));
            if id >= size {
                result = Err(RingFault::DescriptorIndex { index: id, size });
                break;
            }
            self.descriptors.prefetch(usize::from(id));
            ids.push(id);
            self.cursor = self.cursor.wrapping_add(1);
        }
        for id in ids {
            let words = load_pair(self.descriptors.at(usize::from(id)));
            let Descriptor { address, bytes, flags, next } = Descriptor::from_split(words);
            heads.push(Head { address, bytes, flags, next, id, index: 0, slots: 1 });
        }
        result
    }

    fn parts<'a>(
        &self,
        head: &Head,
        direction: Direction,
        features: RingFeatures,
        memory: &'a GuestMemory,
        parts: &mut Parts<'a>,
    ) -> Result<(), RingFault> {
        let Head { address, bytes, flags, next, .. } = *head;
        let mut descriptor = Descriptor { address, bytes, flags, next };
        for _ in 0..PARTS_MAX.min(usize::from(self.size)) {
            if descriptor.flags & INDIRECT != 0 {
                // The last of a chain, which plain ones may precede.
                if !features.indirect || descriptor.flags & NEXT != 0 {
                    return Err(RingFault::IndirectMisplaced);
                }
                return Self::indirect_parts(descriptor, direction, memory, parts);
            }
            add_part(memory, direction, descriptor, parts)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            descriptor = self.descriptor(descriptor.next)?;
        }
        Err(RingFault::ChainTooLong { limit: PARTS_MAX.min(usize::from(self.size)) })
    }

    #[inline]
    fn complete(&mut self, head: &Head, bytes_written: u32, log: Option<&RingLog>) {
        let slot = self.slot(self.next);
        let [id, bytes] = self.used_entries.at(slot);
        id.store(u32::from(head.id).to_le(), Relaxed);
        bytes.store(bytes_written.to_le(), Relaxed);
        if let Some(log) = log {
            let offset = (slot as u64).wrapping_mul(USED_ENTRY_BYTES);
            log.mark_ring(offset.wrapping_add(USED_LEAD_BYTES), USED_ENTRY_BYTES);
        }
        self.next = self.next.wrapping_add(1);
    }

    fn rewind(&mut self) {
        self.cursor = self.next;
    }

    #[inline]
    fn publish(&mut self, log: Option<&RingLog>) {
        if self.published == self.next {
            return;
        }
        self.published = self.next;
        // Release: a driver that sees the index sees the entries, and what was written to buffers.
        self.used.at(1).store(self.next.to_le(), Release);
        if let Some(notes) = &self.inflight {
            notes.note_split(self.next);
        }
        if let Some(log) = log {
            log.mark_ring(0, USED_LEAD_BYTES);
        }
    }

    fn wants_call(&mut self) -> bool {
        let (old, new) = (self.told, self.published);
        if old == new {
            return false;
        }
        self.told = new;
        // The index must be out before the driver's wish is read: it writes the wish first and
        // looks at the index then.
        fence(SeqCst);
        if self.avail_event.is_none() {
            return u16::from_le(self.available.at(0).load(Relaxed)) & NO_INTERRUPT == 0;
        }
        let used_event = self.available.at(usize::from(self.size).wrapping_add(LEAD));
        is_event_passed(u16::from_le(used_event.load(Relaxed)), new, old)
    }

    fn ask_for_kicks(&mut self, wanted: bool) {
        if let Some(avail_event) = &self.avail_event {
            // The driver kicks once as it passes this index, and then no more for a whole round of
            // 65,536 entries.
            if wanted {
                avail_event.at(0).store(self.cursor.to_le(), Relaxed);
            }
        } else {
            let flags = if wanted { 0 } else { NO_NOTIFY };
            self.used.at(0).store(flags.to_le(), Relaxed);
        }
        // Before the driver's index is looked at again.
        fence(SeqCst);
    }
}
