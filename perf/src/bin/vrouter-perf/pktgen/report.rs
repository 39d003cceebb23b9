//! Rows for people and for programs, and a line of progress on a terminal.
#![expect(clippy::print_stdout, reason = "results go to the standard output")]

use std::{
    io::{self, IsTerminal, Write, stderr},
    path::Path,
};

use perf::machine::Machine;

use super::{
    row::{Latencies, Row},
    search::SearchRow,
};
use crate::report::{describe, write_json};

/// How long a trial of RFC 2544 is at least (section 24).
const TRIAL_SECONDS_RFC_2544: f64 = 60.0;

/// Tells on a terminal how far a trial is.
#[derive(Debug)]
pub(crate) struct Watch {
    what: String,
    is_shown: bool,
}

impl Watch {
    pub(crate) fn new(what: &str) -> Self {
        Self { what: what.to_owned(), is_shown: stderr().is_terminal() }
    }

    pub(crate) fn tell(&mut self, sent: u64, received: u64) {
        if self.is_shown {
            eprint!("\r\x1b[K{}: {sent} sent, {received} received", self.what);
            let _ = stderr().flush();
        }
    }

    pub(crate) fn finish(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

pub(crate) fn rows(machine: &Machine, rows: &[Row], json: Option<&Path>) -> io::Result<()> {
    if !write_json(&rows, json)? {
        return Ok(());
    }
    describe(machine);
    println!(
        "{:<12} {:>11} {:>11} {:>10} {:>11} {:>9} {:>10} {:>8} {:>8} {:>8} {:>8} {:>22}",
        "FRAME",
        "SENT",
        "PPS",
        "MBIT/S",
        "RECEIVED",
        "LOST",
        "LOSS",
        "REORDER",
        "DUPLIC",
        "CORRUPT",
        "FOREIGN",
        "US P50/P99/MAX"
    );
    for row in rows {
        print_row(row);
    }
    println!("\nMBIT/S: of frames with FCS. US: one-way latency in microseconds.");
    Ok(())
}

pub(crate) fn search_rows(
    machine: &Machine,
    rows: &[SearchRow],
    json: Option<&Path>,
) -> io::Result<()> {
    if !write_json(&rows, json)? {
        return Ok(());
    }
    describe(machine);
    println!(
        "{:<12} {:>8} {:>12} {:>10} {:>10} {:>12} {:>7} {:>22}",
        "FRAME", "LOSS OK", "PPS", "MBIT/S", "LOSS", "TOO MUCH", "TRIALS", "US P50/P99/MAX"
    );
    for row in rows {
        println!(
            "{:<12} {:>8} {:>12} {:>10} {:>10} {:>12} {:>7} {:>22}",
            row.frame,
            format!("{} %", row.goal_loss_ratio * 100.0),
            number(row.throughput_pps),
            number(row.throughput_bits_per_second.map(|rate| rate / 1e6)),
            percent(row.loss_ratio),
            number(row.too_much_pps),
            row.trials,
            latencies(row.latency_ns),
        );
        print_remarks(&row.remarks);
    }
    println!("\nTOO MUCH: the lowest rate that lost more. US: one-way latency at the rate PPS.");
    let seconds = rows.first().map_or(0.0, |row| row.trial_seconds);
    if seconds < TRIAL_SECONDS_RFC_2544 {
        println!("Trials of {seconds} s; RFC 2544 section 24 asks for {TRIAL_SECONDS_RFC_2544} s.");
    }
    Ok(())
}

fn number(number: Option<f64>) -> String {
    number.map_or("-".into(), |number| format!("{number:.0}"))
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map_or("-".into(), |ratio| format!("{:.4} %", ratio * 100.0))
}

fn latencies(latencies: Option<Latencies>) -> String {
    latencies.map_or("-".into(), |it| [it.p50, it.p99, it.max].map(microseconds).join("/"))
}

fn print_row(row: &Row) {
    let count = |count: Option<u64>| count.map_or("-".into(), |count| count.to_string());
    let received = row.received.as_ref();
    let of = |count: fn(&super::row::Arrivals) -> u64| received.map(count);
    println!(
        "{:<12} {:>11} {:>11} {:>10} {:>11} {:>9} {:>10} {:>8} {:>8} {:>8} {:>8} {:>22}",
        row.frame,
        count(row.sent),
        number(row.sent_pps),
        number(row.sent_bits_per_second.map(|rate| rate / 1e6)),
        count(of(|it| it.received)),
        count(row.lost),
        percent(row.loss_ratio),
        count(of(|it| it.reordered)),
        count(of(|it| it.duplicated)),
        count(of(|it| it.corrupted)),
        count(of(|it| it.foreign)),
        latencies(received.and_then(|it| it.latency_ns)),
    );
    print_remarks(&row.remarks);
}

/// What makes a row worth less, below it.
fn print_remarks(remarks: &[String]) {
    if !remarks.is_empty() {
        println!("    ^ {}", remarks.join("; "));
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
fn microseconds(nanoseconds: u64) -> String {
    format!("{:.1}", nanoseconds as f64 / 1e3)
}
