//! Nothing is allocated per packet: neither for known flows nor for new ones, dropped packets or
//! answers.
//!
//! # Safety boundary
//!
//! The only unsafe code is an allocator that counts and passes everything on to the system's.
#![expect(unsafe_code, reason = "counts allocations")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use perf::{
    bench_node::{BenchNode, frames},
    traffic::Way,
};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations while the node processes all `frames`.
fn allocations(node: &mut BenchNode, way: Way, frames: &[Vec<u8>]) -> u64 {
    let ingress = node.ingress(way);
    let before = ALLOCATIONS.load(Relaxed);
    for burst in frames.chunks(64) {
        node.process(ingress, burst);
    }
    ALLOCATIONS.load(Relaxed) - before
}

/// One test, since the counter is the process's.
#[test]
fn no_packet_costs_an_allocation() {
    let mut node = BenchNode::new(1 << 14).unwrap();
    for way in Way::ALL {
        let new = frames(way, 4096, 64);
        let large = frames(way, 4096, 1342);
        assert_eq!(allocations(&mut node, way, &new), 0, "{way:?}: first packets");
        assert_eq!(allocations(&mut node, way, &large), 0, "{way:?}: known flows");
        // More flows than the table holds.
        let flood = frames(way, 40_000, 64);
        assert_eq!(allocations(&mut node, way, &flood), 0, "{way:?}: a full table");
        let mut expired = large;
        for frame in &mut expired {
            frame.truncate(40);
        }
        assert_eq!(allocations(&mut node, way, &expired), 0, "{way:?}: broken packets");
    }
}
