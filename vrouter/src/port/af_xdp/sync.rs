//! The atomics of the rings, and the two orderings that their protocol rests on.
//!
//! A loom test gives [`super::ring`] another module of this shape: loom's types, and orderings
//! weakened on purpose.
//!
//! # Safety boundary
//!
//! Reads and writes of a slot are plain: whoever calls them vouches that the far side does not
//! touch the slot meanwhile. The ring's indices say so.

pub(super) use std::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, Ordering},
};

/// How an index is published: what was written to slots, or read from them, comes before it.
pub(super) const PUBLISH: Ordering = Ordering::Release;
/// How the other side's index is observed: what is read from slots, or written to them, comes after
/// it.
pub(super) const OBSERVE: Ordering = Ordering::Acquire;

/// Reads a slot.
///
/// # Safety
///
/// Nobody writes the slot meanwhile.
#[expect(unsafe_code, reason = "one plain read; the caller's contract says why nobody else writes")]
pub(super) unsafe fn read_slot<T: Copy>(slot: &UnsafeCell<T>) -> T {
    // SAFETY: the cell is valid, and the caller rules out a writer.
    unsafe { slot.get().read() }
}

/// Writes a slot.
///
/// # Safety
///
/// Nobody reads or writes the slot meanwhile.
#[expect(unsafe_code, reason = "one plain write; the caller's contract says why nobody else looks")]
pub(super) unsafe fn write_slot<T: Copy>(slot: &UnsafeCell<T>, value: T) {
    // SAFETY: the cell is valid, and the caller rules out any other access.
    unsafe { slot.get().write(value) };
}
