//! The flow table as the pipeline uses it: what a flow's action is, and what all workers share.

#![warn(clippy::indexing_slicing)]

use encap::ip::IpProtocol;
use flowtable::{
    Action, Config, CreateTableError, FlowHash, FlowKey, FlowTable, FlowWorker, Memory,
    ScopeVersions, Tracking, WorkerIndexError,
};

use crate::{
    next_hop::NextHopIndex,
    parse::{outer_fragments::OuterFragments, query},
    port::PortRef,
    slow_path::Way,
};

/// IPv4 and IPv6 connections each that a replay can hold; more are evicted as in the engine.
const REPLAY_CONNECTIONS_MAX: u32 = 1 << 16;
/// Fragmented datagrams that a replay can remember.
const REPLAY_FRAGMENTS_MAX: u32 = 1 << 10;

/// What to do with the packets of one direction of a connection: a compiled result, to be carried
/// out per packet.
///
/// The way out is named by a slot: what is in the slot may change without making the flow stale.
#[derive(Clone, Copy, Debug, Eq, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct FlowAction {
    next_hop: u32,
    next_hop_generation: u16,
    /// Bits: [`FlowAction::NO_ROUTE`], [`FlowAction::LOCAL_SOURCE`], [`FlowAction::DENIED`],
    /// [`FlowAction::TO_GUEST`].
    flags: u16,
    ingress_index: u16,
    ingress_generation: u16,
}

impl Action for FlowAction {
    const LAYOUT: u32 = 4;
}

impl FlowAction {
    /// There was no way when the action was compiled: each packet asks again.
    const NO_ROUTE: u16 = 1;
    /// The direction's source is an address of this node's own: its packets never come from the
    /// fabric.
    const LOCAL_SOURCE: u16 = 2;

    /// Policy does not allow the connection any more. There is no way either: each packet asks
    /// again, which tells why, and whether it still is so.
    const DENIED: u16 = 4;

    /// The way is out of a guest port.
    const TO_GUEST: u16 = 8;

    /// The action that sends packets along `way`. `ingress` is where the connection's first packet
    /// came in.
    pub(crate) fn new(way: Option<&Way>, ingress: PortRef, has_local_source: bool) -> Self {
        let no_route = if way.is_some() { 0 } else { Self::NO_ROUTE };
        let local_source = if has_local_source { Self::LOCAL_SOURCE } else { 0 };
        let to_guest = if way.is_some_and(|way| way.is_to_guest) { Self::TO_GUEST } else { 0 };
        Self {
            next_hop: way.map_or(0, |way| way.next_hop.0),
            next_hop_generation: way.map_or(0, |way| way.generation),
            flags: no_route | local_source | to_guest,
            ingress_index: ingress.index,
            ingress_generation: ingress.generation,
        }
    }

    /// Where packets go: the slot, and the generation that it must have; `None` if there was no
    /// way.
    #[must_use]
    pub fn next_hop(&self) -> Option<(NextHopIndex, u16)> {
        let has_route = self.flags & Self::NO_ROUTE == 0;
        has_route.then_some((NextHopIndex(self.next_hop), self.next_hop_generation))
    }

    /// The guest port that packets go to, by its slot, and the generation that it must have; also if
    /// policy has closed the way. `None` if the way leads elsewhere, or there was none.
    #[must_use]
    pub(crate) fn guest(&self) -> Option<(NextHopIndex, u16)> {
        let is_to_guest = self.flags & Self::TO_GUEST != 0;
        is_to_guest.then_some((NextHopIndex(self.next_hop), self.next_hop_generation))
    }

    /// What is left of the action once policy does not allow the connection any more.
    #[must_use]
    pub(crate) fn denied(self) -> Self {
        Self { flags: self.flags | Self::NO_ROUTE | Self::DENIED, ..self }
    }

    /// Whether policy ended the connection, which is remembered so that neither side can open it
    /// anew as one of its own.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.flags & Self::DENIED != 0
    }

    /// Whether packets of the direction come from an address of this node's own.
    #[must_use]
    pub fn has_local_source(&self) -> bool {
        self.flags & Self::LOCAL_SOURCE != 0
    }

    /// The port that the connection's first packet came in on.
    #[must_use]
    pub fn ingress(&self) -> PortRef {
        PortRef { index: self.ingress_index, generation: self.ingress_generation }
    }
}

/// What all workers share: the table, when the scopes that flows depend on were touched last, and
/// fragments that never become flows.
#[derive(Debug)]
pub struct Flows {
    table: FlowTable<FlowAction>,
    scopes: ScopeVersions,
    outer_fragments: OuterFragments,
}

impl Flows {
    /// An empty table.
    ///
    /// # Errors
    ///
    /// As [`FlowTable::create`].
    pub fn create(config: &Config) -> Result<Self, CreateTableError> {
        Ok(Self {
            table: FlowTable::create(config)?,
            scopes: ScopeVersions::new(0),
            outer_fragments: OuterFragments::default(),
        })
    }

    /// The table, for the operator's view and its counters.
    #[must_use]
    pub fn table(&self) -> &FlowTable<FlowAction> {
        &self.table
    }

    /// When scopes were touched; [`crate::config::Config::snapshot`] touches them.
    #[must_use]
    pub fn scopes(&self) -> &ScopeVersions {
        &self.scopes
    }

    /// Fragmented datagrams to our tunnels.
    pub(crate) fn outer_fragments(&self) -> &OuterFragments {
        &self.outer_fragments
    }

    pub(crate) fn hash(&self, key: &FlowKey) -> FlowHash {
        self.table.hash(key)
    }

    /// The hash of a key that will be looked up with the rest of its burst.
    #[inline]
    pub(crate) fn hash_ahead(&self, key: &FlowKey) -> FlowHash {
        self.table.hash_ahead(key)
    }

    /// Worker `index`'s access.
    pub(crate) fn worker(&self, index: usize) -> Result<FlowWorker<FlowAction>, WorkerIndexError> {
        self.table.worker(index)
    }
}

/// The ports of a key as people know them: of an ICMP query its identifier, twice.
#[must_use]
pub fn shown_ports(key: &FlowKey) -> (u16, u16) {
    let ports = (key.source_port(), key.destination_port());
    if ![IpProtocol::ICMP, IpProtocol::ICMPV6].contains(&IpProtocol(key.protocol())) {
        return ports;
    }
    let id = query::identifier(ports);
    (id, id)
}

/// The table of a replay: on the heap, and with a fixed secret, so that two runs are alike.
pub(crate) fn replay_config() -> Config {
    Config {
        ipv4_connections_max: REPLAY_CONNECTIONS_MAX,
        ipv6_connections_max: REPLAY_CONNECTIONS_MAX,
        fragments_max: REPLAY_FRAGMENTS_MAX,
        hash_key: [0x7265_706c_6179, 0x7672_6f75_7465],
        memory: Memory::Heap,
        tracking: Tracking::default(),
    }
}
