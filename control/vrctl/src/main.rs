//! `vrctl`: the operator's tool for the engine and for control.
//!
//! A command asks one of the two over its socket, or runs offline (`explain`, `replay`,
//! `completions`), and prints a table for people or JSON for programs. It changes nothing on the
//! node.
#![forbid(unsafe_code)]

mod address;
mod attachments;
mod cli;
#[cfg(test)]
mod documented;
mod drops;
mod exit;
mod explain;
mod flows;
mod limit;
mod manifests;
mod neighbours;
mod peer;
mod policy;
mod ports;
mod print;
mod replay;
mod routes;
mod status;
mod table;
mod traffic;
mod tunnels;
mod units;
mod watch;
mod workers;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::{
    cli::{Cli, Command},
    exit::Failure,
    peer::Peers,
    print::Printer,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit::report(&failure),
    }
}

/// Carries out the command on one thread: it waits for one peer at a time.
fn run(cli: Cli) -> Result<(), Failure> {
    let mut printer = Printer::to_stdout(cli.output.json);
    let peers = Peers::new(cli.peers);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    runtime.block_on(async {
        match cli.command {
            Command::Ports(options) => ports::run(&options, &peers, &mut printer).await,
            Command::Routes(options) => routes::run(&options, &peers, &mut printer).await,
            Command::Neighbours => neighbours::run(&peers, &mut printer).await,
            Command::Tunnels(options) => tunnels::run(&options, &peers, &mut printer).await,
            Command::Flows(options) => flows::run(&options, &peers, &mut printer).await,
            Command::Drops(options) => drops::run(&options, &peers, &mut printer).await,
            Command::Workers(options) => workers::run(&options, &peers, &mut printer).await,
            Command::Status => status::run(&peers, &mut printer).await,
            Command::Attachments => attachments::run(&peers, &mut printer).await,
            Command::Explain(options) => explain::run(&options, &peers, &mut printer).await,
            Command::Policy(options) => policy::run(&options, &peers, &mut printer).await,
            Command::Replay(options) => replay::run(&options, &mut printer),
            Command::Completions { shell } => {
                let mut command = Cli::command();
                printer.raw(|out| clap_complete::generate(shell, &mut command, "vrctl", out))
            }
        }
    })
}
