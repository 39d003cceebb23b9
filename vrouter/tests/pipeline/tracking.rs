//! Connection tracking in the pipeline: what is picked up, what counts, what a flood costs.

use flowtable::Tracking;
use vrouter::{
    drops::DropReason,
    packet::{Checksum, Gso, Offload},
};

use crate::{
    bench::Bench,
    conntrack::segments::{ACK, Conversation, FIN, PSH, RST, SYN, Segment},
    rig::{Node, Udp, objects},
};

const CLIENT: u16 = 40_000;

fn port_of(segment: &Segment) -> &'static str {
    if segment.is_reply { "default/pod11" } else { "default/pod10" }
}

/// Sends segments, each of which must pass.
fn pass(bench: &mut Bench, segments: &[Segment], is_ipv4: bool, client_port: u16) {
    for segment in segments {
        let outcome = bench.send(port_of(segment), &segment.frame(is_ipv4, client_port));
        assert_eq!(outcome.sent.len(), 1, "{segment:?}: {:?}", outcome.drops);
    }
}

fn conversation() -> Conversation {
    Conversation::new([1000, 900_000], [Some(7), Some(7)])
}

/// A handshake, and a word of each side.
fn established() -> Vec<Segment> {
    conversation().handshake().send(false, ACK | PSH, 10).send(true, ACK | PSH, 10).segments.clone()
}

#[test]
fn an_answer_to_a_syn_that_nobody_sent_starts_nothing() {
    for is_ipv4 in [true, false] {
        let mut bench = Bench::new();
        let handshake = conversation().handshake().segments.clone();
        let outcome = bench.send("default/pod11", &handshake[1].frame(is_ipv4, CLIENT));
        assert_eq!(outcome.drops, [DropReason::FlowInvalid]);
        let reset = Segment { flags: RST, ..handshake[1] };
        let outcome = bench.send("default/pod11", &reset.frame(is_ipv4, CLIENT));
        assert_eq!(outcome.drops, [DropReason::FlowInvalid]);
        assert_eq!(bench.connections(), 0);
    }
}

#[test]
fn after_a_restart_a_connection_goes_on_whichever_side_speaks_first() {
    let rest = |first_is_reply: bool| {
        let mut all = conversation();
        all.handshake().send(false, ACK | PSH, 10).send(true, ACK | PSH, 10);
        let before = all.segments.len();
        all.send(first_is_reply, ACK | PSH, 1000)
            .send(!first_is_reply, ACK, 0)
            .send(first_is_reply, ACK | PSH, 1400)
            .send(!first_is_reply, ACK | PSH, 5)
            .send(true, FIN | ACK, 0)
            .send(false, FIN | ACK, 0)
            .send(true, ACK, 0);
        all.segments.split_off(before)
    };
    for is_ipv4 in [true, false] {
        for first_is_reply in [true, false] {
            let mut bench = Bench::new();
            pass(&mut bench, &rest(first_is_reply), is_ipv4, CLIENT);
            assert_eq!(bench.connections(), 1);
        }
    }
}

#[test]
fn a_picked_up_connection_survives_that_its_first_segment_was_sent_again() {
    // What the sender had on the way when the engine started is acknowledged all at once.
    let mut bench = Bench::new();
    let mut all = conversation();
    all.handshake();
    let again = all.segments.len();
    all.send(true, ACK | PSH, 1400);
    let lost = all.segments.len();
    for _ in 0..20 {
        all.send(true, ACK | PSH, 1400);
    }
    let received = all.segments.len();
    all.send(false, ACK, 0).send(true, ACK | PSH, 1400).send(false, ACK, 0);
    pass(&mut bench, &all.segments[again..lost], true, CLIENT);
    pass(&mut bench, &all.segments[received..], true, CLIENT);
}

#[test]
fn without_pick_up_the_middle_of_an_unknown_connection_is_dropped() {
    let tracking = Tracking { midstream_pickup: false, ..Tracking::default() };
    let mut bench = Bench::tracking(objects(Node::A), 64, tracking);
    let segments = established();
    for segment in &segments[3..] {
        let outcome = bench.send(port_of(segment), &segment.frame(true, CLIENT));
        assert_eq!(outcome.drops, [DropReason::FlowInvalid]);
    }
    assert_eq!(bench.connections(), 0);
    pass(&mut bench, &segments, true, CLIENT);
}

#[test]
fn a_segment_in_one_large_packet_counts_with_all_its_bytes() {
    for is_ipv4 in [true, false] {
        for has_fast_path in [true, false] {
            let mut bench = Bench::new();
            bench.set_fast_path(has_fast_path);
            let mut all = conversation();
            all.handshake().send(true, ACK, 0).send(false, ACK | PSH, 60_000).send(true, ACK, 0);
            let (large, rest) = all.segments[4..].split_first().unwrap();
            pass(&mut bench, &all.segments[..4], is_ipv4, CLIENT);
            let segment_bytes = 1370;
            let gso =
                if is_ipv4 { Gso::TcpV4 { segment_bytes } } else { Gso::TcpV6 { segment_bytes } };
            let offload = Offload { checksum: Checksum::Partial, gso: Some(gso) };
            let frame = large.frame(is_ipv4, CLIENT);
            let outcome = bench.send_unfinished("default/pod10", &[(frame, offload)]);
            assert_eq!(outcome.ports(), ["default/pod11"], "{:?}", outcome.drops);
            // An acknowledgement of one byte more than that is of what was never sent.
            let mut beyond = rest[0];
            beyond.acknowledgement += 1;
            let outcome = bench.send("default/pod11", &beyond.frame(is_ipv4, CLIENT));
            assert_eq!(outcome.drops, [DropReason::FlowInvalid]);
            pass(&mut bench, rest, is_ipv4, CLIENT);
        }
    }
}

/// Sends first packets of ten times as many connections as the table holds.
fn flood(bench: &mut Bench, connections_max: u32, frame: impl Fn(u16) -> Vec<u8>) -> [usize; 2] {
    let (mut passed, mut refused) = (0, 0);
    let ports: Vec<u16> = (0..10 * connections_max).map(|at| u16::try_from(at).unwrap()).collect();
    for ports in ports.chunks(64) {
        let frames: Vec<_> = ports.iter().map(|port| frame(*port)).collect();
        let outcome = bench.send_burst(0, "default/pod10", &frames);
        passed += outcome.sent.len();
        refused += outcome.drops.len();
        assert!(outcome.drops.iter().all(|reason| *reason == DropReason::FlowTableFull));
    }
    [passed, refused]
}

#[test]
fn a_flood_of_syns_costs_no_established_connection() {
    const CONNECTIONS: u32 = 512;
    for is_ipv4 in [true, false] {
        // Half of the table, and all of it.
        for established_connections in [256, 512] {
            let mut bench = Bench::with(objects(Node::A), CONNECTIONS);
            let clients = 50_000..50_000 + established_connections;
            for client in clients.clone() {
                pass(&mut bench, &established(), is_ipv4, client);
            }
            let misses = bench.counters().misses;
            let syn = conversation().send(false, SYN, 0).segments[0];
            let [passed, refused] = flood(&mut bench, CONNECTIONS, |port| syn.frame(is_ipv4, port));
            if established_connections == 256 {
                assert_eq!((passed, refused), (5120, 0));
            } else {
                assert!(refused >= 5100, "{refused}");
            }
            let flooded = bench.counters();
            assert_eq!(flooded.misses - misses, 5120);
            assert_eq!(flooded.evicted_oldest, 0);
            for client in clients {
                let goes_on = conversation()
                    .handshake()
                    .send(false, ACK | PSH, 10)
                    .send(true, ACK | PSH, 10)
                    .send(false, ACK | PSH, 20)
                    .send(true, ACK, 0)
                    .segments
                    .split_off(5);
                pass(&mut bench, &goes_on, is_ipv4, client);
            }
            assert_eq!(bench.counters().misses, flooded.misses, "all were still known");
        }
    }
}

#[test]
fn a_flood_of_datagrams_costs_no_flow_that_is_answered() {
    let mut bench = Bench::with(objects(Node::A), 512);
    let query = |port| Udp { ports: (port, 53), ..Udp::from_pod(Node::A.pod(11)) }.frame();
    let answer = |port| {
        let macs = (Node::A.pod_mac(11), Node::A.gateway_mac());
        let source = Node::A.pod(11).into();
        let query = Udp::from_pod(Node::A.pod(10));
        Udp { macs, source, ports: (53, port), ..query }.frame()
    };
    for port in 50_000..50_256 {
        assert_eq!(bench.send("default/pod10", &query(port)).sent.len(), 1);
        assert_eq!(bench.send("default/pod11", &answer(port)).sent.len(), 1);
    }
    assert_eq!(flood(&mut bench, 512, query), [5120, 0]);
    let misses = bench.counters().misses;
    for port in 50_000..50_256 {
        assert_eq!(bench.send("default/pod11", &answer(port)).sent.len(), 1);
    }
    assert_eq!(bench.counters().misses, misses);
}
