//! One test for each claim of `docs/design/0002-flow-table.md` about memory ordering, over all
//! interleavings.
//!
//! `scripts/lib/test-loom` runs each as it is, and once with each mutation of its claim, which it
//! must catch.
//!
//! Where one side only reads, it runs in the spawned thread, so that loom sees the writes first: it
//! then tries every older value that each load may return. (The other way round it misses
//! interleavings: of the accesses to an atomic it remembers the last one only, and the writer's own
//! loads hide the reader's.)

use std::net::Ipv4Addr;

use loom::{model::Builder, thread};

use crate::{
    Action, Config, ConfigView, FlowKey, FlowRef, FlowTable, FlowWorker, InsertOutcome, Lookup,
    Memory, NewConnection, PacketFacts, Removal, Revalidation, ScopeId, ScopeVersions, Scopes,
    Tracking, TransportFacts,
    bucket::LockedBuckets,
    entry::Direction,
    fragments::{FragmentKey, FragmentOwner, FragmentSet},
    free_list::{FreeList, Links},
    sync::{Arc, AtomicU32},
};

const DATAGRAM: PacketFacts = PacketFacts { bytes: 100, transport: TransportFacts::Datagram };
const SCOPE: ScopeId = ScopeId(3);
const SCOPES: Scopes = Scopes([SCOPE, ScopeId::NONE, ScopeId::NONE, ScopeId::NONE]);

#[derive(Clone, Copy, Debug, Eq, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Verb([u64; 4]);

impl Action for Verb {
    const LAYOUT: u32 = 1;
}

/// An action whose every word tells which connection, direction and version it was made for.
fn verb(port: u64, direction: Direction, version: u32) -> Verb {
    Verb([(port << 40) | ((direction as u64) << 32) | u64::from(version); 4])
}

fn verbs(port: u64, version: u32) -> [Verb; 2] {
    [verb(port, Direction::Forward, version), verb(port, Direction::Reply, version)]
}

fn key(port: u16) -> FlowKey {
    FlowKey::v4(0, 17, (Ipv4Addr::new(10, 0, 0, 1), port), (Ipv4Addr::new(10, 0, 0, 2), 53))
}

fn table() -> Arc<FlowTable<Verb>> {
    table_of(1)
}

fn table_of(connections: u32) -> Arc<FlowTable<Verb>> {
    let config = Config {
        ipv4_connections_max: connections,
        ipv6_connections_max: 0,
        fragments_max: 1,
        hash_key: [1, 2],
        memory: Memory::Heap,
        tracking: Tracking::default(),
    };
    Arc::new(FlowTable::create(&config).unwrap())
}

fn insert(
    table: &FlowTable<Verb>,
    worker: &mut FlowWorker<Verb>,
    forward: FlowKey,
    version: u32,
) -> InsertOutcome {
    let reply = forward.reversed();
    worker.insert_pair(&NewConnection {
        forward,
        reply,
        forward_hash: table.hash(&forward),
        reply_hash: table.hash(&reply),
        actions: verbs(u64::from(forward.source_port()), version),
        version,
        scopes: SCOPES,
        facts: &DATAGRAM,
        now: 0,
    })
}

fn inserted(table: &FlowTable<Verb>, worker: &mut FlowWorker<Verb>, key: FlowKey) -> FlowRef {
    match insert(table, worker, key, 1) {
        InsertOutcome::Inserted(flow) => flow,
        other => panic!("{other:?}"),
    }
}

fn look(
    table: &FlowTable<Verb>,
    worker: &mut FlowWorker<Verb>,
    key: &FlowKey,
    config: ConfigView<'_>,
) -> Lookup {
    let mut out = [Lookup::Miss];
    worker.lookup_burst(&[*key], &[table.hash(key)], config, &mut out);
    out[0]
}

fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(model);
}

/// Claim 1: `publish_index`.
#[test]
fn whoever_finds_an_index_finds_the_entry_written() {
    explore(2, || {
        let table = table();
        let scopes = ScopeVersions::new(0);
        scopes.touch(SCOPE, 2);
        let mut worker = table.worker(0).unwrap();
        let mut reader = table.worker(1).unwrap();
        reader.quiesce();
        let reading = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                // Compiled under version 1, and its scope was touched in version 2: whoever sees
                // less than all of it could take it for current.
                let config = ConfigView { version: 2, scopes: &scopes };
                match look(&table, &mut reader, &key(1), config) {
                    Lookup::Hit(flow) => panic!("{flow:?} is taken for current"),
                    Lookup::Stale(flow) => {
                        let recorded = reader.record(flow, &DATAGRAM, 0).unwrap();
                        assert_eq!(recorded.action, verb(1, Direction::Forward, 1));
                    }
                    Lookup::Miss => {}
                }
            }
        });
        inserted(&table, &mut worker, key(1));
        reading.join().unwrap();
    });
}

/// Claim 2: `unlock_bucket`, `search_under_lock`.
#[test]
fn the_first_packets_of_both_directions_end_with_one_connection() {
    explore(2, || {
        let table = table_of(2);
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || insert(&table, &mut table.worker(0).unwrap(), key(1).reversed(), 1)
        });
        let mut worker = table.worker(1).unwrap();
        let mine = insert(&table, &mut worker, key(1), 1);
        let theirs = other.join().unwrap();
        match (mine, theirs) {
            (InsertOutcome::Inserted(_), InsertOutcome::Adopted(flow))
            | (InsertOutcome::Adopted(flow), InsertOutcome::Inserted(_)) => {
                assert_eq!(flow.direction(), Direction::Reply);
            }
            // A lock that is held for long is given up.
            (InsertOutcome::Inserted(_), InsertOutcome::Contended)
            | (InsertOutcome::Contended, InsertOutcome::Inserted(_)) => {}
            both => panic!("{both:?}"),
        }
        assert_eq!(table.len(), 1);
    });
}

/// Claim 2: `lock_bucket`.
#[test]
fn a_removal_ends_what_is_being_revalidated() {
    explore(2, || {
        let table = table();
        let mut worker = table.worker(0).unwrap();
        let flow = inserted(&table, &mut worker, key(1));
        let mut remover = table.worker(1).unwrap();
        remover.quiesce();
        let removing = thread::spawn(move || (remover.remove(flow), remover));
        let renewed = worker.revalidate(flow, &verbs(1, 2), 2, SCOPES);
        let (removed, _remover) = removing.join().unwrap();
        assert!(
            matches!(renewed, Revalidation::Gone | Revalidation::Deferred)
                || matches!(renewed, Revalidation::Revalidated(_)),
            "{renewed:?}"
        );
        let scopes = ScopeVersions::new(0);
        let config = ConfigView { version: 1, scopes: &scopes };
        let found = [key(1), key(1).reversed()].map(|key| look(&table, &mut worker, &key, config));
        match removed {
            Removal::Removed => assert_eq!(found, [Lookup::Miss; 2]),
            Removal::Deferred => assert!(!found.contains(&Lookup::Miss)),
            Removal::Gone => panic!("it was there"),
        }
    });
}

/// Removes a connection, and inserts another one that takes its place as soon as it may.
fn replace(table: &FlowTable<Verb>, worker: &mut FlowWorker<Verb>, flow: FlowRef) {
    assert_eq!(worker.remove(flow), Removal::Removed);
    for _ in 0..3 {
        worker.quiesce();
    }
    inserted(table, worker, key(2));
}

/// Whatever is found under a connection's key is that connection's.
fn find_own(table: &FlowTable<Verb>, reader: &mut FlowWorker<Verb>) {
    let scopes = ScopeVersions::new(0);
    let config = ConfigView { version: 1, scopes: &scopes };
    if let Lookup::Hit(found) = look(table, reader, &key(1), config)
        && let Some(recorded) = reader.record(found, &DATAGRAM, 0)
    {
        assert_eq!(recorded.action, verb(1, Direction::Forward, 1));
        assert_eq!(reader.original_key(found).unwrap_or(key(1)), key(1));
    }
}

/// Claim 3: `grace_epochs`, `fence_online`.
#[test]
fn an_entry_is_not_reused_while_somebody_may_read_it() {
    explore(2, || {
        let table = table();
        let mut worker = table.worker(0).unwrap();
        let flow = inserted(&table, &mut worker, key(1));
        let mut reader = table.worker(1).unwrap();
        let replacing = thread::spawn({
            let table = Arc::clone(&table);
            move || replace(&table, &mut worker, flow)
        });
        find_own(&table, &mut reader);
        replacing.join().unwrap();
    });
}

/// Claim 3: `fence_online`, with the removal first.
#[test]
fn a_worker_that_comes_online_does_not_find_what_was_removed_before() {
    explore(2, || {
        let table = table();
        let mut worker = table.worker(0).unwrap();
        let flow = inserted(&table, &mut worker, key(1));
        let mut reader = table.worker(1).unwrap();
        let reading = thread::spawn({
            let table = Arc::clone(&table);
            move || find_own(&table, &mut reader)
        });
        replace(&table, &mut worker, flow);
        reading.join().unwrap();
    });
}

/// Claim 4: `newest_wins`.
#[test]
fn the_newest_version_wins_whoever_is_last() {
    explore(2, || {
        let table = table();
        let mut worker = table.worker(0).unwrap();
        let flow = inserted(&table, &mut worker, key(1));
        let older = thread::spawn(move || {
            let mut worker = worker;
            (worker.revalidate(flow, &verbs(1, 2), 2, SCOPES), worker)
        });
        let mut newest = table.worker(1).unwrap();
        let mine = newest.revalidate(flow, &verbs(1, 3), 3, SCOPES);
        let (_, _worker) = older.join().unwrap();
        let scopes = ScopeVersions::new(0);
        let config = ConfigView { version: 1, scopes: &scopes };
        for (key, direction) in
            [(key(1), Direction::Forward), (key(1).reversed(), Direction::Reply)]
        {
            let Lookup::Hit(flow) = look(&table, &mut newest, &key, config) else { panic!() };
            let recorded = newest.record(flow, &DATAGRAM, 0).unwrap();
            match mine {
                Revalidation::Revalidated(_) => assert_eq!(recorded.action, verb(1, direction, 3)),
                Revalidation::Deferred => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

/// Claim 4: `judge_before_restamp`. Whichever of two workers stamps last.
#[test]
fn stamps_of_two_versions_hide_no_touch_and_invent_none() {
    explore(2, || {
        let table = table();
        let mut worker = table.worker(0).unwrap();
        inserted(&table, &mut worker, key(1));
        let older = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                let scopes = ScopeVersions::new(0);
                look(&table, &mut worker, &key(1), ConfigView { version: 2, scopes: &scopes });
            }
        });
        let scopes = ScopeVersions::new(0);
        let mut newest = table.worker(1).unwrap();
        look(&table, &mut newest, &key(1), ConfigView { version: 3, scopes: &scopes });
        older.join().unwrap();
        // It was right under both versions, and is so under a later one.
        let config = ConfigView { version: 4, scopes: &scopes };
        assert!(matches!(look(&table, &mut newest, &key(1), config), Lookup::Hit(_)));
        // What is touched from then on is seen, by whomever it was stamped.
        scopes.touch(SCOPE, 5);
        let config = ConfigView { version: 5, scopes: &scopes };
        for _ in 0..2 {
            assert!(matches!(look(&table, &mut newest, &key(1), config), Lookup::Stale(_)));
        }
    });
}

/// Claim 9: `publish_end`. A lookup during a swap sees the old action or the new one, whole.
#[test]
fn a_lookup_during_a_revalidation_sees_one_action_or_the_other() {
    explore(2, || {
        let table = table();
        let mut worker = table.worker(0).unwrap();
        let flow = inserted(&table, &mut worker, key(1));
        let mut reader = table.worker(1).unwrap();
        reader.quiesce();
        let swapper = thread::spawn(move || {
            let outcome = worker.revalidate(flow, &verbs(1, 2), 2, SCOPES);
            assert!(matches!(outcome, Revalidation::Revalidated(_)), "{outcome:?}");
        });
        let scopes = ScopeVersions::new(0);
        let config = ConfigView { version: 1, scopes: &scopes };
        let Lookup::Hit(flow) = look(&table, &mut reader, &key(1), config) else { panic!() };
        let action = reader.record(flow, &DATAGRAM, 0).unwrap().action;
        assert!(
            action == verb(1, Direction::Forward, 1) || action == verb(1, Direction::Forward, 2),
            "{action:?}"
        );
        swapper.join().unwrap();
    });
}

/// Claim 5: `recheck_fragment`, `fence_fragment`.
#[test]
fn a_fragment_is_never_read_half_written() {
    explore(3, || {
        let set = Arc::new(FragmentSet::default());
        let keys = [1u32, 2].map(|identification| {
            let (source, destination) = (Ipv4Addr::LOCALHOST.into(), Ipv4Addr::BROADCAST.into());
            FragmentKey::new(0, 17, source, destination, identification).unwrap()
        });
        let owner =
            |connection| FragmentOwner { connection, generation: 1, direction: Direction::Forward };
        assert!(set.insert(&keys[0], owner(1), 0));
        let reading = thread::spawn({
            let set = Arc::clone(&set);
            move || {
                for (key, connection) in keys.iter().zip(1..) {
                    if let Some(found) = set.find(key, 0) {
                        assert_eq!(found, owner(connection));
                    }
                }
            }
        });
        set.insert(&keys[1], owner(2), 0);
        reading.join().unwrap();
    });
}

struct Linked([AtomicU32; 3]);

impl Links for Linked {
    fn link(&self, index: u32) -> Option<&AtomicU32> {
        self.0.get(index as usize)
    }
}

/// Claim 6: `tag_head`, `exchange_head`.
#[test]
fn a_free_index_is_handed_out_once() {
    explore(3, || {
        let shared = Arc::new((FreeList::default(), Linked(Default::default())));
        let (list, links) = &*shared;
        for index in 0..3 {
            assert!(list.push(links, &[index]));
        }
        let pop = |(list, links): &(FreeList, Linked)| {
            let mut taken = [0];
            (list.pop(links, &mut taken) == 1).then_some(taken[0])
        };
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || pop(&shared)
        });
        // Two are taken and the first goes back: the head is what it was, and the list is not.
        let first = pop(&shared);
        let second = pop(&shared);
        if let Some(index) = first {
            assert!(list.push(links, &[index]));
        }
        let mut held: Vec<u32> = [second, other.join().unwrap()].into_iter().flatten().collect();
        while let Some(index) = pop(&shared) {
            held.push(index);
            assert!(held.len() <= 3, "{held:?}");
        }
        held.sort_unstable();
        assert_eq!(held, [0, 1, 2]);
    });
}

/// Moves a key from the bucket that it lies in to its other one.
fn move_key(table: &FlowTable<Verb>, key: &FlowKey, flow: FlowRef) {
    let store = table.store();
    let place = store.place_of(table.hash(key), flow.entry).unwrap();
    let locked = LockedBuckets::lock(&store.buckets, [place.bucket; 4]).unwrap();
    assert!(store.move_away(&locked, place));
}

/// Looks a key up that is there, while it moves for the last of so many times.
fn look_while_moving(moves: usize) {
    let table = table();
    let mut worker = table.worker(0).unwrap();
    let flow = inserted(&table, &mut worker, key(1));
    for _ in 1..moves {
        move_key(&table, &key(1), flow);
    }
    let mut reader = table.worker(1).unwrap();
    reader.quiesce();
    let reading = thread::spawn({
        let table = Arc::clone(&table);
        move || {
            let scopes = ScopeVersions::new(0);
            let config = ConfigView { version: 1, scopes: &scopes };
            assert!(matches!(look(&table, &mut reader, &key(1), config), Lookup::Hit(_)));
        }
    });
    move_key(&table, &key(1), flow);
    reading.join().unwrap();
}

/// Claim 7: `recheck_moved`.
#[test]
fn a_key_that_moves_to_its_other_bucket_is_not_missed() {
    explore(2, || look_while_moving(1));
}

/// Claim 7: `recheck_moved`, `publish_strays`.
#[test]
fn a_key_that_moves_back_to_its_first_bucket_is_not_missed() {
    explore(2, || look_while_moving(2));
}

/// Claim 8: `publish_life`. An operator finds connections by their number, not through a bucket.
#[test]
fn whoever_finds_a_connection_alive_finds_it_written() {
    explore(2, || {
        let table = table();
        let mut worker = table.worker(0).unwrap();
        let reading = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                table.for_each_connection(0, |view| {
                    assert_eq!((view.forward, view.reply), (key(1), key(1).reversed()));
                    assert_eq!(view.actions, verbs(1, 1));
                });
            }
        });
        inserted(&table, &mut worker, key(1));
        reading.join().unwrap();
    });
}
