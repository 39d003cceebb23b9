use std::net::{Ipv4Addr, Ipv6Addr};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::MacAddress;
use crate::ecn::{Dscp, DscpModel, EcnMode};
use crate::ethernet::EthernetHeader;
use crate::ipv4::Ipv4Header;
use crate::ipv6::Ipv6Header;
use crate::udp::UdpHeader;
use crate::vlan::{VlanId, tag_bytes};
use crate::vxlan::{
    EncapPacket, EncapTemplate, OuterDf, PORT, TunnelAddresses, TunnelSettings, UdpChecksum,
};

const IPV4: TunnelAddresses = TunnelAddresses::V4 {
    source: Ipv4Addr::new(192, 168, 7, 1),
    destination: Ipv4Addr::new(192, 168, 7, 2),
};
const IPV6: TunnelAddresses = TunnelAddresses::V6 {
    source: Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 1),
    destination: Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2),
};

/// An inner frame with a UDP packet, version 4 or 6, of this traffic class.
fn inner_frame(is_ipv4: bool, class: TrafficClass, is_tagged: bool) -> Vec<u8> {
    let ether_type = if is_ipv4 { EtherType::IPV4 } else { EtherType::IPV6 };
    let (destination, source) = (MacAddress::new([2; 6]), MacAddress::new([4; 6]));
    let mut frame = EthernetHeader { destination, source, ether_type }.to_bytes().to_vec();
    if is_tagged {
        frame.splice(12..12, tag_bytes(VlanId::new(7).unwrap(), 0));
    }
    if is_ipv4 {
        let header = Ipv4Header {
            traffic_class: class,
            total_length: 40,
            identification: 7,
            dont_fragment: true,
            ttl: 64,
            protocol: IpProtocol::UDP,
            source: Ipv4Addr::new(10, 0, 0, 1),
            destination: Ipv4Addr::new(10, 0, 0, 2),
        };
        frame.extend(header.to_bytes());
    } else {
        let header = Ipv6Header {
            traffic_class: class,
            flow_label: 0xabcde,
            payload_length: 20,
            next_header: IpProtocol::UDP,
            hop_limit: 64,
            source: Ipv6Addr::LOCALHOST,
            destination: Ipv6Addr::LOCALHOST,
        };
        frame.extend(header.to_bytes());
    }
    frame.extend(
        UdpHeader { source_port: 1, destination_port: 2, length: 20, checksum: 0 }.to_bytes(),
    );
    frame.extend([0xab; 12]);
    frame
}

/// The outer packet, from the IP header on, with this outer mark around `frame`.
fn outer_packet(
    addresses: TunnelAddresses,
    udp_checksum: UdpChecksum,
    outer: Ecn,
    frame: &[u8],
) -> Vec<u8> {
    let template = EncapTemplate::new(&TunnelSettings {
        source_mac: MacAddress::new([6; 6]),
        destination_mac: MacAddress::new([8; 6]),
        addresses,
        destination_port: PORT,
        vni: Vni::new(77).unwrap(),
        hop_limit: 64,
        dscp: DscpModel::Uniform,
        ecn: EcnMode::Normal,
        outer_df: OuterDf::Set,
        udp_checksum,
    });
    let packet = EncapPacket {
        frame_bytes: frame.len(),
        traffic_class: TrafficClass::new(Dscp::default(), outer),
        ..EncapPacket::default()
    };
    let mut bytes = vec![0; template.overhead()];
    template.write(&mut bytes, &packet, || Sum::of(frame)).unwrap();
    bytes.extend(frame);
    bytes.split_off(EthernetView::LEN)
}

/// Puts a fragment header with this offset word behind the IPv6 header of `packet`.
fn with_fragment_header(mut packet: Vec<u8>, word: u16, identification: u32) -> Vec<u8> {
    let mut header = [0; 8];
    header[0] = packet[6];
    header[2..4].copy_from_slice(&word.to_be_bytes());
    header[4..].copy_from_slice(&identification.to_be_bytes());
    packet.splice(40..40, header);
    packet[6] = IpProtocol::FRAGMENT.0;
    let length = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

fn decap(packet: &[u8]) -> Result<Decap, DecapError> {
    let outer = Outer::parse(packet, packet.len()).unwrap();
    outer.decap(DecapSettings::default(), |_| panic!("the packet is in one piece"))
}

#[test]
fn every_pair_of_marks_leaves_as_rfc_6040_says_with_the_checksum_right() {
    for (addresses, is_ipv4, is_tagged) in [
        (IPV4, true, false),
        (IPV4, false, false),
        (IPV6, true, true),
        (IPV6, false, true),
        (IPV6, true, false),
    ] {
        for (inner, outer) in Ecn::ALL
            .into_iter()
            .flat_map(|inner| Ecn::ALL.into_iter().map(move |outer| (inner, outer)))
        {
            let class = TrafficClass::new(Dscp::new(46).unwrap(), inner);
            let mut frame = inner_frame(is_ipv4, class, is_tagged);
            let packet = outer_packet(addresses, UdpChecksum::Computed, outer, &frame);
            let expected = decapsulate(inner, outer);
            let Some(ecn) = expected.forward else {
                assert_eq!(decap(&packet), Err(DecapError::CongestionNotTransportable));
                continue;
            };
            let decap = decap(&packet).unwrap();
            assert_eq!(decap.vni().value(), 77);
            assert_eq!(packet[decap.inner_offset()..], frame);
            assert_eq!(decap.inner_bytes(), frame.len());
            assert_eq!(decap.ecn_anomaly(), expected.anomaly);
            assert_eq!(decap.new_ecn(), (ecn != inner).then_some(ecn));
            decap.apply_ecn(&mut frame);
            // The frame is now the one that a sender with this mark would have made.
            assert_eq!(frame, inner_frame(is_ipv4, class.with_ecn(ecn), is_tagged));
        }
    }
}

#[test]
fn frames_that_are_not_ip_pass_whatever_the_outer_mark() {
    let mut frame = inner_frame(true, TrafficClass(0), false);
    frame[12..14].copy_from_slice(&EtherType::ARP.0.to_be_bytes());
    let packet = outer_packet(IPV4, UdpChecksum::ByFamily, Ecn::Ce, &frame);
    let decap = decap(&packet).unwrap();
    assert_eq!((decap.new_ecn(), decap.ecn_anomaly()), (None, None));
    let before = frame.clone();
    decap.apply_ecn(&mut frame);
    assert_eq!(frame, before);
}

#[test]
fn of_all_256_flag_bytes_those_with_the_i_flag_are_accepted() {
    let frame = inner_frame(true, TrafficClass(0), false);
    for flags in 0..=255 {
        let mut packet = outer_packet(IPV4, UdpChecksum::Zero, Ecn::NotEct, &frame);
        packet[28] = flags;
        let expected = if flags & 8 == 0 {
            Err(DecapError::Malformed(ParseError::VniFlagUnset { flags }))
        } else {
            Ok(77)
        };
        assert_eq!(decap(&packet).map(|decap| decap.vni().value()), expected);
    }
}

#[test]
fn a_checksum_of_zero_is_accepted_over_ipv4_and_over_ipv6_by_setting() {
    let frame = inner_frame(true, TrafficClass(0), false);
    for (addresses, refused) in [(IPV4, None), (IPV6, Some(DecapError::UdpChecksumMissing))] {
        let packet = outer_packet(addresses, UdpChecksum::Zero, Ecn::NotEct, &frame);
        assert!(decap(&packet).is_ok());
        let strict = DecapSettings { accepts_zero_checksum_over_ipv6: false };
        let outer = Outer::parse(&packet, packet.len()).unwrap();
        assert_eq!(outer.decap(strict, |_| Sum::ZERO).err(), refused);
    }
}

#[test]
fn a_wrong_checksum_is_refused_over_both_families() {
    let frame = inner_frame(true, TrafficClass(0), false);
    for addresses in [IPV4, IPV6] {
        let good = outer_packet(addresses, UdpChecksum::Computed, Ecn::NotEct, &frame);
        assert!(decap(&good).is_ok());
        let udp = good.len() - frame.len() - 16;
        // Source port, VNI, inner frame.
        for offset in [udp, udp + 14, good.len() - 1] {
            let mut bad = good.clone();
            bad[offset] ^= 0x40;
            let error = decap(&bad).unwrap_err();
            assert!(matches!(error, DecapError::UdpChecksumWrong(_)), "{error}");
        }
        let mut bad = good;
        bad[udp + 6] ^= 1;
        assert!(matches!(decap(&bad), Err(DecapError::UdpChecksumWrong(_))));
    }
}

#[test]
fn outer_fragments_are_refused() {
    let frame = inner_frame(true, TrafficClass(0), false);
    let mut packet = outer_packet(IPV4, UdpChecksum::Zero, Ecn::NotEct, &frame);
    for word in [[0x20_u8, 0], [0x20, 8], [0, 8]] {
        packet[6..8].copy_from_slice(&word);
        packet[10..12].fill(0);
        let checksum = Sum::of(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        let offset_bytes = u16::from(word[1]) * 8;
        assert_eq!(
            Outer::parse(&packet, packet.len()).unwrap_err(),
            OuterError::Fragmented { offset_bytes }
        );
    }
    for (word, offset_bytes) in [(1, 0), (1 << 3 | 1, 8), (1 << 3, 8)] {
        let packet = with_fragment_header(
            outer_packet(IPV6, UdpChecksum::Zero, Ecn::NotEct, &frame),
            word,
            1,
        );
        assert_eq!(
            Outer::parse(&packet, packet.len()).unwrap_err(),
            OuterError::Fragmented { offset_bytes }
        );
    }
}

#[test]
fn other_protocols_are_no_tunnel() {
    let frame = inner_frame(true, TrafficClass(0), false);
    let mut packet = outer_packet(IPV6, UdpChecksum::Zero, Ecn::NotEct, &frame);
    packet[6] = IpProtocol::TCP.0;
    assert_eq!(
        Outer::parse(&packet, packet.len()).unwrap_err(),
        OuterError::NotUdp { protocol: IpProtocol::TCP }
    );
    let header = Ipv4Header {
        traffic_class: TrafficClass(0),
        total_length: 20,
        identification: 0,
        dont_fragment: true,
        ttl: 1,
        protocol: IpProtocol::ICMP,
        source: Ipv4Addr::LOCALHOST,
        destination: Ipv4Addr::LOCALHOST,
    };
    assert_eq!(
        Outer::parse(&header.to_bytes(), 20).unwrap_err(),
        OuterError::NotUdp { protocol: IpProtocol::ICMP }
    );
}

#[test]
fn a_wrong_outer_header_checksum_is_refused() {
    let frame = inner_frame(true, TrafficClass(0), false);
    let mut packet = outer_packet(IPV4, UdpChecksum::Zero, Ecn::NotEct, &frame);
    packet[8] ^= 1;
    let error = Outer::parse(&packet, packet.len()).unwrap_err();
    assert!(matches!(error, OuterError::Malformed(ParseError::ChecksumMismatch { .. })), "{error}");
}

#[test]
fn an_inner_frame_without_an_ethernet_header_is_refused() {
    for length in 0..EthernetView::LEN {
        let packet = outer_packet(IPV4, UdpChecksum::Zero, Ecn::NotEct, &vec![0; length]);
        let error = ParseError::Truncated { layer: Layer::Ethernet, needed: 14, actual: length };
        assert_eq!(decap(&packet), Err(DecapError::Malformed(error)));
    }
}

#[test]
fn extension_headers_before_udp_are_walked() {
    let frame = inner_frame(true, TrafficClass(0), false);
    let mut packet = outer_packet(IPV6, UdpChecksum::Computed, Ecn::NotEct, &frame);
    packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
    packet[6] = IpProtocol::DESTINATION_OPTIONS.0;
    let length = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    let decap = decap(&packet).unwrap();
    assert_eq!(packet[decap.inner_offset()..], frame);
}

proptest! {
    #[test]
    fn a_packet_truncated_anywhere_is_refused(is_ipv4: bool, is_inner_ipv4: bool) {
        let frame = inner_frame(is_inner_ipv4, TrafficClass(2), false);
        let addresses = if is_ipv4 { IPV4 } else { IPV6 };
        let packet = outer_packet(addresses, UdpChecksum::Computed, Ecn::Ce, &frame);
        for length in 0..packet.len() {
            prop_assert!(Outer::parse(&packet[..length], length).is_err());
        }
    }

    #[test]
    fn a_chain_is_summed_at_any_cut(
        is_ipv4: bool, cut: prop::sample::Index, rest in prop::collection::vec(any::<u8>(), 1..300),
    ) {
        let mut frame = inner_frame(true, TrafficClass(1), false);
        let headers = frame.len();
        frame.extend(rest);
        let addresses = if is_ipv4 { IPV4 } else { IPV6 };
        let packet = outer_packet(addresses, UdpChecksum::Computed, Ecn::Ect1, &frame);
        let headers = packet.len() - frame.len() + headers;
        let cut = headers + cut.index(packet.len() - headers);
        let (first, second) = packet.split_at(cut);
        let outer = Outer::parse(first, packet.len()).unwrap();
        let sum = |bytes| {
            assert_eq!(bytes, second.len());
            Sum::of(second)
        };
        let decap = outer.decap(DecapSettings::default(), sum).unwrap();
        prop_assert_eq!(&packet[decap.inner_offset()..], &frame[..]);
        let wrong = outer.decap(DecapSettings::default(), |_| Sum::of(second).add(Sum::of_u16(1)));
        prop_assert!(matches!(wrong, Err(DecapError::UdpChecksumWrong(_))));
    }

    #[test]
    fn a_fragment_that_is_the_whole_packet_is_decapsulated_as_one(
        identification: u32, reserved in 0..4_u16, is_inner_ipv4: bool,
    ) {
        let frame = inner_frame(is_inner_ipv4, TrafficClass(2), false);
        let whole = outer_packet(IPV6, UdpChecksum::Computed, Ecn::Ce, &frame);
        // The reserved bits lie between the offset and the M flag.
        let packet = with_fragment_header(whole.clone(), reserved << 1, identification);
        let (expected, decap) = (decap(&whole).unwrap(), decap(&packet).unwrap());
        prop_assert_eq!(decap.vni(), expected.vni());
        prop_assert_eq!(decap.new_ecn(), expected.new_ecn());
        prop_assert_eq!(&packet[decap.inner_offset()..], &frame[..]);
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>, chain: usize) {
        for packet_bytes in [bytes.len(), chain] {
            if let Ok(outer) = Outer::parse(&bytes, packet_bytes) {
                let _ = outer.decap(DecapSettings::default(), |_| Sum::ZERO);
            }
        }
    }

    #[test]
    fn noise_in_the_inner_frame_never_panics(
        is_ipv4: bool,
        ecn in 0..4_u8,
        ether_type in prop_oneof![Just(0x0800_u16), Just(0x86dd), Just(0x8100)],
        mut frame in prop::collection::vec(any::<u8>(), 14..80),
    ) {
        frame[12..14].copy_from_slice(&ether_type.to_be_bytes());
        let addresses = if is_ipv4 { IPV4 } else { IPV6 };
        let packet =
            outer_packet(addresses, UdpChecksum::Computed, Ecn::from_bits(ecn), &frame);
        if let Ok(decap) = decap(&packet) {
            prop_assert_eq!(&packet[decap.inner_offset()..], &frame[..]);
            decap.apply_ecn(&mut frame);
            // Also of a frame that is not the one judged.
            decap.apply_ecn(&mut []);
        }
    }
}
