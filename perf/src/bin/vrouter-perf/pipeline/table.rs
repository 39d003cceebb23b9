//! The results, for people and for programs.
#![expect(clippy::print_stdout, reason = "results go to the standard output")]

use std::{io, path::Path};

use super::{Row, Setting};
use crate::report;

/// Writes the rows: JSON where it was asked for, and a table unless that went to the standard
/// output.
pub(super) fn show(setting: &Setting, rows: &[Row], json: Option<&Path>) -> io::Result<()> {
    if !report::write_rows(&setting.machine, rows, json)? {
        return Ok(());
    }
    report::describe(&setting.machine);
    println!(
        "worker on CPU {}, time-stamp counter {:.3} GHz\n",
        setting.cpu,
        setting.cycles_per_second / 1e9
    );
    println!(
        "{:<13} {:>9} {:>6} {:>8} {:>7} {:>17} {:>7} {:>6} {:>9}",
        "CASE", "FLOWS", "FRAME", "CYCLES", "QUARTER", "[MIN-MAX]", "MPPS", "ALLOCS", "DROPS"
    );
    for row in rows {
        let figures = row.cycles_per_packet;
        println!(
            "{:<13} {:>9} {:>6} {:>8.1} {:>7.1} {:>17} {:>7.2} {:>6.2} {:>9}  {}",
            row.case,
            row.flows,
            row.frame_bytes,
            figures.median,
            row.lower_quartile,
            format!("[{:.1}-{:.1}]", figures.min, figures.max),
            row.mpps,
            row.allocations_per_packet,
            row.drops,
            remarks(row).join(", "),
        );
    }
    println!(
        "\nCYCLES: of the time-stamp counter, a packet; the median of the windows. \
         QUARTER: a quarter of the windows took less."
    );
    Ok(())
}

/// The marks, with the figures that belong to them.
fn remarks(row: &Row) -> Vec<String> {
    let churn = row.quiet_cycles_per_packet.zip(row.updates_per_second).map(|(quiet, rate)| {
        let more = (row.cycles_per_packet.median / quiet.median - 1.0) * 100.0;
        format!("{:.1} without churn ({more:+.1} %), {rate:.0} updates/s", quiet.median)
    });
    let mark = |mark: &&str| match *mark {
        "dropped" => {
            let reasons = row.drops_by_reason.iter();
            let reasons: Vec<_> =
                reasons.map(|(reason, count)| format!("{count} {reason}")).collect();
            format!("dropped: {}", reasons.join(" "))
        }
        "preempted" => format!("preempted {} times", row.preemptions),
        mark => mark.to_owned(),
    };
    churn.into_iter().chain(row.marks.iter().map(mark)).collect()
}
