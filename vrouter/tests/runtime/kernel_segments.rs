//! Segments as the kernel makes them: the same large packet, cut by both.
//!
//! The kernel's: written to one TAP device, and bridged to another one that takes segments only,
//! with their checksums finished.

use std::time::Instant;

use etherparse::{PacketBuilder, TcpOptionElement};
use vrouter::{
    burst::Burst,
    memory::{Depot, FramePool, Region, RegionConfig},
    packet::{Checksum, Gso, Offload, Offloads},
    port::{
        Backend, OpenedPort, PortOpener, PortRef, PortRequest, Role, Steering, TapBackend,
        memory::MemoryPortConfig, tap::TapOpener,
    },
    stats::WorkerStats,
};

use crate::{
    namespace::Namespace,
    offload::{receive, rig, send},
    rig::PATIENCE,
    skip_unless_namespaces,
};

/// Who the frames are for: neither device, so that the bridge passes them on.
const TO: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn tap(namespace: &Namespace, interface: &str, pool: &mut FramePool) -> OpenedPort {
    namespace.ip(&format!("tuntap add dev {interface} mode tap vnet_hdr"));
    namespace.sysctl(&format!("net.ipv6.conf.{interface}.disable_ipv6"), "1");
    namespace.ip(&format!("link set {interface} mtu 9000 master bridge up"));
    let request = PortRequest {
        name: interface.into(),
        port: PortRef { index: 1, generation: 1 },
        role: Role::Guest,
        backend: Backend::Tap(TapBackend {
            interface: interface.into(),
            netns_path: Some(namespace.path()),
            queues: None,
        }),
        mtu_bytes: None,
        mac_address: None,
        worker_count: 1,
    };
    let mut opened = TapOpener.open(&request, pool).unwrap();
    opened.device.steer(&Steering::Everything).unwrap();
    opened
}

/// A packet, what kind it is, and the size of its segments.
fn packets() -> Vec<(Vec<u8>, Gso)> {
    let mut packets = Vec::new();
    for (payload_bytes, segment_bytes) in [(60_000, 1400), (3000, 1000), (2801, 1400), (9000, 8000)]
    {
        let payload: Vec<u8> =
            (0..payload_bytes).map(|at: u32| (at % 251).to_le_bytes()[0]).collect();
        for is_ipv4 in [true, false] {
            let ip = || {
                let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], TO);
                if is_ipv4 {
                    ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                } else {
                    ethernet.ipv6([0xfd; 16], [0xfe; 16], 64)
                }
            };
            for (has_ends, has_options) in [(false, false), (true, true)] {
                let mut tcp = ip().tcp(1000, 80, u32::MAX - 5000, 500).ack(9);
                if has_ends {
                    tcp = tcp.psh().fin();
                }
                if has_options {
                    tcp = tcp.options(&[TcpOptionElement::Timestamp(1, 2)]).unwrap();
                }
                let mut frame = Vec::new();
                tcp.write(&mut frame, &payload).unwrap();
                let gso = if is_ipv4 {
                    Gso::TcpV4 { segment_bytes }
                } else {
                    Gso::TcpV6 { segment_bytes }
                };
                packets.push((frame, gso));
            }
            let mut frame = Vec::new();
            ip().udp(1000, 2000).write(&mut frame, &payload).unwrap();
            packets.push((frame, Gso::Udp { segment_bytes }));
        }
    }
    packets
}

/// What the kernel makes of packets, in order, of which there are `count`.
struct Kernel {
    /// Lives as long as the devices.
    _namespace: Namespace,
    pool: FramePool,
    from: OpenedPort,
    to: OpenedPort,
}

impl Kernel {
    fn new() -> Self {
        let config = RegionConfig { frame_count: 4096, huge_pages: false, ..Default::default() };
        let mut pool =
            FramePool::new(Depot::new(std::sync::Arc::new(Region::create(&config).unwrap())));
        let namespace = Namespace::create("cut");
        namespace.ip("link add bridge type bridge forward_delay 0");
        namespace.sysctl("net.ipv6.conf.bridge.disable_ipv6", "1");
        namespace.ip("link set bridge mtu 9000 up");
        let from = tap(&namespace, "from", &mut pool);
        let to = tap(&namespace, "to", &mut pool);
        // The device takes nothing unfinished, whatever the queue said.
        namespace.run("ethtool -K to tx off tso off tx-udp-segmentation off");
        Self { _namespace: namespace, pool, from, to }
    }

    fn cut(&mut self, frame: &[u8], offload: Offload, count: usize) -> Vec<Vec<u8>> {
        let stats = WorkerStats::new();
        let mut burst = Burst::new();
        let mut packet = self.pool.copy_in(frame, PortRef::ENGINE).unwrap();
        packet.offload = offload;
        burst.push(packet);
        let queue = &mut self.from.queues[0];
        assert_eq!(queue.tx_burst(&mut self.pool, &mut burst, &stats), 1);
        queue.flush(&mut self.pool, &stats).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut frames = Vec::new();
        let queue = &mut self.to.queues[0];
        while frames.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} segments", frames.len());
            queue.poll(&mut self.pool, &stats);
            queue.rx_burst(&mut self.pool, &mut burst);
            for packet in burst.drain(..) {
                let mut bytes = Vec::new();
                packet.for_each_segment(self.pool.region(), |part| bytes.extend_from_slice(part));
                // Bridges have words of their own.
                if bytes.starts_with(&TO) {
                    assert_eq!(packet.offload, Offload::NONE);
                    frames.push(bytes);
                }
                self.pool.free_packet(packet);
            }
        }
        frames
    }
}

#[test]
fn segments_are_the_kernels_to_the_byte() {
    skip_unless_namespaces!();
    let mut kernel = Kernel::new();
    let (mut rig, ports, [mut from, mut to]) =
        rig(1, MemoryPortConfig { offloads: Offloads::NONE, ..MemoryPortConfig::default() });
    for (frame, gso) in packets() {
        let offload = Offload { checksum: Checksum::Partial, gso: Some(gso) };
        let mut packet = from.packet(&frame).unwrap();
        packet.offload = offload;
        send(&mut rig, &mut from, vec![packet]);
        let transport = if frame[12] == 8 { 34 } else { 54 };
        let headers = match gso {
            Gso::Udp { .. } => transport + 8,
            _ => transport + usize::from(frame[transport + 12] >> 4) * 4,
        };
        let count = (frame.len() - headers).div_ceil(usize::from(gso.segment_bytes()));
        let ours = receive(&mut rig, &mut to, count);
        let kernels = kernel.cut(&frame, offload, count);
        assert_eq!(ours.len(), count);
        for (position, ((ours, _), kernels)) in ours.iter().zip(&kernels).enumerate() {
            assert_eq!(ours, kernels, "{gso:?}: segment {position}");
        }
    }
    drop((from, to));
    rig.finish(&ports);
}
