//! What to compare.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use perf::peers::open_vswitch::Forwarding;

use super::pods::{Congestion, PodTraffic, What};
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
    /// From one vhost-user port to another, by the state of its connection, which is established.
    VhostConntrack,
    /// The same, out through a VXLAN tunnel.
    VhostConntrackVxlanEncap,
    /// Out through a VXLAN tunnel between vhost-user ports; the others look up no connection.
    VhostVxlanEncap,
    /// Out of a VXLAN tunnel, between vhost-user ports; the others look up no connection.
    VhostVxlanDecap,
    /// Back to the vhost-user port that it came from, MAC addresses exchanged: no pipeline.
    VhostMacswap,
    /// iperf3 from one pod to another of the node, one connection: beside the kernel's bridge.
    #[value(name = "pods-tcp-1")]
    PodsTcp1,
    /// The same, eight connections.
    #[value(name = "pods-tcp-8")]
    PodsTcp8,
    /// One connection that is paced by BBR.
    #[value(name = "pods-tcp-1-bbr")]
    PodsTcp1Bbr,
    /// Eight of them.
    #[value(name = "pods-tcp-8-bbr")]
    PodsTcp8Bbr,
    /// iperf3 to a pod of another node over VXLAN: beside the kernel's bridge and VXLAN device.
    #[value(name = "nodes-tcp-1")]
    NodesTcp1,
    /// The same, eight connections.
    #[value(name = "nodes-tcp-8")]
    NodesTcp8,
    /// To another node, one connection that is paced by BBR.
    #[value(name = "nodes-tcp-1-bbr")]
    NodesTcp1Bbr,
    /// Eight of them.
    #[value(name = "nodes-tcp-8-bbr")]
    NodesTcp8Bbr,
    /// Round trips of one byte over TCP from one pod to another of the node.
    PodsRoundTrips,
    /// Our engine with 250 TAP ports that nobody uses, beside none.
    IdleTaps,
}

impl CompareCase {
    const ALL: [Self; 21] = [
        Self::Forward,
        Self::VxlanEncap,
        Self::Conntrack,
        Self::ConntrackVxlanEncap,
        Self::VethForward,
        Self::VethVxlanEncap,
        Self::VhostConntrack,
        Self::VhostConntrackVxlanEncap,
        Self::VhostVxlanEncap,
        Self::VhostVxlanDecap,
        Self::VhostMacswap,
        Self::PodsTcp1,
        Self::PodsTcp8,
        Self::PodsTcp1Bbr,
        Self::PodsTcp8Bbr,
        Self::NodesTcp1,
        Self::NodesTcp8,
        Self::NodesTcp1Bbr,
        Self::NodesTcp8Bbr,
        Self::PodsRoundTrips,
        Self::IdleTaps,
    ];

    /// Whether packets come from and go to memory.
    pub(crate) fn is_memory(self) -> bool {
        !self.is_veth() && !self.is_vhost() && self.pod_traffic().is_none()
    }

    /// Whether packets come in and leave on vhost-user ports.
    pub(crate) fn is_vhost(self) -> bool {
        matches!(
            self,
            Self::VhostConntrack
                | Self::VhostConntrackVxlanEncap
                | Self::VhostVxlanEncap
                | Self::VhostVxlanDecap
                | Self::VhostMacswap
        )
    }

    /// Whether packets come in and leave on veths, and not from and to memory.
    pub(crate) fn is_veth(self) -> bool {
        matches!(self, Self::VethForward | Self::VethVxlanEncap)
    }

    /// What clients in pods do, if that is what is measured.
    pub(super) fn pod_traffic(self) -> Option<PodTraffic> {
        let bulk = |streams, congestion| What::Bulk { streams, congestion };
        let (is_across, what) = match self {
            Self::PodsTcp1 => (false, bulk(1, Congestion::Cubic)),
            Self::PodsTcp8 => (false, bulk(8, Congestion::Cubic)),
            Self::PodsTcp1Bbr => (false, bulk(1, Congestion::Bbr)),
            Self::PodsTcp8Bbr => (false, bulk(8, Congestion::Bbr)),
            Self::NodesTcp1 => (true, bulk(1, Congestion::Cubic)),
            Self::NodesTcp8 => (true, bulk(8, Congestion::Cubic)),
            Self::NodesTcp1Bbr => (true, bulk(1, Congestion::Bbr)),
            Self::NodesTcp8Bbr => (true, bulk(8, Congestion::Bbr)),
            Self::PodsRoundTrips => (false, What::RoundTrips),
            Self::IdleTaps => (false, What::Nothing),
            _ => return None,
        };
        Some(PodTraffic { is_across, what })
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
            Self::VhostConntrack => "vhost-conntrack",
            Self::VhostConntrackVxlanEncap => "vhost-conntrack-vxlan-encap",
            Self::VhostVxlanEncap => "vhost-vxlan-encap",
            Self::VhostVxlanDecap => "vhost-vxlan-decap",
            Self::VhostMacswap => "vhost-macswap",
            Self::PodsTcp1 => "pods-tcp-1",
            Self::PodsTcp8 => "pods-tcp-8",
            Self::PodsTcp1Bbr => "pods-tcp-1-bbr",
            Self::PodsTcp8Bbr => "pods-tcp-8-bbr",
            Self::NodesTcp1 => "nodes-tcp-1",
            Self::NodesTcp8 => "nodes-tcp-8",
            Self::NodesTcp1Bbr => "nodes-tcp-1-bbr",
            Self::NodesTcp8Bbr => "nodes-tcp-8-bbr",
            Self::PodsRoundTrips => "pods-round-trips",
            Self::IdleTaps => "idle-taps",
        }
    }

    /// What our engine does: it always tracks connections.
    pub(crate) fn ours(self) -> PipelineCase {
        match self {
            Self::VxlanEncap
            | Self::ConntrackVxlanEncap
            | Self::VethVxlanEncap
            | Self::VhostConntrackVxlanEncap
            | Self::VhostVxlanEncap => PipelineCase::VxlanEncap,
            Self::VhostVxlanDecap => PipelineCase::VxlanDecap,
            _ => PipelineCase::Ipv4Routed,
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
