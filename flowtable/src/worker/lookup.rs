//! The fast path: looking up, and recording what was found.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{FlowRef, WorkerCore};
use crate::{
    connection::Life,
    entry::{Direction, EntryView},
    facts::{PacketFacts, Ticks},
    hash::FlowHash,
    key::FlowKey,
    scopes::{ConfigView, is_newer},
    store::{BURST_KEYS_MAX, Burst, Found},
    tracking::{self, Tracked, Verdict},
};

/// What a lookup found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Lookup {
    /// A flow whose action holds under the configuration looked up under.
    Hit(FlowRef),
    /// A flow whose action depends on something that was changed since: judge it again.
    Stale(FlowRef),
    /// Nothing.
    #[default]
    Miss,
}

/// What recording a packet gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Recorded<A> {
    /// The action of the packet's direction.
    pub action: A,
    /// What the packet is to its connection.
    pub verdict: Verdict,
}

impl Found<'_> {
    pub(super) fn flow(&self) -> FlowRef {
        FlowRef {
            entry: self.index,
            connection: self.stamp.connection,
            generation: self.stamp.generation,
        }
    }
}

impl WorkerCore {
    pub(super) fn lookup_burst(
        &mut self,
        keys: &[FlowKey],
        hashes: &[FlowHash],
        config: ConfigView<'_>,
        out: &mut [Lookup],
    ) {
        self.wake();
        let (mut hits, mut restamped, mut stale, mut misses) = (0u64, 0u64, 0u64, 0u64);
        let bursts = keys.chunks(BURST_KEYS_MAX).zip(hashes.chunks(BURST_KEYS_MAX));
        let mut out = out.iter_mut();
        for (keys, hashes) in bursts {
            self.store.probe_burst(Burst::new(keys, hashes), |found| {
                let Some(out) = out.next() else { return };
                let Some(found) = found else {
                    misses = misses.wrapping_add(1);
                    *out = Lookup::Miss;
                    return;
                };
                let flow = found.flow();
                *out = if !is_newer(config.version, found.stamp.version) {
                    hits = hits.wrapping_add(1);
                    Lookup::Hit(flow)
                } else if config.touched_since(found.entry.scopes(), found.stamp.version) {
                    stale = stale.wrapping_add(1);
                    Lookup::Stale(flow)
                } else {
                    found.entry.restamp(found.stamp, config.version);
                    hits = hits.wrapping_add(1);
                    restamped = restamped.wrapping_add(1);
                    Lookup::Hit(flow)
                };
            });
        }
        if let Some(counters) = self.counters() {
            counters.hits.add(hits);
            counters.restamped.add(restamped);
            counters.stale.add(stale);
            counters.misses.add(misses);
        }
    }

    pub(super) fn prefetch_states(&self, found: &[Lookup]) {
        for found in found {
            if let Lookup::Hit(flow) | Lookup::Stale(flow) = found {
                self.store.prefetch_connection(flow.connection);
            }
        }
    }

    pub(super) fn record(
        &mut self,
        flow: FlowRef,
        facts: &PacketFacts,
        now: Ticks,
    ) -> Option<([u64; 4], Verdict)> {
        let action = self.action(flow)?;
        let sides = self.store.sides(flow.connection, flow.direction())?;
        match tracking::advance(sides, facts, &self.store.tracking) {
            Tracked::Valid { verdict, refreshes } => {
                sides.own.count(facts.bytes);
                if refreshes {
                    sides.own.see(now);
                }
                Some((action, verdict))
            }
            Tracked::Invalid(reason) => {
                if let Some(counters) = self.counters() {
                    counters.invalid.add(1);
                }
                Some((action, Verdict::Invalid(reason)))
            }
            Tracked::Superseded => {
                self.remove(flow);
                None
            }
        }
    }

    /// The life of a flow's connection, if it is still the same one.
    #[inline]
    pub(super) fn life(&self, flow: FlowRef) -> Option<Life> {
        let life = self.store.connections.at(flow.connection)?.life();
        (life.is_alive() && life.short_generation() == flow.generation).then_some(life)
    }

    pub(super) fn key(&mut self, flow: FlowRef, direction: Direction) -> Option<FlowKey> {
        self.wake();
        let life = self.life(flow)?;
        Some(self.store.entries.at(life.entry.with(direction))?.key())
    }

    #[inline]
    pub(super) fn action(&mut self, flow: FlowRef) -> Option<[u64; 4]> {
        self.wake();
        let life = self.life(flow)?;
        let entry = self.store.entries.at(flow.entry)?;
        let stamp = entry.stamp();
        if stamp.connection == flow.connection && stamp.generation == flow.generation {
            return Some(entry.action());
        }
        Some(self.store.entries.at(life.entry.with(flow.direction()))?.action())
    }

    pub(super) fn actions(&mut self, flow: FlowRef) -> Option<[[u64; 4]; 2]> {
        self.wake();
        let life = self.life(flow)?;
        Some(self.store.both_entries(life)?.map(EntryView::action))
    }
}
