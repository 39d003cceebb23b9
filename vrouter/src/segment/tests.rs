use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    packet::{Gso, Offload},
    test_frames::{adorned, assert_right, bytes_of, pool, whole},
};

const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;
const CWR: u8 = 128;

fn gso(is_ipv4: bool, is_tcp: bool, segment_bytes: usize) -> Gso {
    let segment_bytes = u16::try_from(segment_bytes).unwrap();
    match (is_tcp, is_ipv4) {
        (true, true) => Gso::TcpV4 { segment_bytes },
        (true, false) => Gso::TcpV6 { segment_bytes },
        (false, _) => Gso::Udp { segment_bytes },
    }
}

/// A packet of `frame` in a chain of frames with `piece` bytes each but the first.
fn packet_of(frame: &[u8], piece: usize, gso: Gso, pool: &mut FramePool) -> Packet {
    let (head, rest) = frame.split_at(frame.len().min(256));
    let mut packet = pool.copy_in(head, PORT).unwrap();
    for piece in rest.chunks(piece) {
        let mut frame = pool.allocate().unwrap();
        pool.region().bytes_mut(&mut frame)[5..5 + piece.len()].copy_from_slice(piece);
        let len = u16::try_from(piece.len()).unwrap();
        packet.append(pool.region(), Segment { frame, offset: 5, len });
    }
    packet.offload = Offload { checksum: Checksum::Partial, gso: Some(gso) };
    packet
}

const PORT: PortRef = PortRef { index: 3, generation: 1 };

fn cut(packet: Packet, pool: &mut FramePool) -> Vec<Result<Packet, PortRef>> {
    let plan = Plan::of(&packet, pool.region()).unwrap();
    let mut segments = Segmenter::new(packet, plan, false);
    let made = std::iter::from_fn(|| segments.next(pool)).collect();
    segments.end(pool);
    made
}

fn frames_of(made: Vec<Result<Packet, PortRef>>, pool: &mut FramePool) -> Vec<Vec<u8>> {
    let made: Vec<Packet> = made.into_iter().map(Result::unwrap).collect();
    let mut frames = Vec::new();
    for (position, packet) in made.into_iter().enumerate() {
        assert_eq!(packet.ingress, if position == 0 { PORT } else { PortRef::ENGINE });
        assert_eq!(packet.offload, Offload::NONE);
        assert!(packet.headroom_bytes() >= HEADROOM_BYTES);
        frames.push(bytes_of(&packet, pool.region()));
        pool.free_packet(packet);
    }
    frames
}

proptest! {
    #[test]
    fn segments_put_together_are_the_packet(
        is_ipv4: bool,
        is_tcp: bool,
        flags in any::<u8>().prop_map(|flags| flags & !2 & !4 | ACK),
        payload in vec(any::<u8>(), 1..6000),
        segment in 40_usize..3000,
        piece in 1_usize..2000,
    ) {
        prop_assume!(payload.len() > segment && payload.len() / piece < 90);
        let mut pool = pool();
        let frame = adorned(is_ipv4, is_tcp, flags, &payload);
        let packet = packet_of(&frame, piece, gso(is_ipv4, is_tcp, segment), &mut pool);
        let made = cut(packet, &mut pool);
        let frames = frames_of(made, &mut pool);
        prop_assert_eq!(frames.len(), payload.len().div_ceil(segment));
        let mut joined = Vec::new();
        for (position, bytes) in frames.iter().enumerate() {
            assert_right(bytes);
            let is_last = position + 1 == frames.len();
            assert_headers(&frame, bytes, position, position * segment, is_last);
            let headers = PacketHeaders::from_ethernet_slice(bytes).unwrap();
            let part = headers.payload.slice();
            prop_assert!(part.len() == segment || is_last && part.len() < segment);
            joined.extend_from_slice(part);
        }
        prop_assert_eq!(joined, payload);
        let region_frames = pool.region().frame_count() as usize;
        prop_assert_eq!(frames_free(pool), region_frames);
    }
}

/// Counts all free frames by taking them.
fn frames_free(mut pool: FramePool) -> usize {
    std::iter::from_fn(|| pool.allocate()).count()
}

fn assert_headers(whole: &[u8], segment: &[u8], position: usize, offset: usize, is_last: bool) {
    let whole = PacketHeaders::from_ethernet_slice(whole).unwrap();
    let segment = PacketHeaders::from_ethernet_slice(segment).unwrap();
    assert_eq!(whole.link, segment.link);
    match (whole.net.unwrap(), segment.net.unwrap()) {
        (NetHeaders::Ipv4(mut whole, _), NetHeaders::Ipv4(segment, _)) => {
            let position = u16::try_from(position).unwrap();
            whole.identification = whole.identification.wrapping_add(position);
            (whole.total_len, whole.header_checksum) = (segment.total_len, segment.header_checksum);
            assert_eq!(whole, segment);
        }
        (NetHeaders::Ipv6(mut whole, before), NetHeaders::Ipv6(segment, after)) => {
            whole.payload_length = segment.payload_length;
            assert_eq!((whole, before), (segment, after));
        }
        other => panic!("{other:?}"),
    }
    match (whole.transport.unwrap(), segment.transport.unwrap()) {
        (TransportHeader::Tcp(mut whole), TransportHeader::Tcp(segment)) => {
            let offset = u32::try_from(offset).unwrap();
            whole.sequence_number = whole.sequence_number.wrapping_add(offset);
            whole.cwr &= position == 0;
            whole.fin &= is_last;
            whole.psh &= is_last;
            whole.checksum = segment.checksum;
            assert_eq!(whole, segment);
        }
        (TransportHeader::Udp(whole), TransportHeader::Udp(segment)) => {
            assert_eq!(whole.source_port, segment.source_port);
            assert_eq!(whole.destination_port, segment.destination_port);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn flags_that_mark_an_end_are_on_the_last_segment_and_cwr_on_the_first() {
    let mut pool = pool();
    let frame = adorned(true, true, ACK | PSH | FIN | CWR, &[7; 300]);
    let packet = packet_of(&frame, 2000, gso(true, true, 100), &mut pool);
    let made = cut(packet, &mut pool);
    let frames = frames_of(made, &mut pool);
    let flags: Vec<u8> = frames.iter().map(|frame| frame[14 + 24 + 13]).collect();
    assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN]);
}

#[test]
fn more_segments_than_a_packet_may_become_are_refused() {
    let mut pool = pool();
    for (segment, is_ok) in [(440, true), (1, false)] {
        let frame = whole(true, true, &vec![7; 65_000]);
        let packet = packet_of(&frame, 2000, gso(true, true, segment), &mut pool);
        let plan = Plan::of(&packet, pool.region());
        assert_eq!(plan.is_ok(), is_ok, "{segment}");
        if let Err(reason) = plan {
            assert_eq!(reason, DropReason::SegmentImpossible);
        }
        pool.free_packet(packet);
    }
}

#[test]
fn without_memory_segments_fail_one_by_one_and_no_frame_is_lost() {
    for hoarded in [0, 1, 2, 5, 8, 20] {
        let mut pool = pool();
        let payload: Vec<u8> = (0_u32..20_000).map(|byte| byte.to_le_bytes()[0]).collect();
        let frame = whole(false, true, &payload);
        let packet = packet_of(&frame, 2000, gso(false, true, 3000), &mut pool);
        let mut hoard: Vec<Frame> = std::iter::from_fn(|| pool.allocate()).collect();
        for frame in hoard.drain(..hoarded) {
            pool.free(frame);
        }
        let mut failed = 0;
        for (position, made) in cut(packet, &mut pool).into_iter().enumerate() {
            match made {
                Ok(segment) => {
                    let bytes = bytes_of(&segment, pool.region());
                    assert_right(&bytes);
                    // The payload of those that failed is skipped.
                    let start = position * 3000;
                    assert_eq!(bytes[74..], payload[start..(start + 3000).min(payload.len())]);
                    pool.free_packet(segment);
                }
                Err(origin) => {
                    failed += 1;
                    assert_eq!(origin, if position == 0 { PORT } else { PortRef::ENGINE });
                }
            }
        }
        // The packet's own frames are used again as they are read.
        assert_eq!(failed > 0, hoarded < 8, "{hoarded}");
        for frame in hoard {
            pool.free(frame);
        }
        let region_frames = pool.region().frame_count() as usize;
        assert_eq!(frames_free(pool), region_frames);
    }
}

#[test]
fn a_port_that_finishes_checksums_gets_them_unfinished() {
    let mut pool = pool();
    let frame = whole(true, false, &[9; 5000]);
    let packet = packet_of(&frame, 2000, gso(true, false, 1400), &mut pool);
    let plan = Plan::of(&packet, pool.region()).unwrap();
    let mut segments = Segmenter::new(packet, plan, true);
    while let Some(made) = segments.next(&mut pool) {
        let mut segment = made.unwrap();
        assert_eq!(segment.offload, Offload { checksum: Checksum::Partial, gso: None });
        let bytes = bytes_of(&segment, pool.region());
        let transport = Transport::find(&bytes, bytes.len()).unwrap();
        crate::transport::finish(&mut segment, &transport, pool.region());
        assert_right(&bytes_of(&segment, pool.region()));
        pool.free_packet(segment);
    }
    segments.end(&mut pool);
}
