//! A flow at hand for one packet: its action, to be looked at before the packet is recorded.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::{FlowRef, FlowWorker, WorkerCore};
use crate::{
    connection::DirectionState,
    facts::{PacketFacts, Ticks},
    table::{Action, from_words},
    tracking::Verdict,
};

/// A live flow and what to do with its packets.
#[derive(Clone, Copy)]
pub struct Held<'a, A> {
    /// The action of the packet's direction.
    pub action: A,
    core: &'a WorkerCore,
    own: &'a DirectionState,
    flow: &'a FlowRef,
}

impl<A> Held<'_, A> {
    /// Records a packet, if it is what most are: none that opens or closes a connection. `None`
    /// leaves it to [`FlowWorker::record`], and nothing is recorded.
    #[inline]
    #[must_use]
    pub fn record(&self, facts: &PacketFacts, now: Ticks) -> Option<Verdict> {
        self.core.record_held(*self.flow, self.own, facts, now)
    }

    /// The same for a datagram of `bytes` bytes, with nothing to be told about it but that.
    #[inline]
    #[must_use]
    pub fn record_datagram(&self, bytes: u32, now: Ticks) -> Option<Verdict> {
        self.core.record_held_datagram(self.flow, self.own, bytes, now)
    }
}

impl<A: Action> FlowWorker<A> {
    /// What to do with a packet of a flow, before it is recorded; `None` if the flow has ended.
    #[inline]
    pub fn hold<'a>(&'a mut self, flow: &'a FlowRef) -> Option<Held<'a, A>> {
        self.core.wake();
        let core = &self.core;
        let action = from_words(core.living_action(flow)?.load());
        let own = core.store.own_side(flow.owner, flow.direction())?;
        Some(Held { action, core, own, flow })
    }
}

impl<A: std::fmt::Debug> std::fmt::Debug for Held<'_, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("action", &self.action)
            .field("flow", &self.flow)
            .finish_non_exhaustive()
    }
}
