//! What is refused, and how it is said.

use std::{fs, path::Path};

use crate::bench::{Bench, CLIENT, WEB};

/// Bytes of a classic capture with one frame.
struct Pcap {
    magic: u32,
    link_type: u32,
    is_big_endian: bool,
}

impl Pcap {
    const MICROSECONDS: u32 = 0xa1b2_c3d4;
    const NANOSECONDS: u32 = 0xa1b2_3c4d;

    fn bytes(&self, fraction: u32, frame: &[u8]) -> Vec<u8> {
        let len = u32::try_from(frame.len()).unwrap();
        let words = [self.magic, 0, 0, 0, 65_535, self.link_type, 7, fraction, len, len];
        let mut bytes = Vec::new();
        for (index, word) in words.into_iter().enumerate() {
            match (index, self.is_big_endian) {
                // The version, 2.4, is two half words.
                (1, true) => bytes.extend([0, 2, 0, 4]),
                (1, false) => bytes.extend([2, 0, 4, 0]),
                (_, true) => bytes.extend(word.to_be_bytes()),
                (_, false) => bytes.extend(word.to_le_bytes()),
            }
        }
        bytes.extend(frame);
        bytes
    }
}

/// Replays a file with these bytes; exit code and standard error.
fn replay_bytes(bench: &Bench, bytes: &[u8]) -> (Option<i32>, String) {
    fs::write(bench.path("in.pcap"), bytes).unwrap();
    let output = bench.replay("node-a", &["--in", "default/client=in.pcap", "--out", "out"]);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn both_byte_orders_and_both_resolutions_are_read() {
    let bench = Bench::new();
    let frame = bench.udp("node-a", "default/client", [CLIENT, WEB]);
    for (magic, fraction) in [(Pcap::MICROSECONDS, 5), (Pcap::NANOSECONDS, 5000)] {
        for is_big_endian in [false, true] {
            let pcap = Pcap { magic, link_type: 1, is_big_endian };
            let (code, error) = replay_bytes(&bench, &pcap.bytes(fraction, &frame));
            assert_eq!(code, Some(0), "{error}");
            let sent = bench.read("out/default/web.pcap");
            assert_eq!(sent[0].timestamp.as_nanos(), 7_000_005_000);
        }
    }
}

#[test]
fn a_capture_that_is_none_is_refused_by_name() {
    let bench = Bench::new();
    let frame = bench.udp("node-a", "default/client", [CLIENT, WEB]);
    let good = Pcap { magic: Pcap::NANOSECONDS, link_type: 1, is_big_endian: false };
    let whole = good.bytes(0, &frame);
    let raw_ip = Pcap { link_type: 101, ..good }.bytes(0, &frame);
    for (bytes, expected) in [
        (&whole[..whole.len() - 1], "ends inside frame 0"),
        (&whole[..30], "ends inside frame 0"),
        (&whole[..10], "is not a capture file"),
        (b"not a capture at all, just text", "is not a capture file"),
        (&raw_ip, "not ethernet"),
    ] {
        let (code, error) = replay_bytes(&bench, bytes);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(expected) && error.contains("in.pcap"), "{error}");
    }
}

/// A pcapng block with its padding and both lengths.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = u32::try_from(body.len() + 12).unwrap().to_le_bytes();
    [&kind.to_le_bytes()[..], &length, &body, &length].concat()
}

/// A pcapng file of interfaces with these link types, whose times are in nanoseconds, and one frame
/// of the last one, seven seconds and `nanoseconds` after 1970.
fn pcapng(link_types: &[u16], nanoseconds: u64, frame: &[u8]) -> Vec<u8> {
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    let mut bytes = block(0x0a0d_0d0a, &section);
    for link_type in link_types {
        let fixed = [&link_type.to_le_bytes()[..], &[0; 6]].concat();
        // The option `if_tsresol` and the end of options.
        bytes.extend(block(1, &[&fixed[..], &[9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]].concat()));
    }
    let time = 7_000_000_000 + nanoseconds;
    let words = [
        u32::try_from(link_types.len() - 1).unwrap(),
        u32::try_from(time >> 32).unwrap(),
        u32::try_from(time & 0xffff_ffff).unwrap(),
        u32::try_from(frame.len()).unwrap(),
        u32::try_from(frame.len()).unwrap(),
    ];
    let words = words.map(u32::to_le_bytes).concat();
    bytes.extend(block(6, &[&words[..], frame].concat()));
    bytes
}

#[test]
fn a_pcapng_file_is_read_by_the_clocks_of_its_interfaces() {
    let bench = Bench::new();
    let frame = bench.udp("node-a", "default/client", [CLIENT, WEB]);
    let (code, error) = replay_bytes(&bench, &pcapng(&[113, 1], 5001, &frame));
    assert_eq!(code, Some(0), "{error}");
    let sent = bench.read("out/default/web.pcap");
    assert_eq!(sent[0].timestamp.as_nanos(), 7_000_005_001);
    let whole = pcapng(&[1], 0, &frame);
    for (bytes, expected) in [
        (&whole[..whole.len() - 1], "ends inside frame 0"),
        (&whole[..10], "is not a capture file"),
        (&pcapng(&[1, 113], 0, &frame), "LINUX_SLL frames, not ethernet ones"),
    ] {
        let (code, error) = replay_bytes(&bench, bytes);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains(expected) && error.contains("in.pcap"), "{error}");
    }
}

#[test]
fn an_empty_capture_is_no_error() {
    let bench = Bench::new();
    bench.write("in.pcap", &[]);
    bench.replay_ok("node-a", &["--in", "default/client=in.pcap", "--out", "out"]);
    assert_eq!(bench.json("out/drops.json"), serde_json::json!([]));
}

#[test]
fn a_missing_file_is_named() {
    let bench = Bench::new();
    let output = bench.replay("node-a", &["--in", "uplink=missing.pcap", "--out", "out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.pcap"));
    assert!(!Path::new(&bench.path("out")).exists(), "nothing is written before all is read");
}

#[test]
fn an_unknown_port_is_answered_with_those_that_there_are() {
    let bench = Bench::new();
    bench.write("in.pcap", &[]);
    // A pod of another node is none of this one's ports.
    let output = bench.replay("node-a", &["--in", "back/db=in.pcap", "--out", "out"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("node-a has no port back/db"), "{error}");
    assert!(error.contains("host, uplink, default/client, default/web"), "{error}");
}

#[test]
fn an_unknown_node_is_answered_with_those_that_there_are() {
    let bench = Bench::new();
    let output = bench.replay("node-z", &["--ports"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("node-z") && error.contains("node-a, node-b"), "{error}");
}

#[test]
fn two_inputs_for_one_port_are_refused() {
    let bench = Bench::new();
    bench.write("in.pcap", &[]);
    let twice = ["--in", "uplink=in.pcap", "--in", "uplink=in.pcap", "--out", "out"];
    let output = bench.replay("node-a", &twice);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("uplink has two inputs"));
}

#[test]
fn a_broken_manifest_is_refused_and_an_unknown_kind_left_out() {
    let bench = Bench::new();
    let kind = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n";
    fs::write(bench.path("manifests/other.yaml"), kind).unwrap();
    assert!(bench.replay("node-a", &["--ports"]).status.success());
    fs::write(bench.path("manifests/other.yaml"), "kind: [").unwrap();
    let output = bench.replay("node-a", &["--ports"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("other.yaml"));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let bench = Bench::new();
    bench.write("in.pcap", &[]);
    fs::write(bench.path("file"), "").unwrap();
    let output = bench.replay("node-a", &["--in", "uplink=in.pcap", "--out", "file/out"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--out"));
}

#[test]
fn input_and_output_are_asked_for_unless_only_the_ports_are() {
    let bench = Bench::new();
    assert_eq!(bench.replay("node-a", &[]).status.code(), Some(2));
    assert_eq!(bench.replay("node-a", &["--in", "nothing", "--out", "x"]).status.code(), Some(2));
    assert!(bench.replay("node-a", &["--ports"]).status.success());
}
