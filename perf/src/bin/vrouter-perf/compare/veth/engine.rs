//! The engine as the device, over AF_XDP.

use std::sync::Arc;

use anyhow::{Context, ensure};
use control_api::engine::{self as api, object::Kind};
use perf::traffic;
use vrouter::{
    config::Batch,
    engine::{Engine, EngineConfig},
    flows::Flows,
    idle::IdleMode,
    memory::RegionConfig,
    pipeline::Pipeline,
    placement::WorkerPlace,
    port::af_xdp::AfXdpOpener,
    trace::DropTrace,
};

use super::{super::options::CompareCase, links::Links};

/// Frames of packet memory: the rings of two ports, several times.
const FRAMES: u32 = 16_384;
const HASH_KEY: [u64; 2] = [0x5eed, 0xbe7c];
/// Where frames come in, and where they leave in either case.
const IN: &str = "default/pod10";
const OUT: &str = "default/pod11";
const UPLINK: &str = "uplink";

/// A running engine with one busy worker.
pub(super) struct VethEngine(Engine<Pipeline>);

impl VethEngine {
    /// Starts it; returns when its ports are open.
    pub(super) fn start(
        links: &Links,
        case: CompareCase,
        connections: u32,
        cpu: usize,
    ) -> anyhow::Result<Self> {
        let flows = Arc::new(Flows::create(&flowtable::Config {
            ipv4_connections_max: connections.saturating_mul(2).max(1024),
            ipv6_connections_max: 1024,
            fragments_max: 1024,
            hash_key: HASH_KEY,
            memory: flowtable::Memory::Memfd { huge_pages: true },
            tracking: flowtable::Tracking::default(),
        })?);
        let config = EngineConfig {
            workers: vec![WorkerPlace { cpu: Some(cpu), numa_node: None }],
            idle: IdleMode::Busy,
            region: RegionConfig { frame_count: FRAMES, ..RegionConfig::default() },
        };
        let engine = Engine::start(
            &config,
            Arc::clone(&flows),
            |depot| Box::new(AfXdpOpener::new(Arc::clone(depot.region()), None)),
            |worker, snapshots| {
                Pipeline::new(worker, snapshots, Arc::clone(&flows), DropTrace::default())
            },
        )?;
        let mut engine = Self(engine);
        engine.configure(links, case)?;
        Ok(engine)
    }

    fn configure(&mut self, links: &Links, case: CompareCase) -> anyhow::Result<()> {
        let out = if case == CompareCase::VethVxlanEncap { UPLINK } else { OUT };
        let netns_path = format!("/run/netns/{}", links.device.name());
        let upserts = traffic::objects(2)
            .into_iter()
            .filter_map(|mut object| {
                match object.kind.as_mut()? {
                    Kind::Port(port) => {
                        let ends = [(IN, "in1"), (out, "out1")];
                        let (_, interface) = ends.iter().find(|(name, _)| *name == port.name)?;
                        port.backend = Some(api::port::Backend::AfXdp(api::AfXdpBackend {
                            interface: (*interface).to_owned(),
                            netns_path: netns_path.clone(),
                            ..api::AfXdpBackend::default()
                        }));
                    }
                    Kind::Node(node) if out != UPLINK => node.uplink_port.clear(),
                    Kind::Tunnel(_) | Kind::Route(_) if out != UPLINK => return None,
                    _ => {}
                }
                Some(object)
            })
            .collect();
        let mut batch = Batch::new(1, true);
        batch.push(api::ObjectBatch { upserts, deletes: vec![] })?;
        let engine = &mut self.0;
        let accepted = engine.accept(batch)?;
        if let Some((uplink, _)) = engine.config().port_by_name(UPLINK) {
            let (remote, adjacency) = traffic::adjacency(uplink);
            engine.set_adjacency(remote, adjacency);
        }
        let applied = engine.put_in_force(accepted)?;
        if let Some(error) = applied.port_errors.into_iter().next() {
            anyhow::bail!("port {} did not open: {}", error.port, error.message);
        }
        Ok(())
    }

    /// Stops it; everything that came in is accounted for.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        let stopped = self.0.stop().context("the engine did not stop")?;
        let balance = stopped.stats.balance();
        ensure!(balance.under_way() == 0, "packets do not add up: {balance:?}");
        Ok(())
    }
}
