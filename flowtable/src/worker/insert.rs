//! Inserting a connection: both keys in one step.

use super::{FlowRef, Opened, RetiredIndex, WorkerCore, per_family};
use crate::{
    connection::Life,
    entry::{Direction, EntryIndex, Owner, Stamp},
    facts::{PacketFacts, Ticks},
    hash::FlowHash,
    key::FlowKey,
    ordering,
    scopes::{Scopes, is_newer},
    store::{Found, Place},
    sync::Relaxed,
    tracking::{self, InvalidReason},
};

/// How often an insert makes room in full buckets and tries again. One eviction frees a slot that
/// others may take first.
const ATTEMPTS_MAX: u32 = if cfg!(loom) { 1 } else { 4 };

/// A connection to insert.
#[derive(Clone, Copy, Debug)]
pub struct NewConnection<'a, A> {
    /// The key of the first packet.
    pub forward: FlowKey,
    /// The key that answers will have when they arrive: the forward key reversed, but for NAT.
    pub reply: FlowKey,
    /// The forward key's hash.
    pub forward_hash: FlowHash,
    /// The reply key's hash.
    pub reply_hash: FlowHash,
    /// What to do with packets: forward, reply.
    pub actions: [A; 2],
    /// The configuration version that the actions were compiled under.
    pub version: u32,
    /// The scopes that the actions depend on.
    pub scopes: Scopes,
    /// The first packet: whether it may start a connection. It is counted when it is recorded, not
    /// here.
    pub facts: &'a PacketFacts,
    /// The time.
    pub now: Ticks,
}

impl<'a, A> NewConnection<'a, A> {
    pub(super) fn with_actions<B>(&self, actions: [B; 2]) -> NewConnection<'a, B> {
        NewConnection {
            forward: self.forward,
            reply: self.reply,
            forward_hash: self.forward_hash,
            reply_hash: self.reply_hash,
            actions,
            version: self.version,
            scopes: self.scopes,
            facts: self.facts,
            now: self.now,
        }
    }
}

/// How an insert ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InsertOutcome {
    /// The connection is new; the packet goes forward.
    Inserted(FlowRef),
    /// It was there already, inserted by another worker or for the other direction: use what is
    /// there.
    Adopted(FlowRef),
    /// It was there already, under an older version than this insert's: judge it again, as after
    /// [`super::Lookup::Stale`].
    Outdated(FlowRef),
    /// The reply key belongs to another connection: try another port, or give up.
    ReplyCollision,
    /// There is no room, and nothing could be evicted.
    Full,
    /// Another worker holds one of the buckets for too long (it was descheduled): forward or drop
    /// this packet without a record; the next one may try again.
    Contended,
    /// The packet may not start a connection.
    Refused(InvalidReason),
}

/// What the step under the locks gave.
enum Step {
    Done(InsertOutcome),
    BucketsFull([u32; 2]),
}

impl WorkerCore {
    pub(super) fn insert_pair(&mut self, new: &NewConnection<'_, [u64; 4]>) -> InsertOutcome {
        self.wake();
        self.store.prefetch_buckets(new.forward_hash);
        self.store.prefetch_buckets(new.reply_hash);
        let outcome = self.try_insert(new);
        if let Some(counters) = self.counters() {
            let counter = match outcome {
                InsertOutcome::Inserted(_) => &counters.inserted,
                InsertOutcome::Adopted(_) | InsertOutcome::Outdated(_) => &counters.adopted,
                InsertOutcome::ReplyCollision => &counters.reply_collisions,
                InsertOutcome::Full => &counters.full,
                InsertOutcome::Contended => &counters.contended,
                InsertOutcome::Refused(_) => &counters.invalid,
            };
            counter.add(1);
        }
        outcome
    }

    fn try_insert(&mut self, new: &NewConnection<'_, [u64; 4]>) -> InsertOutcome {
        if let Err(reason) = tracking::admit(new.facts, &self.store.tracking) {
            return InsertOutcome::Refused(reason);
        }
        let family = new.forward.family();
        if new.reply.family() != family {
            return InsertOutcome::Refused(InvalidReason::Family);
        }
        // Often another packet of the burst was first; then nothing need be taken or evicted.
        if let Some(found) = self.store.probe(&new.forward, new.forward_hash) {
            return adopt(&found, new.version);
        }
        // Counted before it is there: so the table never holds more than it may.
        let live = self.store.live(family).fetch_add(1, Relaxed);
        let outcome = if live < self.store.layout.connections_max(family)
            || self.evict(family, new.now).total() != 0
        {
            self.insert_counted(new)
        } else {
            InsertOutcome::Full
        };
        if !matches!(outcome, InsertOutcome::Inserted(_)) {
            self.store.live(family).fetch_sub(1, Relaxed);
        }
        outcome
    }

    fn insert_counted(&mut self, new: &NewConnection<'_, [u64; 4]>) -> InsertOutcome {
        let Some(connection) = self.take_connection(new.forward.family()) else {
            return InsertOutcome::Full;
        };
        let Some(record) = self.take_record(new.forward.family()) else {
            self.give_back(RetiredIndex::Connection(connection));
            return InsertOutcome::Full;
        };
        let outcome = self.insert_taken(new, connection, record);
        if let InsertOutcome::Inserted(flow) = outcome {
            let generation = flow.owner.generation();
            per_family(&mut self.opened, new.forward.family())
                .push(Opened { connection, generation });
        }
        if !matches!(outcome, InsertOutcome::Inserted(_)) {
            self.give_back(RetiredIndex::Connection(connection));
            self.give_back(RetiredIndex::Record(record));
        }
        outcome
    }

    fn insert_taken(
        &mut self,
        new: &NewConnection<'_, [u64; 4]>,
        connection: u32,
        record: EntryIndex,
    ) -> InsertOutcome {
        for _ in 0..ATTEMPTS_MAX {
            match self.step(new, connection, record) {
                Some(Step::Done(outcome)) => return outcome,
                Some(Step::BucketsFull(buckets)) => {
                    if !self.evict_from(buckets, new.now) {
                        return InsertOutcome::Full;
                    }
                }
                None => return InsertOutcome::Contended,
            }
        }
        InsertOutcome::Full
    }

    /// The one step: under the locks of all buckets where either key may lie, finds out who was
    /// first and enters both keys.
    ///
    /// `None` if the locks could not be had soon.
    fn step(
        &self,
        new: &NewConnection<'_, [u64; 4]>,
        connection: u32,
        record: EntryIndex,
    ) -> Option<Step> {
        let store = &self.store;
        let taken = store.connections.at(connection)?;
        let life = Life { generation: taken.next_generation(), entry: record };
        taken.reset();
        let owner = Owner::new(connection, life.short_generation(), new.forward.protocol());
        let stamp = Stamp { version: new.version, owner };
        let [forward, reply] = store.both_entries(life)?;
        let [forward_action, reply_action] = new.actions;
        forward.write(&new.forward, stamp, new.scopes, forward_action);
        reply.write(&new.reply, stamp, new.scopes, reply_action);
        for side in store.both_sides(connection)? {
            side.reset(new.now);
        }

        let locked = store.lock(new.forward_hash, new.reply_hash)?;
        if ordering::search_under_lock() {
            if let Some(found) = store.probe_locked(&new.forward, new.forward_hash) {
                return Some(Step::Done(adopt(&found, new.version)));
            }
            if store.probe_locked(&new.reply, new.reply_hash).is_some() {
                return Some(Step::Done(InsertOutcome::ReplyCollision));
            }
        }
        let Some(first) = store.free_place(&locked, new.forward_hash, None) else {
            return Some(Step::BucketsFull(store.buckets_of(new.forward_hash)));
        };
        // A key that is its own answer (a packet to itself) has one slot, and all its packets go
        // forward.
        let second: Option<Place> = if new.forward == new.reply {
            None
        } else {
            let place = store.free_place(&locked, new.reply_hash, Some(first));
            if place.is_none() {
                return Some(Step::BucketsFull(store.buckets_of(new.reply_hash)));
            }
            place
        };
        taken.set_life(life);
        if let Some(second) = second {
            store.fill(second, new.reply_hash, record.with(Direction::Reply));
        }
        store.fill(first, new.forward_hash, record.with(Direction::Forward));
        Some(Step::Done(InsertOutcome::Inserted(FlowRef {
            entry: record.with(Direction::Forward),
            owner,
        })))
    }

    /// Gives back an index that was never published.
    pub(super) fn give_back(&mut self, what: RetiredIndex) {
        if !self.free(what) {
            // The shared list was busy: it waits with the retired.
            self.retire(what);
        }
    }
}

/// What to do with a connection that was there first.
fn adopt(found: &Found, version: u32) -> InsertOutcome {
    if is_newer(version, found.stamp.version) {
        InsertOutcome::Outdated(found.flow())
    } else {
        InsertOutcome::Adopted(found.flow())
    }
}
