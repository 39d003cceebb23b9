//! Packets that are received by one worker and sent by another.

use std::time::Instant;

use vrouter::{burst::Burst, drops::DropReason, idle::IdleMode};

use crate::rig::{Rig, frame, rounds, send_in_order};

/// One way, across two workers, nothing lost, in order.
fn send_one_way(idle: IdleMode, frames: u64) {
    let mut rig = Rig::new(2, idle);
    let (a, mut peer_a) = rig.add(0, 1);
    let (b, mut peer_b) = rig.add(1, 1);
    rig.patch.connect(a, b);
    let begin = Instant::now();
    send_in_order(&mut peer_a, &mut peer_b, frames);
    let rate = u128::from(frames) * 1_000 / begin.elapsed().as_micros().max(1);
    eprintln!("{frames} frames across two workers, {}: {rate} kpps", idle.label());
    drop((peer_a, peer_b));
    let stats = rig.finish(&[a, b]);
    assert_eq!(stats.port(a).forwarded, frames);
    assert_eq!(stats.port(b).tx_packets, frames);
    assert_eq!(stats.port(b).tx_bytes, frames * 60);
    assert_eq!(stats.balance().dropped, 0);
    assert!(stats.workers().iter().all(|worker| worker.activity().polls > 0));
}

#[test]
fn ten_million_frames_one_way_across_two_workers_lose_nothing() {
    send_one_way(IdleMode::Adaptive, rounds(10_000_000));
}

#[test]
fn busy_workers_lose_nothing_either() {
    send_one_way(IdleMode::Busy, rounds(100_000));
}

#[test]
fn what_overruns_a_ring_between_workers_is_dropped_and_counted() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let (a, mut peer_a) = rig.add(0, 1);
    let (b, peer_b) = rig.add(1, 1);
    rig.patch.connect(a, b);
    // Nobody reads from b: its ring of 1024 fills up, then the workers have to drop.
    let frames = 20_000;
    let mut sent = 0;
    let mut burst = Burst::new();
    while sent < frames {
        while !burst.is_full()
            && let Some(packet) = peer_a.packet(&frame(0))
        {
            burst.push(packet);
        }
        sent += peer_a.send_burst(0, &mut burst);
    }
    burst.drain(..).for_each(|packet| peer_a.pool().free_packet(packet));
    rig.tick_until(|_| {
        // All that was sent has met its fate.
        peer_b.is_steered()
    });
    drop((peer_a, peer_b));
    let stats = rig.finish(&[a, b]);
    let a = stats.port(a);
    assert!(a.dropped_for(DropReason::TxRingFull) + a.dropped_for(DropReason::HandoffRingFull) > 0);
    assert_eq!(a.forwarded + a.dropped(), a.rx_packets);
}

#[test]
fn a_port_with_a_queue_for_each_worker_needs_no_hand_off() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let (a, mut peer_a) = rig.add(0, 2);
    let (b, mut peer_b) = rig.add(1, 2);
    rig.patch.connect(a, b);
    for queue in 0..2 {
        for number in 0..100 {
            assert!(peer_a.send(queue, &frame(number)));
        }
    }
    let mut received = [0, 0];
    while received.iter().sum::<usize>() < 200 {
        for (queue, count) in received.iter_mut().enumerate() {
            let mut burst = Burst::new();
            *count += peer_b.receive_burst(queue, &mut burst);
            burst.drain(..).for_each(|packet| peer_b.pool().free_packet(packet));
        }
    }
    assert_eq!(received, [100, 100]);
    drop((peer_a, peer_b));
    rig.finish(&[a, b]);
}
