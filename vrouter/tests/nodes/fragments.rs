//! Datagrams of the underlay that its stack has fragmented.

use std::{net::UdpSocket, thread, time::Instant};

use vrouter::drops::DropReason;

use crate::{
    engine_node::{EngineNode, Tunnel},
    linux_node::VTEP_MAC,
    plan::set_up_uplink,
    scenarios::{ONE, TWO, underlay_of},
    skip_unless_namespaces,
    traffic::PATIENCE,
};

/// A payload that takes three fragments over an MTU of 1500 bytes, in either family.
const PAYLOAD_BYTES: usize = 3500;
const FRAGMENTS: u64 = 3;
const DATAGRAMS: u64 = 5;

/// Drops on the uplink of outer fragments, and all drops there.
fn uplink_drops(engine: &EngineNode) -> (u64, u64) {
    let ports = engine.ask(|engine| engine.ports());
    let uplink = ports.iter().find(|port| port.object.name.to_string() == "uplink").unwrap();
    (uplink.totals.dropped_for(DropReason::VxlanOuterFragment), uplink.totals.dropped())
}

#[test]
fn all_fragments_to_a_tunnel_are_dropped_here_and_others_reach_the_node_whole() {
    skip_unless_namespaces!();
    let [one, two] = underlay_of(2);
    set_up_uplink(&two, TWO);
    let tunnel = Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: VTEP_MAC };
    let mut engine = EngineNode::start(one, ONE, TWO);
    engine.configure(tunnel);
    let mut expected = 0;
    for is_v6 in [false, true] {
        let address = ONE.address(is_v6);
        let own = engine.namespace.inside(|| UdpSocket::bind((address, 0)).unwrap());
        own.set_read_timeout(Some(PATIENCE)).unwrap();
        let peer = two.inside(|| UdpSocket::bind((TWO.address(is_v6), 0)).unwrap());
        let mut buffer = [0; 2 * PAYLOAD_BYTES];
        for _ in 0..DATAGRAMS {
            peer.send_to(&[0x5a; PAYLOAD_BYTES], own.local_addr().unwrap()).unwrap();
            assert_eq!(own.recv(&mut buffer).unwrap(), PAYLOAD_BYTES, "the node's own");
            peer.send_to(&[0x5a; PAYLOAD_BYTES], (address, tunnel.udp_port)).unwrap();
            expected += FRAGMENTS;
        }
        let deadline = Instant::now() + PATIENCE;
        while uplink_drops(&engine).0 < expected {
            assert!(Instant::now() < deadline, "{}", engine.story());
            thread::yield_now();
        }
    }
    assert_eq!(uplink_drops(&engine), (expected, expected));
    engine.finish();
}
