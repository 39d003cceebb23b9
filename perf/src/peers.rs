//! Others that do the same, as programs of their own: compiled or started on demand, and left out,
//! with the reason, where they are not installed.

mod background;
mod compile;
pub mod iperf3;
mod line_process;
mod namespace;
pub mod open_vswitch;
pub mod rte_hash;
pub mod sketch;
pub mod testpmd;

use std::{fs, io, path::PathBuf, process::Command};

use crate::huge_pages::ReserveError;

pub use background::Background;
pub use compile::{Program, compile};
pub use line_process::LineProcess;
pub use namespace::Namespace;

/// Why a peer is not in a measurement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum PeerError {
    #[error("{package} is not installed")]
    NotInstalled { package: &'static str },

    #[error("{} does not exist", path.display())]
    NoSource { path: PathBuf },

    #[error("{program} cannot be run; is it installed?")]
    Run {
        program: String,
        #[source]
        source: io::Error,
    },

    #[error("{} cannot be written", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("{name} does not compile: {message}")]
    Compile { name: String, message: String },

    #[error("{command} failed: {message}")]
    Failed { command: String, message: String },

    #[error(transparent)]
    HugePages(#[from] ReserveError),

    #[error(
        "{program} received {received} packets and sent {sent}, {new} of them as ones of new \
         connections: not what is measured here"
    )]
    Traffic { program: &'static str, received: u64, sent: u64, new: u64 },

    #[error("{program} had no {what} after 30 s")]
    Waited { program: &'static str, what: &'static str },

    #[error("{program} ended early; what it said is above, if anything")]
    Ended { program: String },

    #[error("{program} answered {answer:?}, which is not understood")]
    Answer { program: String, answer: String },
}

impl PeerError {
    /// Whether the peer, or what it takes, is simply not there.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::NotInstalled { .. }
                | Self::NoSource { .. }
                | Self::Run { .. }
                | Self::HugePages(_)
        )
    }
}

/// Runs a command to its end; returns what it printed.
///
/// # Errors
///
/// Fails if it does, with what it said.
pub fn run(command: &mut Command) -> Result<String, PeerError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|source| PeerError::Run { program, source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(PeerError::Failed { command: words.join(" "), message })
}

/// What a dataplane did while it was watched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Window {
    /// Packets that came in, all of which went out.
    pub packets: u64,
    /// Cycles of the time-stamp counter that passed.
    pub cycles: u64,
    /// How often its thread was taken off its CPU.
    pub preemptions: u64,
}

/// How often a process was taken off its CPU so far: its first thread. Zero once it is gone.
#[must_use]
pub fn preemptions(process: u32) -> u64 {
    preemptions_in(&format!("/proc/{process}/status"))
}

/// The same, of those of its threads whose names begin so.
#[must_use]
pub fn thread_preemptions(process: u32, name: &str) -> u64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    threads
        .map(|thread| thread.path())
        .filter(|path| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.starts_with(name))
        })
        .map(|path| preemptions_in(&path.join("status").to_string_lossy()))
        .sum()
}

fn preemptions_in(status: &str) -> u64 {
    let status = fs::read_to_string(status).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
