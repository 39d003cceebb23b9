//! What a measurement ran on, and what disturbed it.

use std::{fs, thread};

use serde::{Deserialize, Serialize};

/// The machine, as far as figures depend on it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu_model: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Processes that wanted to run in the last minute, on average, before the measurement.
    pub load_average: f64,
    /// Free huge pages of 2 MiB.
    pub huge_pages_free: u64,
}

impl Machine {
    /// This machine, now.
    #[must_use]
    pub fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let huge_pages = read("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        Self {
            cpu_model: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: first_number(&read("/proc/loadavg")),
            huge_pages_free: huge_pages.trim().parse().unwrap_or(0),
        }
    }
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Why a thread could not be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is none, or this process may not use it.
    #[error("CPU {cpu} is not to be had; this process may use {}", list(.usable))]
    NoSuchCpu {
        /// What was asked for.
        cpu: usize,
        /// What there is.
        usable: Vec<usize>,
    },
    /// The kernel refused.
    #[error("cannot pin a thread to CPU {0}")]
    Refused(usize),
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
///
/// Fails if there is no such CPU, or this process may not use it.
pub fn pin(cpu: usize) -> Result<(), PinError> {
    let usable = usable_cpus();
    if !usable.contains(&cpu) {
        return Err(PinError::NoSuchCpu { cpu, usable });
    }
    let is_pinned = core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    if is_pinned { Ok(()) } else { Err(PinError::Refused(cpu)) }
}

/// The CPUs that the calling thread may run on now.
#[must_use]
pub fn usable_cpus() -> Vec<usize> {
    core_affinity::get_core_ids().into_iter().flatten().map(|core| core.id).collect()
}

/// Moves the calling thread to a CPU, even if the thread that started it is pinned to another.
/// Without effect if this process may not use it.
pub fn move_to(cpu: usize) {
    let _ = core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
}

/// Checks a CPU that was asked for, or takes the last one there is: interrupts mostly come to the
/// first.
///
/// # Errors
///
/// Fails if there is no such CPU, or this process may not use it.
pub fn choose_cpu(asked: Option<usize>) -> Result<usize, PinError> {
    let usable = usable_cpus();
    match asked {
        Some(cpu) if !usable.contains(&cpu) => Err(PinError::NoSuchCpu { cpu, usable }),
        Some(cpu) => Ok(cpu),
        None => Ok(usable.last().copied().unwrap_or(0)),
    }
}

/// Keeps the calling thread, and those that it starts, away from `cpu` if there is another one.
pub fn keep_off(cpu: usize) {
    if let Some(id) = usable_cpus().into_iter().find(|other| *other != cpu) {
        // Where the kernel refuses, both share the CPU, which the measurement notices.
        move_to(id);
    }
}

fn list(cpus: &[usize]) -> String {
    cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// Notices when the calling thread had to give its CPU away.
#[derive(Debug)]
pub struct Preemptions(u64);

impl Preemptions {
    /// Begins to watch the calling thread.
    #[must_use]
    pub fn watch() -> Self {
        Self(involuntary_switches())
    }

    /// How often it was taken off its CPU since then.
    #[must_use]
    pub fn count(&self) -> u64 {
        involuntary_switches().saturating_sub(self.0)
    }
}

fn involuntary_switches() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("nonvoluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_is_not_there_is_an_error_that_names_those_that_are() {
        let error = pin(60_000).unwrap_err().to_string();
        assert!(error.starts_with("CPU 60000 is not to be had"), "{error}");
        assert!(error.ends_with(&list(&usable_cpus())), "{error}");
    }

    #[test]
    fn this_machine_has_a_processor_and_a_kernel() {
        let machine = Machine::now();
        assert!(machine.cpus > 0 && !machine.kernel.is_empty() && !machine.cpu_model.is_empty());
    }
}
