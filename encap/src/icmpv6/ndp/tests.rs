use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{Icmpv6Packet, Icmpv6Repr, Ipv6Packet, NdiscNeighborFlags, NdiscRepr};

use super::*;

fn message() -> impl Strategy<Value = NeighbourMessage> {
    let kind = prop_oneof![
        Just(NeighbourMessageKind::Solicitation),
        any::<(bool, bool, bool)>().prop_map(|(is_router, is_solicited, is_override)| {
            NeighbourMessageKind::Advertisement { is_router, is_solicited, is_override }
        }),
    ];
    (any::<([u8; 16], [u8; 16], [u8; 16], [u8; 6])>(), kind).prop_map(
        |((source, destination, target, link_address), kind)| NeighbourMessage {
            source: source.into(),
            destination: destination.into(),
            target: target.into(),
            link_address: link_address.into(),
            kind,
        },
    )
}

/// The ICMPv6 message in a packet, its checksum verified.
fn icmp(packet: &[u8]) -> (Icmpv6View<'_>, &[u8]) {
    let (ip, payload) = Ipv6View::parse(packet).unwrap();
    assert_eq!((ip.next_header(), ip.hop_limit()), (IpProtocol::ICMPV6, HOP_LIMIT));
    let (icmp, body) = Icmpv6View::parse(payload).unwrap();
    let length = u32::try_from(payload.len()).unwrap();
    icmp.verify_checksum(ip.pseudo_header(IpProtocol::ICMPV6, length), Sum::of(body)).unwrap();
    (icmp, body)
}

proptest! {
    #[test]
    fn a_message_round_trips(message in message()) {
        let mut packet = [0; NeighbourMessage::PACKET_LEN];
        prop_assert_eq!(message.write_packet(&mut packet), Ok(72));
        let (ip, _) = Ipv6View::parse(&packet).unwrap();
        prop_assert_eq!((ip.source(), ip.destination()), (message.source, message.destination));
        let (icmp, body) = icmp(&packet);
        let view = NeighbourView::parse(icmp, body).unwrap();
        prop_assert_eq!(view.target(), message.target);
        match message.kind {
            NeighbourMessageKind::Solicitation => {
                prop_assert!(view.is_solicitation());
                prop_assert_eq!(view.source_link_address(), Some(message.link_address));
                prop_assert_eq!(view.target_link_address(), None);
            }
            NeighbourMessageKind::Advertisement { is_router, is_solicited, is_override } => {
                prop_assert!(!view.is_solicitation());
                prop_assert_eq!(view.target_link_address(), Some(message.link_address));
                prop_assert_eq!(view.source_link_address(), None);
                prop_assert_eq!(
                    (view.is_router(), view.is_solicited(), view.is_override()),
                    (is_router, is_solicited, is_override)
                );
            }
        }
        for length in 0..body.len() {
            if length != 16 {
                prop_assert!(NeighbourView::parse(icmp, &body[..length]).is_err(), "{}", length);
            }
        }
    }

    #[test]
    fn smoltcp_reads_what_we_write(message in message()) {
        let mut packet = [0; NeighbourMessage::PACKET_LEN];
        message.write_packet(&mut packet).unwrap();
        let ip = Ipv6Packet::new_checked(&packet[..]).unwrap();
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        let repr = Icmpv6Repr::parse(
            &ip.src_addr(), &ip.dst_addr(), &icmp, &ChecksumCapabilities::default()).unwrap();
        let link = message.link_address.octets();
        match (repr, message.kind) {
            (
                Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, lladdr }),
                NeighbourMessageKind::Solicitation,
            ) => {
                prop_assert_eq!(target_addr, message.target);
                prop_assert!(lladdr.unwrap().as_bytes() == link);
            }
            (
                Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }),
                NeighbourMessageKind::Advertisement { is_router, is_solicited, is_override },
            ) => {
                prop_assert_eq!(target_addr, message.target);
                prop_assert!(lladdr.unwrap().as_bytes() == link);
                prop_assert_eq!(flags.contains(NdiscNeighborFlags::ROUTER), is_router);
                prop_assert_eq!(flags.contains(NdiscNeighborFlags::SOLICITED), is_solicited);
                prop_assert_eq!(flags.contains(NdiscNeighborFlags::OVERRIDE), is_override);
            }
            (repr, kind) => panic!("{kind:?} was read as {repr:?}"),
        }
    }

    #[test]
    fn noise_never_panics(kind in 133..=137_u8, rest: [u8; 4], body: Vec<u8>) {
        let mut header = [kind, 0, 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&rest);
        let (icmp, _) = Icmpv6View::parse(&header).unwrap();
        if let Ok(view) = NeighbourView::parse(icmp, &body) {
            let _ = (view.source_link_address(), view.target_link_address());
        }
        if let Ok(view) = RouterSolicitationView::parse(icmp, &body) {
            let _ = view.source_link_address();
        }
        if let Ok(view) = RouterAdvertisementView::parse(icmp, &body) {
            let _ = view.source_link_address();
        }
    }
}

fn header(kind: Icmpv6Type, rest: [u8; 4]) -> Vec<u8> {
    let mut header = vec![kind.0, 0, 0, 0];
    header.extend(rest);
    header
}

#[test]
fn an_option_of_length_zero_is_refused() {
    let bytes = header(Icmpv6Type::NEIGHBOUR_SOLICITATION, [0; 4]);
    let (icmp, _) = Icmpv6View::parse(&bytes).unwrap();
    let mut body = [0; 24];
    body[16] = 1;
    let error = ParseError::OptionLengthZero { layer: Layer::Icmpv6 };
    assert_eq!(NeighbourView::parse(icmp, &body).unwrap_err(), error);
}

#[test]
fn an_address_behind_other_options_is_found() {
    let bytes = header(Icmpv6Type::ROUTER_SOLICITATION, [0; 4]);
    let (icmp, _) = Icmpv6View::parse(&bytes).unwrap();
    let mut body = vec![0; 32];
    body[..2].copy_from_slice(&[14, 2]);
    body[16..24].copy_from_slice(&[1, 1, 2, 3, 4, 5, 6, 7]);
    body[24..].copy_from_slice(&[1, 1, 9, 9, 9, 9, 9, 9]);
    let view = RouterSolicitationView::parse(icmp, &body).unwrap();
    assert_eq!(view.source_link_address(), Some(MacAddress::new([2, 3, 4, 5, 6, 7])));
    assert!(RouterSolicitationView::parse(icmp, &[]).unwrap().source_link_address().is_none());
}

#[test]
fn a_router_advertisement_is_read_field_by_field() {
    let bytes = header(Icmpv6Type::ROUTER_ADVERTISEMENT, [64, 0, 0x07, 0x08]);
    let (icmp, _) = Icmpv6View::parse(&bytes).unwrap();
    let body = [0, 0, 0x75, 0x30, 0, 0, 0x03, 0xe8, 1, 1, 2, 3, 4, 5, 6, 7];
    let view = RouterAdvertisementView::parse(icmp, &body).unwrap();
    assert_eq!((view.hop_limit(), view.router_lifetime_s()), (64, 1800));
    assert_eq!((view.reachable_ms(), view.retransmit_ms()), (30_000, 1000));
    assert_eq!(view.source_link_address(), Some(MacAddress::new([2, 3, 4, 5, 6, 7])));
    for length in (0..body.len()).filter(|length| *length != 8) {
        assert!(RouterAdvertisementView::parse(icmp, &body[..length]).is_err(), "{length}");
    }
}

#[test]
fn each_view_takes_only_its_own_types() {
    for kind in 0..=255 {
        let bytes = header(Icmpv6Type(kind), [0; 4]);
        let (icmp, _) = Icmpv6View::parse(&bytes).unwrap();
        let body = [0; 16];
        assert_eq!(NeighbourView::parse(icmp, &body).is_ok(), matches!(kind, 135 | 136));
        assert_eq!(RouterSolicitationView::parse(icmp, &[]).is_ok(), kind == 133);
        assert_eq!(RouterAdvertisementView::parse(icmp, &body[..8]).is_ok(), kind == 134);
    }
}

#[test]
fn a_question_goes_to_the_solicited_node_group() {
    let target = "fe80::2aa:ff:fe28:9c5a".parse().unwrap();
    let message =
        NeighbourMessage::solicitation(Ipv6Addr::LOCALHOST, target, MacAddress::new([2; 6]));
    assert_eq!(message.destination, "ff02::1:ff28:9c5a".parse::<Ipv6Addr>().unwrap());
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes_unsolicited() {
    let (asker, target) = ("fd00::2".parse().unwrap(), "fd00::1".parse().unwrap());
    let answer = NeighbourMessage::router_answer(asker, target, MacAddress::new([2; 6]));
    assert_eq!((answer.source, answer.destination), (target, asker));
    let kind = NeighbourMessageKind::Advertisement {
        is_router: true,
        is_solicited: true,
        is_override: true,
    };
    assert_eq!(answer.kind, kind);

    let answer =
        NeighbourMessage::router_answer(Ipv6Addr::UNSPECIFIED, target, MacAddress::new([2; 6]));
    assert_eq!(answer.destination, ALL_NODES);
    let kind = NeighbourMessageKind::Advertisement {
        is_router: true,
        is_solicited: false,
        is_override: true,
    };
    assert_eq!(answer.kind, kind);
}

#[test]
fn a_buffer_too_small_stays_untouched() {
    let message = NeighbourMessage::solicitation(
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::LOCALHOST,
        MacAddress::new([2; 6]),
    );
    for actual in 0..NeighbourMessage::PACKET_LEN {
        let mut packet = vec![0xee; actual];
        let error = BufferTooSmall { needed: 72, actual };
        assert_eq!(message.write_packet(&mut packet), Err(error));
        assert!(packet.iter().all(|byte| *byte == 0xee));
    }
}
