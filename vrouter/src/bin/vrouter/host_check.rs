//! `--check-host`: what about this machine helps or hinders, as a table or as JSON.

use std::{fmt::Write as _, path::Path};

use serde::Serialize;
use vrouter::{
    check_host::{Finding, HostQuestion, Verdict, check_host},
    memory::RegionConfig,
};

use crate::{node::places, settings::Settings};

/// What was found, and how bad the worst of it is.
pub(crate) struct HostReport(Vec<Finding>);

/// A finding as programs see it.
#[derive(Serialize)]
struct FindingRow<'a> {
    subject: &'a str,
    /// `good`, `advice` or `problem`.
    verdict: String,
    found: &'a str,
    reason: &'a str,
    /// Empty if nothing is to be changed.
    change: &'a str,
}

impl HostReport {
    /// Looks at this machine, for an engine with these settings. Without `uplink` it is control's,
    /// as the same file has it.
    pub(crate) fn new(settings: &Settings, config: &Path, uplink: Option<String>) -> Self {
        Self(check_host(&HostQuestion {
            uplink: uplink.or_else(|| uplink_of_control(config)),
            worker_cpus: worker_cpus(settings),
            region: RegionConfig {
                frame_count: settings.packet_memory.frames,
                frame_bytes: settings.packet_memory.frame_bytes,
                huge_pages: settings.packet_memory.huge_pages,
            },
        }))
    }

    /// Whether something does not work at all.
    pub(crate) fn has_problem(&self) -> bool {
        self.0.iter().any(|finding| finding.verdict == Verdict::Problem)
    }

    /// For programs.
    ///
    /// # Errors
    ///
    /// Never in practice: the rows are plain text.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        let rows: Vec<_> = self.0.iter().map(FindingRow::from).collect();
        serde_json::to_string_pretty(&rows).map(|text| text + "\n")
    }

    /// For people: the worst first.
    pub(crate) fn to_text(&self) -> String {
        let mut findings: Vec<_> = self.0.iter().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
        let mut text = String::new();
        for finding in findings {
            let Finding { subject, verdict, found, reason, change } = finding;
            let _ = writeln!(text, "{verdict:<8} {subject}: {found}");
            if !change.is_empty() {
                let _ = writeln!(text, "         why: {reason}\n         change: {change}");
            }
        }
        text
    }
}

impl<'a> From<&'a Finding> for FindingRow<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self {
            subject: finding.subject,
            verdict: finding.verdict.to_string(),
            found: &finding.found,
            reason: finding.reason,
            change: &finding.change,
        }
    }
}

/// The CPUs that the workers would get; none if they cannot all get one.
fn worker_cpus(settings: &Settings) -> Vec<usize> {
    let places = places::choose(settings.workers, &settings.cpus);
    places.into_iter().flatten().filter_map(|place| place.cpu).collect()
}

/// The interface that control would use.
fn uplink_of_control(config: &Path) -> Option<String> {
    let text = std::fs::read_to_string(config).ok()?;
    let table: toml::Table = text.parse().ok()?;
    Some(table.get("control")?.get("uplink")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_is_a_row_and_the_worst_comes_first() {
        let finding = |subject, verdict, change: &str| Finding {
            subject,
            verdict,
            found: "x".to_owned(),
            reason: "y",
            change: change.to_owned(),
        };
        let report = HostReport(vec![
            finding("cores", Verdict::Good, ""),
            finding("xdp", Verdict::Problem, "another NIC"),
        ]);
        assert!(report.has_problem());
        let expected =
            "problem  xdp: x\n         why: y\n         change: another NIC\ngood     cores: x\n";
        assert_eq!(report.to_text(), expected);
        let rows: serde_json::Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(rows[1]["verdict"], "problem");
        assert_eq!(rows[1]["change"], "another NIC");
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let report = HostReport::new(&Settings::default(), Path::new("/nonexistent"), None);
        assert!(!report.0.is_empty());
    }
}
