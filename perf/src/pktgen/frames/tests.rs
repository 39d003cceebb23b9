use std::collections::HashSet;

use etherparse::{SlicedPacket, TransportSlice, checksum::u32_16bit_word};
use proptest::prelude::*;

use super::*;
use crate::pktgen::{locate, tag::Reading};

fn addressing(is_ipv6: bool) -> Addressing {
    let (source, destination) = if is_ipv6 {
        ("fd00:1::2".parse().unwrap(), "fd00:2::2".parse().unwrap())
    } else {
        ("10.1.0.2".parse().unwrap(), "10.2.0.2".parse().unwrap())
    };
    Addressing {
        source_mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
        source,
        destination,
        source_port: 60_000,
        destination_port: 9,
        tunnel: None,
    }
}

fn written(frames: &FrameSet, sequence: u64) -> Vec<u8> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    let tag = Tag { stream: 3, sequence, sent_ns: sequence * 77 };
    let bytes = frames.write(tag, &mut buffer);
    buffer.truncate(bytes);
    buffer
}

/// Parses with another implementation, checks all checksums, and returns the ports.
fn checked_ports(frame: &[u8]) -> (u16, u16) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP in {packet:?}") };
    let mut sum = u32_16bit_word::add_slice(0, udp.slice());
    let ip = packet.net.unwrap();
    let (source, destination) = match &ip {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
            (header.source().to_vec(), header.destination().to_vec())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            (ip.header().source().to_vec(), ip.header().destination().to_vec())
        }
        etherparse::NetSlice::Arp(_) => panic!("ARP"),
    };
    sum = u32_16bit_word::add_slice(sum, &source);
    sum = u32_16bit_word::add_slice(sum, &destination);
    sum = u32_16bit_word::add_2bytes(sum, [0, 17]);
    sum = u32_16bit_word::add_2bytes(sum, udp.length().to_be_bytes());
    assert_eq!(u32_16bit_word::ones_complement(sum), 0, "UDP checksum");
    (udp.source_port(), udp.destination_port())
}

proptest! {
    #[test]
    fn frames_have_their_size_their_checksums_and_their_tag(
        is_ipv6: bool, bytes in 84_usize..9000, flows in 1_u32..200_000, sequence in 0..1_u64 << 48,
    ) {
        let frames = FrameSet::new(addressing(is_ipv6), &FrameMix::of(bytes), flows).unwrap();
        let frame = written(&frames, sequence);
        prop_assert_eq!(frame.len() + FCS_BYTES, bytes);
        checked_ports(&frame);
        let payload = locate::payload(&frame).unwrap();
        let tag = Tag { stream: 3, sequence, sent_ns: (sequence * 77) % (1 << 48) };
        prop_assert_eq!(Tag::read(payload), Reading::Intact(tag));
    }
}

/// A tunnel over either family.
fn tunnel(is_ipv6: bool) -> Tunnel {
    let Addressing { source, destination, source_mac, destination_mac, .. } = addressing(is_ipv6);
    let vni = encap::vxlan::Vni::new(7).unwrap();
    Tunnel { vni, source_mac, destination_mac, source, destination, port: 4789 }
}

proptest! {
    #[test]
    fn frames_in_a_tunnel_are_those_without_and_have_outer_checksums(
        is_ipv6: bool, is_outer_ipv6: bool, flows in 1_u32..50_000, sequence in 0..1_u64 << 48,
    ) {
        let mix = FrameMix::of(200);
        let outside = FrameSet::new(addressing(is_ipv6), &mix, flows).unwrap();
        let tunnel = tunnel(is_outer_ipv6);
        let inside = FrameSet::new(Addressing { tunnel: Some(tunnel), ..addressing(is_ipv6) }, &mix, flows);
        let (frame, inner) = (written(&inside.unwrap(), sequence), written(&outside, sequence));
        prop_assert_eq!(&frame[tunnel.header_bytes()..], &inner);
        if is_outer_ipv6 {
            let (source_port, port) = checked_ports(&frame);
            prop_assert!(source_port >= 49_152 && port == 4789);
        }
        prop_assert_eq!(locate::payload(&frame), locate::payload(&inner));
    }
}

#[test]
fn each_flow_has_its_own_ports() {
    let flows = 12_000;
    let frames = FrameSet::new(addressing(false), &FrameMix::of(64), flows).unwrap();
    let ports: HashSet<_> =
        (0..u64::from(flows)).map(|sequence| checked_ports(&written(&frames, sequence))).collect();
    assert_eq!(ports.len(), flows as usize);
    assert_eq!(checked_ports(&written(&frames, u64::from(flows))), (60_000, 9));
}

#[test]
fn a_mix_has_seven_small_frames_four_of_570_and_one_of_1518() {
    for (is_ipv6, small) in [(false, 60), (true, 80)] {
        let frames = FrameSet::new(addressing(is_ipv6), &FrameMix::imix(), 1).unwrap();
        let sizes: Vec<_> = (0..12).map(|sequence| written(&frames, sequence).len()).collect();
        let count = |bytes| sizes.iter().filter(|&&size| size == bytes).count();
        assert_eq!((count(small), count(566), count(1514)), (7, 4, 1));
    }
}

#[test]
fn sizes_may_be_given_one_by_one() {
    let mix: FrameMix = "64+64+1518".parse().unwrap();
    let frames = FrameSet::new(addressing(false), &mix, 1).unwrap();
    assert!((frames.frame_bytes_mean() - 548.66).abs() < 0.01);
    assert_eq!((mix.to_string().as_str(), frames.frame_bytes_max()), ("64+64+1518", 1518));
    for bad in ["", "0", "64+", "big", "9999999"] {
        let error = bad.parse::<FrameMix>().unwrap_err().to_string();
        assert!(error.contains("is no frame size; give bytes"), "{error}");
    }
}

#[test]
fn what_cannot_be_built_is_told() {
    let error = |addressing, bytes, flows| {
        FrameSet::new(addressing, &FrameMix::of(bytes), flows).unwrap_err().to_string()
    };
    assert!(error(addressing(true), 64, 1).ends_with("the smallest is 84 bytes with FCS"));
    assert!(error(addressing(false), 64, 0).ends_with("give at least 1"));
    assert!(error(addressing(false), 64, 1 << 25).contains("33554432 flows are more than"));
    let mixed = Addressing { destination: "fd00::1".parse().unwrap(), ..addressing(false) };
    assert!(error(mixed, 64, 1).contains("two families"));
    let mixed = Tunnel { destination: mixed.destination, ..tunnel(false) };
    let mixed = Addressing { tunnel: Some(mixed), ..addressing(false) };
    assert!(error(mixed, 64, 1).contains("two families"));
}
