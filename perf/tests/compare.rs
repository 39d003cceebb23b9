//! `vrouter-perf compare` with the peers that are installed.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

/// Needs root for namespaces and huge pages, and two CPUs.
fn reason_to_skip() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("peers run in namespaces of their own, which takes root");
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Some("there is one CPU only");
    }
    let pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    fs::OpenOptions::new().write(true).open(pages).err()?;
    Some("huge pages cannot be reserved here")
}

fn namespaces_left() -> bool {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let mine = |name: &str| name.starts_with("vr-perf-");
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| mine(name))
        .filter_map(|name| name.split('-').nth(2).map(str::to_owned))
        .any(|maker| !Path::new("/proc").join(maker).exists())
}

#[test]
#[expect(clippy::print_stdout, reason = "says what is skipped")]
fn every_dataplane_that_is_installed_has_its_rows() {
    if let Some(reason) = reason_to_skip() {
        println!("SKIPPED: {reason}");
        return;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_vrouter-perf"))
        .args(["compare", "--case", "forward", "--case", "conntrack-vxlan-encap"])
        .args([
            "--flows",
            "1",
            "--flows",
            "100",
            "--rounds",
            "1",
            "--seconds",
            "0.1",
            "--json",
            "-",
        ])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let skipped = results["skipped"].as_array().unwrap();
    if !skipped.is_empty() {
        let reasons: Vec<_> = skipped.iter().filter_map(Value::as_str).collect();
        // One line, since each counts as a test.
        println!("SKIPPED: {}", reasons.join("; "));
    }
    let rows = results["rows"].as_array().unwrap();
    let has = |case: &str, dataplane: &str| {
        rows.iter().any(|row| {
            let cycles = row["cycles_per_packet"]["median"].as_f64().unwrap();
            row["case"] == case && row["dataplane"] == dataplane && cycles > 1.0
        })
    };
    let is_skipped =
        |name: &str| skipped.iter().any(|reason| reason.as_str().unwrap().starts_with(name));
    for case in ["forward", "conntrack-vxlan-encap"] {
        assert!(has(case, "vrouter"));
        let peer = "open-vswitch-dpdk";
        assert_ne!(has(case, peer), is_skipped(peer), "{case}");
    }
    let floor = "testpmd-macswap";
    assert_ne!(has("forward", floor), is_skipped(floor));
    assert!(!namespaces_left());
}

#[test]
#[expect(clippy::print_stdout, reason = "says what is skipped")]
fn pods_with_ordinary_sockets_are_measured_beside_the_kernel() {
    if let Some(reason) = reason_to_skip() {
        println!("SKIPPED: {reason}");
        return;
    }
    if Command::new("iperf3").arg("--version").output().is_err() {
        println!("SKIPPED: iperf3 is not installed");
        return;
    }
    let cases = ["pods-tcp-8", "nodes-tcp-1", "pods-round-trips"];
    let output = Command::new(env!("CARGO_BIN_EXE_vrouter-perf"))
        .arg("compare")
        .args(cases.iter().chain(&["idle-taps"]).flat_map(|case| ["--case", case]))
        .args(["--rounds", "1", "--seconds", "0.1", "--json", "-"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = results["pods"].as_array().unwrap();
    for case in cases {
        for dataplane in ["vrouter-tap", "vrouter-veth", "linux", "linux-both-cpus"] {
            let row = rows.iter().find(|row| row["case"] == case && row["dataplane"] == dataplane);
            let row = row.unwrap_or_else(|| panic!("{case}, {dataplane}: {results}"));
            assert!(row["figures"]["median"].as_f64().unwrap() > 0.0, "{row}");
        }
        let goals = rows.iter().filter(|row| row["case"] == case && row["goal"].is_number());
        assert_eq!(goals.count(), 1, "{case}");
    }
    let is_idle = |row: &&Value| row["case"] == "idle-taps";
    let units: Vec<_> = rows.iter().filter(is_idle).map(|row| row["unit"].clone()).collect();
    assert_eq!(units, ["cycles/poll", "cycles/poll", "% of a CPU", "% of a CPU", "KiB/port"]);
    assert!(!namespaces_left());
}
