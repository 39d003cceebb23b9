//! Exit codes, and the last words on standard error.

use std::{error::Error, io, process::ExitCode};

use control_api::connect::{ConnectError, HandshakeError};

use crate::{explain::ExplainFailure, policy::DiffFailure, replay::ReplayFailure};

/// The peer answered with an error, or an input is bad.
pub(crate) const ERROR: u8 = 1;
/// The command line is wrong. clap exits with the same code by itself.
pub(crate) const USAGE: u8 = 2;
/// The engine or control cannot be reached.
pub(crate) const UNREACHABLE: u8 = 3;
/// Verdicts of policy would change.
pub(crate) const WOULD_CHANGE: u8 = 4;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Failure {
    #[error("{peer} cannot be reached; look at it with `systemctl status {unit}`")]
    Unreachable {
        peer: &'static str,
        unit: &'static str,
        #[source]
        source: ConnectError,
    },

    #[error("the engine and vrctl do not fit together")]
    Handshake(#[source] HandshakeError),

    #[error("{peer} went away while it answered; look at it with `systemctl status {unit}`")]
    Gone {
        peer: &'static str,
        unit: &'static str,
        #[source]
        source: Box<tonic::Status>,
    },

    #[error("{peer} refused: {}", status.message())]
    Refused { peer: &'static str, status: Box<tonic::Status> },

    #[error("no answer from {peer} within {seconds} s; `--timeout` waits longer")]
    Timeout { peer: &'static str, seconds: u64 },

    #[error("no route to {address}{vrf}", vrf = vrf.map_or(String::new(), |vrf| format!(" in VRF {vrf}")))]
    NoRoute { address: std::net::IpAddr, vrf: Option<u32> },

    #[error(transparent)]
    Replay(#[from] ReplayFailure),

    #[error(transparent)]
    Explain(#[from] ExplainFailure),

    #[error(transparent)]
    Diff(#[from] DiffFailure),

    #[error("cannot write to standard output")]
    Output(#[source] io::Error),

    #[error("cannot start the runtime that talks to the sockets")]
    Runtime(#[source] io::Error),
}

impl Failure {
    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Unreachable { .. }
            | Self::Gone { .. }
            | Self::Timeout { .. }
            | Self::Handshake(HandshakeError::Timeout { .. }) => UNREACHABLE,
            Self::Replay(failure) if failure.is_usage() => USAGE,
            Self::Explain(failure) if failure.is_usage() => USAGE,
            Self::Diff(DiffFailure::WouldChange { .. }) => WOULD_CHANGE,
            Self::Handshake(_)
            | Self::Replay(_)
            | Self::Explain(_)
            | Self::Refused { .. }
            | Self::NoRoute { .. }
            | Self::Output(_)
            | Self::Runtime(_) => ERROR,
        }
    }
}

/// Says on standard error what went wrong, with its causes, and gives the exit code.
///
/// A reader that has seen enough (`vrctl flows | head`) is no failure.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    if let Failure::Output(error) = failure
        && error.kind() == io::ErrorKind::BrokenPipe
    {
        return ExitCode::SUCCESS;
    }
    eprintln!("vrctl: {}", chain(failure));
    ExitCode::from(failure.exit_code())
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
