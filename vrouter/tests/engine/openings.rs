//! Ports that cannot be opened, take long, or lose their far side.

use vrouter::{
    drops::DropReason,
    engine::{EngineEvent, PortError, PortState},
};

use crate::rig::{Rig, pod, pod_on};

fn is_up(name: &str) -> EngineEvent {
    EngineEvent::PortUp { name: name.into() }
}

#[test]
fn a_port_that_cannot_be_opened_is_down_with_the_error_and_tried_again() {
    let (mut rig, [mut host, a, b]) = Rig::with_ports(2);
    rig.orders.refuse("default/c", "there is no interface veth7");
    let applied = rig.apply(vec![pod("default/c", 4)], &[]).unwrap();
    let message = "cannot open default/c: there is no interface veth7".to_owned();
    let error = PortError { port: "default/c".into(), message: message.clone() };
    assert_eq!(applied.port_errors, [error]);
    let view = rig.port("default/c");
    assert_eq!((view.state, view.detail), (PortState::Down, message));
    assert!(rig.engine.warnings().iter().any(|warning| warning.contains("veth7")));
    // It fails some more times, with longer and longer pauses.
    rig.tick_until(|_, events| {
        let is_down = |event: &&EngineEvent| matches!(event, EngineEvent::PortDown { .. });
        events.iter().filter(is_down).count() >= 3
    });
    rig.orders.allow("default/c");
    rig.tick_until(|_, events| events.contains(&is_up("default/c")));
    let mut c = rig.peer("default/c");
    rig.send_to_host(&mut c, &mut host, 10);
    assert_eq!(rig.port("default/c").detail, "");
    drop((host, a, b, c));
    rig.finish();
}

#[test]
fn traffic_to_a_port_that_is_down_is_dropped_as_port_down() {
    let mut rig = Rig::new(1);
    rig.orders.refuse("host", "not now");
    let objects = vec![crate::rig::node(), crate::rig::vrf(), crate::rig::host()];
    rig.apply(objects, &[]).unwrap();
    rig.apply(vec![pod("default/a", 2)], &[]).unwrap();
    let mut a = rig.peer("default/a");
    for _ in 0..5 {
        assert!(a.send(0, &[0; 60]));
    }
    rig.tick_until(|rig, _| rig.port("default/a").totals.dropped_for(DropReason::PortDown) == 5);
    drop(a);
    rig.finish();
}

#[test]
fn a_port_can_be_removed_while_it_is_being_opened_or_down() {
    let (mut rig, peers) = Rig::with_ports(1);
    rig.orders.refuse("default/c", "no");
    rig.apply(vec![pod("default/c", 4)], &[]).unwrap();
    rig.apply(vec![], &["default/c"]).unwrap();
    assert_eq!(rig.engine.ports().len(), 3);
    rig.orders.allow("default/c");
    rig.orders.block(true);
    let applied = rig.apply(vec![pod("default/c", 4)], &[]).unwrap();
    assert_eq!(applied.port_errors[0].message, "is being opened");
    rig.apply(vec![], &["default/c"]).unwrap();
    assert_eq!(rig.port("default/c").state, PortState::Closing);
    rig.orders.block(false);
    rig.tick_until(|rig, _| rig.engine.ports().len() == 3);
    drop(peers);
    rig.finish();
}

#[test]
fn a_port_whose_far_side_vanishes_is_opened_again_in_the_same_slot() {
    let (mut rig, [mut host, mut a, b]) = Rig::with_ports(2);
    rig.send_to_host(&mut a, &mut host, 10);
    let before = rig.port("default/a");
    drop(a);
    let events = rig.tick_until(|_, events| events.contains(&is_up("default/a")));
    let down = EngineEvent::PortDown {
        name: "default/a".into(),
        message: "the far side is gone; it is looked for again".into(),
    };
    assert!(events.contains(&down));
    let mut a = rig.peer("default/a");
    rig.send_to_host(&mut a, &mut host, 5);
    let after = rig.port("default/a");
    assert_eq!(after.port, before.port);
    // It is the same port all along, and so are its counters.
    assert_eq!(after.totals.forwarded, 15);
    drop((host, a, b));
    rig.finish();
}

#[test]
fn a_port_on_the_interface_of_a_removed_one_waits_until_that_is_closed() {
    let (mut rig, peers) = Rig::with_ports(2);
    rig.apply(vec![pod_on("veth7", "default/c", 4)], &[]).unwrap();
    let c = rig.peer("default/c");
    let applied = rig.apply(vec![pod_on("veth7", "default/d", 5)], &["default/c"]).unwrap();
    assert_eq!(applied.port_errors, []);
    assert_eq!(rig.port("default/d").state, PortState::Up);
    assert!(!c.is_steered());
    drop((peers, c, rig.peer("default/d")));
    rig.finish();
}

#[test]
fn the_engine_stops_while_a_port_is_being_opened() {
    let (mut rig, peers) = Rig::with_ports(1);
    rig.orders.block(true);
    rig.apply(vec![pod("default/c", 4)], &[]).unwrap();
    rig.orders.block(false);
    drop(peers);
    rig.finish();
}
