//! One trial's result.

use anyhow::bail;
use perf::{
    machine::Machine,
    pktgen::{
        frames::FrameMix,
        trial::{Outcome, Plan, SenderReport, SinkReport, Trial},
    },
};
use serde::Serialize;

/// A sender that came to less than this part of its rate was too slow.
const RATE_REACHED: f64 = 0.99;

/// What one trial gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) frame: String,
    pub(crate) frame_bytes_mean: f64,
    pub(crate) flows: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tx: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rx: Option<String>,
    /// Packets a second; none for as fast as possible.
    pub(crate) asked_pps: Option<f64>,
    pub(crate) sent: Option<u64>,
    pub(crate) sent_pps: Option<f64>,
    /// Of whole frames with FCS.
    pub(crate) sent_bits_per_second: Option<f64>,
    #[serde(flatten)]
    pub(crate) received: Option<Arrivals>,
    pub(crate) lost: Option<u64>,
    pub(crate) loss_ratio: Option<f64>,
    /// The generator, not what lies between the ports, set the pace.
    pub(crate) is_generator_limited: bool,
    /// The sink itself lost frames: then the loss is not the device's alone.
    pub(crate) is_sink_limited: bool,
    /// How often the sender came too late to catch up.
    pub(crate) stalls: u64,
    /// How often the sender's thread was taken off its CPU.
    pub(crate) preemptions: u64,
    pub(crate) remarks: Vec<String>,
    pub(crate) machine: Machine,
}

/// What the sink counted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Arrivals {
    pub(crate) received: u64,
    pub(crate) reordered: u64,
    pub(crate) duplicated: u64,
    pub(crate) corrupted: u64,
    pub(crate) late: u64,
    pub(crate) foreign: u64,
    pub(crate) other_streams: u64,
    pub(crate) lost_by_sink: u64,
    /// How often the sink's thread was taken off its CPU.
    pub(crate) sink_preemptions: u64,
    pub(crate) latency_ns: Option<Latencies>,
}

/// One-way latencies.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latencies {
    pub(crate) min: u64,
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}

impl Row {
    /// Fails if nothing arrived of what was to: then there is no figure to show.
    pub(crate) fn of(
        plan: &Plan,
        machine: &Machine,
        mix: &FrameMix,
        trial: &Trial,
        outcome: &Outcome,
    ) -> anyhow::Result<Self> {
        let name = |end: &perf::pktgen::trial::End| end.port.to_string();
        let (tx, rx) = (plan.tx.as_ref().map(name), plan.rx.as_ref().map(name));
        let received = outcome.received.as_ref().map(Arrivals::of);
        nothing_came(tx.as_deref(), rx.as_deref(), outcome, received.as_ref())?;
        let sent = outcome.sent.map(|report| report.sent);
        // Without a sender, what is missing up to the last packet that came.
        let expected = match (&sent, &outcome.received) {
            (Some(sent), _) => Some(sent.packets),
            (None, Some(report)) => report.account.highest().map(|highest| highest + 1),
            (None, None) => None,
        };
        let lost = expected
            .zip(received.as_ref())
            .map(|(expected, received)| expected.saturating_sub(received.received));
        let mut row = Self {
            frame: mix.to_string(),
            frame_bytes_mean: trial.frames.frame_bytes_mean(),
            flows: trial.frames.flows(),
            tx,
            rx,
            asked_pps: trial.packets_per_second.filter(|_| sent.is_some()),
            sent: sent.map(|sent| sent.packets),
            sent_pps: sent.and_then(|sent| sent.packets_per_second()),
            sent_bits_per_second: None,
            loss_ratio: lost.zip(expected).map(|(lost, expected)| ratio(lost, expected)),
            lost,
            received,
            is_generator_limited: false,
            is_sink_limited: false,
            stalls: 0,
            preemptions: 0,
            remarks: Vec::new(),
            machine: machine.clone(),
        };
        row.sent_bits_per_second = row.sent_pps.map(|rate| rate * 8.0 * row.frame_bytes_mean);
        if let Some(report) = &outcome.sent {
            row.judge_sender(report);
        }
        if let Some(report) = &outcome.received {
            row.judge_sink(report);
        }
        if row.preemptions > 0 {
            row.remarks.push(format!("sender preempted {} times", row.preemptions));
        }
        if outcome.is_interrupted {
            row.remarks.push("interrupted".into());
        }
        Ok(row)
    }

    /// Whether the generator itself, or the sink, was too slow for a while.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.is_generator_limited || self.is_sink_limited || self.stalls > 0
    }

    fn judge_sender(&mut self, report: &SenderReport) {
        self.preemptions = report.preemptions;
        self.stalls = report.sent.stalls;
        if let Some((asked, sent)) = self.asked_pps.zip(self.sent_pps)
            && sent < asked * RATE_REACHED
        {
            self.is_generator_limited = true;
            self.remarks.push(format!("generator limited: {sent:.0} of {asked:.0} pps"));
        }
        if self.asked_pps.is_some() && report.sent.port_full > 0 {
            self.remarks.push(format!("tx ring full {} times", report.sent.port_full));
        }
        if report.sent.stalls > 0 {
            let milliseconds = report.sent.stalled_ns / 1_000_000;
            self.remarks
                .push(format!("generator stalled {} times, {milliseconds} ms", report.sent.stalls));
        }
        if report.is_shared {
            self.remarks.push("the sender shared its CPU".into());
        }
        if report.is_stolen {
            self.remarks.push("the hypervisor took CPU time".into());
        }
        if report.stuck > 0 {
            self.remarks.push(format!("{} frames never left the port", report.stuck));
        }
    }

    fn judge_sink(&mut self, report: &SinkReport) {
        let counts = report.account.counts();
        if report.lost_by_port > 0 {
            self.is_sink_limited = true;
            self.remarks.push(format!("sink limited: it lost {} frames", report.lost_by_port));
        }
        if self.sent.is_none() {
            self.remarks.push("loss is known up to the last packet received".into());
        }
        if counts.untimed > 0 {
            self.remarks.push(format!("{} packets were sent by another clock", counts.untimed));
        }
        if counts.late > 0 {
            self.remarks.push(format!("{} packets too late to be judged", counts.late));
        }
    }
}

fn nothing_came(
    tx: Option<&str>,
    rx: Option<&str>,
    outcome: &Outcome,
    received: Option<&Arrivals>,
) -> anyhow::Result<()> {
    let sent = outcome.sent.map(|report| report.sent.packets);
    if let (Some(tx), Some(0)) = (tx, sent) {
        bail!("{tx} took no frame; is its interface up, and does anything empty its queue?");
    }
    if let (Some(rx), Some(counts)) = (rx, received)
        && counts.received == 0
    {
        let others = counts.foreign + counts.other_streams + counts.corrupted + counts.duplicated;
        let sent = sent.map_or(String::new(), |sent| format!(" of {sent} packets sent"));
        bail!(
            "nothing arrived on {rx}{sent}, besides {others} other frames; do the addresses and \
             --stream fit, and does what lies between forward?"
        );
    }
    Ok(())
}

impl Arrivals {
    fn of(report: &SinkReport) -> Self {
        let counts = report.account.counts();
        Self {
            received: counts.received,
            reordered: counts.reordered,
            duplicated: counts.duplicated,
            corrupted: counts.corrupted,
            late: counts.late,
            foreign: counts.foreign,
            other_streams: counts.other_streams,
            lost_by_sink: report.lost_by_port,
            sink_preemptions: report.preemptions,
            latency_ns: Latencies::of(report),
        }
    }
}

impl Latencies {
    fn of(report: &SinkReport) -> Option<Self> {
        let all = report.account.latencies();
        (!all.is_empty()).then(|| Self {
            min: all.min(),
            mean: all.mean(),
            p50: all.value_at_quantile(0.5),
            p90: all.value_at_quantile(0.9),
            p99: all.value_at_quantile(0.99),
            p99_9: all.value_at_quantile(0.999),
            max: all.max(),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
