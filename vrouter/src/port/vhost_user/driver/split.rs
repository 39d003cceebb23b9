//! The split ring, driver side (VirtIO 1.2 section 2.7). Slot `n` is descriptor `n` and entry `n`,
//! for good: to offer the same buffer again is to move the index.

use std::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};

use super::{Areas, RingShape, RingUse};
use crate::port::vhost_user::{access::Words, memory::GuestMemory, ring::is_event_passed};

const WRITE: u64 = 2;
const NO_NOTIFY: u16 = 1;
const NO_INTERRUPT: u16 = 1;

/// A split ring.
#[derive(Debug)]
pub(super) struct SplitDriver {
    descriptors: Words<[AtomicU64; 2]>,
    available: Words<AtomicU16>,
    used: Words<AtomicU16>,
    used_entries: Words<[AtomicU32; 2]>,
    avail_event: Words<AtomicU16>,
    has_event_index: bool,
    is_writable: bool,
    size: u16,
    /// Entries offered, taken back and told of, since ever.
    offered: u16,
    taken: u16,
    told: u16,
}

impl SplitDriver {
    pub(super) fn new(memory: &GuestMemory, areas: &Areas, shape: &RingShape) -> Option<Self> {
        let size = shape.size;
        let entries = usize::from(size);
        let used_end = areas.device() + 4 + 8 * u64::from(size);
        let ring = Self {
            descriptors: memory.words(areas.descriptors(), entries)?,
            available: memory.words(areas.driver(), entries + 3)?,
            used: memory.words(areas.device(), 2)?,
            used_entries: memory.words(areas.device() + 4, entries)?,
            avail_event: memory.words(used_end, 1)?,
            has_event_index: shape.features.event_index,
            is_writable: shape.usage == RingUse::Receive,
            size,
            offered: 0,
            taken: 0,
            told: 0,
        };
        for slot in 0..size {
            ring.available.at(2 + usize::from(slot)).store(slot.to_le(), Relaxed);
        }
        Some(ring)
    }

    pub(super) fn describe(&self, slot: u16, address: u64, bytes: u32) {
        let flags = if self.is_writable { WRITE } else { 0 };
        let [first, second] = self.descriptors.at(usize::from(slot));
        first.store(address.to_le(), Relaxed);
        second.store((u64::from(bytes) | flags << 32).to_le(), Relaxed);
    }

    #[inline]
    pub(super) fn room(&self) -> u16 {
        self.size - self.offered.wrapping_sub(self.taken)
    }

    /// The slot that is offered next.
    #[inline]
    pub(super) fn next_slot(&self) -> u16 {
        self.offered & (self.size - 1)
    }

    #[inline]
    pub(super) fn offer(&mut self, count: u16) -> u16 {
        let count = count.min(self.room());
        if count > 0 {
            self.offered = self.offered.wrapping_add(count);
            // Release: the device sees descriptors and buffers as they are now.
            self.available.at(1).store(self.offered.to_le(), Release);
        }
        count
    }

    #[inline]
    pub(super) fn take_used(&mut self, count_max: u16, mut see: impl FnMut(u16, u32)) -> u16 {
        let count = self.used_count(count_max);
        for _ in 0..count {
            let entry = usize::from(self.taken & (self.size - 1));
            let [id, bytes] = self.used_entries.at(entry);
            let id = u32::from_le(id.load(Relaxed));
            see(u16::try_from(id).unwrap_or(0), u32::from_le(bytes.load(Relaxed)));
            self.taken = self.taken.wrapping_add(1);
        }
        self.renew_wish(count);
        count
    }

    #[inline]
    fn used_count(&self, count_max: u16) -> u16 {
        let used = u16::from_le(self.used.at(1).load(Acquire));
        let out = self.offered.wrapping_sub(self.taken);
        used.wrapping_sub(self.taken).min(out).min(count_max)
    }

    /// A wish for a call at an index is over once the index was passed.
    #[inline]
    fn renew_wish(&self, count: u16) {
        if count > 0
            && self.has_event_index
            && u16::from_le(self.available.at(0).load(Relaxed)) == 0
        {
            self.ask_at_next();
        }
    }

    pub(super) fn wants_kick(&mut self) -> bool {
        let (old, new) = (self.told, self.offered);
        self.told = new;
        if old == new {
            return false;
        }
        // The index is out before the device's wish is read.
        fence(SeqCst);
        if self.has_event_index {
            is_event_passed(u16::from_le(self.avail_event.at(0).load(Relaxed)), new, old)
        } else {
            u16::from_le(self.used.at(0).load(Relaxed)) & NO_NOTIFY == 0
        }
    }

    pub(super) fn ask_for_calls(&mut self, wanted: bool) {
        // With event indices the flag is for ourselves: the device does not look at it.
        let flags = if wanted { 0 } else { NO_INTERRUPT };
        self.available.at(0).store(flags.to_le(), Relaxed);
        if wanted && self.has_event_index {
            self.ask_at_next();
        }
        fence(SeqCst);
    }

    /// Asks for a call at the next entry that is used.
    fn ask_at_next(&self) {
        let used_event = self.available.at(2 + usize::from(self.size));
        used_event.store(self.taken.to_le(), Relaxed);
        fence(SeqCst);
    }
}
