//! An allocator that counts what some threads ask of it.
//!
//! # Safety boundary
//!
//! A global allocator is unsafe to write, since all memory depends on it. This one passes every
//! call on to the system's as it is, and only adds to counters, which allocate nothing.
#![expect(unsafe_code, reason = "a global allocator")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static IS_COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Counts what this thread does from now on.
pub(crate) fn count_this_thread() {
    IS_COUNTED.set(true);
}

/// Starts from zero.
pub(crate) fn reset() {
    ALLOCATIONS.store(0, SeqCst);
    FREES.store(0, SeqCst);
}

/// Allocations and frees of all counted threads.
pub(crate) fn counted() -> (u64, u64) {
    (ALLOCATIONS.load(SeqCst), FREES.load(SeqCst))
}

struct Counting;

fn count(counter: &AtomicU64) {
    // A thread that is ending has no such variable any more.
    if IS_COUNTED.try_with(Cell::get).unwrap_or(false) {
        counter.fetch_add(1, SeqCst);
    }
}

// SAFETY: every call is the system allocator's, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&ALLOCATIONS);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(&FREES);
        // SAFETY: the caller keeps the contract of `dealloc`, and the memory came from the system's
        // allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}
