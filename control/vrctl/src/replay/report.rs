//! What a replay says about ports and packets.

use std::{collections::BTreeMap, fmt::Write as _};

use control::compile::replay::ReplayPort;
use serde::Serialize;
use vrouter::replay::{ReplayDrop, ReplaySummary};

use crate::{
    print::Row,
    table::{Column, Table, number, text},
    units,
};

/// A port of the replayed node.
#[derive(Debug, Serialize)]
pub(super) struct PortRow {
    port: String,
    mac: String,
    /// None for the uplink.
    gateway_mac: Option<String>,
    addresses: Vec<String>,
}

impl From<ReplayPort> for PortRow {
    fn from(port: ReplayPort) -> Self {
        Self {
            port: port.port,
            mac: port.mac.to_string(),
            gateway_mac: port.gateway_mac.map(|mac| mac.to_string()),
            addresses: port.addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Row for PortRow {
    const COLUMNS: &'static [Column] =
        &[text("PORT"), text("MAC"), text("GATEWAY MAC"), text("ADDRESSES")];

    fn cells(&self) -> Vec<String> {
        vec![
            self.port.clone(),
            self.mac.clone(),
            self.gateway_mac.clone().unwrap_or_default(),
            self.addresses.join(","),
        ]
    }
}

/// A frame that was dropped, as `drops.json` has it.
#[derive(Debug, Serialize)]
pub(super) struct DropEntry<'a> {
    index: usize,
    port: &'a str,
    reason: &'static str,
    detail: &'a str,
}

impl<'a> From<&'a ReplayDrop> for DropEntry<'a> {
    fn from(drop: &'a ReplayDrop) -> Self {
        let ReplayDrop { index, port, reason, detail } = drop;
        Self { index: *index, port, reason: reason.label(), detail }
    }
}

/// What became of all frames, as `summary.json` has it.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    ports: Vec<PortSummary>,
    /// Packets by reason.
    drops: BTreeMap<&'static str, u64>,
    balance: BalanceSummary,
}

#[derive(Debug, Serialize)]
struct PortSummary {
    port: String,
    received: u64,
    forwarded: u64,
    consumed: u64,
    dropped: u64,
    sent: u64,
}

#[derive(Debug, Serialize)]
struct BalanceSummary {
    received: u64,
    generated: u64,
    replicated: u64,
    segmented: u64,
    sent: u64,
    consumed: u64,
    dropped: u64,
    merged: u64,
}

impl From<&ReplaySummary> for Summary {
    fn from(summary: &ReplaySummary) -> Self {
        let ports = summary.ports.iter().map(|(name, port)| PortSummary {
            port: name.clone(),
            received: port.received,
            forwarded: port.forwarded,
            consumed: port.consumed,
            dropped: port.dropped,
            sent: port.sent,
        });
        let balance = &summary.balance;
        Self {
            ports: ports.collect(),
            drops: summary.reasons.iter().map(|(reason, count)| (reason.label(), *count)).collect(),
            balance: BalanceSummary {
                received: balance.received,
                generated: balance.generated,
                replicated: balance.replicated,
                segmented: balance.segmented,
                sent: balance.sent,
                consumed: balance.consumed,
                dropped: balance.dropped,
                merged: balance.merged,
            },
        }
    }
}

impl Summary {
    /// For people: a line a port, then a line a reason.
    pub(super) fn to_text(&self) -> String {
        const PORTS: &[Column] = &[
            text("PORT"),
            number("RECEIVED"),
            number("FORWARDED"),
            number("CONSUMED"),
            number("DROPPED"),
            number("SENT"),
        ];
        const DROPS: &[Column] = &[text("REASON"), number("PACKETS")];
        let ports = self.ports.iter().map(|port| {
            let counts = [port.received, port.forwarded, port.consumed, port.dropped, port.sent];
            let mut cells = vec![port.port.clone()];
            cells.extend(counts.map(units::count));
            cells
        });
        let mut text = table(PORTS, ports);
        if !self.drops.is_empty() {
            let drops = self.drops.iter();
            let drops =
                drops.map(|(reason, count)| vec![(*reason).to_owned(), units::count(*count)]);
            let _ = write!(text, "\n{}", table(DROPS, drops));
        }
        text
    }
}

fn table(columns: &'static [Column], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut out = Vec::new();
    let rows: Vec<_> = rows.collect();
    // A vector takes whatever is written.
    let _ = Table::new(columns).write(&mut out, &rows, false);
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use control::mac::MacAddress;

    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_json_output_is_the_documented_one() {
        let address = "10.244.1.5".parse().unwrap();
        let row = PortRow::from(ReplayPort {
            port: "default/web".to_owned(),
            mac: MacAddress::from_ip(address),
            gateway_mac: None,
            addresses: vec![address],
        });
        assert_documented("replay --ports", &row);
        assert_eq!(row.mac, "0a:58:0a:f4:01:05");
    }
}
