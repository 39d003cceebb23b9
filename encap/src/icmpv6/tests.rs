use std::net::Ipv6Addr;
use std::vec::Vec;

use etherparse::{IcmpEchoHeader, Icmpv6Header, Icmpv6Type as OracleType};
use proptest::prelude::*;

use super::*;
use crate::ip::IpProtocol;

proptest! {
    #[test]
    fn etherparses_echoes_are_read_and_answered(
        addresses: ([u8; 16], [u8; 16]), id: u16, seq: u16,
        data in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let kind = OracleType::EchoRequest(IcmpEchoHeader { id, seq });
        let header = Icmpv6Header::with_checksum(kind, addresses.0, addresses.1, &data).unwrap();
        let mut message = header.to_bytes().to_vec();
        message.extend(&data);
        let length = u32::try_from(message.len()).unwrap();
        let pseudo_header = |source: [u8; 16], destination: [u8; 16]| Sum::of_ipv6_pseudo_header(
            Ipv6Addr::from(source), Ipv6Addr::from(destination), IpProtocol::ICMPV6, length);
        let (view, body) = Icmpv6View::parse(&message).unwrap();
        prop_assert_eq!(body, &data[..]);
        prop_assert_eq!((view.kind(), view.code()), (Icmpv6Type::ECHO_REQUEST, 0));
        prop_assert_eq!((view.echo_id(), view.echo_sequence()), (Some(id), Some(seq)));
        let there = pseudo_header(addresses.0, addresses.1);
        prop_assert_eq!(view.verify_checksum(there, Sum::of(body)), Ok(()));

        Icmpv6Mut::parse(&mut message).unwrap().make_echo_reply().unwrap();
        let (view, body) = Icmpv6View::parse(&message).unwrap();
        prop_assert_eq!(view.kind(), Icmpv6Type::ECHO_REPLY);
        prop_assert_eq!((view.echo_id(), view.echo_sequence()), (Some(id), Some(seq)));
        let back = pseudo_header(addresses.1, addresses.0);
        prop_assert_eq!(view.verify_checksum(back, Sum::of(body)), Ok(()));
        let kind = OracleType::EchoReply(IcmpEchoHeader { id, seq });
        let expected =
            Icmpv6Header::with_checksum(kind, addresses.1, addresses.0, &data).unwrap();
        prop_assert_eq!(view.checksum(), expected.checksum);

        let error = view.verify_checksum(back.add(Sum::of_u16(1)), Sum::of(body)).unwrap_err();
        prop_assert!(
            matches!(error, ParseError::ChecksumMismatch { layer: Layer::Icmpv6, .. }),
            "{error}"
        );
    }

    #[test]
    fn noise_never_panics(mut bytes: Vec<u8>) {
        if let Ok((view, body)) = Icmpv6View::parse(&bytes) {
            let _ = view.verify_checksum(Sum::ZERO, Sum::of(body));
            let _ = (view.next_hop_mtu(), view.echo_id());
        }
        if let Ok(mut icmp) = Icmpv6Mut::parse(&mut bytes) {
            let _ = icmp.make_echo_reply();
        }
    }
}

#[test]
fn only_an_echo_request_is_answered() {
    for kind in (0..=255).filter(|kind| *kind != 128) {
        let mut message = [kind, 0, 1, 2, 3, 4, 5, 6];
        let error = ParseError::TypeMismatch { layer: Layer::Icmpv6, actual: kind };
        assert_eq!(Icmpv6Mut::parse(&mut message).unwrap().make_echo_reply(), Err(error));
        assert_eq!(message, [kind, 0, 1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn types_fall_into_their_classes() {
    let class = |holds: fn(Icmpv6Type) -> bool| -> Vec<u8> {
        (0..=255).filter(|kind| holds(Icmpv6Type(*kind))).collect()
    };
    assert_eq!(class(Icmpv6Type::is_error), (0..128).collect::<Vec<u8>>());
    assert_eq!(class(Icmpv6Type::is_query), [128, 129]);
    assert_eq!(class(Icmpv6Type::is_request), [128]);
    assert_eq!(class(Icmpv6Type::is_neighbour_discovery), [133, 134, 135, 136, 137]);
    assert_eq!(class(Icmpv6Type::is_listener_discovery), [130, 131, 132, 143]);
}

#[test]
fn only_packet_too_big_has_an_mtu() {
    let mtu = |kind| {
        let message = [kind, 0, 0, 0, 0, 1, 0x05, 0x78];
        Icmpv6View::parse(&message).unwrap().0.next_hop_mtu()
    };
    assert_eq!(mtu(2), Some(0x0001_0578));
    assert_eq!(mtu(1), None);
}

#[test]
fn a_header_truncated_anywhere_is_refused() {
    let mut message = [0; Icmpv6View::LEN];
    for actual in 0..Icmpv6View::LEN {
        let error = ParseError::Truncated { layer: Layer::Icmpv6, needed: 8, actual };
        assert_eq!(Icmpv6View::parse(&message[..actual]).unwrap_err(), error);
        assert_eq!(Icmpv6Mut::parse(&mut message[..actual]).unwrap_err(), error);
    }
}
