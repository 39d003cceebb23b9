//! Programs that run beside the measurement, and are paused while it is not their turn.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::PeerError;

/// How long a program may take to end when asked to.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// How often to look whether it has.
const END_POLL: Duration = Duration::from_millis(10);
/// Lines of a log that are told when a program failed.
const LOG_LINES: usize = 8;

/// A running program. It ends with this, and with this process, however that ends.
#[derive(Debug)]
pub struct Background {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Background {
    /// Starts `command` on one CPU; what it says goes to `log`.
    ///
    /// An interrupt from the terminal does not reach it: it is ours to end it.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn start(name: &str, command: &Command, cpu: usize, log: &Path) -> Result<Self, PeerError> {
        Self::start_on(name, command, &[cpu], log)
    }

    /// As [`Self::start`], on several CPUs.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be started.
    pub fn start_on(
        name: &str,
        command: &Command,
        cpus: &[usize],
        log: &Path,
    ) -> Result<Self, PeerError> {
        let failed = |source| PeerError::Run { program: name.to_owned(), source };
        let output = File::create(log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        let child = bound_to(command, cpus)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops it from running until it is resumed.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it run again.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it still runs.
    ///
    /// # Errors
    ///
    /// Fails if it does not, with the end of its log.
    pub fn check(&mut self) -> Result<(), PeerError> {
        if matches!(self.child.try_wait(), Ok(None)) {
            return Ok(());
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
        Err(PeerError::Failed { command: self.name.clone(), message: last.join("\n") })
    }

    fn signal(&self, signal: Signal) {
        let process = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(process) = process {
            // It is our child and not waited for yet: the number is still its own.
            let _ = kill_process(process, signal);
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        self.signal(Signal::TERM);
        self.resume();
        let start = Instant::now();
        while !self.has_ended() && start.elapsed() < END_PATIENCE {
            thread::sleep(END_POLL);
        }
        let _ = self.child.kill();
        let _: io::Result<_> = self.child.wait();
    }
}

/// The command on one CPU, in a process group of its own, killed when the calling thread ends.
pub(super) fn bound(command: &Command, cpu: usize) -> Command {
    bound_to(command, &[cpu])
}

/// As [`bound`], on several CPUs.
pub(super) fn bound_to(command: &Command, cpus: &[usize]) -> Command {
    let list: Vec<String> = cpus.iter().map(usize::to_string).collect();
    let mut bound = Command::new("setpriv");
    bound.args(["--pdeathsig", "KILL", "taskset", "--cpu-list", &list.join(",")]);
    bound.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            bound.env(name, value);
        }
    }
    bound.process_group(0);
    bound
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::machine::choose_cpu;

    fn state(process: u32) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    #[test]
    fn a_paused_program_stands_still_and_ends_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let cpu = choose_cpu(None).unwrap();
        let mut sleeper =
            Background::start("sleep", &command, cpu, &folder.path().join("log")).unwrap();
        let id = sleeper.id();
        sleeper.check().unwrap();
        sleeper.pause();
        while state(id) != Some('T') {
            thread::yield_now();
        }
        drop(sleeper);
        assert_eq!(state(id), None);
    }

    #[test]
    fn what_a_program_said_is_told_when_it_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no memory; exit 1"]);
        let cpu = choose_cpu(None).unwrap();
        let mut ended = Background::start("sh", &command, cpu, &folder.path().join("log")).unwrap();
        let error = loop {
            if let Err(error) = ended.check() {
                break error.to_string();
            }
        };
        assert_eq!(error, "sh failed: no memory");
    }
}
