//! Over AF_XDP and veth pairs.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::{
    Pair, assert_all_arrived, command, received, refusal, row, rows, skip_unless_namespaces,
};

#[test]
fn the_kernel_counts_every_packet_that_is_sent() {
    skip_unless_namespaces!();
    let pair = Pair::create();
    let row = row(&format!("{} --packets 20000 --frame imix --flows 100", pair.tx()));
    assert_eq!(row["sent"], json!(20_000));
    // 12 frames of the mix are 7 × 60, 4 × 566 and 1 × 1514 bytes without FCS.
    let (rounds, rest) = (20_000 / 12, 20_000 % 12);
    let mix = [60, 566, 60, 60, 566, 60, 1514, 60, 566, 60, 60, 566];
    let rest_bytes: u64 = mix[..rest].iter().sum();
    let bytes = rounds * (7 * 60 + 4 * 566 + 1514) + rest_bytes;
    assert_eq!(received(&pair.right, "veth1"), (20_000, bytes));
}

#[test]
fn nftables_counts_every_packet_of_a_flow() {
    skip_unless_namespaces!();
    let pair = Pair::create();
    pair.right.run("nft add table netdev seen");
    let chain = "type filter hook ingress device veth1 priority 0 ;";
    pair.right.run(&format!("nft add chain netdev seen arrivals {{ {chain} }}"));
    for port in 5000..5003 {
        pair.right.run(&format!("nft add rule netdev seen arrivals udp sport {port} counter"));
    }
    row(&format!("{} --packets 3001 --flows 3 --source-port 5000", pair.tx()));
    let rules = pair.right.run("nft list chain netdev seen arrivals");
    for (port, packets) in [(5000, 1001), (5001, 1000), (5002, 1000)] {
        let bytes = packets * 46;
        let expected = format!("udp sport {port} counter packets {packets} bytes {bytes}");
        assert!(rules.contains(&expected), "{expected}: {rules}");
    }
}

#[test]
fn the_kernels_stack_finds_no_fault_in_any_packet() {
    skip_unless_namespaces!();
    let pair = Pair::create();
    pair.right.sysctl("net.ipv6.conf.veth1.disable_ipv6", "0");
    pair.right.ip("link set veth1 address 02:00:00:00:00:02");
    pair.right.ip("addr add 198.19.0.1/15 dev veth1");
    pair.right.ip("addr add 2001:2:0:1::1/48 dev veth1 nodad");
    for (options, prefix) in [("", "Udp"), ("--ipv6", "Udp6")] {
        let before = counters(&pair, prefix);
        row(&format!("{} {options} --packets 1200 --frame imix --flows 500", pair.tx()));
        let after = counters(&pair, prefix);
        let more = |name: &str| after[name] - before[name];
        // There is no socket: the stack looks at headers and checksums, and counts.
        assert_eq!((more("NoPorts"), more("InErrors"), more("InCsumErrors")), (1200, 0, 0));
    }
}

/// The UDP counters of the right stack: `Udp` or `Udp6`.
fn counters(pair: &Pair, prefix: &str) -> HashMap<String, u64> {
    if prefix == "Udp6" {
        let text = pair.right.run("cat /proc/self/net/snmp6");
        let counter = |line: &str| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.strip_prefix(prefix)?.to_owned(), value.trim().parse().ok()?))
        };
        return text.lines().filter_map(counter).collect();
    }
    let text = pair.right.run("cat /proc/self/net/snmp");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let values = values.split_whitespace().map(|value| value.parse().unwrap());
    names.split_whitespace().map(str::to_owned).zip(values).collect()
}

#[test]
fn every_packet_that_is_sent_is_received() {
    skip_unless_namespaces!();
    let pair = Pair::create();
    let (tx, rx) = (pair.tx(), pair.rx());
    for family in ["", "--ipv6"] {
        let options = "--packets 5000 --rate 20kpps --flows 7 --frame 128 --frame 1518";
        for row in rows(&format!("{tx} {rx} {family} {options}")) {
            assert_all_arrived(&row, 5000);
            assert!(row["latency_ns"]["p50"].as_u64() > Some(0), "{row:#}");
        }
    }
    assert_eq!(received(&pair.right, "veth1").0, 20_000);
}

#[test]
fn all_queues_are_received_from_if_none_is_named() {
    skip_unless_namespaces!();
    let pair = Pair::with(4, 1500);
    let (tx, rx) = (pair.tx(), pair.rx());
    for queue in [0, 3] {
        let options = "--packets 1000 --rate 20kpps --flows 50";
        assert_all_arrived(&row(&format!("{tx},queue={queue} {rx} {options}")), 1000);
    }
    assert!(
        refusal(&format!("{tx},queue=3 {rx},queue=0 --packets 10")).1.contains("nothing arrived")
    );
}

#[test]
fn large_frames_pass_where_the_port_takes_them() {
    skip_unless_namespaces!();
    // The most that veth gives an XDP program in one piece.
    let pair = Pair::with(1, 3498);
    let ports = format!("{} {}", pair.tx(), pair.rx());
    assert_all_arrived(&row(&format!("{ports} --packets 500 --rate 5kpps --frame 3516")), 500);
    assert!(refusal(&format!("{ports} --frame 3517")).1.contains("which takes 3516"));
}

#[test]
fn the_kernels_vxlan_device_takes_every_packet_out_of_a_tunnel() {
    skip_unless_namespaces!();
    let pair = Pair::create();
    pair.right.sysctl("net.ipv6.conf.veth1.disable_ipv6", "0");
    pair.right.ip("link set veth1 mtu 1600 address 02:00:00:00:00:04");
    pair.left.ip("link set veth0 mtu 1600");
    pair.right.ip("addr add 192.0.2.2/24 dev veth1");
    pair.right.ip("addr add 2001:db8::2/64 dev veth1 nodad");
    for (local, remote) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
        // Over IPv6 the kernel wants a checksum, and looks whether it is right.
        pair.right.ip(&format!("link add vxlan0 type vxlan id 7 local {local} dstport 4789"));
        pair.right.ip("link set vxlan0 up");
        let tunnel = format!("--vxlan 7 --tunnel-source {remote} --tunnel-destination {local}");
        row(&format!("{} {tunnel} --packets 1200 --frame imix --flows 300", pair.tx()));
        let bytes = 1200 / 12 * (7 * 60 + 4 * 566 + 1514) - 1200 * 14;
        // A VXLAN device counts packets without their Ethernet header.
        assert_eq!(received(&pair.right, "vxlan0"), (1200, bytes), "from {remote}");
        pair.right.ip("link del vxlan0");
    }
}

#[test]
fn sender_and_sink_may_be_two_processes() {
    skip_unless_namespaces!();
    let pair = Pair::create();
    let mut sink =
        command(&format!("{} --packets 1000 --flows 3 --seconds 60 --json -", pair.rx()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut lines = BufReader::new(sink.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("receiving on af_xdp:veth1")));
    // Another generator's packets are not taken for the stream's.
    row(&format!("{} --packets 70 --rate 10kpps --stream 9", pair.tx()));
    row(&format!("{} --packets 1000 --rate 10kpps --flows 3", pair.tx()));
    let output = sink.wait_with_output().unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let expected = [("received", 1000), ("lost", 0), ("other_streams", 70), ("reordered", 0)];
    for (name, count) in expected {
        assert_eq!(rows[0][name], json!(count), "{name}: {:#}", rows[0]);
    }
    assert_eq!(rows[0]["sent"], Value::Null);
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
        (format!("{tx} {rx} --tx-cpu 0 --rx-cpu 0"), 1, "give --tx-cpu and --rx-cpu two CPUs"),
        (format!("{tx} --search"), 1, "without a sink nothing is known about loss"),
        (format!("{tx} --flows 0"), 1, "give at least 1"),
        (format!("{tx} --destination fd00::1 --source 10.0.0.1"), 1, "are of two families"),
        ("--tx af_xdp:vr-no-such".into(), 1, "there is no interface vr-no-such here; ip link"),
        ("--seconds 1".into(), 2, "--tx <PORT>|--rx <PORT>"),
        (format!("{tx} --rate fast"), 2, "is no rate; give for example"),
        (format!("{rx} --search"), 2, "--tx <PORT>"),
    ] {
        let (code, errors) = refusal(&arguments);
        assert!(errors.contains(expected), "{arguments}: {errors}");
        assert_eq!(code, status, "{arguments}: {errors}");
    }
    pair.left.ip("link set veth0 down");
    assert!(refusal(&tx).1.contains("veth0 is down; run: ip link set veth0 up"));
}
