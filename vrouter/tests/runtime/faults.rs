//! Far sides that vanish, rings that fill up, workers that stall.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use vrouter::{
    drops::DropReason,
    idle::IdleMode,
    port::fault::{Faults, wrap},
    runtime::{Event, WorkerLate},
    watchdog::STALL_MIN,
};

use crate::rig::{PATIENCE, Rig, frame, send_in_order};

#[test]
fn a_port_whose_peer_vanishes_is_closed_while_the_others_go_on() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let (a, mut peer_a) = rig.add(0, 1);
    let (b, mut peer_b) = rig.add(1, 1);
    let (c, mut peer_c) = rig.add(2, 2);
    rig.patch.connect(a, b);
    rig.patch.connect(c, b);
    assert!(peer_c.send(1, &frame(0)));
    while peer_b.receive().is_none() {
        thread::yield_now();
    }
    drop(peer_c);
    let events = rig.tick_until(|events| events.contains(&Event::Released(c)));
    assert!(events.contains(&Event::PeerLost(c)));
    send_in_order(&mut peer_a, &mut peer_b, 10_000);
    drop((peer_a, peer_b));
    let stats = rig.finish(&[a, b, c]);
    assert_eq!(stats.port(a).forwarded, 10_000);
}

#[test]
fn a_lost_queue_takes_the_ports_other_queues_along() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let port = rig.next_port(0);
    let (opened, peer) = rig.open(port, 4);
    let faults = Arc::new(Faults::default());
    rig.attach(port, wrap(opened, &faults));
    assert_eq!(rig.runtime.queue_count(port), 4);
    faults.lose_peer();
    rig.tick_until(|events| events.contains(&Event::Released(port)));
    assert_eq!(rig.runtime.placement().queue_count(0) + rig.runtime.placement().queue_count(1), 0);
    drop(peer);
    rig.finish(&[port]);
}

#[test]
fn a_full_transmit_ring_drops_and_counts() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let (a, mut peer_a) = rig.add(0, 1);
    let b = rig.next_port(1);
    let (opened, mut peer_b) = rig.open(b, 1);
    let faults = Arc::new(Faults::default());
    rig.attach(b, wrap(opened, &faults));
    rig.patch.connect(a, b);
    faults.fill_tx_ring(true);
    for number in 0..50 {
        assert!(peer_a.send(0, &frame(number)));
    }
    let deadline = Instant::now() + PATIENCE;
    while rig.runtime.stats().port(a).dropped_for(DropReason::TxRingFull) < 50 {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
    faults.fill_tx_ring(false);
    send_in_order(&mut peer_a, &mut peer_b, 100);
    drop((peer_a, peer_b));
    let stats = rig.finish(&[a, b]);
    assert_eq!((stats.port(a).forwarded, stats.port(b).tx_packets), (100, 100));
}

#[test]
fn packets_that_a_port_cannot_send_have_a_reason_of_their_own_and_hold_up_nobody() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let (a, mut peer_a) = rig.add(0, 1);
    let b = rig.next_port(1);
    let (opened, mut peer_b) = rig.open(b, 1);
    let faults = Arc::new(Faults::default());
    rig.attach(b, wrap(opened, &faults));
    rig.patch.connect(a, b);
    faults.refuse_up_to(20);
    for number in 0..50 {
        assert!(peer_a.send(0, &[number; 14]));
        assert!(peer_a.send(0, &frame(number.into())));
    }
    let deadline = Instant::now() + PATIENCE;
    let mut received = 0;
    while received < 50 {
        assert!(Instant::now() < deadline);
        received += usize::from(peer_b.receive().is_some());
        thread::yield_now();
    }
    drop((peer_a, peer_b));
    let stats = rig.finish(&[a, b]);
    assert_eq!(stats.port(a).dropped_for(DropReason::TxUnsendable), 50);
    assert_eq!((stats.port(a).dropped(), stats.port(b).tx_packets), (50, 50));
}

#[test]
fn a_worker_that_stalls_is_reported_and_so_is_its_recovery() {
    let mut rig = Rig::new(1, IdleMode::Adaptive);
    let (a, mut peer) = rig.add(0, 1);
    rig.runtime.tick(drop);
    rig.patch.stall_ms.store(1000, SeqCst);
    assert!(peer.send(0, &frame(0)));
    let events = rig.tick_until(|events| {
        events.iter().any(|event| matches!(event, Event::Stall(stall) if stall.is_over))
    });
    let began = events.iter().any(
        |event| matches!(event, Event::Stall(stall) if !stall.is_over && stall.silent >= STALL_MIN),
    );
    assert!(began, "{events:?}");
    assert!(rig.runtime.stalls(0) >= 1);
    drop(peer);
    rig.finish(&[a]);
}

#[test]
fn waiting_for_a_version_names_the_worker_that_is_late() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let (a, mut peer) = rig.add(0, 1);
    rig.runtime.wait_for_version(1, Instant::now() + PATIENCE).unwrap();
    rig.patch.version.store(2, SeqCst);
    rig.runtime.wait_for_version(2, Instant::now() + PATIENCE).unwrap();
    // The worker that owns the port is in the pipeline with version 2 while version 3 comes.
    rig.patch.stall_ms.store(1000, SeqCst);
    assert!(peer.send(0, &frame(0)));
    while rig.patch.stall_ms.load(SeqCst) > 0 {
        thread::yield_now();
    }
    rig.patch.version.store(3, SeqCst);
    let late = rig.runtime.wait_for_version(3, Instant::now() + Duration::from_millis(50));
    let Err(late @ WorkerLate::Version { worker: 0, version: 3, .. }) = late else {
        panic!("{late:?}");
    };
    assert!(late.to_string().starts_with("worker 0 "), "{late}");
    rig.runtime.wait_for_version(3, Instant::now() + PATIENCE).unwrap();
    drop(peer);
    rig.finish(&[a]);
}
