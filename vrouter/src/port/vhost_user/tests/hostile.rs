//! Drivers that lie: no panic, no access outside, bounded work, and everything is counted.

use std::{sync::mpsc, thread, time::Duration};

use proptest::{collection::vec, prelude::*};
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
};

use super::{
    driver::{AREA_BYTES, GUEST_ADDRESS, MEMORY_BYTES, Shape},
    exchange::{Rig, frame, shapes},
};
use crate::{
    drops::DropReason,
    port::{
        PortQueue,
        vhost_user::{
            call::Call,
            orders::Answer,
            ring::{RingFault, RingFeatures, RingFormat},
        },
    },
};

const FEATURES: RingFeatures =
    RingFeatures { event_index: false, indirect: true, mergeable: true, version_1: true };

fn shape(format: RingFormat) -> Shape {
    Shape { format, size: 16, features: FEATURES }
}

/// The fault for which the session gets its rings back after a receiving and a flush.
fn fault(rig: &mut Rig) -> Option<RingFault> {
    assert!(rig.receive().is_empty());
    rig.flush();
    match rig.control.answer() {
        Some(Answer::Broken(_, fault)) => Some(fault),
        _ => None,
    }
}

#[test]
fn a_buffer_outside_memory_breaks_the_ring() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let end = GUEST_ADDRESS + MEMORY_BYTES;
        for (address, bytes) in
            [(0, 60), (end - 59, 60), (end, 1), (u64::MAX - 10, 60), (end - 1, u32::MAX)]
        {
            let mut rig = Rig::new(shape(format));
            rig.rx.offer(&rig.memory, &[(address, bytes)], None);
            let fault = fault(&mut rig);
            assert!(matches!(fault, Some(RingFault::OutsideMemory { .. })), "{fault:?}");
            let totals = rig.totals();
            assert_eq!(
                (totals.rx_packets, totals.dropped_for(DropReason::VhostRingBroken)),
                (1, 1)
            );
            // From now on what is to go there dies of the same reason, once.
            assert_eq!(rig.send(&[frame(60, 1), frame(60, 2)]), 2);
            assert_eq!(rig.totals().dropped_for(DropReason::VhostRingBroken), 3);
        }
    }
}

/// What makes a write to an event wait: a counter that is full, on a file that blocks.
#[test]
fn a_worker_does_not_wait_for_a_driver_that_fills_its_event() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let mut rig = Rig::new(shape(format));
        let call = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        if matches!(Call::new(call.try_clone().unwrap()), Call::Write(_)) {
            eprintln!("SKIPPED: io_uring is not available here");
            return;
        }
        rig.control.stop().unwrap();
        rig.flush();
        let Some(Answer::Stopped(Some(mut rings))) = rig.control.answer() else { panic!() };
        rings.tx.set_call(Some(call.try_clone().unwrap()));
        rig.control.start(rings).unwrap();
        rig.flush();
        let flags = fcntl_getfl(&call).unwrap();
        fcntl_setfl(&call, flags.difference(OFlags::NONBLOCK)).unwrap();
        rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        let (sender, done) = mpsc::channel();
        let worker = thread::spawn(move || {
            for seed in 0..8 {
                let buffer = rig.buffer(100);
                rig.tx.offer(&rig.memory, &[buffer], None);
                assert_eq!(rig.send(&[frame(60, seed)]), 1);
                rig.flush();
            }
            sender.send(()).unwrap();
        });
        done.recv_timeout(Duration::from_mins(1)).expect("the worker waits for the driver");
        worker.join().unwrap();
    }
}

#[test]
fn a_loop_of_descriptors_breaks_the_ring() {
    let mut rig = Rig::new(shape(RingFormat::Split));
    let buffer = rig.buffer(100);
    rig.rx.offer(&rig.memory, &[buffer, buffer], None);
    let id = *rig.rx.offered.keys().next().unwrap();
    // Both point at the first.
    for descriptor in 0..16 {
        let place = GUEST_ADDRESS + 16 * descriptor;
        rig.memory.write(place, &buffer.0.to_le_bytes());
        rig.memory.write(place + 8, &1_u32.to_le_bytes());
        rig.memory.write(place + 12, &1_u16.to_le_bytes());
        rig.memory.write(place + 14, &id.to_le_bytes());
    }
    assert_eq!(fault(&mut rig), Some(RingFault::ChainTooLong { limit: 16 }));
}

#[test]
fn more_chains_than_entries_break_the_ring() {
    let mut rig = Rig::new(shape(RingFormat::Split));
    let (available, _) = rig.rx.areas();
    rig.memory.write(available + 2, &17_u16.to_le_bytes());
    assert_eq!(fault(&mut rig), Some(RingFault::AvailableIndex { count: 17, size: 16 }));
}

#[test]
fn what_came_before_a_lie_is_received() {
    let mut rig = Rig::new(shape(RingFormat::Split));
    let whole = [vec![0; 12], frame(80, 9)].concat();
    rig.offer_frame(&whole, &[], false);
    let buffer = rig.buffer(100);
    rig.rx.offer(&rig.memory, &[buffer], None);
    let (available, _) = rig.rx.areas();
    rig.memory.write(available + 4 + 2, &16_u16.to_le_bytes());
    assert_eq!(rig.receive(), [frame(80, 9)]);
    rig.flush();
    let answer = rig.control.answer();
    let expected = RingFault::DescriptorIndex { index: 16, size: 16 };
    assert!(matches!(answer, Some(Answer::Broken(_, fault)) if fault == expected), "{answer:?}");
    assert!(rig.rx.take_used(&rig.memory).is_some(), "and handed back");
}

#[test]
fn a_buffer_of_the_wrong_direction_breaks_the_ring() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let mut rig = Rig::new(shape(format));
        // The guest offers something to read where it should offer something to write.
        std::mem::swap(&mut rig.rx.base, &mut rig.tx.base);
        let buffer = rig.buffer(2000);
        rig.rx.offer(&rig.memory, &[buffer], None);
        assert_eq!(rig.send(&[frame(60, 1)]), 1);
        assert_eq!(rig.totals().dropped_for(DropReason::VhostRingBroken), 1);
        rig.flush();
        let answer = rig.control.answer();
        assert!(matches!(answer, Some(Answer::Broken(_, RingFault::WrongDirection))), "{answer:?}");
    }
}

#[test]
fn a_chain_that_is_no_frame_is_dropped_and_the_ring_goes_on() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let mut rig = Rig::new(shape(format));
        for bytes in [1, 11, 12] {
            rig.offer_frame(&vec![0; bytes], &[], false);
        }
        rig.offer_frame(&vec![0; 70_000], &[], false);
        rig.offer_frame(&[vec![0; 12], frame(60, 3)].concat(), &[], false);
        assert_eq!(rig.receive(), [frame(60, 3)]);
        rig.flush();
        let totals = rig.totals();
        assert_eq!(totals.rx_packets, 4);
        assert_eq!(totals.dropped_for(DropReason::VhostHeaderTruncated), 3);
        assert_eq!(totals.dropped_for(DropReason::RxOversized), 1);
        assert!(rig.control.answer().is_none());
        assert!(rig.frames_are_back());
    }
}

#[test]
fn memory_whose_file_is_cut_costs_its_guest_the_rings() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let mut rig = Rig::new(shape(format));
        let mut other = Rig::new(shape(format));
        let whole = [vec![0; 12], frame(80, 9)].concat();
        rig.offer_frame(&whole, &[], false);
        other.offer_frame(&whole, &[], false);
        rig.memory.file.set_len(0).unwrap();
        // Nothing is read but zeros, and nobody dies.
        assert!(rig.receive().is_empty());
        rig.flush();
        let answer = rig.control.answer();
        assert!(matches!(answer, Some(Answer::Broken(_, RingFault::Truncated))), "{answer:?}");
        assert_eq!(rig.send(&[frame(60, 1)]), 1);
        assert_eq!(other.receive(), [frame(80, 9)]);
        other.flush();
        assert!(other.control.answer().is_none());
    }
}

#[test]
fn without_rings_what_is_sent_is_dropped() {
    let mut rig = Rig::new(shape(RingFormat::Split));
    rig.control.stop().unwrap();
    rig.flush();
    assert!(matches!(rig.control.answer(), Some(Answer::Stopped(Some(_)))));
    assert!(rig.receive().is_empty());
    assert_eq!(rig.send(&[frame(60, 1)]), 1);
    assert_eq!(rig.totals().dropped_for(DropReason::VhostDisconnected), 1);
    assert!(rig.frames_are_back());
}

/// The reason and the first byte of the one packet that is kept as an example.
fn example(rig: &mut Rig) -> Option<(DropReason, u8)> {
    let (packet, reason) = rig.queue.take_refused()?;
    let first = packet.data(rig.pool.region())[0];
    rig.pool.free_packet(packet);
    Some((reason, first))
}

#[test]
fn of_what_a_queue_drops_one_packet_is_an_example() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let features = RingFeatures { mergeable: false, ..FEATURES };
        let mut rig = Rig::new(Shape { features, ..shape(format) });
        assert_eq!(example(&mut rig), None);
        for _ in 0..4 {
            let small = rig.buffer(100);
            rig.tx.offer(&rig.memory, &[small], None);
        }
        assert_eq!(rig.send(&[frame(60, 1), frame(600, 2), frame(700, 3), frame(60, 4)]), 4);
        assert_eq!(example(&mut rig), Some((DropReason::VhostBufferTooSmall, 2)));
        assert_eq!(example(&mut rig), None);
        // An offload that cannot be: an unknown kind of segmentation.
        let header = [&[0, 77][..], &[0; 10]].concat();
        rig.offer_frame(&[header, frame(60, 5)].concat(), &[], false);
        assert!(rig.receive().is_empty());
        assert_eq!(example(&mut rig), Some((DropReason::RxOffloadMalformed, 5)));
        rig.control.stop().unwrap();
        rig.flush();
        assert_eq!(rig.send(&[frame(60, 6), frame(60, 7)]), 2);
        assert_eq!(example(&mut rig), Some((DropReason::VhostDisconnected, 6)));
        assert!(rig.frames_are_back());
        // One that nobody looked at goes with the queue.
        assert_eq!(rig.send(&[frame(60, 8)]), 1);
        assert_eq!(rig.queue.drain(&mut rig.pool, &rig.stats), 0);
        assert_eq!(example(&mut rig), None);
        assert!(rig.frames_are_back());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn noise_in_a_ring_harms_nobody(
        shape in shapes(),
        offers in vec((1_usize..3000, vec(any::<usize>(), 0..3), any::<bool>()), 0..20),
        noise in vec((any::<bool>(), any::<bool>(), 0_u64..2048, any::<u64>()), 0..60),
        is_near in any::<bool>(),
        sends in vec(1_usize..4000, 0..20),
    ) {
        let mut rig = Rig::new(shape);
        for (bytes, cuts, is_indirect) in offers {
            if rig.rx.room() >= 4 && rig.tx.room() >= 4 {
                rig.offer_frame(&frame(bytes, 0), &cuts, is_indirect);
                let buffer = rig.buffer(2048);
                rig.tx.offer(&rig.memory, &[buffer], None);
            }
        }
        // Words anywhere in the areas of either ring: sometimes wild, sometimes nearly right.
        for (is_tx, is_area, at, mut word) in noise {
            if is_near {
                word = GUEST_ADDRESS + word % MEMORY_BYTES;
            }
            let base = if is_tx { GUEST_ADDRESS + AREA_BYTES } else { GUEST_ADDRESS };
            let area = if is_area { base + AREA_BYTES / 2 } else { base };
            rig.memory.write(area + at, &word.to_le_bytes()[..4]);
        }
        for chunk in sends.chunks(8) {
            let frames: Vec<_> = chunk.iter().map(|bytes| frame(*bytes, 1)).collect();
            rig.receive();
            rig.send(&frames);
            rig.flush();
        }
        rig.receive();
        rig.flush();
        prop_assert!(rig.frames_are_back());
        let totals = rig.totals();
        let accounted: u64 = DropReason::ALL.iter().map(|reason| totals.dropped_for(*reason)).sum();
        prop_assert!(accounted <= totals.rx_packets + sends.len() as u64);
        rig.control.stop().unwrap();
        rig.flush();
        prop_assert!(rig.control.answer().is_some());
    }
}
