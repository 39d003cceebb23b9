//! The command line: what can be asked, and the help that teaches it.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use control_api::connect::{CONTROL_SOCKET, ENGINE_SOCKET};

use crate::{
    explain::ExplainOptions, flows::Protocol, limit::Limit, policy::PolicyOptions,
    replay::ReplayOptions, watch::Watch,
};

const EXAMPLES: &str = "\
Examples:
  vrctl status                            is the node healthy, and if not, what to do
  vrctl ports                             every port, its state and counters
  vrctl routes --get 10.244.2.7           the route that a packet to this address takes
  vrctl flows --pod default/web           the connections of one pod
  vrctl drops --watch                     what is being dropped now, and why
  vrctl drops --trace                     which packets were dropped lately
  vrctl explain --from shop/client --to shop/web --port 80
                                          may it, and which policy and rule say so
  vrctl policy diff --manifests DIR       which verdicts would change by these manifests
  vrctl ports --json | jq '.[].name'      the same for programs

Exit codes:
  0  done
  1  the peer answered with an error, or an input file is bad
  2  the command line is wrong
  3  the engine or control cannot be reached
  4  `policy diff`: verdicts would change

Fields of the JSON output: docs/vrctl.md.";

/// Shows what the vrouter engine and its control process are doing on this node.
#[derive(Debug, Parser)]
#[command(name = "vrctl", version, after_help = EXAMPLES, infer_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) peers: PeerOptions,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

/// Where the engine and control are.
#[derive(Args, Clone, Debug)]
pub(crate) struct PeerOptions {
    /// The engine's socket.
    #[arg(long, global = true, value_name = "PATH", default_value = ENGINE_SOCKET,
          env = "VROUTER_ENGINE_SOCKET")]
    pub(crate) socket: PathBuf,
    /// The control process's socket.
    #[arg(long, global = true, value_name = "PATH", default_value = CONTROL_SOCKET,
          env = "VROUTER_CONTROL_SOCKET")]
    pub(crate) control_socket: PathBuf,
    /// How long to wait for an answer, in seconds.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
}

/// How the answer is printed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputOptions {
    /// Print JSON for programs; its field names are stable. With --watch one document a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What is asked.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ports: name, state, backend, addresses and counters.
    Ports(WatchOptions),
    /// Routes of the forwarding table, or the one that an address takes.
    Routes(RouteOptions),
    /// Next hops of the underlay and pods: addresses, MAC addresses and whether they are resolved.
    #[command(alias = "neighbors")]
    Neighbours,
    /// Tunnels to other nodes: endpoints, state and counters.
    Tunnels(WatchOptions),
    /// Connections in the flow table.
    Flows(FlowOptions),
    /// Dropped packets by reason, and by port if asked.
    Drops(DropOptions),
    /// Workers: CPU, busy share, packets a burst, configuration version.
    Workers(WorkerOptions),
    /// Health of the engine and control together; works when one of them is away.
    Status,
    /// What control has attached: container, interface, pod, addresses.
    Attachments,
    /// May this pod open a connection to that one? The verdict of network policy in each direction,
    /// and the policy and rule that it comes from.
    Explain(ExplainOptions),
    /// What other policies would do, before anything does.
    Policy(PolicyOptions),
    /// Run a node's pipeline over capture files: offline, unprivileged, the same output for the
    /// same input.
    Replay(ReplayOptions),
    /// Print a completion script for a shell, such as: vrctl completions bash
    Completions {
        /// The shell to print it for.
        shell: Shell,
    },
}

/// Options of a command that can be repeated.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WatchOptions {
    /// Show rates, again and again, every so many seconds.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    pub(crate) watch: Option<Watch>,
    /// Stop after this many rounds.
    #[arg(long, value_name = "ROUNDS", requires = "watch")]
    pub(crate) count: Option<u64>,
}

/// Options of `workers`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WorkerOptions {
    #[command(flatten)]
    pub(crate) watch: WatchOptions,
    /// Show what each stage of their work takes, in cycles a packet. Measured on one burst of 64; the
    /// cycles are those of the time-stamp counter.
    #[arg(long)]
    pub(crate) stages: bool,
}

/// Options of `routes`.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct RouteOptions {
    /// Only routes of this VRF.
    #[arg(long, value_name = "ID")]
    pub(crate) vrf: Option<u32>,
    /// Only the route that this address takes.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) get: Option<IpAddr>,
    /// At most this many routes; 0 for all.
    #[arg(long, value_name = "ROUTES", default_value = ROWS_DEFAULT)]
    pub(crate) limit: Limit,
}

/// Options of `flows`.
#[derive(Args, Clone, Debug)]
pub(crate) struct FlowOptions {
    /// Only connections with this address at either end.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Option<IpAddr>,
    /// Only connections with this layer-4 port at either end.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Only connections of this pod: namespace/name, or namespace/name/interface.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) pod: Option<String>,
    /// Only connections of this protocol: tcp, udp, icmp, icmpv6, sctp or a number.
    #[arg(long, value_name = "PROTOCOL")]
    pub(crate) protocol: Option<Protocol>,
    /// At most this many connections; 0 for all.
    #[arg(long, value_name = "CONNECTIONS", default_value = ROWS_DEFAULT)]
    pub(crate) limit: Limit,
}

/// Options of `drops`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DropOptions {
    /// Show reasons that have no drop yet, too.
    #[arg(long)]
    pub(crate) all: bool,
    /// One row per reason and ingress port.
    #[arg(long)]
    pub(crate) by_port: bool,
    /// Show examples of dropped packets instead, the newest first: what came from where, and what
    /// was wrong with it.
    #[arg(long, conflicts_with_all = ["all", "by_port", "watch"])]
    pub(crate) trace: bool,
    /// With --trace, only packets that came in on this port.
    #[arg(long, value_name = "PORT", requires = "trace")]
    pub(crate) port: Option<String>,
    /// With --trace, only packets that were dropped for this reason.
    #[arg(long, value_name = "REASON", requires = "trace")]
    pub(crate) reason: Option<String>,
    /// With --trace, at most this many packets; 0 for all that are kept.
    #[arg(long, value_name = "PACKETS", requires = "trace", default_value = "20")]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) watch: WatchOptions,
}

/// Rows of the long lists unless told otherwise: a screenful of scrolling, not a million routes.
const ROWS_DEFAULT: &str = "1000";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_option_and_command_has_a_help_text() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.len() > 10, "{} {}", command.get_name(), argument.get_id());
            }
            // clap's own `help` takes commands as arguments and has no text for them.
            for subcommand in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                assert!(subcommand.get_about().is_some(), "{}", subcommand.get_name());
                check(subcommand);
            }
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
    }

    #[test]
    fn watch_takes_an_optional_interval() {
        let parse = |arguments: &[&str]| Cli::try_parse_from(arguments);
        assert!(parse(&["vrctl", "drops", "--watch"]).is_ok());
        assert!(parse(&["vrctl", "drops", "--watch", "0.5"]).is_ok());
        assert!(parse(&["vrctl", "drops", "--watch", "0"]).is_err());
        assert!(parse(&["vrctl", "drops", "--watch", "nan"]).is_err());
        assert!(parse(&["vrctl", "drops", "--count", "3"]).is_err(), "only with --watch");
    }
}
