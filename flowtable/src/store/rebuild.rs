//! Rebuilding buckets and free lists from the connections: for a new region, and for one that an
//! earlier run left.

use super::Store;
use crate::{
    connection::Life,
    entry::{CONNECTIONS_MAX, Direction, EntryIndex, EntryView, Owner},
    free_list::{BATCH, FreeList, Links},
    key::Family,
    sync::{Relaxed, Release},
    worker::per_family,
};

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
        for number in (0..self.layout.connections).rev() {
            let family = self.layout.family_of(number);
            if let Some(entry) = self.enter(number) {
                let used = per_family(&mut used, family);
                if let Some(used) = used.get_mut(entry.record() as usize) {
                    *used = true;
                }
                self.live(family).fetch_add(1, Relaxed);
            } else {
                per_family(&mut free_connections, family).push(number);
            }
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

    /// Enters a connection's keys into the buckets, if it lives and its entries are its own. Else
    /// it is ended.
    fn enter(&self, number: u32) -> Option<EntryIndex> {
        let connection = self.connections.at(number)?;
        let life = connection.life();
        if !life.is_alive() {
            return None;
        }
        let entered = self.enter_both(number, life);
        if entered.is_none() {
            connection.end(life);
        }
        entered
    }

    fn enter_both(&self, number: u32, life: Life) -> Option<EntryIndex> {
        debug_assert!(number < CONNECTIONS_MAX);
        let entries = self.both_entries(life)?;
        let generation = life.short_generation();
        let is_own = entries.iter().all(|entry| {
            entry.stamp().owner == Owner::new(number, generation, entry.key().protocol())
        });
        if !is_own || life.entry.family() != self.layout.family_of(number) {
            return None;
        }
        let [forward, reply] = entries.map(EntryView::key);
        let hashes = [self.hash.hash(&forward), self.hash.hash(&reply)];
        let locked = self.lock(hashes[0], hashes[1])?;
        let first = self.free_place(&locked, hashes[0], None)?;
        if forward != reply {
            let second = self.free_place(&locked, hashes[1], Some(first))?;
            self.fill(second, hashes[1], life.entry.with(Direction::Reply));
        }
        self.fill(first, hashes[0], life.entry.with(Direction::Forward));
        Some(life.entry)
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
