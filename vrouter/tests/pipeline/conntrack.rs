//! Connection tracking beside the kernel's: the same TCP segments to both, and each one's verdict
//! and the connection's state after it compared. What differs is in [`differences::DIFFERENCES`],
//! with the reason, or it is a failure.

mod differences;
mod kernel;
mod scripted;
pub(crate) mod segments;

use std::collections::{BTreeMap, BTreeSet};

use vrouter::{burst::BURST_PACKETS_MAX, drops::DropReason};

use self::{
    differences::{DIFFERENCES, Difference},
    kernel::Kernel,
    segments::{Segment, describe, random},
};
use crate::{
    bench::Bench,
    rig::{Node, objects},
};

/// Random sequences in a normal run: some seconds.
const SEQUENCES: u64 = 1_000;

/// How many random sequences are tried instead.
const SEQUENCES_VARIABLE: &str = "VROUTER_CONNTRACK_SEQUENCES";

/// Unexplained differences that are shown, each as short as it can be made.
const SHOWN_MAX: usize = 10;

/// Sequences that are played side by side, each from a client port of its own.
const SIDE_BY_SIDE: usize = 256;

/// What became of a segment, and its connection's state after it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Judged {
    pub(crate) passed: bool,
    /// `None` if there is no connection.
    pub(crate) state: Option<&'static str>,
}

/// What both made of a segment of a sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) ours: Judged,
    pub(crate) kernel: Judged,
}

/// Our pipeline and the kernel, which see the same packets.
struct Players {
    bench: Bench,
    kernel: Kernel,
    /// The next sequence's client port.
    next_port: u16,
}

impl Players {
    fn new() -> Self {
        let bench = Bench::with(objects(Node::A), 4096);
        Self { bench, kernel: Kernel::new(), next_port: 10_000 }
    }

    /// Plays sequences side by side, step by step.
    fn play(&mut self, sequences: &[Vec<Segment>], is_ipv4: bool) -> Vec<Vec<Pair>> {
        if self.next_port > 12_000 {
            // What is over takes time to look through.
            *self = Self::new();
        }
        let first = self.next_port;
        let ports: Vec<u16> = (first..).take(sequences.len()).collect();
        self.next_port += u16::try_from(sequences.len()).unwrap();
        let mut outcomes = vec![Vec::new(); sequences.len()];
        let longest = sequences.iter().map(Vec::len).max().unwrap_or(0);
        for step in 0..longest {
            let segments: Vec<_> = sequences
                .iter()
                .zip(&ports)
                .filter_map(|(sequence, port)| Some((*port, *sequence.get(step)?)))
                .collect();
            let sent = self.send(&segments, is_ipv4);
            let mut passed = Vec::new();
            for (port, segment) in segments {
                let frame = segment.frame(is_ipv4, port);
                let by_kernel = self.kernel.passes(segment.is_reply, &frame[14..], port);
                passed.push((port, by_kernel));
            }
            let (ours, kernels) = (states(&self.bench), self.kernel.states());
            for (port, by_kernel) in passed {
                outcomes[usize::from(port - first)].push(Pair {
                    ours: Judged { passed: sent.contains(&port), state: ours.get(&port).copied() },
                    kernel: Kernel::judged(by_kernel, kernels.get(&port)),
                });
            }
        }
        outcomes
    }

    /// The clients' ports whose segments we let pass.
    fn send(&mut self, segments: &[(u16, Segment)], is_ipv4: bool) -> BTreeSet<u16> {
        let mut sent = BTreeSet::new();
        for (is_reply, from) in [(false, "default/pod10"), (true, "default/pod11")] {
            let frames: Vec<_> = segments
                .iter()
                .filter(|(_, segment)| segment.is_reply == is_reply)
                .map(|(port, segment)| segment.frame(is_ipv4, *port))
                .collect();
            for frames in frames.chunks(BURST_PACKETS_MAX) {
                let outcome = self.bench.send_burst(0, from, frames);
                assert_eq!(outcome.sent.len() + outcome.drops.len(), frames.len());
                assert!(outcome.drops.iter().all(|reason| *reason == DropReason::FlowInvalid));
                let transport = if is_ipv4 { 34 } else { 54 };
                let place = transport + if is_reply { 2 } else { 0 };
                sent.extend(
                    outcome
                        .sent
                        .iter()
                        .map(|(_, frame)| u16::from_be_bytes([frame[place], frame[place + 1]])),
                );
            }
        }
        sent
    }

    /// Leaves out of a sequence what is not needed for an unexplained difference.
    fn shrink(&mut self, mut sequence: Vec<Segment>, is_ipv4: bool) -> Vec<Segment> {
        loop {
            let without = |at: usize| {
                let mut shorter = sequence.clone();
                shorter.remove(at);
                shorter
            };
            let candidates: Vec<_> = (0..sequence.len()).map(without).collect();
            let outcomes = self.play(&candidates, is_ipv4);
            let smaller = candidates.into_iter().zip(&outcomes).find(|(candidate, outcome)| {
                matches!(compare(candidate, outcome), Compared::Unexplained)
            });
            match smaller {
                Some((smaller, _)) => sequence = smaller,
                None => return sequence,
            }
        }
    }
}

fn states(bench: &Bench) -> BTreeMap<u16, &'static str> {
    let mut states = BTreeMap::new();
    bench.flows.table().for_each_connection(bench.now.ticks(), |view| {
        let port = view.forward.source_port().max(view.forward.destination_port());
        states.insert(port, view.state.name());
    });
    states
}

/// What came of comparing one sequence.
enum Compared {
    /// So many segments were judged alike, or differently for known reasons.
    Explained(usize, Vec<&'static Difference>),
    /// One was not.
    Unexplained,
}

fn compare(sequence: &[Segment], outcome: &[Pair]) -> Compared {
    let mut known = Vec::new();
    for (at, pair) in outcome.iter().enumerate() {
        if pair.ours == pair.kernel {
            continue;
        }
        let case = differences::Case { sequence, outcome, at };
        let Some(difference) = DIFFERENCES.iter().find(|difference| (difference.is)(&case)) else {
            return Compared::Unexplained;
        };
        known.push(difference);
        if difference.ends_comparison {
            return Compared::Explained(at + 1, known);
        }
    }
    Compared::Explained(outcome.len(), known)
}

/// The sequence as a table, for whoever must explain it.
fn report(sequence: &[Segment], outcome: &[Pair]) -> String {
    let judged = |judged: Judged| {
        format!("{} {}", if judged.passed { "pass" } else { "drop" }, judged.state.unwrap_or("-"))
    };
    let mut lines = String::new();
    for (segment, pair) in sequence.iter().zip(outcome) {
        let mark = if pair.ours == pair.kernel { ' ' } else { '*' };
        let (ours, kernel) = (judged(pair.ours), judged(pair.kernel));
        let line = format!("{mark} {ours:18} kernel: {kernel:18} {}\n", describe(segment));
        lines.push_str(&line);
    }
    lines
}

/// Compares all sequences; fails if there are differences that nobody explained, and shows some.
fn assert_explained(sequences: &[Vec<Segment>], is_ipv4: bool) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    let mut unexplained = Vec::new();
    let mut players = Players::new();
    for sequences in sequences.chunks(SIDE_BY_SIDE) {
        let outcomes = players.play(sequences, is_ipv4);
        for (sequence, outcome) in sequences.iter().zip(&outcomes) {
            match compare(sequence, outcome) {
                Compared::Explained(segments, known) => {
                    *counts.entry("segments compared").or_default() += segments;
                    for difference in known {
                        *counts.entry(difference.name).or_default() += 1;
                    }
                }
                Compared::Unexplained => unexplained.push(sequence),
            }
        }
    }
    let reports: String = unexplained
        .iter()
        .take(SHOWN_MAX)
        .map(|&sequence| {
            let smallest = players.shrink(sequence.clone(), is_ipv4);
            let outcome = players.play(std::slice::from_ref(&smallest), is_ipv4).remove(0);
            report(&smallest, &outcome) + "\n"
        })
        .collect();
    assert!(
        unexplained.is_empty(),
        "{} sequences have unexplained differences, such as:\n{reports}",
        unexplained.len()
    );
    counts
}

#[test]
fn each_difference_stands_in_the_design_note_with_its_reason() {
    let note = include_str!("../../../docs/design/0015-connection-tracking.md");
    let (_, table) =
        note.split_once("| ours | the kernel's | why ours |\n|---|---|---|\n").unwrap();
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let noted: Vec<_> =
        rows.filter_map(|row| row.split(" | ").next()?.strip_prefix("| ")).collect();
    let known: Vec<_> = DIFFERENCES.iter().map(|difference| difference.name).collect();
    assert_eq!(noted, known);
}

/// Leaves the test, loudly, if the kernel cannot be asked.
macro_rules! skip_unless_kernel_tracks {
    () => {
        if let Some(why) = Kernel::why_not() {
            eprintln!("SKIPPED: {why}");
            return;
        }
    };
}

#[test]
fn what_hosts_do_is_judged_as_the_kernel_judges_it() {
    skip_unless_kernel_tracks!();
    let mut players = Players::new();
    let (names, sequences): (Vec<_>, Vec<_>) = scripted::all().into_iter().unzip();
    for is_ipv4 in [true, false] {
        let outcomes = players.play(&sequences, is_ipv4);
        for ((name, sequence), outcome) in names.iter().zip(&sequences).zip(&outcomes) {
            let is_explained = matches!(compare(sequence, outcome), Compared::Explained(..));
            assert!(is_explained, "{name}:\n{}", report(sequence, outcome));
        }
    }
}

#[test]
fn random_segments_are_judged_as_the_kernel_judges_them() {
    skip_unless_kernel_tracks!();
    let count = std::env::var(SEQUENCES_VARIABLE)
        .map_or(SEQUENCES, |count| count.parse().expect("a number of sequences"));
    let sequences: Vec<_> = (0..count).map(random).collect();
    let (v4, v6) = sequences.split_at(sequences.len() / 2);
    eprintln!("IPv4: {:#?}", assert_explained(v4, true));
    eprintln!("IPv6: {:#?}", assert_explained(v6, false));
}
