//! `vrouter-perf`: measures the engine and its parts, beside others that do the same.

mod allocations;
mod cli;
mod compare;
mod flood;
mod flowtable;
mod instructions;
mod interrupt;
mod pipeline;
mod pktgen;
mod plot;
mod policy;
mod report;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Pipeline(options) => pipeline::run(options).map(|()| ExitCode::SUCCESS),
        Command::Flowtable(options) => flowtable::run(options).map(|()| ExitCode::SUCCESS),
        Command::Flood(options) => flood::run(options).map(|()| ExitCode::SUCCESS),
        Command::Pktgen(options) => pktgen::run(options),
        Command::Compare(options) => compare::run(options).map(|()| ExitCode::SUCCESS),
        Command::Instructions(options) => instructions::run(options).map(|()| ExitCode::SUCCESS),
        Command::Policy(options) => policy::run(options).map(|()| ExitCode::SUCCESS),
        Command::Plot(options) => plot::run(options).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(
                *shell,
                &mut Cli::command(),
                "vrouter-perf",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vrouter-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}
