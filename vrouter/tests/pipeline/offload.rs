//! Packets with something left to do: checksums, and segmentation.

use std::net::IpAddr;

use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use proptest::{collection::vec, prelude::*};
use vrouter::{
    drops::DropReason,
    packet::{Checksum, Gso, Offload},
    virtio_net::{GsoType, HeaderFlags, VirtioNetHeader},
};

use crate::{
    bench::Bench,
    rig::{Node, Udp, assert_checksums, fix_ipv4_checksum, inner},
};

/// Ethernet, and TCP with a time stamp.
const HEADERS_V4: usize = 14 + 20 + 32;
const HEADERS_V6: usize = 14 + 40 + 32;

fn targets(of: Node) -> [IpAddr; 2] {
    [of.pod(11).into(), of.pod6(11).into()]
}

/// A TCP segment from pod 10 of node `a`, with "don't fragment" set.
fn tcp(destination: IpAddr, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let udp = Udp::from_pod(destination);
    let ethernet = PacketBuilder::ethernet2(udp.macs.0.octets(), udp.macs.1.octets());
    let ip = match (udp.source, udp.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("one family"),
    };
    let tcp = ip.tcp(5000, 80, sequence, 4000).ack(77).psh();
    let tcp = tcp.options(&[TcpOptionElement::Timestamp(1, 2)]).unwrap();
    let mut frame = Vec::new();
    tcp.write(&mut frame, payload).unwrap();
    frame
}

fn large(destination: IpAddr, segment_bytes: u16, bytes: usize) -> (Vec<u8>, Offload) {
    let payload: Vec<u8> = (0..bytes).map(|at| (at % 251).to_le_bytes()[0]).collect();
    let gso = if destination.is_ipv4() {
        Gso::TcpV4 { segment_bytes }
    } else {
        Gso::TcpV6 { segment_bytes }
    };
    let offload = Offload { checksum: Checksum::Partial, gso: Some(gso) };
    let mut frame = tcp(destination, 1000, &payload);
    // Whatever is there does not count.
    let field = if destination.is_ipv4() { 34 + 16 } else { 54 + 16 };
    frame[field..field + 2].fill(0x5a);
    (frame, offload)
}

/// A node `a` where the flow of [`tcp`] to `destination` is known, so that the fast path would take
/// its packets.
fn bench(destination: IpAddr, has_fast_path: bool) -> Bench {
    let mut bench = Bench::new();
    bench.set_fast_path(has_fast_path);
    let opened = bench.send("default/pod10", &tcp(destination, 999, b"x"));
    assert_eq!(opened.drops, []);
    bench
}

fn payload(frame: &[u8]) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.payload().to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn between_ports_a_large_packet_stays_one() {
    for destination in targets(Node::A) {
        for has_fast_path in [true, false] {
            let mut bench = bench(destination, has_fast_path);
            let (frame, offload) = large(destination, 1370, 60_000);
            let outcome = bench.send_unfinished("default/pod10", &[(frame.clone(), offload)]);
            assert_eq!(outcome.ports(), ["default/pod11"], "{:?}", outcome.drops);
            assert_eq!(outcome.offloads, [offload]);
            assert_eq!(outcome.sent[0].1[HEADERS_V4..], frame[HEADERS_V4..]);
            assert_eq!(bench.frames_free(), 1024);
        }
    }
}

#[test]
fn a_tunnel_carries_segments_each_in_outer_headers_of_its_own() {
    for destination in targets(Node::B) {
        let headers = if destination.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
        let outcomes = [true, false].map(|has_fast_path| {
            let mut bench = bench(destination, has_fast_path);
            let (frame, offload) = large(destination, 1300, 20_000);
            let outcome = bench.send_unfinished("default/pod10", &[(frame.clone(), offload)]);
            assert_eq!(outcome.ports(), ["uplink"; 16], "{:?}", outcome.drops);
            assert_eq!(outcome.offloads, [Offload::NONE; 16]);
            let mut joined = Vec::new();
            for (position, (_, frame)) in outcome.sent.iter().enumerate() {
                assert_checksums(frame);
                assert_checksums(inner(frame));
                let part = payload(inner(frame));
                assert_eq!(inner(frame).len(), headers + part.len());
                // Outer identification, inner TTL and sequence.
                let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
                let first = u16::from_be_bytes([outcome.sent[0].1[18], outcome.sent[0].1[19]]);
                assert_eq!(usize::from(word(18).wrapping_sub(first)), position);
                let tcp = 50 + headers - 32;
                let sequence = (u32::from(word(tcp + 4)) << 16) | u32::from(word(tcp + 6));
                assert_eq!(sequence as usize, 1000 + joined.len());
                joined.extend(part);
            }
            assert_eq!(joined, frame[headers..]);
            assert_eq!(bench.tunnel("peer/ipv4").tx_packets, 17);
            assert_eq!(bench.frames_free(), 1024);
            outcome.sent
        });
        assert_eq!(outcomes[0], outcomes[1]);
    }
}

#[test]
fn segments_that_the_way_does_not_carry_are_refused_with_a_quote_of_the_first() {
    for destination in [targets(Node::A), targets(Node::B)].concat() {
        for has_fast_path in [true, false] {
            let mut bench = bench(destination, has_fast_path);
            let (mut frame, offload) = large(destination, 1440, 9000);
            if destination.is_ipv4() {
                frame[20] |= 0x40;
                fix_ipv4_checksum(&mut frame);
            }
            let outcome = bench.send_unfinished("default/pod10", &[(frame, offload)]);
            assert_eq!(outcome.drops, [DropReason::MtuExceeded]);
            assert_eq!(outcome.ports(), ["default/pod10"]);
            let error = &outcome.sent[0].1;
            assert_checksums(error);
            let (quote, length) = if destination.is_ipv4() {
                (&error[14 + 20 + 8..], 20 + 32 + 1440)
            } else {
                (&error[14 + 40 + 8..], 32 + 1440)
            };
            let at = if destination.is_ipv4() { 2 } else { 4 };
            let stated = u16::from_be_bytes([quote[at], quote[at + 1]]);
            assert_eq!(usize::from(stated), length);
            assert_eq!(bench.frames_free(), 1024);
        }
    }
}

#[test]
fn a_large_packet_that_may_be_fragmented_is_segmented_first() {
    for node in [Node::A, Node::B] {
        let destination = node.pod(11).into();
        for has_fast_path in [true, false] {
            let mut bench = bench(destination, has_fast_path);
            let (mut frame, offload) = large(destination, 2000, 5000);
            frame[20..22].fill(0);
            fix_ipv4_checksum(&mut frame);
            let outcome = bench.send_unfinished("default/pod10", &[(frame.clone(), offload)]);
            assert_eq!(outcome.drops, []);
            // Two segments of two fragments each, and one that fits.
            assert_eq!(outcome.sent.len(), 5);
            let mut joined = Vec::new();
            let mut packet = Vec::new();
            for (_, frame) in &outcome.sent {
                let frame = if node == Node::A { &frame[..] } else { inner(frame) };
                let has_more = frame[20] & 0x20 != 0;
                if packet.is_empty() {
                    packet.extend_from_slice(&frame[..34]);
                }
                packet.extend_from_slice(&frame[34..]);
                if !has_more {
                    let length = u16::try_from(packet.len() - 14).unwrap();
                    packet[16..18].copy_from_slice(&length.to_be_bytes());
                    packet[20..22].fill(0);
                    fix_ipv4_checksum(&mut packet);
                    assert_checksums(&packet);
                    joined.extend(payload(&packet));
                    packet.clear();
                }
            }
            assert_eq!(joined, frame[HEADERS_V4..]);
            assert_eq!(bench.frames_free(), 1024);
        }
    }
}

#[test]
fn a_packet_that_would_become_too_many_is_dropped_before_a_tunnel() {
    for destination in targets(Node::B) {
        let mut bench = bench(destination, true);
        let (frame, offload) = large(destination, 1, 9000);
        let outcome = bench.send_unfinished("default/pod10", &[(frame, offload)]);
        assert_eq!((outcome.drops, outcome.sent.len()), (vec![DropReason::SegmentImpossible], 0));
        assert_eq!(bench.frames_free(), 1024);
    }
}

#[test]
fn a_partial_checksum_is_left_to_a_port_and_finished_before_a_tunnel() {
    for checksum in [Checksum::Partial, Checksum::Unknown] {
        let partial = Offload { checksum, gso: None };
        for has_fast_path in [true, false] {
            for node in [Node::A, Node::B] {
                for destination in targets(node) {
                    let mut bench = bench(destination, has_fast_path);
                    let whole = tcp(destination, 1000, b"payload");
                    let mut frame = whole.clone();
                    let field = if destination.is_ipv4() { 50 } else { 70 };
                    frame[field..field + 2].fill(0x77);
                    let outcome = bench.send_unfinished("default/pod10", &[(frame, partial)]);
                    let sent = &outcome.sent[0].1;
                    if node == Node::A {
                        assert_eq!(outcome.offloads, [partial]);
                        assert_eq!(sent[field..field + 2], [0x77; 2]);
                    } else {
                        assert_eq!(outcome.offloads, [Offload::NONE]);
                        assert_eq!(inner(sent)[field..field + 2], whole[field..field + 2]);
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_behind_a_packet_stays_behind_in_one_segment_or_many() {
    for node in [Node::A, Node::B] {
        for destination in targets(node) {
            for has_fast_path in [true, false] {
                for (bytes, behind) in [(0, 20), (10, 6000), (1300, 700), (1300, 9000)] {
                    let mut bench = bench(destination, has_fast_path);
                    let whole = tcp(destination, 1000, &vec![0x5a; bytes]);
                    let padded = [&whole[..], &vec![0x77; behind]].concat();
                    let outcome = bench.send("default/pod10", &padded);
                    let sent = &outcome.sent[0].1;
                    let ours = if node == Node::A { sent } else { inner(sent) };
                    assert_eq!(ours.len(), whole.len());
                    assert_eq!(payload(ours), vec![0x5a; bytes]);
                    assert_eq!(bench.frames_free(), 1024);
                }
            }
        }
    }
}

#[test]
fn a_flow_counts_a_large_packet_as_one_with_all_its_bytes() {
    for destination in targets(Node::B) {
        let mut bench = bench(destination, true);
        let before = bench.flow_counts();
        let (frame, offload) = large(destination, 1300, 20_000);
        let ip_bytes = frame.len() as u64 - 14;
        bench.send_unfinished("default/pod10", &[(frame, offload)]);
        let after = bench.flow_counts();
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, ip_bytes));
    }
}

/// A frame with something left to do, that may be damaged, and the header before it.
fn headed() -> impl Strategy<Value = (Vec<u8>, VirtioNetHeader)> {
    let targets = [targets(Node::A), targets(Node::B)].concat();
    let kinds = prop_oneof![6 => Just(None), 1 => any::<u8>().prop_map(Some)];
    let sizes = prop_oneof![3 => 0..1400_usize, 2 => 1400..6000_usize];
    let damage = prop_oneof![
        4 => Just((0, 0)),
        1 => (0..90_usize, any::<u8>()),
    ];
    let places = (0..2_u16, prop_oneof![6 => Just(0_u16), 1 => any::<u16>()]);
    (proptest::sample::select(targets), any::<bool>(), sizes, 1..3000_u16, kinds, damage, places)
        .prop_map(|(target, is_tcp, bytes, gso_bytes, kind, (at, noise), (flags, astray))| {
            let payload = vec![0x5a; bytes];
            let mut frame = if is_tcp {
                tcp(target, 1000, &payload)
            } else {
                Udp { payload, ..Udp::from_pod(target) }.frame()
            };
            let usual = match (is_tcp, target.is_ipv4()) {
                _ if bytes <= usize::from(gso_bytes) => GsoType::NONE,
                (true, true) => GsoType::TCPV4,
                (true, false) => GsoType::TCPV6,
                (false, _) => GsoType::UDP_L4,
            };
            let header = VirtioNetHeader {
                flags: HeaderFlags(u8::try_from(flags).unwrap()),
                gso_type: kind.map_or(usual, GsoType),
                gso_bytes,
                checksum_start: astray ^ if target.is_ipv4() { 34 } else { 54 },
                checksum_offset: if is_tcp { 16 } else { 6 },
                ..VirtioNetHeader::PLAIN
            };
            let at = at % frame.len();
            frame[at] ^= noise;
            if target.is_ipv4() {
                fix_ipv4_checksum(&mut frame);
            }
            (frame, header)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_fast_path_does_to_unfinished_packets_what_the_rest_does(
        bursts in vec(vec(headed(), 1..8), 1..6),
        is_from_pod: bool,
    ) {
        let mut benches = [true, false].map(|is_fast| {
            let mut bench = Bench::new();
            bench.set_fast_path(is_fast);
            let free = bench.frames_free();
            (bench, free)
        });
        for frames in bursts {
            let [fast, full] = benches.each_mut().map(|(bench, _)| {
                let port = if is_from_pod { "default/pod10" } else { "host" };
                let mut outcome = bench.send_headed(port, &frames);
                outcome.drops.sort_by_key(|reason| *reason as usize);
                outcome
            });
            prop_assert_eq!(&fast.sent, &full.sent);
            prop_assert_eq!(&fast.offloads, &full.offloads);
            prop_assert_eq!(&fast.drops, &full.drops);
            // Nothing unfinished is in a tunnel, and nothing there is too large.
            for ((port, frame), offload) in fast.sent.iter().zip(&fast.offloads) {
                if port == "uplink" {
                    prop_assert_eq!(*offload, Offload::NONE);
                    prop_assert!(frame.len() <= 1514);
                }
            }
        }
        let [fast, full] = benches.map(|(mut bench, free)| {
            assert_eq!(bench.frames_free(), free);
            (bench.tunnel("peer/ipv4"), bench.flow_counts())
        });
        prop_assert_eq!(fast, full);
    }
}
