//! ICMP errors that the engine sends.

use std::net::IpAddr;

use control_api::engine as api;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use vrouter::{
    drops::DropReason,
    next_hop::Adjacency,
    replay::{ReplayInput, ReplayOutput},
};

use crate::{
    bench::Bench,
    rig::{
        Node, Udp, assert_checksums, echo_request, fix_ipv4_checksum, input, objects, reasons,
        route, run, run_from, sent, with_dont_fragment,
    },
};

/// Type, code and what follows the eight bytes of an ICMP error to pod 10, whose source is the
/// gateway.
fn error_to_pod(frame: &[u8]) -> (u8, u8, [u8; 4], Vec<u8>) {
    assert_checksums(frame);
    assert_eq!(frame[..6], Node::A.pod_mac(10).octets());
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Icmpv4(icmp)) => {
            assert_eq!(ip.header().source_addr(), Node::A.gateway());
            assert_eq!(ip.header().destination_addr(), Node::A.pod(10));
            let rest = icmp.slice()[4..8].try_into().unwrap();
            (icmp.type_u8(), icmp.code_u8(), rest, icmp.payload().to_vec())
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            assert_eq!(ip.header().source_addr(), Node::A.gateway6());
            assert_eq!(ip.header().destination_addr(), Node::A.pod6(10));
            let rest = icmp.slice()[4..8].try_into().unwrap();
            (icmp.type_u8(), icmp.code_u8(), rest, icmp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    }
}

fn only_error(output: &ReplayOutput) -> (u8, u8, [u8; 4], Vec<u8>) {
    error_to_pod(crate::rig::only_sent(output, "default/pod10"))
}

#[test]
fn a_packet_whose_ttl_runs_out_is_dropped_and_its_sender_told() {
    for destination in [IpAddr::from(Node::B.pod(10)), Node::A.pod6(11).into()] {
        for ttl in [0, 1] {
            let frame = Udp { ttl, ..Udp::from_pod(destination) }.frame();
            let output = run_from("default/pod10", [frame.clone()]);
            assert_eq!(reasons(&output), [DropReason::TtlExceeded]);
            let (kind, code, _, quote) = only_error(&output);
            assert_eq!((kind, code), if destination.is_ipv4() { (11, 0) } else { (3, 0) });
            assert_eq!(quote, frame[14..], "quoted as it was received");
        }
    }
}

#[test]
fn a_packet_that_is_too_big_for_the_way_is_dropped_and_its_sender_told_the_mtu() {
    for destination in [IpAddr::from(Node::B.pod(10)), Node::B.pod6(10).into()] {
        let headers = if destination.is_ipv4() { 28 } else { 48 };
        let sized = |bytes: usize| {
            let payload = vec![7; bytes - headers];
            let frame = Udp { payload, ..Udp::from_pod(destination) }.frame();
            if destination.is_ipv4() { with_dont_fragment(frame) } else { frame }
        };
        let output = run_from("default/pod10", [sized(1450)]);
        assert_eq!(sent(&output, "uplink").len(), 1, "exactly the MTU fits");
        let output = run_from("default/pod10", [sized(1451)]);
        assert_eq!(reasons(&output), [DropReason::MtuExceeded]);
        assert_eq!(output.drops[0].detail, "1451 bytes, 1450 are possible");
        let (kind, code, rest, quote) = only_error(&output);
        assert_eq!((kind, code), if destination.is_ipv4() { (3, 4) } else { (2, 0) });
        assert_eq!(u32::from_be_bytes(rest), 1450);
        assert_eq!(quote.len(), if destination.is_ipv4() { 548 } else { 1232 });
    }
}

#[test]
fn a_packet_without_a_route_is_dropped_and_its_sender_told() {
    let destination = std::net::Ipv4Addr::new(198, 51, 100, 9);
    let output = run_from("default/pod10", [Udp::from_pod(destination).frame()]);
    assert_eq!(reasons(&output), [DropReason::RouteNone]);
    let (kind, code, ..) = only_error(&output);
    assert_eq!((kind, code), (3, 0));
}

/// Node A without an uplink: nothing is reached.
fn without_uplink() -> Vec<api::Object> {
    let objects = crate::rig::changed(objects(Node::A), |kind| {
        if let api::object::Kind::Node(node) = kind {
            node.uplink_port = String::new();
        }
    });
    let is_uplink = |object: &api::Object| matches!(&object.kind, Some(api::object::Kind::Port(port)) if port.name == "uplink");
    objects.into_iter().filter(|object| !is_uplink(object)).collect()
}

#[test]
fn a_packet_to_a_node_that_is_not_reached_is_dropped_and_its_sender_told() {
    for destination in [IpAddr::from(Node::B.pod(10)), Node::B.pod6(10).into()] {
        let frame = Udp::from_pod(destination).frame();
        let output = run(without_uplink(), &[input("default/pod10", [frame.clone()])]);
        assert_eq!(reasons(&output), [DropReason::NextHopUnresolved]);
        assert_eq!(output.drops[0].detail, "peer/ipv4");
        let (kind, code, _, quote) = only_error(&output);
        assert_eq!((kind, code), if destination.is_ipv4() { (3, 1) } else { (1, 3) });
        assert_eq!(quote, frame[14..], "quoted as it was received");
        // As many errors as any others, and one reason a packet all the same.
        let output = run(without_uplink(), &[burst_of(500, &frame)]);
        assert_eq!(reasons(&output), [DropReason::NextHopUnresolved; 500]);
        assert_eq!(sent(&output, "default/pod10").len(), 100);
    }
}

#[test]
fn nobody_is_told_while_a_next_hop_is_only_being_asked_for() {
    for destination in [IpAddr::from(Node::B.pod(10)), Node::B.pod6(10).into()] {
        let frame = Udp::from_pod(destination).frame();
        let mut bench = Bench::new();
        // A flow of before, and the first packet of another one.
        let other = Udp { ports: (5001, 6000), ..Udp::from_pod(destination) }.frame();
        assert_eq!(bench.send("default/pod10", &frame).ports(), ["uplink"]);
        bench.tell(Adjacency::Pending);
        for frame in [&frame, &other] {
            let outcome = bench.send("default/pod10", frame);
            assert_eq!(outcome.drops, [DropReason::NextHopUnresolved]);
            assert_eq!(outcome.sent, []);
        }
        bench.tell(Adjacency::Unreachable);
        for frame in [&frame, &other] {
            let outcome = bench.send("default/pod10", frame);
            assert_eq!(outcome.drops, [DropReason::NextHopUnresolved]);
            let [(port, error)] = &outcome.sent[..] else { panic!("{:?}", outcome.sent) };
            assert_eq!(port, "default/pod10");
            let (kind, code, ..) = error_to_pod(error);
            assert_eq!((kind, code), if destination.is_ipv4() { (3, 1) } else { (1, 3) });
        }
    }
}

#[test]
fn unreachable_routes_tell_the_sender_and_blackholes_do_not() {
    use api::next_hop::{Discard, Via};
    let discard = |discard: Discard| {
        let mut objects = objects(Node::A);
        let prefix: std::net::Ipv4Addr = [198, 51, 100, 0].into();
        objects.push(route(prefix, 24, Via::Discard(discard.into())));
        let frame = Udp::from_pod(std::net::Ipv4Addr::new(198, 51, 100, 9)).frame();
        run(objects, &[input("default/pod10", [frame])])
    };
    let output = discard(Discard::Unreachable);
    assert_eq!(reasons(&output), [DropReason::RouteUnreachable]);
    assert_eq!(only_error(&output).0, 3);
    let output = discard(Discard::Blackhole);
    assert_eq!(reasons(&output), [DropReason::RouteBlackhole]);
    assert!(output.sent.is_empty());
}

#[test]
fn no_error_is_sent_about_an_icmp_error_or_a_later_fragment() {
    let mut error = echo_request(Node::B.pod(10), &[0x45; 60]);
    error[22] = 1;
    error[34] = 3;
    fix_ipv4_checksum(&mut error);
    let mut fragment = Udp { ttl: 1, ..Udp::from_pod(Node::B.pod(10)) }.frame();
    fragment[20..22].copy_from_slice(&[0x20, 0x10]);
    fix_ipv4_checksum(&mut fragment);
    let output = run_from("default/pod10", [error, fragment]);
    assert_eq!(output.drops.len(), 2);
    assert!(output.sent.is_empty(), "{:?}", output.sent);
}

/// The same frame over and over, in one moment.
fn burst_of(count: usize, frame: &[u8]) -> ReplayInput {
    let mut burst = input("default/pod10", vec![frame.to_vec(); count]);
    for captured in &mut burst.frames {
        captured.timestamp = std::time::Duration::from_secs(9);
    }
    burst
}

#[test]
fn errors_are_rate_limited_and_drops_are_not() {
    let frame = Udp { ttl: 1, ..Udp::from_pod(Node::B.pod(10)) }.frame();
    let output = run(objects(Node::A), &[burst_of(500, &frame)]);
    assert_eq!(output.drops.len(), 500);
    assert_eq!(sent(&output, "default/pod10").len(), 100);
}
