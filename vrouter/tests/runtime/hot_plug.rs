//! Ports come and go while traffic runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use vrouter::{
    drops::DropReason,
    idle::IdleMode,
    port::fault::{Faults, wrap},
    runtime::Event,
};

use crate::rig::{Rig, frame, rounds, send_in_order};

#[test]
fn ten_thousand_additions_and_removals_under_traffic_lose_no_frame() {
    const CHURNED_SLOTS: u16 = 7;
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let (a, mut peer_a) = rig.add(0, 1);
    let (b, mut peer_b) = rig.add(1, 1);
    rig.patch.connect(a, b);
    let is_over = Arc::new(AtomicBool::new(false));
    let traffic = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || {
            let mut sent = 0;
            while !is_over.load(SeqCst) {
                send_in_order(&mut peer_a, &mut peer_b, 256);
                sent += 256;
            }
            sent
        })
    };
    for round in 0..rounds(10_000) {
        let slot = 2 + u16::try_from(round).unwrap() % CHURNED_SLOTS;
        let (port, mut peer) = rig.add(slot, 1 + slot % 2);
        // It talks to itself: half of the time its packets change workers.
        rig.patch.connect(port, port);
        for number in 0..4 {
            peer.send(0, &frame(number));
        }
        rig.runtime.detach(port);
        // Some far sides go before the port is released, some after.
        if round % 2 == 0 {
            while peer.receive().is_some() {}
            drop(peer);
            rig.wait_for_release(port);
        } else {
            rig.tick_until(|events| {
                while peer.receive().is_some() {}
                events.contains(&Event::Released(port))
            });
        }
        assert!(!rig.runtime.is_attached(port));
    }
    is_over.store(true, SeqCst);
    let sent: u64 = traffic.join().unwrap();
    eprintln!("{sent} frames sent meanwhile");
    let stats = rig.finish(&[a, b]);
    assert_eq!(stats.port(a).forwarded, sent);
    assert_eq!(stats.port(a).dropped(), 0);
}

#[test]
fn a_port_in_a_reused_slot_starts_from_zero() {
    let mut rig = Rig::new(1, IdleMode::Adaptive);
    let (first, mut peer) = rig.add(5, 1);
    rig.patch.disconnect(first);
    assert!(peer.send(0, &frame(0)));
    rig.tick_until(|_| true);
    while rig.runtime.stats().port(first).dropped_for(DropReason::RouteNone) == 0 {
        thread::yield_now();
    }
    drop(peer);
    rig.wait_for_release(first);
    let (second, peer) = rig.add(5, 1);
    assert_eq!(second.index, first.index);
    assert_eq!(rig.runtime.stats().port(second).rx_packets, 0);
    drop(peer);
    let stats = rig.finish(&[second]);
    assert_eq!(stats.balance().received, 1);
}

#[test]
fn packets_to_a_port_without_queues_are_dropped_as_port_down() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let (a, mut peer_a) = rig.add(0, 1);
    let (b, peer_b) = rig.add(1, 1);
    rig.patch.connect(a, b);
    rig.runtime.detach(b);
    drop(peer_b);
    rig.wait_for_release(b);
    for number in 0..10 {
        assert!(peer_a.send(0, &frame(number)));
    }
    while rig.runtime.stats().port(a).dropped_for(DropReason::PortDown) < 10 {
        thread::yield_now();
    }
    drop(peer_a);
    rig.finish(&[a, b]);
}

#[test]
fn a_port_is_not_released_before_its_last_frame_is_back() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let port = rig.next_port(3);
    let (opened, peer) = rig.open(port, 2);
    let faults = Arc::new(Faults::default());
    faults.hold_frames(3);
    rig.attach(port, wrap(opened, &faults));
    rig.runtime.detach(port);
    let events = rig
        .tick_until(|events| events.iter().any(|event| matches!(event, Event::FramesHeld { .. })));
    let [Event::FramesHeld { port: held, frames, held: time }] = events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((held, frames), (port, 6));
    assert!(time >= Duration::from_secs(5));
    faults.hold_frames(0);
    rig.wait_for_release(port);
    drop(peer);
    rig.finish(&[port]);
}
