//! What to measure, checked before anything is.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use perf::traffic::{FLOWS_MAX, Way};

/// Flows, unless told otherwise.
const FLOWS: [u32; 3] = [1, 10_000, 1 << 20];
/// First packets that one run needs at least: a few bursts a window.
const NEW_FLOWS_MIN: u32 = 8192;

#[derive(Args, Debug)]
pub(crate) struct PipelineOptions {
    /// Only this case; may be repeated.
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<PipelineCase>,
    /// With so many flows, in random order; may be repeated. Default: 1, 10,000 and 1 Mi.
    #[arg(long, value_name = "N")]
    flows: Vec<u32>,
    /// The size of pods' frames, without frame check sequence and tunnel headers.
    #[arg(long = "frame", value_name = "BYTES", default_value_t = 64)]
    pub(crate) frame_bytes: usize,
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
}

impl PipelineCase {
    const ALL: [Self; 5] =
        [Self::Ipv4Routed, Self::Ipv6Routed, Self::VxlanEncap, Self::VxlanDecap, Self::NewFlow];

    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ipv4Routed => "ipv4-routed",
            Self::Ipv6Routed => "ipv6-routed",
            Self::VxlanEncap => "vxlan-encap",
            Self::VxlanDecap => "vxlan-decap",
            Self::NewFlow => "new-flow",
        }
    }

    /// The way of its packets.
    pub(crate) fn way(self) -> Way {
        match self {
            Self::Ipv4Routed | Self::NewFlow => Way::PodToPod,
            Self::Ipv6Routed => Way::PodToPodV6,
            Self::VxlanEncap => Way::Encap,
            Self::VxlanDecap => Way::Decap,
        }
    }
}

/// What was asked for cannot be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionsError {
    #[error("{flows} flows are not possible: at least {min}, at most {FLOWS_MAX}")]
    Flows { flows: u32, min: u32 },
    #[error("{case} cannot have such frames")]
    Frame {
        case: &'static str,
        #[source]
        source: perf::traffic::FrameSizeError,
    },
}

impl PipelineOptions {
    /// For one window of one case.
    pub(crate) fn one_window(frame_bytes: usize, seconds: f64) -> Self {
        let (cases, flows) = (Vec::new(), Vec::new());
        Self { cases, flows, frame_bytes, seconds, rounds: 1, cpu: None, json: None }
    }

    /// All cases with all numbers of flows.
    pub(crate) fn cases(&self) -> Result<Vec<(PipelineCase, u32)>, OptionsError> {
        let cases = if self.cases.is_empty() { &PipelineCase::ALL[..] } else { &self.cases };
        let mut all = Vec::new();
        for &case in cases {
            case.way()
                .check_frame_bytes(self.frame_bytes)
                .map_err(|source| OptionsError::Frame { case: case.name(), source })?;
            let min = if case == PipelineCase::NewFlow { NEW_FLOWS_MIN } else { 1 };
            let flows = if self.flows.is_empty() { &FLOWS[..] } else { &self.flows };
            let is_possible = |flows: &u32| (min..=FLOWS_MAX).contains(flows);
            // Where nobody asked for the two together, what is not possible is left out.
            let is_asked = !self.cases.is_empty() && !self.flows.is_empty();
            let impossible = flows.iter().find(|flows| !is_possible(flows));
            if let Some(&flows) =
                impossible.filter(|flows| is_asked || **flows >= min || **flows == 0)
            {
                return Err(OptionsError::Flows { flows, min });
            }
            all.extend(flows.iter().filter(|flows| is_possible(flows)).map(|flows| (case, *flows)));
        }
        Ok(all)
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
    use super::*;

    #[test]
    fn cases_are_called_alike_in_options_and_results() {
        for case in PipelineCase::ALL {
            let option = case.to_possible_value().unwrap();
            assert_eq!(option.get_name(), case.name());
        }
    }
}
