//! A full table: what it costs, how far it fills, what gives way.

use flowtable::{
    Config, ConfigView, Direction, Family, FlowRef, FlowTable, FlowWorker, FragmentKey,
    InsertOutcome, Lookup, NewConnection, PacketFacts, ScopeVersions, TICKS_PER_SECOND, TcpFlags,
    Ticks,
};

use crate::fixture::{
    DATAGRAM, Verb, config, insert, inserted, key4, look, new_connection, table, tcp, udp, udp6,
};

const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);

#[test]
fn a_direction_takes_at_most_128_bytes_for_ipv4_and_160_for_ipv6() {
    for connections in [1 << 16, 1 << 20] {
        // With room for a fragmented datagram for every sixteenth connection.
        let fragments_max = connections / 16;
        let only = |ipv4_connections_max, ipv6_connections_max| {
            let config =
                Config { ipv4_connections_max, ipv6_connections_max, fragments_max, ..config(0) };
            let table: FlowTable<Verb> = FlowTable::create(&config).unwrap();
            table.region_bytes().div_ceil(2 * connections as usize)
        };
        let (ipv4, ipv6) = (only(connections, 0), only(0, connections));
        println!("{connections} connections: {ipv4} and {ipv6} bytes a direction");
        assert!(ipv4 <= 128, "{ipv4} bytes for IPv4");
        assert!(ipv6 <= 160, "{ipv6} bytes for IPv6");
    }
}

#[test]
fn a_table_can_be_filled_to_its_capacity() {
    for connections in [1u32, 16, 300, 20_000] {
        let table = table(connections);
        let mut worker = table.worker(0).unwrap();
        for number in 0..connections {
            inserted(&table, &mut worker, udp(number));
            inserted(&table, &mut worker, udp6(number));
        }
        let counters = table.counters();
        let evicted = counters.evicted_oldest + counters.evicted_half_open;
        // In a table of a few buckets two full ones in a row are not rare; then the bucket's oldest
        // gives way.
        let tolerated = if connections < 1000 { u64::from(connections / 20) } else { 0 };
        assert!(evicted <= tolerated, "{evicted} of {connections} evicted before it was full");
        let scopes = ScopeVersions::new(0);
        let config = ConfigView { version: 1, scopes: &scopes };
        let missed = (0..connections).filter(|&number| {
            [udp(number), udp(number).reversed(), udp6(number)]
                .iter()
                .any(|key| look(&table, &mut worker, key, config) == Lookup::Miss)
        });
        assert!(missed.count() as u64 <= evicted);
    }
}

#[test]
fn a_full_table_evicts_and_stays_at_its_capacity() {
    let table = table(100);
    let mut worker = table.worker(0).unwrap();
    for number in 0..5_000 {
        inserted(&table, &mut worker, udp(number));
        worker.quiesce();
        assert!(table.len() <= 100);
    }
    assert_eq!(table.len(), 100);
    assert_eq!(table.counters().inserted, 5_000);
    // The other family has its own room.
    inserted(&table, &mut worker, udp6(1));
    assert_eq!(table.len(), 101);
    assert_eq!((table.capacity(Family::V4), table.capacity(Family::V6)), (100, 100));
}

/// Opens TCP connection `number`, up to and with the given packets of its life.
fn open(
    table: &FlowTable<Verb>,
    worker: &mut FlowWorker<Verb>,
    number: u32,
    now: Ticks,
    packets: &[(Direction, PacketFacts)],
) {
    let key = key4(6, number);
    let (_, first) = packets[0];
    let new = NewConnection { now, ..new_connection(table, key, key.reversed(), &first) };
    let InsertOutcome::Inserted(forward) = worker.insert_pair(&new) else { panic!("not inserted") };
    let scopes = ScopeVersions::new(0);
    let config = ConfigView { version: 1, scopes: &scopes };
    for (direction, facts) in packets {
        let flow: FlowRef = match direction {
            Direction::Forward => forward,
            Direction::Reply => match look(table, worker, &key.reversed(), config) {
                Lookup::Hit(flow) => flow,
                other => panic!("{other:?}"),
            },
        };
        assert!(worker.record(flow, facts, now).is_some());
    }
}

#[test]
fn what_is_closing_gives_way_first_then_the_half_open_then_the_longest_idle() {
    use Direction::{Forward, Reply};
    let table = table(6);
    let mut worker = table.worker(0).unwrap();
    let handshake = [
        (Forward, tcp(TcpFlags::SYN, 10, 0)),
        (Reply, tcp(SYN_ACK, 20, 11)),
        (Forward, tcp(TcpFlags::ACK, 11, 21)),
    ];
    let closing = [&handshake[..], &[(Forward, tcp(TcpFlags::FIN.with(TcpFlags::ACK), 11, 21))]];
    let at = |seconds: Ticks| seconds * TICKS_PER_SECOND;
    open(&table, &mut worker, 0, at(30), &handshake);
    open(&table, &mut worker, 1, at(10), &handshake);
    open(&table, &mut worker, 2, at(20), &handshake[..1]);
    open(&table, &mut worker, 3, at(20), &closing.concat());
    open(&table, &mut worker, 4, at(40), &handshake[..2]);
    open(&table, &mut worker, 5, at(20), &handshake);

    let scopes = ScopeVersions::new(0);
    let config = ConfigView { version: 1, scopes: &scopes };
    let mut order = Vec::new();
    for number in 100..106 {
        let present: Vec<u32> = (0..6)
            .filter(|&n| look(&table, &mut worker, &key4(6, n), config) != Lookup::Miss)
            .collect();
        // What replaces them is established, and younger than all of them.
        open(&table, &mut worker, number, at(100), &handshake);
        worker.quiesce();
        order.extend(
            present
                .into_iter()
                .filter(|&n| look(&table, &mut worker, &key4(6, n), config) == Lookup::Miss),
        );
    }
    assert_eq!(order, [3, 2, 4, 1, 5, 0]);
    let counters = table.counters();
    assert_eq!(
        (counters.evicted_closing, counters.evicted_half_open, counters.evicted_oldest),
        (1, 2, 3)
    );
}

#[test]
fn a_worker_that_never_quiesces_makes_inserts_fail_and_nothing_hang() {
    let table = table(64);
    let mut stuck = table.worker(0).unwrap();
    stuck.quiesce();
    let mut worker = table.worker(1).unwrap();
    let mut full = 0;
    for number in 0..20_000 {
        match insert(&table, &mut worker, udp(number), 1) {
            InsertOutcome::Inserted(_) => {}
            InsertOutcome::Full => full += 1,
            other => panic!("{other:?}"),
        }
        worker.quiesce();
    }
    assert!(full > 0);
    assert_eq!(table.counters().full, full);
    // Once it sleeps, nobody waits for it any more.
    stuck.park();
    for _ in 0..32 {
        worker.quiesce();
    }
    for number in 30_000..31_000 {
        inserted(&table, &mut worker, udp(number));
        worker.quiesce();
    }
}

#[test]
fn indices_come_back_from_workers_that_are_gone() {
    let table = table(64);
    for round in 0..200 {
        let mut worker = table.worker(round % 3).unwrap();
        for number in 0..64 {
            let flow = inserted(&table, &mut worker, udp(number));
            worker.remove(flow);
        }
        // It goes with all of them retired and none reused.
    }
    assert!(table.is_empty());
    assert_eq!(table.counters().full, 0);
}

#[test]
fn a_worker_index_is_taken_once() {
    let table = table(64);
    let worker = table.worker(3).unwrap();
    assert!(table.worker(3).is_err());
    assert!(table.worker(flowtable::WORKERS_MAX).is_err());
    drop(worker);
    assert!(table.worker(3).is_ok());
}

#[test]
fn the_fragment_table_is_bounded_and_forgets_the_oldest_of_a_set() {
    let table = table(64);
    let mut worker = table.worker(0).unwrap();
    let key = udp(1);
    let flow = inserted(&table, &mut worker, key);
    worker.record(flow, &DATAGRAM, 0);
    let fragment = |id| FragmentKey::new(1, 17, key.source(), key.destination(), id).unwrap();
    for id in 0..1_000 {
        assert!(worker.fragment_insert(&fragment(id), flow, id));
    }
    let found: Vec<u32> =
        (0..1_000).filter(|&id| worker.fragment_lookup(&fragment(id), 1_000).is_some()).collect();
    assert!(found.len() <= 64 && found.len() > 32, "{}", found.len());
    // The newest of each set is there: the last sixteenth of the numbers is found far more often
    // than not.
    assert!(found.iter().filter(|&&id| id >= 936).count() > 40, "{found:?}");
    assert!(FragmentKey::new(1, 17, key.source(), udp6(1).source(), 0).is_none());
}
