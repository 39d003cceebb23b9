use std::{collections::BTreeMap, sync::Arc};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader,
};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    memory::FramePool,
    port::PortRef,
    segment::{Plan, Segmenter},
    stats::{Balance, EngineStats},
    test_frames::{assert_right, bytes_of, pool, whole},
};

const PORT: PortRef = PortRef { index: 3, generation: 1 };
const ACK: u8 = 16;
const PSH: u8 = 8;
const FIN: u8 = 1;

/// A TCP segment, and all that may keep it from being merged.
#[derive(Clone, Debug)]
struct Tcp {
    is_ipv4: bool,
    source_port: u16,
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
    window: u16,
    timestamp: u8,
    ttl: u8,
    traffic_class: u8,
    flow_label: u32,
    identification: u16,
    is_dont_fragment: bool,
    is_checksum_right: bool,
    padding: usize,
    payload: Vec<u8>,
}

fn tcp(is_ipv4: bool, sequence: u32, payload: usize) -> Tcp {
    Tcp {
        is_ipv4,
        source_port: 1000,
        sequence,
        acknowledgement: 7,
        flags: ACK,
        window: 500,
        timestamp: 1,
        ttl: 63,
        traffic_class: 2,
        flow_label: 77,
        identification: 0,
        is_dont_fragment: true,
        is_checksum_right: true,
        padding: 0,
        payload: (0..payload).map(|at| at.to_le_bytes()[0]).collect(),
    }
}

impl Tcp {
    fn frame(&self) -> Vec<u8> {
        let ether_type = if self.is_ipv4 { EtherType::IPV4 } else { EtherType::IPV6 };
        let mut frame = Vec::new();
        Ethernet2Header { source: [2; 6], destination: [4; 6], ether_type }
            .write(&mut frame)
            .unwrap();
        let mut header = TcpHeader::new(self.source_port, 80, self.sequence, self.window);
        header.acknowledgment_number = self.acknowledgement;
        header.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, self.timestamp, 0, 0, 0, 2]).unwrap();
        let flags = |header: &mut TcpHeader| {
            let has = |flag: u8| self.flags & flag != 0;
            (header.fin, header.syn, header.rst, header.psh) = (has(1), has(2), has(4), has(8));
            (header.ack, header.urg, header.ece, header.cwr) =
                (has(16), has(32), has(64), has(128));
        };
        flags(&mut header);
        let bytes = u16::try_from(32 + self.payload.len()).unwrap();
        if self.is_ipv4 {
            let addresses = ([10, 0, 0, 1], [10, 0, 0, 2]);
            let mut ip =
                Ipv4Header::new(bytes, self.ttl, IpNumber::TCP, addresses.0, addresses.1).unwrap();
            ip.identification = self.identification;
            ip.dont_fragment = self.is_dont_fragment;
            header.checksum = header.calc_checksum_ipv4(&ip, &self.payload).unwrap();
            let start = frame.len();
            ip.write(&mut frame).unwrap();
            frame[start + 1] = self.traffic_class;
            frame[start + 10..start + 12].fill(0);
            let checksum = Sum::of(&frame[start..]).checksum();
            frame[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let ip = Ipv6Header {
                traffic_class: self.traffic_class,
                flow_label: Ipv6FlowLabel::try_new(self.flow_label).unwrap(),
                payload_length: bytes,
                next_header: IpNumber::TCP,
                hop_limit: self.ttl,
                source: [0xfd; 16],
                destination: [0xfe; 16],
            };
            header.checksum = header.calc_checksum_ipv6(&ip, &self.payload).unwrap();
            ip.write(&mut frame).unwrap();
        }
        if !self.is_checksum_right {
            header.checksum ^= 0x0100;
        }
        header.write(&mut frame).unwrap();
        frame.extend_from_slice(&self.payload);
        frame.extend(vec![0; self.padding]);
        frame
    }
}

/// `count` segments that follow each other.
fn in_order(is_ipv4: bool, count: usize, payload: usize) -> Vec<Tcp> {
    let segment = |position: usize| {
        let mut tcp = tcp(is_ipv4, u32::try_from(position * payload).unwrap(), payload);
        tcp.identification = u16::try_from(position).unwrap();
        tcp
    };
    (0..count).map(segment).collect()
}

fn burst_of(frames: &[Vec<u8>], pool: &mut FramePool) -> Burst {
    frames.iter().map(|frame| pool.copy_in(frame, PORT).unwrap()).collect()
}

fn merge_all(burst: &mut Burst, pool: &FramePool) -> u64 {
    let stats = Arc::new(WorkerStats::new());
    let packets = burst.len() as u64;
    stats.rx(PORT, packets, 0);
    merge(burst, Offloads::ALL, pool.region(), &stats);
    stats.forwarded(PORT, burst.len() as u64);
    let engine = EngineStats::new([stats]);
    assert_eq!(engine.port(PORT).under_way(), 0);
    let Balance { merged, .. } = engine.balance();
    assert_eq!(merged, packets - burst.len() as u64);
    merged
}

/// Cuts what is to be segmented, and returns all frames as they would be on a wire.
fn expand(burst: &mut Burst, pool: &mut FramePool) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for packet in burst.drain(..) {
        if packet.offload.gso.is_none() {
            frames.push(bytes_of(&packet, pool.region()));
            pool.free_packet(packet);
            continue;
        }
        let plan = Plan::of(&packet, pool.region()).unwrap();
        let mut segments = Segmenter::new(packet, plan, false);
        while let Some(made) = segments.next(pool) {
            let segment = made.unwrap();
            frames.push(bytes_of(&segment, pool.region()));
            pool.free_packet(segment);
        }
        segments.end(pool);
    }
    frames
}

/// The frames of each flow, in order, without what does not count of a packet that may not be
/// fragmented: its identification.
fn by_flow(frames: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<Vec<u8>, Vec<Vec<u8>>> = BTreeMap::new();
    for frame in frames {
        let mut frame = frame.clone();
        let is_ipv4 = frame[12] == 8;
        if is_ipv4 && frame[20] & 0x40 != 0 {
            frame[18..20].fill(0);
            frame[24..26].fill(0);
        }
        let ports = if is_ipv4 { 34..38 } else { 54..58 };
        let key = [&frame[12..14], &frame[ports]].concat();
        flows.entry(key).or_default().push(frame);
    }
    flows
}

fn any_tcp() -> impl Strategy<Value = Tcp> {
    let odd = |usual: u32| prop_oneof![12 => Just(false), usual => Just(true)];
    let flags = prop_oneof![
        10 => Just(ACK), 2 => Just(ACK | PSH), 1 => Just(ACK | FIN), 1 => any::<u8>()
    ];
    let odds = (odd(1), odd(1), odd(1), odd(1), odd(1), odd(1), odd(1), odd(1));
    let sizes = prop_oneof![10 => Just(300_usize), 2 => 0..300_usize, 1 => 300..2500_usize];
    (any::<bool>(), 0..2_u16, flags, odds, sizes, 0..3_u16).prop_map(
        |(is_ipv4, flow, flags, odds, payload, identification)| {
            let mut tcp = tcp(is_ipv4, 0, payload);
            tcp.source_port += flow;
            tcp.flags = flags;
            tcp.identification = identification;
            tcp.window += u16::from(odds.0);
            tcp.timestamp += u8::from(odds.1);
            tcp.ttl -= u8::from(odds.2);
            tcp.traffic_class ^= u8::from(odds.3);
            tcp.flow_label += u32::from(odds.4);
            tcp.is_checksum_right = !odds.5;
            tcp.padding = usize::from(odds.6) * 3;
            tcp.is_dont_fragment = !odds.7;
            tcp
        },
    )
}

proptest! {
    #[test]
    fn nothing_is_lost_changed_or_overtaken(
        mut segments in vec(any_tcp(), 0..64),
        has_gap in vec(prop_oneof![15 => Just(false), 1 => Just(true)], 64),
        is_stepping: bool,
    ) {
        let mut pool = pool();
        // Each flow's sequence goes on, mostly.
        let mut next: BTreeMap<(bool, u16), (u32, u16)> = BTreeMap::new();
        for (segment, has_gap) in segments.iter_mut().zip(has_gap) {
            let flow = next.entry((segment.is_ipv4, segment.source_port)).or_default();
            segment.sequence = flow.0.wrapping_add(u32::from(has_gap));
            if segment.identification != 2 {
                segment.identification = flow.1;
            }
            let bytes = u32::try_from(segment.payload.len()).unwrap();
            *flow = (segment.sequence.wrapping_add(bytes), flow.1 + u16::from(is_stepping));
        }
        let frames: Vec<_> = segments.iter().map(Tcp::frame).collect();
        let mut burst = burst_of(&frames, &mut pool);
        merge_all(&mut burst, &pool);
        prop_assert!(burst.iter().all(|packet| !packet.is_taken()));
        let expanded = expand(&mut burst, &mut pool);
        prop_assert_eq!(by_flow(&expanded), by_flow(&frames));
        let frames = std::iter::from_fn(|| pool.allocate()).count();
        prop_assert_eq!(frames, pool.region().frame_count() as usize);
    }
}

#[test]
fn segments_in_order_become_one_packet_and_that_gives_them_back() {
    for is_ipv4 in [true, false] {
        for checksum in [Checksum::Complete, Checksum::Partial] {
            let mut pool = pool();
            let mut segments = in_order(is_ipv4, 30, 1400);
            segments[29].flags |= PSH | FIN;
            segments[29].payload.truncate(17);
            let frames: Vec<_> = segments.iter().map(Tcp::frame).collect();
            let mut burst = burst_of(&frames, &mut pool);
            burst.iter_mut().for_each(|packet| packet.offload.checksum = checksum);
            assert_eq!(merge_all(&mut burst, &pool), 29);
            let segment_bytes = 1400;
            let gso =
                if is_ipv4 { Gso::TcpV4 { segment_bytes } } else { Gso::TcpV6 { segment_bytes } };
            let offload = Offload { checksum: Checksum::Partial, gso: Some(gso) };
            assert_eq!(burst[0].offload, offload);
            assert_eq!(expand(&mut burst, &mut pool), frames);
        }
    }
}

type Change = (&'static str, fn(&mut Tcp));

#[test]
fn what_differs_is_not_merged() {
    let change: [Change; 12] = [
        ("acknowledgement", |tcp| tcp.acknowledgement += 1),
        ("window", |tcp| tcp.window += 1),
        ("timestamp", |tcp| tcp.timestamp += 1),
        ("port", |tcp| tcp.source_port += 1),
        ("hop limit", |tcp| tcp.ttl += 1),
        ("traffic class", |tcp| tcp.traffic_class = 3),
        ("sequence", |tcp| tcp.sequence += 1),
        ("urgent", |tcp| tcp.flags |= 32),
        ("echo of congestion", |tcp| tcp.flags |= 64),
        ("reset", |tcp| tcp.flags |= 4),
        ("wrong checksum", |tcp| tcp.is_checksum_right = false),
        ("larger", |tcp| tcp.payload.push(0)),
    ];
    let ipv4: [Change; 2] = [
        ("may be fragmented", |tcp| tcp.is_dont_fragment = false),
        ("identification", |tcp| tcp.identification = 5),
    ];
    let ipv6: [Change; 1] = [("flow label", |tcp| tcp.flow_label += 1)];
    for is_ipv4 in [true, false] {
        let mut pool = pool();
        for (what, change) in change.iter().chain(if is_ipv4 { &ipv4[..] } else { &ipv6[..] }) {
            let mut segments = in_order(is_ipv4, 2, 100);
            change(&mut segments[1]);
            let frames: Vec<_> = segments.iter().map(Tcp::frame).collect();
            let mut burst = burst_of(&frames, &mut pool);
            assert_eq!(merge_all(&mut burst, &pool), 0, "{what}");
            assert_eq!(expand(&mut burst, &mut pool), frames, "{what}");
        }
    }
}

#[test]
fn a_wrong_first_segment_is_not_hidden_by_the_ones_behind_it() {
    let mut pool = pool();
    let mut segments = in_order(true, 3, 100);
    segments[0].is_checksum_right = false;
    let frames: Vec<_> = segments.iter().map(Tcp::frame).collect();
    let mut burst = burst_of(&frames, &mut pool);
    assert_eq!(merge_all(&mut burst, &pool), 1);
    assert_eq!(expand(&mut burst, &mut pool), frames);
}

#[test]
fn flows_that_take_turns_are_merged_and_no_packet_overtakes_its_own_flow() {
    let mut pool = pool();
    let (mut a, mut b) = (in_order(true, 4, 100), in_order(false, 4, 100));
    // A pure acknowledgement stands between the second and the third.
    let mut pure = a[2].clone();
    pure.payload.clear();
    a.insert(2, pure);
    b.insert(2, tcp(false, 200, 0));
    let frames: Vec<_> = a.iter().zip(&b).flat_map(|(a, b)| [a.frame(), b.frame()]).collect();
    let mut burst = burst_of(&frames, &mut pool);
    assert_eq!(merge_all(&mut burst, &pool), 4);
    assert_eq!(by_flow(&expand(&mut burst, &mut pool)), by_flow(&frames));
}

#[test]
fn a_packet_grows_to_64_kib_and_no_further() {
    let mut pool = pool();
    let frames: Vec<_> = in_order(false, 60, 1400).iter().map(Tcp::frame).collect();
    let mut burst = burst_of(&frames, &mut pool);
    assert_eq!(merge_all(&mut burst, &pool), 58);
    assert_eq!(burst[0].total_bytes(), 14 + 40 + 32 + 46 * 1400);
    assert_eq!(expand(&mut burst, &mut pool), frames);
}

#[test]
fn a_family_that_the_port_does_not_take_is_left_alone() {
    let mut pool = pool();
    let stats = WorkerStats::new();
    let frames: Vec<_> = in_order(false, 3, 100).iter().map(Tcp::frame).collect();
    let mut burst = burst_of(&frames, &mut pool);
    let offloads = Offloads { tcp_v6: false, ..Offloads::ALL };
    merge(&mut burst, offloads, pool.region(), &stats);
    assert_eq!(burst.len(), 3);
    expand(&mut burst, &mut pool);
}

#[test]
fn other_traffic_between_segments_does_not_keep_them_apart() {
    let mut pool = pool();
    let segments = in_order(true, 2, 100);
    let frames = [segments[0].frame(), whole(true, false, &[1; 50]), segments[1].frame()];
    let mut burst = burst_of(&frames, &mut pool);
    assert_eq!(merge_all(&mut burst, &pool), 1);
    let expanded = expand(&mut burst, &mut pool);
    for frame in &expanded {
        assert_right(frame);
    }
    assert_eq!(by_flow(&expanded), by_flow(&frames));
}
