//! What ports leave to the far side, or to the worker: checksums, segmentation, merging.

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use vrouter::{
    burst::Burst,
    drops::DropReason,
    idle::IdleMode,
    packet::{Checksum, Gso, Offload, Offloads, Packet},
    port::{
        PortRef,
        memory::{MemoryPeer, MemoryPortConfig, open},
    },
};

use crate::rig::Rig;

/// A port in slot 1 that takes `offloads`, and packets from a port in slot 0 go there.
pub(crate) fn rig(
    workers: usize,
    config: MemoryPortConfig,
) -> (Rig, [PortRef; 2], [MemoryPeer; 2]) {
    let mut rig = Rig::new(workers, IdleMode::Adaptive);
    let (a, peer_a) = rig.add(0, 1);
    let b = rig.next_port(1);
    let (opened, peer_b) = open(b, config, &rig.depot).unwrap();
    rig.attach(b, opened);
    rig.patch.connect(a, b);
    (rig, [a, b], [peer_a, peer_b])
}

fn taking(offloads: Offloads) -> MemoryPortConfig {
    MemoryPortConfig { offloads, ..MemoryPortConfig::default() }
}

/// A TCP segment with the right checksums.
fn segment(sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv6([0xfd; 16], [0xfe; 16], 63)
        .tcp(1000, 80, sequence, 500)
        .ack(9)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn payload(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

fn large(peer: &mut MemoryPeer, sequence: u32, bytes: usize, segment_bytes: u16) -> Packet {
    let mut packet = peer.packet(&segment(sequence, &payload(bytes))).unwrap();
    let gso = Some(Gso::TcpV6 { segment_bytes });
    packet.offload = Offload { checksum: Checksum::Partial, gso };
    packet
}

pub(crate) fn send(rig: &mut Rig, peer: &mut MemoryPeer, packets: Vec<Packet>) {
    let mut burst: Burst = packets.into_iter().collect();
    rig.tick_until(|_| {
        peer.send_burst(0, &mut burst);
        burst.is_empty()
    });
}

/// The next `count` packets that arrive at a peer: their bytes, and what is left to do to them.
pub(crate) fn receive(
    rig: &mut Rig,
    peer: &mut MemoryPeer,
    count: usize,
) -> Vec<(Vec<u8>, Offload)> {
    let mut received = Vec::new();
    rig.tick_until(|_| {
        let mut burst = Burst::new();
        peer.receive_burst(0, &mut burst);
        for packet in burst.drain(..) {
            let mut bytes = Vec::new();
            packet.for_each_segment(peer.pool().region(), |part| bytes.extend_from_slice(part));
            received.push((bytes, packet.offload));
            peer.pool().free_packet(packet);
        }
        received.len() >= count
    });
    received
}

/// Sequence number and payload of a segment whose checksum is right; nothing of what is no TCP.
fn opened(frame: &[u8]) -> (u32, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return (0, vec![]) };
    let sum = tcp.calc_checksum_ipv6([0xfd; 16], [0xfe; 16]).unwrap();
    assert_eq!(tcp.checksum(), sum);
    (tcp.sequence_number(), tcp.payload().to_vec())
}

#[test]
fn a_port_that_takes_large_packets_gets_them_whole_also_from_another_worker() {
    let (mut rig, ports, [mut from, mut to]) = rig(2, taking(Offloads::ALL));
    let packet = large(&mut from, 5, 60_000, 1400);
    let offload = packet.offload;
    send(&mut rig, &mut from, vec![packet]);
    let received = receive(&mut rig, &mut to, 1);
    assert_eq!((received[0].0.len(), received[0].1), (14 + 40 + 20 + 60_000, offload));
    drop((from, to));
    let stats = rig.finish(&ports);
    assert_eq!((stats.balance().sent, stats.balance().segmented), (1, 0));
}

#[test]
fn a_port_that_does_not_gets_segments_in_order_in_as_many_bursts_as_it_takes() {
    let (mut rig, ports, [mut from, mut to]) = rig(2, taking(Offloads::NONE));
    let mut packets = Vec::new();
    for number in 0..5 {
        packets.push(large(&mut from, number * 60_000, 60_000, 1400));
        packets.push(from.packet(&segment(7_000_000 + number, b"small")).unwrap());
    }
    send(&mut rig, &mut from, packets);
    let received = receive(&mut rig, &mut to, 5 * (43 + 1));
    let mut position = 0;
    for number in 0..5 {
        let mut joined = Vec::new();
        for _ in 0..43 {
            let (sequence, part) = opened(&received[position].0);
            assert_eq!(sequence as usize, number * 60_000 + joined.len());
            assert_eq!(received[position].1, Offload::NONE);
            joined.extend(part);
            position += 1;
        }
        assert_eq!(joined, payload(60_000));
        assert_eq!(opened(&received[position].0).1, b"small");
        position += 1;
    }
    drop((from, to));
    let stats = rig.finish(&ports);
    assert_eq!(stats.port(ports[0]).forwarded, 10);
    assert_eq!((stats.balance().sent, stats.balance().segmented), (5 * 44, 5 * 42));
}

#[test]
fn a_port_that_only_finishes_checksums_gets_segments_unfinished() {
    let checksum_only = Offloads { checksum: true, ..Offloads::NONE };
    let (mut rig, ports, [mut from, mut to]) = rig(1, taking(checksum_only));
    let packet = large(&mut from, 5, 5000, 1400);
    send(&mut rig, &mut from, vec![packet]);
    for (_, offload) in receive(&mut rig, &mut to, 4) {
        assert_eq!(offload, Offload { checksum: Checksum::Partial, gso: None });
    }
    drop((from, to));
    rig.finish(&ports);
}

#[test]
fn a_partial_checksum_is_finished_for_a_port_that_cannot() {
    let (mut rig, ports, [mut from, mut to]) = rig(1, taking(Offloads::NONE));
    for checksum in [Checksum::Partial, Checksum::Unknown] {
        let mut frame = segment(5, &payload(3000));
        frame[70..72].fill(0x33);
        let mut packet = from.packet(&frame).unwrap();
        packet.offload.checksum = checksum;
        send(&mut rig, &mut from, vec![packet]);
        let received = receive(&mut rig, &mut to, 1);
        assert_eq!(received[0].1, Offload::NONE);
        assert_eq!(opened(&received[0].0).1, payload(3000));
    }
    drop((from, to));
    rig.finish(&ports);
}

#[test]
fn segments_beyond_a_full_ring_are_dropped_and_counted_and_no_frame_is_lost() {
    let config = MemoryPortConfig { ring_packets: 32, ..taking(Offloads::NONE) };
    let (mut rig, ports, [mut from, mut to]) = rig(1, config);
    let packet = large(&mut from, 0, 60_000, 1000);
    send(&mut rig, &mut from, vec![packet]);
    // Those that had room are the first ones; while they are taken out, others may find some.
    let received = receive(&mut rig, &mut to, 32);
    let sequences: Vec<u32> = received.iter().map(|(frame, _)| opened(frame).0).collect();
    assert_eq!(sequences[..32], (0..32).map(|number| number * 1000).collect::<Vec<u32>>());
    assert!(sequences.is_sorted());
    drop((from, to));
    let stats = rig.finish(&ports);
    let balance = stats.balance();
    assert_eq!((balance.sent + balance.dropped, balance.segmented), (60, 59));
    assert_eq!(stats.all_ports().dropped_for(DropReason::TxRingFull), balance.dropped);
    assert_eq!(stats.port(ports[0]).forwarded, 1);
}

#[test]
fn a_packet_that_would_become_too_many_is_dropped_whole() {
    let (mut rig, ports, [mut from, mut to]) = rig(1, taking(Offloads::NONE));
    let packets = vec![
        large(&mut from, 0, 9000, 1),
        from.packet(&segment(1, b"the next one is fine")).unwrap(),
    ];
    send(&mut rig, &mut from, packets);
    assert_eq!(opened(&receive(&mut rig, &mut to, 1)[0].0).0, 1);
    drop((from, to));
    let stats = rig.finish(&ports);
    assert_eq!(stats.port(ports[0]).dropped_for(DropReason::SegmentImpossible), 1);
}

#[test]
fn segments_in_a_row_are_merged_for_a_port_that_takes_them() {
    let (mut rig, ports, [mut from, mut to]) = rig(1, taking(Offloads::ALL));
    let whole = payload(20 * 1400);
    let mut burst: Burst = (0_u32..)
        .zip(whole.chunks(1400))
        .map(|(number, part)| from.packet(&segment(number * 1400, part)).unwrap())
        .collect();
    // In one go, so that they are received together.
    assert_eq!(from.send_burst(0, &mut burst), 20);
    let received = receive(&mut rig, &mut to, 1);
    let sizes: usize = received.iter().map(|(bytes, _)| bytes.len() - 74).sum();
    drop((from, to));
    let stats = rig.finish(&ports);
    // The worker may have come in the middle of the pushing; nothing is lost in any case.
    assert!(sizes <= whole.len());
    let balance = stats.balance();
    assert_eq!((balance.sent + balance.merged, balance.dropped), (20, 0));
    assert!(balance.merged > 0);
    assert_eq!(stats.port(ports[0]).forwarded, 20);
}
