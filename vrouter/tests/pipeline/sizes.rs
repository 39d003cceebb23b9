//! Packets that are too big for the way, and packets in pieces.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use vrouter::drops::DropReason;

use crate::{
    bench::Bench,
    rig::{
        Node, Udp, assert_checksums, fix_ipv4_checksum, inner, input, objects, objects_over,
        run_from, sent, with_dont_fragment,
    },
};

/// UDP from pod 10 to node `b`, `bytes` long from the IP header on.
fn sized(destination: IpAddr, bytes: usize) -> Vec<u8> {
    let headers = if destination.is_ipv4() { 28 } else { 48 };
    let payload = (0..bytes - headers).map(|at| at.to_le_bytes()[0]).collect();
    let frame = Udp { payload, ..Udp::from_pod(destination) }.frame();
    if destination.is_ipv4() { with_dont_fragment(frame) } else { frame }
}

/// The underlay's word that `sent`, an encapsulated frame, is too big for `mtu` bytes; `quoted`
/// bytes of it are quoted.
fn outer_too_big(sent: &[u8], mtu: u32, quoted: usize) -> Vec<u8> {
    let quote = &sent[14..14 + quoted];
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], Node::A.mac().octets());
    let mut frame = Vec::new();
    if sent[12..14] == [8, 0] {
        ethernet
            .ipv4([198, 51, 100, 1], Node::A.ip().octets(), 60)
            .icmpv4_raw(3, 4, mtu.to_be_bytes())
            .write(&mut frame, quote)
    } else {
        ethernet
            .ipv6([0x20; 16], Node::A.ip6().octets(), 60)
            .icmpv6_raw(2, 0, mtu.to_be_bytes())
            .write(&mut frame, quote)
    }
    .unwrap();
    frame
}

/// MTU and quote of a "too big" for pod 10.
fn too_big(frame: &[u8]) -> (u32, Vec<u8>) {
    assert_checksums(frame);
    assert_eq!(frame[..6], Node::A.pod_mac(10).octets());
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    let kind = if at == 34 { [3, 4] } else { [2, 0] };
    assert_eq!(frame[at..at + 2], kind);
    let mtu = u32::from_be_bytes(frame[at + 4..at + 8].try_into().unwrap());
    (mtu, frame[at + 8..].to_vec())
}

#[test]
fn an_outer_too_big_becomes_an_inner_one_and_lowers_the_tunnels_mtu_for_a_while() {
    for (underlay_is_v6, overhead) in [(false, 50), (true, 70)] {
        for destination in [IpAddr::from(Node::B.pod(10)), Node::B.pod6(10).into()] {
            let mut bench = Bench::with(objects_over(Node::A, underlay_is_v6), 64);
            let large = sized(destination, 1420);
            let encapsulated = bench.send("default/pod10", &large).sent.remove(0).1;
            let outcome = bench.send("uplink", &outer_too_big(&encapsulated, 1400, 500));
            assert_eq!(outcome.ports(), ["default/pod10"], "{:?}", outcome.drops);
            let (mtu, quote) = too_big(&outcome.sent[0].1);
            assert_eq!(mtu, 1400 - overhead);
            // Addresses and ports of the inner packet, as far as the underlay quoted it.
            let start = encapsulated.len() - large.len() + 14;
            assert_eq!(quote, encapsulated[start..14 + 500]);
            // From now on the sender is told by us.
            let outcome = bench.send("default/pod10", &large);
            assert_eq!(outcome.drops, [DropReason::MtuExceeded]);
            assert_eq!(too_big(&outcome.sent[0].1).0, 1400 - overhead);
            let small = sized(destination, 1400 - overhead as usize);
            assert_eq!(bench.send("default/pod10", &small).ports(), ["uplink"]);
            bench.now.nanoseconds += 601 * 1_000_000_000;
            assert_eq!(bench.send("default/pod10", &large).ports(), ["uplink"]);
        }
    }
}

#[test]
fn a_short_quote_lowers_the_mtu_though_the_sender_cannot_be_told_yet() {
    let mut bench = Bench::new();
    let large = sized(Node::B.pod(10).into(), 1420);
    let encapsulated = bench.send("default/pod10", &large).sent.remove(0).1;
    let outcome = bench.send("uplink", &outer_too_big(&encapsulated, 1400, 20 + 8 + 8));
    assert!(outcome.sent.is_empty() && outcome.drops.is_empty(), "{outcome:?}");
    assert_eq!(bench.send("default/pod10", &large).drops, [DropReason::MtuExceeded]);
}

#[test]
fn a_too_big_about_somebody_elses_packet_is_the_nodes() {
    let mut bench = Bench::new();
    let large = sized(Node::B.pod(10).into(), 1420);
    let encapsulated = bench.send("default/pod10", &large).sent.remove(0).1;
    let mut foreign = encapsulated.clone();
    foreign[36] ^= 1;
    // Eight bytes tell the port, and no VNI.
    for (frame, quoted) in [(&foreign, 500), (&encapsulated, 28)] {
        let outcome = bench.send("uplink", &outer_too_big(frame, 1400, quoted));
        assert_eq!(outcome.ports(), ["host"]);
    }
    // And one that says that the packet fits changes nothing.
    bench.send("uplink", &outer_too_big(&encapsulated, 1500, 500));
    assert_eq!(bench.send("default/pod10", &large).ports(), ["uplink"]);
}

#[test]
fn an_outer_too_big_with_a_fragment_header_that_says_nothing_counts_as_any() {
    let mut bench = Bench::with(objects_over(Node::A, true), 64);
    let large = sized(Node::B.pod(10).into(), 1420);
    let encapsulated = bench.send("default/pod10", &large).sent.remove(0).1;
    let mut frame = outer_too_big(&encapsulated, 1400, 500);
    let header = [frame[20], 0, 0, 0, 0, 0, 0, 7];
    frame[20] = 44;
    let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame.splice(54..54, header);
    let outcome = bench.send("uplink", &frame);
    assert_eq!(outcome.ports(), ["default/pod10"], "{:?}", outcome.drops);
    assert_eq!(too_big(&outcome.sent[0].1).0, 1330);
}

#[test]
fn a_tunnels_mtu_is_never_lowered_below_what_ip_needs() {
    let mut bench = Bench::with(objects_over(Node::A, true), 64);
    let large = sized(Node::B.pod6(10).into(), 1420);
    let encapsulated = bench.send("default/pod10", &large).sent.remove(0).1;
    let outcome = bench.send("uplink", &outer_too_big(&encapsulated, 68, 500));
    assert_eq!(too_big(&outcome.sent[0].1).0, 1280);
    assert_eq!(
        bench.send("default/pod10", &sized(Node::B.pod6(10).into(), 1280)).ports(),
        ["uplink"]
    );
    assert_eq!(
        bench.send("default/pod10", &sized(Node::B.pod(10).into(), 552)).ports(),
        ["uplink"]
    );
}

/// Puts the fragments of one IPv4 packet together again.
fn reassembled(fragments: &[&[u8]]) -> Vec<u8> {
    let mut packet = fragments[0][..34].to_vec();
    for (position, fragment) in fragments.iter().enumerate() {
        assert_eq!(encap::checksum::Sum::of(&fragment[14..34]).checksum(), 0);
        let word = u16::from_be_bytes([fragment[20], fragment[21]]);
        assert_eq!(usize::from(word & 0x1fff) * 8, packet.len() - 34);
        assert_eq!(word & 0x2000 != 0, position + 1 < fragments.len());
        assert_eq!(fragment[18..20], packet[18..20]);
        packet.extend_from_slice(&fragment[34..]);
    }
    let total = u16::try_from(packet.len() - 14).unwrap();
    packet[16..18].copy_from_slice(&total.to_be_bytes());
    packet[20..22].fill(0);
    fix_ipv4_checksum(&mut packet);
    packet
}

#[test]
fn an_ipv4_packet_that_may_be_fragmented_is() {
    for bytes in [1451, 2900, 9000, 60_000] {
        let mut whole = Udp {
            payload: (0..bytes - 28).map(|at: usize| (at / 7).to_le_bytes()[0]).collect(),
            ..Udp::from_pod(Node::B.pod(10))
        }
        .frame();
        whole[18..20].copy_from_slice(&[0x12, 0x34]);
        whole[20] = 0;
        fix_ipv4_checksum(&mut whole);
        let output = run_from("default/pod10", [whole.clone()]);
        assert!(output.drops.is_empty(), "{:?}", output.drops);
        let frames: Vec<_> = sent(&output, "uplink").iter().map(|frame| inner(frame)).collect();
        assert!(frames.iter().all(|frame| frame.len() <= 1464));
        assert_eq!(frames.len(), (bytes - 20).div_ceil(1424));
        let mut expected = whole.clone();
        expected[..6].copy_from_slice(&Node::B.mac().octets());
        expected[6..12].copy_from_slice(&Node::A.mac().octets());
        expected[22] = 63;
        fix_ipv4_checksum(&mut expected);
        assert!(reassembled(&frames) == expected, "{bytes} bytes");
        assert_eq!(output.summary.balance.replicated, frames.len() as u64 - 1);
    }
}

/// Node A, whose tunnel carries inner packets of `mtu_bytes`.
fn objects_with_tunnel_mtu(mtu_bytes: u32) -> Vec<control_api::engine::Object> {
    crate::rig::changed(objects(Node::A), |kind| {
        if let control_api::engine::object::Kind::Tunnel(tunnel) = kind {
            tunnel.mtu_bytes = mtu_bytes;
        }
    })
}

/// The longest IPv4 packet from pod 10 to node `b`, which may be fragmented.
fn longest_ipv4() -> Vec<u8> {
    let payload = (0..65_535 - 28).map(|at: usize| (at / 7).to_le_bytes()[0]).collect();
    let mut frame = Udp { payload, ..Udp::from_pod(Node::B.pod(10)) }.frame();
    frame[20] = 0;
    fix_ipv4_checksum(&mut frame);
    frame
}

#[test]
fn the_longest_packet_passes_in_fragments_where_the_way_has_the_least_mtu_believed() {
    let longest = longest_ipv4();
    // 552 bytes, less the outer headers.
    let objects = objects_with_tunnel_mtu(502);
    let output = crate::rig::run(objects, &[input("default/pod10", [longest.clone()])]);
    assert!(output.drops.is_empty(), "{:?}", output.drops);
    let frames: Vec<_> = sent(&output, "uplink").iter().map(|frame| inner(frame)).collect();
    assert_eq!(frames.len(), 65_515_usize.div_ceil(480));
    assert_eq!(reassembled(&frames)[34..], longest[34..]);
}

#[test]
fn a_packet_of_too_many_fragments_is_dropped_and_its_sender_told_though_it_permits_them() {
    // Pieces of 376 bytes would be 175, pieces of 48 bytes 1365.
    for mtu_bytes in [400, 68] {
        let mut bench = Bench::with(objects_with_tunnel_mtu(mtu_bytes), 64);
        let longest = longest_ipv4();
        let outcome = bench.send("default/pod10", &longest);
        assert_eq!(outcome.drops, [DropReason::MtuExceeded]);
        assert_eq!(outcome.ports(), ["default/pod10"]);
        let (told, quote) = too_big(&outcome.sent[0].1);
        assert_eq!(told, mtu_bytes);
        assert_eq!(quote, longest[14..14 + quote.len()]);
        assert_eq!(bench.frames_free(), 1024);
    }
}

#[test]
fn a_burst_of_packets_that_are_all_fragmented_comes_out_whole() {
    let mut bench = Bench::with(objects_with_tunnel_mtu(600), 64);
    let packets: Vec<_> = (0..64_u8)
        .map(|number| {
            let payload = vec![number; 1450 - 28];
            let mut frame = Udp { payload, ..Udp::from_pod(Node::B.pod(10)) }.frame();
            frame[18..20].copy_from_slice(&[0, number]);
            frame[20] = 0;
            fix_ipv4_checksum(&mut frame);
            frame
        })
        .collect();
    let outcome = bench.send_burst(0, "default/pod10", &packets);
    assert!(outcome.drops.is_empty(), "{:?}", outcome.drops);
    let frames: Vec<_> = outcome.sent.iter().map(|(_, frame)| inner(frame)).collect();
    assert_eq!(frames.len(), 3 * packets.len());
    for (fragments, packet) in frames.chunks(3).zip(&packets) {
        assert_eq!(reassembled(fragments)[34..], packet[34..]);
    }
    assert_eq!(bench.frames_free(), 1024);
}

/// The fragments of a UDP packet from pod 10 of node `a` to pod 11, payload in pieces of 512 bytes.
pub(crate) fn pieces(is_ipv4: bool) -> Vec<Vec<u8>> {
    let destination = if is_ipv4 { IpAddr::from(Node::A.pod(11)) } else { Node::A.pod6(11).into() };
    let payload = vec![0x5a; 1200];
    let whole = Udp { payload, ..Udp::from_pod(destination) }.frame();
    let headers = if is_ipv4 { 34 } else { 54 };
    let body = &whole[headers..];
    let count = body.len().div_ceil(512);
    let make = |(position, piece): (usize, &[u8])| {
        let has_more = position + 1 < count;
        let mut frame = whole[..headers].to_vec();
        if is_ipv4 {
            let total = u16::try_from(20 + piece.len()).unwrap();
            let word = u16::try_from(position * 64).unwrap() | if has_more { 0x2000 } else { 0 };
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            frame[18..20].copy_from_slice(&[0xbe, 0xef]);
            frame[20..22].copy_from_slice(&word.to_be_bytes());
            fix_ipv4_checksum(&mut frame);
        } else {
            let length = u16::try_from(8 + piece.len()).unwrap();
            frame[18..20].copy_from_slice(&length.to_be_bytes());
            frame[20] = 44;
            let word = u16::try_from(position * 512).unwrap() | u16::from(has_more);
            frame.extend_from_slice(&[17, 0]);
            frame.extend_from_slice(&word.to_be_bytes());
            frame.extend_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
        }
        frame.extend_from_slice(piece);
        frame
    };
    body.chunks(512).enumerate().map(make).collect()
}

#[test]
fn later_fragments_follow_their_first_one() {
    for is_ipv4 in [true, false] {
        let frames = pieces(is_ipv4);
        assert_eq!(frames.len(), 3);
        let output = run_from("default/pod10", frames.clone());
        assert_eq!(sent(&output, "default/pod11").len(), 3, "{:?}", output.drops);
        // Also within one burst.
        let mut bench = Bench::new();
        let outcome = bench.send_burst(0, "default/pod10", &frames);
        assert_eq!(outcome.ports(), ["default/pod11"; 3], "{:?}", outcome.drops);
        assert_eq!(bench.connections(), 1);
    }
}

#[test]
fn a_fragment_whose_first_one_was_not_seen_is_unknown() {
    for is_ipv4 in [true, false] {
        let mut frames = pieces(is_ipv4);
        let mut bench = Bench::new();
        let first = frames.remove(0);
        let unknown = [DropReason::FragmentUnknown; 2];
        assert_eq!(bench.send_burst(0, "default/pod10", &frames).drops, unknown);
        // Another worker forwards the first one, and then they are known to all.
        assert_eq!(bench.send_burst(1, "default/pod10", &[first]).sent.len(), 1);
        assert_eq!(bench.send_burst(0, "default/pod10", &frames).sent.len(), 2);
        // Not for ever.
        bench.now.nanoseconds += 31 * 1_000_000_000;
        assert_eq!(bench.send_burst(0, "default/pod10", &frames).drops, unknown);
    }
}

#[test]
fn a_first_fragment_too_short_for_its_ports_is_dropped() {
    let mut tiny = pieces(true).remove(0);
    tiny.truncate(34 + 4);
    tiny[16..18].copy_from_slice(&24_u16.to_be_bytes());
    fix_ipv4_checksum(&mut tiny);
    let output = run_from("default/pod10", [tiny]);
    assert_eq!(crate::rig::reasons(&output), [DropReason::ParseTruncated]);
}

#[test]
fn jumbo_packets_pass_where_the_mtu_allows_them() {
    let jumbo = crate::rig::changed(objects(Node::A), |kind| {
        if let control_api::engine::object::Kind::Port(port) = kind {
            port.mtu_bytes = 9000;
        }
    });
    let frame = sized(Node::B.pod6(10).into(), 8950);
    let output = crate::rig::run(jumbo, &[input("default/pod10", [frame.clone()])]);
    let sent = crate::rig::only_sent(&output, "uplink");
    assert_eq!(inner(sent)[14 + 40..], frame[14 + 40..]);
}
