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
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
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
            port: port.name,
            state: port.state,
            detail: address::optional(port.detail),
            backend: port.backend,
            interface: address::optional(port.interface),
            queues: port.queues,
            vrf: port.vrf,
            mtu_bytes: port.mtu_bytes,
            rx_packets: port.rx_packets,
            rx_bytes: port.rx_bytes,
            tx_packets: port.tx_packets,
            tx_bytes: port.tx_bytes,
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
        vec![
            self.port.clone(),
            self.role.to_owned(),
            self.state.clone(),
            self.backend.clone(),
            self.interface.clone().unwrap_or_default(),
            self.addresses.join(","),
            self.mtu_bytes.to_string(),
            units::count(self.rx_packets),
            units::bytes(self.rx_bytes),
            units::count(self.tx_packets),
            units::bytes(self.tx_bytes),
            units::count(self.dropped),
            self.detail.clone().unwrap_or_default(),
        ]
    }
}

/// A port's rates.
#[derive(Debug, Serialize)]
struct PortRateRow {
    port: String,
    state: String,
    rx_packets_per_second: Option<u64>,
    rx_bits_per_second: Option<u64>,
    tx_packets_per_second: Option<u64>,
    tx_bits_per_second: Option<u64>,
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
        vec![
            self.port.clone(),
            self.state.clone(),
            units::optional_rate(self.rx_packets_per_second),
            units::optional_rate(self.rx_bits_per_second),
            units::optional_rate(self.tx_packets_per_second),
            units::optional_rate(self.tx_bits_per_second),
            units::optional_rate(self.dropped_per_second),
        ]
    }
}

fn rates(before: &[PortStatus], now: &[PortStatus], elapsed: Elapsed) -> Vec<PortRateRow> {
    let mut rows: Vec<_> = now
        .iter()
        .map(|port| {
            let old = before.iter().find(|old| old.name == port.name);
            let rate = |counter: fn(&PortStatus) -> u64| {
                old.and_then(|old| elapsed.rate(counter(old), counter(port)))
            };
            PortRateRow {
                port: port.name.clone(),
                state: port.state.clone(),
                rx_packets_per_second: rate(|port| port.rx_packets),
                rx_bits_per_second: rate(|port| port.rx_bytes.saturating_mul(8)),
                tx_packets_per_second: rate(|port| port.tx_packets),
                tx_bits_per_second: rate(|port| port.tx_bytes.saturating_mul(8)),
                dropped_per_second: rate(|port| port.dropped),
            }
        })
        .collect();
    rows.sort_by(|a, b| a.port.cmp(&b.port));
    rows
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
