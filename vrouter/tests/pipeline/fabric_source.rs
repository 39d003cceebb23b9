//! Whom a packet from the fabric may claim to come from.

use std::net::{IpAddr, Ipv4Addr};

use control_api::engine as api;
use encap::MacAddress;
use etherparse::PacketBuilder;
use vrouter::drops::DropReason;

use crate::{
    bench::Bench,
    rig::{Node, Udp, changed, frame_from_b, from_b, objects, route},
};

/// From `source` to pod 10 of node `a`.
fn to_pod(source: IpAddr) -> Udp {
    let destination =
        if source.is_ipv4() { IpAddr::from(Node::A.pod(10)) } else { Node::A.pod6(10).into() };
    Udp { source, ..Udp::from_pod(destination) }
}

/// A reset of the connection from pod `from` to pod `to` of node `a`, as if node `b` had sent it.
fn forged_reset((from, to): (u8, u8), ports: (u16, u16), sequence: u32) -> Vec<u8> {
    let mut inner = Vec::new();
    PacketBuilder::ethernet2(Node::B.mac().octets(), Node::A.mac().octets())
        .ipv4(Node::A.pod(from).octets(), Node::A.pod(to).octets(), 64)
        .tcp(ports.0, ports.1, sequence, 65_000)
        .rst()
        .write(&mut inner, &[])
        .unwrap();
    frame_from_b(&inner)
}

fn syn() -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(Node::A.pod_mac(10).octets(), Node::A.gateway_mac().octets())
        .ipv4(Node::A.pod(10).octets(), Node::A.pod(11).octets(), 64)
        .tcp(40_000, 80, 100, 65_000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

#[test]
fn what_comes_out_of_a_tunnel_does_not_come_from_this_node() {
    for source in [
        IpAddr::from(Node::A.pod(11)),
        Node::A.pod6(11).into(),
        Node::A.ip().into(),
        Node::A.ip6().into(),
        Node::A.gateway().into(),
        Node::A.gateway6().into(),
    ] {
        let mut bench = Bench::new();
        let outcome = bench.send("uplink", &from_b(&to_pod(source)));
        assert_eq!(outcome.drops, [DropReason::RpfSpoofedSource], "{source}: {outcome:?}");
        assert!(outcome.sent.is_empty());
        assert_eq!(bench.connections(), 0);
    }
}

#[test]
fn a_source_that_only_routes_through_a_port_may_come_out_of_a_tunnel() {
    let mut objects = objects(Node::A);
    let host = || api::next_hop::Via::Port("host".into());
    objects.push(route(Ipv4Addr::UNSPECIFIED, 0, host()));
    let mut bench = Bench::with(objects, 64);
    let outcome = bench.send("uplink", &from_b(&to_pod([203, 0, 113, 9].into())));
    assert_eq!(outcome.ports(), ["default/pod10"], "{:?}", outcome.drops);
}

#[test]
fn a_forged_packet_of_a_known_local_connection_is_dropped_and_changes_nothing() {
    let mut bench = Bench::new();
    assert_eq!(bench.send("default/pod10", &syn()).ports(), ["default/pod11"]);
    let forged =
        [forged_reset((10, 11), (40_000, 80), 101), forged_reset((11, 10), (80, 40_000), 0)];
    for frame in forged {
        assert_eq!(bench.send("uplink", &frame).drops, [DropReason::RpfSpoofedSource]);
    }
    let mut seen = Vec::new();
    bench.flows.table().for_each_connection(bench.now.ticks(), |view| {
        seen.push((view.state.name(), view.forward_counters.packets, view.reply_counters.packets));
    });
    assert_eq!(seen, [("syn_sent", 1, 0)]);
}

#[test]
fn a_stale_connection_is_held_to_the_same_rule() {
    for is_ipv4 in [true, false] {
        let (there, packet) = if is_ipv4 {
            (IpAddr::from(Node::B.pod(10)), Udp::from_pod(Node::B.pod(10)))
        } else {
            (Node::B.pod6(10).into(), Udp::from_pod(Node::B.pod6(10)))
        };
        let mut bench = Bench::new();
        assert_eq!(bench.send("default/pod10", &packet.frame()).ports(), ["uplink"]);
        let answer = Udp { ports: (packet.ports.1, packet.ports.0), ..to_pod(there) };
        assert_eq!(bench.send("uplink", &from_b(&answer)).ports(), ["default/pod10"]);
        // The pod moves here; its answers do not come from there any more.
        let moved = changed(objects(Node::A), |kind| {
            if let api::object::Kind::Port(port) = kind
                && port.name == "default/pod11"
            {
                port.name = "default/moved".into();
                port.mac = MacAddress::from_ip(there).octets().into();
                port.addresses = vec![match there {
                    IpAddr::V4(address) => address.octets().into(),
                    IpAddr::V6(address) => address.octets().into(),
                }];
            }
        });
        let is_moved = |object: &api::Object| matches!(&object.kind, Some(api::object::Kind::Port(port)) if port.name == "default/moved");
        bench.apply(moved.into_iter().filter(is_moved).collect(), vec![]);
        let forged = bench.send("uplink", &from_b(&answer));
        assert_eq!(forged.drops, [DropReason::RpfSpoofedSource], "{:?}", forged.ports());
        assert_eq!(bench.connections(), 1);
        let outcome = bench.send("default/pod10", &packet.frame());
        assert_eq!(outcome.ports(), ["default/moved"], "{:?}", outcome.drops);
        // And a later one, of a connection that is not stale.
        let forged = bench.send("uplink", &from_b(&answer));
        assert_eq!(forged.drops, [DropReason::RpfSpoofedSource]);
    }
}

/// The description of pod 11 at another address.
fn pod_at(address: IpAddr) -> api::Object {
    let moved = changed(objects(Node::A), |kind| {
        if let api::object::Kind::Port(port) = kind
            && port.name == "default/pod11"
        {
            port.name = "default/new".into();
            port.mac = MacAddress::from_ip(address).octets().into();
            port.addresses = vec![match address {
                IpAddr::V4(address) => address.octets().into(),
                IpAddr::V6(address) => address.octets().into(),
            }];
        }
    });
    let is_new = |object: &api::Object| matches!(&object.kind, Some(api::object::Kind::Port(port)) if port.name == "default/new");
    moved.into_iter().find(is_new).unwrap()
}

/// The description of the VRF with another gateway.
fn gateway_at(address: IpAddr) -> api::Object {
    let gateway = match address {
        IpAddr::V4(address) => vec![address.octets().into(), Node::A.gateway6().octets().into()],
        IpAddr::V6(address) => vec![Node::A.gateway().octets().into(), address.octets().into()],
    };
    let moved = changed(objects(Node::A), |kind| {
        if let api::object::Kind::Vrf(vrf) = kind {
            vrf.gateway_addresses.clone_from(&gateway);
        }
    });
    let is_vrf = |object: &api::Object| matches!(&object.kind, Some(api::object::Kind::Vrf(_)));
    moved.into_iter().find(is_vrf).unwrap()
}

/// Addresses that nothing routes at first, and one that a router would not even forward to.
fn unrouted() -> [IpAddr; 4] {
    ["203.0.113.9", "2001:db8:99::9", "169.254.7.7", "fe80::7"].map(|text| text.parse().unwrap())
}

#[test]
fn a_flow_whose_source_had_no_route_is_judged_again_once_it_has_one() {
    for become_local in [pod_at, gateway_at] {
        for source in unrouted() {
            let packet = from_b(&to_pod(source));
            let mut bench = Bench::new();
            for _ in 0..2 {
                let outcome = bench.send("uplink", &packet);
                assert_eq!(outcome.ports(), ["default/pod10"], "{source}: {:?}", outcome.drops);
            }
            bench.apply(vec![become_local(source)], vec![]);
            for _ in 0..2 {
                let forged = bench.send("uplink", &packet);
                assert_eq!(forged.drops, [DropReason::RpfSpoofedSource], "{source}");
                assert!(forged.sent.is_empty());
            }
        }
    }
}

#[test]
fn a_flow_whose_source_lost_its_route_is_judged_again_once_it_has_one() {
    for source in [IpAddr::from(Node::B.pod(10)), Node::B.pod6(10).into()] {
        let packet = from_b(&to_pod(source));
        let mut bench = Bench::new();
        assert_eq!(bench.send("uplink", &packet).ports(), ["default/pod10"]);
        let routes = objects(Node::A).into_iter().filter_map(|object| match object.kind? {
            api::object::Kind::Route(route) => Some(api::object_key::Kind::Route(route.key?)),
            _ => None,
        });
        bench.apply(vec![], routes.collect());
        assert_eq!(bench.send("uplink", &packet).ports(), ["default/pod10"]);
        bench.apply(vec![pod_at(source)], vec![]);
        assert_eq!(bench.send("uplink", &packet).drops, [DropReason::RpfSpoofedSource]);
    }
}

/// Sources that are this node's, of one family each.
fn own_sources() -> [IpAddr; 6] {
    [
        Node::A.pod(11).into(),
        Node::A.pod6(11).into(),
        Node::A.ip().into(),
        Node::A.ip6().into(),
        Node::A.gateway().into(),
        Node::A.gateway6().into(),
    ]
}

#[test]
fn nobody_is_told_about_a_forged_packet_that_ran_out_of_hops() {
    for source in own_sources() {
        for ttl in [0, 1] {
            let mut bench = Bench::new();
            let outcome = bench.send("uplink", &from_b(&Udp { ttl, ..to_pod(source) }));
            assert_eq!(outcome.drops, [DropReason::RpfSpoofedSource], "{source}: {outcome:?}");
            assert!(outcome.sent.is_empty(), "{source}: {:?}", outcome.ports());
        }
    }
    let mut bench = Bench::new();
    let honest = Udp { ttl: 1, ..to_pod(Node::B.pod(10).into()) };
    let outcome = bench.send("uplink", &from_b(&honest));
    assert_eq!(outcome.drops, [DropReason::TtlExceeded]);
    assert_eq!(outcome.ports(), ["uplink"]);
}

#[test]
fn nobody_is_told_about_a_forged_packet_without_a_route() {
    for source in own_sources() {
        let destination: IpAddr =
            if source.is_ipv4() { [10, 9, 0, 1].into() } else { "fd99::1".parse().unwrap() };
        let mut bench = Bench::new();
        let outcome = bench.send("uplink", &from_b(&Udp { destination, ..to_pod(source) }));
        assert_eq!(outcome.drops, [DropReason::RpfSpoofedSource], "{source}: {outcome:?}");
        assert!(outcome.sent.is_empty(), "{source}: {:?}", outcome.ports());
    }
}

/// An echo request to the gateway of node `a`, as node `b` would send it.
fn echo_to_gateway(source: IpAddr) -> Vec<u8> {
    let macs = PacketBuilder::ethernet2(Node::B.mac().octets(), Node::A.mac().octets());
    let mut inner = Vec::new();
    match source {
        IpAddr::V4(source) => macs
            .ipv4(source.octets(), Node::A.gateway().octets(), 64)
            .icmpv4_echo_request(77, 1)
            .write(&mut inner, b"ping"),
        IpAddr::V6(source) => macs
            .ipv6(source.octets(), Node::A.gateway6().octets(), 64)
            .icmpv6_echo_request(77, 1)
            .write(&mut inner, b"ping"),
    }
    .unwrap();
    frame_from_b(&inner)
}

#[test]
fn the_gateway_does_not_answer_a_forged_echo() {
    for source in own_sources() {
        let outcome = Bench::new().send("uplink", &echo_to_gateway(source));
        assert_eq!(outcome.drops, [DropReason::RpfSpoofedSource], "{source}: {outcome:?}");
        assert!(outcome.sent.is_empty(), "{source}: {:?}", outcome.ports());
    }
    let outcome = Bench::new().send("uplink", &echo_to_gateway(Node::B.pod(10).into()));
    assert_eq!(outcome.ports(), ["uplink"], "{:?}", outcome.drops);
}
