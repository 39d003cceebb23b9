//! `vrouter-perf pipeline`: what the engine takes for a packet.
//!
//! A case is a whole engine with one pinned worker (see [`perf::engine_run`]). It is warmed up
//! until every flow is known, and then measured in windows of so many packets each.

pub(crate) mod options;
mod table;

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use perf::{
    cycles,
    disturbance::{Disturbance, Watch},
    engine_run::{EngineRun, RunConfig},
    figures::Figures,
    machine::{self, Machine},
    meter::{Meter, Sample},
    traffic::{self, FLOWS_MAX},
};
use serde::Serialize;
use vrouter::{
    port::pcap::{Repeat, file::Captured},
    stats::Balance,
};

use self::options::{PipelineCase, PipelineOptions};
use crate::{allocations::allocations_of_this_thread, report::Progress};

/// Packets of the warm-up at least, however few flows there are: some 50 ms.
const WARM_UP_PACKETS: u64 = 1 << 19;
/// Packets by which the warm-up finds out how many a window takes.
const PACE_PACKETS: u64 = 1 << 19;
/// How far a window may be from the median, in per cent of it, in a row without a mark.
const SPREAD_PERCENT_MAX: f64 = 10.0;
/// The mark of a row with such a window.
const UNSTEADY: &str = "unsteady";

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
    /// Packets in the windows.
    pub(crate) packets: u64,
    /// What makes the row's figures worth less.
    pub(crate) marks: Vec<&'static str>,
    /// How often the worker was taken off its CPU.
    pub(crate) preemptions: u64,
}

impl Row {
    /// Whether something else ran on the worker's CPU.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.marks.iter().any(|mark| *mark != UNSTEADY)
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
    let setting = Setting { machine: Machine::now(), cpu, cycles_per_second: cycles::per_second() };
    machine::keep_off(cpu);
    let mut rows = Vec::new();
    let mut progress = Progress::new(cases.len());
    for (case, flows) in cases {
        progress.step(&format!("{}, {flows} flows", case.name()));
        let row = measure(case, flows, options, &setting);
        rows.push(row.with_context(|| format!("{} with {flows} flows", case.name()))?);
    }
    progress.finish();
    table::show(&setting, &rows, options.json.as_deref()).context("cannot write the results")
}

/// Measures one case, in as many windows as `options` has rounds.
pub(crate) fn measure(
    case: PipelineCase,
    flows: u32,
    options: &PipelineOptions,
    setting: &Setting,
) -> anyhow::Result<Row> {
    let windows = options.rounds;
    let meter = Meter::new(windows as usize + 1);
    let config = RunConfig {
        pods: 2,
        // Half of the table's slots stay free.
        ipv4_connections_max: flows.saturating_mul(2).clamp(1024, FLOWS_MAX / 32 * 31),
        ipv6_connections_max: flows.saturating_mul(2).clamp(1024, FLOWS_MAX / 32 * 31),
        repeat: if case == PipelineCase::NewFlow { Repeat::Once } else { Repeat::Forever },
        cpu: setting.cpu,
    };
    let way = case.way();
    let frames: Vec<Captured> = traffic::shuffled(flows)
        .into_iter()
        .map(|flow| traffic::frame(way, 0, flow, options.frame_bytes))
        .map(|frame| Captured { timestamp: Duration::ZERO, frame: frame.into() })
        .collect();
    let inputs = HashMap::from([(way.ingress(0), Arc::from(frames))]);
    if case == PipelineCase::NewFlow {
        // The first bursts find cold caches, and are not counted.
        meter.start(u64::from(flows - flows / 16) / u64::from(windows));
    }
    let mut run = EngineRun::start(&config, &inputs, &meter, allocations_of_this_thread)?;
    if case != PipelineCase::NewFlow {
        warm_up(&mut run, flows)?;
        let packets = pace(&mut run, options.seconds / f64::from(windows), setting)?;
        meter.start(packets);
    }
    let drops = run.drops();
    let known_misses = run.flows().table().counters().misses;
    let watch = Watch::begin(meter.thread(), setting.cpu);
    let samples = loop {
        run.tick()?;
        if let Some(samples) = meter.samples() {
            break samples;
        }
    };
    let disturbance = watch.end();
    let missed = run.flows().table().counters().misses - known_misses;
    ensure!(
        case == PipelineCase::NewFlow || missed == 0,
        "{missed} packets of known flows found no flow; the flow table lost them"
    );
    let drops = run.drops() - drops;
    let table = Arc::clone(run.flows());
    let balance = run.stop()?;
    let Balance { received, sent, dropped, .. } = balance;
    ensure!(
        received == sent + dropped,
        "{received} packets came in, {sent} went out and {dropped} were dropped"
    );
    let known = u64::from(table.table().len());
    let expected = received.min(u64::from(flows));
    ensure!(
        known == expected || dropped > 0,
        "there are {known} flows in the table, not {expected}"
    );
    row(case, flows, options.frame_bytes, &samples, disturbance, drops, setting)
        .context("there was no window")
}

/// Until every flow is known, and caches and predictors are warm.
fn warm_up(run: &mut EngineRun, flows: u32) -> anyhow::Result<()> {
    let packets = (2 * u64::from(flows)).max(WARM_UP_PACKETS);
    while run.packets() < packets {
        run.tick()?;
    }
    let known = run.flows().table().len();
    if known != flows {
        let drops = run.drops();
        bail!("after {packets} packets {known} of {flows} flows are known; {drops} were dropped");
    }
    Ok(())
}

/// How many packets a window of `seconds` takes.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts far below 2^52"
)]
fn pace(run: &mut EngineRun, seconds: f64, setting: &Setting) -> anyhow::Result<u64> {
    let (start, packets) = (cycles::now(), run.packets());
    while run.packets() < packets + PACE_PACKETS {
        run.tick()?;
    }
    let took = cycles::now().wrapping_sub(start) as f64 / setting.cycles_per_second;
    Ok(((run.packets() - packets) as f64 / took * seconds) as u64)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn row(
    case: PipelineCase,
    flows: u32,
    frame_bytes: usize,
    samples: &[Sample],
    disturbance: Disturbance,
    drops: u64,
    setting: &Setting,
) -> Option<Row> {
    let windows: Vec<f64> = samples
        .windows(2)
        .filter_map(|pair| {
            let [from, to] = pair else { return None };
            let cycles = to.cycles.saturating_sub(from.cycles);
            Some(cycles as f64 / to.packets.saturating_sub(from.packets).max(1) as f64)
        })
        .collect();
    let cycles_per_packet = Figures::of(&windows)?;
    let (first, last) = (samples.first()?, samples.last()?);
    let packets = last.packets.saturating_sub(first.packets);
    let allocations = last.allocations.saturating_sub(first.allocations);
    Some(Row {
        case: case.name(),
        flows,
        frame_bytes,
        cycles_per_packet,
        lower_quartile: lower_quartile(&windows)?,
        mpps: setting.cycles_per_second / cycles_per_packet.median / 1e6,
        allocations_per_packet: allocations as f64 / packets.max(1) as f64,
        drops,
        packets,
        marks: marks(&cycles_per_packet, disturbance),
        preemptions: disturbance.preemptions,
    })
}

fn lower_quartile(windows: &[f64]) -> Option<f64> {
    let mut sorted = windows.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 4).copied()
}

fn marks(figures: &Figures, disturbance: Disturbance) -> Vec<&'static str> {
    let off = (figures.max - figures.median).max(figures.median - figures.min);
    let marks = [
        (disturbance.preemptions > 0, "preempted"),
        (disturbance.is_shared, "cpu shared"),
        (disturbance.is_stolen, "stolen"),
        (off > figures.median * SPREAD_PERCENT_MAX / 100.0, UNSTEADY),
    ];
    marks.into_iter().filter_map(|(is_set, mark)| is_set.then_some(mark)).collect()
}
