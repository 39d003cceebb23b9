//! `vrouter-perf pktgen --search`: the highest rate without too much loss.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use perf::{
    machine::Machine,
    pktgen::{
        frames::{FrameMix, FrameSet},
        search::{Found, Goals, Measured, search},
        trial::{Bench, Plan, Trial},
    },
};
use serde::Serialize;

use super::{
    PktgenOptions,
    report::Watch,
    row::{Latencies, Row},
};

/// What was found for one frame size and one loss ratio.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SearchRow {
    pub(crate) frame: String,
    pub(crate) frame_bytes_mean: f64,
    pub(crate) flows: u32,
    pub(crate) tx: Option<String>,
    pub(crate) rx: Option<String>,
    /// The loss ratio that is still good.
    pub(crate) goal_loss_ratio: f64,
    /// None if every load lost more.
    pub(crate) throughput_pps: Option<f64>,
    /// Of whole frames with FCS.
    pub(crate) throughput_bits_per_second: Option<f64>,
    /// What was lost at that rate.
    pub(crate) loss_ratio: Option<f64>,
    /// Latencies at that rate.
    pub(crate) latency_ns: Option<Latencies>,
    /// The lowest load that lost more; none if the generator offered none such.
    pub(crate) too_much_pps: Option<f64>,
    pub(crate) trials: usize,
    pub(crate) trial_seconds: f64,
    /// The generator, not what lies between the ports, is the limit.
    pub(crate) is_generator_limited: bool,
    /// The sink lost frames in some trial: its limit may have been found.
    pub(crate) is_sink_limited: bool,
    pub(crate) remarks: Vec<String>,
    pub(crate) machine: Machine,
}

/// Searches with frames of one mix; tells the stream after the last one used.
pub(crate) fn run(
    options: &PktgenOptions,
    plan: &Plan,
    machine: &Machine,
    bench: &mut Bench,
    (mix, frames): (&FrameMix, &Arc<FrameSet>),
    stream: &mut u16,
) -> anyhow::Result<Vec<SearchRow>> {
    let goals = Goals {
        loss_ratios: options.goals(),
        load_max: options.rate.packets_per_second(frames.frame_bytes_mean()),
        precision: options.precision,
    };
    let mut rows: Vec<Row> = Vec::new();
    let found = search(&goals, |load| -> anyhow::Result<Measured> {
        let trial = Trial {
            frames: Arc::clone(frames),
            stream: *stream,
            packets_per_second: load,
            packets: None,
            duration: Duration::from_secs_f64(options.seconds),
        };
        *stream = stream.wrapping_add(1);
        let load = load.map_or("max".into(), |load| format!("{load:.0} pps"));
        let mut watch = Watch::new(&format!("{mix}, trial {}, {load}", rows.len() + 1));
        let outcome = bench.run(&trial, |sent, received| watch.tell(sent, received))?;
        watch.finish();
        if outcome.is_interrupted {
            bail!("interrupted before the search was over");
        }
        let row = Row::of(plan, machine, mix, &trial, &outcome)?;
        let (Some(offered), Some(loss_ratio)) = (row.sent_pps, row.loss_ratio) else {
            bail!(
                "a trial of {} s at {load} has too few packets; give more --seconds",
                options.seconds
            );
        };
        rows.push(row);
        Ok(Measured { offered, loss_ratio })
    })?;
    Ok(found.iter().map(|found| SearchRow::of(options, found, &rows, machine)).collect())
}

impl SearchRow {
    fn of(options: &PktgenOptions, found: &Found, rows: &[Row], machine: &Machine) -> Self {
        let first = rows.first();
        let at = found.throughput.and_then(|(_, index)| rows.get(index));
        let mean = first.map_or(0.0, |row| row.frame_bytes_mean);
        let rate = found.throughput.map(|(rate, _)| rate);
        let is_generator_limited = !found.is_settled && found.throughput.is_some();
        let is_sink_limited = rows.iter().any(|row| row.is_sink_limited);
        let mut row = Self {
            frame: first.map_or(String::new(), |row| row.frame.clone()),
            frame_bytes_mean: mean,
            flows: options.flows,
            tx: first.and_then(|row| row.tx.clone()),
            rx: first.and_then(|row| row.rx.clone()),
            goal_loss_ratio: found.goal,
            throughput_pps: rate,
            throughput_bits_per_second: rate.map(|rate| rate * mean * 8.0),
            loss_ratio: at.and_then(|row| row.loss_ratio),
            latency_ns: at.and_then(|row| row.received.as_ref()?.latency_ns),
            too_much_pps: found.too_much,
            trials: rows.len(),
            trial_seconds: options.seconds,
            is_generator_limited,
            is_sink_limited,
            remarks: Vec::new(),
            machine: machine.clone(),
        };
        row.remark(rows, at);
        row
    }

    fn remark(&mut self, rows: &[Row], at: Option<&Row>) {
        if self.is_generator_limited {
            let why = match self.too_much_pps {
                None => "no load was too much",
                Some(_) => "it did not come to the loads between the bounds",
            };
            self.remarks.push(format!("generator limited: {why}"));
        }
        if self.throughput_pps.is_none() {
            self.remarks.push("every load lost more".into());
        }
        if self.is_sink_limited {
            self.remarks.push("sink limited: it lost frames itself".into());
        }
        let disturbed = rows.iter().filter(|row| row.is_disturbed()).count();
        if disturbed > 0 {
            self.remarks.push(format!("{disturbed} of {} trials disturbed", rows.len()));
        }
        if let Some(row) = at.filter(|row| row.is_disturbed()) {
            self.remarks.push(format!("this one: {}", row.remarks.join(", ")));
        }
    }
}
