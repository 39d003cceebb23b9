//! `vrouter-perf pipeline` as it is run: a row for each case, nothing lost, and clear errors before
//! any figure.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use perf::traffic::{self, Way};
use serde_json::Value;
use vrouter::port::pcap::file::CaptureWriter;

fn run(arguments: &[&str]) -> Output {
    let mut all = vec!["pipeline"];
    for (option, default) in [("--seconds", "0.05"), ("--rounds", "3")] {
        if !arguments.contains(&option) {
            all.extend([option, default]);
        }
    }
    Command::new(env!("CARGO_BIN_EXE_vrouter-perf")).args(all).args(arguments).output().unwrap()
}

/// The rows of a run that must succeed.
fn rows(arguments: &[&str]) -> Vec<Value> {
    let output = run(&[arguments, &["--json", "-"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a run that must fail says; it prints no figure.
fn error(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(!output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "no figure is printed");
    String::from_utf8(output.stderr).unwrap()
}

/// A capture of these frames.
fn capture(folder: &Path, frames: &[Vec<u8>]) -> PathBuf {
    let path = folder.join("in.pcap");
    let mut writer = CaptureWriter::create(&path).unwrap();
    for frame in frames {
        writer.write(Duration::ZERO, frame).unwrap();
    }
    writer.finish().unwrap();
    path
}

#[test]
fn known_flows_are_forwarded_without_a_drop_or_an_allocation() {
    let rows = rows(&["--flows", "500"]);
    let names: Vec<&str> = rows.iter().map(|row| row["case"].as_str().unwrap()).collect();
    let ways = ["ipv4-routed", "ipv6-routed", "vxlan-encap", "vxlan-decap"];
    assert_eq!(names, [&ways[..], &["mix", "churn", "policy"]].concat());
    for row in rows {
        assert_eq!((&row["flows"], &row["frame_bytes"]), (&500.into(), &64.into()), "{row}");
        assert_eq!((&row["drops"], &row["allocations_per_packet"]), (&0.into(), &0.0.into()));
        let figures = ["min", "median", "max"].map(|name| row["cycles_per_packet"][name].as_f64());
        assert!(figures[0] > Some(1.0) && figures.is_sorted(), "{row}");
        assert!(row["mpps"].as_f64() > Some(0.0) && row["packets"].as_u64() > Some(0), "{row}");
        assert!(row["marks"].is_array());
    }
}

#[test]
fn first_packets_all_become_flows() {
    let rows = rows(&["--case", "new-flow", "--flows", "300000"]);
    assert_eq!((&rows[0]["drops"], &rows[0]["flows"]), (&0.into(), &300_000.into()));
    assert_eq!(rows[0]["allocations_per_packet"], 0.0);
    // A sixteenth of them find cold caches, and are not counted.
    let packets = rows[0]["packets"].as_u64().unwrap();
    assert!((280_000..300_000).contains(&packets), "{packets}");
    // More windows than there are bursts in it.
    let rows = self::rows(&["--case", "new-flow", "--flows", "65536", "--rounds", "1000"]);
    assert!(rows[0]["packets"].as_u64() > Some(200_000), "{}", rows[0]);
}

#[test]
fn frames_of_many_segments_are_forwarded_too() {
    for row in rows(&["--case", "vxlan-encap", "--case", "mix", "--flows", "80", "--frame", "9000"])
    {
        assert_eq!((&row["drops"], &row["frame_bytes"]), (&0.into(), &9000.into()), "{row}");
    }
}

#[test]
fn policy_that_comes_and_goes_drops_nothing_that_it_lets_pass() {
    let rows = rows(&["--case", "policy", "--flows", "1000", "--seconds", "0.5"]);
    assert_eq!((&rows[0]["drops"], &rows[0]["flows"]), (&0.into(), &1000.into()));
    assert!(rows[0]["quiet_cycles_per_packet"]["median"].as_f64() > Some(0.0));
}

#[test]
fn changes_and_reads_of_counters_lose_nothing() {
    let rows = rows(&["--case", "churn", "--flows", "1000", "--seconds", "0.5"]);
    assert_eq!(rows[0]["drops"], 0);
    assert!(rows[0]["updates_per_second"].as_f64() > Some(100.0), "{}", rows[0]);
    assert!(rows[0]["quiet_cycles_per_packet"]["median"].as_f64() > Some(0.0));
}

#[test]
fn what_cannot_be_measured_is_an_error_before_any_figure() {
    let case = ["--case", "new-flow", "--flows", "100"];
    assert!(error(&case).contains("new-flow with 100 flows is not possible: at least 8192"));
    assert!(error(&["--flows", "9000000"]).contains("at most 8388608"));
    let frames = error(&["--frame", "20", "--case", "ipv6-routed"]);
    assert!(frames.contains("frames of 20 bytes are not possible: at least 62"), "{frames}");
    let frames = error(&["--frame", "65536", "--case", "vxlan-encap"]);
    assert!(frames.contains("at most 65499"), "{frames}");
    assert!(error(&["--cpu", "60000"]).contains("CPU 60000 is not to be had"));
    assert!(error(&["--seconds", "0"]).contains("at least 0.01 s"));
    assert!(error(&["--pcap", "/nowhere.pcap"]).contains("cannot read /nowhere.pcap"));
    assert!(error(&["--pcap", "x", "--flows", "1"]).contains("cannot be used with"));
    let results = error(&["--case", "ipv4-routed", "--flows", "1", "--json", "/nowhere/x.json"]);
    assert!(results.contains("/nowhere/x.json"), "{results}");
}

#[test]
fn a_capture_is_forwarded_and_what_is_not_is_counted_by_reason() {
    let folder = tempfile::tempdir().unwrap();
    let good = traffic::frame(Way::PodToPod, 0, 1, 64);
    let jumbo = traffic::frame(Way::Encap, 0, 2, 9000);
    let cut = good[..20].to_vec();
    let mut other = good.clone();
    other[12..14].copy_from_slice(&[0x88, 0xcc]);
    let path = capture(folder.path(), &[good, jumbo, cut, other]);
    let rows = rows(&["--pcap", path.to_str().unwrap()]);
    let row = &rows[0];
    assert_eq!((&row["case"], &row["flows"]), (&"pcap".into(), &2.into()), "{row}");
    assert_eq!(row["frame_bytes"], (64 + 9000 + 20 + 64) / 4);
    let reasons = row["drops_by_reason"].as_object().unwrap();
    let labels: Vec<&str> = reasons.keys().map(String::as_str).collect();
    assert_eq!(labels, ["parse_truncated", "parse_unknown_ethertype"]);
    assert!(row["marks"].as_array().unwrap().contains(&"dropped".into()), "{row}");
}

#[test]
fn a_capture_that_is_no_capture_of_ethernet_frames_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| error(&["--pcap", path.to_str().unwrap()]);
    let empty = capture(folder.path(), &[]);
    assert!(message(&empty).contains("in.pcap holds no frames"));
    let path = capture(folder.path(), &[vec![0; 60]]);
    let bytes = std::fs::read(&path).unwrap();
    let mut cooked = bytes.clone();
    cooked[20] = 113;
    std::fs::write(&path, &cooked).unwrap();
    assert!(message(&path).contains("LINUX_SLL frames, not ethernet ones"));
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(message(&path).contains("ends inside frame 0"));
    std::fs::write(&path, b"no capture").unwrap();
    assert!(message(&path).contains("is not a capture file"));
}
