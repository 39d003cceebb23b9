//! Our engines between the pods.

use std::sync::Arc;

use vrouter::{
    engine::Engine,
    idle::IdleMode,
    memory::{Depot, FramePool},
    next_hop::Adjacency,
    pipeline::Pipeline,
    port::{
        Backend, OpenPortError, OpenedPort, PortOpener, PortRequest, af_xdp::AfXdpOpener,
        tap::TapOpener,
    },
};

use super::{
    super::engine::{self, EngineSetup},
    objects,
    scene::{Scene, wire_mac},
};

/// Frames of packet memory: some 60 packets of 64 KiB, and the rings of two AF_XDP ports.
const FRAMES: u32 = 16_384;
const CONNECTIONS: u32 = 2048;
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
        self.0.into_iter().try_for_each(engine::stop)
    }
}

/// Starts an engine with no port yet.
pub(super) fn start(cpu: usize, idle: IdleMode) -> anyhow::Result<Engine<Pipeline>> {
    let setup = EngineSetup { cpu, idle, connections: CONNECTIONS, frames: FRAMES };
    engine::start(&setup, |depot| Box::new(Openers::new(depot)))
}

fn configure(engine: &mut Engine<Pipeline>, scene: &Scene, number: u8) -> anyhow::Result<()> {
    let other = 3 - number;
    engine::apply(engine, objects::of(scene, number), |port| {
        let adjacency = Adjacency::Resolved {
            port,
            source_mac: wire_mac(number),
            destination_mac: wire_mac(other),
            mtu_bytes: WIRE_MTU,
        };
        (objects::tunnel_end(other).into(), adjacency)
    })
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
