//! `vrctl neighbours`.

use control_api::engine::{ListNeighboursRequest, NeighbourStatus};
use serde::Serialize;

use crate::{
    address,
    exit::Failure,
    peer::{ENGINE, Peers},
    print::{Printer, Row},
    table::{Column, text},
};

/// Lists next hops and pods with their MAC addresses.
///
/// # Errors
///
/// Fails if the engine cannot be asked.
pub(crate) async fn run(peers: &Peers, printer: &mut Printer) -> Result<(), Failure> {
    let (mut engine, _) = peers.engine().await?;
    let neighbours = engine.list_neighbours(ListNeighboursRequest {});
    let mut neighbours = peers.rows(ENGINE, neighbours).await?;
    neighbours.sort_by(|a, b| (&a.port, &a.address).cmp(&(&b.port, &b.address)));
    printer.list(&neighbours.into_iter().map(NeighbourRow::from).collect::<Vec<_>>())
}

/// A neighbour.
#[derive(Debug, Serialize)]
struct NeighbourRow {
    address: String,
    mac: Option<String>,
    port: String,
    state: String,
}

impl From<NeighbourStatus> for NeighbourRow {
    fn from(neighbour: NeighbourStatus) -> Self {
        Self {
            address: address::ip(&neighbour.address),
            mac: address::optional(address::mac(&neighbour.mac)),
            port: neighbour.port,
            state: neighbour.state,
        }
    }
}

impl Row for NeighbourRow {
    const COLUMNS: &'static [Column] = &[text("ADDRESS"), text("MAC"), text("PORT"), text("STATE")];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.clone(),
            self.mac.clone().unwrap_or_default(),
            self.port.clone(),
            self.state.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_json_output_is_the_documented_one() {
        assert_documented("neighbours", &NeighbourRow::from(NeighbourStatus::default()));
    }
}
