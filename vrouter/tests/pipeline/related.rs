//! ICMP errors pass with the connection that they are about, whoever sends them.

use std::net::IpAddr;

use encap::MacAddress;
use etherparse::PacketBuilder;
use vrouter::drops::DropReason;

use crate::{
    bench::Bench,
    rig::{Node, Udp, fix_ipv4_checksum, frame_from_b},
};

/// An ICMP error in a frame. Type 11 or 3: time ran out on the way.
pub(crate) fn time_exceeded(
    macs: (MacAddress, MacAddress),
    source: IpAddr,
    destination: IpAddr,
    quoted: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0.octets(), macs.1.octets());
    let mut frame = Vec::new();
    match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(11, 0, [0; 4])
            .write(&mut frame, quoted),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6_raw(3, 0, [0; 4])
            .write(&mut frame, quoted),
        _ => panic!("one family"),
    }
    .unwrap();
    frame
}

/// A router on the way to node `b`'s pods: neither end of any connection.
fn router(is_ipv4: bool) -> IpAddr {
    if is_ipv4 { [10, 244, 2, 200].into() } else { [0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0xc8].into() }
}

/// A UDP packet as a fragment of datagram 77: the first, or a later one at this offset.
fn fragment(packet: &Udp, offset_bytes: u16, has_more: bool) -> Vec<u8> {
    let mut frame = packet.frame();
    let is_later = offset_bytes > 0;
    if packet.source.is_ipv4() {
        if is_later {
            frame.drain(34..42);
            let total = u16::try_from(frame.len() - 14).unwrap();
            frame[16..18].copy_from_slice(&total.to_be_bytes());
        }
        let word = (offset_bytes / 8) | if has_more { 0x2000 } else { 0 };
        frame[18..20].copy_from_slice(&77u16.to_be_bytes());
        frame[20..22].copy_from_slice(&word.to_be_bytes());
        fix_ipv4_checksum(&mut frame);
    } else {
        if is_later {
            frame.drain(54..62);
        }
        let word = offset_bytes | u16::from(has_more);
        let mut header = vec![17, 0];
        header.extend(word.to_be_bytes());
        header.extend(77u32.to_be_bytes());
        frame.splice(54..54, header);
        frame[20] = 44;
        let payload = u16::try_from(frame.len() - 54).unwrap();
        frame[18..20].copy_from_slice(&payload.to_be_bytes());
    }
    frame
}

#[test]
fn an_error_of_a_router_in_between_about_any_fragment_reaches_the_sender() {
    for destination in [IpAddr::from(Node::B.pod(10)), Node::B.pod6(10).into()] {
        let mut bench = Bench::new();
        let packet = Udp { payload: vec![1; 1208], ..Udp::from_pod(destination) };
        let fragments = [fragment(&packet, 0, true), fragment(&packet, 1216, false)];
        for frame in &fragments {
            assert_eq!(bench.send("default/pod10", frame).ports(), ["uplink"]);
        }
        for quoted in &fragments {
            // As much as all routers quote.
            let end = if destination.is_ipv4() { 14 + 28 } else { 14 + 56 };
            let macs = (Node::B.mac(), Node::A.mac());
            let from = router(destination.is_ipv4());
            let error = time_exceeded(macs, from, packet.source, &quoted[14..end]);
            let outcome = bench.send("uplink", &frame_from_b(&error));
            assert_eq!(outcome.ports(), ["default/pod10"], "{:?}", outcome.drops);
        }
        assert_eq!(bench.connections(), 1);
        // About a datagram that was never sent.
        let mut other = fragments[1].clone();
        let id = if destination.is_ipv4() { 19 } else { 61 };
        other[id] ^= 1;
        let macs = (Node::B.mac(), Node::A.mac());
        let error = time_exceeded(macs, router(destination.is_ipv4()), packet.source, &other[14..]);
        let outcome = bench.send("uplink", &frame_from_b(&error));
        assert_eq!(outcome.drops, [DropReason::IcmpUnrelated]);
    }
}

#[test]
fn an_error_about_an_answer_reaches_whoever_answered() {
    for (own, other) in [(IpAddr::from(Node::A.pod(10)), IpAddr::from(Node::A.pod(11))), {
        (Node::A.pod6(10).into(), Node::A.pod6(11).into())
    }] {
        let mut bench = Bench::new();
        let question = Udp::from_pod(other);
        bench.send("default/pod10", &question.frame());
        let macs = (Node::A.pod_mac(11), Node::A.gateway_mac());
        let answer = Udp { macs, source: other, ports: (6000, 5000), ..Udp::from_pod(own) };
        let delivered = bench.send("default/pod11", &answer.frame()).sent.remove(0).1;
        let macs = (Node::A.pod_mac(10), Node::A.gateway_mac());
        let error = time_exceeded(macs, own, other, &delivered[14..]);
        let outcome = bench.send("default/pod10", &error);
        assert_eq!(outcome.ports(), ["default/pod11"], "{:?}", outcome.drops);
    }
}

#[test]
fn an_error_is_no_answer_and_keeps_nothing_alive() {
    let mut bench = Bench::new();
    let packet = Udp::from_pod(Node::B.pod(10));
    bench.send("default/pod10", &packet.frame());
    bench.now.nanoseconds += 100_000_000_000;
    let macs = (Node::B.mac(), Node::A.mac());
    let error = time_exceeded(macs, router(true), packet.source, &packet.frame()[14..]);
    assert_eq!(bench.send("uplink", &frame_from_b(&error)).ports(), ["default/pod10"]);
    let mut seen = Vec::new();
    bench.flows.table().for_each_connection(bench.now.ticks(), |view| {
        seen.push((view.idle, view.state.name(), view.reply_counters.packets));
    });
    assert_eq!(seen, [(10_000, "new", 0)]);
}
