//! A network namespace for a peer, so that it touches nothing of the machine's.

use std::{
    fs,
    path::Path,
    process::{self, Command},
};

use super::{PeerError, run};

/// What the names of all of ours begin with; the process number of their maker follows.
const PREFIX: &str = "vr-perf-";

/// A namespace with its loopback interface up. It is removed with this.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one, and removes those whose makers were killed.
    ///
    /// # Errors
    ///
    /// Fails without the privilege to.
    pub fn new(purpose: &str) -> Result<Self, PeerError> {
        remove_left_behind();
        let name = format!("{PREFIX}{}-{purpose}", process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it.
    ///
    /// # Errors
    ///
    /// Fails if the command does.
    pub fn ip(&self, arguments: &[&str]) -> Result<String, PeerError> {
        run(Command::new("ip").args(["-netns", &self.name]).args(arguments))
    }

    /// `program`, to be run in it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).output();
    }
}

fn remove_left_behind() {
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(maker) = maker
            && !Path::new("/proc").join(maker).exists()
        {
            let _ = Command::new("ip").args(["netns", "delete", &name]).output();
        }
    }
}
