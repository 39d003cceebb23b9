//! One worker's pipeline without ports or threads, fed from memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use control_api::engine as api;
use flowtable::TableCounters;
use vrouter::{
    burst::{BURST_PACKETS_MAX, Burst},
    clock::Now,
    config::{ApplyError, Batch, Config},
    flows::Flows,
    memory::{CreateRegionError, Depot, FramePool, Region, RegionConfig},
    outbox::Outbox,
    pipeline::Pipeline,
    port::PortRef,
    publish::Publisher,
    snapshot::Snapshot,
    stats::WorkerStats,
    trace::DropTrace,
    worker::Process,
};

use crate::traffic::{self, Way};

/// Pods of the node: one that packets come from, and one that they go to.
const PODS: u8 = 2;

/// Why a bench cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the causes tell")]
pub enum BenchError {
    #[error(transparent)]
    Config(#[from] ApplyError),
    #[error(transparent)]
    Memory(#[from] CreateRegionError),
    #[error(transparent)]
    Flows(#[from] flowtable::CreateTableError),
    #[error(transparent)]
    Worker(#[from] flowtable::WorkerIndexError),
}

/// A node with two pods and a tunnel, and the worker that runs it.
pub struct BenchNode {
    pipeline: Pipeline,
    /// Frees snapshots, after the pipeline.
    publisher: Publisher<Snapshot>,
    config: Config,
    flows: Arc<Flows>,
    pool: FramePool,
    outbox: Outbox,
    stats: WorkerStats,
    burst: Burst,
    now: Now,
}

impl BenchNode {
    /// A node whose flow table holds `connections_max` connections of either family.
    ///
    /// # Errors
    ///
    /// Fails if the memory is not there.
    pub fn new(connections_max: u32) -> Result<Self, BenchError> {
        let flows = Arc::new(Flows::create(&flowtable::Config {
            ipv4_connections_max: connections_max,
            ipv6_connections_max: connections_max,
            fragments_max: 1024,
            hash_key: [0x5eed, 0xbe7c],
            memory: flowtable::Memory::Memfd { huge_pages: true },
            tracking: flowtable::Tracking::default(),
        })?);
        let mut config = Config::new();
        let mut batch = Batch::new(1, true);
        batch.push(api::ObjectBatch { upserts: traffic::objects(PODS), deletes: vec![] })?;
        config.apply(batch)?;
        if let Some((uplink, _)) = config.port_by_name("uplink") {
            let (remote, adjacency) = traffic::adjacency(uplink);
            config.set_adjacency(remote, adjacency);
        }
        let publisher = Publisher::new(config.snapshot(flows.scopes()));
        let subscriber = publisher.subscribe();
        let region = Region::create(&RegionConfig { frame_count: 1024, ..Default::default() })?;
        Ok(Self {
            pipeline: Pipeline::new(0, subscriber, Arc::clone(&flows), DropTrace::default())?,
            publisher,
            config,
            flows,
            pool: FramePool::new(Depot::new(Arc::new(region))),
            outbox: Outbox::new(),
            stats: WorkerStats::new(),
            burst: Burst::new(),
            now: Now { nanoseconds: 1_000_000_000 },
        })
    }

    /// The port that packets of `way` come in on.
    #[must_use]
    pub fn ingress(&self, way: Way) -> PortRef {
        self.port(&way.ingress(0))
    }

    /// Processes one burst of `frames`, at most 64; returns how long the pipeline took, and how
    /// many packets it sent.
    ///
    /// Receiving and sending are not in that time: they are the ports' work.
    pub fn process(&mut self, ingress: PortRef, frames: &[Vec<u8>]) -> (Duration, usize) {
        for frame in frames.iter().take(BURST_PACKETS_MAX) {
            // Without packet memory there are fewer packets, which the caller sees.
            let _ = self.pool.copy_to(frame, ingress, &mut self.burst);
        }
        self.now.nanoseconds += 10_000;
        let Self { pipeline, pool, outbox, stats, burst, now, .. } = self;
        let start = Instant::now();
        pipeline.process(ingress, burst, *now, pool, outbox, stats);
        let took = start.elapsed();
        let mut sent = 0;
        outbox.drain(|_, burst| {
            sent += burst.len();
            burst.drain(..).for_each(|packet| pool.free_packet(packet));
        });
        (took, sent)
    }

    /// The port of this name.
    #[must_use]
    pub fn port(&self, name: &str) -> PortRef {
        self.config.port_by_name(name).map_or(PortRef::ENGINE, |(port, _)| port)
    }

    /// What the flow table counted so far.
    #[must_use]
    pub fn flow_counters(&self) -> TableCounters {
        self.flows.table().counters()
    }

    /// Snapshots that nobody holds any more are freed here.
    pub fn reclaim(&mut self) -> usize {
        self.publisher.reclaim()
    }
}

/// Frames of `count` UDP flows as they come in for `way`; the pods' frames have `frame_bytes`.
#[must_use]
pub fn frames(way: Way, count: u32, frame_bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|flow| traffic::frame(way, 0, flow, frame_bytes)).collect()
}
