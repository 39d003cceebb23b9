//! Over TAP interfaces, with the kernel at the other end.

use std::path::Path;

use serde_json::json;

use crate::{
    assert_all_arrived, namespace::Namespace, received, refusal, row, silence,
    skip_unless_namespaces,
};

/// Leaves the test, loudly, if it cannot run here.
macro_rules! skip_unless_taps {
    () => {
        skip_unless_namespaces!();
        if !Path::new("/dev/net/tun").exists() {
            eprintln!("SKIPPED: needs /dev/net/tun; modprobe tun");
            return;
        }
    };
}

/// A namespace with TAP interfaces, up.
fn with_taps(names: &[&str]) -> Namespace {
    let namespace = Namespace::create("tap");
    silence(&namespace);
    for name in names {
        namespace.ip(&format!("tuntap add {name} mode tap"));
        namespace.ip(&format!("link set {name} up"));
    }
    namespace
}

#[test]
fn the_kernel_receives_every_packet_from_a_tap() {
    skip_unless_taps!();
    let namespace = with_taps(&["tap0"]);
    let tx = format!("--tx tap:tap0,netns={}", namespace.name());
    let row = row(&format!("{tx} --packets 5000 --frame 512"));
    assert_eq!(row["sent"], json!(5000));
    assert_eq!(received(&namespace, "tap0"), (5000, 5000 * 508));
}

#[test]
fn the_kernels_bridge_forwards_every_packet_between_taps() {
    skip_unless_taps!();
    let namespace = with_taps(&["tap0", "tap1"]);
    namespace.ip("link add bridge type bridge mcast_snooping 0");
    for port in ["tap0", "tap1"] {
        namespace.ip(&format!("link set {port} master bridge"));
    }
    namespace.ip("link set bridge up");
    let name = namespace.name();
    for options in ["--frame imix", "--ipv6 --frame 1518"] {
        let ports = format!("--tx tap:tap0,netns={name} --rx tap:tap1,netns={name}");
        let row = row(&format!("{ports} {options} --packets 4000 --rate 10kpps --flows 10"));
        assert_all_arrived(&row, 4000);
    }
}

#[test]
fn what_is_no_tap_is_refused() {
    skip_unless_taps!();
    let (code, errors) = refusal("--tx tap:lo");
    assert!(errors.contains("cannot attach to lo: it is no TAP interface"), "{errors}");
    assert_eq!(code, 1);
}
