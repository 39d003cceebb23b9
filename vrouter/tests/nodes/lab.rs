//! What needs drivers that this machine does not have: run by `scripts/lab` in a virtual machine,
//! where `up0` and `peer0` are the two ends of a cable between virtio-net NICs.

use std::{env, process::Command};

use crate::{
    engine_node::{EngineNode, Tunnel},
    linux_node::{LinuxNode, VTEP_MAC},
    namespace::Namespace,
    scenarios::{ONE, TWO, assert_reaches},
    skip_unless_namespaces,
};

/// Moves a NIC of the machine into a namespace, where it is the uplink.
fn node_with(nic: &str) -> Namespace {
    let namespace = Namespace::create("node");
    let moved = Command::new("ip")
        .args(["link", "set", nic, "netns", namespace.name(), "name", "up0"])
        .status();
    assert!(moved.unwrap().success(), "no NIC {nic}");
    namespace.ip("link set up0 up");
    namespace
}

#[test]
fn a_zero_copy_uplink_and_copy_mode_guests_share_one_memory_region() {
    skip_unless_namespaces!();
    if env::var_os("VROUTER_LAB").is_none() {
        eprintln!("SKIPPED: needs the virtual lab; run scripts/lab");
        return;
    }
    let tunnel = Tunnel { is_v6: false, udp_port: 4789, remote_router_mac: VTEP_MAC };
    let mut engine = EngineNode::start(node_with("up0"), ONE, TWO);
    engine.attach_pods(2, tunnel.mtu_bytes());
    engine.configure(tunnel);
    let backends = engine.ask(|engine| {
        let ports = engine.ports().into_iter();
        ports.map(|port| (port.object.name.to_string(), port.backend)).collect::<Vec<_>>()
    });
    for (name, backend) in backends {
        let expected = if name == "uplink" { "af_xdp zero-copy" } else { "af_xdp copy" };
        assert_eq!(backend, expected, "{name}: {}", engine.story());
    }
    let linux = LinuxNode::create(node_with("peer0"), TWO, ONE, tunnel, 1);
    engine.wait_for_way(&linux.namespace);
    assert_reaches((&engine.pods[0]).into(), (&linux.pods[0]).into());
    assert_reaches((&linux.pods[0]).into(), (&engine.pods[1]).into());
    engine.finish();
}
