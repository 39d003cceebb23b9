//! What the engine answers itself: ARP, neighbour discovery, echo.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::{
    MacAddress,
    arp::{ArpOperation, ArpPacket, ArpView},
    ethernet::{EtherType, EthernetHeader, EthernetView},
    icmpv6::{
        Icmpv6View,
        ndp::{NeighbourMessage, NeighbourView, solicited_node_group},
    },
    ipv6::Ipv6View,
};
use vrouter::drops::DropReason;

use crate::rig::{
    Node, Udp, assert_all_dropped, assert_checksums, echo_request, inner, input, objects,
    only_sent, reasons, run, run_from,
};

pub(crate) fn arp_request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0; ArpPacket::FRAME_LEN];
    ArpPacket::request(Node::A.pod_mac(10), sender, target).write_frame(&mut frame).unwrap();
    // As a device pads it.
    frame.resize(60, 0);
    frame
}

pub(crate) fn solicitation(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let header = EthernetHeader {
        destination: MacAddress::from_ipv6_group(solicited_node_group(target)),
        source: Node::A.pod_mac(10),
        ether_type: EtherType::IPV6,
    };
    let mut frame = header.to_bytes().to_vec();
    frame.resize(14 + NeighbourMessage::PACKET_LEN, 0);
    let message = NeighbourMessage::solicitation(source, target, Node::A.pod_mac(10));
    message.write_packet(&mut frame[14..]).unwrap();
    frame
}

/// The frame's destination, and the advertisement in it.
fn with_advertisement<T>(
    frame: &[u8],
    see: impl FnOnce(EthernetView<'_>, Ipv6View<'_>, NeighbourView<'_>) -> T,
) -> T {
    assert_checksums(frame);
    let (ethernet, packet) = EthernetView::parse(frame).unwrap();
    let (ip, payload) = Ipv6View::parse(packet).unwrap();
    let (icmp, body) = Icmpv6View::parse(payload).unwrap();
    see(ethernet, ip, NeighbourView::parse(icmp, body).unwrap())
}

#[test]
fn arp_for_the_gateway_and_for_routable_addresses_is_answered_with_the_gateways_mac() {
    for target in [Node::A.gateway(), Node::A.pod(11), Node::B.pod(77), Node::A.ip()] {
        let output = run_from("default/pod10", [arp_request(Node::A.pod(10), target)]);
        let frame = only_sent(&output, "default/pod10");
        let (ethernet, packet) = EthernetView::parse(frame).unwrap();
        assert_eq!(ethernet.destination(), Node::A.pod_mac(10));
        assert_eq!(ethernet.source(), Node::A.gateway_mac());
        let (reply, _) = ArpView::parse(packet).unwrap();
        assert_eq!(reply.operation(), ArpOperation::REPLY);
        assert_eq!((reply.sender_ip(), reply.sender_mac()), (target, Node::A.gateway_mac()));
        assert_eq!((reply.target_ip(), reply.target_mac()), (Node::A.pod(10), Node::A.pod_mac(10)));
    }
}

#[test]
fn arp_for_the_pods_own_address_or_one_without_a_route_is_not_answered() {
    let unanswered = [
        arp_request(Ipv4Addr::UNSPECIFIED, Node::A.pod(10)),
        arp_request(Node::A.pod(10), Node::A.pod(10)),
        arp_request(Node::A.pod(10), Ipv4Addr::new(198, 51, 100, 1)),
    ];
    assert_all_dropped(&run_from("default/pod10", unanswered), DropReason::ArpUnanswered);
}

#[test]
fn arp_from_an_address_that_is_not_the_pods_is_dropped() {
    let output = run_from("default/pod10", [arp_request(Node::A.pod(11), Node::A.gateway())]);
    assert_all_dropped(&output, DropReason::RpfSpoofedSource);
}

#[test]
fn solicitations_for_the_gateway_and_for_routable_addresses_are_answered() {
    let link_local = "fe80::1234".parse().unwrap();
    for source in [Node::A.pod6(10), link_local] {
        for (target, is_gateway) in
            [(Node::A.gateway6(), true), (Node::A.pod6(11), false), (Node::B.pod6(9), false)]
        {
            let output = run_from("default/pod10", [solicitation(source, target)]);
            with_advertisement(only_sent(&output, "default/pod10"), |ethernet, ip, answer| {
                assert_eq!(ethernet.destination(), Node::A.pod_mac(10));
                assert_eq!(ethernet.source(), Node::A.gateway_mac());
                assert_eq!((ip.source(), ip.destination()), (target, source));
                assert_eq!(ip.hop_limit(), 255);
                assert!(!answer.is_solicitation() && answer.is_router() && answer.is_solicited());
                assert_eq!(answer.is_override(), is_gateway);
                assert_eq!(answer.target(), target);
                assert_eq!(answer.target_link_address(), Some(Node::A.gateway_mac()));
            });
        }
    }
}

#[test]
fn a_probe_for_the_gateways_address_is_answered_to_all_nodes() {
    let probe = solicitation(Ipv6Addr::UNSPECIFIED, Node::A.gateway6());
    let output = run_from("default/pod10", [probe]);
    with_advertisement(only_sent(&output, "default/pod10"), |ethernet, ip, answer| {
        assert_eq!(ethernet.destination(), MacAddress::new([0x33, 0x33, 0, 0, 0, 1]));
        assert_eq!(ip.destination(), "ff02::1".parse::<Ipv6Addr>().unwrap());
        assert!(!answer.is_solicited());
    });
}

#[test]
fn solicitations_without_an_answer_and_other_neighbour_messages_are_dropped() {
    let own = solicitation(Ipv6Addr::UNSPECIFIED, Node::A.pod6(10));
    let unroutable = solicitation(Node::A.pod6(10), "2001:db8:ffff::1".parse().unwrap());
    let mut from_afar = solicitation(Node::A.pod6(10), Node::A.gateway6());
    from_afar[21] = 64;
    let mut router_solicitation = solicitation(Node::A.pod6(10), Node::A.gateway6());
    router_solicitation[54] = 133;
    let output = run_from("default/pod10", [own, unroutable, from_afar, router_solicitation]);
    assert_all_dropped(&output, DropReason::NdUnanswered);
    assert_eq!(output.drops.len(), 4);
    let mut broken = solicitation(Node::A.pod6(10), Node::A.gateway6());
    broken[60] ^= 1;
    let spoofed = solicitation(Node::A.pod6(11), Node::A.gateway6());
    let output = run_from("default/pod10", [broken, spoofed]);
    assert_eq!(reasons(&output), [DropReason::ParseMalformed, DropReason::RpfSpoofedSource]);
}

#[test]
fn echo_to_a_gateway_address_is_answered_whatever_its_ttl() {
    for (gateway, length) in
        [(IpAddr::from(Node::A.gateway()), 1400), (Node::A.gateway6().into(), 1)]
    {
        let mut request = echo_request(gateway, &vec![0xa5; length]);
        if gateway.is_ipv4() {
            request[22] = 1;
            crate::rig::fix_ipv4_checksum(&mut request);
        } else {
            request[21] = 1;
        }
        let output = run_from("default/pod10", [request.clone()]);
        let reply = only_sent(&output, "default/pod10");
        assert_checksums(reply);
        let sliced = etherparse::SlicedPacket::from_ethernet(reply).unwrap();
        let (kind, ttl) = match (sliced.transport.unwrap(), sliced.net.unwrap()) {
            (etherparse::TransportSlice::Icmpv4(icmp), etherparse::NetSlice::Ipv4(ip)) => {
                assert_eq!(IpAddr::from(ip.header().source_addr()), gateway);
                assert_eq!(ip.header().destination_addr(), Node::A.pod(10));
                (icmp.type_u8(), ip.header().ttl())
            }
            (etherparse::TransportSlice::Icmpv6(icmp), etherparse::NetSlice::Ipv6(ip)) => {
                assert_eq!(IpAddr::from(ip.header().source_addr()), gateway);
                assert_eq!(ip.header().destination_addr(), Node::A.pod6(10));
                (icmp.type_u8(), ip.header().hop_limit())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!((kind, ttl), (if gateway.is_ipv4() { 0 } else { 129 }, 64));
        assert_eq!(reply[reply.len() - length..], request[request.len() - length..]);
    }
}

#[test]
fn another_nodes_pod_may_ping_the_gateway_through_the_tunnel() {
    let output = run_from("default/pod10", [echo_request(Node::B.gateway(), b"far")]);
    let frame = only_sent(&output, "uplink").to_vec();
    let output = run(objects(Node::B), &[input("uplink", [frame])]);
    let reply = inner(only_sent(&output, "uplink"));
    assert_checksums(reply);
    assert_eq!(reply[..6], Node::A.mac().octets());
    assert_eq!(reply[34], 0);
}

#[test]
fn other_packets_to_the_gateway_are_not_served() {
    let output = run_from("default/pod10", [Udp::from_pod(Node::A.gateway()).frame()]);
    assert_all_dropped(&output, DropReason::GatewayUnserved);
    assert_eq!(output.drops[0].detail, "UDP 10.244.1.10 port 5000 to 10.244.1.1 port 6000");
}
