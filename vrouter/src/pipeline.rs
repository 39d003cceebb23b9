//! What happens to a burst of packets between two ports.
//!
//! ```text
//! burst ─► parse ──► flows ──► lookup ──► hit ───────────────► rewrite ─► transmit ─► outbox
//!            │                    └─ miss, stale ─► slow path ───┘
//!            ├─► local: ARP, neighbour discovery, echo (consumed; an answer is generated)
//!            ├─► whole, to the node: what is not ours
//!            └─► dropped, with one reason
//! ```
//!
//! A [`Pipeline`] belongs to one worker. A `Pass` is its work on one burst: every method that
//! takes a packet by value answers for it, so that each packet ends in the outbox, in the pool as
//! consumed, or in the pool as dropped.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::sync::Arc;

use arrayvec::ArrayVec;
use flowtable::{FlowHash, FlowKey, FlowWorker, Ticks, WorkerIndexError};

use crate::{
    burst::{BURST_PACKETS_MAX, Burst},
    clock::Now,
    drops::DropReason,
    fast_path::Plain,
    flows::{FlowAction, Flows},
    memory::{FramePool, Region},
    outbox::Outbox,
    packet::Packet,
    parse::{Headers, Refusal, TunnelCache},
    port::PortRef,
    publish::Subscriber,
    rate_limit::TokenBucket,
    rewrite::TunnelRun,
    snapshot::{PortEntry, Snapshot},
    stats::{Stage, WorkerStats},
    trace::{Detail, DropRecord, DropTrace},
    worker::Process,
};

/// Places of the flow table that one round of housekeeping looks at: some 20 µs, and a table of a
/// million connections is gone round once in a thousand rounds.
pub const EXPIRY_PLACES: u32 = 1024;

/// One worker's pipeline.
#[derive(Debug)]
pub struct Pipeline {
    snapshots: Subscriber<Snapshot>,
    flows: Arc<Flows>,
    flow_worker: FlowWorker<FlowAction>,
    scratch: Scratch,
    own: Own,
}

/// What a worker keeps between bursts, for itself alone.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) icmp_errors: TokenBucket,
    pub(crate) trace: DropTrace,
    /// The next identification of an outer IPv4 header, or of a packet that is fragmented here.
    pub(crate) identification: u16,
    pub(crate) tunnels: TunnelCache,
    pub(crate) has_fast_path: bool,
}

/// What is known about the packets of a burst.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// One element a packet of the burst.
    pub(crate) parsed: ArrayVec<Parsed, BURST_PACKETS_MAX>,
    /// The packets that are not plain, taken out of the burst.
    pub(crate) others: ArrayVec<(Packet, Headers), BURST_PACKETS_MAX>,
    /// One element a packet that belongs to a flow.
    pub(crate) keys: ArrayVec<FlowKey, BURST_PACKETS_MAX>,
    pub(crate) hashes: ArrayVec<FlowHash, BURST_PACKETS_MAX>,
}

/// What was found out about a packet of a burst.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parsed {
    /// It is plain, and still in the burst.
    Plain(Plain),
    /// It is the next of the others.
    Other,
    /// It belongs to no flow, and has been dealt with.
    Gone,
}

/// A worker's work on one burst.
pub(crate) struct Pass<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) flows: &'a Flows,
    pub(crate) worker: &'a mut FlowWorker<FlowAction>,
    /// The port that the burst came in on.
    pub(crate) ingress: &'a PortEntry,
    pub(crate) now: Now,
    /// The same moment, in the flow table's ticks.
    pub(crate) ticks: Ticks,
    pub(crate) pool: &'a mut FramePool,
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) stats: &'a WorkerStats,
    pub(crate) own: &'a mut Own,
    pub(crate) into_tunnel: TunnelRun,
}

impl Pipeline {
    /// The pipeline of worker `index`, which gets its configuration from `snapshots` and shares
    /// `flows` with the others.
    ///
    /// Allocates all it will ever need. `trace` is [`DropTrace::default`] unless somebody looks.
    ///
    /// # Errors
    ///
    /// Fails if the index is in use, or beyond the workers that a flow table can have.
    pub fn new(
        index: u16,
        snapshots: Subscriber<Snapshot>,
        flows: Arc<Flows>,
        trace: DropTrace,
    ) -> Result<Self, WorkerIndexError> {
        let flow_worker = flows.worker(usize::from(index))?;
        let own = Own {
            icmp_errors: TokenBucket::for_icmp_errors(),
            trace,
            identification: 0,
            tunnels: TunnelCache::default(),
            has_fast_path: true,
        };
        Ok(Self { snapshots, flows, flow_worker, scratch: Scratch::default(), own })
    }

    /// Whether plain packets take the fast path. They do unless told otherwise, to hold the fast path
    /// against the rest or to measure what it is worth: what becomes of a packet is the same.
    pub fn set_fast_path(&mut self, is_taken: bool) {
        self.own.has_fast_path = is_taken;
    }

    /// Takes the drops that were noted since the last call; none unless the pipeline was made with
    /// [`DropTrace::new`].
    pub fn drain_trace(&mut self) -> impl Iterator<Item = DropRecord> + '_ {
        self.own.trace.drain()
    }
}

impl Process for Pipeline {
    fn refresh(&mut self) -> u64 {
        self.snapshots.refresh()
    }

    /// What is to be sent is in `outbox` afterwards; it takes all that one burst can become, so it
    /// should be empty before.
    fn process(
        &mut self,
        ingress: PortRef,
        burst: &mut Burst,
        now: Now,
        pool: &mut FramePool,
        outbox: &mut Outbox,
        stats: &WorkerStats,
    ) {
        let Self { snapshots, flows, flow_worker: worker, scratch, own } = self;
        let snapshot = snapshots.snapshot();
        let Some(ingress) = snapshot.port(ingress) else {
            // The port went while its packets were on their way here.
            stats.dropped(ingress, DropReason::RxPortClosed, burst.len() as u64);
            for packet in burst.drain(..) {
                own.note(&packet, DropReason::RxPortClosed, Detail::None, now, pool.region());
                pool.free_packet(packet);
            }
            return;
        };
        let into_tunnel = TunnelRun::default();
        let ticks = now.ticks();
        let mut pass = Pass {
            snapshot,
            flows,
            worker,
            ingress,
            now,
            ticks,
            pool,
            outbox,
            stats,
            own,
            into_tunnel,
        };
        let packets = burst.len() as u64;
        pass.parse(burst, scratch);
        stats.end_stage(Stage::Parse, packets);
        pass.look_up(burst, scratch);
        pass.end_tunnel_run();
        stats.end_stage(Stage::Forward, packets);
        // No reference into the flow table outlives the burst: what others remove can be reused,
        // even if we sleep now.
        self.flow_worker.park();
    }

    fn note_drop(&mut self, packet: &Packet, reason: DropReason, now: Now, region: &Region) {
        self.own.note(packet, reason, Detail::None, now, region);
    }

    /// Ends flows whose time is up, so many a call.
    fn housekeep(&mut self, now: Now) {
        self.flow_worker.expire(now.ticks(), EXPIRY_PLACES);
        self.flow_worker.park();
    }
}

impl Own {
    /// Takes note of a packet that is dropped.
    fn note(
        &mut self,
        packet: &Packet,
        reason: DropReason,
        detail: Detail,
        now: Now,
        region: &Region,
    ) {
        let (ingress, frame) = (packet.ingress, packet.head_index());
        self.trace.note(DropRecord { now, ingress, frame, reason, detail }, packet, region);
    }
}

impl Pass<'_> {
    /// Drops a packet.
    #[cold]
    pub(crate) fn drop_packet(&mut self, packet: Packet, reason: DropReason, detail: Detail) {
        self.stats.dropped(packet.ingress, reason, 1);
        self.own.note(&packet, reason, detail, self.now, self.pool.region());
        self.pool.free_packet(packet);
    }

    /// Drops a packet for what the parser, or another stage, found.
    #[cold]
    pub(crate) fn refuse(&mut self, packet: Packet, refusal: Refusal) {
        self.drop_packet(packet, refusal.reason, refusal.detail);
    }

    /// Ends a packet that was for the engine itself.
    pub(crate) fn consume(&mut self, packet: Packet) {
        self.stats.consumed(packet.ingress, 1);
        self.pool.free_packet(packet);
    }
}
