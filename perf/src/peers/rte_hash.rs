//! DPDK's `rte_hash`: a C program, `perf/peers/rte_hash.c`, that keeps a table and measures rounds
//! of it when told to.

use std::{process::Command, time::Duration};

use super::{LineProcess, PeerError, Program, compile, preemptions};
use crate::machine::Machine;

const SOURCE: &str = include_str!("../../peers/rte_hash.c");

/// Memory for each slot, generously: an entry with its key, its place in a bucket, in the list of
/// free ones and in the queue of those to be reused.
const BYTES_PER_SLOT: u64 = 128;
/// Memory that DPDK takes besides.
const BYTES_BESIDES: u64 = 64 << 20;

/// How a table is filled and what its rounds are.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The measuring thread stays on these CPUs.
    pub cpus: Vec<usize>,
    /// The thread that inserts and removes meanwhile, on this one.
    pub churn_cpu: usize,
    /// Connections, each two entries.
    pub connections: u32,
    /// Of the slots in buckets, at least.
    pub load_percent: u32,
    /// Lookups of a round.
    pub lookups: usize,
    /// Connections that a round inserts.
    pub pairs: u32,
}

/// What a round is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Round {
    /// Lookups of keys that are there.
    Hit,
    /// Lookups of keys that are not.
    Miss,
    /// Connections inserted.
    Insert,
    /// Hits for some time, while so many connections a second are inserted and removed.
    Churn {
        /// How long.
        time: Duration,
        /// How many.
        per_second: u32,
    },
}

/// What a round gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Nanoseconds a lookup, or a connection inserted.
    pub nanoseconds: f64,
    /// Connections inserted and removed meanwhile, a second.
    pub churn_per_second: Option<f64>,
    /// Whether the measuring thread was taken off its CPU.
    pub is_preempted: bool,
}

/// A filled table in a process of its own.
#[derive(Debug)]
pub struct RteHash {
    process: LineProcess,
    /// Bytes of memory for each entry, all told.
    pub bytes_per_direction: f64,
    /// Whether it lies on huge pages.
    pub is_on_huge_pages: bool,
}

impl RteHash {
    /// Its name in results.
    pub const NAME: &str = "rte_hash";

    /// Compiles it if need be, starts it, and waits until its table is filled.
    ///
    /// # Errors
    ///
    /// Fails where DPDK's development files are not installed, or if DPDK does not start.
    pub fn start(setup: &Setup) -> Result<Self, PeerError> {
        let program = compile(&Program {
            name: Self::NAME,
            source: SOURCE,
            library: Some(("libdpdk", "libdpdk-dev")),
        })?;
        let bytes = memory_bytes(setup);
        let is_on_huge_pages = Machine::now().huge_pages_free << 21 >= bytes;
        let mut command = Command::new(program);
        command
            .arg(if is_on_huge_pages { "huge" } else { "small" })
            .arg((bytes >> 20).to_string())
            .arg(setup.cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(","))
            .args([setup.churn_cpu.to_string(), setup.connections.to_string()])
            .args([setup.load_percent.to_string(), setup.lookups.to_string()])
            .arg(setup.pairs.to_string());
        let mut process = LineProcess::start(Self::NAME, &mut command)?;
        let answer = process.listen()?;
        let bytes_per_direction =
            answer.strip_prefix("READY ").and_then(|bytes| bytes.parse().ok()).ok_or_else(
                || PeerError::Answer { program: Self::NAME.into(), answer: answer.clone() },
            )?;
        Ok(Self { process, bytes_per_direction, is_on_huge_pages })
    }

    /// Measures a round.
    ///
    /// # Errors
    ///
    /// Fails if a lookup did not give what it should, or the process ended.
    pub fn measure(&mut self, round: Round) -> Result<Measured, PeerError> {
        let line = match round {
            Round::Hit => "hit".to_owned(),
            Round::Miss => "miss".to_owned(),
            Round::Insert => "insert".to_owned(),
            Round::Churn { time, per_second } => {
                format!("churn {} {per_second}", time.as_millis())
            }
        };
        let before = preemptions(self.process.id());
        let answer = self.process.ask(&line)?;
        let is_preempted = preemptions(self.process.id()) > before;
        let mut numbers = answer.split(' ').map_while(|word| word.parse().ok());
        let Some(nanoseconds) = numbers.next() else {
            return Err(PeerError::Answer { program: Self::NAME.into(), answer });
        };
        Ok(Measured { nanoseconds, churn_per_second: numbers.next(), is_preempted })
    }
}

fn memory_bytes(setup: &Setup) -> u64 {
    let entries = u64::from(setup.connections) * 2;
    let slots = (entries * 100 / u64::from(setup.load_percent.max(1))).next_power_of_two();
    slots * BYTES_PER_SLOT + BYTES_BESIDES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::print_stdout, reason = "says that it is skipped")]
    fn a_table_answers_every_kind_of_round() {
        let setup = Setup {
            cpus: crate::machine::usable_cpus(),
            churn_cpu: crate::machine::choose_cpu(None).unwrap(),
            connections: 1000,
            load_percent: 50,
            lookups: 4096,
            pairs: 100,
        };
        let mut table = match RteHash::start(&setup) {
            Ok(table) => table,
            Err(error @ PeerError::NotInstalled { .. }) => {
                println!("SKIPPED: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(table.bytes_per_direction > 20.0);
        // More are inserted and removed than the table holds at once.
        let inserts = [Round::Insert; 60];
        for round in [Round::Hit, Round::Miss].into_iter().chain(inserts).chain([Round::Hit]) {
            let measured = table.measure(round).unwrap();
            assert!(measured.nanoseconds > 0.0, "{round:?}");
            assert_eq!(measured.churn_per_second, None);
        }
        let round = Round::Churn { time: Duration::from_millis(20), per_second: 50_000 };
        let measured = table.measure(round).unwrap();
        assert!(measured.nanoseconds > 0.0 && measured.churn_per_second.is_some());
    }
}
