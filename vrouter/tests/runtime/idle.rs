//! What workers do, and cost, when there is little to do.

use std::{
    thread,
    time::{Duration, Instant},
};

use vrouter::idle::IdleMode;

use crate::rig::{PATIENCE, Rig, frame, number};

#[test]
fn an_adaptive_worker_sleeps_and_wakes_for_a_lone_packet() {
    let mut rig = Rig::new(2, IdleMode::Adaptive);
    let (a, mut peer_a) = rig.add(0, 1);
    let (b, mut peer_b) = rig.add(1, 1);
    rig.patch.connect(a, b);
    let mut slowest = Duration::ZERO;
    let mut sum = Duration::ZERO;
    let count = 50;
    for lone in 0..count {
        wait_for_sleep(&rig);
        let begin = Instant::now();
        assert!(peer_a.send(0, &frame(lone)));
        let received = loop {
            if let Some(frame) = peer_b.receive() {
                break frame;
            }
            assert!(begin.elapsed() < PATIENCE);
            thread::yield_now();
        };
        assert_eq!(number(&received), lone);
        slowest = slowest.max(begin.elapsed());
        sum += begin.elapsed();
    }
    eprintln!(
        "a lone packet through two sleeping workers: mean {:?}, slowest {slowest:?}",
        sum / 50
    );
    drop((peer_a, peer_b));
    let stats = rig.finish(&[a, b]);
    assert_eq!(stats.port(a).forwarded, count);
}

/// Waits until each worker has gone to sleep once more.
fn wait_for_sleep(rig: &Rig) {
    let sleeps = || {
        let workers = rig.runtime.stats().workers().iter();
        workers.map(|worker| worker.activity().sleeps).collect::<Vec<_>>()
    };
    let before = sleeps();
    let deadline = Instant::now() + PATIENCE;
    while sleeps().iter().zip(&before).any(|(now, before)| now <= before) {
        assert!(Instant::now() < deadline);
        thread::yield_now();
    }
}

#[test]
fn a_busy_worker_never_sleeps() {
    let mut rig = Rig::new(1, IdleMode::Busy);
    let (a, peer) = rig.add(0, 1);
    let polls = || rig.runtime.stats().workers()[0].activity().polls;
    let before = polls();
    while polls() < before + 10_000 {
        thread::yield_now();
    }
    drop(peer);
    let stats = rig.finish(&[a]);
    assert_eq!(stats.workers()[0].activity().sleeps, 0);
}
