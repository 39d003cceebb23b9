//! A node whose dataplane is the engine, run in this process by a thread inside the node's
//! namespace.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsFd,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use control_api::engine as api;
use encap::MacAddress;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use vrouter::{
    config::{Batch, Role},
    engine::{Engine, EngineConfig},
    flows::Flows,
    idle::IdleMode,
    memory::{FramePool, RegionConfig},
    next_hop::Adjacency,
    pipeline::Pipeline,
    placement::WorkerPlace,
    port::{
        Backend, OpenPortError, OpenedPort, PortOpener, PortRequest, af_xdp::AfXdpOpener,
        tap::TapOpener,
    },
    runtime::Stopped,
    stats::TunnelTotals,
    trace::DropTrace,
    underlay::{Change, Underlay, Way},
};

use crate::{
    namespace::Namespace,
    plan::{Node, Pod, PodPort, set_up_uplink},
};

/// How often the engine's owner lets time pass.
const TICK: Duration = Duration::from_millis(2);
/// How long a test waits for what must happen: the machine may stall for seconds.
const PATIENCE: Duration = Duration::from_mins(1);
const FRAMES: u32 = 16_384;

type Question = Box<dyn FnOnce(&mut Engine<Pipeline>) + Send>;

/// How a node reaches the other one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tunnel {
    /// The family of the underlay.
    pub(crate) is_v6: bool,
    pub(crate) udp_port: u16,
    /// The MAC address that the other node wants in inner frames.
    pub(crate) remote_router_mac: MacAddress,
}

impl Tunnel {
    /// What the outer headers leave of the underlay's 1500 bytes.
    pub(crate) fn mtu_bytes(self) -> u16 {
        if self.is_v6 { 1430 } else { 1450 }
    }
}

pub(crate) struct EngineNode {
    pub(crate) namespace: Namespace,
    pub(crate) pods: Vec<Pod>,
    node: Node,
    peer: Node,
    /// Gone when the engine is to stop.
    questions: Option<mpsc::Sender<Question>>,
    thread: Option<JoinHandle<Stopped>>,
    generation: u64,
    /// Pods leave checksums to their interface.
    has_partial_checksums: bool,
    /// What the node's own stack is behind.
    host: PodPort,
}

impl EngineNode {
    /// Starts an engine in a namespace that has the interface `up0`; the tunnel and the pods come
    /// with [`Self::configure`].
    pub(crate) fn start(namespace: Namespace, node: Node, peer: Node) -> Self {
        Self::start_with(namespace, node, peer, 2)
    }

    /// As [`Self::start`], with so many workers.
    pub(crate) fn start_with(namespace: Namespace, node: Node, peer: Node, workers: u8) -> Self {
        Self::start_behind(namespace, node, peer, workers, PodPort::Veth)
    }

    /// As [`Self::start_with`], with the node's own stack behind that.
    pub(crate) fn start_behind(
        namespace: Namespace,
        node: Node,
        peer: Node,
        workers: u8,
        host: PodPort,
    ) -> Self {
        set_up_uplink(&namespace, node);
        set_up_host_port(&namespace, node, host);
        let (questions, inbox) = mpsc::channel();
        let path = namespace.path();
        let thread = thread::spawn(move || {
            let file = File::open(path).unwrap();
            // All threads of the engine are started from here, and so are in the namespace too.
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            run(&inbox, workers)
        });
        let pods = Vec::new();
        Self {
            namespace,
            pods,
            node,
            peer,
            questions: Some(questions),
            thread: Some(thread),
            generation: 0,
            has_partial_checksums: false,
            host,
        }
    }

    /// Attaches pods 10, 11 and so on.
    pub(crate) fn attach_pods(&mut self, count: u8, mtu_bytes: u16) {
        self.attach_pods_with(count, mtu_bytes, 1);
    }

    /// As [`Self::attach_pods`], with interfaces of so many queues.
    pub(crate) fn attach_pods_with(&mut self, count: u8, mtu_bytes: u16, queues: u8) {
        for number in (10..).take(usize::from(count)) {
            let (at, end) = (&self.namespace, host_end(number));
            self.pods.push(Pod::create(at, self.node, number, &end, mtu_bytes, queues));
        }
    }

    /// Attaches as many pods behind TAP devices, with the next numbers.
    pub(crate) fn attach_tap_pods(&mut self, count: u8, mtu_bytes: u16) {
        let first = 10 + u8::try_from(self.pods.len()).unwrap();
        for number in (first..).take(usize::from(count)) {
            self.pods.push(Pod::create_tap(self.node, number, mtu_bytes));
        }
    }

    /// Lets the pods leave checksums to their interfaces.
    pub(crate) fn let_pods_offload_checksums(&mut self) {
        for pod in &self.pods {
            pod.namespace.run("ethtool -K eth0 tx on");
        }
        self.has_partial_checksums = true;
    }

    /// Puts everything in force: the pods there are, and the tunnel to the other node.
    pub(crate) fn configure(&mut self, tunnel: Tunnel) {
        let Self { node, peer, pods, has_partial_checksums, .. } = self;
        let mut upserts = objects(*node, *peer, pods, tunnel, *has_partial_checksums);
        if self.host == PodPort::Tap {
            upserts.iter_mut().for_each(put_host_behind_tap);
        }
        self.apply(api::ObjectBatch { upserts, deletes: vec![] }, true);
    }

    /// Puts a guest port in force that is no pod's here.
    pub(crate) fn add_guests(&mut self, guests: impl Iterator<Item = (u8, String)>) {
        let upserts = guests.map(|(number, interface)| {
            let addresses = self.node.pod_addresses(number).map(bytes).to_vec();
            let mac = self.node.pod_mac(number);
            let backend = api::AfXdpBackend { interface, ..api::AfXdpBackend::default() };
            let role = api::port::Role::Guest;
            let backend = api::port::Backend::AfXdp(backend);
            api::Object { kind: Some(port(&guest_name(number), role, mac, addresses, backend)) }
        });
        let upserts = upserts.collect();
        self.apply(api::ObjectBatch { upserts, deletes: vec![] }, false);
    }

    /// Takes guest ports away.
    pub(crate) fn remove_guests(&mut self, numbers: impl Iterator<Item = u8>) {
        let key = |number| api::object_key::Kind::Port(guest_name(number));
        let deletes = numbers.map(|number| api::ObjectKey { kind: Some(key(number)) }).collect();
        self.apply(api::ObjectBatch { upserts: vec![], deletes }, false);
    }

    fn apply(&mut self, objects: api::ObjectBatch, is_all: bool) {
        self.generation += 1;
        let mut batch = Batch::new(self.generation, is_all);
        batch.push(objects).unwrap();
        let applied = self.ask(move |engine| engine.apply(batch));
        assert_eq!(applied.unwrap().port_errors, []);
    }

    /// Asks the engine something, on its thread.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Engine<Pipeline>) -> T + Send + 'static,
    ) -> T {
        let (answer, answered) = mpsc::channel();
        let question = Box::new(move |engine: &mut Engine<Pipeline>| {
            answer.send(question(engine)).unwrap();
        });
        self.questions.as_ref().unwrap().send(question).unwrap();
        answered.recv().unwrap()
    }

    /// Waits until the engine sends to the other node as things are now: both ends of the link are
    /// up, and the next hop has the MAC address of the other end.
    pub(crate) fn wait_for_way(&self, peer: &Namespace) {
        let deadline = Instant::now() + PATIENCE;
        let wait_until = |what: &str, mut happened: Box<dyn FnMut() -> bool + '_>| {
            while !happened() {
                assert!(Instant::now() < deadline, "waited too long for {what}: {}", self.story());
                thread::sleep(TICK);
            }
        };
        for namespace in [&self.namespace, peer] {
            let is_up = || namespace.run("cat /sys/class/net/up0/operstate").trim() == "up";
            wait_until("the link", Box::new(is_up));
        }
        // What the kernel has told until now is taken in between two questions.
        self.ask(|_| {});
        let mac = peer.run("cat /sys/class/net/up0/address").trim().to_owned();
        let is_reached = || {
            let mac = mac.clone();
            self.ask(move |engine| {
                let config = engine.config();
                let is_there = |address| matches!(config.adjacency(address),
                    Adjacency::Resolved { destination_mac, .. } if destination_mac.to_string() == mac);
                config.underlay_addresses().all(is_there) && !config.is_changed()
            })
        };
        wait_until("the way", Box::new(is_reached));
    }

    /// What went through the tunnel.
    pub(crate) fn tunnel_totals(&self) -> TunnelTotals {
        self.ask(|engine| {
            let tunnel = engine.config().tunnels().next().unwrap();
            engine.stats().tunnel(tunnel.tunnel)
        })
    }

    /// Waits until what the kernel has told until now is published.
    pub(crate) fn wait_for_publication(&self) {
        // A poll lies between two questions.
        self.ask(|_| {});
        while self.ask(|engine| engine.config().is_changed()) {
            thread::sleep(TICK);
        }
    }

    /// What happened to packets, for the message of a failure.
    pub(crate) fn story(&self) -> String {
        self.ask(|engine| {
            let ports = engine.ports();
            let lines = ports.iter().map(|port| {
                let (name, totals) = (&port.object.name, &port.totals);
                format!("{name} {:?} {} {totals:?}\n", port.state, port.backend)
            });
            lines.collect()
        })
    }

    /// Stops the engine; checks that all packets and all frames are accounted for.
    pub(crate) fn finish(mut self) {
        let story = self.story();
        self.questions = None;
        let stopped = self.thread.take().unwrap().join().unwrap();
        let balance = stopped.stats.balance();
        assert_eq!(balance.under_way(), 0, "{balance:?}\n{story}");
        assert_eq!(stopped.frames_missing, 0);
    }
}

impl Drop for EngineNode {
    /// A test that fails says what became of the packets.
    fn drop(&mut self) {
        if thread::panicking() && self.questions.is_some() {
            eprintln!("{}", self.story());
        }
    }
}

fn guest_name(number: u8) -> String {
    format!("default/pod{number}")
}

fn host_end(number: u8) -> String {
    format!("veth{number}")
}

/// The pair toward the node's own stack, and the stack's routes to pods and to the other node's.
pub(crate) fn set_up_host_port(namespace: &Namespace, node: Node, port: PodPort) {
    let mac = node.router_mac();
    let ends = match port {
        PodPort::Veth => {
            namespace.ip(&format!("link add vrhost0 address {mac} type veth peer vrhost1"));
            namespace.run("ethtool -K vrhost0 tx off");
            &["vrhost0", "vrhost1"][..]
        }
        PodPort::Tap => {
            namespace.ip("tuntap add dev vrhost0 mode tap multi_queue vnet_hdr");
            namespace.ip(&format!("link set vrhost0 address {mac}"));
            &["vrhost0"][..]
        }
    };
    for end in ends {
        namespace.sysctl(&format!("net.ipv4.conf.{end}.rp_filter"), "0");
        namespace.ip(&format!("link set {end} mtu 1430"));
        namespace.ip(&format!("link set {end} up"));
    }
    let ranges = ["10.244.0.0/16", "fd00:10:244::/48"];
    for (index, range) in ranges.into_iter().enumerate() {
        let (gateway, source) = (node.gateways()[index], node.addresses()[index]);
        namespace.ip(&format!("route add {range} via {gateway} dev vrhost0 onlink src {source}"));
    }
}

/// All that a node is: its pods, and the tunnel to the other node.
pub(crate) fn objects(
    node: Node,
    peer: Node,
    pods: &[Pod],
    tunnel: Tunnel,
    has_partial_checksums: bool,
) -> Vec<api::Object> {
    let backend = |interface: &str| {
        api::port::Backend::AfXdp(api::AfXdpBackend {
            interface: interface.into(),
            partial_checksums: has_partial_checksums && interface.starts_with("veth"),
            ..api::AfXdpBackend::default()
        })
    };
    let pods = (10..).zip(pods).map(|(number, pod)| {
        let addresses = pod.addresses.map(bytes).to_vec();
        let name = guest_name(number);
        let mac = node.pod_mac(number);
        let backend = match pod.port {
            PodPort::Veth => backend(&host_end(number)),
            PodPort::Tap => api::port::Backend::Tap(api::TapBackend {
                interface: "eth0".into(),
                netns_path: pod.namespace.path().to_str().unwrap().into(),
                queues: 0,
            }),
        };
        port(&name, api::port::Role::Guest, mac, addresses, backend)
    });
    let own = node.addresses().map(bytes).to_vec();
    let fixed = [
        api::object::Kind::Node(api::Node {
            name: format!("node{}", node.0),
            vtep_addresses: own.clone(),
            router_mac: node.router_mac().octets().into(),
            uplink_port: "uplink".into(),
            host_port: "host".into(),
            ..api::Node::default()
        }),
        api::object::Kind::Vrf(api::Vrf {
            id: 0,
            name: "default".into(),
            vnis: vec![1],
            gateway_addresses: node.gateways().map(bytes).to_vec(),
            gateway_mac: node.gateway_mac().octets().into(),
        }),
        port("uplink", api::port::Role::Uplink, MacAddress::ZERO, vec![], backend("up0")),
        port("host", api::port::Role::Host, node.router_mac(), own, backend("vrhost1")),
        api::object::Kind::Tunnel(api::Tunnel {
            name: "peer".into(),
            remote: bytes(peer.address(tunnel.is_v6)),
            vni: 1,
            udp_port: tunnel.udp_port.into(),
            remote_router_mac: tunnel.remote_router_mac.octets().into(),
            ..api::Tunnel::default()
        }),
    ];
    let ranges = peer.pod_ranges().into_iter();
    let nodes = peer.addresses().map(|own| (own, if own.is_ipv4() { 32 } else { 128 }));
    let routes = ranges.chain(nodes).map(|(prefix, length)| {
        let prefix = api::Prefix { address: bytes(prefix), length: length.into() };
        let via = api::next_hop::Via::Tunnel("peer".into());
        api::object::Kind::Route(api::Route {
            key: Some(api::RouteKey { vrf: 0, prefix: Some(prefix) }),
            next_hops: vec![api::NextHop { via: Some(via) }],
        })
    });
    let all = fixed.into_iter().chain(pods).chain(routes);
    all.map(|kind| api::Object { kind: Some(kind) }).collect()
}

fn put_host_behind_tap(object: &mut api::Object) {
    if let Some(api::object::Kind::Port(port)) = &mut object.kind
        && port.name == "host"
    {
        let tap = api::TapBackend { interface: "vrhost0".into(), ..api::TapBackend::default() };
        port.backend = Some(api::port::Backend::Tap(tap));
    }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn port(
    name: &str,
    role: api::port::Role,
    mac: MacAddress,
    addresses: Vec<Vec<u8>>,
    backend: api::port::Backend,
) -> api::object::Kind {
    api::object::Kind::Port(api::Port {
        name: name.into(),
        role: role.into(),
        addresses,
        mac: if role == api::port::Role::Uplink { vec![] } else { mac.octets().into() },
        backend: Some(backend),
        ..api::Port::default()
    })
}

/// Opens both kinds of ports.
struct Openers(AfXdpOpener);

impl PortOpener for Openers {
    fn open(
        &mut self,
        request: &PortRequest,
        pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        match request.backend {
            Backend::Tap(_) => TapOpener.open(request, pool),
            _ => self.0.open(request, pool),
        }
    }
}

/// What the engine's main thread does, until nobody asks any more.
fn run(inbox: &mpsc::Receiver<Question>, workers: u8) -> Stopped {
    let flows = Arc::new(Flows::create(&flow_config()).unwrap());
    let config = EngineConfig {
        workers: vec![WorkerPlace::default(); workers.into()],
        idle: IdleMode::Adaptive,
        region: RegionConfig { frame_count: FRAMES, frame_bytes: 2048, huge_pages: false },
    };
    let mut engine = Engine::start(
        &config,
        Arc::clone(&flows),
        |depot| Box::new(Openers(AfXdpOpener::new(Arc::clone(depot.region()), None))),
        |worker, snapshots| {
            Pipeline::new(worker, snapshots, Arc::clone(&flows), DropTrace::default())
        },
    )
    .unwrap();
    let mut underlay = Underlay::open().unwrap();
    loop {
        match inbox.recv_timeout(TICK) {
            Ok(question) => question(&mut engine),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        underlay.set_targets(engine.config().underlay_addresses());
        for change in underlay.poll(Instant::now()).unwrap() {
            match change {
                Change::Way { remote, way } => {
                    let adjacency = adjacency(&engine, &way);
                    engine.set_adjacency(remote, adjacency);
                }
                Change::InterfaceGone { interface_index, .. } => {
                    engine.lose_interface(interface_index);
                }
                Change::Mtu { interface_index, mtu_bytes } => {
                    engine.set_interface_mtu(interface_index, mtu_bytes);
                }
            }
        }
        engine.tick(|_| {});
    }
    engine.stop().unwrap()
}

fn flow_config() -> flowtable::Config {
    flowtable::Config {
        ipv4_connections_max: 1 << 12,
        ipv6_connections_max: 1 << 12,
        fragments_max: 1 << 8,
        hash_key: [1, 2],
        memory: flowtable::Memory::Heap,
        tracking: flowtable::Tracking::default(),
    }
}

fn adjacency(engine: &Engine<Pipeline>, way: &Way) -> Adjacency {
    let uplink = engine.config().ports().find(|(_, object)| object.role == Role::Uplink);
    Adjacency::from_way(way, |interface| {
        uplink.filter(|_| interface == "up0").map(|(port, _)| port)
    })
}
