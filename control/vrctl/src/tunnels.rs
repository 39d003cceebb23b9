//! `vrctl tunnels`.

use control_api::engine::{ListTunnelsRequest, TunnelStatus};
use serde::Serialize;

use crate::{
    address,
    cli::WatchOptions,
    exit::Failure,
    peer::{ENGINE, Peers},
    print::{Printer, Row},
    table::{Column, number, text},
    traffic::{Traffic, TrafficRates},
    watch::{self, Elapsed},
};

/// Lists the tunnels once, or their rates again and again.
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
    let mut fetch = async || {
        let tunnels = peers.rows(ENGINE, engine.list_tunnels(ListTunnelsRequest {})).await?;
        let mut rows: Vec<_> = tunnels.into_iter().map(TunnelRow::from).collect();
        rows.sort_by(|a, b| a.tunnel.cmp(&b.tunnel));
        Ok(rows)
    };
    match options.watch {
        Some(watch) => watch::repeat(*options, watch, printer, fetch, rates).await,
        None => printer.list(&fetch().await?),
    }
}

/// A tunnel.
#[derive(Debug, Serialize)]
struct TunnelRow {
    tunnel: String,
    state: String,
    local: Option<String>,
    remote: String,
    vni: u32,
    udp_port: u32,
    remote_router_mac: Option<String>,
    next_hop: Option<String>,
    next_hop_mac: Option<String>,
    mtu_bytes: u32,
    #[serde(flatten)]
    traffic: Traffic,
}

impl From<TunnelStatus> for TunnelRow {
    fn from(status: TunnelStatus) -> Self {
        let tunnel = status.tunnel.unwrap_or_default();
        Self {
            tunnel: tunnel.name,
            state: status.state,
            local: address::optional(address::ip(&status.local)),
            remote: address::ip(&tunnel.remote),
            vni: tunnel.vni,
            udp_port: tunnel.udp_port,
            remote_router_mac: address::optional(address::mac(&tunnel.remote_router_mac)),
            next_hop: address::optional(address::ip(&status.next_hop)),
            next_hop_mac: address::optional(address::mac(&status.next_hop_mac)),
            mtu_bytes: status.mtu_bytes,
            traffic: Traffic {
                rx_packets: status.rx_packets,
                rx_bytes: status.rx_bytes,
                tx_packets: status.tx_packets,
                tx_bytes: status.tx_bytes,
            },
        }
    }
}

impl Row for TunnelRow {
    const COLUMNS: &'static [Column] = &[
        text("TUNNEL"),
        text("STATE"),
        text("LOCAL"),
        text("REMOTE"),
        number("VNI"),
        number("UDP PORT"),
        text("NEXT HOP"),
        number("MTU"),
        number("RX PACKETS"),
        number("RX BYTES"),
        number("TX PACKETS"),
        number("TX BYTES"),
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.tunnel.clone(),
            self.state.clone(),
            self.local.clone().unwrap_or_default(),
            self.remote.clone(),
            self.vni.to_string(),
            self.udp_port.to_string(),
            self.next_hop.clone().unwrap_or_default(),
            self.mtu_bytes.to_string(),
        ];
        cells.extend(self.traffic.cells());
        cells
    }
}

/// A tunnel's rates.
#[derive(Debug, Serialize)]
struct TunnelRateRow {
    tunnel: String,
    state: String,
    #[serde(flatten)]
    traffic: TrafficRates,
}

impl Row for TunnelRateRow {
    const COLUMNS: &'static [Column] = &[
        text("TUNNEL"),
        text("STATE"),
        number("RX PACKETS/S"),
        number("RX BIT/S"),
        number("TX PACKETS/S"),
        number("TX BIT/S"),
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.tunnel.clone(), self.state.clone()];
        cells.extend(self.traffic.cells());
        cells
    }
}

fn rates(before: &[TunnelRow], now: &[TunnelRow], elapsed: Elapsed) -> Vec<TunnelRateRow> {
    now.iter()
        .map(|tunnel| {
            let old = before.iter().find(|old| old.tunnel == tunnel.tunnel);
            TunnelRateRow {
                tunnel: tunnel.tunnel.clone(),
                state: tunnel.state.clone(),
                traffic: tunnel.traffic.rates(old.map(|old| old.traffic), elapsed),
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
        assert_documented("tunnels", &TunnelRow::from(TunnelStatus::default()));
        let rows = rates(&[], &[TunnelRow::from(TunnelStatus::default())], Elapsed::SECOND);
        assert_documented("tunnels --watch", &rows[0]);
    }
}
