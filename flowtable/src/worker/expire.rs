//! Ending connections by time, and by pressure.

use super::{Removal, WorkerCore, per_family};
use crate::{
    bucket::SLOTS,
    entry::{EntryIndex, EntryView},
    facts::Ticks,
    key::Family,
    sync::Relaxed,
    tracking::{self, Idle},
};

/// Live connections that are compared before one is evicted: the stated order holds among them. The
/// longest idle of 32 is, on average, among the 3 % that have been idle for longest.
const EVICTION_SAMPLE: u32 = 32;

/// Places looked at to find those: more than the spare ones, which may lie side by side.
const EVICTION_VISITS: u32 = 1280;

/// What an expiry pass did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ExpiryCounts {
    /// Places looked at.
    pub visited: u32,
    /// Connections that ended.
    pub expired: u32,
}

/// What was evicted, by class, in the order of eviction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EvictionCounts {
    /// On their way out.
    pub closing: u32,
    /// Without an answer.
    pub half_open: u32,
    /// Established, the longest idle.
    pub oldest: u32,
}

impl EvictionCounts {
    /// All of them.
    #[must_use]
    pub fn total(self) -> u32 {
        self.closing.saturating_add(self.half_open).saturating_add(self.oldest)
    }
}

/// A connection that may be evicted. The greatest goes first.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
struct Candidate {
    class: Class,
    idle: Ticks,
    connection: u32,
    generation: u32,
}

/// The stated order, from last to first.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Class {
    Oldest,
    HalfOpen,
    Closing,
}

impl WorkerCore {
    pub(super) fn expire(&mut self, now: Ticks, budget: u32) -> ExpiryCounts {
        self.wake();
        let places = self.store.layout.connections;
        let visited = budget.min(places);
        // The hand runs freely and wraps; workers that call at once get parts that follow each
        // other.
        let first = self.store.expiry_hand.fetch_add(visited, Relaxed);
        let mut expired = 0u32;
        for step in 0..visited {
            let connection = first.wrapping_add(step).checked_rem(places).unwrap_or(0);
            let Some((idle, generation)) = self.idle(connection, now) else { continue };
            if idle.has_expired() && self.end(connection, generation) == Removal::Removed {
                expired = expired.saturating_add(1);
            }
        }
        if let Some(counters) = self.counters() {
            counters.expired.add(u64::from(expired));
        }
        ExpiryCounts { visited, expired }
    }

    /// Evicts one connection of a family to make room: closing before half-open before the longest
    /// idle.
    pub(super) fn evict(&mut self, family: Family, now: Ticks) -> EvictionCounts {
        let (first, places) = self.store.layout.connections_of(family);
        let mut hand = *per_family(&mut self.eviction_hands, family);
        let mut best: Option<Candidate> = None;
        let mut seen = 0u32;
        for _ in 0..EVICTION_VISITS.min(places) {
            hand = hand.wrapping_add(1).checked_rem(places).unwrap_or(0);
            let connection = first.wrapping_add(hand);
            if let Some((idle, generation)) = self.idle(connection, now) {
                best = best.max(Some(candidate(idle, connection, generation)));
                seen = seen.saturating_add(1);
                if seen == EVICTION_SAMPLE {
                    break;
                }
            }
        }
        *per_family(&mut self.eviction_hands, family) = hand;
        best.map(|candidate| self.evict_one(candidate)).unwrap_or_default()
    }

    /// Evicts one connection that has a slot in one of two buckets, by the same order.
    pub(super) fn evict_from(&mut self, buckets: [u32; 2], now: Ticks) -> bool {
        let mut best: Option<Candidate> = None;
        for bucket in buckets.into_iter().filter_map(|number| self.store.buckets.at(number)) {
            for slot in 0..SLOTS {
                let entry = self.store.entries.at(EntryIndex(bucket.index(slot)));
                let Some(stamp) = entry.map(EntryView::stamp) else { continue };
                if let Some((idle, generation)) = self.idle(stamp.owner.connection(), now) {
                    best = best.max(Some(candidate(idle, stamp.owner.connection(), generation)));
                }
            }
        }
        best.is_some_and(|candidate| self.evict_one(candidate).total() != 0)
    }

    fn evict_one(&mut self, candidate: Candidate) -> EvictionCounts {
        let mut counts = EvictionCounts::default();
        if self.end(candidate.connection, candidate.generation) != Removal::Removed {
            return counts;
        }
        match candidate.class {
            Class::Closing => {
                counts.closing = 1;
                self.count(|counters| &counters.evicted_closing);
            }
            Class::HalfOpen => {
                counts.half_open = 1;
                self.count(|counters| &counters.evicted_half_open);
            }
            Class::Oldest => {
                counts.oldest = 1;
                self.count(|counters| &counters.evicted_oldest);
            }
        }
        counts
    }

    /// How idle a connection is, with its generation; `None` if it does not live.
    fn idle(&self, connection: u32, now: Ticks) -> Option<(Idle, u32)> {
        let life = self.store.connections.at(connection)?.life();
        if !life.is_alive() {
            return None;
        }
        let protocol = self.store.entries.at(life.entry)?.key().protocol();
        let sides = self.store.both_sides(connection)?;
        let idle = tracking::idle(protocol, sides, &self.store.tracking.timeouts, now);
        Some((idle, life.generation))
    }
}

fn candidate(idle: Idle, connection: u32, generation: u32) -> Candidate {
    let class = if idle.state.is_closing() {
        Class::Closing
    } else if idle.state.is_half_open() {
        Class::HalfOpen
    } else {
        Class::Oldest
    };
    Candidate { class, idle: idle.since, connection, generation }
}
