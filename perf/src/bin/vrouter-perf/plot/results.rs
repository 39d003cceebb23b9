//! What the other commands wrote, as far as it is shown.

use std::{fs, path::Path};

use anyhow::Context;
use perf::{figures::Figures, machine::Machine};
use serde::{Deserialize, de::DeserializeOwned};

/// A row of `vrouter-perf flowtable`.
#[derive(Debug, Deserialize)]
pub(super) struct FlowtableRow {
    pub(super) table: String,
    pub(super) case: String,
    pub(super) flows: u32,
    pub(super) ns_per_op: Figures,
    pub(super) bytes_per_direction: f64,
    #[serde(default)]
    pub(super) rounds_preempted: u32,
    pub(super) churn_per_second: Option<f64>,
    pub(super) is_on_huge_pages: Option<bool>,
    pub(super) machine: Option<Machine>,
}

/// A row of `vrouter-perf pipeline`.
#[derive(Debug, Deserialize)]
pub(super) struct PipelineRow {
    pub(super) case: String,
    pub(super) flows: u32,
    pub(super) frame_bytes: u32,
    pub(super) cycles_per_packet: Figures,
    pub(super) mpps: f64,
    pub(super) allocations_per_packet: f64,
    pub(super) drops: u64,
    #[serde(default)]
    pub(super) marks: Vec<String>,
    pub(super) quiet_cycles_per_packet: Option<Figures>,
    pub(super) updates_per_second: Option<f64>,
    pub(super) machine: Option<Machine>,
}

/// A row of `vrouter-perf policy`.
#[derive(Debug, Deserialize)]
pub(super) struct PolicyRow {
    pub(super) case: String,
    pub(super) rules: u32,
    pub(super) addresses: u32,
    pub(super) ports: u32,
    pub(super) nanoseconds: Figures,
    #[serde(default)]
    pub(super) preemptions: u64,
    pub(super) machine: Option<Machine>,
}

/// A row of `vrouter-perf flood`.
#[derive(Debug, Deserialize)]
pub(super) struct FloodRow {
    pub(super) case: String,
    pub(super) connections: u32,
    pub(super) established: u32,
    pub(super) packets: u32,
    pub(super) ns_per_packet: Figures,
    pub(super) established_lost: u64,
    pub(super) evicted_half_open: u64,
    pub(super) refused: u64,
    pub(super) machine: Option<Machine>,
}

/// A row of `vrouter-perf compare`.
#[derive(Debug, Deserialize)]
pub(super) struct CompareRow {
    pub(super) case: String,
    pub(super) dataplane: String,
    pub(super) flows: u32,
    pub(super) frame_bytes: u32,
    pub(super) cycles_per_packet: Figures,
    pub(super) mpps: Figures,
    pub(super) vrouter_ratio: Figures,
    pub(super) remarks: Vec<String>,
    pub(super) not_fair: String,
}

/// A row of `vrouter-perf compare` about pods with ordinary sockets.
#[derive(Debug, Deserialize)]
pub(super) struct PodRow {
    pub(super) case: String,
    pub(super) dataplane: String,
    pub(super) unit: String,
    pub(super) figures: Figures,
    pub(super) p99: Option<Figures>,
    pub(super) vrouter_ratio: Figures,
    pub(super) goal: Option<f64>,
    #[serde(default)]
    pub(super) retransmits: u64,
    pub(super) not_fair: String,
}

/// All of `vrouter-perf compare`.
#[derive(Debug, Deserialize)]
pub(super) struct Comparison {
    pub(super) machine: Machine,
    pub(super) cpu: usize,
    pub(super) cycles_per_second: f64,
    pub(super) rows: Vec<CompareRow>,
    #[serde(default)]
    pub(super) pods: Vec<PodRow>,
    pub(super) skipped: Vec<String>,
    pub(super) failed: Vec<String>,
}

/// Reads a file, unless none is given.
pub(super) fn read<T: DeserializeOwned>(path: Option<&Path>) -> anyhow::Result<Option<T>> {
    let Some(path) = path else { return Ok(None) };
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let results = serde_json::from_str(&text);
    results.map(Some).with_context(|| format!("{} does not hold such results", path.display()))
}
