//! `vrouter-perf plot`: results as a document with charts. The same results give the same bytes.

mod chart;
mod compare;
mod document;
mod flood;
mod flowtable;
mod pipeline;
mod pods;
mod policy;
mod results;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;
use perf::machine::Machine;
use serde::Serialize;

use self::{
    document::Section,
    results::{Comparison, FloodRow, FlowtableRow, PipelineRow, PolicyRow, read},
};
use crate::report;

#[derive(Args, Debug)]
pub(crate) struct PlotOptions {
    /// What `vrouter-perf flowtable --json` wrote.
    #[arg(long, value_name = "FILE")]
    flowtable: Option<PathBuf>,
    /// What `vrouter-perf pipeline --json` wrote.
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// What `vrouter-perf policy --json` wrote.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// What `vrouter-perf flood --json` wrote.
    #[arg(long, value_name = "FILE")]
    flood: Option<PathBuf>,
    /// What `vrouter-perf compare --json` wrote.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// What was measured, and when: a line of the document.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// The folder that the charts go to.
    #[arg(long, value_name = "FOLDER", default_value = "docs/plots")]
    plots: PathBuf,
    /// The document.
    #[arg(long, value_name = "FILE", default_value = "docs/benchmarks.md")]
    document: PathBuf,
    /// Writes which files were made to a file; `-` is the standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const HEAD: &str = "\
<!-- Made by scripts/bench. Changes by hand are lost with its next run. -->

# Benchmarks

`scripts/bench` installs what it takes, measures all of this, and writes this file. Figures depend on \
the machine: compare those of one run with each other, not with another run's or another machine's.

[Flow table](#flow-table) · [Pipeline](#pipeline) · [Policy](#policy) · [Other dataplanes](#other-dataplanes) · [Pods](#pods-with-ordinary-sockets)";

pub(crate) fn run(options: &PlotOptions) -> anyhow::Result<()> {
    let flowtable: Option<Vec<FlowtableRow>> = read(options.flowtable.as_deref())?;
    let pipeline: Option<Vec<PipelineRow>> = read(options.pipeline.as_deref())?;
    let policy: Option<Vec<PolicyRow>> = read(options.policy.as_deref())?;
    let flood: Option<Vec<FloodRow>> = read(options.flood.as_deref())?;
    let comparison: Option<Comparison> = read(options.compare.as_deref())?;
    let is_nothing = flowtable.is_none() && pipeline.is_none() && policy.is_none();
    if is_nothing && flood.is_none() && comparison.is_none() {
        bail!(
            "there is nothing to plot; give results with --flowtable, --pipeline, --policy, \
             --flood or --compare"
        );
    }
    let is_empty = flowtable.as_ref().is_none_or(Vec::is_empty)
        && pipeline.as_ref().is_none_or(Vec::is_empty)
        && policy.as_ref().is_none_or(Vec::is_empty)
        && flood.as_ref().is_none_or(Vec::is_empty)
        && comparison.as_ref().is_none_or(|it| it.rows.is_empty() && it.pods.is_empty());
    if is_empty {
        bail!("these results hold no row; measure again");
    }
    // The first measurement's: its load is that before everything.
    let machine = flowtable
        .iter()
        .flatten()
        .find_map(|row| row.machine.clone())
        .or_else(|| pipeline.iter().flatten().find_map(|row| row.machine.clone()))
        .or_else(|| policy.iter().flatten().find_map(|row| row.machine.clone()))
        .or_else(|| flood.iter().flatten().find_map(|row| row.machine.clone()))
        .or_else(|| comparison.as_ref().map(|it| it.machine.clone()));
    let plots = relative(&options.plots, &options.document);
    let sections = [
        head(options.note.as_deref(), machine.as_ref()),
        flowtable::section(flowtable.as_deref(), &plots),
        pipeline::section(pipeline.as_deref(), &plots),
        policy::section(policy.as_deref()),
        flood::section(flood.as_deref()),
        compare::section(comparison.as_ref(), &plots),
        pods::section(comparison.as_ref(), &plots),
    ];
    report::check_json(options.json.as_deref()).context("cannot write the results")?;
    let mut written = Written { document: &options.document, charts: Vec::new() };
    fs::create_dir_all(&options.plots)
        .with_context(|| format!("cannot make {}", options.plots.display()))?;
    let mut text = String::new();
    for section in sections {
        text.push_str(&section.text);
        for chart in section.charts {
            let path = options.plots.join(format!("{}.svg", chart.name));
            let svg = chart.svg().with_context(|| format!("cannot draw {}", chart.name))?;
            write(&path, &svg)?;
            written.charts.push(path);
        }
    }
    write(&options.document, &format!("{}\n", text.trim_end()))?;
    report::write_json(&written, options.json.as_deref()).context("cannot write the results")?;
    Ok(())
}

/// The files that were made.
#[derive(Debug, Serialize)]
struct Written<'a> {
    document: &'a Path,
    charts: Vec<PathBuf>,
}

fn head(note: Option<&str>, machine: Option<&Machine>) -> Section {
    let mut head = Section::default();
    head.push(HEAD);
    head.push("## Machine");
    if let Some(machine) = machine {
        head.push(&format!(
            "{}, {} CPUs, Linux {}. Load before the measurements {:.2}, {} free huge pages of 2 MiB.",
            machine.cpu_model,
            machine.cpus,
            machine.kernel,
            machine.load_average,
            machine.huge_pages_free
        ));
    }
    if let Some(note) = note {
        head.push(note);
    }
    head
}

/// `folder` as the document links to it.
fn relative(folder: &Path, document: &Path) -> String {
    let beside = document.parent().unwrap_or(Path::new(""));
    folder.strip_prefix(beside).unwrap_or(folder).display().to_string()
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
