//! Our engine in this process, with one worker.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, ensure};
use control_api::engine as api;
use vrouter::{
    config::Batch,
    engine::{Engine, EngineConfig},
    flows::Flows,
    idle::IdleMode,
    memory::{Depot, RegionConfig},
    next_hop::Adjacency,
    pipeline::Pipeline,
    placement::WorkerPlace,
    port::{PortOpener, PortRef},
    trace::DropTrace,
};

/// The port toward other nodes.
pub(super) const UPLINK: &str = "uplink";
/// At least as many connections fit, of either family.
const CONNECTIONS_MIN: u32 = 1024;
const HASH_KEY: [u64; 2] = [0x5eed, 0xbe7c];

/// How an engine is set up.
pub(super) struct EngineSetup {
    /// The worker's CPU.
    pub(super) cpu: usize,
    pub(super) idle: IdleMode,
    /// IPv4 connections at once; there is room for twice as many.
    pub(super) connections: u32,
    /// Frames of packet memory.
    pub(super) frames: u32,
}

/// Starts an engine, with no port yet.
pub(super) fn start(
    setup: &EngineSetup,
    opener: impl FnOnce(&Arc<Depot>) -> Box<dyn PortOpener>,
) -> anyhow::Result<Engine<Pipeline>> {
    let flows = Arc::new(Flows::create(&flowtable::Config {
        ipv4_connections_max: setup.connections.saturating_mul(2).max(CONNECTIONS_MIN),
        ipv6_connections_max: CONNECTIONS_MIN,
        fragments_max: 1024,
        hash_key: HASH_KEY,
        memory: flowtable::Memory::Memfd { huge_pages: true },
        tracking: flowtable::Tracking::default(),
    })?);
    let config = EngineConfig {
        workers: vec![WorkerPlace { cpu: Some(setup.cpu), numa_node: None }],
        idle: setup.idle,
        region: RegionConfig { frame_count: setup.frames, ..RegionConfig::default() },
    };
    let engine = Engine::start(&config, Arc::clone(&flows), opener, |worker, snapshots| {
        Pipeline::new(worker, snapshots, Arc::clone(&flows), DropTrace::default())
    })?;
    Ok(engine)
}

/// Puts objects in force; their ports are open then. If there is an uplink, `adjacency` is the
/// other node's: its address, and how it is reached.
pub(super) fn apply(
    engine: &mut Engine<Pipeline>,
    upserts: Vec<api::Object>,
    adjacency: impl FnOnce(PortRef) -> (IpAddr, Adjacency),
) -> anyhow::Result<()> {
    let mut batch = Batch::new(1, true);
    batch.push(api::ObjectBatch { upserts, deletes: vec![] })?;
    let accepted = engine.accept(batch)?;
    if let Some((uplink, _)) = engine.config().port_by_name(UPLINK) {
        let (remote, adjacency) = adjacency(uplink);
        engine.set_adjacency(remote, adjacency);
    }
    let applied = engine.put_in_force(accepted)?;
    match applied.port_errors.into_iter().next() {
        Some(error) => anyhow::bail!("port {} did not open: {}", error.port, error.message),
        None => Ok(()),
    }
}

/// Stops an engine; everything that came in is accounted for.
pub(super) fn stop(engine: Engine<Pipeline>) -> anyhow::Result<()> {
    let stopped = engine.stop().context("an engine did not stop")?;
    let balance = stopped.stats.balance();
    ensure!(balance.under_way() == 0, "packets do not add up: {balance:?}");
    Ok(())
}
