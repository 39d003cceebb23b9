//! Open vSwitch with DPDK between vhost-user ports.
//!
//! ```text
//! vh-pod ─► br0 ─┬─► vh-peer
//!      replies ──┘ └─► tunnel (vxlan) ─► phy ─► vh-uplink, and the same way back
//! ```
//!
//! Its ports are servers: frontends connect to them, and stay while it is paused.

use std::path::PathBuf;

use super::{
    PACKAGE, TrackedPackets,
    daemons::{self, Daemons, Folder, Plan},
};
use crate::peers::{Namespace, PeerError, thread_preemptions};

/// Ports, their bridges and numbers.
const PORTS: [(&str, &str, u16); 3] =
    [("vh-pod", "br0", 10), ("vh-peer", "br0", 11), ("vh-uplink", "phy", 12)];
const TUNNEL_NUMBER: u16 = 13;

/// What it does with packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VhostForwarding {
    /// From one port to another, each packet's connection looked up.
    Conntrack,
    /// The same, out through the tunnel.
    ConntrackEncap,
    /// Out through the tunnel, without connections.
    Encap,
    /// Out of the tunnel, to a port, without connections.
    Decap,
}

/// The sockets of a way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sockets {
    /// Frames come in there.
    pub from: PathBuf,
    /// And leave there.
    pub to: PathBuf,
    /// Replies come in there, if connections need some: this may be where frames leave. They are
    /// dropped.
    pub replies: Option<PathBuf>,
}

/// A running Open vSwitch with vhost-user ports.
#[derive(Debug)]
pub struct VhostSwitch {
    daemons: Daemons,
}

impl VhostForwarding {
    fn is_tracked(self) -> bool {
        matches!(self, Self::Conntrack | Self::ConntrackEncap)
    }

    fn rules(self) -> String {
        let [(_, _, pod), (_, _, peer), _] = PORTS;
        let tunnel = TUNNEL_NUMBER;
        let out = if self == Self::Conntrack { peer } else { tunnel };
        match self {
            Self::Conntrack | Self::ConntrackEncap => format!(
                "table=0,ip,ct_state=-trk,actions=ct(table=1)\n\
                 table=1,in_port={pod},ip,ct_state=+trk+new,actions=ct(commit),output:{out}\n\
                 table=1,in_port={pod},ip,ct_state=+trk+est,actions=output:{out}\n\
                 table=1,in_port={peer},actions=drop\n"
            ),
            Self::Encap => format!("in_port={pod},actions=output:{tunnel}\n"),
            Self::Decap => format!("in_port={tunnel},actions=output:{peer}\n"),
        }
    }
}

impl VhostSwitch {
    /// Starts it, with nothing forwarded yet: the forwarding thread on `cpu`, everything else on
    /// another. `mac` is the address of its end of the tunnel. It is paused.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed, or without privileges or huge pages.
    pub fn start(cpu: usize, other_cpu: usize, mac: &str) -> Result<Self, PeerError> {
        let interfaces: Vec<&str> = PORTS.iter().map(|(name, ..)| *name).collect();
        let plan = Plan {
            purpose: "ovs-vhost",
            configure: &|at| configure(at, mac),
            interfaces: &interfaces,
            connect: &connect,
        };
        let daemons = Daemons::start(&plan, cpu, other_cpu)?;
        daemons.switch.pause();
        Ok(Self { daemons })
    }

    /// Whether it can run here.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed.
    pub fn find() -> Result<(), PeerError> {
        daemons::find()
    }

    /// What it is installed from.
    #[must_use]
    pub fn package() -> &'static str {
        PACKAGE
    }

    /// Forwards that way from now on, and knows no connections; it runs.
    ///
    /// # Errors
    ///
    /// Fails if it has ended, with what it said.
    pub fn forward(&mut self, how: VhostForwarding) -> Result<Sockets, PeerError> {
        self.daemons.switch.resume();
        let at = self.daemons.at();
        let result = at
            .control(&["dpctl/flush-conntrack"])
            .and_then(|_| at.replace_rules("br0", &how.rules()));
        self.daemons.switch.check()?;
        result?;
        let at = self.daemons.at();
        let socket = |index: usize| at.0.join(PORTS.get(index).map_or("", |(name, ..)| name));
        let (pod, peer, uplink) = (socket(0), socket(1), socket(2));
        let replies = how.is_tracked().then(|| peer.clone());
        Ok(match how {
            VhostForwarding::Conntrack => Sockets { from: pod, to: peer, replies },
            VhostForwarding::ConntrackEncap | VhostForwarding::Encap => {
                Sockets { from: pod, to: uplink, replies }
            }
            VhostForwarding::Decap => Sockets { from: uplink, to: peer, replies },
        })
    }

    /// Packets of tracked connections so far.
    ///
    /// # Errors
    ///
    /// Fails if it does not answer.
    pub fn tracked(&self) -> Result<TrackedPackets, PeerError> {
        Ok(TrackedPackets::parse(&self.daemons.at().control(&["dpctl/dump-flows"])?))
    }

    /// Lets it run.
    pub fn resume(&self) {
        self.daemons.switch.resume();
    }

    /// Stops it from running.
    pub fn pause(&self) {
        self.daemons.switch.pause();
    }

    /// Whether it is still there.
    ///
    /// # Errors
    ///
    /// Fails if it is not, with what it said.
    pub fn check(&mut self) -> Result<(), PeerError> {
        self.daemons.switch.check()
    }

    /// How often its forwarding thread was taken off its CPU so far.
    #[must_use]
    pub fn preemptions(&self) -> u64 {
        thread_preemptions(self.daemons.switch.id(), "pmd-")
    }
}

fn configure(at: &Folder<'_>, mac: &str) -> Result<(), PeerError> {
    at.add_bridge("phy")?;
    at.add_bridge("br0")?;
    // What comes to this address out of the tunnel's port is taken out of the tunnel.
    let address = format!("other-config:hwaddr=\"{mac}\"");
    at.configure_offline(&["set", "bridge", "phy", &address])?;
    for (port, bridge, number) in PORTS {
        at.configure_offline(&["add-port", bridge, port])?;
        let number = format!("ofport_request={number}");
        at.configure_offline(&["set", "interface", port, "type=dpdkvhostuser", &number])?;
    }
    at.add_tunnel("br0", &[&format!("ofport_request={TUNNEL_NUMBER}")])
}

fn connect(at: &Folder<'_>, namespace: &Namespace) -> Result<(), PeerError> {
    at.connect_underlay(namespace)?;
    let [_, _, (_, _, uplink)] = PORTS;
    let rules = format!("in_port=LOCAL,actions=output:{uplink}\nin_port={uplink},actions=LOCAL\n");
    at.replace_rules("phy", &rules)
}
