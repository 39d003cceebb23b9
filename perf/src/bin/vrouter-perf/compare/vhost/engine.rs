//! The engine as the device, with two vhost-user ports.

use std::path::{Path, PathBuf};

use control_api::engine::{self as api, object::Kind};
use perf::traffic::{self, Way};
use tempfile::TempDir;
use vrouter::{
    engine::Engine, idle::IdleMode, pipeline::Pipeline, port::vhost_user::VhostUserOpener,
};

use super::super::engine::{self, EngineSetup, UPLINK};

/// Frames of packet memory: bursts of two ports, many times. Frames are copied in and out, so none
/// stays in a ring.
const FRAMES: u32 = 4096;
const PODS: u8 = 2;
/// Policy sets of every pod.
const INGRESS: u64 = 1;
const EGRESS: u64 = 2;
/// Rules of each that allow nothing of what comes.
const OTHER_RULES: u8 = 15;
/// IANA's number.
const UDP: u32 = 17;

/// A running engine with one busy worker.
pub(super) struct VhostEngine {
    engine: Engine<Pipeline>,
    /// Where frames come in, and where they leave.
    pub(super) sockets: [PathBuf; 2],
    _folder: TempDir,
}

impl VhostEngine {
    /// Starts it for a way; returns when its ports are open.
    pub(super) fn start(way: Way, connections: u32, cpu: usize) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vrouter-perf-vhost-").tempdir()?;
        let sockets = ["from", "to"].map(|name| folder.path().join(name));
        let setup = EngineSetup { cpu, idle: IdleMode::Busy, connections, frames: FRAMES };
        let mut engine = engine::start(&setup, |_| Box::new(VhostUserOpener))?;
        engine::apply(&mut engine, objects(way, &sockets), traffic::adjacency)?;
        Ok(Self { engine, sockets, _folder: folder })
    }

    /// Stops it; everything that came in is accounted for.
    pub(super) fn stop(self) -> anyhow::Result<()> {
        engine::stop(self.engine)
    }
}

/// What a port's policy looks like: some rules that others need, and the one that allows what
/// comes.
fn policy(id: u64) -> api::PolicySet {
    let rule = |subnet: u8, path: u8, (first, last)| api::PolicyRule {
        blocks: vec![api::IpBlock {
            block: Some(api::Prefix { address: vec![10, subnet, 0, 0], length: 16 }),
            excepts: vec![],
        }],
        ports: vec![api::ProtocolPorts { protocol: UDP, first, last }],
        path: format!("spec.ingress[{path}]"),
        ..api::PolicyRule::default()
    };
    let others = (0..OTHER_RULES).map(|other| rule(other, other, (53, 53)));
    let rules = others.chain([rule(244, OTHER_RULES, (5000, 6000))]).collect();
    api::PolicySet { id, policies: vec!["default/measured".into()], rules }
}

/// Names of the ports where frames of a way come in and leave.
fn ends(way: Way) -> [String; 2] {
    match way {
        Way::PodToPod | Way::PodToPodV6 => [0, 1].map(traffic::pod_name),
        Way::Encap => [traffic::pod_name(0), UPLINK.into()],
        Way::Decap => [UPLINK.into(), traffic::pod_name(0)],
    }
}

fn objects(way: Way, sockets: &[PathBuf; 2]) -> Vec<api::Object> {
    let ends = ends(way);
    let has_uplink = ends.iter().any(|name| name == UPLINK);
    traffic::objects(PODS)
        .into_iter()
        .filter_map(|mut object| {
            match object.kind.as_mut()? {
                Kind::Port(port) => {
                    let end = ends.iter().position(|name| *name == port.name)?;
                    port.backend = Some(backend(sockets.get(end)?));
                    if port.name != UPLINK {
                        (port.ingress_policy, port.egress_policy) = (INGRESS, EGRESS);
                    }
                }
                Kind::Node(node) if !has_uplink => node.uplink_port.clear(),
                Kind::Tunnel(_) | Kind::Route(_) if !has_uplink => return None,
                _ => {}
            }
            Some(object)
        })
        .chain([INGRESS, EGRESS].map(|id| api::Object { kind: Some(Kind::PolicySet(policy(id))) }))
        .collect()
}

fn backend(socket: &Path) -> api::port::Backend {
    api::port::Backend::VhostUser(api::VhostUserBackend {
        socket_path: socket.display().to_string(),
        queue_pairs: 1,
        ..api::VhostUserBackend::default()
    })
}
