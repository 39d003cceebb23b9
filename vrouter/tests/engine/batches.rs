//! What `apply` promises.

use std::{sync::atomic::Ordering::SeqCst, thread};

use vrouter::{
    engine::{ApplyError, PortState},
    port::PORTS_MAX,
    runtime::WorkerLate,
};

use crate::rig::{Rig, pod};

#[test]
fn ports_are_up_when_apply_returns() {
    let (mut rig, [mut host, mut a, b]) = Rig::with_ports(2);
    for port in rig.engine.ports() {
        assert_eq!((port.state, &*port.detail), (PortState::Up, ""), "{}", port.object.name);
        assert_eq!((&*port.backend, port.queues, port.mtu_bytes), ("memory", 1, Some(1500)));
    }
    assert!(host.is_steered() && a.is_steered() && b.is_steered());
    rig.send_to_host(&mut a, &mut host, 100);
    let totals = rig.port("default/a").totals;
    assert_eq!((totals.rx_packets, totals.forwarded, totals.rx_bytes), (100, 100, 6000));
    assert_eq!(rig.port("host").totals.tx_packets, 100);
    assert_eq!(rig.engine.workers().iter().map(|worker| worker.queues).sum::<usize>(), 3);
    drop((host, a, b));
    rig.finish();
}

#[test]
fn every_worker_is_at_the_version_that_apply_returns() {
    let (mut rig, peers) = Rig::with_ports(2);
    for last in 4..40 {
        let applied = rig.apply(vec![pod("default/c", last)], &[]).unwrap();
        assert_eq!(applied.port_errors, []);
        for worker in rig.engine.workers() {
            assert!(worker.activity.config_version >= applied.config_version);
        }
    }
    drop(peers);
    rig.finish();
}

#[test]
fn an_impossible_batch_changes_nothing() {
    let (mut rig, peers) = Rig::with_ports(1);
    let version = rig.engine.config().last_snapshot().version;
    // The address is taken by another pod.
    let error = rig.apply(vec![pod("default/c", 4), pod("default/d", 2)], &[]).unwrap_err();
    assert!(matches!(error, ApplyError::Batch(_)));
    assert!(error.to_string().contains("default/d"), "{error}");
    assert_eq!(rig.engine.ports().len(), 3);
    assert_eq!(rig.engine.config().last_snapshot().version, version);
    drop(peers);
    rig.finish();
}

#[test]
fn a_port_that_comes_back_starts_from_zero() {
    let (mut rig, [mut host, mut a, b]) = Rig::with_ports(2);
    rig.send_to_host(&mut a, &mut host, 10);
    let former = rig.port("default/a").port;
    rig.apply(vec![], &["default/a"]).unwrap();
    assert!(!a.is_steered());
    drop(a);
    rig.tick_until(|rig, _| rig.engine.ports().len() == 2);
    rig.apply(vec![pod("default/a", 2)], &[]).unwrap();
    let new = rig.port("default/a");
    assert_ne!(new.port, former);
    assert_eq!(new.totals.rx_packets, 0);
    drop((host, b));
    let stats = rig.finish();
    assert_eq!(stats.balance().received, 10);
}

#[test]
fn a_worker_that_does_not_take_over_in_time_is_named() {
    let (mut rig, [host, mut a, b]) = Rig::with_ports(1);
    rig.stall_ms.store(4000, SeqCst);
    assert!(a.send(0, &[0; 60]));
    while rig.stall_ms.load(SeqCst) > 0 {
        thread::yield_now();
    }
    let error = rig.apply(vec![pod("default/c", 4)], &[]).unwrap_err();
    let ApplyError::Worker(WorkerLate::Version { worker: 0, .. }) = error else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("worker 0 (on no cpu of its own)"), "{error}");
    // Once the worker is back, the port comes up by itself.
    rig.tick_until(|rig, _| rig.port("default/c").state == PortState::Up);
    assert!(rig.engine.workers()[0].stalls > 0);
    drop((host, a, b));
    rig.finish();
}

#[test]
fn more_ports_than_there_are_slots_come_and_go_and_lose_no_frame() {
    let (mut rig, [mut host, mut a, b]) = Rig::with_ports(2);
    let ports = if cfg!(debug_assertions) { 100 } else { PORTS_MAX + 100 };
    for _ in 0..ports {
        let applied = rig.apply(vec![pod("default/c", 9)], &[]).unwrap();
        assert_eq!(applied.port_errors, []);
        let mut c = rig.peer("default/c");
        assert!(c.send(0, &[1; 60]));
        rig.send_to_host(&mut a, &mut host, 3);
        rig.apply(vec![], &["default/c"]).unwrap();
        while host.receive().is_some() {}
    }
    drop((host, a, b));
    rig.finish();
}
