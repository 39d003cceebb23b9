//! Pipelines without threads whose configuration can change between packets, unlike in a replay.

use std::{net::IpAddr, sync::Arc};

use control_api::engine as api;
use encap::MacAddress;
use flowtable::Tracking;
use vrouter::{
    burst::Burst,
    clock::Now,
    config::{Batch, Config},
    drops::DropReason,
    flows::Flows,
    memory::{Depot, FramePool, Region, RegionConfig},
    next_hop::Adjacency,
    outbox::Outbox,
    packet::Offload,
    pipeline::Pipeline,
    port::PortRef,
    publish::Publisher,
    snapshot::Snapshot,
    stats::{EngineStats, TunnelTotals, WorkerStats},
    trace::DropTrace,
    virtio_net::VirtioNetHeader,
    worker::Process,
};

use crate::rig::{Node, objects};

/// Two workers of node `a`.
pub(crate) struct Bench {
    pub(crate) config: Config,
    pub(crate) flows: Arc<Flows>,
    publisher: Publisher<Snapshot>,
    pipelines: Vec<Pipeline>,
    pool: FramePool,
    outbox: Outbox,
    stats: Arc<WorkerStats>,
    pub(crate) now: Now,
}

/// What is left to do to a packet.
enum Order {
    Offload(Offload),
    Header(VirtioNetHeader),
}

/// What became of one burst.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) sent: Vec<(String, Vec<u8>)>,
    /// What was left to do to each of them.
    pub(crate) offloads: Vec<Offload>,
    pub(crate) drops: Vec<DropReason>,
    /// What was known of each drop.
    pub(crate) details: Vec<String>,
}

impl Outcome {
    /// The ports that packets were sent to.
    pub(crate) fn ports(&self) -> Vec<&str> {
        self.sent.iter().map(|(port, _)| port.as_str()).collect()
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(objects(Node::A), 1 << 10)
    }

    pub(crate) fn with(objects: Vec<api::Object>, connections_max: u32) -> Self {
        Self::tracking(objects, connections_max, Tracking::default())
    }

    /// The same, with connections tracked otherwise than by default.
    pub(crate) fn tracking(
        objects: Vec<api::Object>,
        connections_max: u32,
        tracking: Tracking,
    ) -> Self {
        let table = flowtable::Config {
            ipv4_connections_max: connections_max,
            ipv6_connections_max: connections_max,
            fragments_max: 64,
            hash_key: [3, 4],
            memory: flowtable::Memory::Heap,
            tracking,
        };
        let flows = Arc::new(Flows::create(&table).unwrap());
        let mut config = Config::new();
        let publisher = Publisher::new(config.snapshot(flows.scopes()));
        let pipelines = (0..2).map(|worker| {
            let flows = Arc::clone(&flows);
            Pipeline::new(worker, publisher.subscribe(), flows, DropTrace::new(256)).unwrap()
        });
        let pipelines = pipelines.collect();
        let region = RegionConfig { frame_count: 1024, huge_pages: false, ..Default::default() };
        let depot = Depot::new(Arc::new(Region::create(&region).unwrap()));
        let mut bench = Self {
            config,
            flows,
            publisher,
            pipelines,
            pool: FramePool::new(depot),
            outbox: Outbox::new(),
            stats: Arc::new(WorkerStats::new()),
            now: Now { nanoseconds: 1_000_000_000 },
        };
        bench.apply(objects, vec![]);
        bench.resolve(MacAddress::from_ip(Node::B.ip().into()));
        bench
    }

    /// Whether workers take the fast path.
    pub(crate) fn set_fast_path(&mut self, is_taken: bool) {
        self.pipelines.iter_mut().for_each(|pipeline| pipeline.set_fast_path(is_taken));
    }

    /// Tells how the underlay reaches node `b`, and publishes that.
    pub(crate) fn resolve(&mut self, destination_mac: MacAddress) {
        let (port, _) = self.config.port_by_name("uplink").unwrap();
        let source_mac = Node::A.mac();
        self.tell(Adjacency::Resolved { port, source_mac, destination_mac, mtu_bytes: u16::MAX });
    }

    /// Tells how the underlay reaches all remote ends, and publishes that.
    pub(crate) fn tell(&mut self, adjacency: Adjacency) {
        let remotes: Vec<IpAddr> = self.config.underlay_addresses().collect();
        for remote in remotes {
            self.config.set_adjacency(remote, adjacency);
        }
        self.publish();
    }

    pub(crate) fn apply(&mut self, upserts: Vec<api::Object>, deletes: Vec<api::object_key::Kind>) {
        self.apply_unpublished(upserts, deletes);
        self.publish();
    }

    pub(crate) fn apply_unpublished(
        &mut self,
        upserts: Vec<api::Object>,
        deletes: Vec<api::object_key::Kind>,
    ) {
        let mut batch = Batch::new(self.config.generation() + 1, false);
        let deletes = deletes.into_iter().map(|kind| api::ObjectKey { kind: Some(kind) });
        batch.push(api::ObjectBatch { upserts, deletes: deletes.collect() }).unwrap();
        self.config.apply(batch).unwrap();
    }

    /// Publishes what changed, and has all workers take it.
    pub(crate) fn publish(&mut self) {
        self.publish_to(&[0, 1]);
    }

    /// Publishes what changed, and has only these workers take it.
    pub(crate) fn publish_to(&mut self, workers: &[usize]) {
        self.publisher.publish(self.config.snapshot(self.flows.scopes()));
        for worker in workers {
            self.pipelines[*worker].refresh();
        }
    }

    /// One frame through worker 0.
    pub(crate) fn send(&mut self, port: &str, frame: &[u8]) -> Outcome {
        self.send_burst(0, port, &[frame.to_vec()])
    }

    pub(crate) fn send_burst(&mut self, worker: usize, port: &str, frames: &[Vec<u8>]) -> Outcome {
        let (ingress, _) = self.config.port_by_name(port).unwrap();
        self.send_from(worker, ingress, frames)
    }

    /// As [`Self::send_burst`], from a port that may be gone.
    pub(crate) fn send_from(
        &mut self,
        worker: usize,
        ingress: PortRef,
        frames: &[Vec<u8>],
    ) -> Outcome {
        let frames = frames.iter().map(|frame| (&frame[..], Order::Offload(Offload::NONE)));
        self.process(worker, ingress, frames)
    }

    /// Packets with something left to do through worker 0.
    pub(crate) fn send_unfinished(&mut self, port: &str, frames: &[(Vec<u8>, Offload)]) -> Outcome {
        let (ingress, _) = self.config.port_by_name(port).unwrap();
        let frames = frames.iter().map(|(frame, offload)| (&frame[..], Order::Offload(*offload)));
        self.process(0, ingress, frames)
    }

    /// Frames behind virtio-net headers through worker 0; those that are refused are not received.
    pub(crate) fn send_headed(
        &mut self,
        port: &str,
        frames: &[(Vec<u8>, VirtioNetHeader)],
    ) -> Outcome {
        let (ingress, _) = self.config.port_by_name(port).unwrap();
        let frames = frames.iter().map(|(frame, header)| (&frame[..], Order::Header(*header)));
        self.process(0, ingress, frames)
    }

    fn process<'a>(
        &mut self,
        worker: usize,
        ingress: PortRef,
        frames: impl Iterator<Item = (&'a [u8], Order)>,
    ) -> Outcome {
        let mut burst = Burst::new();
        for (frame, order) in frames {
            let mut packet = self.pool.copy_in(frame, ingress).unwrap();
            match order {
                Order::Offload(offload) => packet.offload = offload,
                Order::Header(header) => {
                    if header.apply(&mut packet, self.pool.region()).is_err() {
                        self.pool.free_packet(packet);
                        continue;
                    }
                }
            }
            self.stats.rx(ingress, 1, frame.len() as u64);
            burst.push(packet);
        }
        let Self { pipelines, pool, outbox, stats, config, now, .. } = self;
        pipelines[worker].process(ingress, &mut burst, *now, pool, outbox, stats);
        assert!(burst.is_empty());
        let mut outcome = Outcome::default();
        outbox.drain(|slot, burst| {
            let (port, object) = config.ports().find(|(port, _)| port.index == slot).unwrap();
            for packet in burst.drain(..) {
                let mut frame = Vec::new();
                packet.for_each_segment(pool.region(), |bytes| frame.extend_from_slice(bytes));
                stats.forwarded(packet.ingress, 1);
                stats.tx(port, 1, frame.len() as u64);
                outcome.offloads.push(packet.offload);
                pool.free_packet(packet);
                outcome.sent.push((object.name.to_string(), frame));
            }
        });
        for record in pipelines[worker].drain_trace() {
            outcome.drops.push(record.reason);
            outcome.details.push(config.describe(&record.detail));
        }
        self.assert_balance();
        outcome
    }

    /// What went through a tunnel.
    pub(crate) fn tunnel(&self, name: &str) -> TunnelTotals {
        let tunnel = self.config.tunnels().find(|tunnel| &*tunnel.object.name == name).unwrap();
        EngineStats::new([Arc::clone(&self.stats)]).tunnel(tunnel.tunnel)
    }

    fn assert_balance(&self) {
        let stats = EngineStats::new([Arc::clone(&self.stats)]);
        assert_eq!(stats.balance().under_way(), 0, "{:?}", stats.balance());
    }

    /// Frames that nobody holds: counted by taking them all.
    pub(crate) fn frames_free(&mut self) -> usize {
        let frames: Vec<_> = std::iter::from_fn(|| self.pool.allocate()).collect();
        let count = frames.len();
        for frame in frames {
            self.pool.free(frame);
        }
        count
    }

    /// Packets and bytes of all flows' forward directions.
    pub(crate) fn flow_counts(&self) -> (u64, u64) {
        let (mut packets, mut bytes) = (0, 0);
        let now = self.now.ticks();
        self.flows.table().for_each_connection(now, |connection| {
            packets += connection.forward_counters.packets;
            bytes += connection.forward_counters.bytes;
        });
        (packets, bytes)
    }

    /// What lookups and inserts led to.
    pub(crate) fn counters(&self) -> flowtable::TableCounters {
        self.flows.table().counters()
    }

    pub(crate) fn connections(&self) -> u32 {
        self.flows.table().len()
    }
}
