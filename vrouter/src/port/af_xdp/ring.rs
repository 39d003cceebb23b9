//! The rings that the kernel and a socket share: single producer, single consumer, a power of two
//! of slots.
//!
//! ```text
//! fill, tx:          we produce, the kernel consumes     ProducerRing
//! rx, completion:    the kernel produces, we consume     ConsumerRing
//!
//! producer index ──► next slot to write      both run freely and wrap at 2^32;
//! consumer index ──► next slot to read       producer - consumer = slots in use
//! ```
//!
//! Each side writes its own index only. It publishes it with release order after it has touched the
//! slots, and observes the other's with acquire order before it touches them: that alone makes the
//! slots' plain accesses safe.
//!
//! # Safety boundary
//!
//! This module reads and writes memory that the kernel maps and uses at the same time. It is sound
//! if [`RingMemory`] was made from a live ring (the contract of [`RingMemory::new`]) and each ring
//! has one user, which `&mut self` holds us to. Of the other side's index nothing is believed but
//! its distance, which is cut to the ring's size.
#![expect(unsafe_code, reason = "slots are shared with the kernel")]

use std::ptr::NonNull;

use super::sync::{AtomicU32, OBSERVE, Ordering, PUBLISH, UnsafeCell, read_slot, write_slot};

/// The kernel asks for a system call before it goes on (`XDP_RING_NEED_WAKEUP`).
const NEED_WAKEUP: u32 = 1;

/// Where a ring's parts lie.
#[derive(Debug)]
pub(crate) struct RingMemory<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<UnsafeCell<T>>,
    mask: u32,
}

// SAFETY: the pointers lead to memory shared between threads and the kernel by design; a ring moves
// with its only user.
unsafe impl<T: Send> Send for RingMemory<T> {}

impl<T: Copy> RingMemory<T> {
    /// Describes a ring of `entries` slots; `entries` must be a power of two.
    ///
    /// # Safety
    ///
    /// All pointers are valid and aligned for as long as the value lives, `slots` for `entries`
    /// slots; the far side follows the ring protocol; nobody else uses our side.
    pub(crate) unsafe fn new(
        producer: NonNull<AtomicU32>,
        consumer: NonNull<AtomicU32>,
        flags: NonNull<AtomicU32>,
        slots: NonNull<UnsafeCell<T>>,
        entries: u32,
    ) -> Self {
        debug_assert!(entries.is_power_of_two());
        Self { producer, consumer, flags, slots, mask: entries - 1 }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: valid while `self` lives, by the contract of `new`.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: valid while `self` lives, by the contract of `new`.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: valid while `self` lives, by the contract of `new`.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    fn entries(&self) -> u32 {
        self.mask + 1
    }

    fn slot(&self, index: u32) -> &UnsafeCell<T> {
        let offset = (index & self.mask) as usize;
        // SAFETY: the masked index is below the number of slots.
        let slot = unsafe { self.slots.add(offset) };
        // SAFETY: valid while `self` lives, by the contract of `new`.
        unsafe { slot.as_ref() }
    }
}

/// A ring that we fill: fill or tx.
#[derive(Debug)]
pub(crate) struct ProducerRing<T> {
    memory: RingMemory<T>,
    /// Next slot to write. At most `pending` ahead of what is published.
    next: u32,
    published: u32,
    /// The consumer's index as last seen: never ahead of the true one.
    consumer_seen: u32,
}

impl<T: Copy> ProducerRing<T> {
    /// Takes over our side of a ring.
    pub(crate) fn new(memory: RingMemory<T>) -> Self {
        let next = memory.producer().load(Ordering::Relaxed);
        let consumer_seen = memory.consumer().load(OBSERVE);
        Self { memory, next, published: next, consumer_seen }
    }

    /// Slots that can be written, at least `wanted` if there are so many: looks at the far side
    /// only when it must.
    pub(crate) fn free_slots(&mut self, wanted: u32) -> u32 {
        let known = self.free_known();
        if known >= wanted {
            return known;
        }
        self.consumer_seen = self.memory.consumer().load(OBSERVE);
        self.free_known()
    }

    /// Writes the next slot. False, and nothing happens, if no free slot is known; ask
    /// [`Self::free_slots`] first.
    #[must_use]
    pub(crate) fn push(&mut self, value: T) -> bool {
        if self.free_known() == 0 {
            return false;
        }
        // SAFETY: the slot lies between our index and the consumer's, so the far side neither reads
        // nor writes it.
        unsafe { write_slot(self.memory.slot(self.next), value) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows what was pushed to the far side.
    pub(crate) fn publish(&mut self) {
        if self.published != self.next {
            self.published = self.next;
            self.memory.producer().store(self.next, PUBLISH);
        }
    }

    /// Slots published that the far side has not consumed yet.
    pub(crate) fn unconsumed(&mut self) -> u32 {
        self.consumer_seen = self.memory.consumer().load(OBSERVE);
        self.published.wrapping_sub(self.consumer_seen).min(self.memory.entries())
    }

    /// Whether the kernel wants a system call.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.memory.needs_wakeup()
    }

    fn free_known(&self) -> u32 {
        let used = self.next.wrapping_sub(self.consumer_seen);
        // A consumer that ran ahead of us would break the protocol; then nothing is free.
        self.memory.entries().saturating_sub(used)
    }
}

/// A ring that we empty: rx or completion.
#[derive(Debug)]
pub(crate) struct ConsumerRing<T> {
    memory: RingMemory<T>,
    /// Next slot to read.
    next: u32,
    released: u32,
    /// The producer's index as last seen: never ahead of the true one.
    producer_seen: u32,
}

impl<T: Copy> ConsumerRing<T> {
    /// Takes over our side of a ring.
    pub(crate) fn new(memory: RingMemory<T>) -> Self {
        let next = memory.consumer().load(Ordering::Relaxed);
        let producer_seen = memory.producer().load(OBSERVE);
        Self { memory, next, released: next, producer_seen }
    }

    /// Slots that can be read; looks at the far side only when none is known.
    pub(crate) fn available(&mut self) -> u32 {
        if self.producer_seen == self.next {
            self.producer_seen = self.memory.producer().load(OBSERVE);
        }
        // A producer that ran ahead by more than the ring breaks the protocol; never read a slot
        // twice for it.
        self.producer_seen.wrapping_sub(self.next).min(self.memory.entries())
    }

    /// Reads the next slot; `None` if none is known to be there.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.producer_seen == self.next {
            return None;
        }
        // SAFETY: the slot lies between our index and the producer's, so the far side does not
        // write it.
        let value = unsafe { read_slot(self.memory.slot(self.next)) };
        self.next = self.next.wrapping_add(1);
        Some(value)
    }

    /// Gives the slots that were read back to the far side.
    pub(crate) fn release(&mut self) {
        if self.released != self.next {
            self.released = self.next;
            self.memory.consumer().store(self.next, PUBLISH);
        }
    }
}
