//! The command line of `vrctl policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use control::names::NodeName;

use crate::explain::parse_node;

const EXAMPLES: &str = "\
Examples:
  vrctl policy diff --manifests PROPOSED
      whom would these manifests cut off, and to whom would they open? Of the engine's connections, and of new ones
  vrctl policy diff --manifests PROPOSED --from-manifests NOW
      the same between two folders, without a node
  vrctl policy diff --manifests PROPOSED --json | jq '.changes[] | select(.after == \"deny\")'
      only what would be denied

PROPOSED is a whole cluster, as control would read it: nodes, namespaces, pods and policies. A pod that is attached and has
no manifest there has no labels, as on the node.

Exit codes, besides those of every command:
  0  no verdict would change
  4  verdicts would change";

/// Options of `policy`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PolicyOptions {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

/// What is asked about policies.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Which verdicts would change if these manifests were in force? Of present connections and of
    /// new ones. Nothing is applied.
    Diff(DiffOptions),
}

/// Options of `policy diff`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DiffOptions {
    /// The folder with the proposed manifests.
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: PathBuf,
    /// Compare with the manifests of this folder instead of the engine of this node.
    #[arg(long, value_name = "DIR")]
    pub(crate) from_manifests: Option<PathBuf>,
    /// Take pods that are on no node yet to be on this one; with --from-manifests try only
    /// connections of this node's pods.
    #[arg(long, value_name = "NAME", value_parser = parse_node)]
    pub(crate) node: Option<NodeName>,
}
