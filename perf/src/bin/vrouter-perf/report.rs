//! Results: tables for people, JSON for programs, and a line of progress on a terminal.
#![expect(clippy::print_stdout, reason = "results go to the standard output")]

use std::{
    fs,
    io::{self, IsTerminal, Write, stderr},
    path::Path,
};

use perf::machine::Machine;
use serde::Serialize;

use crate::flowtable::Row;

/// Tells on a terminal how far a measurement is.
#[derive(Debug)]
pub(crate) struct Progress {
    done: usize,
    total: usize,
    is_shown: bool,
}

impl Progress {
    pub(crate) fn new(total: usize) -> Self {
        Self { done: 0, total, is_shown: stderr().is_terminal() }
    }

    pub(crate) fn step(&mut self, what: &str) {
        self.done += 1;
        if self.is_shown {
            eprint!("\r\x1b[K{}/{}  {what}", self.done, self.total);
            let _ = stderr().flush();
        }
    }

    pub(crate) fn finish(&self) {
        if self.is_shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// Finds out, before anything is measured, whether the results can be written.
pub(crate) fn check_json(json: Option<&Path>) -> io::Result<()> {
    let Some(path) = json.filter(|path| *path != Path::new("-")) else { return Ok(()) };
    let opened = fs::OpenOptions::new().create(true).append(true).open(path);
    opened.map(drop).map_err(|error| about(path, &error))
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Writes `rows` as JSON to a file, or to the standard output if that is `-`; whether the standard
/// output is still free for a table.
pub(crate) fn write_json(rows: &impl Serialize, json: Option<&Path>) -> io::Result<bool> {
    let text = serde_json::to_string_pretty(rows)?;
    match json {
        Some(path) if path == Path::new("-") => {
            println!("{text}");
            return Ok(false);
        }
        Some(path) => fs::write(path, text + "\n").map_err(|error| about(path, &error))?,
        None => {}
    }
    Ok(true)
}

/// A row as JSON has it: with what it was measured on.
#[derive(Debug, Serialize)]
struct OnMachine<'a, T> {
    #[serde(flatten)]
    row: &'a T,
    machine: &'a Machine,
}

/// As [`write_json`], with the machine in each row.
pub(crate) fn write_rows(
    machine: &Machine,
    rows: &[impl Serialize],
    json: Option<&Path>,
) -> io::Result<bool> {
    let rows: Vec<_> = rows.iter().map(|row| OnMachine { row, machine }).collect();
    write_json(&rows, json)
}

pub(crate) fn flowtable(
    machine: &Machine,
    rows: &[Row],
    skipped: &[String],
    json: Option<&Path>,
) -> io::Result<()> {
    if !write_rows(machine, rows, json)? {
        for reason in skipped {
            eprintln!("{reason}");
        }
        return Ok(());
    }
    describe(machine);
    println!(
        "{:<20} {:>9} {:<15} {:>8} {:>17} {:>6} {:>6}",
        "CASE", "FLOWS", "TABLE", "NS/OP", "[MIN-MAX]", "RATIO", "BYTES"
    );
    for row in rows {
        let ours =
            rows.iter().find(|it| it.table == "vrouter" && is_same_case(it, row)).unwrap_or(row);
        let figures = row.ns_per_op;
        println!(
            "{:<20} {:>9} {:<15} {:>8.1} {:>17} {:>6.2} {:>6.0}  {}",
            row.case,
            row.flows,
            row.table,
            figures.median,
            format!("[{:.1}-{:.1}]", figures.min, figures.max),
            figures.median / ours.ns_per_op.median,
            row.bytes_per_direction,
            row.remarks().join("; "),
        );
    }
    for reason in skipped {
        println!("{reason}");
    }
    println!("\nRATIO: to vrouter in the same case. BYTES: of memory a direction, all told.");
    Ok(())
}

fn is_same_case(one: &Row, other: &Row) -> bool {
    (one.case, one.flows) == (other.case, other.flows)
}

pub(crate) fn describe(machine: &Machine) {
    println!(
        "{}, {} CPUs, Linux {}, load {:.2}, {} free huge pages\n",
        machine.cpu_model,
        machine.cpus,
        machine.kernel,
        machine.load_average,
        machine.huge_pages_free
    );
}
