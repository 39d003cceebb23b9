//! The command line of `vrctl explain`.

use std::path::PathBuf;

use clap::Args;
use control::{cluster::Family, names::NodeName};

use super::question::{EndName, Protocol};

const EXAMPLES: &str = "\
Examples:
  vrctl explain --from shop/client --to shop/web --protocol TCP --port 80
      may this pod open that connection, and which policy and rule say so? The engine of this node answers for the
      end that is here
  vrctl explain --from shop/client --to shop/web --protocol TCP --port 80 --manifests DIR
      the same for both ends and without a node: by what the manifests say
  vrctl explain --from 203.0.113.7 --to shop/web --port 443 --manifests DIR
      the same for somebody outside the cluster
  vrctl explain --from shop/client --to shop/web --protocol ICMP --family 6 --manifests DIR
      ping, over IPv6
  vrctl explain --probes probes.json --manifests DIR --json | jq 'map(select(.verdict == \"deny\"))'
      many questions at once: which of them are denied?

A connection needs the consent of both ends: of the policies that isolate its source for egress, and of those that
isolate its destination for ingress. An end that no policy isolates consents to everything. Replies need no consent.
Each node judges its own pods: what the engine of this one does not judge is `unknown`.

FILE of --probes is a list of
  {\"from\": {\"pod\": \"ns/name\"} or {\"ip\": \"…\"}, \"to\": {…}, \"protocol\": \"TCP\", \"port\": 80, \"family\": 4}
An entry that cannot be answered gets {\"error\": \"…\"} in its place, the others their answers, and the exit code is 1.";

/// Options of `explain`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExplainOptions {
    /// Who opens the connection: namespace/pod or an address. An address of a pod stands for the
    /// pod.
    #[arg(
        long,
        value_name = "NS/POD|ADDRESS",
        required_unless_present = "probes",
        requires = "to"
    )]
    pub(crate) from: Option<EndName>,
    /// Who is to answer: namespace/pod or an address.
    #[arg(
        long,
        value_name = "NS/POD|ADDRESS",
        required_unless_present = "probes",
        requires = "from"
    )]
    pub(crate) to: Option<EndName>,
    /// TCP, UDP, SCTP or ICMP.
    #[arg(long, value_name = "PROTOCOL", default_value = "TCP")]
    pub(crate) protocol: Protocol,
    /// The destination port; ICMP has none.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Which addresses to use where a pod has both families: 4 or 6. 4 unless told otherwise.
    #[arg(long, value_name = "4|6", value_parser = parse_family)]
    pub(crate) family: Option<Family>,
    /// Answer the questions of a file instead, or of standard input: -
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["from", "to", "port", "family"])]
    pub(crate) probes: Option<PathBuf>,
    /// Judge by the manifests of this folder, as control reads it, and ask nobody. Without it the
    /// engine of this node is asked, for the pods that are here.
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,
    /// Take pods that are on no node yet to be on this one, and say what it judges. Each end is
    /// judged as its own node would in any case.
    #[arg(long, value_name = "NAME", value_parser = parse_node, requires = "manifests")]
    pub(crate) node: Option<NodeName>,
}

/// Why a family is refused.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("expected 4 or 6")]
struct ParseFamilyError;

fn parse_family(text: &str) -> Result<Family, ParseFamilyError> {
    match text {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err(ParseFamilyError),
    }
}

/// A node's name as it is.
///
/// # Errors
///
/// Never.
#[expect(clippy::unnecessary_wraps, reason = "clap wants a result")]
pub(crate) fn parse_node(name: &str) -> Result<NodeName, std::convert::Infallible> {
    Ok(NodeName::new(name))
}
