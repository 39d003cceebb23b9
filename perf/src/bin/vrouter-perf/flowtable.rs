//! `vrouter-perf flowtable`: flow tables side by side.
//!
//! All tables of a case are filled first; then each round measures one after the other.

mod maps;
mod processes;

use std::time::Duration;

use anyhow::{Context, bail};
use flowtable::FlowKey;
use perf::{
    figures::Figures,
    flow_tables::{ALL, packets},
    machine::{Machine, pin, usable_cpus},
    peers::{rte_hash::RteHash, sketch::Sketch},
};
use serde::Serialize;

use crate::{
    cli::{Case, FlowtableOptions},
    report::{self, Progress},
};

/// Lookups of one round: some milliseconds.
const LOOKUPS: usize = 1 << 18;
/// How often a round goes through them. A table that takes its turn after another finds its memory
/// out of the caches, and the sketch tells the median of as many passes.
const PASSES: usize = 7;
/// Connections that one round inserts.
const PAIRS: u32 = 1 << 12;
/// Connections that the other thread inserts, and removes again, a second.
const CHURN_PER_SECOND: u32 = 500_000;
/// Of which it inserts and removes so many together.
const CHURN_PAIRS: u32 = 500;
/// How long a round with the other thread takes at least: two hundred times as long as that.
const CHURN_TIME: Duration = Duration::from_millis(200);

/// One table's result in one case.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) table: &'static str,
    pub(crate) case: &'static str,
    pub(crate) flows: u32,
    pub(crate) ns_per_op: Figures,
    pub(crate) bytes_per_direction: f64,
    /// Rounds in which the measuring thread was taken off its CPU. They are in the figures.
    pub(crate) rounds_preempted: u32,
    /// Connections a second that the other thread came to, in its slowest round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) churn_per_second: Option<f64>,
    /// Whether its memory is on huge pages; of those that ask for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) is_on_huge_pages: Option<bool>,
}

impl Row {
    /// What makes the row's figures worth less.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let preempted = (self.rounds_preempted > 0)
            .then(|| format!("preempted in {} rounds", self.rounds_preempted));
        let slow = self
            .churn_per_second
            .filter(|rate| *rate < 0.95 * f64::from(CHURN_PER_SECOND))
            .map(|rate| format!("only {:.0} k connections/s beside it", rate / 1e3));
        let small = (self.is_on_huge_pages == Some(false)).then(|| "on 4 KiB pages".to_owned());
        preempted.into_iter().chain(slow).chain(small).collect()
    }
}

/// A table in a case, filled.
trait Contender {
    fn name(&self) -> &'static str;

    fn bytes_per_direction(&self) -> f64;

    /// Whether its memory is on huge pages; `None` if it does not ask for them.
    fn is_on_huge_pages(&self) -> Option<bool>;

    /// Whether it goes through its keys [`PASSES`] times by itself.
    fn makes_passes(&self) -> bool {
        false
    }

    /// Measures the case once.
    fn measure(&mut self, case: Case, round: u32) -> anyhow::Result<Measured>;
}

/// What one round gave.
struct Measured {
    nanoseconds: f64,
    is_preempted: bool,
    churn_per_second: Option<f64>,
}

/// What a case is measured with.
struct Setup<'a> {
    case: Case,
    flows: u32,
    options: &'a FlowtableOptions,
    /// The measuring thread stays on these.
    cpus: &'a [usize],
    /// The thread that inserts and removes meanwhile has this one to itself, if there are two.
    churn_cpu: usize,
}

impl Setup<'_> {
    fn connections(&self) -> u32 {
        self.flows / 2
    }

    /// How full the table's slots are.
    fn load_percent(&self) -> u32 {
        match self.case {
            Case::LookupMiss => 85,
            Case::LookupHit | Case::InsertPair | Case::LookupUnderChurn => 50,
        }
    }

    fn wants(&self, table: &str) -> bool {
        self.options.tables.is_empty() || self.options.tables.iter().any(|name| name == table)
    }

    /// Keys to look up in a round.
    fn keys(&self) -> Vec<FlowKey> {
        let first = if self.case == Case::LookupMiss { self.connections() } else { 0 };
        packets(first, self.connections(), LOOKUPS)
    }
}

pub(crate) fn run(options: &FlowtableOptions) -> anyhow::Result<()> {
    let names: Vec<&str> =
        ALL.iter().map(|(name, _)| *name).chain([RteHash::NAME, Sketch::NAME]).collect();
    if let Some(unknown) = options.tables.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no table {unknown}; there are {}", names.join(", "));
    }
    let cases = if options.cases.is_empty() { &Case::ALL[..] } else { &options.cases };
    let machine = Machine::now();
    let all_cpus = usable_cpus();
    if let Some(cpu) = options.cpu {
        pin(cpu)?;
    }
    let cpus = usable_cpus();
    let other_cpu = all_cpus.iter().find(|cpu| options.cpu.is_some_and(|own| **cpu != own));
    let churn_cpu = other_cpu.or(all_cpus.last()).copied().unwrap_or(0);
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    let mut progress = Progress::new(cases.len() * options.flows.len());
    for &case in cases {
        for &flows in &options.flows {
            progress.step(&format!("{}, {flows} flows", case.name()));
            let setup = Setup { case, flows, options, cpus: &cpus, churn_cpu };
            rows.extend(measure(&setup, &mut skipped)?);
        }
    }
    progress.finish();
    report::flowtable(&machine, &rows, &skipped, options.json.as_deref())
        .context("cannot write the results")
}

/// Measures a case; tells in `skipped` who is left out, and why.
fn measure(setup: &Setup, skipped: &mut Vec<String>) -> anyhow::Result<Vec<Row>> {
    let mut contenders = maps::contenders(setup)?;
    for (name, peer) in processes::contenders(setup) {
        match peer {
            Ok(contender) => contenders.push(contender),
            Err(error) if error.is_absence() => {
                let reason = format!("{name}: skipped: {error}");
                if !skipped.contains(&reason) {
                    skipped.push(reason);
                }
            }
            Err(error) => return Err(error).with_context(|| format!("cannot measure {name}")),
        }
    }
    let mut taken: Vec<Vec<Measured>> = contenders.iter().map(|_| Vec::new()).collect();
    // One round more, the first, which is not counted: caches and predictors are cold.
    for round in 0..=setup.options.rounds {
        for (contender, taken) in contenders.iter_mut().zip(&mut taken) {
            let measured = measure_round(contender.as_mut(), setup.case, round)?;
            if round > 0 {
                taken.push(measured);
            }
        }
    }
    let rows = contenders.iter().zip(&taken);
    Ok(rows.filter_map(|(contender, taken)| row(setup, contender.as_ref(), taken)).collect())
}

/// Measures one round of a case: the median of some passes, where they change nothing.
fn measure_round(
    contender: &mut dyn Contender,
    case: Case,
    round: u32,
) -> anyhow::Result<Measured> {
    if !matches!(case, Case::LookupHit | Case::LookupMiss) || contender.makes_passes() {
        return contender.measure(case, round);
    }
    let mut runs = [0.0; PASSES];
    let mut is_preempted = false;
    for run in &mut runs {
        let pass = contender.measure(case, round)?;
        *run = pass.nanoseconds;
        is_preempted |= pass.is_preempted;
    }
    let nanoseconds = Figures::of(&runs).map_or(0.0, |figures| figures.median);
    Ok(Measured { nanoseconds, is_preempted, churn_per_second: None })
}

fn row(setup: &Setup, contender: &dyn Contender, taken: &[Measured]) -> Option<Row> {
    let runs: Vec<f64> = taken.iter().map(|round| round.nanoseconds).collect();
    let preempted = taken.iter().filter(|round| round.is_preempted).count();
    Some(Row {
        table: contender.name(),
        case: setup.case.name(),
        flows: setup.flows,
        ns_per_op: Figures::of(&runs)?,
        bytes_per_direction: contender.bytes_per_direction(),
        rounds_preempted: u32::try_from(preempted).unwrap_or(u32::MAX),
        churn_per_second: taken.iter().filter_map(|round| round.churn_per_second).reduce(f64::min),
        is_on_huge_pages: contender.is_on_huge_pages(),
    })
}
