//! `vrouter`: the engine as a daemon.
//!
//! The library forwards; this binary reads the configuration, serves the programming interface on a
//! unix socket and the metrics over HTTP, and stops in order. Nothing here is on a packet's way.

mod cli;
mod daemon;
mod engine_thread;
mod host_check;
mod metrics;
mod node;
mod notify;
mod service;
mod settings;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::Cli,
    host_check::HostReport,
    settings::{DOCUMENTED, Settings, SettingsError},
};

/// The engine could not start, or had to give up.
const FAILED: u8 = 1;
/// The configuration is wrong; clap exits with the same code for a wrong command line.
const MISCONFIGURED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.print_config {
        return finish(print(DOCUMENTED));
    }
    let settings = match load(&cli) {
        Ok(settings) => settings,
        Err(error) => {
            let (path, _) = cli.config();
            eprintln!("vrouter: {}: {:#}", path.display(), anyhow::Error::new(error));
            return ExitCode::from(MISCONFIGURED);
        }
    };
    if cli.check {
        return finish(print(&format!("{} is right\n", cli.config().0.display())));
    }
    if cli.host.check_host {
        return check_host(&cli, &settings);
    }
    start_log(&settings);
    finish(daemon::run(&settings))
}

/// Prints what about this machine helps or hinders; a problem is a failure.
fn check_host(cli: &Cli, settings: &Settings) -> ExitCode {
    let report = HostReport::new(settings, cli.config().0, cli.host.uplink.clone());
    let text = if cli.host.json { report.to_json() } else { Ok(report.to_text()) };
    match text.map_err(anyhow::Error::from).and_then(|text| print(&text)) {
        Ok(()) if report.has_problem() => ExitCode::from(FAILED),
        printed => finish(printed),
    }
}

/// Logs to standard error, where a service manager takes it from.
fn start_log(settings: &Settings) {
    // `Settings::check` has parsed it already.
    let filter = EnvFilter::try_new(&settings.log).unwrap_or_default();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

/// The settings of the file, with those of the command line in their place.
fn load(cli: &Cli) -> Result<Settings, SettingsError> {
    let (path, must_exist) = cli.config();
    let mut settings = Settings::load(path, must_exist)?;
    cli.override_settings(&mut settings);
    settings.check()?;
    Ok(settings)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vrouter: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
