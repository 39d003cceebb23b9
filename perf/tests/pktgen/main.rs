//! `vrouter-perf pktgen` held against what is not its own: the kernel's counters of interfaces,
//! protocols and nftables, the kernel's bridge, DPDK's testpmd, and the engine.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod engine;
mod lab;
mod memory;
#[path = "../../../vrouter/tests/support/namespace.rs"]
mod namespace;
mod tap;
mod testpmd;
mod veth;
mod virtual_time;

use std::{
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use namespace::{Namespace, join};
use serde_json::{Value, json};

/// How long a test waits for what must happen: the machine may stall for seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The generator, with arguments separated by blanks.
fn command(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vrouter-perf"));
    command.arg("pktgen").args(arguments.split_whitespace());
    command
}

fn pktgen(arguments: &str) -> Output {
    command(arguments).output().unwrap()
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

/// Asserts that all of so many packets arrived, each once, in order and as it was sent.
///
/// A sink that is held up loses frames itself; it says so, and they are missing.
fn assert_all_arrived(row: &Value, packets: u64) {
    assert_eq!(row["sent"], json!(packets), "{row:#}");
    let lost_by_sink = row["lost_by_sink"].as_u64().unwrap();
    assert_eq!(row["received"], json!(packets - lost_by_sink), "{row:#}");
    for count in ["reordered", "duplicated", "corrupted", "foreign", "other_streams", "late"] {
        assert_eq!(row[count], json!(0), "{count}: {row:#}");
    }
}

/// What the kernel counted of an interface: packets and bytes received.
fn received(namespace: &Namespace, interface: &str) -> (u64, u64) {
    let text = namespace.run(&format!("ip -s -j link show {interface}"));
    let links: Value = serde_json::from_str(&text).unwrap();
    let counters = &links[0]["stats64"]["rx"];
    (counters["packets"].as_u64().unwrap(), counters["bytes"].as_u64().unwrap())
}

/// Calls `happened` until it says yes.
fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two namespaces joined by a veth pair, with nothing on it but what a test sends.
struct Pair {
    left: Namespace,
    right: Namespace,
}

impl Pair {
    fn create() -> Self {
        Self::with(1, 1500)
    }

    fn with(queues: u32, mtu: u32) -> Self {
        let (left, right) = (Namespace::create("left"), Namespace::create("right"));
        for namespace in [&left, &right] {
            silence(namespace);
        }
        join((&left, "veth0"), (&right, "veth1"), queues, mtu);
        Self { left, right }
    }

    fn tx(&self) -> String {
        format!("--tx af_xdp:veth0,netns={}", self.left.name())
    }

    fn rx(&self) -> String {
        format!("--rx af_xdp:veth1,netns={}", self.right.name())
    }
}

/// No word from a namespace's stack by itself: every frame is counted.
fn silence(namespace: &Namespace) {
    namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
}
