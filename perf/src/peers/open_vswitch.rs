//! Open vSwitch with DPDK: from a file that comes in round and round to a port that takes all.
//!
//! ```text
//! src (net_pcap, infinite) ─► br0 ─┬─► direct (net_null)
//!                                  └─► tunnel (vxlan) ─► phy ─► sink (net_null)
//! ```
//!
//! It has folders and a network namespace of its own, touches nothing of the machine's, and is
//! paused while others are measured.

mod daemons;
mod pmd_stats;
mod vhost;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use self::daemons::{Daemons, Folder, Plan};
pub use self::vhost::{Sockets, VhostForwarding, VhostSwitch};
pub use pmd_stats::{PmdStats, TrackedPackets, packets_sent};

use super::{Namespace, PeerError, Window, run, thread_preemptions};
use crate::cycles;

const PACKAGE: &str = "openvswitch-switch-dpdk";
/// How long connections may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);
/// Packets after which it has surely noticed that it goes on.
const PACKETS_TO_BEGIN: u64 = 1024;
/// The part of a window by which its count of cycles may differ from ours.
const CLOCK_TOLERANCE: u64 = 20;
/// How often replies are sent, and how long they may take each time.
const REPLY_ATTEMPTS: u32 = 6;
const REPLY_PATIENCE: Duration = Duration::from_secs(5);
/// How often to look.
const POLL: Duration = Duration::from_millis(50);

/// What it does with packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Forwarding {
    /// Each packet's connection is looked up, and is established.
    pub is_tracked: bool,
    /// Out through the tunnel.
    pub is_tunnelled: bool,
}

/// What comes in.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// A capture of the frames.
    pub frames: PathBuf,
    /// One of replies, some to each connection.
    pub replies: PathBuf,
    /// Connections in it.
    pub connections: usize,
}

/// A running Open vSwitch.
#[derive(Debug)]
pub struct OpenVSwitch {
    daemons: Daemons,
    cpu: usize,
    is_tracked: bool,
}

impl OpenVSwitch {
    /// Its name in results.
    pub const NAME: &str = "open-vswitch-dpdk";

    /// Whether it can run here.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed.
    pub fn find() -> Result<(), PeerError> {
        daemons::find()
    }

    /// Starts it, with its bridges and ports, and nothing forwarded yet: the forwarding thread on
    /// `cpu`, everything else on another. It is paused.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed, or without privileges or huge pages.
    pub fn start(cpu: usize, other_cpu: usize) -> Result<Self, PeerError> {
        let plan = Plan {
            purpose: "ovs",
            configure: &configure,
            interfaces: &["sink", "direct", "tunnel"],
            connect: &connect,
        };
        let daemons = Daemons::start(&plan, cpu, other_cpu)?;
        daemons.switch.pause();
        Ok(Self { daemons, cpu, is_tracked: false })
    }

    /// Forwards `traffic` that way from now on; returns when all connections are established, if
    /// they are tracked. Paused again.
    ///
    /// # Errors
    ///
    /// Fails if connections are not established in time.
    pub fn forward(&mut self, how: Forwarding, traffic: &Traffic) -> Result<(), PeerError> {
        self.daemons.switch.resume();
        let result = self.set_up(how, traffic);
        self.daemons.switch.pause();
        self.daemons.switch.check()?;
        self.is_tracked = how.is_tracked;
        result
    }

    fn set_up(&self, how: Forwarding, traffic: &Traffic) -> Result<(), PeerError> {
        let at = self.at();
        for port in ["src", "replies"] {
            at.configure(&["--if-exists", "del-port", "br0", port])?;
        }
        at.control(&["dpctl/flush-conntrack"])?;
        at.set_rules(how)?;
        at.add_source("src", SOURCE_NUMBER, &traffic.frames, true)?;
        if !how.is_tracked {
            return Ok(());
        }
        let connections = traffic.connections;
        let all = connections.to_string();
        wait("connections", || Ok(at.control(&["dpctl/ct-get-nconns"])?.trim() == all))?;
        // A connection is established once a reply was seen. While ports come and go, the switch
        // may drop what comes in on them, all of it if it is held up.
        for _ in 0..REPLY_ATTEMPTS {
            at.add_source("replies", REPLIES_NUMBER, &traffic.replies, false)?;
            let are_established = are_established(&at, connections as u64)?;
            at.configure(&["del-port", "br0", "replies"])?;
            if are_established {
                return Ok(());
            }
        }
        Err(PeerError::Waited { program: Self::NAME, what: "established connections" })
    }

    /// Lets it forward for so long, and tells what it did. Paused again.
    ///
    /// # Errors
    ///
    /// Fails if it did not forward all, or found connections new that were established.
    pub fn measure(&mut self, time: Duration) -> Result<Window, PeerError> {
        self.daemons.switch.resume();
        let result = self.window(time);
        self.daemons.switch.pause();
        self.daemons.switch.check()?;
        result
    }

    fn window(&self, time: Duration) -> Result<Window, PeerError> {
        let at = self.at();
        let new_before = self.packets_of_new_connections()?;
        let sent_before = at.packets_sent()?;
        // The thread counts the time it was paused for as soon as it goes on: before the window.
        let start = self.stats()?;
        let mut before = start;
        wait("packets", || {
            before = self.stats()?;
            Ok(before.since(&start).received > PACKETS_TO_BEGIN)
        })?;
        let clock = cycles::now();
        let preemptions = thread_preemptions(self.daemons.switch.id(), "pmd-");
        thread::sleep(time);
        let mut stats = self.stats()?.since(&before);
        let passed = cycles::now().saturating_sub(clock);
        let mut preemptions =
            thread_preemptions(self.daemons.switch.id(), "pmd-").saturating_sub(preemptions);
        // It counts cycles when it is done with a burst: too late if it lost its CPU meanwhile.
        if stats.cycles.abs_diff(passed) > passed / CLOCK_TOLERANCE {
            stats.cycles = passed;
            preemptions = preemptions.max(1);
        }
        let sent = at.packets_sent()?.saturating_sub(sent_before);
        let new = self.packets_of_new_connections()?.saturating_sub(new_before);
        // Sent was counted over a little more than the window.
        if sent < stats.received || stats.received == 0 || new > 0 {
            let PmdStats { received, .. } = stats;
            return Err(PeerError::Traffic { program: Self::NAME, received, sent, new });
        }
        Ok(Window { packets: stats.received, cycles: stats.cycles, preemptions })
    }

    fn stats(&self) -> Result<PmdStats, PeerError> {
        let text = self.at().control(&["dpif-netdev/pmd-stats-show"])?;
        PmdStats::parse(&text, self.cpu)
            .ok_or_else(|| PeerError::Answer { program: "ovs-vswitchd".into(), answer: text })
    }

    fn packets_of_new_connections(&self) -> Result<u64, PeerError> {
        if !self.is_tracked {
            return Ok(0);
        }
        Ok(TrackedPackets::parse(&self.at().control(&["dpctl/dump-flows"])?).new)
    }

    fn at(&self) -> Folder<'_> {
        self.daemons.at()
    }
}

/// Looks again and again whether something is there.
fn wait(
    what: &'static str,
    mut is_there: impl FnMut() -> Result<bool, PeerError>,
) -> Result<(), PeerError> {
    let start = Instant::now();
    while !is_there()? {
        if start.elapsed() > PATIENCE {
            return Err(PeerError::Waited { program: OpenVSwitch::NAME, what });
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Whether all connections are established, or get there soon.
fn are_established(at: &Folder<'_>, connections: u64) -> Result<bool, PeerError> {
    let mut before = TrackedPackets::default();
    let start = Instant::now();
    while start.elapsed() < REPLY_PATIENCE {
        let now = TrackedPackets::parse(&at.control(&["dpctl/dump-flows"])?);
        // Each had its turn since it was looked at last, and none was new.
        if now.new == before.new && now.established > before.established + 2 * connections {
            return Ok(true);
        }
        if now.new != before.new {
            before = now;
        }
        thread::sleep(POLL);
    }
    Ok(false)
}

/// Numbers of the ports that packets come in on.
const SOURCE_NUMBER: u16 = 10;
const REPLIES_NUMBER: u16 = 11;

/// Bridges and ports.
fn configure(at: &Folder<'_>) -> Result<(), PeerError> {
    // The bridge of the underlay takes packets with the tunnel around them.
    let null = |name: &str| format!("options:dpdk-devargs={name},no-rx=1");
    for (bridge, port, device) in [("phy", "sink", "net_null0"), ("br0", "direct", "net_null1")] {
        at.add_bridge(bridge)?;
        at.configure_offline(&["add-port", bridge, port])?;
        let devargs = null(device);
        let dpdk = ["set", "interface", port, "type=dpdk", "mtu_request=2000", &devargs];
        at.configure_offline(&dpdk)?;
    }
    at.add_tunnel("br0", &[])
}

/// The underlay and the way out.
fn connect(at: &Folder<'_>, namespace: &Namespace) -> Result<(), PeerError> {
    at.connect_underlay(namespace)?;
    at.replace_rules("phy", "in_port=LOCAL,actions=output:sink\n")
}

impl Folder<'_> {
    fn add_source(
        &self,
        name: &str,
        number: u16,
        file: &Path,
        is_endless: bool,
    ) -> Result<(), PeerError> {
        let endless = if is_endless { ",infinite_rx=1" } else { "" };
        let devargs = format!("net_pcap{number},rx_pcap={}{endless}", file.display());
        self.configure(&[
            "add-port",
            "br0",
            name,
            "--",
            "set",
            "interface",
            name,
            "type=dpdk",
            &format!("ofport_request={number}"),
            &format!("options:dpdk-devargs=\"{devargs}\""),
        ])?;
        self.check_interface(name)
    }

    fn set_rules(&self, how: Forwarding) -> Result<(), PeerError> {
        let out = if how.is_tunnelled { "tunnel" } else { "direct" };
        let rules = if how.is_tracked {
            let (source, replies) = (SOURCE_NUMBER, REPLIES_NUMBER);
            format!(
                "table=0,ip,ct_state=-trk,actions=ct(table=1)\n\
                 table=1,in_port={source},ip,ct_state=+trk+new,actions=ct(commit),output:{out}\n\
                 table=1,in_port={source},ip,ct_state=+trk+est,actions=output:{out}\n\
                 table=1,in_port={replies},actions=drop\n"
            )
        } else {
            format!("in_port={SOURCE_NUMBER},actions=output:{out}\n")
        };
        self.replace_rules("br0", &rules)
    }

    /// Packets that left on either way so far.
    fn packets_sent(&self) -> Result<u64, PeerError> {
        let mut sent = 0;
        for (bridge, port) in [("phy.mgmt", "sink"), ("br0.mgmt", "direct")] {
            let bridge = self.path(bridge);
            let answer = run(self.tool("ovs-ofctl").args(["dump-ports", &bridge, port]))?;
            let Some(packets) = packets_sent(&answer) else {
                return Err(PeerError::Answer { program: "ovs-ofctl".into(), answer });
            };
            sent += packets;
        }
        Ok(sent)
    }
}
