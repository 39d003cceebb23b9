//! An engine with memory ports whose openings can fail or take long.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use control_api::engine as api;
use encap::MacAddress;
use flowtable::WorkerIndexError;
use vrouter::{
    burst::Burst,
    clock::Now,
    config::Batch,
    drops::DropReason,
    engine::{Applied, ApplyError, Engine, EngineConfig, EngineEvent, PortView},
    flows::Flows,
    idle::IdleMode,
    memory::{Depot, FramePool, RegionConfig},
    outbox::Outbox,
    pipeline::Pipeline,
    placement::WorkerPlace,
    port::{
        OpenPortError, OpenedPort, PortOpener, PortRef, PortRequest,
        memory::{MemoryOpener, MemoryPeer, MemoryPeers, MemoryPortConfig},
    },
    publish::Subscriber,
    snapshot::Snapshot,
    stats::{EngineStats, WorkerStats},
    trace::DropTrace,
    worker::Process,
};

/// The machine may stall for seconds.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Sends everything to the host port; stalls on demand.
pub(crate) struct ToHost {
    snapshots: Subscriber<Snapshot>,
    stall_ms: Arc<AtomicU64>,
}

impl Process for ToHost {
    fn refresh(&mut self) -> u64 {
        self.snapshots.refresh()
    }

    fn process(
        &mut self,
        _ingress: PortRef,
        burst: &mut Burst,
        _now: Now,
        pool: &mut FramePool,
        outbox: &mut Outbox,
        stats: &WorkerStats,
    ) {
        let stall_ms = self.stall_ms.swap(0, SeqCst);
        if stall_ms > 0 {
            thread::sleep(Duration::from_millis(stall_ms));
        }
        let host = self.snapshots.snapshot().node.host.map_or(u16::MAX, |host| host.index);
        for packet in burst.drain(..) {
            let ingress = packet.ingress;
            if let Err(packet) = outbox.push(host, packet) {
                stats.dropped(ingress, DropReason::HostPortMissing, 1);
                pool.free_packet(packet);
            }
        }
    }

    fn housekeep(&mut self, _now: Now) {}
}

/// What the opener does with ports, by name.
#[derive(Clone, Default)]
pub(crate) struct Orders {
    refusals: Arc<Mutex<HashMap<String, String>>>,
    is_blocked: Arc<AtomicBool>,
}

impl Orders {
    pub(crate) fn refuse(&self, name: &str, why: &str) {
        self.refusals.lock().unwrap().insert(name.into(), why.into());
    }

    pub(crate) fn allow(&self, name: &str) {
        self.refusals.lock().unwrap().remove(name);
    }

    /// The opener does nothing while it is blocked.
    pub(crate) fn block(&self, is_blocked: bool) {
        self.is_blocked.store(is_blocked, SeqCst);
    }
}

struct OrderedOpener {
    inner: MemoryOpener,
    orders: Orders,
}

impl PortOpener for OrderedOpener {
    fn open(
        &mut self,
        request: &PortRequest,
        pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        let deadline = Instant::now() + PATIENCE;
        while self.orders.is_blocked.load(SeqCst) && Instant::now() < deadline {
            thread::yield_now();
        }
        if let Some(why) = self.orders.refusals.lock().unwrap().get(&request.name) {
            let name = request.name.clone();
            return Err(OpenPortError { name, source: why.as_str().into() });
        }
        self.inner.open(request, pool)
    }
}

pub(crate) struct Rig<P: Process = ToHost> {
    pub(crate) engine: Engine<P>,
    pub(crate) orders: Orders,
    pub(crate) stall_ms: Arc<AtomicU64>,
    peers: MemoryPeers,
    generation: u64,
}

impl Rig {
    pub(crate) fn new(workers: usize) -> Self {
        let stall_ms = Arc::new(AtomicU64::new(0));
        let stall = Arc::clone(&stall_ms);
        let stand_in =
            move |_, snapshots, _| Ok(ToHost { snapshots, stall_ms: Arc::clone(&stall) });
        Self { stall_ms, ..Self::start(workers, 64, stand_in) }
    }

    /// An engine with a host port and two pods; the peers in that order.
    pub(crate) fn with_ports(workers: usize) -> (Self, [MemoryPeer; 3]) {
        Self::new(workers).ready()
    }
}

impl Rig<Pipeline> {
    /// An engine whose workers run the real pipeline, with a host port and two pods.
    pub(crate) fn forwarding(workers: usize) -> (Self, [MemoryPeer; 3]) {
        let pipeline = |worker, snapshots, flows| {
            Pipeline::new(worker, snapshots, flows, DropTrace::default())
        };
        Self::start(workers, 4096, pipeline).ready()
    }
}

impl<P: Process + 'static> Rig<P> {
    fn start(
        workers: usize,
        connections_max: u32,
        process: impl Fn(u16, Subscriber<Snapshot>, Arc<Flows>) -> Result<P, WorkerIndexError>,
    ) -> Self {
        let config = EngineConfig {
            workers: vec![WorkerPlace::default(); workers],
            idle: IdleMode::Adaptive,
            region: RegionConfig { frame_count: 8192, frame_bytes: 2048, huge_pages: false },
        };
        let orders = Orders::default();
        let mut peers = MemoryPeers::default();
        let opener = |depot: &Arc<Depot>| -> Box<dyn PortOpener> {
            let inner = MemoryOpener::new(MemoryPortConfig::default(), Arc::clone(depot));
            peers = inner.peers();
            Box::new(OrderedOpener { inner, orders: orders.clone() })
        };
        let flows = Arc::new(Flows::create(&flow_table(connections_max)).unwrap());
        let process = |worker, snapshots| process(worker, snapshots, Arc::clone(&flows));
        let engine = Engine::start(&config, Arc::clone(&flows), opener, process).unwrap();
        Self { engine, orders, stall_ms: Arc::default(), peers, generation: 0 }
    }

    fn ready(mut self) -> (Self, [MemoryPeer; 3]) {
        self.apply(vec![node(), vrf(), host()], &[]).unwrap();
        self.apply(vec![pod("default/a", 2), pod("default/b", 3)], &[]).unwrap();
        let peers = ["host", "default/a", "default/b"].map(|name| self.peer(name));
        (self, peers)
    }

    pub(crate) fn apply(
        &mut self,
        upserts: Vec<api::Object>,
        deleted_ports: &[&str],
    ) -> Result<Applied, ApplyError> {
        self.generation += 1;
        let mut batch = Batch::new(self.generation, false);
        let deletes = deleted_ports
            .iter()
            .map(|name| api::ObjectKey { kind: Some(api::object_key::Kind::Port((*name).into())) });
        batch.push(api::ObjectBatch { upserts, deletes: deletes.collect() }).unwrap();
        self.engine.apply(batch)
    }

    pub(crate) fn peer(&self, name: &str) -> MemoryPeer {
        self.peers.take(name).unwrap()
    }

    pub(crate) fn port(&self, name: &str) -> PortView {
        let find = |port: &PortView| &*port.object.name == name;
        self.engine.ports().into_iter().find(find).unwrap()
    }

    /// Ticks until `is_done`; returns the events.
    pub(crate) fn tick_until(
        &mut self,
        mut is_done: impl FnMut(&mut Self, &[EngineEvent]) -> bool,
    ) -> Vec<EngineEvent> {
        let deadline = Instant::now() + PATIENCE;
        let mut events = Vec::new();
        while !is_done(self, &events) {
            assert!(Instant::now() < deadline, "nothing but {events:?} happened");
            self.engine.tick(|event| events.push(event));
            thread::yield_now();
        }
        events
    }

    /// Sends `count` frames and waits until the host has received them.
    pub(crate) fn send_to_host(
        &mut self,
        from: &mut MemoryPeer,
        host: &mut MemoryPeer,
        count: u32,
    ) {
        for _ in 0..count {
            assert!(from.send(0, &[7; 60]));
        }
        let mut received = 0;
        self.tick_until(|_, _| {
            while let Some(frame) = host.receive() {
                received += u32::from(frame == [7; 60]);
            }
            received == count
        });
    }

    /// Stops the engine after all peers are gone; packets and frames must all be accounted for.
    pub(crate) fn finish(self) -> EngineStats {
        let Self { engine, peers, .. } = self;
        for name in ["host", "default/a", "default/b", "default/c"] {
            drop(peers.take(name));
        }
        let stopped = engine.stop().unwrap();
        assert_eq!(stopped.stats.balance().under_way(), 0, "{:?}", stopped.stats.balance());
        assert_eq!(stopped.frames_missing, 0);
        stopped.stats
    }
}

pub(crate) fn mac(address: [u8; 4]) -> Vec<u8> {
    MacAddress::from_ip(address.into()).octets().into()
}

pub(crate) fn object(kind: api::object::Kind) -> api::Object {
    api::Object { kind: Some(kind) }
}

pub(crate) fn node() -> api::Object {
    object(api::object::Kind::Node(api::Node {
        name: "node-a".into(),
        vtep_addresses: vec![vec![192, 0, 2, 1]],
        router_mac: mac([192, 0, 2, 1]),
        host_port: "host".into(),
        ..api::Node::default()
    }))
}

pub(crate) fn vrf() -> api::Object {
    object(api::object::Kind::Vrf(api::Vrf {
        gateway_addresses: vec![vec![10, 244, 1, 1]],
        gateway_mac: mac([10, 244, 1, 1]),
        ..api::Vrf::default()
    }))
}

pub(crate) fn host() -> api::Object {
    port("host", api::port::Role::Host, [192, 0, 2, 1], memory())
}

/// A pod with the address 10.244.1.`last`.
pub(crate) fn pod(name: &str, last: u8) -> api::Object {
    port(name, api::port::Role::Guest, [10, 244, 1, last], memory())
}

/// A pod whose interface can have one port at a time.
pub(crate) fn pod_on(interface: &str, name: &str, last: u8) -> api::Object {
    let backend = api::AfXdpBackend { interface: interface.into(), ..Default::default() };
    let backend = api::port::Backend::AfXdp(backend);
    port(name, api::port::Role::Guest, [10, 244, 1, last], backend)
}

fn memory() -> api::port::Backend {
    api::port::Backend::Memory(api::MemoryBackend {})
}

fn port(
    name: &str,
    role: api::port::Role,
    address: [u8; 4],
    backend: api::port::Backend,
) -> api::Object {
    object(api::object::Kind::Port(api::Port {
        name: name.into(),
        role: role.into(),
        addresses: vec![address.to_vec()],
        mac: mac(address),
        backend: Some(backend),
        ..api::Port::default()
    }))
}

fn flow_table(connections_max: u32) -> flowtable::Config {
    flowtable::Config {
        ipv4_connections_max: connections_max,
        ipv6_connections_max: 64,
        fragments_max: 64,
        hash_key: [1, 2],
        memory: flowtable::Memory::Heap,
        tracking: flowtable::Tracking::default(),
    }
}
