//! `vrouter-perf pktgen --port`: prepared frames, untouched, over vhost-user.
#![expect(clippy::print_stdout, reason = "results go to the standard output")]

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use perf::{
    cycles,
    figures::Figures,
    machine::{self, Machine},
    pktgen::{
        frames::{FrameMix, FrameSet},
        port::{PortKind, PortSpec, VhostUserSpec},
        prepared::{Course, Load, PreparedPort, Rings},
        tag::Tag,
    },
};
use serde::Serialize;
use vrouter::port::vhost_user::ring::RingFormat;

use super::{EXIT_LOSS, PktgenOptions};
use crate::report;

/// Before each row: flows are known, caches are as they stay.
const WARM_UP: Duration = Duration::from_millis(100);
/// A row's time is cut into slices, whose median is the figure.
const SLICE: Duration = Duration::from_millis(5);
/// Above this part of polls in which the backend had nothing to do, the generator set the pace.
const STARVED_RATIO_MAX: f64 = 0.05;
/// Frames that take turns at most: 1.2 GB of them.
const FRAMES_MAX: u64 = 1 << 19;

/// What one frame mix gave.
#[derive(Debug, Serialize)]
struct Row {
    frame: String,
    flows: u32,
    tx: String,
    rx: String,
    sent: u64,
    received: u64,
    lost: u64,
    loss_ratio: f64,
    /// That came back, of slices of the time.
    received_pps: Figures,
    /// Of the time-stamp counter, between two frames that came back.
    cycles_per_packet: Figures,
    /// The part of polls that found the backend with nothing to do, or without a buffer.
    starved_ratio: f64,
    is_generator_limited: bool,
    machine: Machine,
}

pub(super) fn run(
    options: &PktgenOptions,
    frames: &[(FrameMix, Arc<FrameSet>)],
) -> anyhow::Result<ExitCode> {
    let (from, to) = match &options.prepared[..] {
        [port] => (port, None),
        [from, to] => (from, Some(to)),
        ports => bail!("{} ports were given; give --port once or twice", ports.len()),
    };
    if let Some(cpu) = options.tx_cpu {
        machine::pin(cpu)?;
    }
    let machine = Machine::now();
    let cycles_per_second = cycles::per_second();
    let mut rows = Vec::new();
    for (mix, frames) in frames {
        let mut source = connect(from, &prepare(frames, options.stream)?)?;
        let mut sink = to.map(|to| connect(to, &[])).transpose()?;
        let course = Course {
            warm_up: WARM_UP,
            window: Duration::from_secs_f64(options.seconds),
            slice: SLICE,
        };
        let flow = Load::new(&mut source, sink.as_mut()).run(&course);
        let flow = flow.with_context(|| format!("{from} takes no frames"))?;
        let to = to.unwrap_or(from);
        let Some(flow) = flow else { bail!("nothing came back on {to}") };
        let Figures { median, min, max } = flow.cycles_per_packet;
        let rate = |cycles: f64| cycles_per_second / cycles;
        rows.push(Row {
            frame: mix.to_string(),
            flows: frames.flows(),
            tx: from.to_string(),
            rx: to.to_string(),
            sent: flow.sent,
            received: flow.received,
            lost: flow.sent.saturating_sub(flow.received),
            loss_ratio: flow.loss_ratio(),
            received_pps: Figures { median: rate(median), min: rate(max), max: rate(min) },
            cycles_per_packet: flow.cycles_per_packet,
            starved_ratio: flow.starved_ratio,
            is_generator_limited: flow.starved_ratio > STARVED_RATIO_MAX,
            machine: machine.clone(),
        });
    }
    show(&machine, &rows, options.json.as_deref()).context("cannot write the results")?;
    let limit = options.loss_limit.unwrap_or(1.0);
    let is_failed = rows.iter().any(|row| row.loss_ratio > limit);
    Ok(if is_failed { ExitCode::from(EXIT_LOSS) } else { ExitCode::SUCCESS })
}

/// Every frame of a set, once.
fn prepare(frames: &FrameSet, stream: u16) -> anyhow::Result<Vec<Vec<u8>>> {
    let period = frames.period();
    if period > FRAMES_MAX {
        bail!("{period} frames are too many to prepare; give fewer flows, {FRAMES_MAX} at most");
    }
    let frame = |sequence| {
        let mut buffer = vec![0; frames.frame_bytes_max()];
        let bytes = frames.write(Tag { stream, sequence, sent_ns: 0 }, &mut buffer);
        buffer.truncate(bytes);
        buffer
    };
    Ok((0..period).map(frame).collect())
}

fn connect(port: &PortSpec, frames: &[Vec<u8>]) -> anyhow::Result<PreparedPort> {
    let PortKind::VhostUser(VhostUserSpec { socket_path, packed, entries }) = &port.kind else {
        bail!("{port} is no vhost-user port; give --port vhost-user-client=SOCKET");
    };
    let format = if *packed { RingFormat::Packed } else { RingFormat::Split };
    let rings = Rings { format, entries: *entries };
    Ok(PreparedPort::connect(Path::new(socket_path), rings, frames)?)
}

fn show(machine: &Machine, rows: &[Row], json: Option<&Path>) -> std::io::Result<()> {
    if !report::write_json(&rows, json)? {
        return Ok(());
    }
    report::describe(machine);
    println!(
        "{:<8} {:>6} {:>12} {:>12} {:>10} {:>7} {:>17} {:>7}",
        "FRAME", "FLOWS", "SENT", "RECEIVED", "LOST", "CYCLES", "[MIN-MAX]", "MPPS"
    );
    for row in rows {
        let Figures { median, min, max } = row.cycles_per_packet;
        println!(
            "{:<8} {:>6} {:>12} {:>12} {:>10} {:>7.1} {:>17} {:>7.2}  {}",
            row.frame,
            row.flows,
            row.sent,
            row.received,
            row.lost,
            median,
            format!("[{min:.1}-{max:.1}]"),
            row.received_pps.median / 1e6,
            if row.is_generator_limited { "generator limited" } else { "" },
        );
    }
    Ok(())
}
