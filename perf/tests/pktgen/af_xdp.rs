//! Over AF_XDP and veth pairs.

use serde_json::json;

use crate::{
    namespace::{Namespace, join},
    refusal, row, rows, skip_unless_namespaces,
};

/// Two namespaces joined by a veth pair, with nothing on it but what a test sends.
struct Pair {
    left: Namespace,
    right: Namespace,
}

impl Pair {
    fn create() -> Self {
        let (left, right) = (Namespace::create("left"), Namespace::create("right"));
        for namespace in [&left, &right] {
            // No word from the stacks by themselves: every frame is counted.
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
        }
        join((&left, "veth0"), (&right, "veth1"), 1, 1500);
        Self { left, right }
    }

    fn tx(&self) -> String {
        format!("--tx af_xdp:veth0,netns={}", self.left.name())
    }

    fn rx(&self) -> String {
        format!("--rx af_xdp:veth1,netns={}", self.right.name())
    }

    /// What the kernel counted on the right: packets and bytes received.
    fn received(&self) -> (u64, u64) {
        let text = self.right.run("ip -s -j link show veth1");
        let links: serde_json::Value = serde_json::from_str(&text).unwrap();
        let counters = &links[0]["stats64"]["rx"];
        (counters["packets"].as_u64().unwrap(), counters["bytes"].as_u64().unwrap())
    }
}

#[test]
fn the_kernel_counts_every_packet_that_is_sent() {
    skip_unless_namespaces!();
    let pair = Pair::create();
    let row = row(&format!("{} --packets 20000 --frame imix --flows 100", pair.tx()));
    assert_eq!(row["sent"], json!(20_000));
    // 12 frames of the mix are 7 × 60, 4 × 566 and 1 × 1514 bytes without FCS.
    let (rounds, rest) = (20_000 / 12, 20_000 % 12);
    let rest_bytes: u64 =
        [60, 566, 60, 60, 566, 60, 1514, 60, 566, 60, 60, 566][..rest].iter().sum();
    let bytes = rounds * (7 * 60 + 4 * 566 + 1514) + rest_bytes;
    assert_eq!(pair.received(), (20_000, bytes));
}

#[test]
fn every_packet_that_is_sent_is_received() {
    skip_unless_namespaces!();
    let pair = Pair::create();
    let (tx, rx) = (pair.tx(), pair.rx());
    for family in ["", "--ipv6"] {
        let options = "--packets 5000 --rate 20kpps --flows 7 --frame 128 --frame 1518";
        for row in rows(&format!("{tx} {rx} {family} {options}")) {
            assert_eq!(row["sent"], json!(5000), "{row:#}");
            // A sink that is held up loses frames itself, and says so.
            let lost_by_sink = row["lost_by_sink"].as_u64().unwrap();
            assert_eq!(row["received"], json!(5000 - lost_by_sink), "{row:#}");
            for count in ["reordered", "duplicated", "corrupted", "foreign", "other_streams"] {
                assert_eq!(row[count], json!(0), "{count}: {row:#}");
            }
            assert!(row["latency_ns"]["p50"].as_u64() > Some(0), "{row:#}");
        }
    }
    assert!(pair.received().0 >= 20_000);
}

#[test]
fn what_cannot_be_sent_is_told_and_no_figure_is_printed() {
    skip_unless_namespaces!();
    let pair = Pair::create();
    let (tx, rx) = (pair.tx(), pair.rx());
    for (arguments, status, expected) in [
        (format!("{tx} --frame 2000"), 1, "does not go through af_xdp:veth0"),
        (format!("{tx},queue=7"), 1, "is there such a queue? ethtool -l"),
        (format!("{tx},mode=zero-copy"), 1, "cannot do this mode; give mode=copy"),
        (format!("{tx} --tx-cpu 60000"), 1, "CPU 60000 is not to be had"),
        (format!("{rx} --seconds 0.2"), 1, "nothing arrived on af_xdp:veth1"),
        (format!("{tx} --frame 64 --ipv6"), 1, "the smallest is 84 bytes"),
        (format!("{tx} --flows 0"), 1, "give at least 1"),
        ("--tx af_xdp:vr-no-such".into(), 1, "there is no interface vr-no-such here; ip link"),
        ("--seconds 1".into(), 2, "--tx <PORT>|--rx <PORT>"),
        (format!("{tx} --rate fast"), 2, "is no rate; give for example"),
    ] {
        let (code, errors) = refusal(&arguments);
        assert!(errors.contains(expected), "{arguments}: {errors}");
        assert_eq!(code, status, "{arguments}: {errors}");
    }
    pair.left.ip("link set veth0 down");
    assert!(refusal(&tx).1.contains("veth0 is down; run: ip link set veth0 up"));
}
