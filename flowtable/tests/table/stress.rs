//! Several workers at once on a table that is too small for them, with checks on every value read.
//!
//! Every word of an action tells the key and the version it was made for, and the scopes carry the
//! version too: an entry that was read torn, or was reused while it was read, does not fit the key
//! that led to it.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use flowtable::{
    ConfigView, Direction, FlowHash, FlowKey, FlowTable, FlowWorker, FragmentKey, InsertOutcome,
    Lookup, NewConnection, Revalidation, ScopeId, ScopeVersions, Scopes,
};

use crate::fixture::{DATAGRAM, Verb, key4, key6, new_connection, table};

/// Connections that the workers fight over: three times what the table holds.
const KEYS: u32 = 768;
const CAPACITY: u32 = 128;
const BURST: usize = 32;

/// Polls of all workers that it runs for at least.
const POLLS_MIN: u32 = 200;

/// How long it runs: a budget, not a synchronisation; less of it checks less.
/// `FLOWTABLE_STRESS_SECONDS` asks for more.
const SHORT: Duration = Duration::from_millis(1500);

/// An action that belongs to one key, direction and version only.
fn verb(number: u32, direction: Direction, version: u32) -> Verb {
    let word = (u64::from(number) << 33) | ((direction as u64) << 32) | u64::from(version);
    Verb([word, word ^ 0x5555, word ^ 0xaaaa_0000, word.rotate_left(7)])
}

/// The version that an action was made for, if it is whole and belongs to this key and direction.
fn version_of(action: Verb, number: u32, direction: Direction) -> Option<u32> {
    let Verb([word, ..]) = action;
    let version = u32::try_from(word & 0xffff_ffff).ok()?;
    (action == verb(number, direction, version)).then_some(version)
}

fn key_of(number: u32) -> FlowKey {
    if number.is_multiple_of(3) { key6(17, number) } else { key4(17, number) }
}

struct Shared {
    table: FlowTable<Verb>,
    scopes: ScopeVersions,
    version: AtomicU32,
    polls: AtomicU32,
    stop: AtomicBool,
    start: Barrier,
}

/// A small generator of numbers, so that runs with one seed are alike as far as threads allow.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(limit)).unwrap_or(0)
    }
}

struct Tester<'a> {
    shared: &'a Shared,
    worker: FlowWorker<Verb>,
    random: Random,
    version: u32,
    checked: u64,
}

impl Tester<'_> {
    fn run(mut self) -> u64 {
        self.shared.start.wait();
        let mut polls = 0u32;
        while !self.shared.stop.load(SeqCst) {
            self.worker.quiesce();
            self.version = self.shared.version.load(SeqCst);
            self.burst(polls);
            polls = polls.wrapping_add(1);
            self.shared.polls.fetch_add(1, SeqCst);
            if polls.is_multiple_of(16) {
                self.worker.expire(polls / 4, 64);
            }
            if self.random.below(200) == 0 {
                self.worker.park();
            }
        }
        self.checked
    }

    fn burst(&mut self, now: u32) {
        let picked: [(u32, Direction); BURST] = std::array::from_fn(|_| {
            let direction =
                if self.random.below(2) == 0 { Direction::Forward } else { Direction::Reply };
            (self.random.below(KEYS), direction)
        });
        let keys = picked.map(|(number, direction)| match direction {
            Direction::Forward => key_of(number),
            Direction::Reply => key_of(number).reversed(),
        });
        let hashes: [FlowHash; BURST] = keys.each_ref().map(|key| self.shared.table.hash(key));
        let config = ConfigView { version: self.version, scopes: &self.shared.scopes };
        let mut found = [Lookup::Miss; BURST];
        self.worker.lookup_burst(&keys, &hashes, config, &mut found);
        for ((number, direction), found) in picked.into_iter().zip(found) {
            match found {
                Lookup::Miss if direction == Direction::Forward => self.insert(number, now),
                Lookup::Miss => {}
                Lookup::Hit(flow) | Lookup::Stale(flow) => {
                    assert_eq!(flow.direction(), direction, "of connection {number}");
                    if let Some(recorded) = self.worker.record(flow, &DATAGRAM, now) {
                        let version = version_of(recorded.action, number, direction);
                        assert!(
                            version.is_some(),
                            "connection {number} has {:x?}",
                            recorded.action
                        );
                        self.checked += 1;
                    }
                    if let Some(key) = self.worker.original_key(flow) {
                        assert_eq!(key, key_of(number));
                    }
                    if matches!(found, Lookup::Stale(_)) {
                        self.revalidate(flow, number);
                    } else if self.random.below(40) == 0 {
                        self.worker.remove(flow);
                    }
                    self.fragment(flow, number, now);
                }
            }
        }
    }

    fn insert(&mut self, number: u32, now: u32) {
        let forward = key_of(number);
        let version = self.version;
        let new = NewConnection {
            actions: verbs(number, version),
            version,
            scopes: scopes_of(number),
            now,
            ..new_connection(&self.shared.table, forward, forward.reversed(), &DATAGRAM)
        };
        match self.worker.insert_pair(&new) {
            InsertOutcome::Inserted(flow)
            | InsertOutcome::Adopted(flow)
            | InsertOutcome::Outdated(flow) => {
                if let Some(recorded) = self.worker.record(flow, &DATAGRAM, now) {
                    assert!(version_of(recorded.action, number, Direction::Forward).is_some());
                }
            }
            InsertOutcome::Full | InsertOutcome::Contended => {}
            other => panic!("{other:?}"),
        }
    }

    fn revalidate(&mut self, flow: flowtable::FlowRef, number: u32) {
        let version = self.version;
        let outcome =
            self.worker.revalidate(flow, &verbs(number, version), version, scopes_of(number));
        let (Revalidation::Revalidated(flow) | Revalidation::Newer(flow)) = outcome else { return };
        let Some(actions) = self.worker.actions(flow) else { return };
        for (action, direction) in actions.into_iter().zip([Direction::Forward, Direction::Reply]) {
            let held = version_of(action, number, direction);
            // What this worker wrote may have been replaced by something newer, never by something
            // older. (What it found may have been made earlier and confirmed since.)
            let least = if matches!(outcome, Revalidation::Newer(_)) { 0 } else { version };
            assert!(held.is_some_and(|held| held >= least), "{held:?} under {version}");
        }
    }

    fn fragment(&mut self, flow: flowtable::FlowRef, number: u32, now: u32) {
        let key = key_of(number);
        let key = FragmentKey::new(1, 17, key.source(), key.destination(), number).unwrap();
        if self.random.below(8) == 0 {
            self.worker.fragment_insert(&key, flow, now);
        } else if let Some(flow) = self.worker.fragment_lookup(&key, now)
            && let Some(original) = self.worker.original_key(flow)
        {
            assert_eq!(original, key_of(number));
        }
    }
}

fn verbs(number: u32, version: u32) -> [Verb; 2] {
    [verb(number, Direction::Forward, version), verb(number, Direction::Reply, version)]
}

fn scopes_of(number: u32) -> Scopes {
    let scope = u16::try_from(1 + number % 8).unwrap_or(1);
    Scopes([ScopeId(scope), ScopeId::NONE, ScopeId::NONE, ScopeId::NONE])
}

/// Runs so many workers for so long; returns how many values were checked.
fn stress(workers: usize, duration: Duration) -> u64 {
    let shared = Shared {
        table: table(CAPACITY),
        scopes: ScopeVersions::new(0),
        version: AtomicU32::new(1),
        polls: AtomicU32::new(0),
        stop: AtomicBool::new(false),
        start: Barrier::new(workers + 1),
    };
    thread::scope(|scope| {
        let handles: Vec<_> = (0..workers)
            .map(|index| {
                let tester = Tester {
                    shared: &shared,
                    worker: shared.table.worker(index).unwrap(),
                    random: Random(index as u64 + 1),
                    version: 1,
                    checked: 0,
                };
                scope.spawn(move || tester.run())
            })
            .collect();
        shared.start.wait();
        let end = Instant::now() + duration;
        let mut scope_number = 0u16;
        // A machine that stalls gets the time it needs for the least that is worth checking.
        let is_due = || Instant::now() >= end && shared.polls.load(SeqCst) >= POLLS_MIN;
        while !is_due() && !handles.iter().any(thread::ScopedJoinHandle::is_finished) {
            // The main thread's part: touch, then publish.
            let version = shared.version.load(SeqCst) + 1;
            scope_number = scope_number % 8 + 1;
            shared.scopes.touch(ScopeId(scope_number), version);
            shared.scopes.advance(version);
            shared.version.store(version, SeqCst);
            let mut seen = 0;
            shared.table.for_each_connection(0, |view| {
                seen += 1;
                let number = u32::from(view.forward.source_port());
                assert_eq!(view.forward, key_of(number));
                for (action, direction) in
                    view.actions.into_iter().zip([Direction::Forward, Direction::Reply])
                {
                    assert!(version_of(action, number, direction).is_some());
                }
                assert_eq!(view.reply, view.forward.reversed());
            });
            assert!(seen <= 4 * CAPACITY, "{seen}");
        }
        shared.stop.store(true, SeqCst);
        let checked = handles.into_iter().map(|handle| handle.join().unwrap()).sum();
        assert!(shared.table.len() <= 2 * CAPACITY);
        checked
    })
}

#[test]
fn nothing_torn_or_recycled_is_ever_seen() {
    let asked = std::env::var("FLOWTABLE_STRESS_SECONDS").ok().and_then(|text| text.parse().ok());
    let checked = stress(3, asked.map_or(SHORT, Duration::from_secs));
    println!("{checked} values checked");
    assert!(checked > 0);
}
