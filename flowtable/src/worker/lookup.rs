//! The fast path: looking up, and recording what was found.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{FlowRef, WorkerCore};
use crate::{
    connection::{DirectionState, Life},
    entry::{ACTION_WORDS, ActionWords, Direction, EntryIndex, EntryView, Slabs, Stamp},
    facts::{PacketFacts, Ticks, TransportFacts},
    hash::FlowHash,
    key::{Family, FlowKey},
    ordering::judge_before_restamp,
    scopes::{ConfigView, is_newer},
    store::{BURST_KEYS_MAX, Candidates, Found, MISSED, NO_CANDIDATES, Store},
    sync::{Acquire, fence},
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

impl Found {
    #[inline]
    pub(super) fn flow(&self) -> FlowRef {
        FlowRef { entry: self.index, owner: self.stamp.owner }
    }
}

/// How often a burst's lookups ended otherwise than with a hit of the very version.
#[derive(Default)]
struct Exceptions {
    misses: u64,
    restamped: u64,
    stale: u64,
}

impl WorkerCore {
    /// Looks keys up; tells how many were missed. If they are of `PACKETS`, their first buckets were
    /// asked for, and what recording the packets reads is asked for here.
    pub(super) fn lookup_burst<const PACKETS: bool>(
        &mut self,
        keys: &[FlowKey],
        hashes: &[FlowHash],
        config: ConfigView<'_>,
        out: &mut [Lookup],
    ) -> u64 {
        self.wake();
        let mut exceptions = Exceptions::default();
        let mut looked_up = 0usize;
        let bursts = keys.chunks(BURST_KEYS_MAX).zip(hashes.chunks(BURST_KEYS_MAX));
        for ((keys, hashes), out) in bursts.zip(out.chunks_mut(BURST_KEYS_MAX)) {
            if !PACKETS {
                self.store.prefetch_first_buckets(hashes);
            }
            let mut candidates = NO_CANDIDATES;
            self.store.candidates(hashes, &mut candidates);
            let count = keys.len().min(hashes.len()).min(out.len());
            looked_up = looked_up.wrapping_add(count);
            let burst = Burst { store: &self.store, keys, hashes, config };
            burst.settle::<PACKETS>(&candidates, out, &mut exceptions);
        }
        let Exceptions { misses, restamped, stale } = exceptions;
        if let Some(counters) = self.counters() {
            counters.hits.add((looked_up as u64).wrapping_sub(misses).wrapping_sub(stale));
            counters.misses.add(misses);
            if restamped | stale != 0 {
                counters.restamped.add(restamped);
                counters.stale.add(stale);
            }
        }
        misses
    }

    /// Records a packet if it is what most are: none that opens or closes a connection. `None` leaves
    /// it to [`Self::record_rarely`], which would come to the same.
    #[inline]
    pub(super) fn record_commonly(
        &self,
        flow: FlowRef,
        facts: &PacketFacts,
        now: Ticks,
    ) -> Option<(ActionWords<'_>, Verdict)> {
        if !self.online {
            return None; // Nothing may be looked at.
        }
        let action = self.store.entries.action_of(flow.entry, flow.owner)?;
        let own = self.store.own_side(flow.owner, flow.direction())?;
        let verdict = self.record_held(flow, own, facts, now)?;
        Some((action, verdict))
    }

    /// The same for a flow that lives, whose own direction's state is `own`.
    #[inline]
    pub(super) fn record_held(
        &self,
        flow: FlowRef,
        own: &DirectionState,
        facts: &PacketFacts,
        now: Ticks,
    ) -> Option<Verdict> {
        let verdict = self.judge_commonly(flow, own, facts)?;
        own.see(now);
        if own.count(facts.bytes) {
            self.answer(&flow);
        }
        Some(verdict)
    }

    /// The same for a datagram.
    #[inline]
    pub(super) fn record_held_datagram(
        &self,
        flow: &FlowRef,
        own: &DirectionState,
        bytes: u32,
        now: Ticks,
    ) -> Option<Verdict> {
        let verdict = tracking::datagram_commonly(own, flow.direction(), flow.owner.protocol())?;
        own.see(now);
        if own.count(bytes) {
            self.answer(flow);
        }
        Some(verdict)
    }

    /// Notes in the other direction's state that this one has packets.
    #[cold]
    #[inline(never)]
    fn answer(&self, flow: &FlowRef) {
        if let Some(sides) = self.store.sides(flow.owner, flow.direction()) {
            sides.answer();
        }
    }

    #[inline]
    fn judge_commonly(
        &self,
        flow: FlowRef,
        own: &DirectionState,
        facts: &PacketFacts,
    ) -> Option<Verdict> {
        match &facts.transport {
            TransportFacts::Datagram => {
                tracking::datagram_commonly(own, flow.direction(), flow.owner.protocol())
            }
            TransportFacts::Tcp(segment) => {
                let sides = self.store.sides(flow.owner, flow.direction())?;
                tracking::tcp::advance_steadily(sides, segment)
            }
            TransportFacts::Sctp(_) | TransportFacts::IcmpError => None,
        }
    }

    /// Records any packet.
    #[inline(never)]
    pub(super) fn record_rarely(
        &mut self,
        flow: FlowRef,
        facts: &PacketFacts,
        now: Ticks,
    ) -> Option<([u64; ACTION_WORDS], Verdict)> {
        self.wake();
        let action = self.living_action(&flow)?;
        let sides = self.store.sides(flow.owner, flow.direction())?;
        let late_syn = &self.store.connections.at(flow.connection())?.late_syn;
        match tracking::advance(sides, facts, &self.store.tracking, late_syn) {
            Tracked::Valid { verdict, refreshes } => {
                if verdict != Verdict::Related {
                    sides.count(facts.bytes); // An error about a connection is no answer to it.
                }
                if refreshes {
                    sides.own.see(now);
                }
                Some((action.load(), verdict))
            }
            Tracked::Invalid(reason) => {
                self.count(|counters| &counters.invalid);
                Some((action.load(), Verdict::Invalid(reason)))
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
        let life = self.store.connections.at(flow.connection())?.life();
        (life.is_alive() && life.short_generation() == flow.owner.generation()).then_some(life)
    }

    pub(super) fn key(&mut self, flow: FlowRef, direction: Direction) -> Option<FlowKey> {
        self.wake();
        let life = self.life(flow)?;
        Some(self.store.entries.at(life.entry.with(direction))?.key())
    }

    #[inline]
    pub(super) fn action(&mut self, flow: FlowRef) -> Option<[u64; 4]> {
        self.wake();
        self.living_action(&flow).map(ActionWords::load)
    }

    /// Where the action of a flow lies, if the flow lives.
    #[inline]
    pub(super) fn living_action(&self, flow: &FlowRef) -> Option<ActionWords<'_>> {
        self.store.entries.action_of(flow.entry, flow.owner).or_else(|| self.current_action(flow))
    }

    /// The action of a flow whose entry was replaced since it was found, if the flow lives.
    #[cold]
    #[inline(never)]
    fn current_action(&self, flow: &FlowRef) -> Option<ActionWords<'_>> {
        // Who found an entry ended finds here what took its place (claim 9).
        fence(Acquire);
        let life = self.life(*flow)?;
        self.store.entries.action_of(life.entry.with(flow.direction()), flow.owner)
    }

    pub(super) fn actions(&mut self, flow: FlowRef) -> Option<[[u64; 4]; 2]> {
        self.wake();
        let life = self.life(flow)?;
        Some(self.store.both_entries(life)?.map(EntryView::action))
    }

    pub(super) fn version(&mut self, flow: FlowRef) -> Option<u32> {
        self.wake();
        let life = self.life(flow)?;
        Some(self.store.entries.at(life.entry.with(flow.direction()))?.stamp().version)
    }
}

/// A burst whose keys have been followed to their entries.
struct Burst<'a> {
    store: &'a Store,
    keys: &'a [FlowKey],
    hashes: &'a [FlowHash],
    config: ConfigView<'a>,
}

impl<'a> Burst<'a> {
    /// Compares the keys with those of their entries. A burst is mostly of one family.
    fn settle<const PACKETS: bool>(
        &self,
        candidates: &Candidates,
        out: &mut [Lookup],
        exceptions: &mut Exceptions,
    ) {
        match self.keys.first().map(FlowKey::family) {
            Some(Family::V6) => {
                self.settle_mostly::<PACKETS>(Slabs::stamp_of_v6, candidates, out, exceptions);
            }
            _ => self.settle_mostly::<PACKETS>(Slabs::stamp_of_v4, candidates, out, exceptions),
        }
    }

    /// Compares keys that are mostly of the family that `stamp_of` is for.
    ///
    /// A function of its own, so that what the loop uses has registers.
    #[inline(never)]
    fn settle_mostly<const PACKETS: bool>(
        &self,
        stamp_of: impl Fn(Slabs<'a>, EntryIndex, &FlowKey) -> Option<Stamp>,
        candidates: &Candidates,
        out: &mut [Lookup],
        exceptions: &mut Exceptions,
    ) {
        let slabs = self.store.entries.slabs();
        let version = self.config.version;
        for (at, ((key, &candidate), out)) in self.keys.iter().zip(candidates).zip(out).enumerate()
        {
            let entry = EntryIndex(candidate);
            match stamp_of(slabs, entry, key) {
                Some(stamp) if stamp.version == version => {
                    *out = Lookup::Hit(FlowRef { entry, owner: stamp.owner });
                    if PACKETS {
                        self.store.prefetch_states(stamp.owner, entry.direction());
                    }
                }
                None if candidate == MISSED => {
                    *out = Lookup::Miss;
                    exceptions.misses = exceptions.misses.wrapping_add(1);
                }
                Some(stamp) => {
                    *out = self.settle_old(Found { index: entry, stamp }, exceptions);
                    if PACKETS {
                        self.store.prefetch_states(stamp.owner, entry.direction());
                    }
                }
                None => *out = self.settle_one(at, entry, exceptions),
            }
        }
    }

    /// What is left: a key of the other family, or one to be looked up by itself.
    #[inline(never)]
    fn settle_one(&self, at: usize, index: EntryIndex, exceptions: &mut Exceptions) -> Lookup {
        let (Some(key), Some(&hash)) = (self.keys.get(at), self.hashes.get(at)) else {
            return Lookup::Miss;
        };
        let store = self.store;
        let found = store
            .entries
            .slabs()
            .stamp_of(index, key)
            .map(|stamp| Found { index, stamp })
            .or_else(|| store.probe(key, hash));
        match found {
            Some(found) if found.stamp.version == self.config.version => Lookup::Hit(found.flow()),
            Some(found) => self.settle_old(found, exceptions),
            None => {
                exceptions.misses = exceptions.misses.wrapping_add(1);
                Lookup::Miss
            }
        }
    }

    /// An entry of another version than the configuration's, which is right under that too, or
    /// stale.
    #[inline(never)]
    fn settle_old(&self, found: Found, exceptions: &mut Exceptions) -> Lookup {
        let Found { index, stamp } = found;
        let Some(entry) = self.store.entries.at(index) else { return Lookup::Miss };
        // One that is newer was judged by another worker, whose configuration is ahead.
        if is_newer(self.config.version, stamp.version) {
            if judge_before_restamp() && self.config.touched_since(entry.scopes(), stamp.version) {
                exceptions.stale = exceptions.stale.wrapping_add(1);
                return Lookup::Stale(found.flow());
            }
            entry.restamp(stamp, self.config.version);
            exceptions.restamped = exceptions.restamped.wrapping_add(1);
        }
        Lookup::Hit(found.flow())
    }
}
