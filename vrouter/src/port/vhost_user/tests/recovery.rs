//! Engines that die at any moment: what their successor makes of the rings.

use std::collections::VecDeque;

use proptest::{collection::vec, prelude::*};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    driver::{GUEST_ADDRESS, Shape, TestMemory, pair},
    exchange::{Rig, frame, shapes},
};
use crate::port::vhost_user::{
    inflight::InflightRegion,
    orders::Answer,
    ring::{
        DeviceRing, HEADS_MAX, Heads, Ring, RingEngine, RingFeatures, RingFormat, RingPosition,
        RingSetup,
    },
};

/// Takes up to `completed` chains as an engine does, and dies before it shows them, or after.
fn die(ring: &mut impl DeviceRing, completed: usize, is_shown: bool) -> usize {
    let mut heads = Heads::new();
    ring.peek(&mut heads, completed.min(HEADS_MAX)).unwrap();
    heads.iter().for_each(|head| ring.complete(head, 0, None));
    if is_shown {
        ring.publish(None);
    }
    heads.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The frontend says that the ring begins at its beginning, as QEMU does.
    #[test]
    fn whenever_an_engine_dies_each_chain_comes_back_once_and_none_is_skipped(
        shape in shapes(),
        lives in vec((vec((1_usize..4, any::<bool>()), 0..20), 0_usize..20, any::<bool>(), any::<bool>()), 1..30),
        has_inflight in any::<bool>(),
    ) {
        let mut rig = Rig::new(shape);
        let notes = TestMemory::new();
        let region = has_inflight.then(|| InflightRegion { mapped: notes.region(), offset: 64 });
        let mut waiting = VecDeque::new();
        for (offers, completed, is_shown, is_reaped) in lives {
            for (parts, is_indirect) in offers {
                if usize::from(rig.rx.room()) >= parts {
                    let buffers: Vec<_> = (0..parts).map(|_| rig.buffer(64)).collect();
                    let table = is_indirect.then(|| rig.buffer(16 * 64).0);
                    waiting.push_back(rig.rx.offer(&rig.memory, &buffers, table));
                }
            }
            let setup = RingSetup { inflight: region.clone(), ..rig.rx.setup(&rig.memory) };
            let mut ring = Ring::new(setup).unwrap();
            match &mut ring.engine {
                RingEngine::Split(ring) => die(ring, completed, is_shown),
                RingEngine::Packed(ring) => die(ring, completed, is_shown),
            };
            drop(ring);
            while is_reaped && let Some((id, ..)) = rig.rx.take_used(&rig.memory) {
                prop_assert_eq!(Some(id), waiting.pop_front());
            }
        }
        let setup = RingSetup { inflight: region, ..rig.rx.setup(&rig.memory) };
        let mut ring = Ring::new(setup).unwrap();
        for _ in 0..=usize::from(shape.size) / HEADS_MAX {
            match &mut ring.engine {
                RingEngine::Split(ring) => die(ring, HEADS_MAX, true),
                RingEngine::Packed(ring) => die(ring, HEADS_MAX, true),
            };
        }
        while let Some((id, ..)) = rig.rx.take_used(&rig.memory) {
            prop_assert_eq!(Some(id), waiting.pop_front());
        }
        prop_assert!(waiting.is_empty(), "{} chains were lost", waiting.len());
    }
}

#[test]
fn a_chain_that_was_not_shown_is_received_whole_by_the_successor() {
    let features =
        RingFeatures { event_index: false, indirect: true, mergeable: true, version_1: true };
    for format in [RingFormat::Split, RingFormat::Packed] {
        let mut rig = Rig::new(Shape { format, size: 8, features });
        let whole = [vec![0; 12], frame(300, 7)].concat();
        rig.offer_frame(&whole, &[20, 100], false);
        rig.offer_frame(&whole, &[30], false);
        // The engine looked, and did not come to do anything.
        let mut former = Ring::new(rig.rx.setup(&rig.memory)).unwrap();
        match &mut former.engine {
            RingEngine::Split(split) => split.peek(&mut Heads::new(), 2).unwrap(),
            RingEngine::Packed(packed) => packed.peek(&mut Heads::new(), 2).unwrap(),
        }
        drop(former);
        assert_eq!(rig.receive(), [frame(300, 7), frame(300, 7)]);
        while rig.rx.take_used(&rig.memory).is_some() {}
        assert!(rig.rx.offered.is_empty());
    }
}

#[test]
fn a_driver_that_nobody_told_is_told_by_the_successor() {
    for (format, event_index) in [
        (RingFormat::Split, false),
        (RingFormat::Split, true),
        (RingFormat::Packed, false),
        (RingFormat::Packed, true),
    ] {
        let features =
            RingFeatures { event_index, indirect: true, mergeable: true, version_1: true };
        let mut rig = Rig::new(Shape { format, size: 8, features });
        rig.offer_frame(&[0; 72], &[], false);
        let mut former = Ring::new(rig.rx.setup(&rig.memory)).unwrap();
        // It died between the ring and the call.
        match &mut former.engine {
            RingEngine::Split(split) => die(split, 1, true),
            RingEngine::Packed(packed) => die(packed, 1, true),
        };
        drop(former);
        rig.control.stop().unwrap();
        rig.flush();
        let call = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let is_called = || rustix::io::read(&call, &mut [0; 8]).is_ok();
        let mut rings = pair(&rig.memory, &rig.rx, &rig.tx);
        rings.rx.set_call(Some(call.try_clone().unwrap()));
        rig.control.start(rings).unwrap();
        rig.flush();
        rig.flush();
        assert!(is_called(), "{format:?} {event_index}");
        rig.flush();
        assert!(!is_called(), "once");
        // One that merely paused knows what it told.
        rig.control.stop().unwrap();
        rig.flush();
        let mut positions = None;
        while let Some(answer) = rig.control.answer() {
            if let Answer::Stopped(Some(rings)) = answer {
                positions = Some((rings.rx.position(), rings.tx.position()));
            }
        }
        let (rx, tx): (RingPosition, RingPosition) = positions.unwrap();
        let resumed = |setup, position| RingSetup { position, is_resumed: true, ..setup };
        let mut rings = pair(&rig.memory, &rig.rx, &rig.tx);
        rings.rx = Ring::new(resumed(rig.rx.setup(&rig.memory), rx)).unwrap();
        rings.tx = Ring::new(resumed(rig.tx.setup(&rig.memory), tx)).unwrap();
        rings.rx.set_call(Some(call.try_clone().unwrap()));
        rig.control.start(rings).unwrap();
        rig.flush();
        rig.flush();
        assert!(!is_called());
    }
}

#[test]
fn notes_that_say_nonsense_are_not_believed_beyond_the_ring() {
    let notes = TestMemory::new();
    let region = InflightRegion { mapped: notes.region(), offset: 0 };
    let features =
        RingFeatures { event_index: false, indirect: true, mergeable: true, version_1: true };
    let mut rig = Rig::new(Shape { format: RingFormat::Packed, size: 8, features });
    for _ in 0..3 {
        rig.offer_frame(&[0; 72], &[], false);
        assert_eq!(rig.receive().len(), 1);
    }
    for word in [[0xff; 8], [9, 0, 9, 0, 1, 1, 0, 0], [3, 0, 200, 0, 1, 1, 0, 0]] {
        notes.write(GUEST_ADDRESS + 8, &1_u16.to_le_bytes());
        notes.write(GUEST_ADDRESS + 10, &8_u16.to_le_bytes());
        notes.write(GUEST_ADDRESS + 16, &word);
        let setup = RingSetup { inflight: Some(region.clone()), ..rig.rx.setup(&rig.memory) };
        let RingPosition::Packed(position) = Ring::new(setup).unwrap().position() else { panic!() };
        assert_eq!((position.index, position.wrap), (3, true), "the ring itself is asked");
    }
}
