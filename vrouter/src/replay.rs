//! The real pipeline over captured frames: no privileges, no threads, a virtual clock.
//!
//! Same input, same output: one worker processes the frames one by one, in the order of their times
//! (those of one time: in the order of the inputs, then of their frames), and each frame's time is
//! the time at which it is processed. The flow table's hash has a fixed secret. All nodes of the
//! underlay are on-link, and their MAC addresses follow from their IP addresses by
//! [`MacAddress::from_ip`].

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use control_api::engine as api;
use encap::MacAddress;

use crate::{
    burst::Burst,
    clock::Now,
    config::{ApplyError, Batch, Config, Role},
    drops::DropReason,
    flows::{Flows, replay_config},
    memory::{CreateRegionError, Depot, FramePool, Region, RegionConfig},
    next_hop::Adjacency,
    outbox::Outbox,
    packet::Offloads,
    pipeline::Pipeline,
    port::{PortRef, pcap::file::Captured},
    publish::Publisher,
    settle::settle,
    snapshot::Snapshot,
    stats::{Balance, EngineStats, WorkerStats},
    trace::DropTrace,
    worker::Process,
};

/// Drops that one frame can cause: its own, and those of packets that the engine makes of it.
const DROPS_PER_FRAME_MAX: usize = 256;

/// Frames of packet memory: one input frame of 64 KiB, all its fragments, and what answers them.
const REGION_FRAMES: u32 = 1024;

/// Rounds of housekeeping when a second has passed: once round the flow table, since virtual time
/// may leap.
const EXPIRY_ROUNDS: u32 = 128;

/// Frames that come in on one port.
#[derive(Clone, Debug)]
pub struct ReplayInput {
    /// The port's name.
    pub port: String,
    /// The frames, in the order in which they are counted.
    pub frames: Vec<Captured>,
}

/// What became of all input frames.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReplayOutput {
    /// What was sent, by port; a port that sent nothing is absent. The time of a frame is that of
    /// the input frame that it was sent for.
    pub sent: BTreeMap<String, Vec<Captured>>,
    /// What was dropped, in the order of processing.
    pub drops: Vec<ReplayDrop>,
    /// Counts.
    pub summary: ReplaySummary,
}

/// An input frame that was dropped.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplayDrop {
    /// The frame's place in its input, from 0.
    pub index: usize,
    /// The port that it came in on.
    pub port: String,
    /// Why.
    pub reason: DropReason,
    /// What was known; may be empty.
    pub detail: String,
}

/// Counts of packets. For each port `received` = `forwarded` + `consumed` + `dropped`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReplaySummary {
    /// By port, those without a packet included.
    pub ports: BTreeMap<String, ReplayPortSummary>,
    /// Dropped packets by reason, those that the engine made itself included.
    pub reasons: BTreeMap<DropReason, u64>,
    /// All packets.
    pub balance: Balance,
}

/// Counts of packets of one port.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReplayPortSummary {
    /// Came in.
    pub received: u64,
    /// Came in and were sent somewhere.
    pub forwarded: u64,
    /// Came in and were for the engine itself.
    pub consumed: u64,
    /// Came in and were dropped.
    pub dropped: u64,
    /// Went out.
    pub sent: u64,
}

/// Why frames could not be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ReplayError {
    #[error(transparent)]
    Config(#[from] ApplyError),
    #[error("there is no port {port}; the ports are {}", known.join(", "))]
    NoSuchPort { port: String, known: Vec<String> },
    #[error("port {port} has two inputs; merge them into one")]
    TwoInputs { port: String },
    #[error("cannot make packet memory")]
    Memory(#[from] CreateRegionError),
    #[error("cannot make the flow table")]
    Flows(#[from] flowtable::CreateTableError),
    #[error(transparent)]
    Worker(#[from] flowtable::WorkerIndexError),
}

/// Replays `inputs` on an engine that is configured with `objects`.
///
/// # Errors
///
/// Fails if the objects are not possible, or an input names a port that is not there.
pub fn replay(
    objects: Vec<api::Object>,
    inputs: &[ReplayInput],
) -> Result<ReplayOutput, ReplayError> {
    let config = configure(objects)?;
    let ports = resolve_inputs(&config, inputs)?;
    let mut bench = Bench::new(config)?;
    for (input, index) in in_order(inputs) {
        if let (Some(input), Some(port)) = (inputs.get(input), ports.get(input))
            && let Some(frame) = input.frames.get(index)
        {
            bench.replay_frame(*port, &input.port, index, frame);
        }
    }
    Ok(bench.finish())
}

fn configure(objects: Vec<api::Object>) -> Result<Config, ReplayError> {
    let mut batch = Batch::new(1, true);
    batch.push(api::ObjectBatch { upserts: objects, deletes: vec![] })?;
    let mut config = Config::new();
    config.apply(batch)?;
    resolve_underlay(&mut config);
    Ok(config)
}

/// Every remote end is a neighbour on the uplink; without one, none is reached.
fn resolve_underlay(config: &mut Config) {
    let uplink = config.ports().find(|(_, object)| object.role == Role::Uplink);
    let uplink = uplink.map(|(port, _)| port);
    let Some(node) = config.node() else { return };
    let (v4, v6) = (node.vtep_v4.map(IpAddr::from), node.vtep_v6.map(IpAddr::from));
    let remotes: Vec<IpAddr> = config.underlay_addresses().collect();
    for remote in remotes {
        let own = if remote.is_ipv4() { v4 } else { v6 };
        let adjacency = match (uplink, own) {
            (Some(port), Some(own)) => Adjacency::Resolved {
                port,
                source_mac: MacAddress::from_ip(own),
                destination_mac: MacAddress::from_ip(remote),
                mtu_bytes: u16::MAX,
            },
            _ => Adjacency::Unreachable,
        };
        config.set_adjacency(remote, adjacency);
    }
}

fn resolve_inputs(config: &Config, inputs: &[ReplayInput]) -> Result<Vec<PortRef>, ReplayError> {
    let mut ports = Vec::with_capacity(inputs.len());
    for input in inputs {
        let Some((port, _)) = config.port_by_name(&input.port) else {
            let known = config.ports().map(|(_, object)| object.name.to_string()).collect();
            return Err(ReplayError::NoSuchPort { port: input.port.clone(), known });
        };
        if ports.contains(&port) {
            return Err(ReplayError::TwoInputs { port: input.port.clone() });
        }
        ports.push(port);
    }
    Ok(ports)
}

/// Input and frame of all frames, in the order in which they are processed.
fn in_order(inputs: &[ReplayInput]) -> Vec<(usize, usize)> {
    let mut order = Vec::new();
    for (input, frames) in inputs.iter().enumerate() {
        order.extend(
            frames.frames.iter().enumerate().map(|(index, frame)| (frame.timestamp, input, index)),
        );
    }
    // The input and the index decide between frames of one time.
    order.sort_unstable();
    order.into_iter().map(|(_, input, index)| (input, index)).collect()
}

/// A worker without a thread.
struct Bench {
    config: Config,
    /// Kept until the pipeline is gone: it frees snapshots.
    publisher: Publisher<Snapshot>,
    pipeline: Pipeline,
    pool: FramePool,
    outbox: Outbox,
    stats: Arc<WorkerStats>,
    output: ReplayOutput,
    /// Of the last frame.
    second: u64,
}

impl Bench {
    fn new(mut config: Config) -> Result<Self, ReplayError> {
        let flows = Arc::new(Flows::create(&replay_config())?);
        let publisher = Publisher::new(config.snapshot(flows.scopes()));
        let trace = DropTrace::new(DROPS_PER_FRAME_MAX);
        let pipeline = Pipeline::new(0, publisher.subscribe(), flows, trace)?;
        let region = RegionConfig {
            frame_count: REGION_FRAMES,
            huge_pages: false,
            ..RegionConfig::default()
        };
        Ok(Self {
            config,
            publisher,
            pipeline,
            pool: FramePool::new(Depot::new(Arc::new(Region::create(&region)?))),
            outbox: Outbox::new(),
            stats: Arc::new(WorkerStats::new()),
            output: ReplayOutput::default(),
            second: 0,
        })
    }

    fn replay_frame(&mut self, port: PortRef, name: &str, index: usize, frame: &Captured) {
        let nanoseconds = u64::try_from(frame.timestamp.as_nanos()).unwrap_or(u64::MAX);
        let now = Now { nanoseconds };
        if frame.timestamp.as_secs() != self.second {
            self.second = frame.timestamp.as_secs();
            (0..EXPIRY_ROUNDS).for_each(|_| self.pipeline.housekeep(now));
        }
        self.stats.rx(port, 1, frame.frame.len() as u64);
        let mut burst = Burst::new();
        if let Some(packet) = self.pool.copy_in(&frame.frame, port) {
            burst.push(packet);
        } else {
            // Nothing is kept between frames, so only a frame beyond all of memory finds none.
            self.stats.dropped(port, DropReason::MemoryExhausted, 1);
            self.note_drop(index, name, DropReason::MemoryExhausted, String::new());
        }
        let Self { pipeline, pool, outbox, stats, .. } = self;
        pipeline.process(port, &mut burst, now, pool, outbox, stats);
        self.collect_drops(port, name, index);
        self.collect_sent(frame.timestamp);
    }

    fn collect_drops(&mut self, port: PortRef, name: &str, index: usize) {
        let records: Vec<_> = self.pipeline.drain_trace().collect();
        for record in records.into_iter().filter(|record| record.ingress == port) {
            let detail = self.config.describe(&record.detail);
            self.note_drop(index, name, record.reason, detail);
        }
    }

    fn note_drop(&mut self, index: usize, port: &str, reason: DropReason, detail: String) {
        self.output.drops.push(ReplayDrop { index, port: port.to_owned(), reason, detail });
    }

    /// Does what a worker does with its outbox, into memory.
    fn collect_sent(&mut self, timestamp: Duration) {
        let Self { outbox, pool, output, stats, config, .. } = self;
        outbox.drain(|slot, burst| {
            let port = config.ports().find(|(port, _)| port.index == slot);
            for mut packet in burst.drain(..) {
                // Nothing is to be segmented: frames come in as they were on a wire.
                settle(&mut packet, Offloads::NONE, pool.region());
                if let Some((port, object)) = port {
                    let mut frame = Vec::with_capacity(packet.total_bytes() as usize);
                    packet.for_each_segment(pool.region(), |bytes| frame.extend_from_slice(bytes));
                    stats.forwarded(packet.ingress, 1);
                    stats.tx(port, 1, frame.len() as u64);
                    let sent = output.sent.entry(object.name.to_string()).or_default();
                    sent.push(Captured { timestamp, frame: frame.into() });
                }
                pool.free_packet(packet);
            }
        });
    }

    fn finish(self) -> ReplayOutput {
        let Self { config, publisher, pipeline, stats, mut output, .. } = self;
        drop(pipeline);
        drop(publisher);
        let stats = EngineStats::new([stats]);
        for (port, object) in config.ports() {
            let totals = stats.port(port);
            let summary = ReplayPortSummary {
                received: totals.rx_packets,
                forwarded: totals.forwarded,
                consumed: totals.consumed,
                dropped: totals.dropped(),
                sent: totals.tx_packets,
            };
            output.summary.ports.insert(object.name.to_string(), summary);
        }
        let all = stats.all_ports();
        for reason in DropReason::ALL {
            if all.dropped_for(*reason) > 0 {
                output.summary.reasons.insert(*reason, all.dropped_for(*reason));
            }
        }
        output.summary.balance = stats.balance();
        output
    }
}
