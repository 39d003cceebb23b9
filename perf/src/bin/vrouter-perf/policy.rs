//! `vrouter-perf policy`: judging a connection, and taking over a change of policy.
#![expect(clippy::print_stdout, reason = "results go to the standard output")]

mod change;

use std::{hint::black_box, path::PathBuf, sync::Arc, time::Instant};

use anyhow::Context;
use clap::Args;
use perf::{
    figures::Figures,
    machine::{Machine, Preemptions, choose_cpu, pin},
    policy_load::{self, ADDRESSES},
};
use serde::Serialize;
use vrouter::policy::{AddressSetObject, AddressSets, PolicyCompiler, PolicySet, PolicySetObject};

use self::change::ChangeBench;
use crate::report;

/// Rules of the large policy set.
const RULES: u32 = 1000;
/// Questions of one round: more than the caches next to the core hold of the tables.
const QUESTIONS: u32 = 1 << 16;
/// TCP.
const PROTOCOL: u8 = 6;

#[derive(Args, Debug)]
pub(crate) struct PolicyOptions {
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 21,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Pins the measuring thread to this CPU.
    #[arg(long, value_name = "CPU")]
    cpu: Option<usize>,
    /// Writes the results to a file, too; `-` is the standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One case's result.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    rules: u32,
    addresses: u32,
    /// Isolated ports that the change is for.
    ports: u32,
    nanoseconds: Figures,
    /// How often the measuring thread was taken off its CPU.
    preemptions: u64,
}

pub(crate) fn run(options: &PolicyOptions) -> anyhow::Result<()> {
    report::check_json(options.json.as_deref()).context("cannot write the results")?;
    let machine = Machine::now();
    pin(choose_cpu(options.cpu)?)?;
    let mut rows = Vec::new();
    for (case, rules) in [("classify", 1), ("classify", RULES)] {
        let set = compiled(rules)?;
        rows.push(measure(options.rounds, (case, rules, 0), || Ok(classify(&set)))?);
    }
    let mut bench = ChangeBench::new()?;
    let shape = ("pod-change", change::RULES, change::PORTS);
    rows.push(measure(options.rounds, shape, || bench.change())?);
    if report::write_rows(&machine, &rows, options.json.as_deref())? {
        report::describe(&machine);
        show(&rows);
    }
    Ok(())
}

/// Measures a case once more than asked for: the first round finds everything cold.
fn measure(
    rounds: u32,
    (case, rules, ports): (&'static str, u32, u32),
    mut round: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Row> {
    round()?;
    let watch = Preemptions::watch();
    let taken = (0..rounds).map(|_| round()).collect::<Result<Vec<_>, _>>()?;
    let preemptions = watch.count();
    let nanoseconds = Figures::of(&taken).context("nothing was measured")?;
    Ok(Row { case, rules, addresses: ADDRESSES, ports, nanoseconds, preemptions })
}

fn compiled(rules: u32) -> anyhow::Result<PolicySet> {
    let mut sets = AddressSets::default();
    for set in policy_load::address_sets() {
        let set = AddressSetObject::try_from(set)?;
        sets.insert(set.id, set.addresses.iter().copied().collect());
    }
    let object = PolicySetObject::try_from(policy_load::policy_set(1, rules))?;
    Ok(PolicyCompiler::new(Arc::new(object), &sets).compiled().clone())
}

/// Nanoseconds that judging one connection takes.
fn classify(set: &PolicySet) -> f64 {
    let questions = policy_load::questions(QUESTIONS);
    let start = Instant::now();
    for (peer, port) in &questions {
        black_box(set.judge(black_box(*peer), PROTOCOL, Some(*port)));
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(QUESTIONS)
}

fn show(rows: &[Row]) {
    println!(
        "{:<12} {:>6} {:>10} {:>6} {:>12} {:>25}",
        "CASE", "RULES", "ADDRESSES", "PORTS", "NS", "[MIN-MAX]"
    );
    for row in rows {
        let Figures { median, min, max } = row.nanoseconds;
        let remark = if row.preemptions > 0 { "preempted" } else { "" };
        println!(
            "{:<12} {:>6} {:>10} {:>6} {median:>12.1} {:>25}  {remark}",
            row.case,
            row.rules,
            row.addresses,
            row.ports,
            format!("[{min:.1}-{max:.1}]"),
        );
    }
}
