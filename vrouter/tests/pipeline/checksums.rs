//! Checksums that a local socket left to the device.

use control_api::engine as api;
use etherparse::PacketBuilder;

use crate::rig::{
    Node, Udp, assert_checksums, changed, inner, input, objects, only_sent, run, run_from,
};

/// Node `a`, whose pods sit behind veth pairs with checksum offload.
fn offloading() -> Vec<api::Object> {
    changed(objects(Node::A), |kind| {
        if let api::object::Kind::Port(port) = kind
            && port.name.starts_with("default/")
        {
            port.backend = Some(api::port::Backend::AfXdp(api::AfXdpBackend {
                interface: port.name.replace("default/", "ve"),
                partial_checksums: true,
                ..api::AfXdpBackend::default()
            }));
        }
    })
}

fn tcp(is_ipv4: bool, payload: &[u8]) -> Vec<u8> {
    let ethernet =
        PacketBuilder::ethernet2(Node::A.pod_mac(10).octets(), Node::A.gateway_mac().octets());
    let ip = if is_ipv4 {
        ethernet.ipv4(Node::A.pod(10).octets(), Node::B.pod(10).octets(), 64)
    } else {
        ethernet.ipv6(Node::A.pod6(10).octets(), Node::B.pod6(10).octets(), 64)
    };
    let mut frame = Vec::new();
    ip.tcp(1, 2, 3, 4).syn().write(&mut frame, payload).unwrap();
    frame
}

#[test]
fn a_partial_checksum_is_finished_before_the_packet_is_encapsulated() {
    for length in [0, 1, 2, 1300] {
        for is_ipv4 in [true, false] {
            let whole = tcp(is_ipv4, &vec![0xc3; length]);
            let field = if is_ipv4 { 34 + 16 } else { 54 + 16 };
            let mut partial = whole.clone();
            // The kernel leaves the pseudo header's sum there; whatever it is, it does not count.
            partial[field..field + 2].copy_from_slice(&[0x12, 0x34]);
            let output = run(offloading(), &[input("default/pod10", [partial])]);
            let frame = inner(only_sent(&output, "uplink"));
            assert_checksums(frame);
            assert_eq!(frame[field..field + 2], whole[field..field + 2]);
        }
    }
}

#[test]
fn udp_without_a_checksum_stays_without_one() {
    let mut frame = Udp::from_pod(Node::A.pod(11)).frame();
    frame[40..42].fill(0);
    let output = run(offloading(), &[input("default/pod10", [frame])]);
    assert_eq!(only_sent(&output, "default/pod11")[40..42], [0, 0]);
}

#[test]
fn a_chain_of_segments_is_summed_to_its_end() {
    let jumbo = changed(offloading(), |kind| {
        if let api::object::Kind::Port(port) = kind {
            port.mtu_bytes = 9000;
        }
    });
    for length in [3001, 8000] {
        let mut frame = tcp(false, &vec![0x77; length]);
        frame[70..72].fill(0xaa);
        let output = run(jumbo.clone(), &[input("default/pod10", [frame])]);
        assert_checksums(inner(only_sent(&output, "uplink")));
    }
}

#[test]
fn sctp_gets_its_crc_also_over_several_segments() {
    let jumbo = changed(offloading(), |kind| {
        if let api::object::Kind::Port(port) = kind {
            port.mtu_bytes = 9000;
        }
    });
    for padding in [0, 3001, 8000] {
        let mut sctp = vec![0x13, 0x88, 0x17, 0x70, 0, 0, 0, 0, 0x12, 0x34, 0x56, 0x78];
        // INIT with its initiate tag, and padding after the chunk.
        sctp.extend_from_slice(&[1, 0, 0, 20, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 5]);
        sctp.extend((0..padding).map(|at: usize| at.to_le_bytes()[0]));
        let output = run(jumbo.clone(), &[input("default/pod10", [sctp_frame(&sctp)])]);
        let sent = &only_sent(&output, "default/pod11")[34..];
        let found = u32::from_le_bytes(sent[8..12].try_into().unwrap());
        sctp[8..12].fill(0);
        assert_eq!(found, encap::sctp::checksum(&sctp), "{padding}");
    }
}

/// An SCTP packet from pod 10 to pod 11 of node `a`.
fn sctp_frame(sctp: &[u8]) -> Vec<u8> {
    let ethernet =
        PacketBuilder::ethernet2(Node::A.pod_mac(10).octets(), Node::A.gateway_mac().octets());
    let mut frame = Vec::new();
    let ip = ethernet.ipv4(Node::A.pod(10).octets(), Node::A.pod(11).octets(), 64);
    ip.write(&mut frame, etherparse::IpNumber::SCTP, sctp).unwrap();
    frame
}

#[test]
fn a_wrong_checksum_from_a_wire_is_never_repaired() {
    let mut frame = Udp::from_pod(Node::B.pod(10)).frame();
    frame[40] ^= 0xff;
    let output = run_from("default/pod10", [frame.clone()]);
    assert_eq!(inner(only_sent(&output, "uplink"))[40..], frame[40..]);
}
