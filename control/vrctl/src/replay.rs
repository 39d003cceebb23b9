//! `vrctl replay`: the node's pipeline over capture files. Offline, unprivileged, and the same
//! output for the same input.
//!
//! The manifests are compiled by the code that control runs, the frames are forwarded by the code
//! that the engine's workers run. Here is only what is around them: files and their names.

mod options;
mod report;
mod write;

use control::{
    compile::{
        CompileError,
        replay::{ReplayPort, replay_objects, replay_ports},
    },
    manifests::ManifestError,
    names::NodeName,
};
use vrouter::{
    port::pcap::file::{self, ReadPcapError},
    replay::{ReplayError, ReplayInput, replay},
};

use self::{
    options::PortFile,
    report::{PortRow, Summary},
};
pub(crate) use self::{options::ReplayOptions, write::WriteError};
use crate::{exit::Failure, manifests::Manifests, print::Printer};

/// Why frames could not be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReplayFailure {
    #[error("the manifests cannot be replayed")]
    Manifest(#[source] ManifestError),

    #[error("the node cannot be replayed")]
    Compile(#[from] CompileError),

    #[error("node {node} has no port {port}; its ports are {known}")]
    NoSuchPort { node: NodeName, port: String, known: String },

    #[error("port {port} has two inputs; merge them with `mergecap -F nsecpcap`")]
    TwoInputs { port: String },

    #[error(transparent)]
    Read(#[from] ReadPcapError),

    #[error("the engine refused to replay")]
    Replay(#[from] ReplayError),

    #[error(transparent)]
    Write(#[from] WriteError),
}

impl ReplayFailure {
    /// Whether the command line is at fault, and not a file.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::NoSuchPort { .. } | Self::TwoInputs { .. })
            || matches!(self, Self::Compile(CompileError::NoSuchNode { .. }))
    }
}

/// Replays, or lists the ports that there are to be replayed.
///
/// # Errors
///
/// Fails if a manifest or a capture file is broken, the node or a port does not exist, or the
/// output cannot be written.
pub(crate) fn run(options: &ReplayOptions, printer: &mut Printer) -> Result<(), Failure> {
    let manifests = Manifests::load(&options.manifests).map_err(ReplayFailure::Manifest)?;
    let cluster = manifests.cluster;
    let ports = replay_ports(&cluster, &options.node).map_err(ReplayFailure::from)?;
    if options.ports {
        return printer.list(&ports.into_iter().map(PortRow::from).collect::<Vec<_>>());
    }
    check_ports(options, &ports)?;
    let inputs = options.inputs.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let objects = replay_objects(&cluster, &options.node).map_err(ReplayFailure::from)?;
    let output = replay(objects, &inputs).map_err(ReplayFailure::from)?;
    drop(inputs);
    let names: Vec<_> = ports.iter().map(|port| port.port.as_str()).collect();
    let summary = Summary::from(&output.summary);
    if let Some(folder) = &options.out {
        write::write(folder, &names, &output, &summary).map_err(ReplayFailure::from)?;
    }
    if printer.is_json() {
        printer.object(&summary)
    } else {
        printer.text(summary.to_text().trim_end())
    }
}

fn check_ports(options: &ReplayOptions, ports: &[ReplayPort]) -> Result<(), ReplayFailure> {
    for (position, input) in options.inputs.iter().enumerate() {
        if !ports.iter().any(|port| port.port == input.port) {
            let known: Vec<_> = ports.iter().map(|port| port.port.as_str()).collect();
            return Err(ReplayFailure::NoSuchPort {
                node: options.node.clone(),
                port: input.port.clone(),
                known: known.join(", "),
            });
        }
        if options.inputs.iter().take(position).any(|other| other.port == input.port) {
            return Err(ReplayFailure::TwoInputs { port: input.port.clone() });
        }
    }
    Ok(())
}

fn read(input: &PortFile) -> Result<ReplayInput, ReplayFailure> {
    Ok(ReplayInput { port: input.port.clone(), frames: file::read(&input.file)? })
}
