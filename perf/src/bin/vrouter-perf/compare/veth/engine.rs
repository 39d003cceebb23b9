//! The engine as the device, over AF_XDP.

use std::sync::Arc;

use control_api::engine::{self as api, object::Kind};
use perf::traffic;
use vrouter::{engine::Engine, idle::IdleMode, pipeline::Pipeline, port::af_xdp::AfXdpOpener};

use super::{
    super::{
        engine::{self, EngineSetup, UPLINK},
        options::CompareCase,
    },
    links::Links,
};

/// Frames of packet memory: the rings of two ports, several times.
const FRAMES: u32 = 16_384;
/// Where frames come in, and where they leave in either case.
const IN: &str = "default/pod10";
const OUT: &str = "default/pod11";

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
        let setup = EngineSetup { cpu, idle: IdleMode::Busy, connections, frames: FRAMES };
        let engine = engine::start(&setup, |depot| {
            Box::new(AfXdpOpener::new(Arc::clone(depot.region()), None))
        })?;
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
        engine::apply(&mut self.0, upserts, traffic::adjacency)
    }

    /// Stops it; everything that came in is accounted for.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        engine::stop(self.0)
    }
}
