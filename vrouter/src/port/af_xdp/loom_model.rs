//! The ring protocol in all interleavings and memory orders that loom finds: our producer against
//! our consumer.
//!
//! # Safety boundary
//!
//! Shares slots between threads without a lock, on purpose: loom's cells fail the model if two
//! sides meet in one.

#[path = "ring.rs"]
#[expect(clippy::duplicate_mod, reason = "the same source over the atomics of loom")]
mod ring;
mod weak_observe;
mod weak_publish;

/// What [`super::sync`] is, of loom.
mod sync {
    pub(super) use loom::{
        cell::UnsafeCell,
        sync::atomic::{AtomicU32, Ordering},
    };

    pub(super) const PUBLISH: Ordering = Ordering::Release;
    pub(super) const OBSERVE: Ordering = Ordering::Acquire;

    pub(super) use super::{read_slot, write_slot};
}

use std::ptr::NonNull;

use loom::{
    cell::UnsafeCell,
    sync::{Arc, atomic::AtomicU32},
    thread,
};

/// Slots of the ring in the model: the least that can be full, empty and neither.
const ENTRIES: u32 = 2;
/// Values that pass: enough for a slot to be used twice.
const VALUES: u32 = 3;
/// Where the indices start: they wrap on the way.
const START: u32 = u32::MAX - 1;

#[expect(unsafe_code, reason = "loom itself checks the access")]
unsafe fn read_slot<T: Copy>(slot: &UnsafeCell<T>) -> T {
    // SAFETY: loom fails the model if somebody writes meanwhile.
    slot.with(|pointer| unsafe { pointer.read() })
}

#[expect(unsafe_code, reason = "loom itself checks the access")]
unsafe fn write_slot<T: Copy>(slot: &UnsafeCell<T>, value: T) {
    // SAFETY: loom fails the model if somebody else looks meanwhile.
    slot.with_mut(|pointer| unsafe { pointer.write(value) });
}

/// A ring's memory as the kernel would lay it out.
struct Shared {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    slots: [UnsafeCell<u32>; ENTRIES as usize],
}

// SAFETY: that access to the slots is exclusive is what the model checks.
#[expect(unsafe_code, reason = "shared on purpose")]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "shared on purpose")]
unsafe impl Sync for Shared {}

impl Shared {
    fn create() -> Arc<Self> {
        Arc::new(Self {
            producer: AtomicU32::new(START),
            consumer: AtomicU32::new(START),
            flags: AtomicU32::new(0),
            slots: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }
}

/// Passes values through a ring of the given module, in two threads, and checks them.
macro_rules! model_of {
    ($ring:path) => {{
        use $ring as ring;
        loom::model(|| {
            let shared = Shared::create();
            // SAFETY: the shared memory outlives both rings, and each side has one user.
            let memory = |shared: &Arc<Shared>| unsafe {
                ring::RingMemory::new(
                    NonNull::from(&shared.producer),
                    NonNull::from(&shared.consumer),
                    NonNull::from(&shared.flags),
                    NonNull::from(&shared.slots[0]),
                    ENTRIES,
                )
            };
            let producer = {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let mut ring = ring::ProducerRing::new(memory(&shared));
                    for value in 1..=VALUES {
                        while ring.free_slots(1) == 0 {
                            thread::yield_now();
                        }
                        assert!(ring.push(value));
                        ring.publish();
                    }
                    assert!(ring.unconsumed() <= ENTRIES);
                    assert!(!ring.needs_wakeup());
                })
            };
            let mut ring = ring::ConsumerRing::new(memory(&shared));
            for expected in 1..=VALUES {
                while ring.available() == 0 {
                    thread::yield_now();
                }
                assert_eq!(ring.pop(), Some(expected));
                ring.release();
            }
            producer.join().unwrap();
        });
    }};
}

#[test]
#[expect(unsafe_code, reason = "makes rings over memory of its own")]
fn every_value_passes_once_in_order_and_no_slot_is_touched_by_both_sides() {
    model_of!(self::ring);
}

#[test]
#[should_panic(expected = "Causality violation")]
#[expect(unsafe_code, reason = "makes rings over memory of its own")]
fn without_release_the_model_fails() {
    model_of!(weak_publish::ring);
}

#[test]
#[should_panic(expected = "Causality violation")]
#[expect(unsafe_code, reason = "makes rings over memory of its own")]
fn without_acquire_the_model_fails() {
    model_of!(weak_observe::ring);
}
