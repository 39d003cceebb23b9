//! The table against a model of it: two hash maps.

use std::collections::HashMap;

use flowtable::{
    ConfigView, Direction, FlowKey, FlowRef, FlowTable, FlowWorker, InsertOutcome, Lookup,
    NewConnection, Removal, Revalidation, ScopeId, ScopeVersions, Scopes, Ticks,
};
use proptest::prelude::*;

use crate::fixture::{DATAGRAM, Verb, key4, key6, look, new_connection, table};

/// Connections that steps choose from, half of each family.
const KEYS: u32 = 24;

/// Scopes that steps choose from.
const SCOPES: u16 = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert { key: u32, reversed: bool, nat: bool, scope: u16, lag: u32 },
    Lookup { key: u32, reversed: bool, lag: u32 },
    Recall { which: usize },
    Revalidate { which: usize, scope: u16, lag: u32 },
    Remove { which: usize },
    Change { scope: u16 },
    Quiesce,
    Expire { elapsed: Ticks },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS;
    let scope = 1..=SCOPES;
    prop_oneof![
        4 => (key.clone(), any::<bool>(), prop::bool::weighted(0.3), scope.clone(), 0u32..2)
            .prop_map(|(key, reversed, nat, scope, lag)| {
                Step::Insert { key, reversed, nat, scope, lag }
            }),
        8 => (key, any::<bool>(), 0u32..2)
            .prop_map(|(key, reversed, lag)| Step::Lookup { key, reversed, lag }),
        4 => any::<usize>().prop_map(|which| Step::Recall { which }),
        3 => (any::<usize>(), scope.clone(), 0u32..2)
            .prop_map(|(which, scope, lag)| Step::Revalidate { which, scope, lag }),
        2 => any::<usize>().prop_map(|which| Step::Remove { which }),
        2 => scope.prop_map(|scope| Step::Change { scope }),
        3 => Just(Step::Quiesce),
        1 => (0..9_000u32).prop_map(|elapsed| Step::Expire { elapsed }),
    ]
}

/// What the model knows about a connection.
#[derive(Clone, Copy)]
struct Known {
    keys: [FlowKey; 2],
    actions: [Verb; 2],
    versions: [u32; 2],
    scope: u16,
    packets: [u64; 2],
    last_seen: Ticks,
}

/// The table, its two workers, and what they should know.
struct Bench {
    table: FlowTable<Verb>,
    workers: [FlowWorker<Verb>; 2],
    turn: usize,
    scopes: ScopeVersions,
    version: u32,
    now: Ticks,
    by_key: HashMap<FlowKey, (u32, Direction)>,
    known: HashMap<u32, Known>,
    next: u32,
    /// References handed out, with what they were for: old ones too.
    refs: Vec<(FlowRef, u32)>,
}

impl Bench {
    fn new() -> Self {
        let table = table(64);
        let workers = [table.worker(0).unwrap(), table.worker(1).unwrap()];
        // Versions wrap in the middle of the run.
        let version = u32::MAX - 3;
        Self {
            table,
            workers,
            turn: 0,
            scopes: ScopeVersions::new(version),
            version,
            now: u32::MAX - 20_000,
            by_key: HashMap::new(),
            known: HashMap::new(),
            next: 0,
            refs: Vec::new(),
        }
    }

    fn keys(key: u32, reversed: bool, nat: bool) -> [FlowKey; 2] {
        let make = if key.is_multiple_of(2) { key4 } else { key6 };
        let forward = make(17, key);
        // Answers of translated connections come to another port, which several connections share.
        let reply = if nat { make(17, 1000 + key % 6).reversed() } else { forward.reversed() };
        if reversed { [reply, forward] } else { [forward, reply] }
    }

    fn run(&mut self, step: Step) {
        self.turn ^= 1;
        match step {
            Step::Insert { key, reversed, nat, scope, lag } => {
                self.insert(Self::keys(key, reversed, nat), scope, lag);
            }
            Step::Lookup { key, reversed, lag } => {
                self.lookup(&Self::keys(key, reversed, false)[0], lag);
            }
            Step::Recall { which } => self.recall(which),
            Step::Revalidate { which, scope, lag } => self.revalidate(which, scope, lag),
            Step::Remove { which } => self.remove(which),
            Step::Change { scope } => {
                self.version = self.version.wrapping_add(1);
                self.scopes.touch(ScopeId(scope), self.version);
            }
            Step::Quiesce => {
                for worker in &mut self.workers {
                    worker.quiesce();
                }
            }
            Step::Expire { elapsed } => self.expire(elapsed),
        }
        assert_eq!(self.table.len() as usize, self.known.len());
    }

    fn insert(&mut self, keys: [FlowKey; 2], scope: u16, lag: u32) {
        let version = self.version.wrapping_sub(lag);
        let number = self.next;
        self.next += 1;
        let actions = [Direction::Forward, Direction::Reply]
            .map(|direction| verb(number, direction, version));
        let new = NewConnection {
            actions,
            version,
            scopes: one(scope),
            now: self.now,
            ..new_connection(&self.table, keys[0], keys[1], &DATAGRAM)
        };
        let outcome = self.workers[self.turn].insert_pair(&new);
        match (self.by_key.get(&keys[0]), self.by_key.get(&keys[1])) {
            (Some(&(owner, direction)), _) => {
                let stamped = self.known[&owner].versions[direction as usize];
                let is_older = stamped.wrapping_sub(version) > u32::MAX / 2;
                let (InsertOutcome::Adopted(flow) | InsertOutcome::Outdated(flow)) = outcome else {
                    panic!("{outcome:?} for a known key")
                };
                assert_eq!(matches!(outcome, InsertOutcome::Outdated(_)), is_older);
                assert_eq!(flow.direction(), direction);
                self.refs.push((flow, owner));
            }
            (None, Some(_)) => assert_eq!(outcome, InsertOutcome::ReplyCollision),
            (None, None) => {
                let InsertOutcome::Inserted(flow) = outcome else { panic!("{outcome:?}") };
                self.by_key.insert(keys[0], (number, Direction::Forward));
                self.by_key.insert(keys[1], (number, Direction::Reply));
                let known = Known {
                    keys,
                    actions,
                    versions: [version; 2],
                    scope,
                    packets: [0; 2],
                    last_seen: self.now,
                };
                self.known.insert(number, known);
                self.refs.push((flow, number));
            }
        }
    }

    fn lookup(&mut self, key: &FlowKey, lag: u32) {
        let version = self.version.wrapping_sub(lag);
        let config = ConfigView { version, scopes: &self.scopes };
        let found = look(&self.table, &mut self.workers[self.turn], key, config);
        let Some(&(owner, direction)) = self.by_key.get(key) else {
            assert_eq!(found, Lookup::Miss);
            return;
        };
        let known = self.known.get_mut(&owner).unwrap();
        let stamped = &mut known.versions[direction as usize];
        let is_older = stamped.wrapping_sub(version) > u32::MAX / 2;
        let is_touched = self.scopes.touched_since(ScopeId(known.scope), *stamped);
        let flow = match found {
            Lookup::Stale(flow) if is_older && is_touched => flow,
            Lookup::Hit(flow) if !is_older || !is_touched => flow,
            other => panic!("{other:?}: older {is_older}, touched {is_touched}"),
        };
        if is_older && !is_touched {
            *stamped = version;
        }
        self.refs.push((flow, owner));
        self.record(flow, owner);
    }

    /// Records a packet by a reference, which may be an old one.
    fn record(&mut self, flow: FlowRef, owner: u32) {
        let recorded = self.workers[self.turn].record(flow, &DATAGRAM, self.now);
        let direction = flow.direction() as usize;
        match self.known.get_mut(&owner) {
            None => assert_eq!(recorded, None),
            Some(known) => {
                known.packets[direction] += 1;
                known.last_seen = self.now;
                assert_eq!(recorded.unwrap().action, known.actions[direction]);
            }
        }
    }

    fn recall(&mut self, which: usize) {
        let Some((flow, owner)) = self.reference(which) else { return };
        // A reference is good until the next quiescent point; one that is older leads to the
        // connection or nowhere, but may show an action that was replaced since.
        let worker = &mut self.workers[self.turn];
        assert_eq!(worker.original_key(flow), self.known.get(&owner).map(|known| known.keys[0]));
        assert_eq!(worker.reply_key(flow), self.known.get(&owner).map(|known| known.keys[1]));
        assert_eq!(worker.actions(flow), self.known.get(&owner).map(|known| known.actions));
    }

    fn revalidate(&mut self, which: usize, scope: u16, lag: u32) {
        let Some((flow, owner)) = self.reference(which) else { return };
        let version = self.version.wrapping_sub(lag);
        let actions =
            [Direction::Forward, Direction::Reply].map(|direction| verb(owner, direction, version));
        let outcome = self.workers[self.turn].revalidate(flow, &actions, version, one(scope));
        let Some(known) = self.known.get_mut(&owner) else {
            assert_eq!(outcome, Revalidation::Gone);
            return;
        };
        let is_older = known.versions.iter().all(|v| v.wrapping_sub(version) > u32::MAX / 2);
        match outcome {
            Revalidation::Revalidated(renewed) if is_older => {
                *known = Known { actions, versions: [version; 2], scope, ..*known };
                self.refs.push((renewed, owner));
            }
            Revalidation::Newer(current) if !is_older => self.refs.push((current, owner)),
            other => panic!("{other:?}, older: {is_older}"),
        }
    }

    fn remove(&mut self, which: usize) {
        let Some((flow, owner)) = self.reference(which) else { return };
        let outcome = self.workers[self.turn].remove(flow);
        if self.known.contains_key(&owner) {
            assert_eq!(outcome, Removal::Removed);
            self.forget(owner);
        } else {
            assert_eq!(outcome, Removal::Gone);
        }
    }

    fn expire(&mut self, elapsed: Ticks) {
        self.now = self.now.wrapping_add(elapsed);
        let expired = self.workers[self.turn].expire(self.now, u32::MAX).expired;
        let idle: Vec<u32> = self
            .known
            .iter()
            .filter(|(_, known)| {
                let limit = if known.packets.contains(&0) { 12_000 } else { 30_000 };
                self.now.wrapping_sub(known.last_seen) >= limit
            })
            .map(|(&number, _)| number)
            .collect();
        assert_eq!(expired as usize, idle.len());
        for number in idle {
            self.forget(number);
        }
    }

    fn forget(&mut self, owner: u32) {
        let known = self.known.remove(&owner).unwrap();
        for key in known.keys {
            self.by_key.remove(&key);
        }
    }

    fn reference(&self, which: usize) -> Option<(FlowRef, u32)> {
        self.refs.get(which.checked_rem(self.refs.len())?).copied()
    }

    /// What an operator sees is what the model knows.
    fn compare(&self) {
        let mut seen = 0;
        self.table.for_each_connection(self.now, |view| {
            seen += 1;
            let (owner, _) = self.by_key[&view.forward];
            let known = &self.known[&owner];
            assert_eq!([view.forward, view.reply], known.keys);
            assert_eq!(view.actions, known.actions);
            let packets = [view.forward_counters.packets, view.reply_counters.packets];
            assert_eq!(packets, known.packets);
            assert_eq!(view.forward_counters.bytes, 100 * packets[0]);
            assert_eq!(view.idle, self.now.wrapping_sub(known.last_seen));
        });
        assert_eq!(seen, self.known.len());
    }
}

fn verb(number: u32, direction: Direction, version: u32) -> Verb {
    Verb([u64::from(number), direction as u64, u64::from(version), 77])
}

fn one(scope: u16) -> Scopes {
    Scopes([ScopeId(scope), ScopeId::NONE, ScopeId::NONE, ScopeId::NONE])
}

proptest! {
    #[test]
    fn the_table_does_what_two_hash_maps_would(steps in prop::collection::vec(step(), 1..400)) {
        let mut bench = Bench::new();
        for step in steps {
            bench.run(step);
        }
        bench.compare();
    }
}
