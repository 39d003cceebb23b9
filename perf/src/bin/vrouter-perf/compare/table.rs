//! The results, for people and for programs.
#![expect(clippy::print_stdout, reason = "results go to the standard output")]

use std::{io, path::Path};

use super::{Comparison, Row, pods::row::PodRow};
use crate::report;

/// Writes the rows: JSON where it was asked for, and a table unless that went to the standard
/// output.
pub(super) fn show(comparison: &Comparison, json: Option<&Path>) -> io::Result<()> {
    if !report::write_json(comparison, json)? {
        for reason in comparison.skipped.iter().chain(&comparison.failed) {
            eprintln!("{reason}");
        }
        return Ok(());
    }
    report::describe(&comparison.machine);
    println!(
        "forwarding on CPU {}, time-stamp counter {:.3} GHz\n",
        comparison.cpu,
        comparison.cycles_per_second / 1e9
    );
    if !comparison.rows.is_empty() {
        show_rows(&comparison.rows);
    }
    if !comparison.pods.is_empty() {
        show_pods(&comparison.pods);
    }
    for reason in &comparison.skipped {
        println!("{reason}");
    }
    for failure in &comparison.failed {
        println!("FAILED: {failure}");
    }
    Ok(())
}

fn show_rows(rows: &[Row]) {
    println!(
        "{:<22} {:>6} {:<18} {:>7} {:>17} {:>7} {:>6} {:>13}",
        "CASE", "FLOWS", "DATAPLANE", "CYCLES", "[MIN-MAX]", "MPPS", "RATIO", "[MIN-MAX]"
    );
    for row in rows {
        let (cycles, ratio) = (row.cycles_per_packet, row.vrouter_ratio);
        let mark = row.remarks.join("; ");
        println!(
            "{:<22} {:>6} {:<18} {:>7.1} {:>17} {:>7.2} {:>6.2} {:>13}  {}",
            row.case,
            row.flows,
            row.dataplane,
            cycles.median,
            format!("[{:.1}-{:.1}]", cycles.min, cycles.max),
            row.mpps.median,
            ratio.median,
            format!("[{:.2}-{:.2}]", ratio.min, ratio.max),
            mark,
        );
    }
    println!(
        "\nCYCLES: of the time-stamp counter, a packet; the median of the rounds. \
         RATIO: packets of vrouter for each of this one's, in the same round.\n"
    );
    let mut said = Vec::new();
    for row in rows {
        if !said.contains(&(row.dataplane, row.not_fair)) {
            println!("{}, {}: {}", row.dataplane, row.case, row.not_fair);
            said.push((row.dataplane, row.not_fair));
        }
    }
}

fn show_pods(rows: &[PodRow]) {
    println!(
        "{:<17} {:<21} {:>9} {:>13} {:<6} {:>6} {:>13} {:>8}",
        "CASE", "DATAPLANE", "MEDIAN", "[MIN-MAX]", "UNIT", "RATIO", "[MIN-MAX]", "GOAL"
    );
    for row in rows {
        let (figures, ratio) = (row.figures, row.vrouter_ratio);
        println!(
            "{:<17} {:<21} {:>9.2} {:>13} {:<6} {:>6.2} {:>13} {:>8}  {}",
            row.case,
            row.dataplane,
            figures.median,
            format!("[{:.2}-{:.2}]", figures.min, figures.max),
            row.unit,
            ratio.median,
            format!("[{:.2}-{:.2}]", ratio.min, ratio.max),
            row.goal.map_or_else(String::new, |goal| row.goal_text(goal)),
            row.remark(),
        );
    }
    println!(
        "\nMEDIAN: of the rounds; of round trips, of each round's median. \
         RATIO: vrouter-tap's figure (in idle-taps, that with ports) as a part of this one's, in \
         the same round.\n"
    );
    let mut said = Vec::new();
    for row in rows {
        if !said.contains(&(row.dataplane, row.not_fair)) {
            println!("{}, {}: {}", row.dataplane, row.case, row.not_fair);
            said.push((row.dataplane, row.not_fair));
        }
    }
}
