//! Policy: what isolated ports let pass, and what a change means for open connections.

use std::net::IpAddr;

use control_api::engine as api;
use encap::MacAddress;
use etherparse::{IpNumber, PacketBuilder};
use vrouter::drops::DropReason;

use crate::{
    bench::{Bench, Outcome},
    flows::tcp,
    rig::{Node, fix_ipv4_checksum, frame_from_b, inner, objects},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const PEERS: u64 = 0xa;
const INGRESS: u64 = 0x1;
const EGRESS: u64 = 0x2;

fn object(kind: api::object::Kind) -> api::Object {
    api::Object { kind: Some(kind) }
}

fn address_set(addresses: &[IpAddr]) -> api::Object {
    let mut addresses = addresses.to_vec();
    addresses.sort_unstable();
    let mut set = api::AddressSet { id: PEERS, ..api::AddressSet::default() };
    for address in addresses {
        match address {
            IpAddr::V4(address) => set.ipv4.extend(address.octets()),
            IpAddr::V6(address) => set.ipv6.extend(address.octets()),
        }
    }
    object(api::object::Kind::AddressSet(set))
}

/// Port 80 of TCP, UDP and SCTP.
fn port_80() -> Vec<api::ProtocolPorts> {
    let ports =
        |protocol: u8| api::ProtocolPorts { protocol: protocol.into(), first: 80, last: 80 };
    [TCP, UDP, SCTP].map(ports).into()
}

/// Lets the peers of the address set pass on these ports.
fn policy(id: u64, ports: Vec<api::ProtocolPorts>) -> api::Object {
    let rule = api::PolicyRule {
        address_sets: vec![PEERS],
        ports,
        path: "spec.ingress[0]".into(),
        ..api::PolicyRule::default()
    };
    let policies = vec!["default/web".into(), "default/zone".into()];
    object(api::object::Kind::PolicySet(api::PolicySet { id, policies, rules: vec![rule] }))
}

/// Pod 10 or 11 with these policy sets; 0 for none.
fn pod(host: u8, ingress_policy: u64, egress_policy: u64) -> api::Object {
    let name = format!("default/pod{host}");
    let found = objects(Node::A).into_iter().find_map(|object| match object.kind {
        Some(api::object::Kind::Port(port)) if port.name == name => Some(port),
        _ => None,
    });
    let port = api::Port { ingress_policy, egress_policy, ..found.unwrap() };
    object(api::object::Kind::Port(port))
}

/// The addresses of pod 10 of a node, of both families.
fn pod_10(node: Node) -> [IpAddr; 2] {
    [node.pod(10).into(), node.pod6(10).into()]
}

/// Node `a`, whose pod 11 takes port 80 from the peers.
pub(crate) fn isolated(peers: &[IpAddr]) -> Bench {
    let mut bench = Bench::new();
    let changes = vec![address_set(peers), policy(INGRESS, port_80()), pod(11, INGRESS, 0)];
    bench.apply(changes, vec![]);
    bench
}

/// Something of a protocol between two addresses of one family.
#[derive(Clone, Copy)]
struct Datagram {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    ports: (u16, u16),
}

impl Datagram {
    fn reversed(self) -> Self {
        let Self { source, destination, ports: (from, to), .. } = self;
        Self { source: destination, destination: source, ports: (to, from), ..self }
    }

    /// In a frame to node `a`: from a pod or the node itself, or the inner one of a tunnel.
    fn frame(self, macs: (MacAddress, MacAddress)) -> Vec<u8> {
        let mut payload = Vec::new();
        let (from, to) = self.ports;
        payload.extend(from.to_be_bytes());
        payload.extend(to.to_be_bytes());
        match self.protocol {
            TCP => payload.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]),
            UDP => payload.extend([0, 8, 0, 0]),
            SCTP => payload.extend([0; 8]),
            // An echo request: its identifier stands where ports do.
            _ => payload
                .splice(..4, [if self.source.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 80])
                .for_each(drop),
        }
        payload.resize(payload.len().max(32), 0);
        if self.protocol == UDP {
            payload[4..6].copy_from_slice(&32_u16.to_be_bytes());
        }
        let builder = PacketBuilder::ethernet2(macs.0.octets(), macs.1.octets());
        let mut frame = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ip = etherparse::Ipv4Header::new(
                    0,
                    64,
                    IpNumber(self.protocol),
                    from.octets(),
                    to.octets(),
                );
                builder.ip(etherparse::IpHeaders::Ipv4(
                    ip.unwrap(),
                    etherparse::Ipv4Extensions::default(),
                ))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = etherparse::Ipv6Header {
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                    ..etherparse::Ipv6Header::default()
                };
                builder.ip(etherparse::IpHeaders::Ipv6(ip, etherparse::Ipv6Extensions::default()))
            }
            _ => panic!("one family"),
        }
        .write(&mut frame, IpNumber(self.protocol), &payload)
        .unwrap();
        write_checksum(&mut frame, self.source.is_ipv4(), self.protocol);
        frame
    }

    /// Sent by whoever has its source, to node `a`.
    fn send(self, bench: &mut Bench) -> Outcome {
        let to_gateway = |mac| (mac, Node::A.gateway_mac());
        let has = |address: IpAddr| self.source == address;
        for host in [10, 11] {
            if has(Node::A.pod(host).into()) || has(Node::A.pod6(host).into()) {
                let frame = self.frame(to_gateway(Node::A.pod_mac(host)));
                return bench.send(&format!("default/pod{host}"), &frame);
            }
        }
        if has(Node::A.ip().into()) || has(Node::A.ip6().into()) {
            return bench.send("host", &self.frame(to_gateway(Node::A.mac())));
        }
        let frame = self.frame((Node::B.mac(), Node::A.mac()));
        bench.send("uplink", &frame_from_b(&frame))
    }
}

/// TCP's and ICMP's checksums are looked at by no router, but ICMP's by the quoting of errors.
fn write_checksum(frame: &mut [u8], is_ipv4: bool, protocol: u8) {
    if is_ipv4 {
        fix_ipv4_checksum(frame);
        if protocol == 1 {
            let checksum = encap::checksum::Sum::of(&frame[34..]).checksum();
            frame[36..38].copy_from_slice(&checksum.to_be_bytes());
        }
    }
}

fn icmp(address: IpAddr) -> u8 {
    if address.is_ipv4() { 1 } else { 58 }
}

fn between(source: IpAddr, destination: IpAddr, protocol: u8, port: u16) -> Datagram {
    Datagram { source, destination, protocol, ports: (40_000, port) }
}

/// Pod 11 of node `a`, of the family of `peer`.
fn pod_11(peer: IpAddr) -> IpAddr {
    if peer.is_ipv4() { Node::A.pod(11).into() } else { Node::A.pod6(11).into() }
}

#[test]
fn an_isolated_pod_takes_what_a_rule_lets_pass_from_wherever_it_comes() {
    let friends = [pod_10(Node::A), pod_10(Node::B)].concat();
    let mut bench = isolated(&friends);
    let strangers = [IpAddr::from(Node::B.pod(11)), Node::B.pod6(11).into(), Node::B.ip().into()];
    for source in friends.iter().chain(&strangers).copied() {
        let is_friend = friends.contains(&source);
        for protocol in [TCP, UDP, SCTP, icmp(source)] {
            for port in [80, 81] {
                let is_allowed = is_friend && port == 80 && protocol != icmp(source);
                let before = bench.connections();
                let outcome = between(source, pod_11(source), protocol, port).send(&mut bench);
                let about = format!("{source} protocol {protocol} port {port}: {outcome:?}");
                if is_allowed {
                    assert_eq!(outcome.ports(), ["default/pod11"], "{about}");
                } else {
                    assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied], "{about}");
                    assert_eq!(bench.connections(), before, "{about}");
                }
            }
        }
    }
}

#[test]
fn an_isolated_pod_sends_only_where_a_rule_lets_it() {
    for ports in [port_80(), vec![]] {
        let mut bench = Bench::new();
        let friends =
            [IpAddr::from(Node::A.pod(11)), Node::B.pod(10).into(), Node::B.pod6(10).into()];
        let has_ports = !ports.is_empty();
        bench.apply(vec![address_set(&friends), policy(EGRESS, ports), pod(10, 0, EGRESS)], vec![]);
        let nobody = [IpAddr::from([10, 9, 9, 9]), Node::A.ip().into(), Node::B.pod6(11).into()];
        for destination in friends.iter().chain(&nobody).copied() {
            let source = if destination.is_ipv4() {
                Node::A.pod(10).into()
            } else {
                Node::A.pod6(10).into()
            };
            for protocol in [TCP, UDP, SCTP, icmp(source)] {
                let packet = between(source, destination, protocol, 80);
                let is_allowed =
                    friends.contains(&destination) && !(has_ports && protocol == icmp(source));
                let outcome = packet.send(&mut bench);
                if is_allowed {
                    assert_eq!(outcome.sent.len(), 1, "{destination} {protocol}: {outcome:?}");
                } else {
                    // Also where there is no route: nobody is told that there is none.
                    assert_eq!(outcome.drops, [DropReason::PolicyEgressDenied], "{destination}");
                    assert!(outcome.sent.is_empty());
                }
            }
        }
    }
}

#[test]
fn replies_pass_whatever_the_policies_of_the_other_direction_say() {
    for source in pod_10(Node::B) {
        let mut bench = isolated(&[source]);
        // The pod itself may open nothing.
        bench.apply(vec![policy(EGRESS, port_80()), pod(11, INGRESS, EGRESS)], vec![]);
        for protocol in [UDP, SCTP] {
            let request = between(source, pod_11(source), protocol, 80);
            assert_eq!(request.send(&mut bench).ports(), ["default/pod11"]);
            assert_eq!(request.reversed().send(&mut bench).ports(), ["uplink"]);
            let another = Datagram { ports: (80, 40_001), ..request.reversed() };
            assert_eq!(another.send(&mut bench).drops, [DropReason::PolicyEgressDenied]);
        }
    }
}

#[test]
fn the_node_reaches_its_own_pods_and_a_pod_itself_always() {
    let mut bench = isolated(&[]);
    bench.apply(vec![policy(EGRESS, vec![]), pod(11, INGRESS, EGRESS)], vec![]);
    for node in [IpAddr::from(Node::A.ip()), Node::A.ip6().into()] {
        for protocol in [TCP, UDP, SCTP, icmp(node)] {
            let own = pod_11(node);
            let probe = between(node, own, protocol, 8080);
            assert_eq!(probe.send(&mut bench).ports(), ["default/pod11"]);
            let itself = between(own, own, protocol, 9090);
            assert_eq!(itself.send(&mut bench).ports(), ["default/pod11"], "protocol {protocol}");
        }
        // Another node has no such right, nor has what claims to be ours.
        let other = if node.is_ipv4() { Node::B.ip().into() } else { Node::B.ip6().into() };
        let probe = between(other, pod_11(node), TCP, 8080);
        assert_eq!(probe.send(&mut bench).drops, [DropReason::PolicyIngressDenied]);
        let frame = between(node, pod_11(node), TCP, 8081).frame((Node::B.mac(), Node::A.mac()));
        let outcome = bench.send("uplink", &frame_from_b(&frame));
        assert_eq!(outcome.drops, [DropReason::RpfSpoofedSource]);
    }
}

#[test]
fn a_change_of_policy_is_in_force_at_an_open_connections_next_packet_of_either_direction() {
    for source in pod_10(Node::B) {
        for is_reply_first in [false, true] {
            let mut bench = isolated(&[source]);
            let request = between(source, pod_11(source), UDP, 80);
            let reply = request.reversed();
            let next = if is_reply_first { reply } else { request };
            request.send(&mut bench);
            assert_eq!(reply.send(&mut bench).ports(), ["uplink"]);
            assert_eq!(bench.connections(), 1);
            // The peer goes: the connection ends.
            bench.apply(vec![address_set(&[])], vec![]);
            for packet in [next, request, reply, request] {
                assert_eq!(packet.send(&mut bench).drops, [DropReason::PolicyIngressDenied]);
            }
            // It comes back, and the rules change; the connection goes on.
            bench.apply(vec![address_set(&[source])], vec![]);
            assert_eq!(request.send(&mut bench).ports(), ["default/pod11"]);
            bench.apply(vec![policy(INGRESS, vec![])], vec![]);
            assert_eq!(next.send(&mut bench).sent.len(), 1);
            assert_eq!(bench.connections(), 1);
            let other = between(source, pod_11(source), UDP, 81);
            assert_eq!(other.send(&mut bench).ports(), ["default/pod11"]);
            bench.apply(vec![policy(INGRESS, port_80())], vec![]);
            assert_eq!(other.send(&mut bench).drops, [DropReason::PolicyIngressDenied]);
            assert_eq!(next.send(&mut bench).sent.len(), 1);
            // The port gets other policies: none, and back.
            bench.apply(vec![pod(11, 0, 0)], vec![]);
            assert_eq!(other.send(&mut bench).ports(), ["default/pod11"]);
            bench.apply(vec![pod(11, INGRESS, 0)], vec![]);
            assert_eq!(other.send(&mut bench).drops, [DropReason::PolicyIngressDenied]);
        }
    }
}

#[test]
fn a_change_of_the_sources_policy_cuts_its_connections_and_no_others() {
    let mut bench = Bench::new();
    let to_b = |from: u8| between(Node::A.pod(from).into(), Node::B.pod(10).into(), UDP, 80);
    for from in [10, 11] {
        assert_eq!(to_b(from).send(&mut bench).ports(), ["uplink"]);
    }
    bench.apply(vec![address_set(&[]), policy(EGRESS, vec![]), pod(10, 0, EGRESS)], vec![]);
    assert_eq!(to_b(10).send(&mut bench).drops, [DropReason::PolicyEgressDenied]);
    assert_eq!(to_b(11).send(&mut bench).ports(), ["uplink"]);
    // Its answers to others still pass: they may open connections to it.
    let request = between(Node::B.pod(11).into(), Node::A.pod(10).into(), UDP, 53);
    assert_eq!(request.send(&mut bench).ports(), ["default/pod10"]);
    assert_eq!(request.reversed().send(&mut bench).ports(), ["uplink"]);
}

#[test]
fn an_address_that_another_pod_gets_inherits_nothing() {
    let peer: IpAddr = Node::A.pod(10).into();
    let mut bench = isolated(&[peer]);
    let request = between(peer, pod_11(peer), UDP, 80);
    assert_eq!(request.send(&mut bench).ports(), ["default/pod11"]);
    // The pod goes, and another one gets its address at once, without its labels.
    let api::Object { kind: Some(api::object::Kind::Port(old)) } = pod(10, 0, 0) else { panic!() };
    let new = api::Port { name: "default/next".into(), ..old };
    let gone = api::object_key::Kind::Port("default/pod10".into());
    let new = object(api::object::Kind::Port(new));
    bench.apply(vec![new, address_set(&[])], vec![gone]);
    let frame = request.frame((Node::A.pod_mac(10), Node::A.gateway_mac()));
    assert_eq!(bench.send("default/next", &frame).drops, [DropReason::PolicyIngressDenied]);
}

/// Frames of a connection between pods 10 and 11 of node `a`, by sender.
struct Conversation {
    opening: Vec<(u8, Vec<u8>)>,
    later: [(u8, Vec<u8>); 2],
}

impl Conversation {
    fn new(protocol: u8, opener: u8) -> Self {
        let other = 21 - opener;
        let (there, back) = ((opener, other), (other, opener));
        if protocol == TCP {
            let opening = vec![
                (opener, tcp(there, (100, None), "S", b"")),
                (other, tcp(back, (900, Some(101)), "S", b"")),
                (opener, tcp(there, (101, Some(901)), "", b"")),
            ];
            let later = [
                (opener, tcp(there, (101, Some(901)), "P", b"one")),
                (other, tcp(back, (901, Some(101)), "P", b"two")),
            ];
            return Self { opening, later };
        }
        let frame = |(from, to): (u8, u8)| {
            let ports = if from == 10 { (40_000, 80) } else { (80, 40_000) };
            let (source, destination) = (Node::A.pod(from).into(), Node::A.pod(to).into());
            let datagram = Datagram { source, destination, protocol, ports };
            datagram.frame((Node::A.pod_mac(from), Node::A.gateway_mac()))
        };
        let later = [(opener, frame(there)), (other, frame(back))];
        Self { opening: later.to_vec(), later }
    }

    /// Has both pods send, the opener first.
    fn open(&self, bench: &mut Bench) {
        for (from, frame) in &self.opening {
            assert_eq!(bench.send(&format!("default/pod{from}"), frame).sent.len(), 1);
        }
        assert_eq!(bench.connections(), 1);
    }

    /// What a pod sends when the connection is open.
    fn later(&self, pod: u8) -> &[u8] {
        &self.later.iter().find(|(from, _)| *from == pod).unwrap().1
    }
}

/// Pod 10 goes, and `default/next` has its address from now on.
fn replace_pod_10(bench: &mut Bench, ingress_policy: u64) {
    let api::Object { kind: Some(api::object::Kind::Port(old)) } = pod(10, ingress_policy, 0)
    else {
        panic!("a port")
    };
    let next = api::Port { name: "default/next".into(), ..old };
    let gone = api::object_key::Kind::Port("default/pod10".into());
    bench.apply(vec![object(api::object::Kind::Port(next))], vec![gone]);
}

#[test]
fn who_gets_an_address_gets_no_answers_to_what_its_former_owner_asked() {
    for (protocol, opener) in [(TCP, 10), (TCP, 11), (UDP, 10), (UDP, 11)] {
        for is_closed_before in [false, true] {
            let mut bench = Bench::new();
            bench.apply(vec![address_set(&[]), policy(INGRESS, vec![])], vec![]);
            let talk = Conversation::new(protocol, opener);
            talk.open(&mut bench);
            if is_closed_before {
                // Policy ends the connection; its record stays.
                bench.apply(vec![pod(21 - opener, INGRESS, 0)], vec![]);
                let outcome = bench.send("default/pod11", talk.later(11));
                assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied]);
                bench.apply(vec![pod(21 - opener, 0, 0)], vec![]);
            }
            replace_pod_10(&mut bench, INGRESS);
            let about = format!("protocol {protocol}, opened by {opener}");
            for _ in 0..2 {
                let outcome = bench.send("default/pod11", talk.later(11));
                assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied], "{about}");
            }
            assert_eq!(bench.connections(), 0, "{about}");
            // What it asks itself is answered.
            let outcome = bench.send("default/next", talk.later(10));
            assert_eq!(outcome.ports(), ["default/pod11"], "{about}");
            let outcome = bench.send("default/pod11", talk.later(11));
            assert_eq!(outcome.ports(), ["default/next"], "{about}");
        }
    }
}

#[test]
fn who_gets_an_address_may_not_answer_what_its_former_owner_was_asked() {
    for protocol in [TCP, UDP] {
        // Pod 11 takes nothing but answers.
        let mut bench = isolated(&[]);
        let talk = Conversation::new(protocol, 11);
        talk.open(&mut bench);
        replace_pod_10(&mut bench, 0);
        for _ in 0..2 {
            let outcome = bench.send("default/next", talk.later(10));
            assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied], "protocol {protocol}");
        }
        assert_eq!(bench.send("default/pod11", talk.later(11)).ports(), ["default/next"]);
        assert_eq!(bench.send("default/next", talk.later(10)).ports(), ["default/pod11"]);
    }
}

#[test]
fn who_gets_an_address_gets_nothing_out_of_the_fabric_that_its_former_owner_asked_for() {
    for peer in pod_10(Node::B) {
        let mut bench = Bench::new();
        bench.apply(vec![address_set(&[]), policy(INGRESS, vec![])], vec![]);
        let own = if peer.is_ipv4() { Node::A.pod(10).into() } else { Node::A.pod6(10).into() };
        let request = between(own, peer, UDP, 53);
        assert_eq!(request.send(&mut bench).ports(), ["uplink"]);
        assert_eq!(request.reversed().send(&mut bench).ports(), ["default/pod10"]);
        replace_pod_10(&mut bench, INGRESS);
        let outcome = request.reversed().send(&mut bench);
        assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied]);
    }
}

#[test]
fn a_connection_whose_ends_stay_where_they_are_survives_every_change() {
    for (protocol, opener) in [(TCP, 10), (TCP, 11), (UDP, 10), (UDP, 11)] {
        let mut bench = Bench::new();
        let talk = Conversation::new(protocol, opener);
        talk.open(&mut bench);
        let peers = [Node::A.pod(10).into(), Node::A.pod(11).into()];
        let allow = vec![address_set(&peers), policy(INGRESS, vec![]), pod(11, INGRESS, INGRESS)];
        let to_host = api::next_hop::Via::Port("host".into());
        let route = crate::rig::route(IpAddr::from([10, 244, 0, 0]), 16, to_host);
        for change in [allow, vec![pod(10, INGRESS, 0)], vec![pod(10, 0, 0), route]] {
            bench.apply(change, vec![]);
            for (from, frame) in &talk.later {
                assert_eq!(bench.send(&format!("default/pod{from}"), frame).sent.len(), 1);
            }
        }
        assert_eq!((bench.counters().inserted, bench.counters().removed), (1, 0));
    }
    // So does one with a pod of another node that is reached in another way.
    for peer in pod_10(Node::B) {
        let mut bench = isolated(&[peer]);
        let request = between(peer, pod_11(peer), UDP, 80);
        assert_eq!(request.send(&mut bench).ports(), ["default/pod11"]);
        let length = if peer.is_ipv4() { 32 } else { 128 };
        let to_host = api::next_hop::Via::Port("host".into());
        bench.apply(vec![crate::rig::route(peer, length, to_host)], vec![]);
        assert_eq!(request.reversed().send(&mut bench).ports(), ["host"]);
        assert_eq!(request.send(&mut bench).ports(), ["default/pod11"]);
        assert_eq!((bench.counters().inserted, bench.counters().removed), (1, 0));
    }
}

#[test]
fn a_port_that_gets_another_backend_keeps_its_isolation_and_its_open_connections_follow_changes() {
    let peer: IpAddr = Node::B.pod(10).into();
    let mut bench = isolated(&[peer]);
    let request = between(peer, pod_11(peer), UDP, 80);
    assert_eq!(request.send(&mut bench).ports(), ["default/pod11"]);
    let mut port = pod(11, INGRESS, 0);
    if let Some(api::object::Kind::Port(port)) = &mut port.kind {
        port.backend = Some(api::port::Backend::Tap(api::TapBackend {
            interface: "tap11".into(),
            ..api::TapBackend::default()
        }));
    }
    bench.apply(vec![port], vec![]);
    assert_eq!(request.send(&mut bench).ports(), ["default/pod11"]);
    bench.apply(vec![address_set(&[])], vec![]);
    assert_eq!(request.send(&mut bench).drops, [DropReason::PolicyIngressDenied]);
}

#[test]
fn a_worker_with_an_older_snapshot_opens_nothing_that_outlives_the_change() {
    let peer: IpAddr = Node::B.pod(10).into();
    let mut bench = isolated(&[peer]);
    let frame =
        frame_from_b(&between(peer, pod_11(peer), UDP, 80).frame((Node::B.mac(), Node::A.mac())));
    bench.apply_unpublished(vec![address_set(&[])], vec![]);
    bench.publish_to(&[0]);
    // Worker 1 does not know yet, and its connection ends with the next packet of one that does.
    let frames = std::slice::from_ref(&frame);
    assert_eq!(bench.send_burst(1, "uplink", frames).ports(), ["default/pod11"]);
    assert_eq!(bench.send_burst(0, "uplink", frames).drops, [DropReason::PolicyIngressDenied]);
    // It cannot open it again, and hears of it now.
    bench.publish_to(&[1]);
    assert_eq!(bench.send_burst(1, "uplink", frames).drops, [DropReason::PolicyIngressDenied]);
}

/// A datagram in two fragments, from node `b`.
fn fragments(source: IpAddr, port: u16, identification: u16) -> [Vec<u8>; 2] {
    let whole = between(source, pod_11(source), UDP, port).frame((Node::B.mac(), Node::A.mac()));
    let piece = |position: u16, is_last: bool| {
        let headers = if source.is_ipv4() { 34 } else { 54 };
        let start = headers + 16 * usize::from(position);
        let payload = &whole[start..start + 16];
        let mut frame = whole[..headers].to_vec();
        if source.is_ipv4() {
            // The offset is in units of eight bytes.
            let offset = (2 * position) | if is_last { 0 } else { 0x2000 };
            frame[16..18].copy_from_slice(&36_u16.to_be_bytes());
            frame[18..20].copy_from_slice(&identification.to_be_bytes());
            frame[20..22].copy_from_slice(&offset.to_be_bytes());
            fix_ipv4_checksum(&mut frame);
        } else {
            let offset = (16 * position) | u16::from(!is_last);
            frame[18..20].copy_from_slice(&24_u16.to_be_bytes());
            frame[20] = 44;
            frame.extend([UDP, 0]);
            frame.extend(offset.to_be_bytes());
            frame.extend(u32::from(identification).to_be_bytes());
        }
        frame.extend_from_slice(payload);
        frame_from_b(&frame)
    };
    [piece(0, false), piece(1, true)]
}

#[test]
fn later_fragments_share_the_fate_of_their_first() {
    for source in pod_10(Node::B) {
        let mut bench = isolated(&[source]);
        let [first, later] = fragments(source, 80, 1);
        assert_eq!(bench.send("uplink", &first).ports(), ["default/pod11"]);
        assert_eq!(bench.send("uplink", &later).ports(), ["default/pod11"]);
        let [first, later] = fragments(source, 81, 2);
        assert_eq!(bench.send("uplink", &first).drops, [DropReason::PolicyIngressDenied]);
        assert_eq!(bench.send("uplink", &later).drops, [DropReason::FragmentUnknown]);
        // A policy that lets everything of its peers pass has nothing to say about them either.
        bench.apply(vec![policy(INGRESS, vec![])], vec![]);
        assert_eq!(bench.send("uplink", &later).drops, [DropReason::FragmentUnknown]);
        // Those of a connection that is closed meanwhile are denied with it.
        let [first, later] = fragments(source, 80, 3);
        assert_eq!(bench.send("uplink", &first).ports(), ["default/pod11"]);
        bench.apply(vec![address_set(&[])], vec![]);
        assert_eq!(bench.send("uplink", &later).drops, [DropReason::PolicyIngressDenied]);
    }
}

/// "Port unreachable" from pod 11 of node `a` about what it received.
fn unreachable(received: &[u8]) -> Vec<u8> {
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&received[14..received.len().min(14 + 28)]);
    let checksum = encap::checksum::Sum::of(&message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let (from, to) = (Node::A.pod(11), Node::B.pod(10));
    let ip = etherparse::Ipv4Header::new(0, 64, IpNumber::ICMP, from.octets(), to.octets());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(Node::A.pod_mac(11).octets(), Node::A.gateway_mac().octets())
        .ip(etherparse::IpHeaders::Ipv4(ip.unwrap(), etherparse::Ipv4Extensions::default()))
        .write(&mut frame, IpNumber::ICMP, &message)
        .unwrap();
    fix_ipv4_checksum(&mut frame);
    frame
}

#[test]
fn icmp_errors_about_an_allowed_connection_pass_and_about_a_denied_one_do_not() {
    let peer: IpAddr = Node::B.pod(10).into();
    let mut bench = isolated(&[peer]);
    bench.apply(vec![policy(EGRESS, port_80()), pod(11, INGRESS, EGRESS)], vec![]);
    let outcome = between(peer, pod_11(peer), UDP, 80).send(&mut bench);
    let error = unreachable(&outcome.sent[0].1);
    assert_eq!(bench.send("default/pod11", &error).ports(), ["uplink"]);
    // The connection may not be any more: neither may what is said about it.
    bench.apply(vec![address_set(&[])], vec![]);
    for _ in 0..2 {
        assert_eq!(bench.send("default/pod11", &error).drops, [DropReason::PolicyIngressDenied]);
    }
}

#[test]
fn a_drop_names_the_port_the_policies_the_peer_and_the_destination_port() {
    let peer: IpAddr = Node::B.pod(10).into();
    let mut bench = isolated(&[]);
    let outcome = between(peer, pod_11(peer), TCP, 443).send(&mut bench);
    assert_eq!(
        outcome.details,
        [
            "default/pod11 is isolated by default/web, default/zone: no rule allows TCP port 443 from \
          10.244.2.10"
        ]
    );
    let outcome = between(peer, pod_11(peer), 1, 443).send(&mut bench);
    assert!(outcome.details[0].ends_with("no rule allows ICMP from 10.244.2.10"), "{outcome:?}");
    bench.apply(vec![policy(EGRESS, vec![]), pod(10, 0, EGRESS)], vec![]);
    let outcome =
        between(Node::A.pod6(10).into(), Node::B.pod6(10).into(), UDP, 53).send(&mut bench);
    assert!(outcome.details[0].ends_with("allows UDP port 53 to fd00:10:244:2::a"), "{outcome:?}");
}

#[test]
fn a_flood_at_a_denied_port_makes_no_connection() {
    let mut bench = isolated(&[]);
    let peer = Node::B.pod(10).into();
    for from in 0..2000_u16 {
        let packet = Datagram { ports: (from, 80), ..between(peer, pod_11(peer), TCP, 80) };
        assert_eq!(packet.send(&mut bench).drops, [DropReason::PolicyIngressDenied]);
    }
    assert_eq!(bench.connections(), 0);
    assert_eq!(bench.counters().inserted, 0);
    // Nor does it keep others out.
    let own = between(Node::A.ip().into(), pod_11(peer), TCP, 80);
    assert_eq!(own.send(&mut bench).ports(), ["default/pod11"]);
}

#[test]
fn what_is_sent_through_a_pods_port_to_others_behind_it_is_judged_as_its_own() {
    let peer: IpAddr = Node::B.pod(10).into();
    let mut bench = isolated(&[peer]);
    let via = api::next_hop::Via::Port("default/pod11".into());
    bench.apply(vec![crate::rig::route(IpAddr::from([10, 99, 0, 0]), 16, via)], vec![]);
    let behind = IpAddr::from([10, 99, 1, 1]);
    assert_eq!(between(peer, behind, UDP, 80).send(&mut bench).ports(), ["default/pod11"]);
    let denied = between(peer, behind, UDP, 81).send(&mut bench);
    assert_eq!(denied.drops, [DropReason::PolicyIngressDenied]);
    bench.apply(vec![address_set(&[])], vec![]);
    let outcome = between(peer, behind, UDP, 80).send(&mut bench);
    assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied]);
}

#[test]
fn the_fast_path_carries_allowed_flows_of_isolated_ports() {
    let peer: IpAddr = Node::B.pod(10).into();
    for is_fast in [true, false] {
        let mut bench = isolated(&[peer]);
        bench.set_fast_path(is_fast);
        let request = between(peer, pod_11(peer), UDP, 80);
        for _ in 0..3 {
            let outcome = request.send(&mut bench);
            assert_eq!(outcome.ports(), ["default/pod11"]);
            let reply = request.reversed().send(&mut bench);
            assert_eq!(inner(&reply.sent[0].1)[26..30], Node::A.pod(11).octets());
        }
        assert_eq!(bench.flow_counts().0, 3);
        bench.apply(vec![address_set(&[])], vec![]);
        assert_eq!(request.send(&mut bench).drops, [DropReason::PolicyIngressDenied]);
    }
}

#[test]
fn neither_side_of_an_open_tcp_connection_revives_it_while_policy_denies_it() {
    for is_fast in [true, false] {
        let mut bench = Bench::new();
        bench.set_fast_path(is_fast);
        for (port, frame) in [
            ("default/pod10", tcp((10, 11), (100, None), "S", b"")),
            ("default/pod11", tcp((11, 10), (900, Some(101)), "S", b"")),
            ("default/pod10", tcp((10, 11), (101, Some(901)), "", b"")),
        ] {
            assert_eq!(bench.send(port, &frame).sent.len(), 1);
        }
        let request = tcp((10, 11), (101, Some(901)), "P", b"GET");
        let answer = tcp((11, 10), (901, Some(101)), "P", b"200");
        bench.apply(vec![address_set(&[]), policy(INGRESS, vec![]), pod(11, INGRESS, 0)], vec![]);
        // The pod may open connections of its own, and these are none of them: not at once, and not
        // after another change.
        for round in 0..3 {
            for (port, frame) in [
                ("default/pod11", &answer),
                ("default/pod10", &request),
                ("default/pod11", &answer),
            ] {
                let outcome = bench.send(port, frame);
                assert_eq!(outcome.drops, [DropReason::PolicyIngressDenied], "round {round}");
            }
            let peer = [10, 200, 0, round].into();
            bench.apply(vec![address_set(&[peer])], vec![]);
        }
        assert_eq!(bench.connections(), 1);
        // Lifted, it goes on where it was.
        bench.apply(vec![pod(11, 0, 0)], vec![]);
        assert_eq!(bench.send("default/pod11", &answer).ports(), ["default/pod10"]);
        assert_eq!(bench.send("default/pod10", &request).ports(), ["default/pod11"]);
        assert_eq!(bench.connections(), 1);
        let far_off = tcp((10, 11), (900_000_000, Some(901)), "P", b"x");
        assert_eq!(bench.send("default/pod10", &far_off).drops, [DropReason::FlowInvalid]);
    }
}
