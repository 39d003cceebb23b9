//! `vrctl flows`.

use std::str::FromStr;

use control_api::engine::{FlowStatus, ListFlowsRequest};
use serde::Serialize;

use crate::{
    address,
    cli::FlowOptions,
    exit::Failure,
    peer::{ENGINE, Peers},
    print::{Printer, Row},
    table::{Column, number, text},
    units,
};

/// IP protocols that have a name here, with their IANA numbers.
const PROTOCOLS: [(&str, u8); 5] =
    [("icmp", 1), ("tcp", 6), ("udp", 17), ("icmpv6", 58), ("sctp", 132)];

/// An IP protocol on the command line: a name or a number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Protocol(u8);

/// Why a protocol is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected tcp, udp, icmp, icmpv6, sctp or a number from 0 to 255")]
pub(crate) struct ParseProtocolError;

impl FromStr for Protocol {
    type Err = ParseProtocolError;

    fn from_str(text: &str) -> Result<Self, ParseProtocolError> {
        PROTOCOLS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|&(_, number)| Self(number))
            .or_else(|| text.parse().ok().map(Self))
            .ok_or(ParseProtocolError)
    }
}

/// Lists the connections that match.
///
/// # Errors
///
/// Fails if the engine cannot be asked.
pub(crate) async fn run(
    options: &FlowOptions,
    peers: &Peers,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let (mut engine, _) = peers.engine().await?;
    let request = ListFlowsRequest {
        address: options.address.map(address::to_bytes).unwrap_or_default(),
        l4_port: options.port.map_or(0, u32::from),
        port: options.pod.clone().unwrap_or_default(),
        protocol: options.protocol.map(|protocol| u32::from(protocol.0)),
        limit: options.limit.asked(),
    };
    let flows = peers.rows(ENGINE, engine.list_flows(request)).await?;
    let mut rows: Vec<_> = flows.into_iter().map(FlowRow::from).collect();
    options.limit.cut(&mut rows, "connections");
    printer.list(&rows)
}

/// A connection.
#[derive(Debug, Serialize)]
struct FlowRow {
    vrf: u32,
    /// A name, or the number of a protocol without one.
    protocol: String,
    source: String,
    source_port: u32,
    destination: String,
    destination_port: u32,
    state: String,
    ingress_port: String,
    forward_action: String,
    reply_action: String,
    forward_packets: u64,
    forward_bytes: u64,
    reply_packets: u64,
    reply_bytes: u64,
    idle_ms: u32,
    expires_ms: u32,
    config_version: u64,
}

impl From<FlowStatus> for FlowRow {
    fn from(flow: FlowStatus) -> Self {
        Self {
            vrf: flow.vrf,
            protocol: protocol_name(flow.protocol),
            source: address::ip(&flow.source),
            source_port: flow.source_port,
            destination: address::ip(&flow.destination),
            destination_port: flow.destination_port,
            state: flow.state,
            ingress_port: flow.ingress_port,
            forward_action: flow.forward_action,
            reply_action: flow.reply_action,
            forward_packets: flow.forward_packets,
            forward_bytes: flow.forward_bytes,
            reply_packets: flow.reply_packets,
            reply_bytes: flow.reply_bytes,
            idle_ms: flow.idle_ms,
            expires_ms: flow.expires_ms,
            config_version: flow.config_version,
        }
    }
}

impl Row for FlowRow {
    const COLUMNS: &'static [Column] = &[
        text("PROTOCOL"),
        text("SOURCE"),
        text("DESTINATION"),
        text("STATE"),
        text("FROM"),
        text("TO"),
        number("FORWARD PACKETS"),
        number("BYTES"),
        number("REPLY PACKETS"),
        number("BYTES"),
        number("IDLE"),
        number("EXPIRES IN"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            address::endpoint(&self.source, self.source_port),
            address::endpoint(&self.destination, self.destination_port),
            self.state.clone(),
            self.ingress_port.clone(),
            self.forward_action.clone(),
            units::count(self.forward_packets),
            units::bytes(self.forward_bytes),
            units::count(self.reply_packets),
            units::bytes(self.reply_bytes),
            units::milliseconds(u64::from(self.idle_ms)),
            units::milliseconds(u64::from(self.expires_ms)),
        ]
    }
}

/// The protocol's name, or its number if it has none here.
pub(crate) fn protocol_name(number: u32) -> String {
    PROTOCOLS
        .iter()
        .find(|&&(_, known)| u32::from(known) == number)
        .map_or_else(|| number.to_string(), |&(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn a_protocol_is_a_name_or_a_number() {
        assert_eq!("TCP".parse(), Ok(Protocol(6)));
        assert_eq!("icmpv6".parse(), Ok(Protocol(58)));
        assert_eq!("47".parse(), Ok(Protocol(47)));
        assert_eq!("256".parse::<Protocol>(), Err(ParseProtocolError));
        assert_eq!("http".parse::<Protocol>(), Err(ParseProtocolError));
    }

    #[test]
    fn the_json_output_is_the_documented_one() {
        assert_documented("flows", &FlowRow::from(FlowStatus::default()));
    }
}
