//! `vrouter-perf pipeline`: what the engine takes for a packet.
//!
//! A case is a whole engine with one pinned worker (see [`perf::engine_run`]). It is warmed up
//! until every flow is known, and then measured in windows of so many packets each.

mod churn;
mod interlude;
mod measure;
pub(crate) mod options;
mod table;
mod workload;

use std::collections::BTreeMap;

use anyhow::Context;
use perf::{
    cycles,
    figures::Figures,
    machine::{self, Machine},
};
use serde::Serialize;

use self::{
    interlude::Interlude,
    measure::{Measured, measure},
    options::{PipelineCase, PipelineOptions},
    workload::Workload,
};
use crate::report::{self, Progress};

/// How far a window may be from the median, in per cent of it, in a row without a mark.
const SPREAD_PERCENT_MAX: f64 = 10.0;
/// The mark of a row with such a window.
const UNSTEADY: &str = "unsteady";
/// The mark of a row whose flow table or packet memory was on ordinary pages.
const SMALL_PAGES: &str = "small pages";
/// Updates a second below which churn was less than it should have been.
const CHURN_PER_SECOND_MIN: f64 = 9_500.0;

/// One case's result.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) flows: u32,
    pub(crate) frame_bytes: usize,
    pub(crate) cycles_per_packet: Figures,
    /// A quarter of the windows took at most so many cycles a packet: what to compare by on a
    /// machine that does other things, too.
    pub(crate) lower_quartile: f64,
    pub(crate) mpps: f64,
    pub(crate) allocations_per_packet: f64,
    /// Packets that died, of all that came in since the warm-up.
    pub(crate) drops: u64,
    /// The same by reason.
    pub(crate) drops_by_reason: BTreeMap<&'static str, u64>,
    /// Packets in the windows.
    pub(crate) packets: u64,
    /// What makes the row's figures worth less.
    pub(crate) marks: Vec<&'static str>,
    /// How often the worker was taken off its CPU.
    pub(crate) preemptions: u64,
    /// Cycles a packet without churn, or without policy, in windows between those with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quiet_cycles_per_packet: Option<Figures>,
    /// Changes of the configuration a second, in the windows with churn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) updates_per_second: Option<f64>,
}

impl Row {
    /// Whether something else ran on the worker's CPU.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.marks.iter().any(|mark| ![UNSTEADY, SMALL_PAGES].contains(mark))
    }
}

/// What every row was measured with.
pub(crate) struct Setting {
    pub(crate) machine: Machine,
    pub(crate) cpu: usize,
    pub(crate) cycles_per_second: f64,
}

pub(crate) fn run(options: &PipelineOptions) -> anyhow::Result<()> {
    let cases = options.cases()?;
    let cpu = machine::choose_cpu(options.cpu)?;
    let capture =
        options.pcap.as_deref().map(|path| Workload::of_capture(path, cpu)).transpose()?;
    report::check_json(options.json.as_deref()).context("cannot write the results")?;
    let cycles_per_second = cycles::per_second();
    let setting = Setting { machine: Machine::now(), cpu, cycles_per_second };
    machine::keep_off(cpu);
    let mut rows = Vec::new();
    if let Some(capture) = capture {
        rows.push(row(&capture, None, options, &setting)?);
    } else {
        let mut progress = Progress::new(cases.len());
        for (case, flows) in cases {
            progress.step(&format!("{}, {flows} flows", case.name()));
            let row = measure_case(case, flows, options, &setting);
            rows.push(row.with_context(|| format!("{} with {flows} flows", case.name()))?);
        }
        progress.finish();
    }
    table::show(&setting, &rows, options.json.as_deref()).context("cannot write the results")
}

/// Measures one case, in as many windows as `options` has rounds.
pub(crate) fn measure_case(
    case: PipelineCase,
    flows: u32,
    options: &PipelineOptions,
    setting: &Setting,
) -> anyhow::Result<Row> {
    let workload = Workload::of_case(case, flows, options.frame_bytes, setting.cpu);
    row(&workload, Interlude::of_case(case), options, setting)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn row(
    workload: &Workload,
    interlude: Option<Interlude>,
    options: &PipelineOptions,
    setting: &Setting,
) -> anyhow::Result<Row> {
    let seconds = options.seconds / f64::from(options.rounds);
    let measured = measure(workload, options.rounds, seconds, interlude)?;
    let cycles_per_packet = Figures::of(&measured.windows).context("nothing was measured")?;
    Ok(Row {
        case: workload.case,
        flows: workload.flows.unwrap_or(measured.flows),
        frame_bytes: workload.frame_bytes,
        cycles_per_packet,
        lower_quartile: lower_quartile(&measured.windows),
        mpps: setting.cycles_per_second / cycles_per_packet.median / 1e6,
        allocations_per_packet: measured.allocations as f64 / measured.packets.max(1) as f64,
        drops: measured.drops.values().sum(),
        packets: measured.packets,
        marks: marks(&cycles_per_packet, &measured),
        preemptions: measured.disturbance.preemptions,
        quiet_cycles_per_packet: Figures::of(&measured.quiet),
        updates_per_second: measured.updates_per_second,
        drops_by_reason: measured.drops,
    })
}

fn lower_quartile(windows: &[f64]) -> f64 {
    let mut sorted = windows.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 4).copied().unwrap_or(f64::NAN)
}

fn marks(figures: &Figures, measured: &Measured) -> Vec<&'static str> {
    let off = (figures.max - figures.median).max(figures.median - figures.min);
    let disturbance = measured.disturbance;
    let is_slow = measured.updates_per_second.is_some_and(|rate| rate < CHURN_PER_SECOND_MIN);
    let marks = [
        (!measured.drops.is_empty(), "dropped"),
        (disturbance.preemptions > 0, "preempted"),
        (disturbance.is_shared, "cpu shared"),
        (disturbance.is_stolen, "stolen"),
        (disturbance.is_throttled, "throttled"),
        (off > figures.median * SPREAD_PERCENT_MAX / 100.0, UNSTEADY),
        (is_slow, "too little churn"),
        (measured.is_on_small_pages, SMALL_PAGES),
    ];
    marks.into_iter().filter_map(|(is_set, mark)| is_set.then_some(mark)).collect()
}
