//! Replays against capture files in the tree, byte for byte.
//!
//! `tests/golden/CASE/in/PORT.pcap` is replayed on node `a`, or on node `b` where the case says so;
//! what it sends must be `out/PORT.pcap`, and its drops `drops.txt`. `VROUTER_BLESS=1 cargo test -p
//! vrouter golden` writes all of them anew.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use vrouter::{
    port::pcap::file::{self, CaptureWriter, Captured},
    replay::{ReplayInput, ReplayOutput},
};

use crate::{
    gateway::{arp_request, solicitation},
    rig::{
        Node, Udp, echo_request, fix_ipv4_checksum, input, objects, objects_over, only_sent, run,
        run_from, with_dont_fragment,
    },
    sizes::pieces,
};

struct Case {
    name: &'static str,
    node: Node,
    underlay_is_v6: bool,
    inputs: Vec<ReplayInput>,
}

impl Case {
    fn from_pod(name: &'static str, frames: Vec<Vec<u8>>) -> Self {
        let inputs = vec![input("default/pod10", frames)];
        Self { name, node: Node::A, underlay_is_v6: false, inputs }
    }

    fn at_b(name: &'static str, underlay_is_v6: bool, frames: Vec<Vec<u8>>) -> Self {
        let inputs = vec![input("uplink", frames)];
        Self { name, node: Node::B, underlay_is_v6, inputs }
    }
}

/// UDP of both families from pod 10 to pod 11 of `node`.
fn udp_to(node: Node) -> Vec<Vec<u8>> {
    vec![Udp::from_pod(node.pod(11)).frame(), Udp::from_pod(node.pod6(11)).frame()]
}

/// The same as node `a` encapsulates it for node `b`.
fn encapsulated(underlay_is_v6: bool) -> Vec<Vec<u8>> {
    let inputs = [input("default/pod10", udp_to(Node::B))];
    let output = run(objects_over(Node::A, underlay_is_v6), &inputs);
    crate::rig::sent(&output, "uplink").iter().map(|frame| frame.to_vec()).collect()
}

/// [`encapsulated`] over IPv6, each with a fragment header although it is whole (RFC 6946).
fn atomic_fragments() -> Vec<Vec<u8>> {
    let with_header = |mut frame: Vec<u8>| {
        let header = [frame[20], 0, 0, 0, 0xde, 0xad, 0xbe, 0xef];
        frame[20] = 44;
        let length = u16::from_be_bytes([frame[18], frame[19]]) + 8;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        frame.splice(54..54, header);
        frame
    };
    encapsulated(true).into_iter().map(with_header).collect()
}

fn sized(is_ipv4: bool, bytes: usize) -> Vec<u8> {
    let payload = vec![0x33; bytes - if is_ipv4 { 28 } else { 48 }];
    if is_ipv4 {
        Udp { payload, ..Udp::from_pod(Node::B.pod(10)) }.frame()
    } else {
        Udp { payload, ..Udp::from_pod(Node::B.pod6(10)) }.frame()
    }
}

fn cases() -> Vec<Case> {
    let ttl = |mut udp: Udp| {
        udp.ttl = 1;
        udp.frame()
    };
    let spoofed = Udp { source: Node::A.pod(11).into(), ..Udp::from_pod(Node::B.pod(10)) };
    let mut unknown_vni = encapsulated(false).remove(0);
    unknown_vni[14 + 20 + 8 + 6] = 9;
    let mut flag = encapsulated(false).remove(0);
    flag[14 + 20 + 8] = 0;
    let mut may_fragment = sized(true, 3000);
    may_fragment[20] = 0;
    fix_ipv4_checksum(&mut may_fragment);
    let mut over_v6 = Case::from_pod("encap-over-ipv6", udp_to(Node::B));
    over_v6.underlay_is_v6 = true;
    vec![
        Case::from_pod("same-node", udp_to(Node::A)),
        Case::from_pod("encap", udp_to(Node::B)),
        over_v6,
        Case::at_b("decap", false, encapsulated(false)),
        Case::at_b("decap-over-ipv6", true, encapsulated(true)),
        Case::at_b("decap-atomic-fragment", true, atomic_fragments()),
        Case::from_pod(
            "arp",
            vec![
                arp_request(Node::A.pod(10), Node::A.gateway()),
                arp_request(Node::A.pod(10), Node::B.pod(10)),
                arp_request(Node::A.pod(10), Node::A.pod(10)),
            ],
        ),
        Case::from_pod(
            "neighbour-discovery",
            vec![
                solicitation(Node::A.pod6(10), Node::A.gateway6()),
                solicitation(Node::A.pod6(10), Node::A.pod6(11)),
                solicitation(Node::A.pod6(10), Node::A.pod6(10)),
            ],
        ),
        Case::from_pod(
            "gateway-echo",
            vec![
                echo_request(Node::A.gateway(), b"four"),
                echo_request(Node::A.gateway6(), b"six"),
            ],
        ),
        Case::from_pod(
            "ttl-exceeded",
            vec![ttl(Udp::from_pod(Node::B.pod(10))), ttl(Udp::from_pod(Node::B.pod6(10)))],
        ),
        Case::from_pod("too-big", vec![with_dont_fragment(sized(true, 1451)), sized(false, 1451)]),
        Case::from_pod("fragmented-on-the-way", vec![may_fragment]),
        Case::from_pod("fragments", pieces(true).into_iter().chain(pieces(false)).collect()),
        Case::from_pod("unknown-fragment", vec![pieces(true).remove(1)]),
        Case::from_pod("spoofed-source", vec![spoofed.frame()]),
        Case::from_pod(
            "no-route",
            vec![Udp::from_pod(std::net::Ipv4Addr::new(198, 51, 100, 1)).frame()],
        ),
        Case::at_b("unknown-vni", false, vec![unknown_vni]),
        Case::at_b("vxlan-flag-unset", false, vec![flag]),
    ]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn write_capture(path: &Path, frames: &[Captured]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut writer = CaptureWriter::create(path).unwrap();
    for captured in frames {
        writer.write(captured.timestamp, &captured.frame).unwrap();
    }
    writer.finish().unwrap();
}

fn write_output(folder: &Path, output: &ReplayOutput) {
    for (port, frames) in &output.sent {
        write_capture(&folder.join("out").join(format!("{port}.pcap")), frames);
    }
    let mut drops = String::new();
    for drop in &output.drops {
        let (port, reason, detail) = (&drop.port, drop.reason.label(), &drop.detail);
        writeln!(drops, "{} {port} {reason} {detail}", drop.index).unwrap();
    }
    fs::write(folder.join("drops.txt"), drops).unwrap();
}

/// All files below `folder` that belong to a result, by their paths in it.
fn result_files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_path_buf();
            if path.is_dir() && !name.starts_with("in") {
                folders.push(path);
            } else if path.is_file() {
                files.push((name, fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn replays_give_what_the_golden_captures_hold() {
    let is_blessing = std::env::var_os("VROUTER_BLESS").is_some();
    for case in cases() {
        let golden = folder().join(case.name);
        let path = |port: &str| golden.join("in").join(format!("{port}.pcap"));
        if is_blessing {
            let _ = fs::remove_dir_all(&golden);
            for input in &case.inputs {
                write_capture(&path(&input.port), &input.frames);
            }
        }
        let inputs: Vec<_> = case
            .inputs
            .iter()
            .map(|input| ReplayInput {
                port: input.port.clone(),
                frames: file::read(&path(&input.port)).unwrap(),
            })
            .collect();
        let output = run(objects_over(case.node, case.underlay_is_v6), &inputs);
        if is_blessing {
            write_output(&golden, &output);
        }
        let result = tempfile::tempdir().unwrap();
        write_output(result.path(), &output);
        let (expected, found) = (result_files(&golden), result_files(result.path()));
        let names = |files: &[(PathBuf, Vec<u8>)]| -> Vec<PathBuf> {
            files.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&found), names(&expected), "{}: {:?}", case.name, output.drops);
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            assert!(
                found == expected,
                "{}: {} differs; if that is meant, run with VROUTER_BLESS=1",
                case.name,
                name.display()
            );
        }
    }
}

#[test]
fn a_capture_of_one_node_is_the_others_input() {
    let output = run_from("default/pod10", udp_to(Node::B));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("uplink.pcap");
    write_capture(&path, &output.sent["uplink"]);
    let frames = file::read(&path).unwrap();
    let output = run(objects(Node::B), &[ReplayInput { port: "uplink".into(), frames }]);
    assert_eq!(output.sent["default/pod11"].len(), 2);
    let echo = run_from("default/pod10", [echo_request(Node::A.gateway(), b"x")]);
    only_sent(&echo, "default/pod10");
}
