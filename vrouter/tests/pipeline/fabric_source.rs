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
