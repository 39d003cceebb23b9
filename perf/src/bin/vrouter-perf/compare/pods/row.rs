//! What was measured between pods.

use perf::{figures::Figures, peers::iperf3::Bulk};
use serde::Serialize;

use super::{PodTraffic, What, echo::RoundTrips, scene::Dataplane};

/// One dataplane's result in one case.
#[derive(Debug, Serialize)]
pub(crate) struct PodRow {
    pub(crate) case: &'static str,
    pub(crate) dataplane: &'static str,
    /// What `figures` are in: `Gbit/s` of payload, or `µs` for the median round trip.
    pub(crate) unit: &'static str,
    pub(crate) figures: Figures,
    /// The 99th percentile, where `figures` are of the median.
    pub(crate) p99: Option<Figures>,
    /// Our engine's figure as a part of this one's, round by round.
    pub(crate) vrouter_ratio: Figures,
    /// What the ratio is to be: at least for throughput, at most for round trips.
    pub(crate) goal: Option<f64>,
    pub(crate) rounds: usize,
    /// TCP segments that were sent again, in all rounds.
    pub(crate) retransmits: u64,
    pub(crate) not_fair: &'static str,
}

/// What one round gave.
#[derive(Clone, Debug)]
pub(super) enum Taken {
    Bulk(Bulk),
    RoundTrips(RoundTrips),
}

impl Taken {
    /// The figure that is compared.
    fn figure(&self) -> f64 {
        match self {
            Self::Bulk(bulk) => bulk.bits_per_second / 1e9,
            Self::RoundTrips(trips) => trips.median_microseconds,
        }
    }

    fn p99(&self) -> Option<f64> {
        match self {
            Self::Bulk(_) => None,
            Self::RoundTrips(trips) => Some(trips.p99_microseconds),
        }
    }

    fn retransmits(&self) -> u64 {
        match self {
            Self::Bulk(bulk) => bulk.retransmits,
            Self::RoundTrips(_) => 0,
        }
    }
}

impl PodRow {
    /// Of all rounds; `None` without a round that our engine was measured in, too.
    pub(super) fn new(
        case: &'static str,
        traffic: PodTraffic,
        dataplane: Dataplane,
        taken: &[Taken],
        ours: &[Taken],
    ) -> Option<Self> {
        let figures: Vec<f64> = taken.iter().map(Taken::figure).collect();
        let p99: Vec<f64> = taken.iter().filter_map(Taken::p99).collect();
        let ratios: Vec<f64> =
            taken.iter().zip(ours).map(|(it, ours)| ours.figure() / it.figure()).collect();
        // With an engine on a CPU of its own, every byte crosses CPUs.
        let (unit, goal, rival) = match traffic.what {
            What::Bulk { .. } => ("Gbit/s", 1.0, Dataplane::Linux),
            What::RoundTrips | What::Nothing => ("µs", 1.5, Dataplane::LinuxBothCpus),
        };
        Some(Self {
            case,
            dataplane: dataplane.name(),
            unit,
            figures: Figures::of(&figures)?,
            p99: Figures::of(&p99),
            vrouter_ratio: Figures::of(&ratios)?,
            goal: (dataplane == rival).then_some(goal),
            rounds: taken.len(),
            retransmits: taken.iter().map(Taken::retransmits).sum(),
            not_fair: dataplane.not_fair(traffic),
        })
    }

    /// The goal as a bound of the ratio.
    pub(crate) fn goal_text(&self, goal: f64) -> String {
        let sign = if self.p99.is_some() { "<=" } else { ">=" };
        format!("{sign} {goal:.1}")
    }

    /// What else is to be said of its rounds.
    pub(crate) fn remark(&self) -> String {
        match self.p99 {
            Some(p99) => format!("p99 {:.1} {}", p99.median, self.unit),
            None if self.retransmits > 0 => format!("{} segments sent again", self.retransmits),
            None => String::new(),
        }
    }
}
