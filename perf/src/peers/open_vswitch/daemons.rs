//! Its daemons, in a folder and a network namespace of their own.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{
    super::{Background, Namespace, PeerError, run},
    PACKAGE,
};
use crate::huge_pages;

/// Debian puts the program here, beside the one without DPDK.
const DAEMON: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// DPDK's memory in MiB: packet memory for four ports, and flows.
const MEMORY_MIB: u64 = 512;
/// Huge pages for that, and some that DPDK takes later.
const HUGE_PAGES: u64 = MEMORY_MIB / 2 + 64;
/// How long its tools wait for it, in seconds.
pub(super) const TOOL_TIMEOUT: &str = "--timeout=60";

/// Outer addresses of the tunnel, and the MAC address that the far one has.
const OWN: &str = "192.0.2.1/24";
const PEER: &str = "192.0.2.2";
const PEER_MAC: &str = "02:00:00:00:00:02";

/// A running switch and its database.
#[derive(Debug)]
pub(super) struct Daemons {
    // Ended in this order.
    pub(super) switch: Background,
    _database: Background,
    _namespace: Namespace,
    folder: TempDir,
}

/// What a switch is made of before it runs, and what is done once it does.
pub(super) struct Plan<'a> {
    /// Tells namespaces apart.
    pub(super) purpose: &'a str,
    /// Bridges and ports, put down in the database.
    pub(super) configure: &'a dyn Fn(&Folder<'_>) -> Result<(), PeerError>,
    /// Interfaces that have to be there.
    pub(super) interfaces: &'a [&'a str],
    /// The underlay.
    pub(super) connect: &'a dyn Fn(&Folder<'_>, &Namespace) -> Result<(), PeerError>,
}

/// Whether it can run here.
pub(super) fn find() -> Result<(), PeerError> {
    if Path::new(DAEMON).exists() && Path::new(SCHEMA).exists() {
        return Ok(());
    }
    Err(PeerError::NotInstalled { package: PACKAGE })
}

impl Daemons {
    /// Starts both: the forwarding thread on `cpu`, everything else on another.
    pub(super) fn start(plan: &Plan<'_>, cpu: usize, other_cpu: usize) -> Result<Self, PeerError> {
        find()?;
        huge_pages::reserve(HUGE_PAGES)?;
        let folder = tempfile::Builder::new().prefix("vrouter-perf-ovs-").tempdir();
        let folder =
            folder.map_err(|source| PeerError::Write { path: std::env::temp_dir(), source })?;
        let namespace = Namespace::new(plan.purpose)?;
        let at = Folder(folder.path());
        run(at.tool("ovsdb-tool").arg("create").arg(at.0.join("conf.db")).arg(SCHEMA))?;
        let mut server = at.within(&namespace, "ovsdb-server");
        server
            .arg(at.0.join("conf.db"))
            .arg(format!("--remote=punix:{}", at.path("db.sock")))
            .arg(format!("--unixctl={}", at.path("database.ctl")));
        let log = at.0.join("ovsdb-server.log");
        let database = Background::start("ovsdb-server", &server, other_cpu, &log)?;
        at.configure_threads(cpu, other_cpu)?;
        (plan.configure)(&at)?;
        let mut daemon = at.within(&namespace, DAEMON);
        daemon
            .arg(format!("unix:{}", at.path("db.sock")))
            .arg(format!("--unixctl={}", at.path("switch.ctl")))
            .args(["-vsyslog:off", "-vconsole:warn"]);
        let log = at.0.join("ovs-vswitchd.log");
        let mut switch = Background::start("ovs-vswitchd", &daemon, other_cpu, &log)?;
        let is_up =
            at.wait_for_switch(plan.interfaces).and_then(|()| (plan.connect)(&at, &namespace));
        // A switch that has ended says why; the tools only that they waited in vain.
        is_up.or_else(|error| switch.check().and(Err(error)))?;
        Ok(Self { switch, _database: database, _namespace: namespace, folder })
    }

    pub(super) fn at(&self) -> Folder<'_> {
        Folder(self.folder.path())
    }
}

/// Its folder, and its tools that work there.
#[derive(Clone, Copy)]
pub(super) struct Folder<'a>(pub(super) &'a Path);

impl Folder<'_> {
    pub(super) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// What is the database's before the switch runs.
    fn configure_threads(&self, cpu: usize, other_cpu: usize) -> Result<(), PeerError> {
        let lcores = format!("{:#x}", 1_u128 << other_cpu);
        let workers = format!("{:#x}", 1_u128 << cpu);
        let dpdk = format!("--no-pci --in-memory --no-telemetry -m {MEMORY_MIB}");
        self.configure_offline(&["init"])?;
        self.configure_offline(&[
            "set",
            "Open_vSwitch",
            ".",
            "other_config:dpdk-init=true",
            &format!("other_config:dpdk-extra=\"{dpdk}\""),
            &format!("other_config:dpdk-lcore-mask={lcores}"),
            &format!("other_config:pmd-cpu-mask={workers}"),
        ])
    }

    /// A bridge that forwards nothing unless told to.
    pub(super) fn add_bridge(&self, bridge: &str) -> Result<(), PeerError> {
        self.configure_offline(&["add-br", bridge])?;
        self.configure_offline(&["set", "bridge", bridge, "datapath_type=netdev"])?;
        self.configure_offline(&["set", "bridge", bridge, "fail_mode=secure"])
    }

    /// A tunnel to the other node.
    pub(super) fn add_tunnel(&self, bridge: &str, options: &[&str]) -> Result<(), PeerError> {
        self.configure_offline(&["add-port", bridge, "tunnel"])?;
        let remote = format!("options:remote_ip={PEER}");
        let vxlan = ["set", "interface", "tunnel", "type=vxlan", &remote, "options:key=1"];
        self.configure_offline(&[&vxlan[..], &["options:dst_port=4789"], options].concat())
    }

    /// The underlay's address, and the MAC address of the other side.
    pub(super) fn connect_underlay(&self, namespace: &Namespace) -> Result<(), PeerError> {
        namespace.ip(&["addr", "add", OWN, "dev", "phy"])?;
        namespace.ip(&["link", "set", "phy", "up"])?;
        self.control(&["tnl/arp/set", "phy", PEER, PEER_MAC]).map(drop)
    }

    pub(super) fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        self.confine(&mut command);
        command
    }

    pub(super) fn within(&self, namespace: &Namespace, program: &str) -> Command {
        let mut command = namespace.command(program);
        self.confine(&mut command);
        command
    }

    /// Every folder that it would otherwise use of the machine's.
    pub(super) fn confine(&self, command: &mut Command) {
        for name in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
            command.env(name, self.0);
        }
        command.env("RUNTIME_DIRECTORY", self.0);
    }

    pub(super) fn vsctl(&self) -> Command {
        let mut command = self.tool("ovs-vsctl");
        command.arg(format!("--db=unix:{}", self.path("db.sock"))).args(["--retry", TOOL_TIMEOUT]);
        command
    }

    pub(super) fn configure_offline(&self, arguments: &[&str]) -> Result<(), PeerError> {
        run(self.vsctl().arg("--no-wait").args(arguments)).map(drop)
    }

    /// Returns when the switch has done it.
    pub(super) fn configure(&self, arguments: &[&str]) -> Result<(), PeerError> {
        run(self.vsctl().args(arguments)).map(drop)
    }

    pub(super) fn wait_for_switch(&self, interfaces: &[&str]) -> Result<(), PeerError> {
        // It answers a change when everything before is in force, too.
        self.configure(&["set", "Open_vSwitch", ".", "external_ids:is-measured=true"])?;
        interfaces.iter().try_for_each(|interface| self.check_interface(interface))
    }

    pub(super) fn check_interface(&self, name: &str) -> Result<(), PeerError> {
        let error = run(self.vsctl().args(["get", "interface", name, "error"]))?;
        match error.trim() {
            "[]" | "" => Ok(()),
            error => {
                let (command, message) = (format!("Open vSwitch's port {name}"), error.to_owned());
                Err(PeerError::Failed { command, message })
            }
        }
    }

    pub(super) fn control(&self, arguments: &[&str]) -> Result<String, PeerError> {
        let target = self.path("switch.ctl");
        run(self.tool("ovs-appctl").args([TOOL_TIMEOUT, "--target", &target]).args(arguments))
    }

    /// Exchanges all rules of a bridge.
    pub(super) fn replace_rules(&self, bridge: &str, rules: &str) -> Result<(), PeerError> {
        let (file, bridge) = (self.0.join("rules"), self.path(&format!("{bridge}.mgmt")));
        fs::write(&file, rules)
            .map_err(|source| PeerError::Write { path: file.clone(), source })?;
        run(self
            .tool("ovs-ofctl")
            .args([TOOL_TIMEOUT, "--bundle", "replace-flows", &bridge])
            .arg(&file))?;
        Ok(())
    }
}
