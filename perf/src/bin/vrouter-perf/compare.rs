//! `vrouter-perf compare`: the engine beside other dataplanes.
//!
//! All get the same frames, round and round, and forward them on the same CPU, one after the other
//! in each round: whoever's turn it is not is paused or not there. Ratios are of the same round.

mod contenders;
mod engine;
mod files;
pub(crate) mod options;
pub(crate) mod pods;
mod table;
mod veth;
mod vhost;

use std::time::Duration;

use anyhow::{Context, bail};
use perf::{
    cycles,
    figures::Figures,
    huge_pages,
    machine::{self, Machine},
    peers::PeerError,
};
use serde::Serialize;

use self::{
    contenders::{Contender, Measured, Ours},
    files::Files,
    options::{CompareCase, CompareOptions},
    pods::row::PodRow,
    veth::Veth,
    vhost::{Vhost, Who},
};
use crate::{interrupt::Interrupt, pipeline::Setting, report::Progress};

/// Our engine's name in results.
const OURS: &str = "vrouter";
/// Above this part of polls in which the dataplane had nothing to do, the generator set the pace.
const STARVED_RATIO_MAX: f64 = 0.05;
/// Huge pages for our engine's packet memory and flow table.
const OUR_HUGE_PAGES: u64 = 64;

/// One dataplane's result in one case.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) dataplane: &'static str,
    pub(crate) flows: u32,
    pub(crate) frame_bytes: u16,
    pub(crate) cycles_per_packet: Figures,
    pub(crate) mpps: Figures,
    /// How many packets the engine forwards for each of this one's, round by round.
    pub(crate) vrouter_ratio: Figures,
    pub(crate) rounds: usize,
    /// Rounds in which something else ran on the CPU. They are in the figures.
    pub(crate) rounds_disturbed: usize,
    /// The part of packets that were lost, where it is known.
    pub(crate) loss_ratio: Option<Figures>,
    /// The part of a generator's polls that found the dataplane with nothing to do, or without a
    /// buffer to send into; where there is a generator.
    pub(crate) starved_ratio: Option<Figures>,
    /// What makes it worth less.
    pub(crate) remarks: Vec<String>,
    pub(crate) not_fair: &'static str,
}

/// All results.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) machine: Machine,
    pub(crate) cpu: usize,
    pub(crate) cycles_per_second: f64,
    pub(crate) rows: Vec<Row>,
    /// Traffic between pods with ordinary sockets.
    pub(crate) pods: Vec<PodRow>,
    /// Who is not in it, and why.
    pub(crate) skipped: Vec<String>,
    /// What went wrong.
    pub(crate) failed: Vec<String>,
}

/// Who is missing among the rows.
#[derive(Debug, Default)]
struct Missing {
    skipped: Vec<String>,
    failed: Vec<String>,
}

/// What every dataplane is measured with.
struct Setup {
    pipeline: Setting,
    /// For everything that does not forward.
    other_cpu: usize,
    frame_bytes: usize,
}

pub(crate) fn run(options: &CompareOptions) -> anyhow::Result<()> {
    let interrupt = Interrupt::watch().context("cannot wait for signals")?;
    let cpu = machine::choose_cpu(options.cpu)?;
    let machine = Machine::now();
    let Some(other_cpu) = machine::usable_cpus().into_iter().find(|other| *other != cpu) else {
        bail!("there is no other CPU than {cpu}: a comparison takes one for everything else");
    };
    let setup = Setup {
        pipeline: Setting { machine, cpu, cycles_per_second: cycles::per_second() },
        other_cpu,
        frame_bytes: options.frame_bytes.into(),
    };
    machine::keep_off(cpu);
    let mut missing = Missing::default();
    if let Err(error) = huge_pages::reserve(OUR_HUGE_PAGES) {
        missing.skipped.push(format!("huge pages for {OURS}: {error}"));
    }
    let (of_pods, of_frames): (Vec<_>, Vec<_>) =
        options.cases().iter().copied().partition(|case| case.pod_traffic().is_some());
    let steps = of_frames.len() * options.flows().len() + of_pods.len();
    let mut progress = Progress::new(steps);
    let mut rows = Vec::new();
    for &flows in options.flows().iter().filter(|_| !of_frames.is_empty()) {
        let files = Files::write(flows, setup.frame_bytes).context("cannot write the frames")?;
        let mut field = Field::new(&setup, flows, &interrupt);
        if of_frames.iter().any(|case| case.is_memory()) {
            field.start_peers(&files, &mut missing);
        }
        for &case in &of_frames {
            progress.step(&format!("{}, {flows} flows", case.name()));
            // Those of veth are searches, and the number of flows matters little to them; of the
            // others many flows are what is asked for.
            if case.is_memory() || Some(&flows) == options.flows().last() {
                rows.extend(field.measure(case, options, &mut missing)?);
            }
        }
    }
    let mut pods = Vec::new();
    for case in of_pods {
        progress.step(case.name());
        pods.extend(pods::measure(case, &setup, options, &interrupt, &mut missing)?);
    }
    progress.finish();
    let Setting { machine, cycles_per_second, .. } = setup.pipeline;
    let Missing { skipped, failed } = missing;
    let comparison = Comparison { machine, cpu, cycles_per_second, rows, pods, skipped, failed };
    table::show(&comparison, options.json.as_deref()).context("cannot write the results")?;
    match comparison.failed.len() {
        0 => Ok(()),
        failures => bail!("{failures} measurements failed; see above"),
    }
}

/// Everybody that is measured with so many flows.
struct Field<'a> {
    contenders: Vec<Box<dyn Contender + 'a>>,
    setup: &'a Setup,
    flows: u32,
    interrupt: &'a Interrupt,
}

impl<'a> Field<'a> {
    /// Our engine, and the kernel.
    fn new(setup: &'a Setup, flows: u32, interrupt: &'a Interrupt) -> Self {
        let veth = |is_ours| Box::new(Veth::new(setup, flows, interrupt, is_ours));
        let mut contenders: Vec<Box<dyn Contender>> =
            vec![Box::new(Ours { setup, flows }), veth(true), veth(false)];
        for who in Who::ALL {
            contenders.push(Box::new(Vhost::new(setup, flows, who)));
        }
        Self { contenders, setup, flows, interrupt }
    }

    fn start_peers(&mut self, files: &'a Files, missing: &mut Missing) {
        for (name, peer) in contenders::peers(self.setup, files) {
            match peer {
                Ok(contender) => self.contenders.push(contender),
                Err(error) if error.is_absence() => {
                    let reason = format!("{name}: skipped: {error}");
                    if !missing.skipped.contains(&reason) {
                        missing.skipped.push(reason);
                    }
                }
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    missing.failed.push(format!("{name}: cannot be started: {error:#}"));
                }
            }
        }
    }

    /// Measures a case in all rounds. Whoever fails is out of it, and the others go on.
    fn measure(
        &mut self,
        case: CompareCase,
        options: &CompareOptions,
        missing: &mut Missing,
    ) -> anyhow::Result<Vec<Row>> {
        let interrupt = self.interrupt;
        let Missing { skipped, failed } = missing;
        let mut fail = |contender: &dyn Contender, error: anyhow::Error| {
            failed.push(format!("{}, {}: {error:#}", contender.name(), case.name()));
        };
        let mut taking_part = Vec::new();
        for contender in &mut self.contenders {
            interrupt.check()?;
            match contender.prepare(case) {
                Ok(true) => taking_part.push((contender, Vec::new())),
                Ok(false) => {}
                Err(error) => match error.downcast_ref::<PeerError>() {
                    Some(absent) if absent.is_absence() => {
                        skipped.push(format!("{}: skipped: {absent}", contender.name()));
                    }
                    _ => fail(contender.as_ref(), error),
                },
            }
        }
        let time = Duration::from_secs_f64(options.seconds);
        // A search of the highest rate is many windows, and its first one warms up.
        let rounds = if case.is_veth() { options.rounds.div_ceil(3) } else { options.rounds };
        let first = u32::from(!case.is_veth());
        // One round more, the first, which is not counted: caches and predictors are cold.
        for round in 0..rounds + first {
            let mut going_on = Vec::new();
            for (contender, mut taken) in taking_part {
                interrupt.check()?;
                match contender.measure(case, time) {
                    Ok(measured) => {
                        taken.extend((round >= first).then_some(measured));
                        going_on.push((contender, taken));
                    }
                    Err(error) => fail(contender.as_ref(), error),
                }
            }
            taking_part = going_on;
        }
        interrupt.check()?;
        let ours = taking_part.iter().find(|(contender, _)| contender.name() == OURS);
        let ours = ours.map(|(_, taken)| taken.clone()).unwrap_or_default();
        let (setup, flows) = (self.setup, self.flows);
        let mut rows = Vec::new();
        for (contender, taken) in &taking_part {
            let contender = contender.as_ref();
            match row(case, flows, options.frame_bytes, contender, taken, &ours, setup) {
                Some(row) => rows.push(row),
                None => failed.push(format!(
                    "{}, {}: no figure beside one of {OURS}'s",
                    contender.name(),
                    case.name()
                )),
            }
        }
        Ok(rows)
    }
}

fn row(
    case: CompareCase,
    flows: u32,
    frame_bytes: u16,
    contender: &dyn Contender,
    taken: &[Option<Measured>],
    ours: &[Option<Measured>],
    setup: &Setup,
) -> Option<Row> {
    let rounds = || taken.iter().flatten();
    let cycles: Vec<f64> = rounds().map(|round| round.cycles_per_packet).collect();
    let rate = setup.pipeline.cycles_per_second / 1e6;
    let mpps: Vec<f64> = cycles.iter().map(|cycles| rate / cycles).collect();
    let pairs = taken.iter().zip(ours);
    let of = |part: fn(&Measured) -> Option<f64>| {
        Figures::of(&rounds().filter_map(part).collect::<Vec<_>>())
    };
    let (loss_ratio, starved_ratio) = (of(|it| it.loss_ratio), of(|it| it.starved_ratio));
    let rounds_disturbed = rounds().filter(|round| round.is_disturbed).count();
    let mut remarks = Vec::new();
    if rounds_disturbed > 0 {
        remarks.push(format!("disturbed in {rounds_disturbed} of {} rounds", cycles.len()));
    }
    if let Some(lost) = loss_ratio.filter(|lost| lost.max > 0.0) {
        remarks.push(format!("{:.4} % lost", lost.median * 100.0));
    }
    if starved_ratio.is_some_and(|starved| starved.median > STARVED_RATIO_MAX) {
        remarks.push("generator limited".into());
    }
    let ratios: Vec<f64> = pairs
        .filter_map(|(it, ours)| {
            Some(it.as_ref()?.cycles_per_packet / ours.as_ref()?.cycles_per_packet)
        })
        .collect();
    Some(Row {
        case: case.name(),
        dataplane: contender.name(),
        flows,
        frame_bytes,
        cycles_per_packet: Figures::of(&cycles)?,
        mpps: Figures::of(&mpps)?,
        vrouter_ratio: Figures::of(&ratios)?,
        rounds: cycles.len(),
        rounds_disturbed,
        loss_ratio,
        starved_ratio,
        remarks,
        not_fair: contender.not_fair(case),
    })
}
