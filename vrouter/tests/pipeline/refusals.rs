//! Frames that are not what they should be.

use std::net::{IpAddr, Ipv4Addr};

use control_api::engine as api;
use encap::MacAddress;
use vrouter::drops::DropReason;

use crate::{
    bench::Bench,
    rig::{
        Node, Udp, assert_all_dropped, changed, echo_request, fix_ipv4_checksum, from_b, input,
        objects, only_sent, reasons, route, run, run_from, sent,
    },
};

fn encapsulated() -> Vec<u8> {
    let output = run_from("default/pod10", [Udp::from_pod(Node::B.pod(10)).frame()]);
    only_sent(&output, "uplink").to_vec()
}

fn run_at_b(frames: impl IntoIterator<Item = Vec<u8>>) -> vrouter::replay::ReplayOutput {
    run(objects(Node::B), &[input("uplink", frames)])
}

#[test]
fn a_pod_may_send_only_from_its_own_addresses() {
    for (source, destination) in [
        (IpAddr::from(Node::A.pod(11)), IpAddr::from(Node::B.pod(10))),
        (Node::A.pod6(11).into(), Node::B.pod6(10).into()),
        ("fe80::1".parse().unwrap(), Node::B.pod6(10).into()),
        (Node::A.ip().into(), Node::B.pod(10).into()),
    ] {
        let frame = Udp { source, ..Udp::from_pod(destination) }.frame();
        let output = run_from("default/pod10", [frame]);
        assert_all_dropped(&output, DropReason::RpfSpoofedSource);
        assert_eq!(output.drops[0].detail, format!("from {source}"));
    }
}

#[test]
fn an_answer_from_an_address_that_nobody_has_is_dropped_whoever_was_asked() {
    let everywhere = route(Ipv4Addr::UNSPECIFIED, 0, api::next_hop::Via::Port("host".into()));
    for nobody in [Ipv4Addr::new(240, 0, 0, 1), Ipv4Addr::new(0, 1, 2, 3)] {
        for is_fast in [true, false] {
            let mut bench = Bench::new();
            bench.set_fast_path(is_fast);
            bench.apply(vec![everywhere.clone()], vec![]);
            let question = Udp::from_pod(nobody);
            let answer = Udp {
                macs: (Node::A.mac(), Node::A.gateway_mac()),
                source: nobody.into(),
                destination: Node::A.pod(10).into(),
                ports: (question.ports.1, question.ports.0),
                ..Udp::from_pod(nobody)
            };
            let asked = bench.send("default/pod10", &question.frame());
            assert_eq!(asked.drops, [DropReason::RouteNone], "{nobody} {is_fast}");
            let answered = bench.send("host", &answer.frame());
            assert_eq!(answered.drops, [DropReason::ParseMartianSource], "{nobody} {is_fast}");
            assert_eq!(bench.connections(), 0);
        }
    }
}

#[test]
fn a_spoofed_packet_of_a_known_flow_is_dropped_too() {
    let spoofed = || Udp { source: Node::A.pod(11).into(), ..Udp::from_pod(Node::B.pod(10)) };
    let mut honest = spoofed();
    honest.macs.0 = Node::A.pod_mac(11);
    let mut later = input("default/pod10", [spoofed().frame()]);
    later.frames[0].timestamp += std::time::Duration::from_secs(1);
    let inputs = [input("default/pod11", [honest.frame()]), later];
    let output = run(objects(Node::A), &inputs);
    assert_eq!(sent(&output, "uplink").len(), 1);
    assert_eq!(reasons(&output), [DropReason::RpfSpoofedSource]);
}

#[test]
fn an_icmp_message_that_routers_do_not_serve_has_a_reason_of_its_own() {
    let mut v4 = echo_request(Node::A.pod(11), b"");
    v4[34] = 42;
    let mut v6 = echo_request(Node::A.pod6(11), b"");
    v6[54] = 140;
    let output = run_from("default/pod10", [v4, v6]);
    assert_all_dropped(&output, DropReason::IcmpUnserved);
    assert_eq!(output.drops[0].detail, "type 42 code 0");
}

#[test]
fn frames_to_other_macs_and_groups_are_dropped() {
    let to = |mac: MacAddress, destination: Ipv4Addr| {
        let mut udp = Udp::from_pod(destination);
        udp.macs.1 = mac;
        udp.frame()
    };
    let output = run_from(
        "default/pod10",
        [
            to(Node::A.pod_mac(11), Node::A.pod(11)),
            to(MacAddress::BROADCAST, Node::A.pod(11)),
            to(MacAddress::BROADCAST, Ipv4Addr::BROADCAST),
            to(Node::A.gateway_mac(), Ipv4Addr::new(224, 0, 0, 251)),
        ],
    );
    assert!(output.sent.is_empty());
    assert_eq!(
        reasons(&output),
        [
            DropReason::ParseForeignMac,
            DropReason::ParseForeignMac,
            DropReason::ParseMulticast,
            DropReason::ParseMulticast,
        ]
    );
}

#[test]
fn sources_that_no_packet_may_have_are_dropped() {
    for source in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::BROADCAST.into(),
        "ff02::1".parse().unwrap(),
        "::1".parse().unwrap(),
    ] {
        let destination =
            if source.is_ipv4() { IpAddr::from(Node::A.pod(11)) } else { Node::A.pod6(11).into() };
        let mut udp = Udp::from_pod(destination);
        udp.macs.0 = Node::A.mac();
        udp.source = source;
        let output = run_from("host", [udp.frame()]);
        assert_all_dropped(&output, DropReason::ParseMartianSource);
    }
}

#[test]
fn other_protocols_and_empty_frames_are_dropped() {
    let mut foreign = Udp::from_pod(Node::A.pod(11)).frame();
    foreign[12..14].copy_from_slice(&[0x88, 0xcc]);
    let output = run_from("default/pod10", [foreign, Vec::new(), vec![1; 13]]);
    assert_eq!(
        reasons(&output),
        [DropReason::ParseUnknownEthertype, DropReason::ParseTruncated, DropReason::ParseTruncated,]
    );
    assert_eq!(output.drops[0].detail, "EtherType 0x88cc");
}

#[test]
fn a_wrong_ipv4_checksum_is_told_from_other_damage() {
    let mut frame = Udp::from_pod(Node::A.pod(11)).frame();
    frame[24] ^= 1;
    assert_all_dropped(&run_from("default/pod10", [frame]), DropReason::ParseIpv4Checksum);
    let mut frame = Udp::from_pod(Node::A.pod(11)).frame();
    frame[14] = 0x44;
    assert_all_dropped(&run_from("default/pod10", [frame]), DropReason::ParseMalformed);
}

#[test]
fn an_unknown_vni_goes_to_the_node_whole() {
    let mut frame = encapsulated();
    frame[14 + 20 + 8 + 6] = 9;
    let output = run_at_b([frame.clone()]);
    assert_eq!(only_sent(&output, "host"), frame);
}

#[test]
fn an_unknown_vni_is_dropped_without_a_host_port() {
    let mut frame = encapsulated();
    frame[14 + 20 + 8 + 6] = 9;
    let mut objects = changed(objects(Node::B), |kind| {
        if let control_api::engine::object::Kind::Node(node) = kind {
            node.host_port = String::new();
        }
    });
    objects.retain(|object| {
        !matches!(&object.kind, Some(control_api::engine::object::Kind::Port(port))
            if port.name == "host")
    });
    let output = run(objects, &[input("uplink", [frame])]);
    assert_all_dropped(&output, DropReason::VxlanUnknownVni);
    assert_eq!(output.drops[0].detail, "VNI 9");
}

#[test]
fn what_is_not_for_a_tunnel_goes_to_the_node_whole() {
    let mut other_port = encapsulated();
    other_port[14 + 20 + 3] ^= 1;
    let mut other_address = encapsulated();
    other_address[33] = 99;
    fix_ipv4_checksum(&mut other_address);
    let mut ping = echo_request(Node::B.ip(), b"node");
    ping[..6].copy_from_slice(&Node::B.mac().octets());
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    let frames = [other_port, other_address, ping, arp];
    let output = run_at_b(frames.clone());
    assert_eq!(sent(&output, "host"), frames);
}

#[test]
fn broken_encapsulation_is_dropped_with_its_own_reason() {
    let vxlan = 14 + 20 + 8;
    let mut flag = encapsulated();
    flag[vxlan] = 0xf7;
    let mut mac = encapsulated();
    mac[vxlan + 8 + 5] ^= 1;
    let mut checksum = encapsulated();
    checksum[40..42].copy_from_slice(&[0x12, 0x34]);
    // Congestion marked outside a packet that does not understand it.
    let mut ecn = encapsulated();
    ecn[15] = 3;
    fix_ipv4_checksum(&mut ecn);
    let mut fragment = encapsulated();
    fragment[20] = 0x20;
    fix_ipv4_checksum(&mut fragment);
    let output = run_at_b([flag, mac, checksum, ecn, fragment]);
    assert!(output.sent.is_empty(), "{:?}", output.sent.keys());
    assert_eq!(
        reasons(&output),
        [
            DropReason::VxlanFlagUnset,
            DropReason::VxlanInnerMac,
            DropReason::VxlanChecksum,
            DropReason::VxlanEcn,
            DropReason::VxlanOuterFragment,
        ]
    );
}

#[test]
fn an_inner_packet_ends_no_later_than_the_datagram_around_it() {
    for is_fast in [true, false] {
        let mut bench = Bench::new();
        bench.set_fast_path(is_fast);
        let whole = from_b(&Udp {
            source: Node::B.pod(10).into(),
            destination: Node::A.pod(10).into(),
            ..Udp::from_pod(Node::B.pod(10))
        });
        assert_eq!(bench.send("uplink", &whole).ports(), ["default/pod10"]);
        // What the lengths leave out looks like padding of the outer frame, and like the end of the
        // inner packet.
        let mut short = whole.clone();
        for length in [16, 38] {
            let field = short[length..].first_chunk_mut::<2>().unwrap();
            *field = (u16::from_be_bytes(*field) - 4).to_be_bytes();
        }
        short[40..42].fill(0);
        fix_ipv4_checksum(&mut short);
        let received = bench.tunnel("peer/ipv4").rx_bytes;
        assert_eq!(bench.send("uplink", &short).drops, [DropReason::ParseTruncated], "{is_fast}");
        let counted = bench.tunnel("peer/ipv4").rx_bytes - received;
        assert_eq!(counted, whole.len() as u64 - 50 - 4);
        // The whole one is followed by padding, which counts neither.
        let mut padded = whole.clone();
        padded.extend([0; 9]);
        padded[40..42].fill(0);
        let outcome = bench.send("uplink", &padded);
        assert_eq!(outcome.ports(), ["default/pod10"]);
        let counted = bench.tunnel("peer/ipv4").rx_bytes - received - counted;
        assert_eq!(counted, whole.len() as u64 - 50);
    }
}

#[test]
fn a_frame_cut_short_anywhere_inside_its_headers_is_accounted_for() {
    let whole = encapsulated();
    let output = run_at_b((0..whole.len()).map(|bytes| whole[..bytes].to_vec()));
    // Before the addresses and ports are there it is the node's; after that it is a broken packet
    // of the tunnel.
    assert_eq!(output.drops.len() + sent(&output, "host").len(), whole.len());
    assert!(sent(&output, "default/pod10").is_empty());
}

#[test]
fn a_packet_from_the_fabric_cannot_come_from_a_pod_of_this_node() {
    let mut frame = encapsulated();
    // The inner source becomes a pod of node b, which is where the packet goes.
    frame[76..80].copy_from_slice(&Node::B.pod(11).octets());
    let inner = &mut frame[50..];
    fix_ipv4_checksum(inner);
    assert_all_dropped(&run_at_b([frame]), DropReason::RpfSpoofedSource);
}

/// A fragment of the datagram `identification`; later ones have no UDP header.
fn fragment(frame: &[u8], identification: u16, offset: u16, more: bool) -> Vec<u8> {
    let mut fragment = frame.to_vec();
    let field = offset | if more { 0x2000 } else { 0 };
    fragment[18..20].copy_from_slice(&identification.to_be_bytes());
    fragment[20..22].copy_from_slice(&field.to_be_bytes());
    if offset > 0 {
        fragment[34..42].fill(0xaa);
    }
    fix_ipv4_checksum(&mut fragment);
    fragment
}

#[test]
fn all_fragments_of_an_encapsulated_packet_are_dropped_with_one_reason() {
    let frame = encapsulated();
    let output = run_at_b([
        fragment(&frame, 7, 0, true),
        fragment(&frame, 7, 100, true),
        fragment(&frame, 7, 200, false),
    ]);
    assert!(output.sent.is_empty(), "{:?}", output.sent.keys());
    assert_eq!(reasons(&output), [DropReason::VxlanOuterFragment; 3]);
}

#[test]
fn fragments_of_other_packets_from_the_fabric_are_the_nodes() {
    let frame = encapsulated();
    let mut other = frame.clone();
    other[36..38].copy_from_slice(&53_u16.to_be_bytes());
    let nodes = [
        fragment(&frame, 9, 100, false),
        fragment(&other, 7, 0, true),
        fragment(&other, 7, 100, false),
    ];
    let tunnels = fragment(&frame, 7, 0, true);
    let frames = std::iter::once(tunnels).chain(nodes.clone());
    let output = run_at_b(frames);
    assert_eq!(sent(&output, "host"), nodes);
    assert_eq!(reasons(&output), [DropReason::VxlanOuterFragment]);
}

#[test]
fn packets_of_a_port_that_went_meanwhile_are_noted() {
    let mut bench = Bench::new();
    let (gone, _) = bench.config.port_by_name("default/pod11").unwrap();
    bench.apply(vec![], vec![api::object_key::Kind::Port("default/pod11".into())]);
    let outcome = bench.send_from(0, gone, &[vec![0; 60], vec![1; 60]]);
    assert_eq!(outcome.drops, [DropReason::RxPortClosed; 2]);
}
