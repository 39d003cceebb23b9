//! A C program that sketches the limit: an unlocked two-choice table of tags, which it fills and
//! looks up by itself. It is given as a file, and prints one line with `median NANOSECONDS`.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{PeerError, Program, compile, preemptions, rte_hash::Measured};
use crate::machine::Machine;

/// Its buckets have so many slots, of which at most eight in ten are taken; there is always a power
/// of two of them, so half is taken if the number of flows is one.
const SLOTS_PER_BUCKET: u64 = 8;
/// A bucket is a cache line, and so is an entry.
const LINE_BYTES: u64 = 64;

/// A compiled sketch, for some number of flows.
#[derive(Debug)]
pub struct Sketch {
    program: PathBuf,
    flows: u32,
    is_on_huge_pages: bool,
}

impl Sketch {
    /// Its name in results.
    pub const NAME: &str = "sketch";

    /// Compiles it.
    ///
    /// # Errors
    ///
    /// Fails if the file is not there, or does not compile.
    pub fn new(path: &Path, flows: u32) -> Result<Self, PeerError> {
        let source =
            fs::read_to_string(path).map_err(|_| PeerError::NoSource { path: path.to_owned() })?;
        let program = compile(&Program { name: Self::NAME, source: &source, library: None })?;
        let pages = bytes(flows).div_ceil(2 << 20) + 2;
        let is_on_huge_pages = Machine::now().huge_pages_free >= pages;
        Ok(Self { program, flows, is_on_huge_pages })
    }

    /// Bytes of memory for each flow.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
    pub fn bytes_per_direction(&self) -> f64 {
        bytes(self.flows) as f64 / f64::from(self.flows.max(1))
    }

    /// Whether its memory is on huge pages.
    #[must_use]
    pub fn is_on_huge_pages(&self) -> bool {
        self.is_on_huge_pages
    }

    /// Runs it once: it fills its table, looks up 2^20 keys seven times, and tells the median.
    ///
    /// # Errors
    ///
    /// Fails if it does not run or prints something else.
    pub fn measure(&self) -> Result<Measured, PeerError> {
        let program = Self::NAME.to_owned();
        let mut child = Command::new(&self.program)
            .args([self.flows.to_string(), u8::from(self.is_on_huge_pages).to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| PeerError::Run { program: program.clone(), source })?;
        let mut answer = String::new();
        let read: io::Result<usize> =
            child.stdout.take().map_or(Ok(0), |mut output| output.read_to_string(&mut answer));
        // Until it is waited for, its counters can be read.
        let is_preempted = preemptions(child.id()) > 0;
        let has_succeeded = child.wait().is_ok_and(|status| status.success());
        if read.is_err() || !has_succeeded {
            return Err(PeerError::Ended { program });
        }
        let Some(nanoseconds) = median(&answer) else {
            return Err(PeerError::Answer { program, answer });
        };
        Ok(Measured { nanoseconds, churn_per_second: None, is_preempted })
    }
}

fn bytes(flows: u32) -> u64 {
    let flows = u64::from(flows);
    let buckets = (flows * 10 / 8).div_ceil(SLOTS_PER_BUCKET).next_power_of_two();
    (flows + buckets) * LINE_BYTES
}

fn median(answer: &str) -> Option<f64> {
    let mut words = answer.split_whitespace();
    words.find(|word| *word == "median")?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_read_from_what_it_prints() {
        let line = "n=65536 huge=0 median 8.04 best 7.99 ns/lookup hits 1.000 fail 0\n";
        assert_eq!(median(line), Some(8.04));
        assert_eq!(median("mmap: Cannot allocate memory"), None);
    }

    #[test]
    fn half_of_the_slots_are_taken_at_a_power_of_two() {
        // 64 bytes an entry, and two slots of eight bytes each.
        assert_eq!(bytes(1 << 16), (1 << 16) * (64 + 16));
    }

    #[test]
    fn a_file_that_is_not_there_is_told() {
        let error = Sketch::new(Path::new("/no/sketch.c"), 1024).unwrap_err().to_string();
        assert_eq!(error, "/no/sketch.c does not exist");
    }
}
