//! `vrouter-perf flowtable`: flow tables side by side.
//!
//! All tables of a case are filled first; then each round measures one after the other.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use flowtable::FlowKey;
use perf::{
    figures::Figures,
    flow_tables::{ALL, Access, FlowMap, key, packets},
    machine::{Machine, Preemptions, pin},
};
use serde::Serialize;

use crate::{
    allocations::heap_bytes,
    cli::{Case, FlowtableOptions},
    report::{self, Progress},
};

/// Lookups of one round: some milliseconds.
const LOOKUPS: usize = 1 << 18;
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
        preempted.into_iter().chain(slow).collect()
    }
}

/// A table in a case.
struct Contender {
    map: Box<dyn FlowMap>,
    access: Box<dyn Access>,
    /// The other thread's, while it does not run.
    churner: Option<Box<dyn Access>>,
    bytes_per_direction: f64,
    runs: Vec<f64>,
    rounds_preempted: u32,
    churn_per_second: Option<f64>,
}

pub(crate) fn run(options: &FlowtableOptions) -> anyhow::Result<()> {
    if let Some(unknown) =
        options.tables.iter().find(|name| !ALL.iter().any(|(known, _)| known == name))
    {
        let known = ALL.map(|(name, _)| name).join(", ");
        bail!("there is no table {unknown}; there are {known}");
    }
    let cases = if options.cases.is_empty() { &Case::ALL[..] } else { &options.cases };
    if let Some(cpu) = options.cpu {
        pin(cpu)?;
    }
    let machine = Machine::now();
    let mut rows = Vec::new();
    let mut progress = Progress::new(cases.len() * options.flows.len());
    for &case in cases {
        for &flows in &options.flows {
            progress.step(&format!("{}, {flows} flows", case.name()));
            rows.extend(measure(case, flows, options)?);
        }
    }
    progress.finish();
    report::flowtable(&machine, &rows, options.json.as_deref()).context("cannot write the results")
}

fn measure(case: Case, flows: u32, options: &FlowtableOptions) -> anyhow::Result<Vec<Row>> {
    let connections = flows / 2;
    let mut contenders: Vec<Contender> = ALL
        .iter()
        .filter(|(name, _)| options.tables.is_empty() || options.tables.iter().any(|t| t == name))
        .map(|(_, make)| Contender::filled(|| make(flows, load_percent(case)), connections))
        .collect();
    let first = if case == Case::LookupMiss { connections } else { 0 };
    let keys = packets(first, connections, LOOKUPS);
    // One round more, the first, which is not counted: caches and predictors are cold.
    for round in 0..=options.rounds {
        for contender in &mut contenders {
            let preemptions = Preemptions::watch();
            let took = match case {
                Case::LookupHit => contender.look_up(&keys, LOOKUPS)?,
                Case::LookupMiss => contender.look_up(&keys, 0)?,
                Case::InsertPair => contender.insert(connections, round),
                Case::LookupUnderChurn => contender.look_up_under_churn(&keys, connections)?,
            };
            if round > 0 {
                contender.runs.push(took);
                contender.rounds_preempted += u32::from(preemptions.count() > 0);
            }
        }
    }
    let row = |contender: Contender| {
        Some(Row {
            table: contender.map.name(),
            case: case.name(),
            flows,
            ns_per_op: Figures::of(&contender.runs)?,
            bytes_per_direction: contender.bytes_per_direction,
            rounds_preempted: contender.rounds_preempted,
            churn_per_second: contender.churn_per_second,
        })
    };
    Ok(contenders.into_iter().filter_map(row).collect())
}

/// How full the table's slots are.
fn load_percent(case: Case) -> u32 {
    match case {
        Case::LookupMiss => 85,
        Case::LookupHit | Case::InsertPair | Case::LookupUnderChurn => 50,
    }
}

impl Contender {
    fn filled(make: impl FnOnce() -> Box<dyn FlowMap>, connections: u32) -> Self {
        let before = heap_bytes();
        let map = make();
        let mut access = map.access();
        for first in (0..connections).step_by(4096) {
            let keys: Vec<FlowKey> =
                (first..connections.min(first.saturating_add(4096))).map(key).collect();
            access.insert_pairs(&keys);
        }
        let bytes = map.bytes_outside_heap() + heap_bytes().saturating_sub(before);
        let bytes_per_direction = per(bytes, connections as usize * 2);
        let churner = Some(map.access());
        Self {
            map,
            access,
            churner,
            bytes_per_direction,
            runs: Vec::new(),
            rounds_preempted: 0,
            churn_per_second: None,
        }
    }

    /// Nanoseconds a lookup.
    fn look_up(&mut self, keys: &[FlowKey], expected: usize) -> anyhow::Result<f64> {
        let start = Instant::now();
        let hits = black_box(self.access.look_up(black_box(keys)));
        let took = start.elapsed();
        if hits != expected {
            bail!("{} found {hits} of {} keys, not {expected}", self.map.name(), keys.len());
        }
        Ok(nanoseconds(took, keys.len()))
    }

    /// Nanoseconds a connection. They are removed again, apart from the time.
    fn insert(&mut self, connections: u32, round: u32) -> f64 {
        let first = connections.wrapping_add(round.wrapping_mul(PAIRS));
        let keys: Vec<FlowKey> = (0..PAIRS).map(|index| key(first.wrapping_add(index))).collect();
        let start = Instant::now();
        self.access.insert_pairs(black_box(&keys));
        let took = start.elapsed();
        self.access.remove_pairs(&keys);
        nanoseconds(took, keys.len())
    }

    /// Nanoseconds a lookup, over [`CHURN_TIME`] at least.
    fn look_up_under_churn(&mut self, keys: &[FlowKey], first: u32) -> anyhow::Result<f64> {
        let is_over = Arc::new(AtomicBool::new(false));
        let access = self.churner.take().unwrap_or_else(|| self.map.access());
        let churn = Churn { access, first, is_over: Arc::clone(&is_over) };
        let start = Instant::now();
        let thread = thread::spawn(move || churn.run());
        let mut runs = Vec::new();
        let result = loop {
            match self.look_up(keys, keys.len()) {
                Ok(took) => runs.push(took),
                Err(error) => break Err(error),
            }
            if start.elapsed() >= CHURN_TIME {
                break Ok(());
            }
        };
        is_over.store(true, Relaxed);
        let (access, pairs) =
            thread.join().map_err(|_| anyhow::anyhow!("the churning thread failed"))?;
        self.churner = Some(access);
        let per_second = f64::from(pairs) / start.elapsed().as_secs_f64();
        let slowest = self.churn_per_second.unwrap_or(per_second);
        self.churn_per_second = Some(slowest.min(per_second));
        result?;
        Ok(Figures::of(&runs).map_or(0.0, |figures| figures.median))
    }
}

/// The other thread of a case.
struct Churn {
    access: Box<dyn Access>,
    first: u32,
    is_over: Arc<AtomicBool>,
}

impl Churn {
    /// Inserts and removes at its rate until it is over; tells how many connections.
    fn run(mut self) -> (Box<dyn Access>, u32) {
        let period = Duration::from_secs(1) * CHURN_PAIRS / CHURN_PER_SECOND;
        let mut due = Instant::now();
        let mut pairs = 0_u32;
        while !self.is_over.load(Relaxed) {
            let first = self.first.wrapping_add(pairs);
            let keys: Vec<FlowKey> =
                (0..CHURN_PAIRS).map(|index| key(first.wrapping_add(index))).collect();
            self.access.insert_pairs(&keys);
            self.access.remove_pairs(&keys);
            pairs = pairs.wrapping_add(CHURN_PAIRS);
            due += period;
            while Instant::now() < due && !self.is_over.load(Relaxed) {
                std::hint::spin_loop();
            }
        }
        (self.access, pairs)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn per(total: usize, count: usize) -> f64 {
    total as f64 / count.max(1) as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn nanoseconds(took: Duration, count: usize) -> f64 {
    took.as_secs_f64() * 1e9 / count as f64
}
