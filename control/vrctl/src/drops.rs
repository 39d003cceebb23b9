//! `vrctl drops`.

mod trace;

use std::collections::BTreeMap;

use control_api::engine::{DropStatus, ListDropsRequest};
use serde::Serialize;

use crate::{
    address,
    cli::DropOptions,
    exit::Failure,
    peer::{ENGINE, Peers},
    print::{Printer, Row},
    table::{Column, number, text},
    units,
    watch::{self, Elapsed},
};

/// Lists dropped packets once, or their rates again and again.
///
/// # Errors
///
/// Fails if the engine cannot be asked.
pub(crate) async fn run(
    options: &DropOptions,
    peers: &Peers,
    printer: &mut Printer,
) -> Result<(), Failure> {
    if options.trace {
        return trace::run(options, peers, printer).await;
    }
    let (mut engine, _) = peers.engine().await?;
    let request = ListDropsRequest { all: options.all };
    let mut fetch = async || {
        let drops = peers.rows(ENGINE, engine.list_drops(request)).await?;
        Ok(group(drops, options.by_port))
    };
    if let Some(watch) = options.watch.watch {
        let all = options.all;
        let compare =
            |before: &[DropRow], now: &[DropRow], elapsed| rates(before, now, elapsed, all);
        return watch::repeat(options.watch, watch, printer, fetch, compare).await;
    }
    printer.list(&fetch().await?)
}

/// Drops for one reason, on one port or on all.
#[derive(Debug, Serialize)]
struct DropRow {
    reason: String,
    /// The ingress port; none for sums, and for packets that came in on no port.
    port: Option<String>,
    packets: u64,
    description: String,
    /// None if nothing is known of the last one.
    last_detail: Option<String>,
}

impl Row for DropRow {
    const COLUMNS: &'static [Column] =
        &[text("REASON"), text("PORT"), number("PACKETS"), text("MEANING"), text("LAST")];

    fn cells(&self) -> Vec<String> {
        vec![
            self.reason.clone(),
            self.port.clone().unwrap_or_default(),
            units::count(self.packets),
            self.description.clone(),
            self.last_detail.clone().unwrap_or_default(),
        ]
    }
}

/// Drops a second for one reason.
#[derive(Debug, Serialize)]
struct DropRateRow {
    reason: String,
    port: Option<String>,
    packets_per_second: Option<u64>,
    packets: u64,
    description: String,
    last_detail: Option<String>,
}

impl Row for DropRateRow {
    const COLUMNS: &'static [Column] = &[
        text("REASON"),
        text("PORT"),
        number("PACKETS/S"),
        number("PACKETS"),
        text("MEANING"),
        text("LAST"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.reason.clone(),
            self.port.clone().unwrap_or_default(),
            units::optional_rate(self.packets_per_second),
            units::count(self.packets),
            self.description.clone(),
            self.last_detail.clone().unwrap_or_default(),
        ]
    }
}

/// One row per reason, or per reason and port; most packets first.
fn group(drops: Vec<DropStatus>, by_port: bool) -> Vec<DropRow> {
    let mut groups: BTreeMap<(String, Option<String>), DropRow> = BTreeMap::new();
    for drop in drops {
        let port = (by_port && !drop.port.is_empty()).then_some(drop.port);
        let row = groups.entry((drop.reason.clone(), port.clone())).or_insert(DropRow {
            reason: drop.reason,
            port,
            packets: 0,
            description: drop.description,
            last_detail: None,
        });
        row.packets = row.packets.saturating_add(drop.packets);
        // Of several ports, one's stands for all.
        row.last_detail = row.last_detail.take().or_else(|| address::optional(drop.last_detail));
    }
    let mut rows: Vec<_> = groups.into_values().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.packets));
    rows
}

/// What was dropped in between; also what was not, if all is asked for.
fn rates(before: &[DropRow], now: &[DropRow], elapsed: Elapsed, all: bool) -> Vec<DropRateRow> {
    let mut rows: Vec<_> = now
        .iter()
        .map(|row| {
            let old = before.iter().find(|old| old.reason == row.reason && old.port == row.port);
            // The engine lists a reason from its first drop on: before that there were none.
            let packets_before = old.map_or(0, |old| old.packets);
            DropRateRow {
                reason: row.reason.clone(),
                port: row.port.clone(),
                packets_per_second: elapsed.rate(packets_before, row.packets),
                packets: row.packets,
                description: row.description.clone(),
                last_detail: row.last_detail.clone(),
            }
        })
        .filter(|row| all || row.packets_per_second != Some(0))
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.packets_per_second));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    fn drop(reason: &str, port: &str, packets: u64) -> DropStatus {
        DropStatus {
            reason: reason.into(),
            port: port.into(),
            packets,
            description: "why".into(),
            ..DropStatus::default()
        }
    }

    #[test]
    fn drops_are_summed_by_reason_unless_ports_are_asked_for() {
        let drops = || {
            vec![
                drop("route_none", "ns/a", 1),
                drop("route_none", "ns/b", 2),
                drop("ttl_exceeded", "ns/a", 7),
            ]
        };
        let packets = |rows: Vec<DropRow>| rows.iter().map(|row| row.packets).collect::<Vec<_>>();
        assert_eq!(packets(group(drops(), false)), [7, 3]);
        assert_eq!(packets(group(drops(), true)), [7, 2, 1]);
    }

    #[test]
    fn a_sum_tells_of_one_of_its_ports_what_is_known() {
        let known = DropStatus { last_detail: "ns/b is isolated".into(), ..drop("x", "ns/b", 1) };
        let rows = group(vec![drop("x", "ns/a", 1), known, drop("x", "ns/c", 1)], false);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].last_detail.as_deref(), Some("ns/b is isolated"));
        assert!(rows[0].cells().contains(&"ns/b is isolated".to_owned()));
    }

    #[test]
    fn the_json_output_is_the_documented_one() {
        let rows = group(vec![drop("route_none", "ns/a", 1)], true);
        assert_documented("drops", &rows[0]);
        assert_documented("drops --watch", &rates(&[], &rows, Elapsed::SECOND, true)[0]);
    }
}
