//! The regression gate, `scripts/lib/bench-gate`: what it lets through and what not. The counting
//! itself is a step of `scripts/test`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, or skips"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Whether the tools of the script are there; says so if not.
fn is_possible() -> bool {
    let is_there = Command::new("jq").arg("--version").output().is_ok();
    if !is_there {
        println!("SKIPPED gate: there is no jq");
    }
    is_there
}

/// Whether the gate lets `measured` through, held against `baseline`; and what it says.
fn gate(measured: &Value, baseline: &Value) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, value: &Value| {
        let path = folder.path().join(name);
        fs::write(&path, value.to_string()).unwrap();
        path
    };
    let output = Command::new(root().join("scripts/lib/bench-gate"))
        .arg("--measured")
        .arg(file("measured.json", measured))
        .arg("--baseline")
        .arg(file("baseline.json", baseline))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn baseline() -> Value {
    let text = fs::read_to_string(root().join("perf/baseline.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The baseline with all of its counts changed.
fn scaled(factor: f64) -> Value {
    let mut changed = baseline();
    for count in changed["instructions_per_packet"].as_object_mut().unwrap().values_mut() {
        *count = json!(count.as_f64().unwrap() * factor);
    }
    changed
}

#[test]
fn what_was_measured_passes_and_less_passes_too() {
    if !is_possible() {
        return;
    }
    let (passes, text) = gate(&baseline(), &baseline());
    assert!(passes, "{text}");
    let (passes, text) = gate(&baseline(), &scaled(1.04));
    assert!(passes && text.contains("better: accept it"), "{text}");
    let (passes, text) = gate(&baseline(), &scaled(1.0 / 1.029));
    assert!(passes, "{text}");
}

#[test]
fn a_baseline_that_is_four_per_cent_smaller_fails_and_says_what_to_do() {
    if !is_possible() {
        return;
    }
    let (passes, text) = gate(&baseline(), &scaled(0.96));
    assert!(!passes, "{text}");
    assert!(text.contains("REGRESSION: more than 3 % above the baseline"), "{text}");
    assert!(text.contains("scripts/bench --gate --accept"), "{text}");
}

#[test]
fn a_case_that_is_new_or_gone_fails() {
    if !is_possible() {
        return;
    }
    let mut less = baseline();
    less["instructions_per_packet"].as_object_mut().unwrap().remove("new-flow").unwrap();
    let (passes, text) = gate(&baseline(), &less);
    assert!(!passes && text.contains("not in the baseline"), "{text}");
    let (passes, text) = gate(&less, &baseline());
    assert!(!passes && text.contains("not measured any more"), "{text}");
}

#[test]
fn a_file_without_counts_fails_whichever_it_is() {
    if !is_possible() {
        return;
    }
    let empty = json!({ "rustc": "1.0.0", "processor": "x", "instructions_per_packet": {} });
    for broken in [json!("<<<<<<< conflict"), json!({}), empty] {
        for (now, before) in [(&baseline(), &broken), (&broken, &baseline())] {
            let (passes, text) = gate(now, before);
            assert!(!passes && text.contains("holds no counts of instructions"), "{text}");
        }
    }
}

#[test]
fn a_baseline_of_another_compiler_or_processor_is_not_compared_with() {
    if !is_possible() {
        return;
    }
    for field in ["rustc", "processor"] {
        let mut other = scaled(0.5);
        other[field] = json!("another");
        let (passes, text) = gate(&baseline(), &other);
        assert!(passes && text.starts_with("SKIPPED gate: the baseline is of"), "{text}");
    }
}
