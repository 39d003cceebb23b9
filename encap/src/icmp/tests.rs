use std::vec::Vec;

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type};
use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn etherparses_echoes_are_read_and_answered(
        id: u16, seq: u16, data in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        let kind = Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq });
        let mut message = Icmpv4Header::with_checksum(kind, &data).to_bytes().to_vec();
        message.extend(&data);
        let (view, body) = IcmpView::parse(&message).unwrap();
        prop_assert_eq!(body, &data[..]);
        prop_assert_eq!((view.kind(), view.code()), (IcmpType::ECHO_REQUEST, 0));
        prop_assert_eq!((view.echo_id(), view.echo_sequence()), (Some(id), Some(seq)));
        prop_assert_eq!(view.verify_checksum(Sum::of(body)), Ok(()));

        IcmpMut::parse(&mut message).unwrap().make_echo_reply().unwrap();
        let (view, body) = IcmpView::parse(&message).unwrap();
        prop_assert_eq!(view.kind(), IcmpType::ECHO_REPLY);
        prop_assert_eq!((view.echo_id(), view.echo_sequence()), (Some(id), Some(seq)));
        prop_assert_eq!(view.verify_checksum(Sum::of(body)), Ok(()));
        prop_assert_eq!(body, &data[..]);
    }

    #[test]
    fn a_wrong_checksum_is_told_with_the_right_one(
        data in prop::collection::vec(any::<u8>(), 0..80),
        flip in 1..=u16::MAX,
    ) {
        let kind = Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 1, seq: 1 });
        let header = Icmpv4Header::with_checksum(kind, &data);
        let found = header.checksum ^ flip;
        // The two zeros of one's complement prove the same.
        prop_assume!((found, header.checksum) != (0xffff, 0));
        let mut bytes = header.to_bytes();
        bytes[2..4].copy_from_slice(&found.to_be_bytes());
        let (view, _) = IcmpView::parse(&bytes).unwrap();
        let error =
            ParseError::ChecksumMismatch { layer: Layer::Icmp, found, computed: header.checksum };
        prop_assert_eq!(view.verify_checksum(Sum::of(&data)), Err(error));
    }

    #[test]
    fn noise_never_panics(mut bytes: Vec<u8>) {
        if let Ok((view, body)) = IcmpView::parse(&bytes) {
            let _ = (view.verify_checksum(Sum::of(body)), view.next_hop_mtu(), view.echo_id());
        }
        if let Ok(mut icmp) = IcmpMut::parse(&mut bytes) {
            let _ = icmp.make_echo_reply();
        }
    }
}

#[test]
fn the_reply_to_a_request_of_zeros_verifies() {
    let mut message = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    let (view, _) = IcmpView::parse(&message).unwrap();
    assert_eq!(view.verify_checksum(Sum::ZERO), Ok(()));
    IcmpMut::parse(&mut message).unwrap().make_echo_reply().unwrap();
    assert_eq!(message, [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    let (view, _) = IcmpView::parse(&message).unwrap();
    assert_eq!(view.verify_checksum(Sum::ZERO), Ok(()));
}

#[test]
fn only_an_echo_request_is_answered() {
    for kind in (0..=255).filter(|kind| *kind != 8) {
        let mut message = [kind, 0, 1, 2, 3, 4, 5, 6];
        let error = ParseError::TypeMismatch { layer: Layer::Icmp, actual: kind };
        assert_eq!(IcmpMut::parse(&mut message).unwrap().make_echo_reply(), Err(error));
        assert_eq!(message, [kind, 0, 1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn the_five_error_types_are_errors_and_queries_are_not() {
    let errors: Vec<u8> = (0..=255).filter(|kind| IcmpType(*kind).is_error()).collect();
    assert_eq!(errors, [3, 4, 5, 11, 12]);
    let queries: Vec<u8> = (0..=255).filter(|kind| IcmpType(*kind).is_query()).collect();
    assert_eq!(queries, [0, 8, 13, 14]);
    let requests: Vec<u8> = (0..=255).filter(|kind| IcmpType(*kind).is_request()).collect();
    assert_eq!(requests, [8, 13]);
}

#[test]
fn only_fragmentation_needed_has_an_mtu() {
    let mtu = |kind, code| {
        let message = [kind, code, 0, 0, 0, 0, 0x05, 0x78];
        IcmpView::parse(&message).unwrap().0.next_hop_mtu()
    };
    assert_eq!(mtu(3, 4), Some(1400));
    assert_eq!(mtu(3, 3), None);
    assert_eq!(mtu(11, 4), None);
}

#[test]
fn a_header_truncated_anywhere_is_refused() {
    let mut message = [0; IcmpView::LEN];
    for actual in 0..IcmpView::LEN {
        let error = ParseError::Truncated { layer: Layer::Icmp, needed: 8, actual };
        assert_eq!(IcmpView::parse(&message[..actual]).unwrap_err(), error);
        assert_eq!(IcmpMut::parse(&mut message[..actual]).unwrap_err(), error);
    }
}
