//! Rows for people and for programs, and a line of progress on a terminal.
#![expect(clippy::print_stdout, reason = "results go to the standard output")]

use std::{
    fs,
    io::{self, IsTerminal, Write, stderr},
    path::Path,
};

use perf::machine::Machine;

use super::row::Row;
use crate::report::describe;

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
    let text = serde_json::to_string_pretty(rows)?;
    match json {
        Some(path) if path == Path::new("-") => {
            println!("{text}");
            return Ok(());
        }
        Some(path) => fs::write(path, text + "\n")?,
        None => {}
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

fn print_row(row: &Row) {
    let count = |count: Option<u64>| count.map_or("-".into(), |count| count.to_string());
    let number = |number: Option<f64>| number.map_or("-".into(), |number| format!("{number:.0}"));
    let received = row.received.as_ref();
    let of = |count: fn(&super::row::Arrivals) -> u64| received.map(count);
    let latency = received
        .and_then(|it| it.latency_ns)
        .map_or("-".into(), |it| [it.p50, it.p99, it.max].map(microseconds).join("/"));
    let loss = row.loss_ratio.map_or("-".into(), |ratio| format!("{:.4} %", ratio * 100.0));
    println!(
        "{:<12} {:>11} {:>11} {:>10} {:>11} {:>9} {:>10} {:>8} {:>8} {:>8} {:>8} {:>22}  {}",
        row.frame,
        count(row.sent),
        number(row.sent_pps),
        number(row.sent_bits_per_second.map(|rate| rate / 1e6)),
        count(of(|it| it.received)),
        count(row.lost),
        loss,
        count(of(|it| it.reordered)),
        count(of(|it| it.duplicated)),
        count(of(|it| it.corrupted)),
        count(of(|it| it.foreign)),
        latency,
        row.remarks.join("; "),
    );
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
fn microseconds(nanoseconds: u64) -> String {
    format!("{:.1}", nanoseconds as f64 / 1e3)
}
