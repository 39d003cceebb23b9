//! `vrctl ports`.

use control_api::engine::{ListPortsRequest, PortStatus, port::Role};
use serde::Serialize;

use crate::{
    address,
    cli::WatchOptions,
    exit::Failure,
    peer::{ENGINE, Peers},
    print::{Printer, Row},
    table::{Column, number, text},
    traffic::{Traffic, TrafficRates},
    units,
    watch::{self, Elapsed},
};

/// Lists the ports once, or their rates again and again.
///
/// # Errors
///
/// Fails if the engine cannot be asked.
pub(crate) async fn run(
    options: &WatchOptions,
    peers: &Peers,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let (mut engine, _) = peers.engine().await?;
    let mut fetch = async || peers.rows(ENGINE, engine.list_ports(ListPortsRequest {})).await;
    if let Some(watch) = options.watch {
        return watch::repeat(*options, watch, printer, fetch, rates).await;
    }
    let mut ports = fetch().await?;
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    printer.list(&ports.into_iter().map(PortRow::from).collect::<Vec<_>>())
}

/// A port.
#[derive(Debug, Serialize)]
struct PortRow {
    port: String,
    role: &'static str,
    state: String,
    detail: Option<String>,
    backend: String,
    interface: Option<String>,
    queues: u32,
    vrf: u32,
    addresses: Vec<String>,
    mac: Option<String>,
    mtu_bytes: u32,
    #[serde(flatten)]
    traffic: Traffic,
    forwarded: u64,
    consumed: u64,
    dropped: u64,
    kernel_rx_dropped: u64,
    description: Option<String>,
}

impl From<PortStatus> for PortRow {
    fn from(port: PortStatus) -> Self {
        Self {
            role: role(port.role()),
            addresses: address::ips(&port.addresses),
            mac: address::optional(address::mac(&port.mac)),
            traffic: traffic(&port),
            port: port.name,
            state: port.state,
            detail: address::optional(port.detail),
            backend: port.backend,
            interface: address::optional(port.interface),
            queues: port.queues,
            vrf: port.vrf,
            mtu_bytes: port.mtu_bytes,
            forwarded: port.forwarded,
            consumed: port.consumed,
            dropped: port.dropped,
            kernel_rx_dropped: port.kernel_rx_dropped,
            description: address::optional(port.description),
        }
    }
}

impl Row for PortRow {
    const COLUMNS: &'static [Column] = &[
        text("PORT"),
        text("ROLE"),
        text("STATE"),
        text("BACKEND"),
        text("INTERFACE"),
        text("ADDRESSES"),
        number("MTU"),
        number("RX PACKETS"),
        number("RX BYTES"),
        number("TX PACKETS"),
        number("TX BYTES"),
        number("DROPPED"),
        text("DETAIL"),
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.port.clone(),
            self.role.to_owned(),
            self.state.clone(),
            self.backend.clone(),
            self.interface.clone().unwrap_or_default(),
            self.addresses.join(","),
            self.mtu_bytes.to_string(),
        ];
        cells.extend(self.traffic.cells());
        cells.extend([units::count(self.dropped), self.detail.clone().unwrap_or_default()]);
        cells
    }
}

/// A port's rates.
#[derive(Debug, Serialize)]
struct PortRateRow {
    port: String,
    state: String,
    #[serde(flatten)]
    traffic: TrafficRates,
    dropped_per_second: Option<u64>,
}

impl Row for PortRateRow {
    const COLUMNS: &'static [Column] = &[
        text("PORT"),
        text("STATE"),
        number("RX PACKETS/S"),
        number("RX BIT/S"),
        number("TX PACKETS/S"),
        number("TX BIT/S"),
        number("DROPPED/S"),
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.port.clone(), self.state.clone()];
        cells.extend(self.traffic.cells());
        cells.push(units::optional_rate(self.dropped_per_second));
        cells
    }
}

fn rates(before: &[PortStatus], now: &[PortStatus], elapsed: Elapsed) -> Vec<PortRateRow> {
    let mut rows: Vec<_> = now
        .iter()
        .map(|port| {
            let old = before.iter().find(|old| old.name == port.name);
            PortRateRow {
                port: port.name.clone(),
                state: port.state.clone(),
                traffic: traffic(port).rates(old.map(traffic), elapsed),
                dropped_per_second: old.and_then(|old| elapsed.rate(old.dropped, port.dropped)),
            }
        })
        .collect();
    rows.sort_by(|a, b| a.port.cmp(&b.port));
    rows
}

fn traffic(port: &PortStatus) -> Traffic {
    let &PortStatus { rx_packets, rx_bytes, tx_packets, tx_bytes, .. } = port;
    Traffic { rx_packets, rx_bytes, tx_packets, tx_bytes }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "unspecified",
        Role::Uplink => "uplink",
        Role::Host => "host",
        Role::Guest => "guest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_json_output_is_the_documented_one() {
        assert_documented("ports", &PortRow::from(PortStatus::default()));
        let rows = rates(&[], &[PortStatus::default()], Elapsed::SECOND);
        assert_documented("ports --watch", &rows[0]);
    }
}
