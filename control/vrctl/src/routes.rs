//! `vrctl routes`.

use control_api::engine::{
    ListRoutesRequest, NextHop, RouteStatus,
    next_hop::{Discard, Via},
};
use serde::Serialize;

use crate::{
    address,
    cli::RouteOptions,
    exit::Failure,
    peer::{ENGINE, Peers},
    print::{Printer, Row},
    table::{Column, number, text},
};

/// Lists routes, or shows the one that an address takes.
///
/// # Errors
///
/// Fails if the engine cannot be asked, or no route leads to the address asked for.
pub(crate) async fn run(
    options: &RouteOptions,
    peers: &Peers,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let (mut engine, _) = peers.engine().await?;
    let request = ListRoutesRequest {
        vrf: options.vrf,
        address: options.get.map(address::to_bytes).unwrap_or_default(),
        limit: options.limit.asked(),
    };
    let routes = peers.rows(ENGINE, engine.list_routes(request)).await?;
    if let Some(address) = options.get
        && routes.is_empty()
    {
        return Err(Failure::NoRoute { address, vrf: options.vrf });
    }
    let mut rows: Vec<_> = routes.into_iter().map(RouteRow::from).collect();
    options.limit.cut(&mut rows, "routes");
    printer.list(&rows)
}

/// A route.
#[derive(Debug, Serialize)]
struct RouteRow {
    vrf: u32,
    prefix: String,
    next_hops: Vec<NextHopRow>,
    origin: String,
}

/// Where a route leads.
#[derive(Debug, Serialize)]
struct NextHopRow {
    /// `port`, `tunnel`, `unreachable` or `blackhole`.
    kind: &'static str,
    /// The port's or tunnel's name.
    name: Option<String>,
}

impl From<RouteStatus> for RouteRow {
    fn from(status: RouteStatus) -> Self {
        let route = status.route.unwrap_or_default();
        let key = route.key.unwrap_or_default();
        Self {
            vrf: key.vrf,
            prefix: key.prefix.as_ref().map(address::prefix).unwrap_or_default(),
            next_hops: route.next_hops.into_iter().map(NextHopRow::from).collect(),
            origin: status.origin,
        }
    }
}

impl From<NextHop> for NextHopRow {
    fn from(next_hop: NextHop) -> Self {
        let (kind, name) = match next_hop.via {
            Some(Via::Port(port)) => ("port", Some(port)),
            Some(Via::Tunnel(tunnel)) => ("tunnel", Some(tunnel)),
            Some(Via::Discard(number)) => match Discard::try_from(number) {
                Ok(Discard::Unreachable) => ("unreachable", None),
                Ok(Discard::Blackhole) => ("blackhole", None),
                Ok(Discard::Unspecified) | Err(_) => ("unknown", None),
            },
            None => ("unknown", None),
        };
        Self { kind, name }
    }
}

impl Row for RouteRow {
    const COLUMNS: &'static [Column] =
        &[number("VRF"), text("PREFIX"), text("NEXT HOP"), text("ORIGIN")];

    fn cells(&self) -> Vec<String> {
        let next_hops = self.next_hops.iter().map(|hop| match &hop.name {
            Some(name) => format!("{} {name}", hop.kind),
            None => hop.kind.to_owned(),
        });
        vec![
            self.vrf.to_string(),
            self.prefix.clone(),
            next_hops.collect::<Vec<_>>().join(", "),
            self.origin.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::assert_documented;

    #[test]
    fn the_json_output_is_the_documented_one() {
        assert_documented("routes", &RouteRow::from(RouteStatus::default()));
    }
}
