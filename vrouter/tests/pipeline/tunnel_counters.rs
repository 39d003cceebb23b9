//! What is counted of each tunnel.

use control_api::engine as api;
use vrouter::{drops::DropReason, stats::TunnelTotals};

use crate::{
    bench::Bench,
    rig::{Node, Udp, changed, from_b, objects, objects_over},
};

const PEER: &str = "peer/ipv4";

/// The answer of pod 10 of node `b` to [`Udp::from_pod`].
fn answer() -> Udp {
    Udp {
        source: Node::B.pod(10).into(),
        destination: Node::A.pod(10).into(),
        ports: (6000, 5000),
        ..Udp::from_pod(Node::B.pod(10))
    }
}

#[test]
fn what_goes_into_a_tunnel_and_comes_out_is_counted_as_inner_frames() {
    let mut bench = Bench::new();
    let request = Udp::from_pod(Node::B.pod(10)).frame();
    for _ in 0..3 {
        assert_eq!(bench.send("default/pod10", &request).ports(), ["uplink"]);
    }
    let reply = from_b(&answer());
    let burst = vec![reply.clone(); 5];
    assert_eq!(bench.send_burst(1, "uplink", &burst).sent.len(), 5);
    let expected = TunnelTotals {
        rx_packets: 5,
        rx_bytes: 5 * (reply.len() as u64 - 50),
        tx_packets: 3,
        tx_bytes: 3 * request.len() as u64,
    };
    assert_eq!(bench.tunnel(PEER), expected);
    // What stays on the node is none of a tunnel's.
    bench.send("default/pod10", &Udp::from_pod(Node::A.pod(11)).frame());
    assert_eq!(bench.tunnel(PEER), expected);
}

#[test]
fn packets_that_die_behind_the_tunnel_came_out_of_it_and_strangers_did_not() {
    let mut bench = Bench::new();
    let mut nowhere = answer();
    nowhere.destination = [10, 9, 0, 1].into();
    assert_eq!(bench.send("uplink", &from_b(&nowhere)).drops, [DropReason::RouteNone]);
    assert_eq!(bench.tunnel(PEER).rx_packets, 1);
    let mut stranger = from_b(&answer());
    stranger[29] = 77;
    crate::rig::fix_ipv4_checksum(&mut stranger);
    stranger[40..42].fill(0);
    assert_eq!(bench.send("uplink", &stranger).ports(), ["default/pod10"]);
    assert_eq!(bench.tunnel(PEER).rx_packets, 1);
    // And back to the one that is known.
    assert_eq!(bench.send("uplink", &from_b(&answer())).ports(), ["default/pod10"]);
    assert_eq!(bench.tunnel(PEER).rx_packets, 2);
}

#[test]
fn fragments_are_counted_one_by_one() {
    let narrow = changed(objects(Node::A), |kind| {
        if let api::object::Kind::Tunnel(tunnel) = kind {
            tunnel.mtu_bytes = 600;
        }
    });
    let mut bench = Bench::with(narrow, 64);
    let mut frame = Udp { payload: vec![1; 1400], ..Udp::from_pod(Node::B.pod(10)) }.frame();
    frame[20] = 0;
    crate::rig::fix_ipv4_checksum(&mut frame);
    bench.send("default/pod10", &frame);
    let inner_bytes = 3 * 34 + 8 + 1400;
    let totals = bench.tunnel(PEER);
    assert_eq!((totals.tx_packets, totals.tx_bytes), (3, inner_bytes));
}

#[test]
fn a_tunnel_that_comes_again_starts_at_zero() {
    let mut bench = Bench::new();
    bench.send("default/pod10", &Udp::from_pod(Node::B.pod(10)).frame());
    assert_eq!(bench.tunnel(PEER).tx_packets, 1);
    let is_of_tunnel = |object: &api::Object| {
        matches!(&object.kind, Some(api::object::Kind::Tunnel(_) | api::object::Kind::Route(_)))
    };
    let again: Vec<_> = objects(Node::A).into_iter().filter(is_of_tunnel).collect();
    let deletes = again.iter().filter_map(|object| match object.kind.clone()? {
        api::object::Kind::Tunnel(tunnel) => Some(api::object_key::Kind::Tunnel(tunnel.name)),
        api::object::Kind::Route(route) => Some(api::object_key::Kind::Route(route.key?)),
        _ => None,
    });
    bench.apply(vec![], deletes.collect());
    bench.apply(again, vec![]);
    bench.resolve(encap::MacAddress::from_ip(Node::B.ip().into()));
    assert_eq!(bench.tunnel(PEER), TunnelTotals::default());
    bench.send("default/pod10", &Udp::from_pod(Node::B.pod(10)).frame());
    assert_eq!(bench.tunnel(PEER).tx_packets, 1);
}

#[test]
fn a_tunnel_over_ipv6_is_counted_too() {
    let mut bench = Bench::with(objects_over(Node::A, true), 64);
    let request = Udp::from_pod(Node::B.pod6(10)).frame();
    let there = bench.send("default/pod10", &request).sent.remove(0).1;
    assert_eq!(bench.tunnel(PEER).tx_bytes, request.len() as u64);
    let mut at_b = Bench::with(objects_over(Node::B, true), 64);
    assert_eq!(at_b.send("uplink", &there).ports(), ["default/pod10"]);
    let totals = at_b.tunnel(PEER);
    assert_eq!((totals.rx_packets, totals.rx_bytes), (1, request.len() as u64));
}
