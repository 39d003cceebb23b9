//! The life of a connection: first packet, answer, change of configuration, end.

use flowtable::{
    ConfigView, ConnectionState, Direction, FlowKey, FragmentKey, InsertOutcome, Lookup, Removal,
    Revalidation, ScopeId, ScopeVersions, Verdict,
};

use crate::fixture::{
    DATAGRAM, SCOPES, actions, insert, insert_nat, inserted, look, table, udp, udp6,
};

#[test]
fn both_directions_of_an_inserted_pair_are_found_in_both_families() {
    let (table, scopes) = (table(64), ScopeVersions::new(0));
    let config = ConfigView { version: 1, scopes: &scopes };
    let mut worker = table.worker(0).unwrap();
    for key in [udp(1000), udp6(1000)] {
        assert_eq!(look(&table, &mut worker, &key, config), Lookup::Miss);
        let flow = inserted(&table, &mut worker, key);
        assert_eq!(flow.direction(), Direction::Forward);
        let first = worker.record(flow, &DATAGRAM, 5).unwrap();
        assert_eq!((first.action, first.verdict), (actions(1)[0], Verdict::New));
        assert_eq!(look(&table, &mut worker, &key, config), Lookup::Hit(flow));
        let Lookup::Hit(reply) = look(&table, &mut worker, &key.reversed(), config) else {
            panic!()
        };
        assert_eq!(reply.direction(), Direction::Reply);
        let answer = worker.record(reply, &DATAGRAM, 6).unwrap();
        assert_eq!((answer.action, answer.verdict), (actions(1)[1], Verdict::Established));
        assert_eq!(worker.original_key(reply), Some(key));
        assert_eq!(worker.reply_key(flow), Some(key.reversed()));
    }
    assert_eq!(table.len(), 2);
    let mut seen = Vec::new();
    table.for_each_connection(10, |view| seen.push(*view));
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|view| view.state == ConnectionState::Established));
    assert!(seen.iter().all(|view| view.idle == 4 && view.reply == view.forward.reversed()));
}

#[test]
fn a_lookup_that_was_asked_for_ahead_finds_the_same() {
    let (table, scopes) = (table(64), ScopeVersions::new(0));
    let config = ConfigView { version: 1, scopes: &scopes };
    let mut worker = table.worker(0).unwrap();
    for number in 0..30 {
        inserted(&table, &mut worker, udp(number));
        inserted(&table, &mut worker, udp6(number));
    }
    let keys: [FlowKey; 64] = std::array::from_fn(|at| {
        let number = u32::try_from(at).unwrap();
        if at % 2 == 0 { udp(number) } else { udp6(number).reversed() }
    });
    let hashes = keys.each_ref().map(|key| table.hash_ahead(key));
    assert_eq!(hashes, keys.each_ref().map(|key| table.hash(key)));
    let (mut ahead, mut otherwise) = ([Lookup::Miss; 64], [Lookup::Miss; 64]);
    worker.lookup_prefetched_burst(&keys, &hashes, config, &mut ahead);
    worker.lookup_burst(&keys, &hashes, config, &mut otherwise);
    assert_eq!(ahead, otherwise);
    assert!(ahead[..30].iter().all(|found| matches!(found, Lookup::Hit(_))));
    assert!(ahead[30..].iter().all(|found| *found == Lookup::Miss));
}

#[test]
fn a_packet_of_a_held_flow_is_recorded_like_any_other() {
    let (table, scopes) = (table(64), ScopeVersions::new(0));
    let config = ConfigView { version: 1, scopes: &scopes };
    let mut worker = table.worker(0).unwrap();
    for key in [udp(1000), udp6(1000)] {
        let forward = inserted(&table, &mut worker, key);
        let Lookup::Hit(reply) = look(&table, &mut worker, &key.reversed(), config) else {
            panic!()
        };
        let flows = [forward, forward, reply, forward, reply];
        let verdicts = flows.map(|flow| {
            let held = worker.hold(&flow).unwrap();
            assert_eq!(held.action, actions(1)[usize::from(flow == reply)]);
            held.record(&DATAGRAM, 5).unwrap()
        });
        let (new, established) = (Verdict::New, Verdict::Established);
        assert_eq!(verdicts, [new, new, established, established, established]);
        worker.remove(forward);
        assert!(worker.hold(&reply).is_none());
    }
}

#[test]
fn the_second_insert_of_a_pair_adopts_the_first_from_either_side() {
    let table = table(64);
    let (mut one, mut other) = (table.worker(0).unwrap(), table.worker(1).unwrap());
    let flow = inserted(&table, &mut one, udp(1));
    assert_eq!(insert(&table, &mut other, udp(1), 1), InsertOutcome::Adopted(flow));
    let InsertOutcome::Adopted(reply) = insert(&table, &mut other, udp(1).reversed(), 1) else {
        panic!()
    };
    assert_eq!(reply.direction(), Direction::Reply);
    assert!(matches!(insert(&table, &mut other, udp(1), 2), InsertOutcome::Outdated(_)));
    assert_eq!(table.len(), 1);
}

#[test]
fn a_reply_key_of_another_connection_is_a_collision() {
    let table = table(64);
    let mut worker = table.worker(0).unwrap();
    inserted(&table, &mut worker, udp(1));
    let outcome = insert_nat(&table, &mut worker, udp(2), udp(1).reversed(), 1);
    assert_eq!(outcome, InsertOutcome::ReplyCollision);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_change_elsewhere_restamps_and_a_change_of_a_scope_makes_stale() {
    let (table, scopes) = (table(64), ScopeVersions::new(0));
    let mut worker = table.worker(0).unwrap();
    let key = udp(1);
    let flow = inserted(&table, &mut worker, key);
    scopes.touch(ScopeId(4), 2);
    let second = ConfigView { version: 2, scopes: &scopes };
    assert_eq!(look(&table, &mut worker, &key, second), Lookup::Hit(flow));
    assert_eq!(table.counters().restamped, 1);
    assert_eq!(look(&table, &mut worker, &key, second), Lookup::Hit(flow));
    assert_eq!(table.counters().restamped, 1);

    scopes.touch(ScopeId(9), 3);
    let third = ConfigView { version: 3, scopes: &scopes };
    assert_eq!(look(&table, &mut worker, &key, third), Lookup::Stale(flow));
    let Revalidation::Revalidated(renewed) = worker.revalidate(flow, &actions(3), 3, SCOPES) else {
        panic!()
    };
    assert_eq!(look(&table, &mut worker, &key, third), Lookup::Hit(renewed));
    let Lookup::Hit(reply) = look(&table, &mut worker, &key.reversed(), third) else { panic!() };
    assert_eq!(worker.record(reply, &DATAGRAM, 0).unwrap().action, actions(3)[1]);
    // A reference from before the swap leads to the same connection, and an older snapshot does not
    // win.
    assert!(worker.record(flow, &DATAGRAM, 0).is_some());
    assert_eq!(worker.revalidate(flow, &actions(2), 2, SCOPES), Revalidation::Newer(renewed));
}

#[test]
fn a_removed_connection_is_found_by_nobody_and_its_references_lead_nowhere() {
    let (table, scopes) = (table(64), ScopeVersions::new(0));
    let config = ConfigView { version: 1, scopes: &scopes };
    let mut worker = table.worker(0).unwrap();
    let flow = inserted(&table, &mut worker, udp(1));
    assert_eq!(worker.remove(flow), Removal::Removed);
    assert_eq!(worker.remove(flow), Removal::Gone);
    assert_eq!(worker.revalidate(flow, &actions(2), 2, SCOPES), Revalidation::Gone);
    assert!(worker.record(flow, &DATAGRAM, 0).is_none());
    assert_eq!(look(&table, &mut worker, &udp(1), config), Lookup::Miss);
    assert_eq!(look(&table, &mut worker, &udp(1).reversed(), config), Lookup::Miss);
    assert!(table.is_empty());
}

#[test]
fn an_idle_connection_expires_and_a_busy_one_does_not() {
    let table = table(64);
    let mut worker = table.worker(0).unwrap();
    let idle = inserted(&table, &mut worker, udp(1));
    worker.record(idle, &DATAGRAM, 0);
    let busy = inserted(&table, &mut worker, udp(2));
    worker.record(busy, &DATAGRAM, 11_000);
    assert_eq!(worker.expire(11_999, u32::MAX).expired, 0);
    assert_eq!(worker.expire(12_000, u32::MAX).expired, 1);
    assert!(worker.record(idle, &DATAGRAM, 12_000).is_none());
    assert!(worker.record(busy, &DATAGRAM, 12_000).is_some());
}

#[test]
fn a_later_fragment_finds_the_flow_of_the_first_until_the_connection_ends() {
    let table = table(64);
    let mut worker = table.worker(0).unwrap();
    let key = udp(1);
    let flow = inserted(&table, &mut worker, key);
    let fragment = FragmentKey::new(1, 17, key.source(), key.destination(), 99).unwrap();
    assert_eq!(worker.fragment_lookup(&fragment, 0), None);
    assert!(worker.fragment_insert(&fragment, flow, 0));
    assert_eq!(worker.fragment_lookup(&fragment, 2999), Some(flow));
    assert_eq!(worker.fragment_lookup(&fragment, 3000), None);
    assert!(worker.fragment_insert(&fragment, flow, 5000));
    worker.remove(flow);
    assert_eq!(worker.fragment_lookup(&fragment, 5000), None);
}
