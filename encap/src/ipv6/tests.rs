use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

fn header() -> impl Strategy<Value = Ipv6Header> {
    (any::<(u8, u16, u8, u8)>(), 0..1_u32 << 20, any::<([u8; 16], [u8; 16])>()).prop_map(
        |((class, payload_length, next_header, hop_limit), flow_label, (source, destination))| {
            Ipv6Header {
                traffic_class: TrafficClass(class),
                flow_label,
                payload_length,
                next_header: IpProtocol(next_header),
                hop_limit,
                source: source.into(),
                destination: destination.into(),
            }
        },
    )
}

fn extension_number() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(43), Just(44), Just(51), Just(60)]
}

/// One extension header: its number and its bytes, whose first is to be set by the next.
fn extension() -> impl Strategy<Value = (u8, Vec<u8>)> {
    prop_oneof![
        (prop_oneof![Just(43_u8), Just(60)], 0..4_u8).prop_map(|(number, units)| {
            let mut bytes = vec![0; usize::from(units) * 8 + 8];
            bytes[1] = units;
            (number, bytes)
        }),
        (1..6_u8).prop_map(|units| {
            let mut bytes = vec![0; usize::from(units) * 4 + 8];
            bytes[1] = units;
            (51, bytes)
        }),
    ]
}

/// A chain of extension headers that leads to `last`: the first number, and the bytes.
fn chain(extensions: &[(u8, Vec<u8>)], last: u8) -> (IpProtocol, Vec<u8>) {
    let mut bytes = Vec::new();
    for (index, (_, extension)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(last, |(number, _)| *number);
        bytes.push(next);
        bytes.extend(&extension[1..]);
    }
    (IpProtocol(extensions.first().map_or(last, |(number, _)| *number)), bytes)
}

fn fragment_header(offset_bytes: u16, has_more: bool) -> (u8, Vec<u8>) {
    let [high, low] = (offset_bytes | u16::from(has_more)).to_be_bytes();
    (44, vec![0, 0, high, low, 0xde, 0xad, 0xbe, 0xef])
}

proptest! {
    #[test]
    fn a_header_round_trips(header in header()) {
        let bytes = header.to_bytes();
        let (view, rest) = Ipv6View::parse_header(&bytes).unwrap();
        prop_assert!(rest.is_empty());
        let again = Ipv6Header {
            traffic_class: view.traffic_class(),
            flow_label: view.flow_label(),
            payload_length: u16::try_from(view.payload_len()).unwrap(),
            next_header: view.next_header(),
            hop_limit: view.hop_limit(),
            source: view.source(),
            destination: view.destination(),
        };
        prop_assert_eq!(again, header);
    }

    #[test]
    fn etherparse_writes_the_same_bytes(header in header()) {
        let oracle = etherparse::Ipv6Header {
            traffic_class: header.traffic_class.0,
            flow_label: header.flow_label.try_into().unwrap(),
            payload_length: header.payload_length,
            next_header: etherparse::IpNumber(header.next_header.0),
            hop_limit: header.hop_limit,
            source: header.source.octets(),
            destination: header.destination.octets(),
        };
        prop_assert_eq!(header.to_bytes(), oracle.to_bytes());
    }

    #[test]
    fn a_packet_truncated_anywhere_is_refused(
        header in header(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let length = u16::try_from(payload.len()).unwrap();
        let mut packet = Ipv6Header { payload_length: length, ..header }.to_bytes().to_vec();
        packet.extend(&payload);
        prop_assert_eq!(Ipv6View::parse(&packet).unwrap().1, &payload[..]);
        for length in 0..packet.len() {
            prop_assert!(Ipv6View::parse(&packet[..length]).is_err(), "{length}");
        }
        // The first segment of a chain may hold less.
        let (view, first) = Ipv6View::parse_chained(&packet[..40], packet.len()).unwrap();
        prop_assert!(first.is_empty());
        prop_assert_eq!(view.payload_len(), payload.len());
        // Padding is cut off.
        packet.extend([0; 6]);
        prop_assert_eq!(Ipv6View::parse(&packet).unwrap().1, &payload[..]);
    }

    #[test]
    fn noise_never_panics(bytes: Vec<u8>, first: u8, chain: usize) {
        let _ = Ipv6View::parse(&bytes);
        let _ = Ipv6View::parse_chained(&bytes, chain);
        if let Ok(walked) = walk(IpProtocol(first), &bytes) {
            prop_assert!(walked.header_bytes <= bytes.len());
        }
    }

    #[test]
    fn noise_in_extension_headers_never_panics(
        bytes in prop::collection::vec(prop_oneof![extension_number(), 0..3_u8], 0..200),
        first in extension_number(),
    ) {
        if let Ok(walked) = walk(IpProtocol(first), &bytes) {
            prop_assert!(walked.header_bytes <= bytes.len());
        }
    }

    #[test]
    fn a_chain_leads_to_the_upper_layer(
        has_hop_by_hop: bool,
        mut extensions in prop::collection::vec(extension(), 0..7),
        last in prop_oneof![Just(6_u8), Just(17), Just(58), Just(59), Just(132)],
        tail in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        if has_hop_by_hop {
            extensions.insert(0, (0, vec![0; 8]));
        }
        let (first, mut bytes) = chain(&extensions, last);
        let header_bytes = bytes.len();
        bytes.extend(tail);
        let walked = walk(first, &bytes).unwrap();
        let expected = Walked { protocol: IpProtocol(last), header_bytes, fragment: None };
        prop_assert_eq!(walked, expected);
        // Cut inside the extension headers, it leads nowhere.
        for length in 0..header_bytes {
            prop_assert!(walk(first, &bytes[..length]).is_err(), "{}", length);
        }
    }

    #[test]
    fn edits_change_only_their_field(
        header in header(), class: u8, source: [u8; 16], destination: [u8; 16],
    ) {
        let mut bytes = header.to_bytes();
        let mut ip = Ipv6Mut::parse(&mut bytes).unwrap();
        ip.set_traffic_class(TrafficClass(class));
        ip.set_source(source.into());
        ip.set_destination(destination.into());
        let hop_limit = ip.decrement_hop_limit().unwrap_or(header.hop_limit);
        let expected = Ipv6Header {
            traffic_class: TrafficClass(class),
            source: source.into(),
            destination: destination.into(),
            hop_limit,
            ..header
        };
        prop_assert_eq!(bytes, expected.to_bytes());
        let is_forwarded = header.hop_limit > 1;
        prop_assert_eq!(hop_limit, header.hop_limit - u8::from(is_forwarded));
    }

    #[test]
    fn the_pseudo_header_is_that_of_the_addresses(header in header(), protocol: u8, length: u32) {
        let bytes = header.to_bytes();
        let (view, _) = Ipv6View::parse_header(&bytes).unwrap();
        let protocol = IpProtocol(protocol);
        prop_assert_eq!(
            view.pseudo_header(protocol, length),
            Sum::of_ipv6_pseudo_header(header.source, header.destination, protocol, length)
        );
    }
}

#[test]
fn a_chain_of_eight_is_walked_and_one_of_nine_is_refused() {
    let destination_options = (60, vec![0; 8]);
    let (first, bytes) = chain(&vec![destination_options.clone(); 8], 17);
    assert_eq!(walk(first, &bytes).unwrap().protocol, IpProtocol::UDP);
    let (first, bytes) = chain(&vec![destination_options; 9], 17);
    let error = ParseError::TooManyExtensionHeaders { limit: EXTENSION_HEADERS_MAX };
    assert_eq!(walk(first, &bytes), Err(error));
}

#[test]
fn a_first_fragment_is_walked_through_and_a_later_one_is_not() {
    let options = (60, vec![0; 8]);
    let (first, bytes) = chain(&[fragment_header(0, true), options.clone()], 17);
    let fragment = Fragment { identification: 0xdead_beef, offset_bytes: 0, has_more: true };
    let expected = Walked { protocol: IpProtocol::UDP, header_bytes: 16, fragment: Some(fragment) };
    assert_eq!(walk(first, &bytes), Ok(expected));

    let (first, bytes) = chain(&[fragment_header(1280, false), options], 17);
    let fragment = Fragment { identification: 0xdead_beef, offset_bytes: 1280, has_more: false };
    let expected = Walked {
        protocol: IpProtocol::DESTINATION_OPTIONS,
        header_bytes: 8,
        fragment: Some(fragment),
    };
    assert_eq!(walk(first, &bytes), Ok(expected));
}

#[test]
fn an_atomic_fragment_is_a_fragment() {
    let (first, bytes) = chain(&[fragment_header(0, false)], 6);
    let fragment = Fragment { identification: 0xdead_beef, offset_bytes: 0, has_more: false };
    assert_eq!(walk(first, &bytes).unwrap().fragment, Some(fragment));
}

#[test]
fn a_second_fragment_header_and_late_hop_by_hop_options_end_the_chain() {
    let (first, bytes) = chain(&[fragment_header(0, true), fragment_header(0, true)], 17);
    let walked = walk(first, &bytes).unwrap();
    assert_eq!((walked.protocol, walked.header_bytes), (IpProtocol::FRAGMENT, 8));

    let (first, bytes) = chain(&[(60, vec![0; 8]), (0, vec![0; 8])], 17);
    let walked = walk(first, &bytes).unwrap();
    assert_eq!((walked.protocol, walked.header_bytes), (IpProtocol::HOP_BY_HOP, 8));
}

#[test]
fn other_versions_are_refused() {
    for version in (0..16).filter(|version| *version != 6) {
        let mut bytes = [version << 4; 40];
        let error = ParseError::VersionMismatch { layer: Layer::Ipv6, actual: version };
        assert_eq!(Ipv6View::parse(&bytes).unwrap_err(), error);
        assert_eq!(Ipv6Mut::parse(&mut bytes).unwrap_err(), error);
    }
}

#[test]
fn a_hop_limit_of_one_or_zero_is_not_decremented() {
    for (hop_limit, result) in [
        (0, Err(HopLimitExceeded { actual: 0 })),
        (1, Err(HopLimitExceeded { actual: 1 })),
        (2, Ok(1)),
    ] {
        let mut bytes = [0; 40];
        bytes[0] = 0x60;
        bytes[7] = hop_limit;
        assert_eq!(Ipv6Mut::parse(&mut bytes).unwrap().decrement_hop_limit(), result);
        assert_eq!(bytes[7], result.unwrap_or(hop_limit));
    }
}
