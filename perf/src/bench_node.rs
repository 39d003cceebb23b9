//! One worker's pipeline without ports or threads, fed from memory.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use control_api::engine as api;
use encap::{
    MacAddress,
    ecn::TrafficClass,
    ethernet::{EtherType, EthernetHeader},
    ip::IpProtocol,
    ipv4::Ipv4Header,
    udp::UdpHeader,
};
use vrouter::{
    burst::{BURST_PACKETS_MAX, Burst},
    clock::Now,
    config::{ApplyError, Batch, Config},
    flows::Flows,
    memory::{CreateRegionError, Depot, FramePool, Region, RegionConfig},
    next_hop::Adjacency,
    outbox::Outbox,
    pipeline::Pipeline,
    port::PortRef,
    publish::Publisher,
    snapshot::Snapshot,
    stats::WorkerStats,
    trace::DropTrace,
    worker::Process,
};

/// This node's tunnel endpoint.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The other node's.
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
/// A pod of this node.
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
/// Another one.
const OTHER_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);
/// One of the other node.
const FAR_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);

/// Why a bench cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the causes tell")]
pub enum BenchError {
    #[error(transparent)]
    Config(#[from] ApplyError),
    #[error(transparent)]
    Memory(#[from] CreateRegionError),
    #[error(transparent)]
    Flows(#[from] flowtable::CreateTableError),
    #[error(transparent)]
    Worker(#[from] flowtable::WorkerIndexError),
}

/// What a packet's way is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// From one pod to another of the same node.
    PodToPod,
    /// From a pod into the tunnel.
    Encap,
    /// Out of the tunnel to a pod.
    Decap,
}

/// A node with two pods and a tunnel, and the worker that runs it.
pub struct BenchNode {
    pipeline: Pipeline,
    /// Frees snapshots, after the pipeline.
    publisher: Publisher<Snapshot>,
    config: Config,
    pool: FramePool,
    outbox: Outbox,
    stats: WorkerStats,
    burst: Burst,
    now: Now,
}

impl BenchNode {
    /// A node whose flow table holds `connections_max` connections.
    ///
    /// # Errors
    ///
    /// Fails if the memory is not there.
    pub fn new(connections_max: u32) -> Result<Self, BenchError> {
        let flows = Arc::new(Flows::create(&flowtable::Config {
            ipv4_connections_max: connections_max,
            ipv6_connections_max: 1024,
            fragments_max: 1024,
            hash_key: [0x5eed, 0xbe7c],
            memory: flowtable::Memory::Memfd { huge_pages: true },
            tracking: flowtable::Tracking::default(),
        })?);
        let mut config = Config::new();
        let mut batch = Batch::new(1, true);
        batch.push(api::ObjectBatch { upserts: objects(), deletes: vec![] })?;
        config.apply(batch)?;
        if let Some((port, _)) = config.port_by_name("uplink") {
            let adjacency = Adjacency::Resolved {
                port,
                source_mac: MacAddress::from_ip(OWN.into()),
                destination_mac: MacAddress::from_ip(PEER.into()),
                mtu_bytes: u16::MAX,
            };
            config.set_adjacency(PEER.into(), adjacency);
        }
        let publisher = Publisher::new(config.snapshot(flows.scopes()));
        let subscriber = publisher.subscribe();
        let region = Region::create(&RegionConfig { frame_count: 1024, ..Default::default() })?;
        Ok(Self {
            pipeline: Pipeline::new(0, subscriber, flows, DropTrace::default())?,
            publisher,
            config,
            pool: FramePool::new(Depot::new(Arc::new(region))),
            outbox: Outbox::new(),
            stats: WorkerStats::new(),
            burst: Burst::new(),
            now: Now { nanoseconds: 1_000_000_000 },
        })
    }

    /// The port that packets of `way` come in on.
    #[must_use]
    pub fn ingress(&self, way: Way) -> PortRef {
        let name = if way == Way::Decap { "uplink" } else { "default/pod10" };
        self.config.port_by_name(name).map_or(PortRef::ENGINE, |(port, _)| port)
    }

    /// Processes one burst of `frames`, at most 64; returns how long the pipeline took, and how
    /// many packets it sent.
    ///
    /// Receiving and sending are not in that time: they are the ports' work.
    pub fn process(&mut self, ingress: PortRef, frames: &[Vec<u8>]) -> (Duration, usize) {
        for frame in frames.iter().take(BURST_PACKETS_MAX) {
            if let Some(packet) = self.pool.copy_in(frame, ingress) {
                self.burst.push(packet);
            }
        }
        self.now.nanoseconds += 10_000;
        let Self { pipeline, pool, outbox, stats, burst, now, .. } = self;
        let start = Instant::now();
        pipeline.process(ingress, burst, *now, pool, outbox, stats);
        let took = start.elapsed();
        let mut sent = 0;
        outbox.drain(|_, burst| {
            sent += burst.len();
            burst.drain(..).for_each(|packet| pool.free_packet(packet));
        });
        (took, sent)
    }

    /// Snapshots that nobody holds any more are freed here.
    pub fn reclaim(&mut self) -> usize {
        self.publisher.reclaim()
    }
}

/// Frames of `count` UDP flows with `payload_bytes` each, as they come in for `way`.
#[must_use]
pub fn frames(way: Way, count: u32, payload_bytes: usize) -> Vec<Vec<u8>> {
    (0..count).map(|flow| frame(way, flow, payload_bytes)).collect()
}

fn frame(way: Way, flow: u32, payload_bytes: usize) -> Vec<u8> {
    // 256 source ports for each destination port.
    let [_, _, high, low] = flow.to_be_bytes();
    let ports = (1024 + u16::from(low), 1024 + u16::from(high));
    let pod_mac = MacAddress::from_ip(POD.into());
    let gateway_mac = MacAddress::from_ip(GATEWAY.into());
    let payload = vec![0x5a; payload_bytes];
    match way {
        Way::PodToPod => udp((pod_mac, gateway_mac), POD, OTHER_POD, ports, &payload),
        Way::Encap => udp((pod_mac, gateway_mac), POD, FAR_POD, ports, &payload),
        Way::Decap => {
            let macs = (MacAddress::from_ip(PEER.into()), MacAddress::from_ip(OWN.into()));
            let mut tunnelled = vec![8, 0, 0, 0, 0, 0, 1, 0];
            tunnelled.extend_from_slice(&udp(macs, FAR_POD, POD, ports, &payload));
            udp(macs, PEER, OWN, (50_000, 4789), &tunnelled)
        }
    }
}

fn udp(
    (from_mac, to_mac): (MacAddress, MacAddress),
    source: Ipv4Addr,
    destination: Ipv4Addr,
    (source_port, destination_port): (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap_or(u16::MAX);
    let ethernet =
        EthernetHeader { destination: to_mac, source: from_mac, ether_type: EtherType::IPV4 };
    let ip = Ipv4Header {
        traffic_class: TrafficClass(0),
        total_length: length.saturating_add(20),
        identification: 0,
        dont_fragment: true,
        ttl: 64,
        protocol: IpProtocol::UDP,
        source,
        destination,
    };
    let header = UdpHeader { source_port, destination_port, length, checksum: 0 };
    let mut frame = ethernet.to_bytes().to_vec();
    frame.extend_from_slice(&ip.to_bytes());
    frame.extend_from_slice(&header.to_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn objects() -> Vec<api::Object> {
    use api::object::Kind;
    let bytes = |address: Ipv4Addr| address.octets().to_vec();
    let mac = |address: Ipv4Addr| MacAddress::from_ip(IpAddr::V4(address)).octets().to_vec();
    let port = |name: &str, role: api::port::Role, address: Option<Ipv4Addr>| {
        Kind::Port(api::Port {
            name: name.into(),
            role: role.into(),
            addresses: address.into_iter().map(bytes).collect(),
            mac: mac(address.unwrap_or(OWN)),
            backend: Some(api::port::Backend::Memory(api::MemoryBackend {})),
            ..api::Port::default()
        })
    };
    let prefix = api::Prefix { address: vec![10, 244, 2, 0], length: 24 };
    let kinds = [
        Kind::Node(api::Node {
            name: "bench".into(),
            vtep_addresses: vec![bytes(OWN)],
            router_mac: mac(OWN),
            uplink_port: "uplink".into(),
            ..api::Node::default()
        }),
        Kind::Vrf(api::Vrf {
            name: "default".into(),
            vnis: vec![1],
            gateway_addresses: vec![bytes(GATEWAY)],
            gateway_mac: mac(GATEWAY),
            ..api::Vrf::default()
        }),
        port("uplink", api::port::Role::Uplink, None),
        port("default/pod10", api::port::Role::Guest, Some(POD)),
        port("default/pod11", api::port::Role::Guest, Some(OTHER_POD)),
        Kind::Tunnel(api::Tunnel {
            name: "peer/ipv4".into(),
            remote: bytes(PEER),
            vni: 1,
            remote_router_mac: mac(PEER),
            ..api::Tunnel::default()
        }),
        Kind::Route(api::Route {
            key: Some(api::RouteKey { vrf: 0, prefix: Some(prefix) }),
            next_hops: vec![api::NextHop {
                via: Some(api::next_hop::Via::Tunnel("peer/ipv4".into())),
            }],
        }),
    ];
    kinds.map(|kind| api::Object { kind: Some(kind) }).into()
}
