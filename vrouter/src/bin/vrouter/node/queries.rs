//! Long lists: routes and flows. The engine's thread only hands out what they are read from.

use std::{collections::HashMap, net::IpAddr, ops::ControlFlow, sync::Arc};

use control_api::engine::{
    FlowStatus, ListFlowsRequest, ListRoutesRequest, NextHop, Prefix, Route, RouteKey, RouteStatus,
    next_hop::{Discard, Via},
};
use flowtable::{ConnectionView, TICKS_PER_SECOND, Ticks};
use vrouter::{
    clock::Now,
    config::{Config, NextHopObject, RouteObject, RouteOrigin, Routes},
    flows::{FlowAction, Flows, shown_ports},
    next_hop::NextHopIndex,
    port::PortRef,
};

use super::{Node, answers::octets};

/// Why a question cannot be answered.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum QueryError {
    #[error("address: {bytes} bytes are no address; send 4 for IPv4 or 16 for IPv6")]
    AddressLength { bytes: usize },
    #[error("{field}: {actual} is out of range; at most {maximum} is possible")]
    OutOfRange { field: &'static str, actual: u32, maximum: u32 },
    #[error("{field}: {count} are too many; ask {maximum} at a time")]
    TooMany { field: &'static str, count: usize, maximum: usize },
    #[error("vrf: there is no VRF {vrf}; 0 is the default one")]
    NoSuchVrf { vrf: u32 },
    #[error("destination: {destination} and the source, {from}, are of two families")]
    TwoFamilies { from: IpAddr, destination: IpAddr },
    #[error("port: there is no port {port}; `vrctl ports` lists them")]
    NoSuchPort { port: String },
    #[error("reason: there is no drop reason {reason}; `vrctl drops --all` lists them")]
    NoSuchReason { reason: String },
}

/// Which routes are asked for, and where they are.
#[derive(Debug)]
pub(crate) struct RouteQuery {
    routes: Routes,
    vrf: Option<u32>,
    address: Option<IpAddr>,
    limit: u64,
}

impl RouteQuery {
    /// Gives each route to `sink` until it breaks or the limit is reached.
    pub(crate) fn visit(self, sink: &mut dyn FnMut(RouteStatus) -> ControlFlow<()>) {
        if let Some(address) = self.address {
            // Without a VRF in the question: the default one.
            if let Some((route, origin)) = self.routes.to(self.vrf.unwrap_or(0), address) {
                let _ = sink(route_status(&route, origin));
            }
            return;
        }
        let mut left = Left::new(self.limit);
        let _ = self.routes.for_each(self.vrf, |route, origin| {
            sink(route_status(&route, origin))?;
            left.count()
        });
    }
}

/// Which flows are asked for, and where they are.
pub(crate) struct FlowQuery {
    flows: Arc<Flows>,
    names: Names,
    address: Option<IpAddr>,
    l4_port: Option<u16>,
    port: Option<(PortRef, NextHopIndex)>,
    protocol: Option<u8>,
    limit: u64,
    now: Now,
}

/// What slots are called, at the moment of the question.
struct Names {
    ports: HashMap<PortRef, Arc<str>>,
    next_hops: HashMap<NextHopIndex, Arc<str>>,
    /// The client's ids, by index.
    vrfs: Vec<u32>,
}

impl FlowQuery {
    /// Gives each flow to `sink` until it breaks or the limit is reached.
    ///
    /// The flows are collected first: while the table is read it cannot reclaim entries, and a
    /// client may be slow.
    pub(crate) fn visit(self, sink: &mut dyn FnMut(FlowStatus) -> ControlFlow<()>) {
        let mut found = Vec::new();
        let mut left = Left::new(self.limit);
        let mut is_over = false;
        self.flows.table().for_each_connection(self.now.ticks(), |view| {
            if !is_over && self.is_asked_for(view) {
                found.push(self.status(view));
                is_over = left.count().is_break();
            }
        });
        for flow in found {
            if sink(flow).is_break() {
                return;
            }
        }
    }

    fn is_asked_for(&self, view: &ConnectionView<FlowAction>) -> bool {
        let keys = [&view.forward, &view.reply];
        let has_address = |address| keys.iter().any(|key| key.source() == address);
        let has_port = |port| keys.iter().any(|key| shown_ports(key).0 == port);
        let goes_through = |(port, next_hop): (PortRef, NextHopIndex)| {
            view.actions.iter().any(|action| {
                action.ingress() == port || action.next_hop().is_some_and(|(it, _)| it == next_hop)
            })
        };
        self.address.is_none_or(has_address)
            && self.l4_port.is_none_or(has_port)
            && self.protocol.is_none_or(|protocol| view.forward.protocol() == protocol)
            && self.port.is_none_or(goes_through)
    }

    fn status(&self, view: &ConnectionView<FlowAction>) -> FlowStatus {
        let [forward, reply] = &view.actions;
        let key = &view.forward;
        let (source_port, destination_port) = shown_ports(key);
        FlowStatus {
            vrf: self.names.vrfs.get(usize::from(key.vrf())).copied().unwrap_or_default(),
            protocol: u32::from(key.protocol()),
            source: octets(key.source()),
            destination: octets(key.destination()),
            source_port: u32::from(source_port),
            destination_port: u32::from(destination_port),
            state: format!("{:?}", view.state),
            forward_packets: view.forward_counters.packets,
            forward_bytes: view.forward_counters.bytes,
            reply_packets: view.reply_counters.packets,
            reply_bytes: view.reply_counters.bytes,
            idle_ms: milliseconds(view.idle),
            expires_ms: milliseconds(view.expires_in),
            forward_action: self.names.way(forward),
            reply_action: self.names.way(reply),
            ingress_port: self
                .names
                .ports
                .get(&forward.ingress())
                .map(ToString::to_string)
                .unwrap_or_default(),
            config_version: u64::from(view.version),
        }
    }
}

impl Names {
    fn of(config: &Config) -> Self {
        let snapshot = config.last_snapshot();
        let entries = || snapshot.ports.iter().flatten();
        let ports = entries().map(|entry| (entry.port, Arc::clone(&entry.name))).collect();
        let of_ports = entries().map(|entry| (entry.next_hop, Arc::clone(&entry.name)));
        let of_tunnels = config
            .tunnels()
            .map(|tunnel| (tunnel.next_hop, Arc::from(tunnel.object.name.as_ref())));
        let vrfs = snapshot.vrfs.iter().map(|vrf| vrf.as_ref().map_or(0, |vrf| vrf.id));
        Self { ports, next_hops: of_ports.chain(of_tunnels).collect(), vrfs: vrfs.collect() }
    }

    fn way(&self, action: &FlowAction) -> String {
        match action.next_hop() {
            None if action.is_denied() => "denied by policy".to_owned(),
            None => "no route".to_owned(),
            Some((NextHopIndex::UNREACHABLE, _)) => "unreachable".to_owned(),
            Some((NextHopIndex::BLACKHOLE, _)) => "blackhole".to_owned(),
            Some((next_hop, _)) => {
                self.next_hops.get(&next_hop).map(ToString::to_string).unwrap_or_default()
            }
        }
    }
}

impl Node {
    /// Prepares a list of routes.
    ///
    /// # Errors
    ///
    /// Fails if the address is none.
    pub(crate) fn routes(&mut self, request: &ListRoutesRequest) -> Result<RouteQuery, QueryError> {
        Ok(RouteQuery {
            routes: self.engine.config().routes(),
            vrf: request.vrf,
            address: address(&request.address)?,
            limit: request.limit,
        })
    }

    /// Prepares a list of flows.
    ///
    /// # Errors
    ///
    /// Fails if the address is none, a number is out of range, or there is no such port.
    pub(crate) fn flows(&mut self, request: &ListFlowsRequest) -> Result<FlowQuery, QueryError> {
        let config = self.engine.config();
        let port = match request.port.as_str() {
            "" => None,
            name => Some(find_port(config, name)?),
        };
        let l4_port = in_range("l4_port", request.l4_port, u16::MAX)?;
        Ok(FlowQuery {
            flows: Arc::clone(&self.flows),
            names: Names::of(config),
            address: address(&request.address)?,
            l4_port: Some(l4_port).filter(|port| *port != 0),
            port,
            protocol: request
                .protocol
                .map(|protocol| in_range("protocol", protocol, u8::MAX))
                .transpose()?,
            limit: request.limit,
            now: self.engine.now(),
        })
    }
}

/// Counts rows down to a limit; 0 stands for none.
struct Left(Option<u64>);

impl Left {
    fn new(limit: u64) -> Self {
        Self((limit > 0).then_some(limit))
    }

    /// One row was given; breaks after the last.
    fn count(&mut self) -> ControlFlow<()> {
        match &mut self.0 {
            Some(left) if *left <= 1 => ControlFlow::Break(()),
            Some(left) => {
                *left -= 1;
                ControlFlow::Continue(())
            }
            None => ControlFlow::Continue(()),
        }
    }
}

fn find_port(config: &Config, name: &str) -> Result<(PortRef, NextHopIndex), QueryError> {
    let mut entries = config.last_snapshot().ports.iter().flatten();
    entries
        .find(|entry| &*entry.name == name)
        .map(|entry| (entry.port, entry.next_hop))
        .ok_or_else(|| QueryError::NoSuchPort { port: name.to_owned() })
}

/// Empty stands for "any".
pub(super) fn address(bytes: &[u8]) -> Result<Option<IpAddr>, QueryError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(Some(v4.into()));
    }
    match (<[u8; 16]>::try_from(bytes), bytes.len()) {
        (Ok(v6), _) => Ok(Some(v6.into())),
        (Err(_), 0) => Ok(None),
        (Err(_), bytes) => Err(QueryError::AddressLength { bytes }),
    }
}

pub(super) fn in_range<T: TryFrom<u32> + Into<u32>>(
    field: &'static str,
    actual: u32,
    maximum: T,
) -> Result<T, QueryError> {
    T::try_from(actual).map_err(|_| QueryError::OutOfRange {
        field,
        actual,
        maximum: maximum.into(),
    })
}

fn route_status(route: &RouteObject, origin: RouteOrigin) -> RouteStatus {
    let next_hop = |next_hop: &NextHopObject| {
        let via = match next_hop {
            NextHopObject::Port(name) => Via::Port(name.to_string()),
            NextHopObject::Tunnel(name) => Via::Tunnel(name.to_string()),
            NextHopObject::Unreachable => Via::Discard(Discard::Unreachable.into()),
            NextHopObject::Blackhole => Via::Discard(Discard::Blackhole.into()),
        };
        NextHop { via: Some(via) }
    };
    let prefix = route.key.prefix;
    let key = RouteKey {
        vrf: route.key.vrf,
        prefix: Some(Prefix {
            address: octets(prefix.addr()),
            length: u32::from(prefix.prefix_len()),
        }),
    };
    let origin = match origin {
        RouteOrigin::Static => "static",
        RouteOrigin::Port => "port",
    };
    RouteStatus {
        route: Some(Route {
            key: Some(key),
            next_hops: route.next_hops.iter().map(next_hop).collect(),
        }),
        origin: origin.to_owned(),
    }
}

/// Ticks of the flow table as milliseconds.
fn milliseconds(ticks: Ticks) -> u32 {
    ticks.saturating_mul(1000 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_n_lets_n_rows_through_and_0_all() {
        let rows = |limit| {
            let mut left = Left::new(limit);
            (1..=10).find(|_| left.count().is_break())
        };
        assert_eq!(rows(1), Some(1));
        assert_eq!(rows(3), Some(3));
        assert_eq!(rows(0), None);
    }

    #[test]
    fn an_address_has_4_or_16_bytes_or_none() {
        assert_eq!(address(&[]), Ok(None));
        assert_eq!(address(&[10, 0, 0, 1]), Ok(Some("10.0.0.1".parse().unwrap())));
        assert_eq!(address(&[0; 16]), Ok(Some("::".parse().unwrap())));
        assert_eq!(address(&[1, 2, 3]), Err(QueryError::AddressLength { bytes: 3 }));
    }

    #[test]
    fn a_number_beyond_its_field_is_an_error_with_the_field() {
        assert_eq!(in_range("l4_port", 65_535, u16::MAX), Ok(u16::MAX));
        let error = in_range("protocol", 256, u8::MAX).unwrap_err().to_string();
        assert_eq!(error, "protocol: 256 is out of range; at most 255 is possible");
    }
}
