//! The files that tell about a machine, under a root that tests can choose.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// `/proc` and `/sys`.
#[derive(Clone, Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn of_this_host() -> Self {
        Self { root: "/".into() }
    }

    #[cfg(test)]
    pub(super) fn under(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// A file's text without the white space around it; `None` if it cannot be read.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    /// A file's text as a number.
    pub(super) fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A file's text as a list of CPUs.
    pub(super) fn cpus(&self, path: impl AsRef<Path>) -> Option<BTreeSet<usize>> {
        self.text(path).map(|text| cpu_list(&text))
    }
}

/// The CPUs of a list such as "0-3,8"; what is not understood is left out.
pub(super) fn cpu_list(text: &str) -> BTreeSet<usize> {
    let mut cpus = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>())
            // No machine has more; a list that says so is none.
            && last < 1 << 16
        {
            cpus.extend(first..=last);
        }
    }
    cpus
}

/// CPUs as a list such as "0-3,8"; "none" if there are none.
pub(super) fn cpu_text(cpus: &BTreeSet<usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    if ranges.is_empty() {
        return "none".into();
    }
    let text = |(first, last): (usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
}
