//! `vrctl policy`: what another set of policies would do. Nothing is applied.

mod candidates;
mod diff;
mod options;
mod report;

use self::options::PolicyCommand;
pub(crate) use self::{diff::DiffFailure, options::PolicyOptions};
use crate::{exit::Failure, peer::Peers, print::Printer};

/// Carries out a command about policies.
///
/// # Errors
///
/// Fails if the manifests are broken or the engine cannot be asked; and if verdicts would change,
/// so that the exit code tells.
pub(crate) async fn run(
    options: &PolicyOptions,
    peers: &Peers,
    printer: &mut Printer,
) -> Result<(), Failure> {
    match &options.command {
        PolicyCommand::Diff(options) => diff::run(options, peers, printer).await,
    }
}
