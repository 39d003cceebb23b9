//! `vrouter-perf pktgen`: a generator and a sink.

mod options;
mod prepared;
mod report;
mod row;
mod search;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
pub(crate) use options::PktgenOptions;
use perf::{
    machine::Machine,
    pktgen::{
        frames::FrameSet,
        port::{PortKind, PortSpec},
        trial::{Bench, End, Plan, Trial},
    },
};
use report::Watch;
use row::Row;

use crate::interrupt::Interrupt;

/// What is returned if more is lost than `--loss-limit` allows.
const EXIT_LOSS: u8 = 3;

pub(crate) fn run(options: &PktgenOptions) -> anyhow::Result<ExitCode> {
    let addressing = options.addressing()?;
    let mut frames = Vec::new();
    for mix in options.mixes(&addressing) {
        let set = FrameSet::new(addressing, &mix, options.flows)?;
        frames.push((mix, Arc::new(set)));
    }
    if !options.prepared.is_empty() {
        return prepared::run(options, &frames);
    }
    let plan = plan(options)?;
    let machine = Machine::now();
    let mut bench = Bench::start(&plan)?;
    if let (None, Some(rx)) = (&plan.tx, &plan.rx) {
        // Who sends may begin.
        eprintln!("receiving on {}", rx.port);
    }
    if options.search {
        let mut rows = Vec::new();
        let mut stream = options.stream;
        for (mix, frames) in &frames {
            let found =
                search::run(options, &plan, &machine, &mut bench, (mix, frames), &mut stream)?;
            rows.extend(found);
        }
        drop(bench);
        report::search_rows(&machine, &rows, options.json.as_deref())
            .context("cannot write the results")?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for (stream, (mix, frames)) in (options.stream..).zip(frames) {
        let trial = Trial {
            packets_per_second: options.rate.packets_per_second(frames.frame_bytes_mean()),
            frames,
            stream,
            packets: options.packets,
            duration: Duration::from_secs_f64(options.seconds),
        };
        let mut watch = Watch::new(&mix.to_string());
        let outcome = bench.run(&trial, |sent, received| watch.tell(sent, received))?;
        watch.finish();
        rows.push(Row::of(&plan, &machine, &mix, &trial, &outcome)?);
        if outcome.is_interrupted {
            break;
        }
    }
    drop(bench);
    report::rows(&machine, &rows, options.json.as_deref()).context("cannot write the results")?;
    let is_too_much = |row: &Row| {
        row.loss_ratio.zip(options.loss_limit).is_some_and(|(ratio, limit)| ratio > limit)
    };
    let is_failed = rows.iter().any(is_too_much);
    Ok(if is_failed { ExitCode::from(EXIT_LOSS) } else { ExitCode::SUCCESS })
}

fn plan(options: &PktgenOptions) -> anyhow::Result<Plan> {
    let (tx, mut rx) = (options.tx.clone(), options.rx.clone());
    let is_memory = |port: &Option<PortSpec>| {
        port.as_ref().is_some_and(|p| matches!(p.kind, PortKind::Memory(_)))
    };
    if is_memory(&tx) && (rx.is_none() || is_memory(&rx)) {
        // A link in memory has two ends.
        rx.clone_from(&tx);
    } else if is_memory(&rx) || is_memory(&tx) {
        bail!("a link in memory ends at itself; give it to --tx alone");
    }
    if rx.is_none() && (options.search || options.loss_limit.is_some()) {
        bail!("without a sink nothing is known about loss; give --rx, too");
    }
    if let (Some(cpu), Some(other)) = (options.tx_cpu, options.rx_cpu)
        && cpu == other
    {
        bail!("on CPU {cpu} sender and sink would take turns; give --tx-cpu and --rx-cpu two CPUs");
    }
    let interrupt = Interrupt::watch().context("cannot listen to signals")?;
    Ok(Plan {
        tx: tx.map(|port| End { port, cpu: options.tx_cpu }),
        rx: rx.map(|port| End { port, cpu: options.rx_cpu }),
        is_busy: options.busy,
        interrupted: interrupt.flag(),
    })
}
