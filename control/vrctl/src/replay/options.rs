//! The command line of `vrctl replay`.

use std::{convert::Infallible, path::PathBuf, str::FromStr};

use clap::Args;
use control::names::NodeName;

const EXAMPLES: &str = "\
Examples:
  vrctl replay --manifests DIR --node node-a --ports
      the node's ports with the MAC and IP addresses that frames need
  vrctl replay --manifests DIR --node node-a --in default/web=web.pcap --out OUT
      what the node does with the frames of one pod: OUT/uplink.pcap, OUT/drops.json, …
  vrctl replay --manifests DIR --node node-b --in uplink=OUT/uplink.pcap --out OUT2
      and what the other node does with what the first one sent

Frames go in by their times, and leave at the time of the frame that they were sent for. MAC addresses follow from IP
addresses, and all nodes are neighbours on the underlay, so the same input makes the same output, byte for byte.";

/// Options of `replay`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ReplayOptions {
    /// The folder with the cluster's manifests, as control reads it.
    #[arg(long, value_name = "DIR")]
    pub(crate) manifests: PathBuf,
    /// The node whose engine is replayed. Its pods are ports with the addresses of status.podIPs.
    #[arg(long, value_name = "NAME", value_parser = parse_node)]
    pub(crate) node: NodeName,
    /// Frames that come in on a port: namespace/pod, uplink or host. Once for each port.
    #[arg(long = "in", value_name = "PORT=FILE", required_unless_present = "ports")]
    pub(crate) inputs: Vec<PortFile>,
    /// Where to write PORT.pcap for each port that sent, drops.json and summary.json.
    #[arg(long, value_name = "DIR", required_unless_present = "ports")]
    pub(crate) out: Option<PathBuf>,
    /// List the node's ports with their addresses instead, and replay nothing.
    #[arg(long)]
    pub(crate) ports: bool,
}

#[expect(clippy::unnecessary_wraps, reason = "clap wants a result")]
fn parse_node(name: &str) -> Result<NodeName, Infallible> {
    Ok(NodeName::new(name))
}

/// A port and a capture file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PortFile {
    pub(crate) port: String,
    pub(crate) file: PathBuf,
}

/// Why an input is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected PORT=FILE, such as default/web=web.pcap or uplink=uplink.pcap")]
pub(crate) struct ParsePortFileError;

impl FromStr for PortFile {
    type Err = ParsePortFileError;

    fn from_str(text: &str) -> Result<Self, ParsePortFileError> {
        match text.split_once('=') {
            Some((port, file)) if !port.is_empty() && !file.is_empty() => {
                Ok(Self { port: port.to_owned(), file: PathBuf::from(file) })
            }
            _ => Err(ParsePortFileError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_a_port_and_a_file() {
        let input: PortFile = "ns/pod=a=b.pcap".parse().unwrap();
        assert_eq!((input.port.as_str(), input.file), ("ns/pod", PathBuf::from("a=b.pcap")));
        for text in ["ns/pod", "=x.pcap", "uplink="] {
            assert_eq!(text.parse::<PortFile>(), Err(ParsePortFileError));
        }
    }
}
