//! `vrctl workers --stages`.

use control_api::engine::{StageStatus, WorkerStatus};
use serde::Serialize;

use crate::{
    print::Row,
    table::{Column, number, text},
    units,
    watch::Elapsed,
};

/// What one stage of a worker's work takes.
#[derive(Debug, Serialize)]
pub(super) struct StageRow {
    worker: u32,
    stage: String,
    /// Packets of the bursts that were measured.
    packets: u64,
    /// Cycles of the time-stamp counter that the stage took for them.
    cycles: u64,
    cycles_per_packet: f64,
}

impl Row for StageRow {
    const COLUMNS: &'static [Column] =
        &[number("WORKER"), text("STAGE"), number("CYCLES/PACKET"), number("MEASURED")];

    fn cells(&self) -> Vec<String> {
        vec![
            self.worker.to_string(),
            self.stage.clone(),
            format!("{:.1}", self.cycles_per_packet),
            units::count(self.packets),
        ]
    }
}

/// Since the engine's start.
pub(super) fn since_start(workers: &[WorkerStatus]) -> Vec<StageRow> {
    rows(&[], workers)
}

/// Between two questions.
pub(super) fn between(
    before: &[WorkerStatus],
    now: &[WorkerStatus],
    _elapsed: Elapsed,
) -> Vec<StageRow> {
    rows(before, now)
}

fn rows(before: &[WorkerStatus], now: &[WorkerStatus]) -> Vec<StageRow> {
    let none = StageStatus::default();
    let mut rows = Vec::new();
    for worker in now {
        let old = before.iter().find(|old| old.index == worker.index);
        for stage in &worker.stages {
            let old = old
                .and_then(|old| old.stages.iter().find(|old| old.stage == stage.stage))
                // Counters that fell are those of an engine that started anew.
                .filter(|old| old.packets <= stage.packets)
                .unwrap_or(&none);
            let packets = stage.packets.saturating_sub(old.packets);
            let cycles = stage.cycles.saturating_sub(old.cycles);
            rows.push(StageRow {
                worker: worker.index,
                stage: stage.stage.clone(),
                packets,
                cycles,
                cycles_per_packet: units::ratio(cycles, packets),
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    fn worker(packets: u64, cycles: u64) -> WorkerStatus {
        let stage = StageStatus { stage: "parse".to_owned(), packets, cycles };
        WorkerStatus { stages: vec![stage], ..WorkerStatus::default() }
    }

    #[test]
    fn a_watch_shows_what_came_since_the_last_question() {
        let of = |before: &[WorkerStatus], now: WorkerStatus| {
            let rows = rows(before, &[now]);
            (rows[0].packets, rows[0].cycles_per_packet)
        };
        assert_eq!(of(&[], worker(64, 1280)), (64, 20.0));
        assert_eq!(of(&[worker(64, 1280)], worker(128, 1920)), (64, 10.0));
        assert_eq!(of(&[worker(640, 9999)], worker(64, 640)), (64, 10.0), "a new engine");
        assert_eq!(of(&[worker(64, 640)], worker(64, 640)), (0, 0.0));
    }

    #[test]
    fn the_json_output_is_the_documented_one() {
        assert_documented("workers --stages", &since_start(&[worker(1, 1)])[0]);
    }
}
