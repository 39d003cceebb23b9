//! What about this machine helps or hinders the engine, why it matters, and what to change.
//!
//! Reads only: `/proc`, `/sys`, the topology, and what drivers say about themselves. Everything
//! here is advice; what the engine cannot do without it says itself when it starts.

mod cpus;
mod files;
mod kernel;
mod memory;
mod network;
mod xdp_features;

#[cfg(test)]
mod tests;

use std::fmt;

use crate::{memory::RegionConfig, topology::Topology};

use self::files::Files;

/// What the engine is going to use.
#[derive(Clone, Debug, Default)]
pub struct HostQuestion {
    /// The uplink's interface, if there is to be one.
    pub uplink: Option<String>,
    /// The CPUs that workers are pinned to; empty if they are not pinned.
    pub worker_cpus: Vec<usize>,
    /// Packet memory.
    pub region: RegionConfig,
}

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, but costs speed or safety.
    Advice,
    /// Does not work.
    Problem,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad` honours a width, for tables.
        formatter.pad(match self {
            Self::Good => "good",
            Self::Advice => "advice",
            Self::Problem => "problem",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// What was looked at: a few words, always the same.
    pub subject: &'static str,
    /// How it is to be taken.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub reason: &'static str,
    /// What to change; empty if nothing is to be changed.
    pub change: String,
}

impl Finding {
    fn good(subject: &'static str, found: String, reason: &'static str) -> Self {
        Self { subject, verdict: Verdict::Good, found, reason, change: String::new() }
    }

    fn advice(
        subject: &'static str,
        found: String,
        reason: &'static str,
        change: impl Into<String>,
    ) -> Self {
        Self { subject, verdict: Verdict::Advice, found, reason, change: change.into() }
    }

    fn problem(
        subject: &'static str,
        found: String,
        reason: &'static str,
        change: impl Into<String>,
    ) -> Self {
        Self { subject, verdict: Verdict::Problem, found, reason, change: change.into() }
    }
}

/// Looks at this machine.
#[must_use]
pub fn check_host(question: &HostQuestion) -> Vec<Finding> {
    let files = Files::of_this_host();
    let mut findings = kernel::findings(&files);
    match Topology::of_this_host() {
        Ok(topology) => findings.extend(cpus::findings(&files, &topology, question)),
        Err(error) => findings.push(Finding::advice(
            "topology",
            error.to_string(),
            "workers are placed by it",
            "mount /sys, or pin workers by hand",
        )),
    }
    findings.extend(memory::findings(&files, &question.region));
    findings.extend(network::findings(&files, question));
    findings
}
