//! `vrctl workers`.

mod stages;

use control_api::engine::{ListWorkersRequest, WorkerStatus};
use serde::Serialize;

use crate::{
    cli::WorkerOptions,
    exit::Failure,
    peer::{ENGINE, Peers},
    print::{Printer, Row},
    table::{Column, number, text},
    units,
    watch::{self, Elapsed},
};

/// Lists the workers once, or their rates again and again.
///
/// # Errors
///
/// Fails if the engine cannot be asked.
pub(crate) async fn run(
    options: &WorkerOptions,
    peers: &Peers,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let wants_stages = options.stages;
    let (mut engine, _) = peers.engine().await?;
    let mut fetch = async || {
        let mut workers = peers.rows(ENGINE, engine.list_workers(ListWorkersRequest {})).await?;
        workers.sort_by_key(|worker| worker.index);
        Ok(workers)
    };
    if let Some(watch) = options.watch.watch {
        let options = options.watch;
        return if wants_stages {
            watch::repeat(options, watch, printer, fetch, stages::between).await
        } else {
            watch::repeat(options, watch, printer, fetch, rates).await
        };
    }
    let workers = fetch().await?;
    if wants_stages {
        return printer.list(&stages::since_start(&workers));
    }
    printer.list(&workers.into_iter().map(WorkerRow::from).collect::<Vec<_>>())
}

/// A worker since the engine's start.
#[derive(Debug, Serialize)]
struct WorkerRow {
    worker: u32,
    /// None if it is not pinned.
    cpu: Option<u32>,
    /// None if the machine does not say.
    numa_node: Option<u32>,
    idle: String,
    queues: u32,
    /// Share of the last second spent on packets, from 0 to 1.
    busy: f64,
    polls: u64,
    empty_polls: u64,
    packets: u64,
    bursts: u64,
    packets_per_burst: f64,
    busy_nanoseconds: u64,
    sleeps: u64,
    config_version: u64,
    last_poll_ms: u64,
    stalls: u64,
    frames_cached: u64,
}

impl From<WorkerStatus> for WorkerRow {
    fn from(worker: WorkerStatus) -> Self {
        Self {
            worker: worker.index,
            cpu: u32::try_from(worker.cpu).ok(),
            numa_node: u32::try_from(worker.numa_node).ok(),
            idle: worker.idle,
            queues: worker.queues,
            busy: f64::from(worker.busy_ppm) / 1e6,
            polls: worker.polls,
            empty_polls: worker.empty_polls,
            packets: worker.packets,
            bursts: worker.bursts,
            packets_per_burst: units::ratio(worker.packets, worker.bursts),
            busy_nanoseconds: worker.busy_nanoseconds,
            sleeps: worker.sleeps,
            config_version: worker.config_version,
            last_poll_ms: worker.last_poll_ms,
            stalls: worker.stalls,
            frames_cached: worker.frames_cached,
        }
    }
}

impl Row for WorkerRow {
    const COLUMNS: &'static [Column] = &[
        number("WORKER"),
        number("CPU"),
        number("NUMA"),
        text("IDLE"),
        number("QUEUES"),
        number("BUSY"),
        number("PACKETS"),
        number("PACKETS/BURST"),
        number("NS/PACKET"),
        number("POLLS"),
        number("EMPTY"),
        number("VERSION"),
        number("LAST POLL"),
        number("STALLS"),
    ];

    fn cells(&self) -> Vec<String> {
        let optional = |number: Option<u32>| number.map_or_else(String::new, |n| n.to_string());
        vec![
            self.worker.to_string(),
            optional(self.cpu),
            optional(self.numa_node),
            self.idle.clone(),
            self.queues.to_string(),
            format!("{:.1} %", self.busy * 100.0),
            units::count(self.packets),
            format!("{:.1}", self.packets_per_burst),
            format!("{:.0}", units::ratio(self.busy_nanoseconds, self.packets)),
            units::count(self.polls),
            units::percent(self.empty_polls, self.polls),
            self.config_version.to_string(),
            units::milliseconds(self.last_poll_ms),
            units::count(self.stalls),
        ]
    }
}

/// A worker between two questions.
#[derive(Debug, Serialize)]
struct WorkerRateRow {
    worker: u32,
    cpu: Option<u32>,
    busy: f64,
    packets_per_second: Option<u64>,
    packets_per_burst: f64,
    nanoseconds_per_packet: f64,
    polls_per_second: Option<u64>,
    empty_polls_per_second: Option<u64>,
    stalls: u64,
}

impl Row for WorkerRateRow {
    const COLUMNS: &'static [Column] = &[
        number("WORKER"),
        number("CPU"),
        number("BUSY"),
        number("PACKETS/S"),
        number("PACKETS/BURST"),
        number("NS/PACKET"),
        number("POLLS/S"),
        number("EMPTY POLLS/S"),
        number("STALLS"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.worker.to_string(),
            self.cpu.map_or_else(String::new, |cpu| cpu.to_string()),
            format!("{:.1} %", self.busy * 100.0),
            units::optional_rate(self.packets_per_second),
            format!("{:.1}", self.packets_per_burst),
            format!("{:.0}", self.nanoseconds_per_packet),
            units::optional_rate(self.polls_per_second),
            units::optional_rate(self.empty_polls_per_second),
            units::count(self.stalls),
        ]
    }
}

fn rates(before: &[WorkerStatus], now: &[WorkerStatus], elapsed: Elapsed) -> Vec<WorkerRateRow> {
    let none = WorkerStatus::default();
    now.iter()
        .map(|worker| {
            let old = before.iter().find(|old| old.index == worker.index).unwrap_or(&none);
            let rise =
                |counter: fn(&WorkerStatus) -> u64| counter(worker).saturating_sub(counter(old));
            let packets = rise(|worker| worker.packets);
            WorkerRateRow {
                worker: worker.index,
                cpu: u32::try_from(worker.cpu).ok(),
                busy: f64::from(worker.busy_ppm) / 1e6,
                packets_per_second: elapsed.rate(old.packets, worker.packets),
                packets_per_burst: units::ratio(packets, rise(|worker| worker.bursts)),
                nanoseconds_per_packet: units::ratio(
                    rise(|worker| worker.busy_nanoseconds),
                    packets,
                ),
                polls_per_second: elapsed.rate(old.polls, worker.polls),
                empty_polls_per_second: elapsed.rate(old.empty_polls, worker.empty_polls),
                stalls: worker.stalls,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_json_output_is_the_documented_one() {
        assert_documented("workers", &WorkerRow::from(WorkerStatus::default()));
        let rows = rates(&[], &[WorkerStatus::default()], Elapsed::SECOND);
        assert_documented("workers --watch", &rows[0]);
    }
}
