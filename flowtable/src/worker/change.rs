//! Changing what is there: new actions after a change of configuration, and removal.

use super::{FlowRef, RetiredIndex, WorkerCore};
use crate::{
    connection::Life,
    counters::Counter,
    counters::WorkerCounters,
    entry::{Direction, Stamp},
    ordering,
    scopes::{Scopes, is_newer},
    sync::Relaxed,
};

/// How a revalidation ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Revalidation {
    /// The connection has the new actions.
    Revalidated(FlowRef),
    /// It has actions of the same version or a newer one already: use those.
    Newer(FlowRef),
    /// It ended meanwhile.
    Gone,
    /// It could not be changed now: another worker holds its buckets for too long, or too much
    /// awaits reuse. Act by the new actions for this packet; the next one is stale again.
    Deferred,
}

/// How a removal ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Removal {
    /// The connection ended.
    Removed,
    /// It had ended before.
    Gone,
    /// It could not be removed now, for the same reasons as [`Revalidation::Deferred`]. It is still
    /// there.
    Deferred,
}

impl WorkerCore {
    pub(super) fn revalidate(
        &mut self,
        flow: FlowRef,
        actions: [[u64; 4]; 2],
        version: u32,
        scopes: Scopes,
    ) -> Revalidation {
        self.wake();
        let outcome = self.try_revalidate(flow, actions, version, scopes);
        match outcome {
            Revalidation::Revalidated(_) => self.count(|counters| &counters.revalidated),
            Revalidation::Deferred => self.count(|counters| &counters.contended),
            Revalidation::Newer(_) | Revalidation::Gone => {}
        }
        outcome
    }

    fn try_revalidate(
        &mut self,
        flow: FlowRef,
        actions: [[u64; 4]; 2],
        version: u32,
        scopes: Scopes,
    ) -> Revalidation {
        let Some(life) = self.life(flow) else { return Revalidation::Gone };
        if !self.can_retire() {
            return Revalidation::Deferred;
        }
        let Some(record) = self.take_record(life.entry.family()) else {
            return Revalidation::Deferred;
        };
        let next = Life { entry: record, ..life };
        let swapped = self.swap(flow, next, actions, version, scopes);
        match swapped {
            Some(Swap::From(old)) => {
                self.retire(RetiredIndex::Record(old.entry));
                Revalidation::Revalidated(FlowRef { entry: record.with(flow.direction()), ..flow })
            }
            other => {
                self.give_back(RetiredIndex::Record(record));
                match other {
                    Some(Swap::Newer(life)) => Revalidation::Newer(FlowRef {
                        entry: life.entry.with(flow.direction()),
                        ..flow
                    }),
                    Some(Swap::Gone) => Revalidation::Gone,
                    Some(Swap::From(_)) | None => Revalidation::Deferred,
                }
            }
        }
    }

    /// Writes the new record and makes both slots lead to it. `None` if the locks could not be had
    /// soon.
    fn swap(
        &self,
        flow: FlowRef,
        next: Life,
        actions: [[u64; 4]; 2],
        version: u32,
        scopes: Scopes,
    ) -> Option<Swap> {
        let store = &self.store;
        let connection = store.connections.at(flow.connection())?;
        let [old_forward, old_reply] = store.both_entries(connection.life())?;
        // Keys and their hashes are the same in every record of the connection.
        let keys = [old_forward.key(), old_reply.key()];
        let hashes = keys.each_ref().map(|key| store.hash.hash(key));
        let stamp = Stamp { version, owner: flow.owner };
        for ((entry, key), action) in store.both_entries(next)?.into_iter().zip(&keys).zip(actions)
        {
            entry.write(key, stamp, scopes, action);
        }

        let [forward_hash, reply_hash] = hashes;
        let _locked = store.lock(forward_hash, reply_hash)?;
        let old = connection.life();
        if old.generation != next.generation {
            return Some(Swap::Gone);
        }
        let current = store.both_entries(old)?;
        let is_older = current.iter().all(|entry| is_newer(version, entry.stamp().version));
        if ordering::newest_wins() && !is_older {
            return Some(Swap::Newer(old));
        }
        let directions = [Direction::Forward, Direction::Reply];
        for (hash, direction) in hashes.into_iter().zip(directions) {
            // A key that is its own answer has one slot only.
            if let Some(place) = store.place_of(hash, old.entry.with(direction))
                && let Some(bucket) = store.buckets.at(place.bucket)
            {
                bucket.set_index(place.slot, next.entry.with(direction).0);
            }
        }
        connection.set_life(next);
        for entry in current {
            entry.end();
        }
        Some(Swap::From(old))
    }

    pub(super) fn remove(&mut self, flow: FlowRef) -> Removal {
        self.wake();
        let Some(life) = self.life(flow) else { return Removal::Gone };
        let outcome = self.end(flow.connection(), life.generation);
        match outcome {
            Removal::Removed => self.count(|counters| &counters.removed),
            Removal::Deferred => self.count(|counters| &counters.contended),
            Removal::Gone => {}
        }
        outcome
    }

    /// Ends a connection if it still has this generation.
    pub(super) fn end(&mut self, connection: u32, generation: u32) -> Removal {
        if !self.can_retire() {
            return Removal::Deferred;
        }
        match self.unlink(connection, generation) {
            Some(Unlink::Ended(life)) => {
                self.store.live(life.entry.family()).fetch_sub(1, Relaxed);
                self.retire(RetiredIndex::Record(life.entry));
                self.retire(RetiredIndex::Connection(connection));
                Removal::Removed
            }
            Some(Unlink::EndedBefore) => Removal::Gone,
            None => Removal::Deferred,
        }
    }

    /// Takes both keys out of the buckets. `None` if the locks could not be had soon.
    fn unlink(&self, number: u32, generation: u32) -> Option<Unlink> {
        let store = &self.store;
        let connection = store.connections.at(number)?;
        let [forward, reply] = store.both_entries(connection.life())?;
        let hashes = [forward.key(), reply.key()].each_ref().map(|key| store.hash.hash(key));
        let [forward_hash, reply_hash] = hashes;
        let _locked = store.lock(forward_hash, reply_hash)?;
        // The entries may have been replaced since, but only by others with the same keys.
        let life = connection.life();
        if life.generation != generation || !connection.end(life) {
            return Some(Unlink::EndedBefore);
        }
        for (hash, direction) in hashes.into_iter().zip([Direction::Forward, Direction::Reply]) {
            if let Some(place) = store.place_of(hash, life.entry.with(direction)) {
                store.clear(place, hash);
            }
        }
        for direction in [Direction::Forward, Direction::Reply] {
            if let Some(entry) = store.entries.at(life.entry.with(direction)) {
                entry.end();
            }
        }
        Some(Unlink::Ended(life))
    }

    pub(super) fn count(&self, counter: impl Fn(&WorkerCounters) -> &Counter) {
        if let Some(counters) = self.counters() {
            counter(counters).add(1);
        }
    }
}

/// What the step under the locks gave.
enum Swap {
    /// The entries were replaced; these were the old ones.
    From(Life),
    /// The entries are as new, or newer.
    Newer(Life),
    /// The connection ended.
    Gone,
}

/// What taking a connection out gave.
enum Unlink {
    /// It ended; this was its life.
    Ended(Life),
    /// It had ended before.
    EndedBefore,
}
