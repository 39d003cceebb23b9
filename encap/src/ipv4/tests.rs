use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::ecn::Ecn;

fn header() -> impl Strategy<Value = Ipv4Header> {
    (any::<(u8, u16, u16, bool)>(), any::<(u8, u8, [u8; 4], [u8; 4])>()).prop_map(
        |((class, length, identification, dont_fragment), (ttl, protocol, source, destination))| {
            Ipv4Header {
                traffic_class: TrafficClass(class),
                total_length: length.max(20),
                identification,
                dont_fragment,
                ttl,
                protocol: IpProtocol(protocol),
                source: source.into(),
                destination: destination.into(),
            }
        },
    )
}

/// A header with options and a payload, lengths and checksum right.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    (header(), 0..=10_usize, prop::collection::vec(any::<u8>(), 0..100)).prop_map(
        |(header, option_words, payload)| {
            let length = 20 + option_words * 4 + payload.len();
            let header = Ipv4Header { total_length: u16::try_from(length).unwrap(), ..header };
            let mut packet = header.to_bytes().to_vec();
            packet.extend((0..option_words * 4).map(|index| u8::try_from(index).unwrap()));
            packet[0] = 0x45 + u8::try_from(option_words).unwrap();
            packet[10..12].fill(0);
            let checksum = Sum::of(&packet).checksum();
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            packet.extend(payload);
            packet
        },
    )
}

proptest! {
    #[test]
    fn a_header_round_trips(header in header()) {
        let bytes = header.to_bytes();
        let (view, rest) = Ipv4View::parse_header(&bytes).unwrap();
        prop_assert!(rest.is_empty() && view.options().is_empty());
        prop_assert_eq!(view.verify_checksum(), Ok(()));
        prop_assert_eq!(view.fragment(), None);
        let again = Ipv4Header {
            traffic_class: view.traffic_class(),
            total_length: view.total_length(),
            identification: view.identification(),
            dont_fragment: view.is_dont_fragment(),
            ttl: view.ttl(),
            protocol: view.protocol(),
            source: view.source(),
            destination: view.destination(),
        };
        prop_assert_eq!(again, header);
    }

    #[test]
    fn etherparse_reads_the_same_fields(packet in packet()) {
        let (view, payload) = Ipv4View::parse(&packet).unwrap();
        let (oracle, rest) = etherparse::Ipv4Header::from_slice(&packet).unwrap();
        prop_assert_eq!(view.header_len(), oracle.header_len());
        prop_assert_eq!(view.options(), oracle.options.as_slice());
        prop_assert_eq!(view.traffic_class().dscp().value(), oracle.dscp.value());
        prop_assert_eq!(view.traffic_class().ecn() as u8, oracle.ecn.value());
        prop_assert_eq!(view.total_length(), oracle.total_len);
        prop_assert_eq!(view.ttl(), oracle.time_to_live);
        prop_assert_eq!(view.protocol().0, oracle.protocol.0);
        prop_assert_eq!(view.source().octets(), oracle.source);
        prop_assert_eq!(view.destination().octets(), oracle.destination);
        prop_assert_eq!(view.checksum(), oracle.calc_header_checksum());
        prop_assert_eq!(payload, rest);
        prop_assert_eq!(view.payload_len(), payload.len());
    }

    #[test]
    fn a_packet_truncated_anywhere_is_refused(packet in packet()) {
        for length in 0..packet.len() {
            prop_assert!(Ipv4View::parse(&packet[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn padding_is_cut_off(
        mut packet in packet(),
        padding in prop::collection::vec(any::<u8>(), 0..46),
    ) {
        let length = packet.len();
        packet.extend(padding);
        let (view, payload) = Ipv4View::parse(&packet).unwrap();
        prop_assert_eq!(view.header_len() + payload.len(), length);
    }

    #[test]
    fn a_chain_is_measured_as_a_whole(packet in packet(), cut: prop::sample::Index) {
        let header_len = usize::from(packet[0] & 0xf) * 4;
        let cut = header_len + cut.index(packet.len() - header_len + 1);
        let (view, payload) = Ipv4View::parse_chained(&packet[..cut], packet.len()).unwrap();
        prop_assert_eq!(payload, &packet[view.header_len()..cut]);
        prop_assert_eq!(view.payload_len(), packet.len() - header_len);
        prop_assert!(Ipv4View::parse_chained(&packet[..cut], packet.len() - 1).is_err());
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>, chain: usize) {
        let _ = Ipv4View::parse(&bytes);
        let _ = Ipv4View::parse_chained(&bytes, chain);
        if let Ok((view, _)) = Ipv4View::parse_header(&bytes) {
            let _ = (view.verify_checksum(), view.pseudo_header(), view.fragment());
        }
    }

    #[test]
    fn noise_behind_a_good_first_byte_never_panics(
        mut bytes in prop::collection::vec(any::<u8>(), 20..80),
    ) {
        bytes[0] = 0x40 | (bytes[0] & 0xf);
        if let Ok((view, payload)) = Ipv4View::parse(&bytes) {
            prop_assert!(view.header_len() + payload.len() <= bytes.len());
        }
    }

    #[test]
    fn edits_keep_the_checksum_right(
        packet in packet(), class: u8, source: [u8; 4], destination: [u8; 4],
    ) {
        let mut edited = packet.clone();
        let mut ip = Ipv4Mut::parse(&mut edited).unwrap();
        ip.set_traffic_class(TrafficClass(class));
        ip.set_source(source.into());
        ip.set_destination(destination.into());
        let ttl = ip.decrement_ttl();
        let (view, _) = Ipv4View::parse(&edited).unwrap();
        prop_assert_eq!(view.traffic_class(), TrafficClass(class));
        prop_assert_eq!(view.source().octets(), source);
        prop_assert_eq!(view.destination().octets(), destination);
        match ttl {
            Ok(ttl) => prop_assert_eq!((view.ttl(), packet[8] - 1), (ttl, ttl)),
            Err(error) => prop_assert_eq!((error.actual, view.ttl()), (packet[8], packet[8])),
        }
        // Not merely valid: the very checksum that a full computation gives.
        let mut zeroed = edited[..view.header_len()].to_vec();
        zeroed[10..12].fill(0);
        prop_assert_eq!(view.checksum(), Sum::of(&zeroed).checksum());
    }

    #[test]
    fn one_flipped_bit_breaks_the_checksum(mut packet in packet(), bit in 8..160_usize) {
        // The first byte is left alone: it says where the header ends.
        packet[bit / 8] ^= 1 << (bit % 8);
        if let Ok((view, _)) = Ipv4View::parse_header(&packet) {
            let error = view.verify_checksum().unwrap_err();
            prop_assert!(
                matches!(error, ParseError::ChecksumMismatch { layer: Layer::Ipv4, .. }),
                "{error}"
            );
        }
    }
}

#[test]
fn a_ttl_of_one_or_zero_is_not_decremented() {
    for (ttl, result) in [
        (0, Err(HopLimitExceeded { actual: 0 })),
        (1, Err(HopLimitExceeded { actual: 1 })),
        (2, Ok(1)),
    ] {
        let mut bytes = [0; 20];
        bytes[0] = 0x45;
        bytes[8] = ttl;
        assert_eq!(Ipv4Mut::parse(&mut bytes).unwrap().decrement_ttl(), result);
        assert_eq!(bytes[8], result.unwrap_or(ttl));
    }
}

#[test]
fn a_wrong_checksum_is_told_with_the_right_one() {
    let header = Ipv4Header {
        traffic_class: TrafficClass::new(crate::ecn::Dscp::default(), Ecn::Ect0),
        total_length: 20,
        identification: 1,
        dont_fragment: false,
        ttl: 64,
        protocol: IpProtocol::UDP,
        source: Ipv4Addr::new(10, 0, 0, 1),
        destination: Ipv4Addr::new(10, 0, 0, 2),
    };
    let mut bytes = header.to_bytes();
    let computed = u16_at::<10, _>(&bytes);
    bytes[10] ^= 0xff;
    let found = computed ^ 0xff00;
    let (view, _) = Ipv4View::parse(&bytes).unwrap();
    let error = ParseError::ChecksumMismatch { layer: Layer::Ipv4, found, computed };
    assert_eq!(view.verify_checksum(), Err(error));
}

#[test]
fn contradictory_lengths_are_refused() {
    let mut bytes = [0; 64];
    bytes[3] = 64;
    for ihl in 0..5 {
        bytes[0] = 0x40 | ihl;
        let actual = usize::from(ihl) * 4;
        let error = ParseError::HeaderLengthTooSmall { layer: Layer::Ipv4, minimum: 20, actual };
        assert_eq!(Ipv4View::parse(&bytes).unwrap_err(), error);
    }
    bytes[0] = 0x46;
    bytes[3] = 23;
    let error = ParseError::LengthBelowHeader { layer: Layer::Ipv4, stated: 23, header: 24 };
    assert_eq!(Ipv4View::parse(&bytes).unwrap_err(), error);
    bytes[3] = 65;
    let error = ParseError::LengthBeyondPacket { layer: Layer::Ipv4, stated: 65, actual: 64 };
    assert_eq!(Ipv4View::parse(&bytes).unwrap_err(), error);
}

#[test]
fn other_versions_are_refused() {
    for version in (0..16).filter(|version| *version != 4) {
        let mut bytes = [version << 4 | 5; 20];
        let error = ParseError::VersionMismatch { layer: Layer::Ipv4, actual: version };
        assert_eq!(Ipv4View::parse(&bytes).unwrap_err(), error);
        assert_eq!(Ipv4Mut::parse(&mut bytes).unwrap_err(), error);
    }
}

#[test]
fn fragments_are_told_by_offset_and_more_flag() {
    let fragment = |word: u16| {
        let mut bytes = [0; 20];
        bytes[0] = 0x45;
        bytes[3] = 20;
        bytes[4..6].copy_from_slice(&[0x12, 0x34]);
        bytes[6..8].copy_from_slice(&word.to_be_bytes());
        Ipv4View::parse(&bytes).unwrap().0.fragment()
    };
    assert_eq!(fragment(0), None);
    assert_eq!(fragment(0x4000), None);
    let first = Fragment { identification: 0x1234, offset_bytes: 0, has_more: true };
    assert_eq!(fragment(0x2000), Some(first));
    assert!(first.is_first());
    let last = Fragment { identification: 0x1234, offset_bytes: 65_528, has_more: false };
    assert_eq!(fragment(0x1fff), Some(last));
    assert!(!last.is_first());
}
