//! Connection tracking where policy isolates: what it keeps open, what it does not let in, and what
//! a flood at a closed door costs.

use std::net::IpAddr;

use control_api::engine as api;
use vrouter::drops::DropReason;

use crate::{
    bench::Bench,
    conntrack::segments::{ACK, Conversation, PSH, RST, SYN, Segment},
    related::time_exceeded,
    rig::{Node, Udp, changed, objects},
};

const CLIENT: u16 = 40_000;
/// A set without rules: nothing comes in.
const NOTHING: u64 = 7;

/// Node `a`, where nobody may open a connection to pod 10.
fn bench(connections_max: u32) -> Bench {
    let mut objects = changed(objects(Node::A), |object| {
        if let api::object::Kind::Port(port) = object
            && port.name == "default/pod10"
        {
            port.ingress_policy = NOTHING;
        }
    });
    let policies = vec!["default/closed".into()];
    let set = api::PolicySet { id: NOTHING, policies, rules: vec![] };
    objects.push(api::Object { kind: Some(api::object::Kind::PolicySet(set)) });
    Bench::with(objects, connections_max)
}

fn conversation() -> Conversation {
    Conversation::new([1000, 900_000], [Some(7), Some(7)])
}

fn outcome(bench: &mut Bench, segment: &Segment, is_ipv4: bool) -> Option<DropReason> {
    let port = if segment.is_reply { "default/pod11" } else { "default/pod10" };
    let outcome = bench.send(port, &segment.frame(is_ipv4, CLIENT));
    assert_eq!(outcome.sent.len() + outcome.drops.len(), 1);
    outcome.drops.first().copied()
}

#[test]
fn answers_and_errors_come_in_with_their_connection_and_nothing_else_does() {
    for is_ipv4 in [true, false] {
        let mut bench = bench(64);
        let mut all = conversation();
        all.handshake().send(false, ACK | PSH, 10).send(true, ACK | PSH, 10);
        for segment in &all.segments {
            assert_eq!(outcome(&mut bench, segment, is_ipv4), None);
        }
        let (own, other): (IpAddr, IpAddr) = if is_ipv4 {
            (Node::A.pod(10).into(), Node::A.pod(11).into())
        } else {
            (Node::A.pod6(10).into(), Node::A.pod6(11).into())
        };
        let macs = (Node::A.pod_mac(11), Node::A.gateway_mac());
        let about = |segment: &Segment| {
            let quoted = segment.frame(is_ipv4, CLIENT);
            time_exceeded(macs, other, own, &quoted[14..])
        };
        let error = about(&all.segments[0]);
        assert_eq!(bench.send("default/pod11", &error).ports(), ["default/pod10"]);
        // About a connection that there is not.
        let other_client = all.segments[0].frame(is_ipv4, CLIENT + 1);
        let error = time_exceeded(macs, other, own, &other_client[14..]);
        assert_eq!(bench.send("default/pod11", &error).drops, [DropReason::IcmpUnrelated]);
        // A connection of the other's own.
        let knock = Segment { is_reply: true, ..all.segments[0] };
        let outcome = bench.send("default/pod11", &knock.frame(is_ipv4, CLIENT + 1));
        assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied]);
        assert_eq!(bench.connections(), 1);
    }
}

#[test]
fn an_answer_to_nothing_is_not_let_in_by_pick_up() {
    for is_ipv4 in [true, false] {
        let mut bench = bench(64);
        for flags in [ACK, ACK | PSH, SYN | ACK, RST, RST | ACK] {
            let segment = conversation().send(true, flags, 0).segments[0];
            let denied = Some(DropReason::PolicyIngressDenied);
            assert_eq!(outcome(&mut bench, &segment, is_ipv4), denied);
        }
        assert_eq!(bench.connections(), 0);
    }
}

#[test]
fn after_a_restart_answers_come_in_again_once_the_isolated_side_has_spoken() {
    for is_ipv4 in [true, false] {
        let mut bench = bench(64);
        let mut all = conversation();
        all.handshake().send(true, ACK | PSH, 500).send(false, ACK, 0).send(true, ACK | PSH, 500);
        let [.., answer, word, again] = &all.segments[..] else { panic!("too short") };
        let denied = Some(DropReason::PolicyIngressDenied);
        assert_eq!(outcome(&mut bench, answer, is_ipv4), denied);
        assert_eq!(bench.connections(), 0);
        assert_eq!(outcome(&mut bench, word, is_ipv4), None);
        assert_eq!(outcome(&mut bench, again, is_ipv4), None);
        assert_eq!(outcome(&mut bench, answer, is_ipv4), None);
    }
}

#[test]
fn a_flood_at_a_closed_door_costs_no_place_in_the_table() {
    const CONNECTIONS: u32 = 256;
    let mut bench = bench(CONNECTIONS);
    // The table is full of connections that nobody answered.
    for port in 0..1000 {
        let packet = Udp { ports: (port, 53), ..Udp::from_pod(Node::B.pod(10)) };
        bench.send("default/pod10", &packet.frame());
    }
    let before = bench.counters();
    assert_eq!(bench.connections(), CONNECTIONS);
    for is_ipv4 in [true, false] {
        let syn = conversation().send(true, SYN, 0).segments[0];
        let ports: Vec<u16> = (1..=2560).collect();
        for ports in ports.chunks(64) {
            let frames: Vec<_> = ports.iter().map(|port| syn.frame(is_ipv4, *port)).collect();
            let outcome = bench.send_burst(0, "default/pod11", &frames);
            assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied; 64]);
        }
    }
    let after = bench.counters();
    assert_eq!((after.inserted, after.evicted_half_open), {
        (before.inserted, before.evicted_half_open)
    });
    assert_eq!(bench.connections(), CONNECTIONS);
}
