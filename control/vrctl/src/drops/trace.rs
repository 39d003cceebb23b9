//! `vrctl drops --trace`.

use std::fmt::Write as _;

use control_api::engine::{DropExample, ListDropExamplesRequest};
use serde::Serialize;

use crate::{
    address,
    cli::DropOptions,
    exit::Failure,
    flows::protocol_name,
    peer::{ENGINE, Peers},
    print::{Printer, Row},
    table::{Column, number, text},
    units,
};

/// Lists packets that were dropped lately, the newest first.
///
/// # Errors
///
/// Fails if the engine cannot be asked, or knows no such reason.
pub(super) async fn run(
    options: &DropOptions,
    peers: &Peers,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let (mut engine, _) = peers.engine().await?;
    let request = ListDropExamplesRequest {
        port: options.port.clone().unwrap_or_default(),
        reason: options.reason.clone().unwrap_or_default(),
        limit: options.limit,
    };
    let examples = peers.rows(ENGINE, engine.list_drop_examples(request)).await?;
    printer.list(&examples.into_iter().map(ExampleRow::from).collect::<Vec<_>>())
}

/// A dropped packet.
#[derive(Debug, Serialize)]
struct ExampleRow {
    age_ms: u64,
    worker: u32,
    reason: String,
    /// None for packets that the engine made itself.
    port: Option<String>,
    detail: Option<String>,
    /// Those that isolate the port that denied it.
    policies: Vec<String>,
    /// None, as the addresses, if it is no readable IP packet.
    protocol: Option<String>,
    source: Option<String>,
    /// None for protocols without ports, and for later fragments.
    source_port: Option<u32>,
    destination: Option<String>,
    destination_port: Option<u32>,
    packet_bytes: u32,
    /// The frame's first bytes, in hexadecimal.
    head: String,
}

impl From<DropExample> for ExampleRow {
    fn from(example: DropExample) -> Self {
        let is_readable = !example.source.is_empty();
        let has_ports = (example.source_port, example.destination_port) != (0, 0);
        Self {
            age_ms: example.age_ms,
            worker: example.worker,
            reason: example.reason,
            port: address::optional(example.port),
            detail: address::optional(example.detail),
            policies: example.policies,
            protocol: is_readable.then(|| protocol_name(example.protocol)),
            source: address::optional(address::ip(&example.source)),
            source_port: has_ports.then_some(example.source_port),
            destination: address::optional(address::ip(&example.destination)),
            destination_port: has_ports.then_some(example.destination_port),
            packet_bytes: example.packet_bytes,
            head: hexadecimal(&example.head),
        }
    }
}

impl Row for ExampleRow {
    const COLUMNS: &'static [Column] = &[
        number("AGE"),
        text("REASON"),
        text("PORT"),
        text("PROTOCOL"),
        text("SOURCE"),
        text("DESTINATION"),
        number("BYTES"),
        text("DETAIL"),
    ];

    fn cells(&self) -> Vec<String> {
        let end = |address: &Option<String>, port: Option<u32>| match (address, port) {
            (Some(address), Some(port)) => address::endpoint(address, port),
            (Some(address), None) => address.clone(),
            (None, _) => String::new(),
        };
        vec![
            units::milliseconds(self.age_ms),
            self.reason.clone(),
            self.port.clone().unwrap_or_default(),
            self.protocol.clone().unwrap_or_default(),
            end(&self.source, self.source_port),
            end(&self.destination, self.destination_port),
            self.packet_bytes.to_string(),
            self.detail.clone().unwrap_or_default(),
        ]
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // A string takes whatever is written.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_json_output_is_the_documented_one() {
        assert_documented("drops --trace", &ExampleRow::from(DropExample::default()));
    }

    #[test]
    fn what_cannot_be_read_is_left_empty() {
        let readable = ExampleRow::from(DropExample {
            protocol: 17,
            source: vec![10, 244, 1, 10],
            destination: vec![10, 9, 0, 1],
            source_port: 5000,
            destination_port: 53,
            head: vec![0, 0xab],
            ..DropExample::default()
        });
        assert_eq!(readable.cells()[3..6], ["udp", "10.244.1.10:5000", "10.9.0.1:53"]);
        assert_eq!(readable.head, "00ab");
        let broken = ExampleRow::from(DropExample::default());
        assert_eq!(broken.cells()[3..6], ["", "", ""]);
    }
}
