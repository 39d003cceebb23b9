//! Pod to pod, on one node and across nodes.

use std::net::IpAddr;

use crate::rig::{
    Node, Udp, assert_checksums, inner, input, objects, objects_over, only_sent, route, run,
    run_from, via_tunnel,
};

fn both_families(host: u8, node: Node) -> [IpAddr; 2] {
    [node.pod(host).into(), node.pod6(host).into()]
}

#[test]
fn a_packet_to_a_pod_of_the_same_node_is_routed_to_its_port() {
    for destination in both_families(11, Node::A) {
        let udp = Udp::from_pod(destination);
        let output = run_from("default/pod10", [udp.frame()]);
        let expected = Udp {
            macs: (Node::A.gateway_mac(), Node::A.pod_mac(11)),
            ttl: 63,
            payload: udp.payload.clone(),
            ..udp
        };
        assert_eq!(only_sent(&output, "default/pod11"), expected.frame());
    }
}

#[test]
fn a_packet_to_a_pod_of_another_node_travels_in_vxlan() {
    for underlay_is_v6 in [false, true] {
        for destination in both_families(10, Node::B) {
            let udp = Udp::from_pod(destination);
            let objects = objects_over(Node::A, underlay_is_v6);
            let output = run(objects, &[input("default/pod10", [udp.frame()])]);
            let frame = only_sent(&output, "uplink");
            assert_checksums(frame);
            let outer = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
            let Some(etherparse::TransportSlice::Udp(header)) = outer.transport else { panic!() };
            assert_eq!(header.destination_port(), 4789);
            assert!(header.source_port() >= 49_152);
            assert_eq!(header.checksum() == 0, !underlay_is_v6);
            let expected = Udp {
                macs: (Node::A.mac(), Node::B.mac()),
                ttl: 63,
                payload: udp.payload.clone(),
                ..udp
            };
            assert_eq!(inner(frame), expected.frame());
        }
    }
}

#[test]
fn what_one_node_encapsulates_the_other_delivers() {
    for underlay_is_v6 in [false, true] {
        for destination in both_families(11, Node::B) {
            let udp = Udp::from_pod(destination);
            let first = run(
                objects_over(Node::A, underlay_is_v6),
                &[input("default/pod10", [udp.frame()])],
            );
            let frame = only_sent(&first, "uplink").to_vec();
            let second = run(objects_over(Node::B, underlay_is_v6), &[input("uplink", [frame])]);
            let expected = Udp {
                macs: (Node::B.gateway_mac(), Node::B.pod_mac(11)),
                ttl: 62,
                payload: udp.payload.clone(),
                ..udp
            };
            assert_eq!(only_sent(&second, "default/pod11"), expected.frame());
        }
    }
}

#[test]
fn a_packet_to_the_pods_own_node_goes_to_the_host_port() {
    for destination in [IpAddr::from(Node::A.ip()), Node::A.ip6().into()] {
        let udp = Udp::from_pod(destination);
        let output = run_from("default/pod10", [udp.frame()]);
        let expected = Udp {
            macs: (Node::A.gateway_mac(), Node::A.mac()),
            ttl: 63,
            payload: udp.payload.clone(),
            ..udp
        };
        assert_eq!(only_sent(&output, "host"), expected.frame());
    }
}

#[test]
fn the_node_reaches_its_pods_with_its_own_address() {
    let mut udp = Udp::from_pod(Node::A.pod(11));
    udp.macs.0 = Node::A.mac();
    udp.source = Node::A.ip().into();
    let output = run_from("host", [udp.frame()]);
    assert_eq!(&only_sent(&output, "default/pod11")[..6], Node::A.pod_mac(11).octets());
}

#[test]
fn a_packet_to_the_address_of_another_node_travels_in_its_tunnel() {
    let output = run_from("default/pod10", [Udp::from_pod(Node::B.ip()).frame()]);
    let frame = only_sent(&output, "uplink").to_vec();
    let output = run(objects(Node::B), &[input("uplink", [frame])]);
    assert_eq!(&only_sent(&output, "host")[..6], Node::B.mac().octets());
}

#[test]
fn a_pod_may_reach_itself_through_its_gateway() {
    let output = run_from("default/pod10", [Udp::from_pod(Node::A.pod(10)).frame()]);
    only_sent(&output, "default/pod10");
}

#[test]
fn padding_of_short_frames_does_not_travel() {
    let udp = Udp::from_pod(Node::B.pod(10));
    let mut padded = udp.frame();
    padded.resize(60, 0xee);
    let output = run_from("default/pod10", [padded]);
    assert_eq!(inner(only_sent(&output, "uplink")).len(), udp.frame().len());
}

#[test]
fn one_flow_keeps_one_outer_source_port_and_flows_differ() {
    let frames = (0..200_u16).map(|flow| {
        let mut udp = Udp::from_pod(Node::B.pod(10));
        udp.ports.0 = 1000 + flow % 100;
        udp.frame()
    });
    let output = run_from("default/pod10", frames);
    let ports: Vec<_> =
        crate::rig::sent(&output, "uplink").iter().map(|frame| [frame[34], frame[35]]).collect();
    assert_eq!(ports[..100], ports[100..]);
    let mut distinct = ports[..100].to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 90, "{} of 100", distinct.len());
}

#[test]
fn two_replays_give_the_same_bytes() {
    let frames: Vec<_> = (0..50_u8)
        .map(|position| {
            let mut udp = Udp::from_pod(Node::B.pod(10));
            udp.ports.0 += u16::from(position);
            udp.ttl = position;
            udp.frame()
        })
        .collect();
    let inputs = [
        input("default/pod10", frames.clone()),
        input("host", frames.clone()),
        input("uplink", frames),
    ];
    let objects = || {
        let mut objects = objects(Node::A);
        objects.push(route(std::net::Ipv4Addr::new(172, 16, 0, 0), 12, via_tunnel()));
        objects
    };
    assert_eq!(run(objects(), &inputs), run(objects(), &inputs));
}
