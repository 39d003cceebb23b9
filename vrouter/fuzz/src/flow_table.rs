//! Operations of two workers on a small flow table, beside a model of plain maps.
//!
//! The input is a hash key, and eight bytes for each operation. What the table finds is in the
//! model, with the actions that the model has; what the model has and the table has not was expired
//! or evicted, and counted so.

use std::{collections::HashMap, net::Ipv4Addr};

use flowtable::{
    Action, Config, ConfigView, Direction, FlowKey, FlowRef, FlowTable, FlowWorker, InsertOutcome,
    Lookup, Memory, NewConnection, PacketFacts, Removal, Revalidation, ScopeId, ScopeVersions,
    Scopes, SctpFacts, TcpFacts, TcpFlags, Tracking, TransportFacts,
};

/// Operations looked at of one input.
const OPERATIONS_MAX: usize = 4096;

/// Connections of each family: fewer than the keys that there are.
const CONNECTIONS_MAX: u32 = 64;

/// Connections that keys name, of both families together.
const KEYS: u8 = 160;

/// Scopes that there are, from 1.
const SCOPES: u16 = 8;

#[derive(Clone, Copy, Debug, Eq, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Number(u64);

impl Action for Number {
    const LAYOUT: u32 = 1;
}

/// What the model knows about a connection.
#[derive(Clone, Copy, Debug)]
struct Known {
    forward: FlowKey,
    actions: [Number; 2],
    /// The first of its actions: later ones are its own if they are in `given` under its key.
    since: u64,
    version: u32,
    scopes: Scopes,
}

struct Model {
    table: FlowTable<Number>,
    workers: [FlowWorker<Number>; 2],
    scopes: ScopeVersions,
    version: u32,
    now: u32,
    next_action: u64,
    /// The connection, by its forward key, that each action was given to.
    given: HashMap<u64, FlowKey>,
    /// By the key of either direction.
    known: HashMap<FlowKey, Known>,
    inserted: u64,
    removed: u64,
    /// References since the last quiescent point, whatever became of their connections, and the key
    /// that each was for.
    held: Vec<(FlowRef, FlowKey)>,
}

pub(crate) fn run(data: &[u8]) {
    let Some((key, operations)) = data.split_first_chunk::<8>() else { return };
    let mut model = Model::new(u64::from_le_bytes(*key));
    for operation in operations.as_chunks::<8>().0.iter().take(OPERATIONS_MAX) {
        model.step(*operation);
    }
    model.finish();
}

impl Model {
    fn new(hash_key: u64) -> Self {
        let config = Config {
            ipv4_connections_max: CONNECTIONS_MAX,
            ipv6_connections_max: CONNECTIONS_MAX,
            fragments_max: 64,
            hash_key: [hash_key, !hash_key],
            memory: Memory::Heap,
            tracking: Tracking::default(),
        };
        let table = FlowTable::create(&config).expect("a small table fits");
        let workers = [0, 1].map(|index| table.worker(index).expect("both are free"));
        Self {
            table,
            workers,
            scopes: ScopeVersions::new(0),
            version: 1,
            now: 0,
            next_action: 0,
            given: HashMap::new(),
            known: HashMap::new(),
            inserted: 0,
            removed: 0,
            held: Vec::new(),
        }
    }

    fn step(&mut self, operation: [u8; 8]) {
        let [what, key, arguments @ ..] = operation;
        let worker = usize::from(what >> 7);
        let key = key_of(key % KEYS);
        let key = if what & 0x40 == 0 { key } else { key.reversed() };
        let facts = facts(arguments, key.protocol());
        match what % 8 {
            0 | 1 => self.insert(worker, key, &facts, arguments[0]),
            2 => {
                self.look_up(worker, key);
            }
            3 => self.record(worker, key, &facts),
            4 => self.revalidate(worker, key, arguments[0]),
            5 => self.remove(worker, key),
            6 => self.pass_time(worker, arguments),
            _ => self.record_held(worker, &facts, arguments[5]),
        }
    }

    fn view(&self) -> ConfigView<'_> {
        ConfigView { version: self.version, scopes: &self.scopes }
    }

    fn insert(&mut self, worker: usize, key: FlowKey, facts: &PacketFacts, scope: u8) {
        let reply = key.reversed();
        let actions = [Number(self.next_action), Number(self.next_action + 1)];
        self.next_action += 2;
        let scopes = scopes_of(scope);
        let new = NewConnection {
            forward: key,
            reply,
            forward_hash: self.table.hash(&key),
            reply_hash: self.table.hash(&reply),
            actions,
            version: self.version,
            scopes,
            facts,
            now: self.now,
        };
        match self.workers[worker].insert_pair(&new) {
            InsertOutcome::Inserted(flow) => {
                self.inserted += 1;
                let since = actions[0].0;
                let known = Known { forward: key, actions, since, version: self.version, scopes };
                self.give(key, actions);
                self.known.insert(key, known);
                self.known.insert(reply, known);
                assert_eq!(flow.direction(), Direction::Forward);
                assert_eq!(self.look_up(worker, key), Some(flow), "not found after its insert");
                self.hold(flow, key);
            }
            InsertOutcome::Adopted(flow) => {
                self.check_actions(worker, flow, key);
                self.hold(flow, key);
            }
            InsertOutcome::Outdated(flow) => {
                self.check_actions(worker, flow, key);
                assert!(self.known[&key].version < self.version);
            }
            InsertOutcome::Refused(_) => {}
            InsertOutcome::Full => assert!(!self.table.is_empty(), "an empty table is full"),
            outcome @ (InsertOutcome::ReplyCollision | InsertOutcome::Contended) => {
                panic!("{outcome:?} without NAT, and with nobody else at work")
            }
        }
    }

    fn look_up(&mut self, worker: usize, key: FlowKey) -> Option<FlowRef> {
        let mut out = [Lookup::Miss];
        let hash = self.table.hash(&key);
        let view = ConfigView { version: self.version, scopes: &self.scopes };
        self.workers[worker].lookup_burst(&[key], &[hash], view, &mut out);
        let flow = match out[0] {
            Lookup::Miss => return None,
            Lookup::Hit(flow) => {
                assert!(!self.is_stale(&key), "a hit that is stale");
                flow
            }
            Lookup::Stale(flow) => {
                assert!(self.is_stale(&key), "stale for no reason");
                flow
            }
        };
        self.check_actions(worker, flow, key);
        Some(flow)
    }

    /// Whether a scope of the connection was touched since its actions were compiled.
    fn is_stale(&self, key: &FlowKey) -> bool {
        let known = &self.known[key];
        known.scopes.0.iter().any(|scope| self.view().scopes.touched_since(*scope, known.version))
    }

    fn check_actions(&mut self, worker: usize, flow: FlowRef, key: FlowKey) {
        let known = self.known.get(&key).expect("found what was never inserted, or was removed");
        assert_eq!(self.workers[worker].original_key(flow), Some(known.forward));
        assert_eq!(self.workers[worker].actions(flow), Some(known.actions));
        let is_forward = known.forward == key;
        assert_eq!(flow.direction() == Direction::Forward, is_forward);
    }

    fn record(&mut self, worker: usize, key: FlowKey, facts: &PacketFacts) {
        let Some(flow) = self.look_up(worker, key) else { return };
        let direction = usize::from(flow.direction() == Direction::Reply);
        if let Some(recorded) = self.workers[worker].record(flow, facts, self.now) {
            assert_eq!(recorded.action, self.known[&key].actions[direction]);
            self.hold(flow, key);
        } else {
            self.notice_removal(key);
        }
    }

    /// A reference from before leads nowhere, or to its connection: by an action that it has or
    /// had, since nothing that a reader may hold is changed under it.
    fn record_held(&mut self, worker: usize, facts: &PacketFacts, which: u8) {
        let Some((flow, key)) = self.held.get(usize::from(which)).copied() else { return };
        if let Some(recorded) = self.workers[worker].record(flow, facts, self.now) {
            let Number(action) = recorded.action;
            let known = self.known.get(&key).expect("it leads to what was removed");
            assert_eq!(self.given.get(&action), Some(&known.forward));
            assert!(action >= known.since, "an action of an earlier connection");
            assert_eq!(action % 2 == 0, flow.direction() == Direction::Forward);
        } else {
            self.notice_removal(key);
        }
    }

    /// A packet that opens a closed connection anew from its other side ends it: the table counts
    /// that as a removal.
    fn notice_removal(&mut self, key: FlowKey) {
        let removed = self.table.counters().removed;
        if removed != self.removed {
            self.removed += 1;
            assert_eq!(removed, self.removed);
            self.known.remove(&key);
            self.known.remove(&key.reversed());
        }
    }

    fn give(&mut self, forward: FlowKey, actions: [Number; 2]) {
        self.given.extend(actions.map(|Number(action)| (action, forward)));
    }

    fn hold(&mut self, flow: FlowRef, key: FlowKey) {
        if self.held.len() < 256 {
            self.held.push((flow, key));
        }
    }

    fn revalidate(&mut self, worker: usize, key: FlowKey, scope: u8) {
        let Some(flow) = self.look_up(worker, key) else { return };
        let actions = [Number(self.next_action), Number(self.next_action + 1)];
        self.next_action += 2;
        let scopes = scopes_of(scope);
        match self.workers[worker].revalidate(flow, &actions, self.version, scopes) {
            Revalidation::Revalidated(renewed) => {
                let before = self.known[&key];
                let known = Known { actions, version: self.version, scopes, ..before };
                self.give(before.forward, actions);
                self.known.insert(before.forward, known);
                self.known.insert(before.forward.reversed(), known);
                assert_eq!(self.look_up(worker, key), Some(renewed));
            }
            Revalidation::Newer(same) => self.check_actions(worker, same, key),
            Revalidation::Gone => panic!("it was there a moment ago"),
            Revalidation::Deferred => {}
        }
    }

    fn remove(&mut self, worker: usize, key: FlowKey) {
        let Some(flow) = self.look_up(worker, key) else { return };
        match self.workers[worker].remove(flow) {
            Removal::Removed => {
                self.removed += 1;
                self.known.remove(&key);
                self.known.remove(&key.reversed());
                assert_eq!(self.look_up(worker, key), None);
            }
            Removal::Gone => panic!("it was there a moment ago"),
            Removal::Deferred => {}
        }
    }

    fn pass_time(&mut self, worker: usize, arguments: [u8; 6]) {
        let [what, a, b, ..] = arguments;
        match what % 4 {
            0 => {
                self.version += 1;
                self.scopes.touch(ScopeId(1 + u16::from(a) % SCOPES), self.version);
                self.scopes.advance(self.version);
            }
            1 => self.workers[worker].quiesce(),
            2 => self.workers[worker].park(),
            _ => {
                self.now += u32::from(u16::from_be_bytes([a, b]));
                self.workers[worker].expire(self.now, u32::from(arguments[3]));
            }
        }
        // All references are given up.
        self.workers.iter_mut().for_each(FlowWorker::quiesce);
        self.held.clear();
    }

    fn finish(self) {
        let counters = self.table.counters();
        let evicted =
            counters.evicted_closing + counters.evicted_half_open + counters.evicted_oldest;
        assert_eq!((counters.inserted, counters.removed), (self.inserted, self.removed));
        let gone = counters.removed + counters.expired + evicted;
        assert_eq!(u64::from(self.table.len()), counters.inserted - gone, "{counters:?}");
        let mut seen = 0;
        self.table.for_each_connection(self.now, |view| {
            seen += 1;
            let known = self.known.get(&view.forward).expect("shown, and never inserted");
            assert_eq!((view.forward, view.actions), (known.forward, known.actions));
        });
        assert_eq!(seen, self.table.len());
    }
}

fn key_of(number: u8) -> FlowKey {
    let protocol = [6, 17, 1, 132][usize::from(number) % 4];
    let address = Ipv4Addr::new(10, 0, 0, 1);
    let port = 1000 + u16::from(number / 8);
    if number & 4 == 0 {
        FlowKey::v4(1, protocol, (address, port), (Ipv4Addr::new(10, 0, 1, number), 53))
    } else {
        let other = Ipv4Addr::new(10, 0, 1, number).to_ipv6_mapped();
        FlowKey::v6(1, protocol, (address.to_ipv6_mapped(), port), (other, 53))
    }
}

/// Two scopes that a connection depends on, of all that there are, or fewer.
fn scopes_of(byte: u8) -> Scopes {
    let scope = |number: u8| ScopeId(u16::from(number) % (SCOPES + 1));
    Scopes([scope(byte & 15), scope(byte >> 4), ScopeId::NONE, ScopeId::NONE])
}

fn facts(arguments: [u8; 6], protocol: u8) -> PacketFacts {
    let [first, second, third, fourth, window @ ..] = arguments;
    let transport = match protocol {
        6 => TransportFacts::Tcp(TcpFacts {
            flags: TcpFlags(first),
            sequence: u32::from_be_bytes([second & 1, 0, 0, third]),
            acknowledgement: u32::from_be_bytes([second & 2, 0, 0, fourth]),
            window: u16::from_be_bytes(window),
            payload_bytes: u32::from(second >> 4),
            window_scale: (second & 4 != 0).then_some(second & 15),
        }),
        132 => TransportFacts::Sctp(SctpFacts {
            chunk_type: first % 16,
            verification_tag: u32::from(second % 4),
            initiate_tag: u32::from(third % 4),
            tag_reflected: fourth & 1 != 0,
        }),
        _ if first == 0xff => TransportFacts::IcmpError,
        _ => TransportFacts::Datagram,
    };
    PacketFacts { bytes: 100, transport }
}
