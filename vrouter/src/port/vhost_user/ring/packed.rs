//! The packed ring, device side (VirtIO 1.2 section 2.8).
//!
//! | area | words | who writes |
//! |---|---|---|
//! | descriptors | address; bytes, id, flags | both: who may, the flags say |
//! | driver event suppression | where to call, flags | driver |
//! | device event suppression | where to kick, flags | device |

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod recovery;

use std::sync::atomic::{
    AtomicU16, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};

use super::{
    DeviceRing, Heads, PackedIndex, RING_ENTRIES_MAX, RingError, RingFault, RingFeatures,
    RingFormat, RingPosition, RingSetup,
    chain::{
        DESCRIPTOR_BYTES, Descriptor, Direction, Head, INDIRECT, NEXT, PARTS_MAX, Parts, WRITE,
        add_part, indirect_count, indirect_words,
    },
    is_event_passed,
};
use crate::port::vhost_user::{
    access::{PackedTail as Tail, Words},
    inflight::InflightNotes,
    log::RingLog,
    memory::GuestMemory,
};

/// Descriptor flags that say whose turn it is (VirtIO 1.2 section 2.8.1).
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
/// Flags of our own in a descriptor that is ours still, for a successor ([`recovery`]): the chain
/// is done, and not shown yet; the chain's other descriptors are being marked. Bits that the
/// standard leaves free, in a word that the driver does not look at before it is used.
const DONE: u16 = 1 << 3;
const BEGUN: u16 = 1 << 4;
/// Event suppression flags (VirtIO 1.2 section 2.8.10).
const EVENTS_ENABLED: u16 = 0;
const EVENTS_DISABLED: u16 = 1;
const EVENTS_AT_DESCRIPTOR: u16 = 2;
/// The wrap counter beside a descriptor's offset.
const WRAP: u16 = 1 << 15;
/// Descriptors in a cache line, which areas begin at in practice.
const DESCRIPTORS_A_LINE: u16 = 4;
/// The words of an event suppression area: offset and wrap counter, flags.
const EVENT_WORDS: usize = 2;

/// A [`PackedIndex`] in one word, as in event suppression areas. Written and read for each packet:
/// as two fields it is written in two pieces, and read in one before they have arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place(u16);

impl Place {
    #[inline]
    const fn index(self) -> u16 {
        self.0 & !WRAP
    }

    #[inline]
    const fn wrap(self) -> bool {
        self.0 & WRAP != 0
    }

    const fn to_index(self) -> PackedIndex {
        PackedIndex { index: self.index(), wrap: self.wrap() }
    }

    const fn of(PackedIndex { index, wrap }: PackedIndex) -> Self {
        Self(index | if wrap { WRAP } else { 0 })
    }
}

/// A packed ring.
#[derive(Debug)]
pub(in crate::port::vhost_user) struct PackedRing {
    /// Address; bytes, id and flags.
    descriptors: Words<[AtomicU64; 2]>,
    driver_events: Words<AtomicU16>,
    device_events: Words<AtomicU16>,
    has_event_index: bool,
    size: u16,
    /// Next to look at.
    cursor: Place,
    /// Next to complete.
    next: Place,
    /// The oldest completed descriptor, whose word is held back: as long as it is, the driver sees
    /// none of those behind it.
    held_back: Option<(Place, u64)>,
    /// Descriptors that waited when some last did.
    expected: usize,
    /// Where `next` stood when the driver was last thought of.
    told: u16,
    /// Descriptors completed since.
    untold_slots: u16,
    inflight: Option<InflightNotes>,
}

impl PackedRing {
    /// The ring at the areas that the setup names.
    pub(super) fn new(setup: &RingSetup) -> Result<Self, RingError> {
        let RingSetup { memory, size, position, features, .. } = setup;
        let (size, position, format) = (*size, *position, RingFormat::Packed);
        if size == 0 || size > RING_ENTRIES_MAX {
            return Err(RingError::Size { format, size });
        }
        let next = match position {
            RingPosition::Packed(next) if next.index < size => next,
            _ => return Err(RingError::Position { position, format, size }),
        };
        let error = |area, address| move || RingError::Area { area, address };
        let mut ring = Self {
            descriptors: memory
                .words(setup.descriptor_area, usize::from(size))
                .ok_or_else(error("descriptor ring", setup.descriptor_area))?,
            driver_events: memory
                .words(setup.driver_area, EVENT_WORDS)
                .ok_or_else(error("driver event suppression", setup.driver_area))?,
            device_events: memory
                .words(setup.device_area, EVENT_WORDS)
                .ok_or_else(error("device event suppression", setup.device_area))?,
            has_event_index: features.event_index,
            size,
            cursor: Place::of(next),
            next: Place::of(next),
            held_back: None,
            expected: 0,
            told: next.index,
            untold_slots: 0,
            inflight: setup
                .inflight
                .as_ref()
                .and_then(|region| InflightNotes::open(region, format, size)),
        };
        if !setup.is_resumed {
            ring.resume(next);
        }
        if let Some(notes) = &ring.inflight {
            notes.settle_packed(ring.next.to_index());
        }
        ring.device_events.at(1).store(EVENTS_DISABLED.to_le(), Relaxed);
        Ok(ring)
    }

    /// Where the next owner would go on.
    pub(super) fn position(&self) -> RingPosition {
        RingPosition::Packed(self.next.to_index())
    }

    /// Goes on where an engine before this one left off, which the frontend need not know.
    #[cold]
    fn resume(&mut self, start: PackedIndex) {
        let flags = |index| self.tail(index).flags;
        let is_used = |place: PackedIndex| recovery::is_used(place, flags(place.index));
        let was_used = |place: PackedIndex| recovery::was_used(place, flags(place.index));
        let noted = self.inflight.as_ref().and_then(|it| it.resume_packed(self.size, was_used));
        let mut next = match noted {
            // Whatever was noted was about another ring.
            _ if recovery::is_fresh(self.size, flags) => start,
            Some(noted) => noted,
            None if start == (PackedIndex { index: 0, wrap: true }) => {
                recovery::find(self.size, flags)
            }
            None => start,
        };
        // It may have died before it could show its last burst.
        for _ in 0..self.size {
            let tail = self.tail(next.index);
            if recovery::is_done(next, tail.flags) {
                let is_written = tail.flags & WRITE != 0 && tail.bytes > 0;
                let flags = used_flags(next.wrap) | if is_written { WRITE } else { 0 };
                self.store(next.index, Tail { flags, ..tail });
            } else if !is_used(next) {
                break;
            }
            next = self.advance(Place::of(next), 1).to_index();
        }
        (self.next, self.cursor, self.told) = (Place::of(next), Place::of(next), next.index);
    }

    /// `slots` behind `from`; at most a round.
    #[inline]
    fn advance(&self, from: Place, slots: u16) -> Place {
        let index = from.index().wrapping_add(slots);
        if index < self.size {
            Place(index | from.0 & WRAP)
        } else {
            Place(index.wrapping_sub(self.size) | from.0 & WRAP ^ WRAP)
        }
    }

    /// Asks for the lines of descriptors that probably wait behind `first`, to be read and soon
    /// written: in one go, where reading first would move each line twice. Lines that the driver is
    /// about to write are left to it, as far as the last time tells.
    #[inline]
    fn prefetch_behind(&self, first: Place, count: usize) {
        let count = u16::try_from(count).unwrap_or(u16::MAX).min(self.size);
        for slots in (DESCRIPTORS_A_LINE..count).step_by(usize::from(DESCRIPTORS_A_LINE)) {
            let place = self.advance(first, slots);
            self.descriptors.prefetch_for_write(usize::from(place.index()));
        }
    }

    #[inline]
    fn tail(&self, index: u16) -> Tail {
        let [_, tail] = self.descriptors.at(usize::from(index));
        // Acquire: what the flags allow to be read is read after them.
        Tail::from_word(u64::from_le(tail.load(Acquire)))
    }

    #[inline]
    fn address(&self, index: u16) -> u64 {
        let [address, _] = self.descriptors.at(usize::from(index));
        u64::from_le(address.load(Relaxed))
    }

    #[inline]
    fn store(&self, index: u16, tail: Tail) {
        let [_, word] = self.descriptors.at(usize::from(index));
        // Release: whoever sees the flags sees what was written before, a successor too.
        word.store(tail.to_word().to_le(), Release);
    }

    /// Shows the round in those descriptors of a chain that the driver passes over, so that each
    /// descriptor shows it: a successor finds its place by that ([`recovery`]). All else stays, for
    /// one that has to do the chain again.
    #[cold]
    #[inline(never)]
    fn mark_rest(&self, head: &Head) {
        let first = self.tail(head.index);
        self.store(head.index, Tail { flags: head.flags | BEGUN, ..first });
        for slot in 1..head.slots {
            let place = self.advance(self.next, slot);
            let tail = self.tail(place.index());
            let flags = tail.flags & !(AVAIL | USED) | used_flags(place.wrap());
            self.store(place.index(), Tail { flags, ..tail });
        }
    }

    /// Finds the end of a chain of several descriptors: the last one has the id.
    #[cold]
    #[inline(never)]
    fn measure(&self, first: Place, head: &mut Head) -> Result<(), RingFault> {
        let limit = PARTS_MAX.min(usize::from(self.size));
        for slots in 2..=limit {
            head.slots = u16::try_from(slots).unwrap_or(u16::MAX);
            let last = self.advance(first, head.slots.wrapping_sub(1));
            let tail = self.tail(last.index());
            if tail.flags & NEXT == 0 {
                head.id = tail.id;
                return Ok(());
            }
        }
        Err(RingFault::ChainTooLong { limit })
    }

    /// The parts of a chain that lies in an indirect table (VirtIO 1.2 section 2.8.8).
    fn indirect_parts<'a>(
        head: &Head,
        direction: Direction,
        memory: &'a GuestMemory,
        parts: &mut Parts<'a>,
    ) -> Result<(), RingFault> {
        let count = indirect_count(head.bytes)?;
        if count > PARTS_MAX {
            return Err(RingFault::ChainTooLong { limit: PARTS_MAX });
        }
        for index in 0..count {
            let [address, word] = indirect_words(memory, head.address, index)?;
            // The words of a packed descriptor: bytes, id, flags.
            let [b0, b1, b2, b3, _, _, f0, f1] = word.to_le_bytes();
            let bytes = u32::from_le_bytes([b0, b1, b2, b3]);
            let flags = u16::from_le_bytes([f0, f1]);
            if flags & INDIRECT != 0 {
                return Err(RingFault::IndirectMisplaced);
            }
            add_part(memory, direction, Descriptor { address, bytes, flags, next: 0 }, parts)?;
        }
        Ok(())
    }
}

impl DeviceRing for PackedRing {
    fn has_waiting(&self) -> bool {
        let (index, wrap) = (self.cursor.index(), self.cursor.wrap());
        let flags = self.tail(index).flags;
        (flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap
    }

    #[inline]
    fn peek(&mut self, heads: &mut Heads, heads_max: usize) -> Result<(), RingFault> {
        let mut cursor = self.cursor;
        let mut result = Ok(());
        let room = heads.remaining_capacity().min(heads_max);
        let before = heads.len();
        for _ in 0..room {
            let (index, wrap) = (cursor.index(), cursor.wrap());
            let Tail { bytes, id, flags } = self.tail(index);
            if flags & (AVAIL | USED) != if wrap { AVAIL } else { USED } {
                break;
            }
            if heads.len() == before {
                self.prefetch_behind(cursor, self.expected.min(room));
            }
            let address = self.address(index);
            let mut head = Head { address, bytes, flags, next: 0, id, index, slots: 1 };
            if flags & NEXT != 0 {
                result = self.measure(cursor, &mut head);
                if result.is_err() {
                    break;
                }
            }
            cursor = self.advance(cursor, head.slots);
            heads.push(head);
        }
        self.cursor = cursor;
        let found = heads.len().wrapping_sub(before);
        if found > 0 {
            self.expected = found;
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
        let Head { address, bytes, flags, .. } = *head;
        if flags & INDIRECT != 0 {
            if !features.indirect || head.slots > 1 {
                return Err(RingFault::IndirectMisplaced);
            }
            return Self::indirect_parts(head, direction, memory, parts);
        }
        add_part(memory, direction, Descriptor { address, bytes, flags, next: 0 }, parts)?;
        let first = Place(head.index);
        for slot in 1..head.slots {
            let index = self.advance(first, slot).index();
            let Tail { bytes, flags, .. } = self.tail(index);
            if flags & INDIRECT != 0 {
                return Err(RingFault::IndirectMisplaced);
            }
            let address = self.address(index);
            add_part(memory, direction, Descriptor { address, bytes, flags, next: 0 }, parts)?;
        }
        Ok(())
    }

    #[inline]
    fn complete(&mut self, head: &Head, bytes_written: u32, log: Option<&RingLog>) {
        let (index, wrap) = (self.next.index(), self.next.wrap());
        let flags = used_flags(wrap) | if bytes_written > 0 { WRITE } else { 0 };
        let tail = Tail { bytes: bytes_written, id: head.id, flags };
        if head.slots > 1 {
            self.mark_rest(head);
        }
        if self.held_back.is_none() {
            self.held_back = Some((self.next, tail.to_word()));
            self.store(index, Tail { flags: head.flags | DONE, ..tail });
        } else {
            self.store(index, tail);
        }
        if let Some(log) = log {
            for slot in 0..head.slots {
                log_descriptor(log, self.advance(self.next, slot).index());
            }
        }
        self.next = self.advance(self.next, head.slots);
        self.untold_slots = self.untold_slots.saturating_add(head.slots);
    }

    fn rewind(&mut self) {
        self.cursor = self.next;
    }

    #[inline]
    fn publish(&mut self, log: Option<&RingLog>) {
        if let Some((first, word)) = self.held_back.take() {
            let index = first.index();
            if let Some(notes) = &self.inflight {
                notes.begin_packed(first.to_index(), self.next.to_index());
            }
            // A driver that sees these flags sees all that was completed behind them.
            self.store(index, Tail::from_word(word));
            if let Some(log) = log {
                // Once more: the frontend may have taken the page between the two writes.
                log_descriptor(log, index);
            }
            if let Some(notes) = &self.inflight {
                notes.settle_packed(self.next.to_index());
            }
        }
    }

    fn wants_call(&mut self) -> bool {
        if self.untold_slots == 0 {
            return false;
        }
        let slots = std::mem::take(&mut self.untold_slots);
        let (old, new) = (self.told, self.next.index());
        self.told = new;
        // As for a split ring.
        fence(SeqCst);
        let flags = u16::from_le(self.driver_events.at(1).load(Relaxed));
        if flags != EVENTS_AT_DESCRIPTOR || !self.has_event_index {
            return flags != EVENTS_DISABLED;
        }
        let event = u16::from_le(self.driver_events.at(0).load(Relaxed));
        // Positions of the last round are counted from below zero.
        let is_this_round = (event & WRAP != 0) == self.next.wrap();
        let event = event & !WRAP;
        let event = if is_this_round { event } else { event.wrapping_sub(self.size) };
        let old = if new <= old { old.wrapping_sub(self.size) } else { old };
        slots >= self.size || is_event_passed(event, new, old)
    }

    fn ask_for_kicks(&mut self, wanted: bool) {
        let flags = if wanted { EVENTS_ENABLED } else { EVENTS_DISABLED };
        self.device_events.at(1).store(flags.to_le(), Relaxed);
        // Before the driver's flags are looked at again.
        fence(SeqCst);
    }
}

/// The flags of a descriptor that was used in a round.
const fn used_flags(wrap: bool) -> u16 {
    if wrap { AVAIL | USED } else { 0 }
}

fn log_descriptor(log: &RingLog, index: u16) {
    let offset = u64::from(index).wrapping_mul(DESCRIPTOR_BYTES as u64);
    log.mark_ring(offset, DESCRIPTOR_BYTES as u64);
}
