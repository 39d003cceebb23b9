//! What to compare.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use perf::peers::open_vswitch::Forwarding;

use crate::pipeline::options::PipelineCase;

/// Flows, unless told otherwise.
const FLOWS: [u32; 2] = [1, 10_000];
/// DPDK's file source keeps every frame of the file in packet memory of its own, and Open vSwitch
/// makes some 16,000 frames of it for a port.
const FLOWS_MAX: i64 = 10_000;

#[derive(Args, Debug)]
pub(crate) struct CompareOptions {
    /// Only this case; may be repeated.
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<CompareCase>,
    /// With so many flows, in random order; may be repeated. Default: 1 and 10,000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=FLOWS_MAX))]
    flows: Vec<u32>,
    /// The size of frames, without frame check sequence and tunnel headers.
    #[arg(long = "frame", value_name = "BYTES", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(60..=1514))]
    pub(crate) frame_bytes: u16,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 7,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// How long each is measured in a round.
    #[arg(long, value_name = "S", default_value_t = 0.5, value_parser = parse_seconds)]
    pub(crate) seconds: f64,
    /// The forwarding threads' CPU. Default: the last one that this process may use.
    #[arg(long, value_name = "CPU")]
    pub(crate) cpu: Option<usize>,
    /// Writes the results to a file, too; `-` is the standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl CompareOptions {
    /// The cases asked for.
    pub(crate) fn cases(&self) -> &[CompareCase] {
        if self.cases.is_empty() { &CompareCase::ALL } else { &self.cases }
    }

    /// The numbers of flows asked for.
    pub(crate) fn flows(&self) -> &[u32] {
        if self.flows.is_empty() { &FLOWS } else { &self.flows }
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("at least 0.05 s, at most a minute".into()),
    }
}

/// What is done with packets.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum CompareCase {
    /// Out of one port what comes in on another.
    Forward,
    /// Out through a VXLAN tunnel.
    VxlanEncap,
    /// Forwarded by the state of its connection, which is established.
    Conntrack,
    /// The same, out through a VXLAN tunnel.
    ConntrackVxlanEncap,
    /// From one veth to another: Linux's bridge beside our AF_XDP ports.
    VethForward,
    /// The same, out through a VXLAN tunnel.
    VethVxlanEncap,
}

impl CompareCase {
    const ALL: [Self; 6] = [
        Self::Forward,
        Self::VxlanEncap,
        Self::Conntrack,
        Self::ConntrackVxlanEncap,
        Self::VethForward,
        Self::VethVxlanEncap,
    ];

    /// Whether packets come in and leave on veths, and not from and to memory.
    pub(crate) fn is_veth(self) -> bool {
        matches!(self, Self::VethForward | Self::VethVxlanEncap)
    }

    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::VxlanEncap => "vxlan-encap",
            Self::Conntrack => "conntrack",
            Self::ConntrackVxlanEncap => "conntrack-vxlan-encap",
            Self::VethForward => "veth-forward",
            Self::VethVxlanEncap => "veth-vxlan-encap",
        }
    }

    /// What our engine does: it always tracks connections.
    pub(crate) fn ours(self) -> PipelineCase {
        match self {
            Self::Forward | Self::Conntrack | Self::VethForward => PipelineCase::Ipv4Routed,
            Self::VxlanEncap | Self::ConntrackVxlanEncap | Self::VethVxlanEncap => {
                PipelineCase::VxlanEncap
            }
        }
    }

    /// What Open vSwitch does.
    pub(crate) fn forwarding(self) -> Forwarding {
        Forwarding {
            is_tracked: matches!(self, Self::Conntrack | Self::ConntrackVxlanEncap),
            is_tunnelled: matches!(self, Self::VxlanEncap | Self::ConntrackVxlanEncap),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_called_alike_in_options_and_results() {
        for case in CompareCase::ALL {
            let option = case.to_possible_value().unwrap();
            assert_eq!(option.get_name(), case.name());
        }
    }
}
