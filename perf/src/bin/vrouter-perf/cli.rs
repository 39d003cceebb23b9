//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{
    compare::options::CompareOptions, flood::FloodOptions, instructions::InstructionsOptions,
    pipeline::options::PipelineOptions, pktgen::PktgenOptions, plot::PlotOptions,
    policy::PolicyOptions,
};

const AFTER_HELP: &str = "\
Figures depend on the machine: compare those of one run with each other, not with another run's.
Contenders take turns, so that a machine that changes its speed changes it for all of them.

Examples:
  vrouter-perf flowtable                             every case, 64 Ki and 1 Mi flows
  vrouter-perf flowtable --case lookup-hit --json hits.json
  vrouter-perf flowtable --cpu 1 --rounds 21         pinned, with more rounds for the median
  vrouter-perf pipeline --case ipv4-routed --flows 10000
  vrouter-perf pipeline --cpu 1 --seconds 5 --json pipeline.json
  vrouter-perf compare --case conntrack --flows 10000";

/// Measures vrouter and its parts, beside others that do the same.
#[derive(Debug, Parser)]
#[command(name = "vrouter-perf", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The flow table beside concurrent maps and DPDK's hash table.
    Flowtable(FlowtableOptions),
    /// The engine's worker, from a source in memory to a sink: cycles a packet.
    Pipeline(PipelineOptions),
    /// Judging a connection by policy, and taking over a change of it.
    Policy(PolicyOptions),
    /// First packets of ten times as many connections as the flow table holds: what one costs, and
    /// what they cost established connections.
    Flood(FloodOptions),
    /// A generator and a sink: loss, order and latency at a rate.
    Pktgen(Box<PktgenOptions>),
    /// The engine beside Open vSwitch with DPDK and other dataplanes, in turns.
    Compare(CompareOptions),
    /// A piece of work that is always the same, for `scripts/bench --gate` to count instructions of.
    #[command(hide = true)]
    Instructions(InstructionsOptions),
    /// A document with charts, of what other commands measured.
    Plot(PlotOptions),
    /// Prints completions for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

#[derive(Args, Debug)]
pub(crate) struct FlowtableOptions {
    /// Only this case; may be repeated.
    #[arg(long = "case", value_name = "NAME")]
    pub(crate) cases: Vec<Case>,
    /// With so many flows, each one direction of a connection; may be repeated.
    #[arg(long, value_name = "N", default_values_t = [1 << 16, 1 << 20],
          value_parser = clap::value_parser!(u32).range(1024..=1 << 24))]
    pub(crate) flows: Vec<u32>,
    /// Only this table; may be repeated.
    #[arg(long = "table", value_name = "NAME")]
    pub(crate) tables: Vec<String>,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 11,
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Pins the measuring thread to this CPU.
    #[arg(long, value_name = "CPU")]
    pub(crate) cpu: Option<usize>,
    /// A C program that sketches the limit of a lookup; without it, it is left out.
    #[arg(long, value_name = "FILE.c", default_value = "../shared/lab/flow_lookup_sketch.c")]
    pub(crate) sketch: PathBuf,
    /// Writes the results to a file, too; `-` is the standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Case {
    /// Random keys that are there, in bursts of 64; half of the slots taken.
    LookupHit,
    /// Random keys that are not there; 85 % of the slots taken.
    LookupMiss,
    /// Connections, both directions each, into a table that is half full; the time is one pair's.
    InsertPair,
    /// Hits while another thread inserts and removes 500,000 connections a second.
    LookupUnderChurn,
}

impl Case {
    pub(crate) const ALL: [Self; 4] =
        [Self::LookupHit, Self::LookupMiss, Self::InsertPair, Self::LookupUnderChurn];

    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LookupHit => "lookup-hit",
            Self::LookupMiss => "lookup-miss",
            Self::InsertPair => "insert-pair",
            Self::LookupUnderChurn => "lookup-under-churn",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn prepared_frames_take_one_port_or_two() {
        let ports = ["--port", "vhost-user-client=/a", "--port", "vhost-user-client=/b"];
        for count in [2, 4] {
            let words = ["vrouter-perf", "pktgen"].iter().chain(&ports[..count]);
            let cli = Cli::try_parse_from(words).unwrap();
            let Command::Pktgen(options) = cli.command else { panic!("{:?}", cli.command) };
            assert_eq!(options.prepared.len(), count / 2);
        }
        let words = ["vrouter-perf", "pktgen", "--tx", "memory"].iter().chain(&ports);
        assert!(Cli::try_parse_from(words).is_err());
    }

    #[test]
    fn cases_are_called_alike_in_options_and_results() {
        for case in Case::ALL {
            let option = case.to_possible_value().unwrap();
            assert_eq!(option.get_name(), case.name());
        }
    }
}
