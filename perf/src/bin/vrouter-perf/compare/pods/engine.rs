//! Our engines between the pods.

use std::sync::Arc;

use anyhow::{Context, ensure};
use control_api::engine as api;
use vrouter::{
    config::Batch,
    engine::{Accepted, Engine, EngineConfig},
    flows::Flows,
    idle::IdleMode,
    memory::{Depot, FramePool, RegionConfig},
    next_hop::Adjacency,
    pipeline::Pipeline,
    placement::WorkerPlace,
    port::{
        Backend, OpenPortError, OpenedPort, PortOpener, PortRequest, af_xdp::AfXdpOpener,
        tap::TapOpener,
    },
    trace::DropTrace,
};

use super::{
    objects,
    scene::{Scene, wire_mac},
};

/// Frames of packet memory: some 60 packets of 64 KiB, and the rings of two AF_XDP ports.
const FRAMES: u32 = 16_384;
const HASH_KEY: [u64; 2] = [0x5eed, 0xbe7c];
const CONNECTIONS_MAX: u32 = 4096;
/// What the wire between nodes carries of an IP packet.
const WIRE_MTU: u16 = 1500;

/// Running engines, one for each node, each with one worker.
pub(super) struct PodEngines(Vec<Engine<Pipeline>>);

impl PodEngines {
    /// Starts them; returns when their ports are open.
    pub(super) fn start(scene: &Scene, cpu: usize) -> anyhow::Result<Self> {
        let mut engines = Self(Vec::new());
        for (number, _) in scene.nodes() {
            let mut engine = start(cpu, scene.dataplane.idle(scene.is_across))?;
            configure(&mut engine, scene, number)?;
            engines.0.push(engine);
        }
        Ok(engines)
    }

    /// Stops them; everything that came in is accounted for.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        self.0.into_iter().try_for_each(stop)
    }
}

/// Starts an engine with one worker, and no port yet.
pub(super) fn start(cpu: usize, idle: IdleMode) -> anyhow::Result<Engine<Pipeline>> {
    let flows = Arc::new(Flows::create(&flowtable::Config {
        ipv4_connections_max: CONNECTIONS_MAX,
        ipv6_connections_max: 1024,
        fragments_max: 1024,
        hash_key: HASH_KEY,
        memory: flowtable::Memory::Memfd { huge_pages: true },
        tracking: flowtable::Tracking::default(),
    })?);
    let config = EngineConfig {
        workers: vec![WorkerPlace { cpu: Some(cpu), numa_node: None }],
        idle,
        region: RegionConfig { frame_count: FRAMES, ..RegionConfig::default() },
    };
    let engine = Engine::start(
        &config,
        Arc::clone(&flows),
        |depot| Box::new(Openers::new(depot)),
        |worker, snapshots| {
            Pipeline::new(worker, snapshots, Arc::clone(&flows), DropTrace::default())
        },
    )?;
    Ok(engine)
}

/// Stops an engine; everything that came in is accounted for.
pub(super) fn stop(engine: Engine<Pipeline>) -> anyhow::Result<()> {
    let stopped = engine.stop().context("an engine did not stop")?;
    let balance = stopped.stats.balance();
    ensure!(balance.under_way() == 0, "packets do not add up: {balance:?}");
    Ok(())
}

/// Puts objects in force; their ports are open then.
pub(super) fn apply(
    engine: &mut Engine<Pipeline>,
    upserts: Vec<api::Object>,
) -> anyhow::Result<()> {
    let mut batch = Batch::new(1, true);
    batch.push(api::ObjectBatch { upserts, deletes: vec![] })?;
    let accepted = engine.accept(batch)?;
    put_in_force(engine, accepted)
}

fn put_in_force(engine: &mut Engine<Pipeline>, accepted: Accepted) -> anyhow::Result<()> {
    let applied = engine.put_in_force(accepted)?;
    if let Some(error) = applied.port_errors.into_iter().next() {
        anyhow::bail!("port {} did not open: {}", error.port, error.message);
    }
    Ok(())
}

fn configure(engine: &mut Engine<Pipeline>, scene: &Scene, number: u8) -> anyhow::Result<()> {
    let mut batch = Batch::new(1, true);
    batch.push(api::ObjectBatch { upserts: objects::of(scene, number), deletes: vec![] })?;
    let accepted = engine.accept(batch)?;
    if let Some((port, _)) = engine.config().port_by_name(objects::UPLINK) {
        let adjacency = Adjacency::Resolved {
            port,
            source_mac: wire_mac(number),
            destination_mac: wire_mac(3 - number),
            mtu_bytes: WIRE_MTU,
        };
        engine.set_adjacency(objects::tunnel_end(3 - number).into(), adjacency);
    }
    put_in_force(engine, accepted)
}

/// Picks the opener by the port's backend.
struct Openers {
    af_xdp: AfXdpOpener,
    tap: TapOpener,
}

impl Openers {
    fn new(depot: &Arc<Depot>) -> Self {
        Self { af_xdp: AfXdpOpener::new(Arc::clone(depot.region()), None), tap: TapOpener }
    }
}

impl PortOpener for Openers {
    fn open(
        &mut self,
        request: &PortRequest,
        pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        match &request.backend {
            Backend::Tap(_) => self.tap.open(request, pool),
            _ => self.af_xdp.open(request, pool),
        }
    }
}
