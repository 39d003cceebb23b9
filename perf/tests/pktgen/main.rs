//! `vrouter-perf pktgen` held against counters that are not its own: the kernel's of interfaces and
//! of nftables, and DPDK's testpmd.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod af_xdp;
#[expect(dead_code, reason = "shared with tests that use more of it")]
#[path = "../../../vrouter/tests/support/namespace.rs"]
mod namespace;

use std::process::{Command, Output};

use serde_json::Value;

/// Runs the generator with arguments separated by blanks.
fn pktgen(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vrouter-perf"))
        .arg("pktgen")
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

/// The rows that a run gave; it must succeed.
fn rows(arguments: &str) -> Vec<Value> {
    let output = pktgen(&format!("{arguments} --json -"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {errors}");
    let Value::Array(rows) = serde_json::from_slice(&output.stdout).unwrap() else {
        panic!("{arguments}: no list");
    };
    rows
}

/// The one row of a run.
fn row(arguments: &str) -> Value {
    let mut rows = rows(arguments);
    assert_eq!(rows.len(), 1, "{arguments}");
    rows.remove(0)
}

/// What a run that must fail says, and its exit status.
fn refusal(arguments: &str) -> (i32, String) {
    let output = pktgen(arguments);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed, "", "{arguments}: figures in spite of an error");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), errors)
}
