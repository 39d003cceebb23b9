//! One engine, warmed up and measured.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use perf::{
    disturbance::{Disturbance, Watch},
    engine_run::EngineRun,
    meter::{Meter, Sample},
};
use vrouter::{burst::BURST_PACKETS_MAX, drops::DropReason, stats::PortTotals};

use super::{interlude::Interlude, workload::Workload};
use crate::allocations::allocations_of_this_thread;

/// How long the warm-up takes at least, however few flows there are.
const WARM_UP: Duration = Duration::from_millis(50);
/// Rounds of all packets in which a new flow must turn up, or it never will.
const WARM_UP_ROUNDS_MAX: u64 = 4;
/// Packets that make a round where there are fewer frames.
const WARM_UP_PACKETS: u64 = 1 << 16;
/// How long it is looked how many packets a window takes.
const PACE: Duration = Duration::from_millis(20);
/// First packets that are measured at least; with fewer flows, engines are made anew.
const FIRST_PACKETS: u32 = 1 << 18;
/// First packets of an engine that find everything cold, and are not measured: a share of them.
const COLD_SHARE: u64 = 16;
/// Bursts that a window of first packets has at least.
const BURSTS_PER_WINDOW_MIN: u64 = 4;
/// Windows with an interlude, and windows without, in a row; the first of each is not counted,
/// since the change from one to the other is in it.
const INTERLUDE_BLOCK: usize = 4;

/// What was measured, of one engine or of several.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Cycles a packet, by window.
    pub(super) windows: Vec<f64>,
    /// The same of windows without churn or policy, where the others have it.
    pub(super) quiet: Vec<f64>,
    /// Packets in all windows.
    pub(super) packets: u64,
    /// Allocations of the worker in all windows.
    pub(super) allocations: u64,
    /// Dropped packets since the warm-up, by reason.
    pub(super) drops: BTreeMap<&'static str, u64>,
    pub(super) disturbance: Disturbance,
    /// Flows that the engine knew at the end.
    pub(super) flows: u32,
    pub(super) updates_per_second: Option<f64>,
    /// Some of the memory was on ordinary pages.
    pub(super) is_on_small_pages: bool,
}

/// Measures in windows of `seconds` each.
pub(super) fn measure(
    workload: &Workload,
    windows: u32,
    seconds: f64,
    interlude: Option<Interlude>,
) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    if workload.is_of_first_packets() {
        let flows = workload.flows.unwrap_or(1);
        for _ in 0..FIRST_PACKETS.div_ceil(flows) {
            first_packets(&mut measured, workload, flows, windows)?;
        }
    } else {
        known_flows(&mut measured, workload, windows as usize, seconds, interlude)?;
    }
    Ok(measured)
}

fn first_packets(
    measured: &mut Measured,
    workload: &Workload,
    flows: u32,
    windows: u32,
) -> anyhow::Result<()> {
    // Whole bursts, since samples are taken between them.
    let (flows, burst) = (u64::from(flows), BURST_PACKETS_MAX as u64);
    let bursts = (flows - flows / COLD_SHARE) / burst;
    let windows = u64::from(windows).min(bursts / BURSTS_PER_WINDOW_MIN).max(1);
    let meter = Meter::new(usize::try_from(windows)? + 1);
    // What comes in before the first sample is cold.
    meter.start(bursts / windows * burst);
    let mut run = start(workload, &meter)?;
    let watch = Watch::begin(meter.thread(), workload.config.cpu);
    let samples = wait_for_samples(&mut run, |_, _| Ok(()))?;
    measured.take_disturbance(watch.end());
    measured.take_samples(&samples, |_| Some(false));
    measured.finish(run, workload, &PortTotals::default())
}

fn known_flows(
    measured: &mut Measured,
    workload: &Workload,
    windows: usize,
    seconds: f64,
    mut interlude: Option<Interlude>,
) -> anyhow::Result<()> {
    // As many windows count with the interlude as without.
    let blocks = 2 * windows.div_ceil(INTERLUDE_BLOCK - 1);
    let windows = if interlude.is_some() { blocks * INTERLUDE_BLOCK } else { windows };
    let meter = Meter::new(windows + 1);
    let mut run = start(workload, &meter)?;
    warm_up(&mut run, workload)?;
    let packets = pace(&mut run, seconds)?;
    let (totals, misses_before) = (run.totals(), run.flows().table().counters().misses);
    let watch = Watch::begin(meter.thread(), workload.config.cpu);
    meter.start(packets);
    let samples = wait_for_samples(&mut run, |run, window| match &mut interlude {
        Some(interlude) if is_in_interlude(window) => Ok(interlude.go_on(run)?),
        Some(interlude) => Ok(interlude.pause(run)?),
        None => Ok(()),
    })?;
    if let Some(interlude) = &mut interlude {
        interlude.pause(&mut run)?;
    }
    measured.take_disturbance(watch.end());
    if let Some(interlude) = interlude {
        measured.updates_per_second = interlude.updates_per_second();
        let is_first = |window: usize| window.is_multiple_of(INTERLUDE_BLOCK);
        measured
            .take_samples(&samples, |window| (!is_first(window)).then(|| !is_in_interlude(window)));
    } else {
        measured.take_samples(&samples, |_| Some(false));
    }
    let missed = run.flows().table().counters().misses - misses_before;
    ensure!(
        workload.flows.is_none() || missed == 0,
        "{missed} packets of known flows found no flow: the flow table lost them"
    );
    measured.finish(run, workload, &totals)
}

fn is_in_interlude(window: usize) -> bool {
    !(window / INTERLUDE_BLOCK).is_multiple_of(2)
}

fn start(workload: &Workload, meter: &Arc<Meter>) -> anyhow::Result<EngineRun> {
    let Workload { config, inputs, .. } = workload;
    Ok(EngineRun::start(config, inputs, meter, allocations_of_this_thread)?)
}

/// Until every flow is known, and caches and predictors are warm.
fn warm_up(run: &mut EngineRun, workload: &Workload) -> anyhow::Result<()> {
    let frames: usize = workload.inputs.values().map(|frames| frames.len()).sum();
    // Each port gives as many packets, however many frames it has.
    let round = frames as u64 * workload.inputs.len() as u64;
    let start = Instant::now();
    match workload.flows {
        Some(flows) => learn(run, flows, round)?,
        None => pass(run, round)?,
    }
    pass(run, frames as u64)?;
    while start.elapsed() < WARM_UP {
        run.tick()?;
    }
    Ok(())
}

/// Until every flow is known.
fn learn(run: &mut EngineRun, flows: u32, round: u64) -> anyhow::Result<()> {
    let patience = WARM_UP_ROUNDS_MAX * round.max(WARM_UP_PACKETS);
    let (mut known, mut packets_max) = (0, patience);
    while known < flows {
        run.tick()?;
        let now_known = run.flows().table().len();
        if now_known > known {
            (known, packets_max) = (now_known, run.packets() + patience);
        } else if run.packets() > packets_max {
            let (packets, drops) = (run.packets(), run.totals().dropped());
            bail!(
                "after {packets} packets {known} of {flows} flows are known, and {drops} packets \
                 were dropped"
            );
        }
    }
    Ok(())
}

/// Until so many packets more have passed.
fn pass(run: &mut EngineRun, packets: u64) -> anyhow::Result<()> {
    let packets = run.packets() + packets;
    while run.packets() < packets {
        run.tick()?;
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
fn pace(run: &mut EngineRun, seconds: f64) -> anyhow::Result<u64> {
    let (start, packets) = (Instant::now(), run.packets());
    while start.elapsed() < PACE || run.packets() == packets {
        run.tick()?;
    }
    let took = start.elapsed().as_secs_f64();
    Ok(((run.packets() - packets) as f64 / took * seconds) as u64)
}

/// Lets the engine run until all samples are taken; calls `on_tick` with the window that it is in.
fn wait_for_samples(
    run: &mut EngineRun,
    mut on_tick: impl FnMut(&mut EngineRun, usize) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Sample>> {
    loop {
        if let Some(samples) = run.meter().samples() {
            return Ok(samples);
        }
        let window = run.meter().taken().saturating_sub(1);
        on_tick(run, window)?;
        run.tick()?;
    }
}

impl Measured {
    fn take_disturbance(&mut self, more: Disturbance) {
        self.disturbance = self.disturbance.and(more);
    }

    /// `is_quiet` tells what to do with a window: `None` leaves it out.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn take_samples(&mut self, samples: &[Sample], is_quiet: impl Fn(usize) -> Option<bool>) {
        for (window, pair) in samples.windows(2).enumerate() {
            let [from, to] = pair else { continue };
            let packets = to.packets.saturating_sub(from.packets);
            self.packets += packets;
            self.allocations += to.allocations.saturating_sub(from.allocations);
            let cycles = to.cycles.saturating_sub(from.cycles) as f64 / packets.max(1) as f64;
            match is_quiet(window) {
                Some(true) => self.quiet.push(cycles),
                Some(false) => self.windows.push(cycles),
                None => {}
            }
        }
    }

    /// Stops the engine and checks that it has lost nothing.
    fn finish(
        &mut self,
        run: EngineRun,
        workload: &Workload,
        before: &PortTotals,
    ) -> anyhow::Result<()> {
        let flows = Arc::clone(run.flows());
        self.is_on_small_pages |= !run.is_on_huge_pages();
        let stopped = run.stop()?;
        for reason in DropReason::ALL {
            let drops = stopped.totals.dropped_for(*reason) - before.dropped_for(*reason);
            if drops > 0 {
                *self.drops.entry(reason.label()).or_default() += drops;
            }
        }
        self.flows = flows.table().len();
        let Some(expected) = workload.flows else { return Ok(()) };
        let (received, dropped) = (stopped.totals.rx_packets, stopped.totals.dropped());
        let sent = stopped.totals.tx_packets;
        ensure!(
            received == sent + dropped,
            "{received} packets came in, {sent} went out and {dropped} were dropped"
        );
        let expected = received.min(u64::from(expected));
        ensure!(
            u64::from(self.flows) == expected || dropped > 0,
            "there are {} flows in the table, not {expected}",
            self.flows
        );
        Ok(())
    }
}
