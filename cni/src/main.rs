//! `vrouter-cni`: what a container runtime calls. It asks `vrouter-control` and prints the answer.
//!
//! Everything that a verb does is done by control; this program keeps no state, takes no decision
//! and touches no interface. A verb that fails is undone by control, also if this program is killed
//! while it waits.
#![forbid(unsafe_code)]

use std::{
    env,
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
};

use control_api::node::CniRequest;

use crate::{ask::ask, network::Network, printed::Failure};

mod ask;
mod network;
mod printed;

/// The largest configuration that is read, in bytes. Real ones have some hundred.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

fn main() -> ExitCode {
    let outcome = run();
    let is_success = outcome.is_ok();
    let text = match outcome {
        Ok(text) => text,
        Err(failure) => failure.render(),
    };
    // A runtime that has closed its end hears the exit code.
    let printed = io::stdout().lock().write_all(&text);
    if is_success && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run() -> Result<Vec<u8>, Failure> {
    let command = variable("CNI_COMMAND");
    if command.is_empty() {
        return Err(Failure::environment(
            "CNI_COMMAND: missing: this is a CNI plugin, called by a container runtime, not by \
             hand; see docs/operations.md for its configuration",
        ));
    }
    let config = read_config()?;
    if command == "VERSION" {
        return Ok(printed::versions(&config));
    }
    let network = Network::parse(&config)?;
    let request = CniRequest {
        command,
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        ifname: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
        path: variable("CNI_PATH"),
        config,
    };
    ask(&network, request)
}

/// A variable of the environment; empty if it is not set. Control says which ones it misses.
fn variable(name: &str) -> String {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The configuration on standard input; nothing if a person is there.
fn read_config() -> Result<Vec<u8>, Failure> {
    let mut config = Vec::new();
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(config);
    }
    let read = stdin.lock().take(CONFIG_BYTES_MAX).read_to_end(&mut config);
    read.map(|_| config).map_err(|error| Failure::io("cannot read the configuration", &error))
}
