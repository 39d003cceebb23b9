//! The rings over plain memory, against a queue of the standard library.
//!
//! # Safety boundary
//!
//! Makes rings over memory that is leaked, so that it outlives them, with one user at each end.

use std::{collections::VecDeque, ptr::NonNull, sync::atomic::Ordering, thread};

use proptest::prelude::*;

use super::{
    ring::{ConsumerRing, ProducerRing, RingMemory},
    sync::{AtomicU32, UnsafeCell},
};

const ENTRIES: u32 = 8;

/// Memory of a ring whose two ends are ours; freed with the process.
fn ends(start: u32) -> (ProducerRing<u64>, ConsumerRing<u64>, &'static AtomicU32) {
    let producer: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(start)));
    let consumer: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(start)));
    let flags: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
    let slots: &'static mut [UnsafeCell<u64>] =
        Box::leak((0..ENTRIES).map(|_| UnsafeCell::new(0)).collect());
    let slots = NonNull::from(slots).cast();
    #[expect(unsafe_code, reason = "makes rings over memory of its own")]
    // SAFETY: the memory lives on, there are as many slots, and each side gets one user.
    let memory = || unsafe {
        RingMemory::new(producer.into(), consumer.into(), flags.into(), slots, ENTRIES)
    };
    (ProducerRing::new(memory()), ConsumerRing::new(memory()), producer)
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push,
    Publish,
    Pop,
    Release,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Push),
        2 => Just(Step::Publish),
        4 => Just(Step::Pop),
        2 => Just(Step::Release),
    ];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    #[test]
    fn a_ring_is_a_bounded_queue_wherever_its_indices_start(start: u32, steps in steps()) {
        let (mut producer, mut consumer, _) = ends(start);
        let mut published = VecDeque::new();
        let mut unpublished = VecDeque::new();
        let mut unreleased = 0;
        let mut value = 0;
        for step in steps {
            match step {
                Step::Push => {
                    let used = published.len() + unpublished.len() + unreleased;
                    let free = producer.free_slots(ENTRIES);
                    prop_assert_eq!(free as usize, ENTRIES as usize - used);
                    prop_assert_eq!(producer.push(value), free > 0);
                    if free > 0 {
                        unpublished.push_back(value);
                        value += 1;
                    }
                }
                Step::Publish => {
                    producer.publish();
                    published.append(&mut unpublished);
                }
                Step::Pop => {
                    consumer.available();
                    let popped = consumer.pop();
                    prop_assert_eq!(popped, published.pop_front());
                    unreleased += usize::from(popped.is_some());
                }
                Step::Release => {
                    consumer.release();
                    unreleased = 0;
                }
            }
        }
    }
}

#[test]
fn a_producer_that_claims_more_than_the_ring_holds_gives_no_slot_twice_in_a_look() {
    let (_, mut consumer, index) = ends(0);
    index.store(1000, Ordering::Release);
    assert_eq!(consumer.available(), ENTRIES);
}

#[test]
fn a_million_values_pass_between_two_threads() {
    const VALUES: u64 = 1_000_000;
    let (mut producer, mut consumer, _) = ends(u32::MAX - 100);
    let sender = thread::spawn(move || {
        let mut value = 0;
        while value < VALUES {
            for _ in 0..producer.free_slots(1) {
                if value < VALUES && producer.push(value) {
                    value += 1;
                }
            }
            producer.publish();
            thread::yield_now();
        }
    });
    let mut expected = 0;
    while expected < VALUES {
        for _ in 0..consumer.available() {
            assert_eq!(consumer.pop(), Some(expected));
            expected += 1;
        }
        consumer.release();
        thread::yield_now();
    }
    sender.join().unwrap();
}
