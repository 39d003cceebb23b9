//! Rebuilding buckets and free lists from the connections: for a new region, and for one that an
//! earlier run left.

use super::Store;
use crate::{
    connection::Connection,
    entry::{CONNECTIONS_MAX, Direction, EntryIndex, EntryView, Owner},
    free_list::{BATCH, FreeList, Links},
    hash::FlowHash,
    key::Family,
    sync::{Relaxed, Release},
    worker::per_family,
};

/// Connections that are entered together, as a lookup's burst is: as many cache lines as the
/// processor fetches at once, and more.
const STEP: u32 = 32;

/// A connection of an earlier run.
#[derive(Clone, Copy)]
struct Survivor {
    /// Its forward entry.
    entry: EntryIndex,
    forward_hash: FlowHash,
    /// `None` if the key is its own answer, and has one slot.
    reply_hash: Option<FlowHash>,
}

impl Store {
    /// Empties buckets and fragments, then enters every connection that lives and is whole; all
    /// else becomes free.
    ///
    /// Nobody else uses the table yet.
    pub(crate) fn rebuild(&self) {
        for bucket in self.buckets.all() {
            bucket.reset();
        }
        for set in self.fragments.all() {
            set.reset();
        }
        let mut free_connections = [Vec::new(), Vec::new()];
        let mut used = self.layout.records.map(|records| vec![false; records as usize]);
        let mut end = self.layout.connections;
        while end > 0 {
            let first = end.saturating_sub(STEP);
            // What is far apart is asked for ahead: first the entries, then their buckets.
            for number in first..end {
                self.prefetch_entries(number);
            }
            let mut survivors = [None; STEP as usize];
            for (survivor, number) in survivors.iter_mut().zip(first..end) {
                *survivor = self.survivor(number);
            }
            for (survivor, number) in survivors.iter().zip(first..end).rev() {
                let family = self.layout.family_of(number);
                if let Some(entry) = survivor.and_then(|survivor| self.enter(&survivor)) {
                    let used = per_family(&mut used, family);
                    if let Some(used) = used.get_mut(entry.record() as usize) {
                        *used = true;
                    }
                    self.live(family).fetch_add(1, Relaxed);
                } else {
                    self.end(number);
                    per_family(&mut free_connections, family).push(number);
                }
            }
            end = first;
        }
        let families = [Family::V4, Family::V6];
        for (family, free) in families.into_iter().zip(&free_connections) {
            stack(self.free_connections(family), &self.connections, free);
        }
        for (family, used) in families.into_iter().zip(used) {
            let numbers = (0u32..).zip(&used).filter(|(_, used)| !**used).map(|(number, _)| number);
            let free: Vec<u32> = numbers.collect::<Vec<_>>().into_iter().rev().collect();
            let (list, links) = self.free_records(family);
            stack(list, links, &free);
        }
        // What was rebuilt is seen by whoever the table is handed to.
        crate::sync::fence(Release);
    }

    fn prefetch_entries(&self, number: u32) {
        if let Some(life) = self.connections.at(number).map(Connection::life)
            && life.is_alive()
        {
            self.entries.prefetch(life.entry.with(Direction::Forward));
            self.entries.prefetch(life.entry.with(Direction::Reply));
        }
    }

    /// A connection that lives and whose entries are its own. Asks for its buckets.
    fn survivor(&self, number: u32) -> Option<Survivor> {
        debug_assert!(number < CONNECTIONS_MAX);
        let life = self.connections.at(number)?.life();
        if !life.is_alive() || life.entry.family() != self.layout.family_of(number) {
            return None;
        }
        let entries = self.both_entries(life)?;
        let generation = life.short_generation();
        let is_own = entries.iter().all(|entry| {
            entry.stamp().owner == Owner::new(number, generation, entry.key().protocol())
        });
        if !is_own {
            return None;
        }
        let [forward, reply] = entries.map(EntryView::key);
        let [forward_hash, reply_hash] = [forward, reply].map(|key| self.hash.hash(&key));
        self.prefetch_buckets(forward_hash);
        self.prefetch_buckets(reply_hash);
        let reply_hash = (forward != reply).then_some(reply_hash);
        Some(Survivor { entry: life.entry, forward_hash, reply_hash })
    }

    /// Enters a connection's keys into the buckets, if there is room.
    fn enter(&self, survivor: &Survivor) -> Option<EntryIndex> {
        let &Survivor { entry, forward_hash, reply_hash } = survivor;
        let locked = self.lock(forward_hash, reply_hash.unwrap_or(forward_hash))?;
        let first = self.free_place(&locked, forward_hash, None)?;
        if let Some(hash) = reply_hash {
            let second = self.free_place(&locked, hash, Some(first))?;
            self.fill(second, hash, entry.with(Direction::Reply));
        }
        self.fill(first, forward_hash, entry.with(Direction::Forward));
        Some(entry)
    }

    /// Ends a connection that could not be entered.
    fn end(&self, number: u32) {
        if let Some(connection) = self.connections.at(number)
            && connection.life().is_alive()
        {
            connection.end(connection.life());
        }
    }
}

/// Puts indices on a list so that the last ones are taken first.
fn stack(list: &FreeList, links: &impl Links, free: &[u32]) {
    for batch in free.chunks(BATCH) {
        let mut ascending = [0; BATCH];
        if let Some(ascending) = ascending.get_mut(..batch.len()) {
            for (to, from) in ascending.iter_mut().zip(batch.iter().rev()) {
                *to = *from;
            }
            list.push(links, ascending);
        }
    }
}
