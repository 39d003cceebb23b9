//! The packed ring, driver side (VirtIO 1.2 section 2.8). Slot `n` is descriptor `n`, for good.

use std::sync::atomic::{
    AtomicU16, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
    fence,
};

use super::{Areas, RingShape, RingUse};
use crate::port::vhost_user::{
    access::{PackedTail, Words},
    memory::GuestMemory,
};

const WRITE: u16 = 2;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const EVENTS_ENABLED: u16 = 0;
const EVENTS_DISABLED: u16 = 1;

/// A packed ring.
#[derive(Debug)]
pub(super) struct PackedDriver {
    descriptors: Words<[AtomicU64; 2]>,
    driver_events: Words<AtomicU16>,
    device_events: Words<AtomicU16>,
    write_flag: u16,
    size: u16,
    /// Next to offer, and next to take back.
    next: u16,
    next_wrap: bool,
    taken: u16,
    taken_wrap: bool,
    out: u16,
    is_untold: bool,
}

impl PackedDriver {
    pub(super) fn new(memory: &GuestMemory, areas: &Areas, shape: &RingShape) -> Option<Self> {
        Some(Self {
            descriptors: memory.words(areas.descriptors(), usize::from(shape.size))?,
            driver_events: memory.words(areas.driver(), 2)?,
            device_events: memory.words(areas.device(), 2)?,
            write_flag: if shape.usage == RingUse::Receive { WRITE } else { 0 },
            size: shape.size,
            next: 0,
            next_wrap: true,
            taken: 0,
            taken_wrap: true,
            out: 0,
            is_untold: false,
        })
    }

    #[inline]
    pub(super) fn room(&self) -> u16 {
        self.size - self.out
    }

    /// Offers the next slots, each with the address and the bytes that `buffer` gives it.
    #[inline]
    pub(super) fn offer(&mut self, count: u16, mut buffer: impl FnMut(u16) -> (u64, u32)) -> u16 {
        let count = count.min(self.room());
        let mut first = None;
        for _ in 0..count {
            let words = self.descriptors.at(usize::from(self.next));
            let (address, bytes) = buffer(self.next);
            words[0].store(address.to_le(), Relaxed);
            let turn = if self.next_wrap { AVAIL } else { USED };
            let tail = PackedTail { bytes, id: self.next, flags: turn | self.write_flag };
            // The first one's flags come last: the device sees all or none.
            if first.is_none() {
                first = Some((words, tail));
            } else {
                words[1].store(tail.to_word().to_le(), Relaxed);
            }
            self.next += 1;
            if self.next == self.size {
                (self.next, self.next_wrap) = (0, !self.next_wrap);
            }
        }
        if let Some((words, tail)) = first {
            words[1].store(tail.to_word().to_le(), Release);
            self.out += count;
            self.is_untold = true;
        }
        count
    }

    #[inline]
    pub(super) fn take_used(&mut self, count_max: u16, mut see: impl FnMut(u16, u32)) -> u16 {
        let count_max = count_max.min(self.out);
        for count in 0..count_max {
            let words = self.descriptors.at(usize::from(self.taken));
            let PackedTail { bytes, id, flags } =
                PackedTail::from_word(u64::from_le(words[1].load(Acquire)));
            if (flags & AVAIL != 0) != self.taken_wrap || (flags & USED != 0) != self.taken_wrap {
                return count;
            }
            see(id, bytes);
            self.out -= 1;
            self.taken += 1;
            if self.taken == self.size {
                (self.taken, self.taken_wrap) = (0, !self.taken_wrap);
            }
        }
        count_max
    }

    pub(super) fn wants_kick(&mut self) -> bool {
        if !std::mem::take(&mut self.is_untold) {
            return false;
        }
        // The flags are out before the device's wish is read. One that names a descriptor is told
        // each time.
        fence(SeqCst);
        u16::from_le(self.device_events.at(1).load(Relaxed)) != EVENTS_DISABLED
    }

    pub(super) fn ask_for_calls(&mut self, wanted: bool) {
        let flags = if wanted { EVENTS_ENABLED } else { EVENTS_DISABLED };
        self.driver_events.at(1).store(flags.to_le(), Relaxed);
        fence(SeqCst);
    }
}
