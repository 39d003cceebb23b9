//! ICMP queries: an answer goes back with what was asked, a question never does.

use encap::checksum::Sum;
use etherparse::{IpNumber, PacketBuilder};
use vrouter::drops::DropReason;

use crate::{
    bench::{Bench, Outcome},
    policy::isolated,
    rig::{Node, fix_ipv4_checksum},
};

/// The types that ask, and those that answer them.
const ECHO: (u8, u8) = (8, 0);
const TIMESTAMP: (u8, u8) = (13, 14);
const ECHO_V6: (u8, u8) = (128, 129);

/// The ICMP message of a kind and with an identifier from one pod of node `a` to the other.
fn message(from: u8, is_ipv4: bool, kind: u8, id: u16) -> Vec<u8> {
    let to = 21 - from;
    let mut icmp = vec![kind, 0, 0, 0];
    icmp.extend(id.to_be_bytes());
    icmp.resize(20, 0);
    let builder =
        PacketBuilder::ethernet2(Node::A.pod_mac(from).octets(), Node::A.gateway_mac().octets());
    let mut frame = Vec::new();
    if is_ipv4 {
        let checksum = Sum::of(&icmp).checksum();
        icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
        let builder = builder.ipv4(Node::A.pod(from).octets(), Node::A.pod(to).octets(), 64);
        builder.write(&mut frame, IpNumber::ICMP, &icmp).unwrap();
        fix_ipv4_checksum(&mut frame);
    } else {
        let builder = builder.ipv6(Node::A.pod6(from).octets(), Node::A.pod6(to).octets(), 64);
        builder.write(&mut frame, IpNumber::IPV6_ICMP, &icmp).unwrap();
    }
    frame
}

fn send(bench: &mut Bench, from: u8, is_ipv4: bool, kind: u8, id: u16) -> Outcome {
    bench.send(&format!("default/pod{from}"), &message(from, is_ipv4, kind, id))
}

#[test]
fn a_query_backwards_is_judged_on_its_own_whatever_its_identifier() {
    for (is_ipv4, kinds) in [(true, ECHO), (true, TIMESTAMP), (false, ECHO_V6)] {
        let (request, answer) = kinds;
        for id in [0, 7, 8, 13, 0x7fff, 0x8000, 65_528, u16::MAX] {
            // Pod 11 may ask whom it wants, and takes nothing.
            let mut bench = isolated(&[]);
            let about = format!("type {request}, identifier {id}");
            for _ in 0..2 {
                let outcome = send(&mut bench, 11, is_ipv4, request, id);
                assert_eq!(outcome.ports(), ["default/pod10"], "{about}");
                let outcome = send(&mut bench, 10, is_ipv4, answer, id);
                assert_eq!(outcome.ports(), ["default/pod11"], "{about}");
                let outcome = send(&mut bench, 10, is_ipv4, request, id);
                assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied], "{about}");
            }
            assert_eq!(bench.connections(), 1, "{about}");
        }
    }
}

#[test]
fn queries_of_two_types_are_two_connections() {
    let mut bench = isolated(&[]);
    for kind in [ECHO.0, TIMESTAMP.0] {
        assert_eq!(send(&mut bench, 11, true, kind, 7).ports(), ["default/pod10"]);
    }
    assert_eq!(bench.connections(), 2);
    // Only what was asked is answered.
    let mut bench = isolated(&[]);
    send(&mut bench, 11, true, ECHO.0, 7);
    let outcome = send(&mut bench, 10, true, TIMESTAMP.1, 7);
    assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied]);
}

#[test]
fn an_answer_that_nobody_asked_for_opens_nothing() {
    for (is_ipv4, (request, answer)) in [(true, ECHO), (true, TIMESTAMP), (false, ECHO_V6)] {
        let mut bench = isolated(&[]);
        // It is carried, as pod 10 takes what comes, and lets no question through.
        assert_eq!(send(&mut bench, 11, is_ipv4, answer, 7).ports(), ["default/pod10"]);
        assert_eq!(bench.connections(), 0);
        let outcome = send(&mut bench, 10, is_ipv4, request, 7);
        assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied]);
        let outcome = send(&mut bench, 10, is_ipv4, answer, 7);
        assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied]);
    }
}

/// "Unreachable" from a pod of node `a` about what it received.
fn unreachable(from: u8, received: &[u8]) -> Vec<u8> {
    let is_ipv4 = received[12..14] == [0x08, 0x00];
    let mut error = message(from, is_ipv4, if is_ipv4 { 3 } else { 1 }, 0);
    let headers = if is_ipv4 { 34 } else { 54 };
    error.truncate(headers + 8);
    error.extend_from_slice(&received[14..]);
    let length = u16::try_from(error.len() - if is_ipv4 { 14 } else { 54 }).unwrap();
    let (at, checksum) = if is_ipv4 { (16, 36) } else { (18, 56) };
    error[at..at + 2].copy_from_slice(&length.to_be_bytes());
    error[checksum..checksum + 2].fill(0);
    if is_ipv4 {
        let sum = Sum::of(&error[headers..]).checksum();
        error[checksum..checksum + 2].copy_from_slice(&sum.to_be_bytes());
        fix_ipv4_checksum(&mut error);
    }
    error
}

#[test]
fn an_error_about_a_query_or_its_answer_passes_with_their_connection() {
    for (is_ipv4, (request, answer)) in [(true, ECHO), (true, TIMESTAMP), (false, ECHO_V6)] {
        let mut bench = isolated(&[]);
        let asked = send(&mut bench, 11, is_ipv4, request, 7).sent.remove(0).1;
        let error = unreachable(10, &asked);
        assert_eq!(bench.send("default/pod10", &error).ports(), ["default/pod11"]);
        let answered = send(&mut bench, 10, is_ipv4, answer, 7).sent.remove(0).1;
        let error = unreachable(11, &answered);
        assert_eq!(bench.send("default/pod11", &error).ports(), ["default/pod10"]);
        // About another identifier, there is no connection.
        let other = message(11, is_ipv4, request, 8);
        let outcome = bench.send("default/pod10", &unreachable(10, &other));
        assert_eq!(outcome.drops, [DropReason::IcmpUnrelated]);
    }
}

#[test]
fn people_see_the_identifier_as_both_ports() {
    let mut bench = Bench::new();
    for (is_ipv4, (request, _)) in [(true, ECHO), (true, TIMESTAMP), (false, ECHO_V6)] {
        assert_eq!(send(&mut bench, 11, is_ipv4, request, 65_530).sent.len(), 1);
    }
    let mut shown = Vec::new();
    bench.flows.table().for_each_connection(bench.now.ticks(), |view| {
        shown.extend([&view.forward, &view.reply].map(vrouter::flows::shown_ports));
    });
    assert_eq!(shown, [(65_530, 65_530); 6]);
    // Ports are shown as they are.
    let key = flowtable::FlowKey::v4(0, 17, (Node::A.pod(11), 7), (Node::A.pod(10), 15));
    assert_eq!(vrouter::flows::shown_ports(&key), (7, 15));
}
