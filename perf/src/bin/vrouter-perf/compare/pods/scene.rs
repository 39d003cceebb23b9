//! Two pods and what is between them, before any engine runs.

use std::net::{IpAddr, Ipv4Addr};

use encap::MacAddress;
use perf::peers::{Namespace, PeerError, run};
use vrouter::idle::IdleMode;

use super::{Congestion, PodTraffic, What};

/// What a wire between two nodes carries of an IP packet, in bytes.
const WIRE_MTU: u16 = 1500;
/// What VXLAN over IPv4 leaves of it.
const TUNNEL_MTU: u16 = WIRE_MTU - 50;

/// Who forwards between pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dataplane {
    /// Our engine, pods behind TAP devices, with a worker that never sleeps; across nodes, where two
    /// share a CPU, with workers that do.
    Tap,
    /// The same, with a worker that sleeps when there is nothing to do.
    TapAdaptive,
    /// Our engine, pods behind veth pairs.
    Veth,
    /// The kernel: veth pairs and a bridge, on the clients' CPU.
    Linux,
    /// The same, with every CPU for clients and servers.
    LinuxBothCpus,
    /// The same on one CPU, over a wire that takes what no wire does: packets of 64 KiB.
    LinuxUncut,
}

impl Dataplane {
    /// Whom the others are compared with.
    pub(super) const OURS: Self = Self::Tap;

    /// Who takes part.
    pub(super) fn all(traffic: PodTraffic) -> Vec<Self> {
        let mut all = vec![Self::Tap, Self::Veth, Self::Linux, Self::LinuxBothCpus];
        match traffic {
            PodTraffic { what: What::Bulk { congestion: Congestion::Bbr, .. }, .. } => {
                all = vec![Self::Tap, Self::Linux];
            }
            PodTraffic { is_across: true, .. } => all.push(Self::LinuxUncut),
            PodTraffic { what: What::RoundTrips, .. } => all.push(Self::TapAdaptive),
            PodTraffic { .. } => {}
        }
        all
    }

    /// Its name in results.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tap => "vrouter-tap",
            Self::TapAdaptive => "vrouter-tap-adaptive",
            Self::Veth => "vrouter-veth",
            Self::Linux => "linux",
            Self::LinuxBothCpus => "linux-both-cpus",
            Self::LinuxUncut => "linux-uncut",
        }
    }

    /// Whether it is our engine.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Tap | Self::TapAdaptive | Self::Veth)
    }

    /// How our engine's workers rest: of two on one CPU, none may keep it.
    pub(super) fn idle(self, is_across: bool) -> IdleMode {
        if is_across || self == Self::TapAdaptive { IdleMode::Adaptive } else { IdleMode::Busy }
    }

    /// Whether clients and servers may use the CPU that is our engine's.
    pub(super) fn has_both_cpus(self) -> bool {
        self == Self::LinuxBothCpus
    }

    /// Whether pods are behind TAP devices.
    pub(super) fn is_tap(self) -> bool {
        matches!(self, Self::Tap | Self::TapAdaptive)
    }

    /// What is not alike between its row and ours.
    pub(super) fn not_fair(self, traffic: PodTraffic) -> &'static str {
        match (self, traffic.is_across) {
            (Self::Tap, false) => {
                "TAP devices. Client and server share one CPU, as in linux's row; one worker that \
                 never sleeps has the other CPU to itself. Packets are routed; connections, sources \
                 and TTL as ever."
            }
            (Self::TapAdaptive, _) => {
                "As vrouter-tap, but the worker sleeps when there is nothing to do (128 empty \
                 polls), as it is configured by default."
            }
            (Self::Veth, false) => {
                "As vrouter-tap, but veth pairs, whose far ends the engine has over AF_XDP in copy \
                 mode: the pods' stacks send frames of the MTU."
            }
            (Self::Tap, true) => {
                "TAP devices. Client and server share one CPU, as in linux's row; both nodes' \
                 workers share the other one, and sleep when there is nothing to do. The wire is \
                 linux's; the engines have its ends over AF_XDP in copy mode, all that veth has."
            }
            (Self::Veth, true) => "As vrouter-tap, but pods are behind veth pairs and AF_XDP.",
            (Self::Linux, false) => {
                "Veth pairs and a bridge, no netfilter. Client, server and all of the kernel's work \
                 are on one CPU."
            }
            (Self::LinuxBothCpus, _) if traffic.what == What::RoundTrips => {
                "As linux, but the server is on the other CPU: each has to wake the other one's, as \
                 with an engine."
            }
            (Self::LinuxBothCpus, _) => {
                "As linux, but client and server may use both CPUs. No goal."
            }
            (Self::Linux, true) => {
                "On each node a bridge with a VXLAN device, static entries, no netfilter. The wire \
                 is a veth pair that takes frames of its MTU (no TSO, no GSO), and leaves \
                 checksums undone; GRO is on where it ends. Client, server and both nodes' kernels \
                 are on one CPU."
            }
            (Self::LinuxUncut, _) => {
                "As linux, but the wire takes packets of 64 KiB: a veth pair as it is by default. No \
                 goal."
            }
        }
    }
}

/// Two pods, the nodes that they are on, and the links.
pub(super) struct Scene {
    pub(super) dataplane: Dataplane,
    pub(super) is_across: bool,
    pub(super) pods: [Namespace; 2],
    /// The first pod's node.
    pub(super) near: Namespace,
    /// The second pod's, if that is another one.
    pub(super) far: Option<Namespace>,
}

impl Scene {
    /// Makes all of it. It goes with this.
    pub(super) fn new(dataplane: Dataplane, is_across: bool) -> anyhow::Result<Self> {
        let named = |what: &str| Namespace::new(&format!("{}-{what}", dataplane.name()));
        let pods = [named("a")?, named("b")?];
        let far = if is_across { Some(named("n2")?) } else { None };
        let scene = Self { dataplane, is_across, pods, near: named("n1")?, far };
        if let Some(far) = &scene.far {
            scene.make_wire(&scene.near, far)?;
        }
        if !dataplane.is_ours() {
            for (number, node) in scene.nodes() {
                scene.make_bridge(number, node)?;
            }
        }
        for pod in 0..scene.pods.len() {
            scene.attach(pod)?;
        }
        Ok(scene)
    }

    /// Lets the pods' TCP go by that, for connections from now on.
    pub(super) fn choose_congestion(&self, name: &str) -> Result<(), PeerError> {
        let choose = format!("echo {name} >/proc/sys/net/ipv4/tcp_congestion_control");
        for pod in &self.pods {
            run(pod.command("sh").args(["-ec", &choose]))?;
        }
        Ok(())
    }

    /// The number of the node that a pod is on: 1 or 2.
    pub(super) fn node_number(&self, pod: usize) -> u8 {
        if self.is_across && pod > 0 { 2 } else { 1 }
    }

    /// The nodes and their numbers.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (u8, &Namespace)> {
        (1..).zip([&self.near].into_iter().chain(&self.far))
    }

    /// The node that a pod is on.
    fn node(&self, pod: usize) -> &Namespace {
        self.far.as_ref().filter(|_| pod > 0).unwrap_or(&self.near)
    }

    /// A pod's address.
    pub(super) fn address(&self, pod: usize) -> Ipv4Addr {
        let last = if pod == 0 { 10 } else { 11 };
        Ipv4Addr::new(10, 244, self.node_number(pod), last)
    }

    fn mtu_bytes(&self) -> u16 {
        if self.is_across { TUNNEL_MTU } else { WIRE_MTU }
    }

    fn make_wire(&self, one: &Namespace, two: &Namespace) -> anyhow::Result<()> {
        one.ip(&words(&format!(
            "link add up0 mtu {WIRE_MTU} type veth peer up0 netns {}",
            two.name()
        )))?;
        for (node, number) in [(one, 1_u8), (two, 2)] {
            let mac = wire_mac(number);
            node.ip(&words(&format!("link set up0 address {mac} addrgenmode none")))?;
            node.ip(&words(&format!("addr add 192.0.2.{number}/24 dev up0")))?;
            node.ip(&words("link set up0 up"))?;
            if self.dataplane != Dataplane::LinuxUncut {
                ethtool(node, "up0", "tso off gso off gro on")?;
            }
            let (peer, peer_mac) = (3 - number, wire_mac(3 - number));
            node.ip(&words(&format!(
                "neigh add 192.0.2.{peer} lladdr {peer_mac} dev up0 nud permanent"
            )))?;
        }
        Ok(())
    }

    /// The kernel as a node's dataplane.
    fn make_bridge(&self, number: u8, at: &Namespace) -> anyhow::Result<()> {
        let mtu_bytes = self.mtu_bytes();
        at.ip(&words(&format!("link add br0 mtu {mtu_bytes} type bridge")))?;
        at.ip(&words("link set br0 up"))?;
        run(at.command("sh").args([
            "-ec",
            "for knob in /proc/sys/net/bridge/bridge-nf-call-*; do \
                 [ ! -e $knob ] || echo 0 >$knob; done",
        ]))?;
        if self.is_across {
            let peer = 3 - number;
            at.ip(&words(&format!(
                "link add vxlan0 mtu {mtu_bytes} type vxlan id 1 local 192.0.2.{number} \
                 remote 192.0.2.{peer} dstport 4789 dev up0"
            )))?;
            at.ip(&words("link set vxlan0 master br0 up"))?;
        }
        Ok(())
    }

    /// Gives a pod its `eth0`.
    fn attach(&self, pod: usize) -> anyhow::Result<()> {
        let Some(namespace) = self.pods.get(pod) else { return Ok(()) };
        let (node, mtu_bytes) = (self.node(pod), self.mtu_bytes());
        let (address, number) = (self.address(pod), self.node_number(pod));
        let mac = MacAddress::from_ip(IpAddr::V4(address));
        if self.dataplane.is_tap() {
            namespace.ip(&words("tuntap add dev eth0 mode tap multi_queue vnet_hdr"))?;
            namespace.ip(&words(&format!("link set eth0 mtu {mtu_bytes} address {mac}")))?;
        } else {
            let host_end = host_end(pod);
            node.ip(&words(&format!(
                "link add {host_end} mtu {mtu_bytes} type veth \
                 peer eth0 mtu {mtu_bytes} address {mac} netns {}",
                namespace.name()
            )))?;
            node.ip(&words(&format!("link set {host_end} addrgenmode none")))?;
            node.ip(&words(&format!("link set {host_end} up")))?;
        }
        namespace.ip(&words("link set eth0 addrgenmode none"))?;
        namespace.ip(&words("link set eth0 up"))?;
        if self.dataplane.is_ours() {
            let gateway = format!("10.244.{number}.1");
            namespace.ip(&words(&format!("addr add {address}/32 dev eth0")))?;
            namespace.ip(&words(&format!("route add {gateway} dev eth0")))?;
            namespace.ip(&words(&format!("route add default via {gateway} dev eth0")))?;
        } else {
            node.ip(&words(&format!("link set {} master br0", host_end(pod))))?;
            namespace.ip(&words(&format!("addr add {address}/16 dev eth0")))?;
        }
        Ok(())
    }
}

/// The node's end of a pod's veth pair.
pub(super) fn host_end(pod: usize) -> String {
    format!("pod{pod}")
}

/// The MAC address of a node's end of the wire.
pub(super) fn wire_mac(node: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, node])
}

fn ethtool(at: &Namespace, interface: &str, features: &str) -> Result<(), PeerError> {
    run(at.command("ethtool").args(["-K", interface]).args(words(features))).map(drop)
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}
