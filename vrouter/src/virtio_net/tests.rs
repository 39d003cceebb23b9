use encap::checksum::Sum;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    port::PortRef,
    test_frames::{assert_right, bytes_of, pool, whole},
};

fn place_of(is_ipv4: bool, is_tcp: bool) -> (usize, usize) {
    (if is_ipv4 { 34 } else { 54 }, if is_tcp { 16 } else { 6 })
}

fn header(flags: HeaderFlags, gso_type: GsoType, gso_bytes: usize) -> VirtioNetHeader {
    let gso_bytes = u16::try_from(gso_bytes).unwrap();
    VirtioNetHeader { flags, gso_type, gso_bytes, ..VirtioNetHeader::PLAIN }
}

proptest! {
    #[test]
    fn a_partial_checksum_goes_through_and_is_finished_right(
        is_ipv4: bool,
        is_tcp: bool,
        payload in vec(any::<u8>(), 0..4000),
    ) {
        let mut pool = pool();
        let frame = whole(is_ipv4, is_tcp, &payload);
        let mut packet = pool.copy_in(&frame, PortRef::ENGINE).unwrap();
        packet.offload.checksum = Checksum::Partial;
        let header = VirtioNetHeader::of(&mut packet, pool.region());
        let (start, offset) = place_of(is_ipv4, is_tcp);
        prop_assert_eq!(header.flags, HeaderFlags::NEEDS_CSUM);
        prop_assert_eq!(usize::from(header.checksum_start), start);
        prop_assert_eq!(usize::from(header.checksum_offset), offset);
        let view = header.to_bytes();
        prop_assert_eq!(VirtioNetView::parse(&view).unwrap().header(), header);
        let sent = bytes_of(&packet, pool.region());
        pool.free_packet(packet);

        // The far side hands the very bytes in again.
        let mut packet = pool.copy_in(&sent, PortRef::ENGINE).unwrap();
        prop_assert_eq!(header.apply(&mut packet, pool.region()), Ok(()));
        prop_assert_eq!(packet.offload, Offload { checksum: Checksum::Partial, gso: None });
        let transport = Transport::find(packet.data(pool.region()), sent.len()).unwrap();
        transport::finish(&mut packet, &transport, pool.region());
        prop_assert_eq!(packet.offload, Offload::NONE);
        let finished = bytes_of(&packet, pool.region());
        assert_right(&finished);
        prop_assert_eq!(finished, frame);

        // What a device does with it comes out the same.
        let mut packet = pool.copy_in(&sent, PortRef::ENGINE).unwrap();
        prop_assert!(transport::finish_at(&mut packet, start, start + offset, pool.region()));
        assert_right(&bytes_of(&packet, pool.region()));
    }

    #[test]
    fn segmentation_goes_through(
        is_ipv4: bool,
        is_tcp: bool,
        payload in 2_usize..60_000,
        segment in 1_usize..2000,
    ) {
        let mut pool = pool();
        let mut packet = pool
            .copy_in(&whole(is_ipv4, is_tcp, &vec![7; payload]), PortRef::ENGINE)
            .unwrap();
        let segment_bytes = u16::try_from(segment).unwrap();
        let gso = match (is_tcp, is_ipv4) {
            (true, true) => Gso::TcpV4 { segment_bytes },
            (true, false) => Gso::TcpV6 { segment_bytes },
            (false, _) => Gso::Udp { segment_bytes },
        };
        packet.offload = Offload { checksum: Checksum::Partial, gso: Some(gso) };
        let header = VirtioNetHeader::of(&mut packet, pool.region());
        prop_assert_eq!(header.gso_bytes, segment_bytes);
        packet.offload = Offload::NONE;
        prop_assert_eq!(header.apply(&mut packet, pool.region()), Ok(()));
        let expected = (payload > segment).then_some(gso);
        prop_assert_eq!(packet.offload, Offload { checksum: Checksum::Partial, gso: expected });
    }

    #[test]
    fn noise_never_panics_and_a_refused_frame_is_left_as_it_was(
        bytes in any::<[u8; 10]>(),
        flags in 0_u8..4,
        kinds in prop_oneof![Just(0_u8), 1_u8..6, any::<u8>()],
        start in prop_oneof![0_u16..200, any::<u16>()],
        offset in prop_oneof![0_u16..40, any::<u16>()],
        frame in prop_oneof![
            vec(any::<u8>(), 0..200),
            (any::<bool>(), any::<bool>(), vec(any::<u8>(), 0..3000), 0_usize..60, any::<u8>())
                .prop_map(|(is_ipv4, is_tcp, payload, at, noise)| {
                    let mut frame = whole(is_ipv4, is_tcp, &payload);
                    let at = at % frame.len();
                    frame[at] ^= noise;
                    frame
                }),
        ],
    ) {
        let mut pool = pool();
        let mut header = VirtioNetView::parse(&bytes).unwrap().header();
        (header.flags.0, header.gso_type.0) = (flags, kinds);
        (header.checksum_start, header.checksum_offset) = (start, offset);
        let mut packet = pool.copy_in(&frame, PortRef::ENGINE).unwrap();
        let applied = header.apply(&mut packet, pool.region());
        let after = bytes_of(&packet, pool.region());
        prop_assert_eq!(after.len(), frame.len());
        if applied.is_err() {
            prop_assert_eq!(&after, &frame);
            prop_assert_eq!(packet.offload, Offload::NONE);
        }
        if let Some(gso) = packet.offload.gso {
            prop_assert!(gso.segment_bytes() > 0);
            prop_assert_eq!(packet.offload.checksum, Checksum::Partial);
        }
        // Whatever was taken in has a header that says the same.
        let offload = packet.offload;
        let header = VirtioNetHeader::of(&mut packet, pool.region());
        packet.offload = Offload::NONE;
        prop_assert_eq!(header.apply(&mut packet, pool.region()), Ok(()));
        prop_assert_eq!(packet.offload, offload);
        pool.free_packet(packet);
    }

    #[test]
    fn an_order_about_another_place_is_carried_out_at_once(
        mut frame in vec(any::<u8>(), 16..3000),
        start in 0_usize..400,
        offset in 0_usize..400,
    ) {
        frame[12..14].copy_from_slice(&[0x88, 0xb5]);
        let mut pool = pool();
        let mut packet = pool.copy_in(&frame, PortRef::ENGINE).unwrap();
        let mut order = header(HeaderFlags::NEEDS_CSUM, GsoType::NONE, 0);
        (order.checksum_start, order.checksum_offset) =
            (u16::try_from(start).unwrap(), u16::try_from(offset).unwrap());
        let applied = order.apply(&mut packet, pool.region());
        prop_assert_eq!(packet.offload, Offload::NONE);
        prop_assert_eq!(applied.is_ok(), start + offset + 2 <= frame.len());
        if applied.is_ok() && offset % 2 == 0 {
            // With the value that the field held before on top, all sums up to nothing.
            let field = Sum::of(&frame[start + offset..start + offset + 2]);
            let after = bytes_of(&packet, pool.region());
            prop_assert!(Sum::of(&after[start..]).add(field).is_intact());
        }
        pool.free_packet(packet);
    }
}

#[test]
fn a_contradiction_is_refused() {
    let mut pool = pool();
    let long = vec![1; 3000];
    let (needs, none) = (HeaderFlags::NEEDS_CSUM, HeaderFlags::NONE);
    let cases = [
        ("no segment size", true, true, header(none, GsoType::TCPV4, 0)),
        ("the other family", true, true, header(none, GsoType::TCPV6, 1000)),
        ("the other protocol", true, true, header(none, GsoType::UDP_L4, 1000)),
        ("UDP as TCP", false, false, header(none, GsoType::TCPV6, 1000)),
        ("fragmentation of UDP", true, false, header(none, GsoType(3), 1000)),
        ("an unknown type", true, true, header(none, GsoType(9), 1000)),
        ("not the checksum of what is cut", true, true, header(needs, GsoType::TCPV4, 1000)),
    ];
    for (what, is_ipv4, is_tcp, header) in cases {
        let frame = whole(is_ipv4, is_tcp, &long);
        let mut packet = pool.copy_in(&frame, PortRef::ENGINE).unwrap();
        let applied = header.apply(&mut packet, pool.region());
        assert_eq!(applied, Err(DropReason::RxOffloadMalformed), "{what}");
        pool.free_packet(packet);
    }
}

#[test]
fn a_checksum_outside_the_frame_is_refused() {
    let mut pool = pool();
    for (start, offset) in [(34, 5000), (u16::MAX, u16::MAX), (53, 0), (0, 53)] {
        let mut packet = pool.copy_in(&whole(true, true, &[]), PortRef::ENGINE).unwrap();
        let mut order = header(HeaderFlags::NEEDS_CSUM, GsoType::NONE, 0);
        (order.checksum_start, order.checksum_offset) = (start, offset);
        let applied = order.apply(&mut packet, pool.region());
        assert_eq!(applied, Err(DropReason::RxOffloadMalformed), "{start} {offset}");
        pool.free_packet(packet);
    }
}

#[test]
fn a_checksum_of_unknown_state_is_marked_only_if_it_is_unfinished() {
    let mut pool = pool();
    let frame = whole(false, true, b"payload");
    let mut complete = pool.copy_in(&frame, PortRef::ENGINE).unwrap();
    complete.offload.checksum = Checksum::Unknown;
    assert_eq!(VirtioNetHeader::of(&mut complete, pool.region()), VirtioNetHeader::PLAIN);
    assert_eq!(bytes_of(&complete, pool.region()), frame);

    let mut partial = pool.copy_in(&frame, PortRef::ENGINE).unwrap();
    let transport = Transport::find(&frame, frame.len()).unwrap();
    assert!(transport.write_pseudo_header(partial.data_mut(pool.region())));
    partial.offload.checksum = Checksum::Unknown;
    let header = VirtioNetHeader::of(&mut partial, pool.region());
    assert_eq!(header.flags, HeaderFlags::NEEDS_CSUM);
}

#[test]
fn congestion_window_reduced_is_marked() {
    let mut pool = pool();
    let mut frame = whole(true, true, &[0; 3000]);
    frame[47] |= TcpFlags::CWR.0;
    let mut packet = pool.copy_in(&frame, PortRef::ENGINE).unwrap();
    let gso = Some(Gso::TcpV4 { segment_bytes: 1000 });
    packet.offload = Offload { checksum: Checksum::Partial, gso };
    let header = VirtioNetHeader::of(&mut packet, pool.region());
    assert_eq!(header.gso_type, GsoType::TCPV4 | GsoType::ECN);
    assert_eq!(usize::from(header.header_bytes), 54);
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    let header = VirtioNetHeader {
        flags: HeaderFlags::NEEDS_CSUM,
        gso_type: GsoType::TCPV6,
        header_bytes: 0x0102,
        gso_bytes: 0x0304,
        checksum_start: 0x0506,
        checksum_offset: 0x0708,
        buffer_count: 0x090a,
    };
    let bytes = [1, 4, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9];
    assert_eq!(header.to_bytes(), bytes);
    let view = VirtioNetView::parse(&bytes).unwrap();
    assert_eq!(view.header(), VirtioNetHeader { buffer_count: 1, ..header });
    assert!(!view.is_plain());
    assert!(VirtioNetView::parse(&bytes[..9]).is_none());
    let plain = VirtioNetHeader::PLAIN.to_bytes();
    assert!(VirtioNetView::parse(&plain).unwrap().is_plain());
}
