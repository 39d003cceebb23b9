//! Others that do the same, as programs of their own: compiled or started on demand, and left out,
//! with the reason, where they are not installed.

mod compile;
mod line_process;
pub mod rte_hash;
pub mod sketch;

use std::{fs, io, path::PathBuf};

pub use compile::{Program, compile};
pub use line_process::LineProcess;

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

    #[error("{program} ended early; what it said is above, if anything")]
    Ended { program: String },

    #[error("{program} answered {answer:?}, which is not understood")]
    Answer { program: String, answer: String },
}

/// How often a process was taken off its CPU so far: its first thread. Zero once it is gone.
#[must_use]
pub fn preemptions(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}
