//! Ending connections by time, and by pressure.

use super::{Opened, Removal, WorkerCore, per_family};
use crate::{
    bucket::SLOTS,
    entry::{EntryIndex, EntryView},
    facts::{TICKS_PER_SECOND, Ticks},
    key::Family,
    sync::Relaxed,
    tracking::{self, Idle},
};

/// Live connections that are compared before one is evicted: the stated order holds among them. The
/// longest idle of 32 is, on average, among the 3 % that have been idle for longest.
const EVICTION_SAMPLE: u32 = 32;

/// Places looked at to find those: more than the spare ones, which may lie side by side.
const EVICTION_VISITS: u32 = 1280;

/// Live connections that are looked at for one that is on its way out, before any other is given
/// up.
const CLOSING_SAMPLE: u32 = 8;

/// Of what a worker opened lately, the oldest that are looked at for one without an answer. Each is
/// looked at once, so that over time it is one for each insert.
const OPENED_OLDEST: usize = 16;

/// And the newest that are looked at, if the oldest were all answered.
const OPENED_NEWEST: usize = 4;

/// How long an established connection must have been idle to be given up for a new one. What keeps
/// connections alive speaks every 15 to 30 seconds (RFC 9260, section 16; RFC 9000, section
/// 10.1.2), so that whoever is silent for a minute missed two. A table full of busy connections
/// refuses new ones: otherwise a flood of first packets would cost established connections their
/// records.
const EVICTABLE_IDLE: Ticks = 60 * TICKS_PER_SECOND;

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

impl Class {
    fn of(idle: Idle) -> Self {
        if idle.state.is_closing() {
            Self::Closing
        } else if idle.state.is_half_open() || !idle.is_answered {
            // One that was picked up in the middle may be a forgery until it is answered.
            Self::HalfOpen
        } else {
            Self::Oldest
        }
    }
}

impl Candidate {
    /// Whether it may be given up for a new one.
    fn may_go(&self) -> bool {
        self.class > Class::Oldest || self.idle >= EVICTABLE_IDLE
    }
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
    /// idle, if that was idle for long enough.
    pub(super) fn evict(&mut self, family: Family, now: Ticks) -> EvictionCounts {
        let closing = self.sample(family, now, CLOSING_SAMPLE);
        if let Some(candidate) = closing.filter(|candidate| candidate.class == Class::Closing) {
            return self.evict_one(candidate);
        }
        if let Some(candidate) = self.oldest_half_open(family, now) {
            return self.evict_one(candidate);
        }
        let best = closing.max(self.sample(family, now, EVICTION_SAMPLE - CLOSING_SAMPLE));
        let best = match best {
            Some(candidate) if candidate.class > Class::Oldest => best,
            _ => self.newest_half_open(family, now).or(best),
        };
        best.filter(Candidate::may_go).map(|best| self.evict_one(best)).unwrap_or_default()
    }

    /// The most dispensable of the next `count` living connections.
    fn sample(&mut self, family: Family, now: Ticks, count: u32) -> Option<Candidate> {
        let (first, places) = self.store.layout.connections_of(family);
        let mut hand = *per_family(&mut self.eviction_hands, family);
        let mut best: Option<Candidate> = None;
        let mut seen = 0u32;
        for _ in 0..EVICTION_VISITS.min(places) {
            hand = hand.wrapping_add(1).checked_rem(places).unwrap_or(0);
            if let Some(candidate) = self.candidate(first.wrapping_add(hand), now) {
                best = best.max(Some(candidate));
                seen = seen.saturating_add(1);
                if seen == count {
                    break;
                }
            }
        }
        *per_family(&mut self.eviction_hands, family) = hand;
        best
    }

    /// The first without an answer that this worker opened. What is looked at is forgotten: it was
    /// answered, or it goes.
    fn oldest_half_open(&mut self, family: Family, now: Ticks) -> Option<Candidate> {
        for _ in 0..OPENED_OLDEST {
            let opened = per_family(&mut self.opened, family).pop_oldest()?;
            if let Some(candidate) = self.half_open(opened, now) {
                return Some(candidate);
            }
        }
        None
    }

    /// The last without an answer that this worker opened.
    fn newest_half_open(&mut self, family: Family, now: Ticks) -> Option<Candidate> {
        (0..OPENED_NEWEST).find_map(|back| {
            let opened = per_family(&mut self.opened, family).newest(back)?;
            self.half_open(opened, now)
        })
    }

    fn half_open(&self, opened: Opened, now: Ticks) -> Option<Candidate> {
        let life = self.store.connections.at(opened.connection)?.life();
        let is_same = life.short_generation() == opened.generation;
        let candidate = self.candidate(opened.connection, now).filter(|_| is_same)?;
        (candidate.class > Class::Oldest).then_some(candidate)
    }

    /// Evicts one connection that has a slot in one of two buckets, by the same order.
    pub(super) fn evict_from(&mut self, buckets: [u32; 2], now: Ticks) -> bool {
        let mut best: Option<Candidate> = None;
        for bucket in buckets.into_iter().filter_map(|number| self.store.buckets.at(number)) {
            for slot in 0..SLOTS {
                let entry = self.store.entries.at(EntryIndex(bucket.index(slot)));
                let Some(stamp) = entry.map(EntryView::stamp) else { continue };
                best = best.max(self.candidate(stamp.owner.connection(), now));
            }
        }
        best.filter(Candidate::may_go)
            .is_some_and(|candidate| self.evict_one(candidate).total() != 0)
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

    /// A connection as one that may be evicted, if it lives.
    fn candidate(&self, connection: u32, now: Ticks) -> Option<Candidate> {
        let (idle, generation) = self.idle(connection, now)?;
        Some(Candidate { class: Class::of(idle), idle: idle.since, connection, generation })
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
