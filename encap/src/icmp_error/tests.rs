use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::quote::{QuotedFlow, QuotedView};
use crate::udp::UdpHeader;

const NODE: MacAddress = MacAddress::new([2, 0, 0, 0, 0, 1]);
const SOURCE4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const DESTINATION4: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const DESTINATION6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, 2);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut packet = Ipv4Header {
        traffic_class: TrafficClass(0),
        total_length: u16::try_from(20 + payload.len()).unwrap(),
        identification: 0,
        dont_fragment: true,
        ttl: 1,
        protocol,
        source,
        destination,
    }
    .to_bytes()
    .to_vec();
    packet.extend(payload);
    packet
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut packet = Ipv6Header {
        traffic_class: TrafficClass(0),
        flow_label: 0,
        payload_length: u16::try_from(payload.len()).unwrap(),
        next_header: next,
        hop_limit: 1,
        source,
        destination,
    }
    .to_bytes()
    .to_vec();
    packet.extend(payload);
    packet
}

fn udp(payload_len: usize) -> Vec<u8> {
    let length = u16::try_from(8 + payload_len).unwrap();
    let mut datagram = UdpHeader { source_port: 1000, destination_port: 2000, length, checksum: 0 }
        .to_bytes()
        .to_vec();
    datagram.extend((0..payload_len).map(|index| u8::try_from(index % 251).unwrap()));
    datagram
}

fn causes() -> impl Strategy<Value = ErrorCause> {
    prop_oneof![
        Just(ErrorCause::HopLimitExceeded),
        Just(ErrorCause::ReassemblyTimeExceeded),
        Just(ErrorCause::NoRoute),
        Just(ErrorCause::AddressUnreachable),
        Just(ErrorCause::PortUnreachable),
        Just(ErrorCause::AdministrativelyProhibited),
        Just(ErrorCause::SourceRefused),
        any::<u32>().prop_map(|mtu| ErrorCause::TooBig { mtu }),
        any::<u32>().prop_map(|pointer| ErrorCause::HeaderField { pointer }),
        any::<u32>().prop_map(|pointer| ErrorCause::UnknownProtocol { pointer }),
    ]
}

proptest! {
    #[test]
    fn an_ipv4_error_is_valid_and_quotes_what_fits(
        cause in causes(),
        payload_len in 0..1400_usize,
    ) {
        let packet = ipv4(SOURCE4, DESTINATION4, IpProtocol::UDP, &udp(payload_len));
        let mut padded = packet.clone();
        padded.extend([0xee; 10]);
        let reply = ErrorReply::new(&padded, NODE, cause).unwrap();
        let mut out = [0; 600];
        let length = reply.write(GATEWAY4.into(), &mut out).unwrap();
        prop_assert_eq!(length, (packet.len() + 28).min(IPV4_ERROR_BYTES_MAX));
        prop_assert_eq!(reply.destination(), IpAddr::V4(SOURCE4));

        let (ip, message) = Ipv4View::parse(&out[..length]).unwrap();
        prop_assert_eq!(ip.verify_checksum(), Ok(()));
        prop_assert_eq!((ip.source(), ip.destination()), (GATEWAY4, SOURCE4));
        prop_assert_eq!((ip.protocol(), ip.ttl()), (IpProtocol::ICMP, 64));
        let (icmp, body) = IcmpView::parse(message).unwrap();
        prop_assert_eq!(icmp.verify_checksum(Sum::of(body)), Ok(()));
        prop_assert_eq!((icmp.kind(), icmp.code(), icmp.rest_of_header()), cause.icmp());
        prop_assert_eq!(body, &packet[..length - 28]);
        let quoted = QuotedView::parse_icmp(&icmp, body).unwrap();
        prop_assert_eq!(quoted.flow(), QuotedFlow::Ports { source: 1000, destination: 2000 });

        // An error is never the cause of another one.
        prop_assert_eq!(
            ErrorReply::new(&out[..length], NODE, cause).unwrap_err(),
            NotAnswerable::IsIcmpError
        );
    }

    #[test]
    fn an_ipv6_error_is_valid_and_quotes_what_fits(
        cause in causes(),
        payload_len in 0..1400_usize,
    ) {
        let packet = ipv6(SOURCE6, DESTINATION6, IpProtocol::UDP, &udp(payload_len));
        let mut padded = packet.clone();
        padded.extend([0xee; 10]);
        let reply = ErrorReply::new(&padded, NODE, cause).unwrap();
        let mut out = [0; 1300];
        let length = reply.write(GATEWAY6.into(), &mut out).unwrap();
        prop_assert_eq!(length, (packet.len() + 48).min(IPV6_ERROR_BYTES_MAX));

        let (ip, message) = Ipv6View::parse(&out[..length]).unwrap();
        prop_assert_eq!((ip.source(), ip.destination()), (GATEWAY6, SOURCE6));
        prop_assert_eq!((ip.next_header(), ip.hop_limit()), (IpProtocol::ICMPV6, 64));
        let (icmp, body) = Icmpv6View::parse(message).unwrap();
        let pseudo_header =
            ip.pseudo_header(IpProtocol::ICMPV6, u32::try_from(message.len()).unwrap());
        prop_assert_eq!(icmp.verify_checksum(pseudo_header, Sum::of(body)), Ok(()));
        prop_assert_eq!((icmp.kind(), icmp.code(), icmp.rest_of_header()), cause.icmpv6());
        prop_assert_eq!(body, &packet[..length - 48]);
        let quoted = QuotedView::parse_icmpv6(&icmp, body).unwrap();
        prop_assert_eq!(quoted.flow(), QuotedFlow::Ports { source: 1000, destination: 2000 });

        prop_assert_eq!(
            ErrorReply::new(&out[..length], NODE, cause).unwrap_err(),
            NotAnswerable::IsIcmpError
        );
    }

    #[test]
    fn etherparse_reads_the_errors(payload_len in 0..600_usize, mtu in 68..=65_535_u16) {
        use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, icmpv4};
        let cause = ErrorCause::TooBig { mtu: mtu.into() };
        let mut out = [0; 1280];
        let packet = ipv4(SOURCE4, DESTINATION4, IpProtocol::UDP, &udp(payload_len));
        let reply = ErrorReply::new(&packet, NODE, cause).unwrap();
        let length = reply.write(GATEWAY4.into(), &mut out).unwrap();
        let oracle = Icmpv4Slice::from_slice(&out[20..length]).unwrap();
        let expected = Icmpv4Type::DestinationUnreachable(
            icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu });
        prop_assert_eq!(oracle.icmp_type(), expected);

        let packet = ipv6(SOURCE6, DESTINATION6, IpProtocol::UDP, &udp(payload_len));
        let reply = ErrorReply::new(&packet, NODE, cause).unwrap();
        let length = reply.write(GATEWAY6.into(), &mut out).unwrap();
        let oracle = Icmpv6Slice::from_slice(&out[40..length]).unwrap();
        prop_assert_eq!(oracle.icmp_type(), Icmpv6Type::PacketTooBig { mtu: mtu.into() });
        prop_assert!(oracle.is_checksum_valid(GATEWAY6.octets(), SOURCE6.octets()));
    }

    #[test]
    fn the_first_segment_of_a_chain_is_quoted_as_far_as_it_goes(cut in 28..600_usize) {
        let packet = ipv4(SOURCE4, DESTINATION4, IpProtocol::UDP, &udp(1400));
        let reply = ErrorReply::new(&packet[..cut], NODE, ErrorCause::NoRoute).unwrap();
        prop_assert_eq!(reply.packet_len(), (cut + 28).min(576));
        let packet = ipv6(SOURCE6, DESTINATION6, IpProtocol::UDP, &udp(1400));
        let reply = ErrorReply::new(&packet[..cut + 20], NODE, ErrorCause::NoRoute).unwrap();
        prop_assert_eq!(reply.packet_len(), cut + 20 + 48);
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>, cause in causes()) {
        let mut out = [0; 1280];
        let packets = [
            bytes.clone(),
            ipv4(SOURCE4, DESTINATION4, IpProtocol::ICMP, &bytes),
            ipv6(SOURCE6, DESTINATION6, IpProtocol::HOP_BY_HOP, &bytes),
        ];
        for packet in &packets {
            if let Ok(reply) = ErrorReply::new(packet, NODE, cause) {
                let _ = reply.write(GATEWAY4.into(), &mut out);
                let _ = reply.write(GATEWAY6.into(), &mut out);
            }
        }
    }
}

fn refusal4(source: Ipv4Addr, destination: Ipv4Addr) -> Option<NotAnswerable> {
    let packet = ipv4(source, destination, IpProtocol::UDP, &udp(10));
    ErrorReply::new(&packet, NODE, ErrorCause::NoRoute).err()
}

fn refusal6(source: Ipv6Addr, destination: Ipv6Addr, cause: ErrorCause) -> Option<NotAnswerable> {
    let packet = ipv6(source, destination, IpProtocol::UDP, &udp(10));
    ErrorReply::new(&packet, NODE, cause).err()
}

#[test]
fn no_error_about_packets_to_groups() {
    for destination in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
        let refused = NotAnswerable::DestinationIsGroup { destination: destination.into() };
        assert_eq!(refusal4(SOURCE4, destination), Some(refused));
    }
    let group: Ipv6Addr = "ff02::1".parse().unwrap();
    let refused = NotAnswerable::DestinationIsGroup { destination: group.into() };
    assert_eq!(refusal6(SOURCE6, group, ErrorCause::NoRoute), Some(refused));
    // Path MTU discovery is the exception.
    assert_eq!(refusal6(SOURCE6, group, ErrorCause::TooBig { mtu: 1280 }), None);
}

#[test]
fn no_error_about_frames_to_groups() {
    let packet4 = ipv4(SOURCE4, DESTINATION4, IpProtocol::UDP, &udp(10));
    let packet6 = ipv6(SOURCE6, DESTINATION6, IpProtocol::UDP, &udp(10));
    for destination in [MacAddress::BROADCAST, MacAddress::new([0x33, 0x33, 0, 0, 0, 1])] {
        let refused = NotAnswerable::FrameToGroup { destination };
        for packet in [&packet4, &packet6] {
            let reply = ErrorReply::new(packet, destination, ErrorCause::NoRoute);
            assert_eq!(reply.unwrap_err(), refused);
        }
        let too_big = ErrorCause::TooBig { mtu: 1280 };
        assert_eq!(ErrorReply::new(&packet4, destination, too_big).unwrap_err(), refused);
        assert!(ErrorReply::new(&packet6, destination, too_big).is_ok());
    }
}

#[test]
fn no_error_to_a_source_that_is_not_one_node() {
    let sources = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"];
    for source in sources.map(|source| source.parse::<Ipv4Addr>().unwrap()) {
        let refused = NotAnswerable::SourceIsNoNode { source_address: source.into() };
        assert_eq!(refusal4(source, DESTINATION4), Some(refused));
    }
    for source in ["::", "::1", "ff02::1"].map(|source| source.parse::<Ipv6Addr>().unwrap()) {
        let refused = NotAnswerable::SourceIsNoNode { source_address: source.into() };
        assert_eq!(refusal6(source, DESTINATION6, ErrorCause::NoRoute), Some(refused));
    }
}

#[test]
fn no_error_about_later_fragments() {
    let mut packet = ipv4(SOURCE4, DESTINATION4, IpProtocol::UDP, &udp(10));
    let fragment = |packet: &mut Vec<u8>, word: [u8; 2]| {
        packet[6..8].copy_from_slice(&word);
        packet[10..12].fill(0);
        let checksum = Sum::of(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    };
    fragment(&mut packet, [0x20, 0]);
    assert!(ErrorReply::new(&packet, NODE, ErrorCause::NoRoute).is_ok());
    fragment(&mut packet, [0x20, 1]);
    assert_eq!(
        ErrorReply::new(&packet, NODE, ErrorCause::NoRoute).unwrap_err(),
        NotAnswerable::NotFirstFragment { offset_bytes: 8 }
    );
    // Over IPv6 only if it may be part of an error.
    let payload = |next| [next, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0];
    let packet = ipv6(SOURCE6, DESTINATION6, IpProtocol::FRAGMENT, &payload(17));
    assert!(ErrorReply::new(&packet, NODE, ErrorCause::NoRoute).is_ok());
    let packet = ipv6(SOURCE6, DESTINATION6, IpProtocol::FRAGMENT, &payload(58));
    assert_eq!(
        ErrorReply::new(&packet, NODE, ErrorCause::NoRoute).unwrap_err(),
        NotAnswerable::NotFirstFragment { offset_bytes: 8 }
    );
}

#[test]
fn only_known_queries_among_icmp_messages_are_answered() {
    for kind in 0..=255_u8 {
        let message = [kind, 0, 0, 0, 0, 0, 0, 0];
        let packet = ipv4(SOURCE4, DESTINATION4, IpProtocol::ICMP, &message);
        let is_query = matches!(kind, 0 | 8..=10 | 13..=18 | 42 | 43);
        let reply = ErrorReply::new(&packet, NODE, ErrorCause::HopLimitExceeded);
        assert_eq!(reply.is_ok(), is_query, "ICMP type {kind}");
        let packet = ipv6(SOURCE6, DESTINATION6, IpProtocol::ICMPV6, &message);
        let is_answered = kind >= 128 && kind != 137;
        let reply = ErrorReply::new(&packet, NODE, ErrorCause::HopLimitExceeded);
        assert_eq!(reply.is_ok(), is_answered, "ICMPv6 type {kind}");
    }
}

#[test]
fn no_error_about_a_malformed_packet() {
    let mut packet = ipv4(SOURCE4, DESTINATION4, IpProtocol::UDP, &udp(10));
    packet[8] = 63;
    let error = ErrorReply::new(&packet, NODE, ErrorCause::NoRoute).unwrap_err();
    assert!(matches!(error, NotAnswerable::Malformed(ParseError::ChecksumMismatch { .. })));
    for length in 0..20 {
        assert!(ErrorReply::new(&packet[..length], NODE, ErrorCause::NoRoute).is_err());
    }
}

#[test]
fn an_error_has_one_family_and_fits_its_buffer() {
    let packet = ipv4(SOURCE4, DESTINATION4, IpProtocol::UDP, &udp(10));
    let reply = ErrorReply::new(&packet, NODE, ErrorCause::NoRoute).unwrap();
    let mixed = WriteErrorReplyError::MixedFamilies { from: GATEWAY6.into(), to: SOURCE4.into() };
    assert_eq!(reply.write(GATEWAY6.into(), &mut [0; 576]), Err(mixed));
    let needed = reply.packet_len();
    for actual in 0..needed {
        let mut out = vec![0xee; actual];
        let error = WriteErrorReplyError::from(BufferTooSmall { needed, actual });
        assert_eq!(reply.write(GATEWAY4.into(), &mut out), Err(error));
        assert!(out.iter().all(|byte| *byte == 0xee));
    }
}

#[test]
fn an_mtu_and_a_pointer_that_do_not_fit_icmp_saturate() {
    assert_eq!(ErrorCause::TooBig { mtu: 70_000 }.icmp().2, [0, 0, 0xff, 0xff]);
    assert_eq!(ErrorCause::HeaderField { pointer: 300 }.icmp().2, [0xff, 0, 0, 0]);
}
