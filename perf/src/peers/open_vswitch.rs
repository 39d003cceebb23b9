//! Open vSwitch with DPDK: from a file that comes in round and round to a port that takes all.
//!
//! ```text
//! src (net_pcap, infinite) ─► br0 ─┬─► direct (net_null)
//!                                  └─► tunnel (vxlan) ─► phy ─► sink (net_null)
//! ```
//!
//! It has folders and a network namespace of its own, touches nothing of the machine's, and is
//! paused while others are measured.

mod pmd_stats;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub use pmd_stats::{PmdStats, TrackedPackets, packets_sent};

use super::{Background, Namespace, PeerError, Window, run, thread_preemptions};
use crate::{cycles, huge_pages};

/// Debian puts the program here, beside the one without DPDK.
const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const PACKAGE: &str = "openvswitch-switch-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// DPDK's memory in MiB: packet memory for four ports, and flows.
const MEMORY_MIB: u64 = 512;
/// Huge pages for that, and some that DPDK takes later.
const HUGE_PAGES: u64 = MEMORY_MIB / 2 + 64;
/// How long its tools wait for it, in seconds.
const TOOL_TIMEOUT: &str = "--timeout=60";
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
/// Outer addresses of the tunnel, and the MAC address that the far one has.
const OWN: &str = "192.0.2.1/24";
const PEER: &str = "192.0.2.2";
const PEER_MAC: &str = "02:00:00:00:00:02";

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
    // Ended in this order.
    switch: Background,
    /// Its database, and where both run.
    _rest: (Background, Namespace),
    folder: TempDir,
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
        if Path::new(DAEMON).exists() && Path::new(SCHEMA).exists() {
            return Ok(());
        }
        Err(PeerError::NotInstalled { package: PACKAGE })
    }

    /// Starts it, with its bridges and ports, and nothing forwarded yet: the forwarding thread on
    /// `cpu`, everything else on another. It is paused.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed, or without privileges or huge pages.
    pub fn start(cpu: usize, other_cpu: usize) -> Result<Self, PeerError> {
        Self::find()?;
        huge_pages::reserve(HUGE_PAGES)?;
        let folder = tempfile::Builder::new().prefix("vrouter-perf-ovs-").tempdir();
        let folder =
            folder.map_err(|source| PeerError::Write { path: std::env::temp_dir(), source })?;
        let namespace = Namespace::new("ovs")?;
        let at = Folder(folder.path());
        run(at.tool("ovsdb-tool").arg("create").arg(at.0.join("conf.db")).arg(SCHEMA))?;
        let mut server = at.within(&namespace, "ovsdb-server");
        server
            .arg(at.0.join("conf.db"))
            .arg(format!("--remote=punix:{}", at.path("db.sock")))
            .arg(format!("--unixctl={}", at.path("database.ctl")));
        let log = at.0.join("ovsdb-server.log");
        let database = Background::start("ovsdb-server", &server, other_cpu, &log)?;
        configure(&at, cpu, other_cpu)?;
        let mut daemon = at.within(&namespace, DAEMON);
        daemon
            .arg(format!("unix:{}", at.path("db.sock")))
            .arg(format!("--unixctl={}", at.path("switch.ctl")))
            .args(["-vsyslog:off", "-vconsole:warn"]);
        let log = at.0.join("ovs-vswitchd.log");
        let mut switch = Background::start("ovs-vswitchd", &daemon, other_cpu, &log)?;
        let is_up = at.wait_for_switch().and_then(|()| connect(&at, &namespace));
        // A switch that has ended says why; the tools only that they waited in vain.
        is_up.or_else(|error| switch.check().and(Err(error)))?;
        switch.pause();
        let rest = (database, namespace);
        Ok(Self { switch, _rest: rest, folder, cpu, is_tracked: false })
    }

    /// Forwards `traffic` that way from now on; returns when all connections are established, if
    /// they are tracked. Paused again.
    ///
    /// # Errors
    ///
    /// Fails if connections are not established in time.
    pub fn forward(&mut self, how: Forwarding, traffic: &Traffic) -> Result<(), PeerError> {
        self.switch.resume();
        let result = self.set_up(how, traffic);
        self.switch.pause();
        self.switch.check()?;
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
        self.switch.resume();
        let result = self.window(time);
        self.switch.pause();
        self.switch.check()?;
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
        let preemptions = thread_preemptions(self.switch.id(), "pmd-");
        thread::sleep(time);
        let mut stats = self.stats()?.since(&before);
        let passed = cycles::now().saturating_sub(clock);
        let mut preemptions =
            thread_preemptions(self.switch.id(), "pmd-").saturating_sub(preemptions);
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
        Folder(self.folder.path())
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

/// What is the database's before the switch runs.
fn configure(at: &Folder<'_>, cpu: usize, other_cpu: usize) -> Result<(), PeerError> {
    let lcores = format!("{:#x}", 1_u128 << other_cpu);
    let workers = format!("{:#x}", 1_u128 << cpu);
    let dpdk = format!("--no-pci --in-memory --no-telemetry -m {MEMORY_MIB}");
    at.configure_offline(&["init"])?;
    at.configure_offline(&[
        "set",
        "Open_vSwitch",
        ".",
        "other_config:dpdk-init=true",
        &format!("other_config:dpdk-extra=\"{dpdk}\""),
        &format!("other_config:dpdk-lcore-mask={lcores}"),
        &format!("other_config:pmd-cpu-mask={workers}"),
    ])?;
    // The bridge of the underlay takes packets with the tunnel around them.
    let null = |name: &str| format!("options:dpdk-devargs={name},no-rx=1");
    for (bridge, port, device) in [("phy", "sink", "net_null0"), ("br0", "direct", "net_null1")] {
        at.configure_offline(&["add-br", bridge])?;
        at.configure_offline(&["set", "bridge", bridge, "datapath_type=netdev"])?;
        at.configure_offline(&["set", "bridge", bridge, "fail_mode=secure"])?;
        at.configure_offline(&["add-port", bridge, port])?;
        let devargs = null(device);
        at.configure_offline(&[
            "set",
            "interface",
            port,
            "type=dpdk",
            "mtu_request=2000",
            &devargs,
        ])?;
    }
    let remote = format!("options:remote_ip={PEER}");
    at.configure_offline(&["add-port", "br0", "tunnel"])?;
    at.configure_offline(&[
        "set",
        "interface",
        "tunnel",
        "type=vxlan",
        &remote,
        "options:key=1",
        "options:dst_port=4789",
    ])
}

/// The underlay: an address, the other side's MAC address, and the way out.
fn connect(at: &Folder<'_>, namespace: &Namespace) -> Result<(), PeerError> {
    namespace.ip(&["addr", "add", OWN, "dev", "phy"])?;
    namespace.ip(&["link", "set", "phy", "up"])?;
    at.control(&["tnl/arp/set", "phy", PEER, PEER_MAC])?;
    let bridge = at.path("phy.mgmt");
    run(at.tool("ovs-ofctl").args(["add-flow", &bridge, "in_port=LOCAL,actions=output:sink"]))?;
    Ok(())
}

/// Its folder, and its tools that work there.
struct Folder<'a>(&'a Path);

impl Folder<'_> {
    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.confine(&mut command);
        command
    }

    fn within(&self, namespace: &Namespace, program: &str) -> Command {
        let mut command = namespace.command(program);
        self.confine(&mut command);
        command
    }

    /// Every folder that it would otherwise use of the machine's.
    fn confine(&self, command: &mut Command) {
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(name, self.0);
        }
        command.env("RUNTIME_DIRECTORY", self.0);
    }

    fn vsctl(&self) -> Command {
        let mut command = self.tool("ovs-vsctl");
        command.arg(format!("--db=unix:{}", self.path("db.sock"))).args(["--retry", TOOL_TIMEOUT]);
        command
    }

    fn configure_offline(&self, arguments: &[&str]) -> Result<(), PeerError> {
        run(self.vsctl().arg("--no-wait").args(arguments)).map(drop)
    }

    /// Returns when the switch has done it.
    fn configure(&self, arguments: &[&str]) -> Result<(), PeerError> {
        run(self.vsctl().args(arguments)).map(drop)
    }

    fn wait_for_switch(&self) -> Result<(), PeerError> {
        // It answers a change when everything before is in force, too.
        self.configure(&["set", "Open_vSwitch", ".", "external_ids:is-measured=true"])?;
        for interface in ["sink", "direct", "tunnel"] {
            self.check_interface(interface)?;
        }
        Ok(())
    }

    fn check_interface(&self, name: &str) -> Result<(), PeerError> {
        let error = run(self.vsctl().args(["get", "interface", name, "error"]))?;
        match error.trim() {
            "[]" | "" => Ok(()),
            error => {
                let (command, message) = (format!("Open vSwitch's port {name}"), error.to_owned());
                Err(PeerError::Failed { command, message })
            }
        }
    }

    fn control(&self, arguments: &[&str]) -> Result<String, PeerError> {
        let target = self.path("switch.ctl");
        run(self.tool("ovs-appctl").args([TOOL_TIMEOUT, "--target", &target]).args(arguments))
    }

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
        let (file, bridge) = (self.0.join("rules"), self.path("br0.mgmt"));
        fs::write(&file, rules)
            .map_err(|source| PeerError::Write { path: file.clone(), source })?;
        run(self
            .tool("ovs-ofctl")
            .args([TOOL_TIMEOUT, "--bundle", "replace-flows", &bridge])
            .arg(&file))?;
        Ok(())
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
