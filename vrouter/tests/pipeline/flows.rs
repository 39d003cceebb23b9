//! Connections: what is remembered, and what a change of configuration does to it.

use std::net::{IpAddr, Ipv4Addr};

use control_api::engine as api;
use encap::MacAddress;
use etherparse::PacketBuilder;
use vrouter::drops::DropReason;

use crate::{
    bench::Bench,
    rig::{Node, Udp, echo_request, fix_ipv4_checksum, inner, route, via_tunnel},
};

fn delete_route(prefix: [u8; 4], length: u32) -> api::object_key::Kind {
    let prefix = api::Prefix { address: prefix.into(), length };
    api::object_key::Kind::Route(api::RouteKey { vrf: 0, prefix: Some(prefix) })
}

/// A TCP segment between pods 10 and 11 of node `a`.
pub(crate) fn tcp(
    (from, to): (u8, u8),
    (sequence, acknowledgement): (u32, Option<u32>),
    flags: &str,
    payload: &[u8],
) -> Vec<u8> {
    let ports = if from == 10 { (40_000, 80) } else { (80, 40_000) };
    let mut builder =
        PacketBuilder::ethernet2(Node::A.pod_mac(from).octets(), Node::A.gateway_mac().octets())
            .ipv4(Node::A.pod(from).octets(), Node::A.pod(to).octets(), 64)
            .tcp(ports.0, ports.1, sequence, 65_000);
    if let Some(acknowledgement) = acknowledgement {
        builder = builder.ack(acknowledgement);
    }
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'F' => builder.fin(),
            'R' => builder.rst(),
            _ => builder.psh(),
        };
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn states(bench: &Bench) -> Vec<&'static str> {
    let mut states = Vec::new();
    bench
        .flows
        .table()
        .for_each_connection(bench.now.ticks(), |view| states.push(view.state.name()));
    states
}

#[test]
fn both_directions_of_a_tcp_connection_share_one_record() {
    let mut bench = Bench::new();
    let exchange = [
        ("default/pod10", tcp((10, 11), (100, None), "S", b""), "syn_sent"),
        ("default/pod11", tcp((11, 10), (900, Some(101)), "S", b""), "syn_received"),
        ("default/pod10", tcp((10, 11), (101, Some(901)), "", b""), "established"),
        ("default/pod10", tcp((10, 11), (101, Some(901)), "P", b"GET"), "established"),
        ("default/pod11", tcp((11, 10), (901, Some(104)), "P", b"200 OK"), "established"),
    ];
    for (port, frame, state) in exchange {
        let outcome = bench.send(port, &frame);
        assert_eq!(outcome.sent.len(), 1, "{:?}", outcome.drops);
        assert_ne!(outcome.ports(), [port]);
        assert_eq!(states(&bench), [state]);
    }
    let mut seen = Vec::new();
    bench.flows.table().for_each_connection(bench.now.ticks(), |view| {
        seen.push((view.forward_counters.packets, view.reply_counters.packets, view.actions));
    });
    let [(3, 2, actions)] = seen[..] else { panic!("{seen:?}") };
    let hop = |direction: usize| {
        let (index, _) = actions[direction].next_hop().unwrap();
        bench.config.next_hop_name(index).unwrap()
    };
    assert_eq!((hop(0), hop(1)), ("default/pod11", "default/pod10"));
    assert_eq!(actions[0].ingress(), bench.config.port_by_name("default/pod10").unwrap().0);
}

#[test]
fn a_segment_that_does_not_fit_its_connection_is_dropped() {
    let mut bench = Bench::new();
    bench.send("default/pod10", &tcp((10, 11), (100, None), "S", b""));
    bench.send("default/pod11", &tcp((11, 10), (900, Some(101)), "S", b""));
    bench.send("default/pod10", &tcp((10, 11), (101, Some(901)), "", b""));
    let far_off = tcp((10, 11), (900_000_000, Some(901)), "P", b"x");
    assert_eq!(bench.send("default/pod10", &far_off).drops, [DropReason::FlowInvalid]);
    let nonsense = tcp((10, 11), (101, None), "SF", b"");
    assert_eq!(bench.send("default/pod10", &nonsense).drops, [DropReason::FlowInvalid]);
    let reset = tcp((11, 10), (700_000_000, None), "R", b"");
    assert_eq!(bench.send("default/pod11", &reset).drops, [DropReason::FlowInvalid]);
    assert_eq!(states(&bench), ["established"]);
}

#[test]
fn a_burst_of_one_new_flow_opens_it_once() {
    let mut bench = Bench::new();
    let frames: Vec<_> = (0..64).map(|_| Udp::from_pod(Node::B.pod(10)).frame()).collect();
    let outcome = bench.send_burst(0, "default/pod10", &frames);
    assert_eq!(outcome.ports(), ["uplink"; 64]);
    assert_eq!(bench.connections(), 1);
}

#[test]
fn two_workers_that_see_both_directions_share_the_connection() {
    let mut bench = Bench::new();
    let request = Udp::from_pod(Node::A.pod(11));
    let answer = Udp {
        macs: (Node::A.pod_mac(11), Node::A.gateway_mac()),
        source: request.destination,
        destination: request.source,
        ports: (request.ports.1, request.ports.0),
        ..Udp::from_pod(Node::A.pod(10))
    };
    assert_eq!(bench.send_burst(0, "default/pod10", &[request.frame()]).ports(), ["default/pod11"]);
    assert_eq!(bench.send_burst(1, "default/pod11", &[answer.frame()]).ports(), ["default/pod10"]);
    assert_eq!(bench.connections(), 1);
    assert_eq!(states(&bench), ["established"]);
}

#[test]
fn a_changed_route_takes_known_flows_along() {
    let mut bench = Bench::new();
    bench.apply(vec![route(Ipv4Addr::new(172, 16, 0, 0), 12, via_tunnel())], vec![]);
    let packet = Udp::from_pod(Ipv4Addr::new(172, 16, 5, 5)).frame();
    assert_eq!(bench.send("default/pod10", &packet).ports(), ["uplink"]);
    let to_pod = || api::next_hop::Via::Port("default/pod11".into());
    // The same route leads elsewhere.
    bench.apply(vec![route(Ipv4Addr::new(172, 16, 0, 0), 12, to_pod())], vec![]);
    assert_eq!(bench.send("default/pod10", &packet).ports(), ["default/pod11"]);
    // A longer prefix takes over.
    bench.apply(vec![route(Ipv4Addr::new(172, 16, 5, 0), 24, via_tunnel())], vec![]);
    assert_eq!(bench.send("default/pod10", &packet).ports(), ["uplink"]);
    // It goes again, and then the rest.
    bench.apply(vec![], vec![delete_route([172, 16, 5, 0], 24)]);
    assert_eq!(bench.send("default/pod10", &packet).ports(), ["default/pod11"]);
    assert_eq!(bench.connections(), 1);
    bench.apply(vec![], vec![delete_route([172, 16, 0, 0], 12)]);
    let outcome = bench.send("default/pod10", &packet);
    assert_eq!(outcome.drops, [DropReason::RouteNone]);
    assert_eq!(bench.connections(), 0, "a connection without a way ends");
}

#[test]
fn a_change_elsewhere_makes_no_flow_stale() {
    let mut bench = Bench::new();
    let packet = Udp::from_pod(Node::B.pod(10)).frame();
    bench.send("default/pod10", &packet);
    let stale = |bench: &Bench| bench.flows.table().counters().stale;
    for third in 0..50 {
        bench.apply(vec![route(Ipv4Addr::new(172, 20, third, 0), 24, via_tunnel())], vec![]);
        assert_eq!(bench.send("default/pod10", &packet).ports(), ["uplink"]);
    }
    // Fifty prefixes of 65,535 scopes: one in a thousand runs would share one with the flow, but
    // the hash is fixed.
    assert_eq!(stale(&bench), 0);
    // Nor does another MAC address of the way to the node, and it is in force at once.
    bench.resolve(MacAddress::new([2, 2, 2, 2, 2, 2]));
    let outcome = bench.send("default/pod10", &packet);
    assert_eq!(outcome.sent[0].1[..6], [2; 6]);
    assert_eq!(stale(&bench), 0);
}

#[test]
fn a_reply_takes_the_way_of_today_and_waits_for_one_if_there_is_none() {
    let mut bench = Bench::new();
    // The node speaks from an address that nobody has a route to.
    let mut request = Udp::from_pod(Node::A.pod(10));
    request.source = IpAddr::from([172, 17, 0, 9]);
    request.macs.0 = Node::A.mac();
    assert_eq!(bench.send("host", &request.frame()).ports(), ["default/pod10"]);
    let reply = Udp { ports: (6000, 5000), ..Udp::from_pod(Ipv4Addr::new(172, 17, 0, 9)) }.frame();
    let outcome = bench.send("default/pod10", &reply);
    assert_eq!(outcome.drops, [DropReason::RouteNone]);
    let to_host = api::next_hop::Via::Port("host".into());
    bench.apply(vec![route(Ipv4Addr::new(172, 17, 0, 0), 16, to_host)], vec![]);
    assert_eq!(bench.send("default/pod10", &reply).ports(), ["host"]);
    assert_eq!(bench.connections(), 1);
    assert_eq!(states(&bench), ["established"]);
}

#[test]
fn a_worker_with_an_older_configuration_goes_by_it_and_spoils_nothing() {
    let mut bench = Bench::new();
    bench.apply(vec![route(Ipv4Addr::new(172, 16, 0, 0), 12, via_tunnel())], vec![]);
    let packet = vec![Udp::from_pod(Ipv4Addr::new(172, 16, 5, 5)).frame()];
    assert_eq!(bench.send_burst(1, "default/pod10", &packet).ports(), ["uplink"]);
    let to_pod = api::next_hop::Via::Port("default/pod11".into());
    bench.apply_unpublished(vec![route(Ipv4Addr::new(172, 16, 0, 0), 12, to_pod)], vec![]);
    bench.publish_to(&[0]);
    assert_eq!(bench.send_burst(0, "default/pod10", &packet).ports(), ["default/pod11"]);
    // Worker 1 has not taken the change yet: it acts upon what it finds, and leaves it.
    bench.send_burst(1, "default/pod10", &packet);
    assert_eq!(bench.send_burst(0, "default/pod10", &packet).ports(), ["default/pod11"]);
}

#[test]
fn a_full_table_makes_room_by_evicting() {
    let mut bench = Bench::with(crate::rig::objects(Node::A), 256);
    for port in 0..2000 {
        let packet = Udp { ports: (port, 53), ..Udp::from_pod(Node::B.pod(10)) }.frame();
        let outcome = bench.send("default/pod10", &packet);
        assert_eq!(outcome.ports(), ["uplink"], "flow {port}: {:?}", outcome.drops);
    }
    assert!(bench.connections() <= 256, "{}", bench.connections());
}

#[test]
fn a_flow_keeps_its_outer_source_port_through_a_change() {
    let mut bench = Bench::new();
    let packet = Udp::from_pod(Node::B.pod(10)).frame();
    let first = bench.send("default/pod10", &packet).sent.remove(0).1;
    let peer_route = Ipv4Addr::new(10, 244, 2, 0);
    bench.apply(vec![route(peer_route, 25, via_tunnel())], vec![]);
    let second = bench.send("default/pod10", &packet).sent.remove(0).1;
    assert_eq!(first[34..36], second[34..36]);
}

/// An ICMP error of this type and code from `source`, about `quoted` (an IP packet), to pod 10 of
/// node `a` through the tunnel or from pod 11.
fn error_frame(
    macs: (MacAddress, MacAddress),
    source: IpAddr,
    destination: IpAddr,
    (kind, code): (u8, u8),
    quoted: &[u8],
) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(macs.0.octets(), macs.1.octets());
    let mut frame = Vec::new();
    match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4_raw(kind, code, [0; 4])
            .write(&mut frame, quoted),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6_raw(kind, code, [0; 4])
            .write(&mut frame, quoted),
        _ => panic!("one family"),
    }
    .unwrap();
    frame
}

#[test]
fn an_icmp_error_follows_the_flow_that_it_quotes_back_to_the_sender() {
    for (destination, unreachable) in
        [(IpAddr::from(Node::A.pod(11)), (3, 3)), (Node::A.pod6(11).into(), (1, 4))]
    {
        let mut bench = Bench::new();
        let udp = Udp::from_pod(destination);
        let delivered = bench.send("default/pod10", &udp.frame()).sent.remove(0).1;
        let macs = (Node::A.pod_mac(11), Node::A.gateway_mac());
        let error = |quoted: &[u8]| error_frame(macs, destination, udp.source, unreachable, quoted);
        let outcome = bench.send("default/pod11", &error(&delivered[14..]));
        assert_eq!(outcome.ports(), ["default/pod10"]);
        assert_eq!(bench.connections(), 1);
        // About a packet that was never sent.
        let mut other = delivered[14..].to_vec();
        let port = if destination.is_ipv4() { 20 } else { 40 };
        other[port] ^= 0xff;
        let outcome = bench.send("default/pod11", &error(&other));
        assert_eq!(outcome.drops, [DropReason::IcmpUnrelated]);
        assert_eq!(bench.connections(), 1);
        // About nothing that can be read.
        let outcome = bench.send("default/pod11", &error(&delivered[14..20]));
        assert_eq!(outcome.drops, [DropReason::IcmpUnrelated]);
    }
}

#[test]
fn an_icmp_error_to_somebody_else_than_the_quoted_sender_is_unrelated() {
    let mut bench = Bench::new();
    let delivered = bench.send("default/pod10", &Udp::from_pod(Node::A.pod(11)).frame());
    let quoted = &delivered.sent[0].1[14..];
    let macs = (Node::A.pod_mac(11), Node::A.gateway_mac());
    let error = error_frame(macs, Node::A.pod(11).into(), Node::A.ip().into(), (3, 1), quoted);
    assert_eq!(bench.send("default/pod11", &error).drops, [DropReason::IcmpUnrelated]);
}

#[test]
fn an_icmp_error_from_a_router_beyond_the_tunnel_reaches_the_pod() {
    let mut bench = Bench::new();
    let sent = bench.send("default/pod10", &Udp::from_pod(Node::B.pod(10)).frame()).sent;
    let quoted = inner(&sent[0].1)[14..].to_vec();
    let error = error_frame(
        (Node::B.mac(), Node::A.mac()),
        Node::B.gateway().into(),
        Node::A.pod(10).into(),
        (11, 0),
        &quoted,
    );
    // As node b encapsulates it.
    let mut at_b = Bench::with(crate::rig::objects(Node::B), 64);
    at_b.send("uplink", &sent[0].1);
    let mut outer = sent[0].1[..50].to_vec();
    outer.extend_from_slice(&error);
    let total = u16::try_from(outer.len() - 14).unwrap();
    outer[16..18].copy_from_slice(&total.to_be_bytes());
    outer[38..40].copy_from_slice(&(total - 20).to_be_bytes());
    outer[26..30].copy_from_slice(&Node::B.ip().octets());
    outer[30..34].copy_from_slice(&Node::A.ip().octets());
    fix_ipv4_checksum(&mut outer);
    let outcome = bench.send("uplink", &outer);
    assert_eq!(outcome.ports(), ["default/pod10"], "{:?}", outcome.drops);
}

#[test]
fn echo_and_its_answer_are_one_connection() {
    let mut bench = Bench::new();
    let request = echo_request(Node::A.pod(11), b"ping");
    let delivered = bench.send("default/pod10", &request).sent.remove(0).1;
    let mut answer = delivered;
    answer[..6].copy_from_slice(&Node::A.gateway_mac().octets());
    answer[6..12].copy_from_slice(&Node::A.pod_mac(11).octets());
    answer[26..30].copy_from_slice(&Node::A.pod(11).octets());
    answer[30..34].copy_from_slice(&Node::A.pod(10).octets());
    answer[34] = 0;
    fix_ipv4_checksum(&mut answer);
    assert_eq!(bench.send("default/pod11", &answer).ports(), ["default/pod10"]);
    assert_eq!((bench.connections(), states(&bench)), (1, vec!["established"]));
}
