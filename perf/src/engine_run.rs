//! A whole engine that forwards frames from memory, round and round, on one pinned worker.
//!
//! The worker is the one of production, in its busy mode; its ports are pcap ports whose input is
//! in memory and whose output is freed. So a packet's figure holds the source's copy, the poll, the
//! pipeline, the outbox, the sink and the frees, and neither a kernel nor a generator.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use control_api::engine as api;
use vrouter::{
    config::Batch,
    engine::{ApplyError, Engine, EngineConfig, StartError},
    flows::Flows,
    idle::IdleMode,
    memory::RegionConfig,
    pipeline::Pipeline,
    placement::WorkerPlace,
    port::pcap::{PcapInput, PcapOpener, PcapPortConfig, Repeat, file::Captured},
    runtime::StopError,
    stats::{Balance, PortTotals},
    trace::DropTrace,
};

use crate::{
    meter::{Meter, Metered},
    traffic,
};

/// Frames of packet memory: bursts from some twenty ports, each packet in several frames.
const FRAMES: u32 = 16_384;
/// Fragmented datagrams that are remembered: none come.
const FRAGMENTS_MAX: u32 = 1024;
/// The flow table's secret: always the same, so that runs are alike.
const HASH_KEY: [u64; 2] = [0x5eed, 0xbe7c];
/// How long the worker may take for its next packet.
const PATIENCE: Duration = Duration::from_secs(30);

/// What comes in on which port, by name.
pub type Inputs = HashMap<String, Arc<[Captured]>>;

/// What an engine is made for.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Pods of the node.
    pub pods: u8,
    /// IPv4 and IPv6 connections that the flow table holds.
    pub connections_max: [u32; 2],
    /// How often the frames come in.
    pub repeat: Repeat,
    /// The worker's CPU.
    pub cpu: usize,
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum RunError {
    #[error("cannot make the flow table")]
    Flows(#[from] flowtable::CreateTableError),
    #[error("cannot start the engine")]
    Start(#[from] StartError),
    #[error("cannot configure the engine")]
    Apply(#[from] ApplyError),
    #[error("port {port} did not open: {message}")]
    Port { port: String, message: String },
    #[error("the worker processed no packet for {} s", PATIENCE.as_secs())]
    Stalled,
    #[error("the engine did not stop")]
    Stop(#[from] StopError),
    #[error("packets do not add up: {0:?}")]
    Unbalanced(Balance),
    #[error("{0} frames of packet memory did not come back")]
    FramesMissing(usize),
}

/// What an engine counted until it stopped.
#[derive(Clone, Copy, Debug)]
pub struct FinalCounts {
    /// Of all ports together.
    pub totals: PortTotals,
    /// Every packet in, every packet out.
    pub balance: Balance,
}

/// A running engine.
pub struct EngineRun {
    engine: Engine<Metered<Pipeline>>,
    flows: Arc<Flows>,
    meter: Arc<Meter>,
    /// When the worker was last seen to go on, and how far it was.
    progress: (Instant, u64),
}

impl EngineRun {
    /// Starts an engine that receives `inputs` at once. `allocations` tells how many there were on
    /// the calling thread.
    ///
    /// # Errors
    ///
    /// Fails if there is no memory, CPU or thread.
    pub fn start(
        config: &RunConfig,
        inputs: &Inputs,
        meter: &Arc<Meter>,
        allocations: fn() -> u64,
    ) -> Result<Self, RunError> {
        let [ipv4_connections_max, ipv6_connections_max] = config.connections_max;
        let flows = Arc::new(Flows::create(&flowtable::Config {
            ipv4_connections_max,
            ipv6_connections_max,
            fragments_max: FRAGMENTS_MAX,
            hash_key: HASH_KEY,
            memory: flowtable::Memory::Memfd { huge_pages: true },
            tracking: flowtable::Tracking::default(),
        })?);
        let engine_config = EngineConfig {
            workers: vec![WorkerPlace { cpu: Some(config.cpu), numa_node: None }],
            idle: IdleMode::Busy,
            region: RegionConfig { frame_count: FRAMES, ..RegionConfig::default() },
        };
        let opener = PcapOpener { files: port_configs(config, inputs) };
        let engine = Engine::start(
            &engine_config,
            Arc::clone(&flows),
            |_| Box::new(opener),
            |worker, snapshots| {
                let flows = Arc::clone(&flows);
                let pipeline = Pipeline::new(worker, snapshots, flows, DropTrace::default())?;
                Ok(Metered::new(pipeline, Arc::clone(meter), allocations))
            },
        )?;
        let meter = Arc::clone(meter);
        let mut run = Self { engine, flows, meter, progress: (Instant::now(), 0) };
        run.configure(config)?;
        Ok(run)
    }

    fn configure(&mut self, config: &RunConfig) -> Result<(), RunError> {
        let mut batch = Batch::new(1, true);
        let upserts = traffic::objects(config.pods);
        batch.push(api::ObjectBatch { upserts, deletes: vec![] }).map_err(ApplyError::from)?;
        let accepted = self.engine.accept(batch).map_err(ApplyError::from)?;
        if let Some((uplink, _)) = self.engine.config().port_by_name("uplink") {
            let (remote, adjacency) = traffic::adjacency(uplink);
            self.engine.set_adjacency(remote, adjacency);
        }
        let applied = self.engine.put_in_force(accepted).map_err(ApplyError::from)?;
        match applied.port_errors.into_iter().next() {
            Some(error) => Err(RunError::Port { port: error.port, message: error.message }),
            None => Ok(()),
        }
    }

    /// Does the main thread's work, until the next millisecond.
    ///
    /// # Errors
    ///
    /// Fails if the worker has not gone on for long.
    pub fn tick(&mut self) -> Result<(), RunError> {
        self.engine.tick(|_| ());
        thread::sleep(Duration::from_millis(1));
        let packets = self.packets();
        if packets != self.progress.1 {
            self.progress = (Instant::now(), packets);
        }
        if self.progress.0.elapsed() > PATIENCE { Err(RunError::Stalled) } else { Ok(()) }
    }

    /// Packets that were received so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.engine.stats().workers().iter().map(|worker| worker.activity().packets).sum()
    }

    /// What all ports counted so far.
    #[must_use]
    pub fn totals(&self) -> PortTotals {
        self.engine.stats().all_ports()
    }

    /// Changes the configuration, in one batch.
    ///
    /// # Errors
    ///
    /// Fails if the batch is not possible, or the worker does not take it over.
    pub fn apply(
        &mut self,
        upserts: Vec<api::Object>,
        deletes: Vec<api::ObjectKey>,
    ) -> Result<(), RunError> {
        let mut batch = Batch::new(self.engine.config().generation() + 1, false);
        batch.push(api::ObjectBatch { upserts, deletes }).map_err(ApplyError::from)?;
        self.engine.apply(batch)?;
        Ok(())
    }

    /// Reads every counter that the operator can see.
    pub fn scrape(&self) {
        black_box((self.engine.ports(), self.engine.workers(), self.engine.stats().balance()));
    }

    /// Whether the flow table and packet memory are on huge pages.
    #[must_use]
    pub fn is_on_huge_pages(&self) -> bool {
        self.flows.table().is_on_huge_pages() && self.engine.region().is_huge()
    }

    /// The flow table.
    #[must_use]
    pub fn flows(&self) -> &Arc<Flows> {
        &self.flows
    }

    /// The meter of the worker.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Stops the engine, whose packets are all accounted for then.
    ///
    /// # Errors
    ///
    /// Fails if a packet or a frame was lost without a trace.
    pub fn stop(self) -> Result<FinalCounts, RunError> {
        let stopped = self.engine.stop()?;
        let balance = stopped.stats.balance();
        if balance.under_way() != 0 {
            return Err(RunError::Unbalanced(balance));
        }
        match stopped.frames_missing {
            0 => Ok(FinalCounts { totals: stopped.stats.all_ports(), balance }),
            frames => Err(RunError::FramesMissing(frames)),
        }
    }
}

/// A port for each input; the others receive nothing.
fn port_configs(config: &RunConfig, inputs: &Inputs) -> HashMap<String, PcapPortConfig> {
    let pods = (0..config.pods).map(traffic::pod_name);
    pods.chain(["uplink".into()])
        .map(|name| {
            let input = inputs
                .get(&name)
                .map_or(PcapInput::Nothing, |frames| PcapInput::Frames(Arc::clone(frames)));
            (name, PcapPortConfig { input, repeat: config.repeat, output: None })
        })
        .collect()
}
