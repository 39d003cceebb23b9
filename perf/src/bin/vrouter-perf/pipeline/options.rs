//! What to measure, checked before anything is.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use perf::traffic::{FLOWS_MAX, FrameSizeError, PODS_MAX, Way};

/// Flows, unless told otherwise.
const FLOWS: [u32; 3] = [1, 10_000, 1 << 20];
/// First packets that one run needs at least: a few bursts a window.
const NEW_FLOWS_MIN: u32 = 8192;
/// Ports of the mix besides the uplink.
pub(super) const MIX_PODS: u8 = PODS_MAX;
/// Flows of the mix at least: each of the four ways from, or to, each pod.
const MIX_FLOWS_MIN: u32 = 4 * MIX_PODS as u32;
/// Flows of the case with policy at most: all are judged again within the first window of a turn,
/// which does not count.
const POLICY_FLOWS_MAX: u32 = 1 << 16;

#[derive(Args, Debug)]
pub(crate) struct PipelineOptions {
    /// Only this case; may be repeated.
    #[arg(long = "case", value_name = "NAME", conflicts_with = "pcap")]
    cases: Vec<PipelineCase>,
    /// With so many flows, in random order; may be repeated. Default: 1, 10,000 and 1 Mi, as far as
    /// the case can have them.
    #[arg(long, value_name = "N", conflicts_with = "pcap")]
    flows: Vec<u32>,
    /// The size of pods' frames, without frame check sequence and tunnel headers.
    #[arg(long = "frame", value_name = "BYTES", default_value_t = 64, conflicts_with = "pcap")]
    pub(crate) frame_bytes: usize,
    /// Your own frames instead of a case: of this capture file, round and round. They come from a
    /// pod (10.244.1.10, `fd00:10:244:1::a`) beside another one (10.244.1.11, `fd00:10:244:1::b`); what
    /// the node does not forward is dropped and counted.
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
    /// How long each is measured, after the warm-up.
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = parse_seconds)]
    pub(crate) seconds: f64,
    /// Windows that this time is cut into.
    #[arg(long, value_name = "N", default_value_t = 21,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Pins the worker to this CPU. Default: the last one that this process may use.
    #[arg(long, value_name = "CPU")]
    pub(crate) cpu: Option<usize>,
    /// Writes the results to a file, too; `-` is the standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum PipelineCase {
    /// Known flows, IPv4 from pod to pod.
    Ipv4Routed,
    /// Known flows, IPv6 from pod to pod.
    Ipv6Routed,
    /// Known flows, IPv4 from a pod into a VXLAN tunnel.
    VxlanEncap,
    /// Known flows, IPv4 out of a VXLAN tunnel to a pod.
    VxlanDecap,
    /// First packets, IPv4 from pod to pod: decided, inserted for both directions, and sent.
    NewFlow,
    /// All of these ways at once, between 20 ports.
    Mix,
    /// As ipv4-routed, while 10,000 routes a second change and all counters are read each second;
    /// beside the same without, in turn.
    Churn,
    /// As ipv4-routed, while both pods are isolated by 1,000 policies; beside the same without, in
    /// turn.
    Policy,
}

impl PipelineCase {
    const ALL: [Self; 8] = [
        Self::Ipv4Routed,
        Self::Ipv6Routed,
        Self::VxlanEncap,
        Self::VxlanDecap,
        Self::NewFlow,
        Self::Mix,
        Self::Churn,
        Self::Policy,
    ];

    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ipv4Routed => "ipv4-routed",
            Self::Ipv6Routed => "ipv6-routed",
            Self::VxlanEncap => "vxlan-encap",
            Self::VxlanDecap => "vxlan-decap",
            Self::NewFlow => "new-flow",
            Self::Mix => "mix",
            Self::Churn => "churn",
            Self::Policy => "policy",
        }
    }

    /// The ways of its packets.
    pub(crate) fn ways(self) -> &'static [Way] {
        match self {
            Self::Ipv4Routed | Self::NewFlow | Self::Churn | Self::Policy => &[Way::PodToPod],
            Self::Ipv6Routed => &[Way::PodToPodV6],
            Self::VxlanEncap => &[Way::Encap],
            Self::VxlanDecap => &[Way::Decap],
            Self::Mix => &Way::ALL,
        }
    }

    /// The way of its packets, or the first of them.
    pub(crate) fn way(self) -> Way {
        self.ways().first().copied().unwrap_or(Way::PodToPod)
    }

    fn flows_max(self) -> u32 {
        if self == Self::Policy { POLICY_FLOWS_MAX } else { FLOWS_MAX }
    }

    fn flows_min(self) -> u32 {
        match self {
            Self::NewFlow => NEW_FLOWS_MIN,
            Self::Mix => MIX_FLOWS_MIN,
            _ => 1,
        }
    }
}

/// What was asked for cannot be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsError {
    #[error("{case} with {flows} flows is not possible: at least {min}, at most {max}")]
    Flows { case: &'static str, flows: u32, min: u32, max: u32 },
    #[error("{case} cannot have such frames")]
    Frame {
        case: &'static str,
        #[source]
        source: FrameSizeError,
    },
}

impl PipelineOptions {
    /// For one window of one case.
    pub(crate) fn one_window(frame_bytes: usize, seconds: f64) -> Self {
        let (cases, flows) = (Vec::new(), Vec::new());
        Self { cases, flows, frame_bytes, pcap: None, seconds, rounds: 1, cpu: None, json: None }
    }

    /// All cases with all numbers of flows.
    pub(crate) fn cases(&self) -> Result<Vec<(PipelineCase, u32)>, OptionsError> {
        let cases = if self.cases.is_empty() { &PipelineCase::ALL[..] } else { &self.cases };
        let flows = if self.flows.is_empty() { &FLOWS[..] } else { &self.flows };
        let mut all = Vec::new();
        for &case in cases {
            for way in case.ways() {
                way.check_frame_bytes(self.frame_bytes)
                    .map_err(|source| OptionsError::Frame { case: case.name(), source })?;
            }
            for &flows in flows {
                match self.check_flows(case, flows) {
                    Ok(true) => all.push((case, flows)),
                    Ok(false) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(all)
    }

    /// Whether a case can have so many flows. An error if both were asked for; where one of them is
    /// a default, it is left out.
    fn check_flows(&self, case: PipelineCase, flows: u32) -> Result<bool, OptionsError> {
        let (min, max) = (case.flows_min(), case.flows_max());
        let is_never_possible = flows == 0 || flows > FLOWS_MAX;
        let is_asked = !self.cases.is_empty() && !self.flows.is_empty();
        let is_possible = (min..=max).contains(&flows);
        if is_never_possible || !is_possible && is_asked {
            return Err(OptionsError::Flows { case: case.name(), flows, min, max });
        }
        Ok(is_possible)
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.01..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("at least 0.01 s, at most an hour".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: PipelineOptions,
    }

    fn cases(arguments: &[&str]) -> Result<Vec<(PipelineCase, u32)>, OptionsError> {
        Line::try_parse_from([&["x"], arguments].concat()).unwrap().options.cases()
    }

    #[test]
    fn cases_are_called_alike_in_options_and_results() {
        for case in PipelineCase::ALL {
            let option = case.to_possible_value().unwrap();
            assert_eq!(option.get_name(), case.name());
        }
    }

    #[test]
    fn a_case_leaves_out_default_flows_that_it_cannot_have() {
        let new_flow = PipelineCase::NewFlow;
        assert_eq!(
            cases(&["--case", "new-flow"]).unwrap(),
            [(new_flow, 10_000), (new_flow, 1 << 20)]
        );
        let names: Vec<_> =
            cases(&["--flows", "1"]).unwrap().iter().map(|(case, _)| case.name()).collect();
        assert_eq!(
            names,
            ["ipv4-routed", "ipv6-routed", "vxlan-encap", "vxlan-decap", "churn", "policy"]
        );
        let names = cases(&["--flows", "1048576"]).unwrap();
        assert!(!names.iter().any(|(case, _)| *case == PipelineCase::Policy));
    }

    #[test]
    fn what_was_asked_for_and_cannot_be_is_an_error() {
        let message = |arguments: &[&str]| cases(arguments).unwrap_err().to_string();
        assert_eq!(
            message(&["--case", "new-flow", "--flows", "1"]),
            "new-flow with 1 flows is not possible: at least 8192, at most 8388608"
        );
        assert!(message(&["--flows", "0"]).contains("0 flows is not possible"));
        assert!(message(&["--flows", "8388609"]).contains("at most 8388608"));
        assert_eq!(message(&["--frame", "61"]), "ipv6-routed cannot have such frames");
        assert!(cases(&["--frame", "61", "--case", "ipv4-routed"]).is_ok());
        assert!(cases(&["--frame", "65549", "--case", "vxlan-encap"]).is_err());
    }
}
