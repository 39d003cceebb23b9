//! Judging a connection by the policies of the guest ports at its two ends.
//!
//! A connection is allowed if both of its ends allow it: the port that has its source as an own
//! address (*egress*), and the port that it leaves this engine through (*ingress*). An end that is
//! not at a guest port of this engine is judged by its own node, if it has one. Two kinds of
//! connections are allowed whatever the policies say: from one of this node's own addresses to a
//! guest port, and from a port to itself.
//!
//! Packets and `Explain` are judged here, by the same functions.

#![warn(clippy::indexing_slicing)]

use std::net::IpAddr;

use crate::{
    config::PROTOCOLS_WITH_PORTS,
    fib::FibMatch,
    next_hop::{NextHop, NextHopIndex},
    policy::{PolicySet, RuleIndex},
    port::Role,
    snapshot::{PolicyIndex, PortEntry, Snapshot, VrfIndex},
};

/// A connection, in the direction of its first packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connection {
    /// Where it is routed.
    pub vrf: VrfIndex,
    /// Who opens it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// The IP protocol's number.
    pub protocol: u8,
    /// The destination port; of no meaning for protocols that have none.
    pub destination_port: u16,
}

impl Connection {
    /// The destination port, of TCP, UDP and SCTP.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        PROTOCOLS_WITH_PORTS.contains(&self.protocol).then_some(self.destination_port)
    }
}

/// What one end of a connection says to it.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'a> {
    /// No guest port of this engine has that end.
    NotHere,
    /// The port is not isolated in this direction.
    NotIsolated(&'a PortEntry),
    /// The connection is from the port to itself.
    Itself(&'a PortEntry),
    /// The connection is from one of this node's own addresses.
    FromNode(&'a PortEntry),
    /// A rule allows it.
    Allowed {
        /// The port.
        port: &'a PortEntry,
        /// What judged.
        set: &'a PolicySet,
        /// The first rule of the set that allows it.
        rule: RuleIndex,
    },
    /// The port is isolated, and no rule allows it.
    Denied {
        /// The port.
        port: &'a PortEntry,
        /// What judged.
        set: Option<&'a PolicySet>,
    },
}

impl<'a> Verdict<'a> {
    /// The port that judged.
    #[must_use]
    pub fn port(&self) -> Option<&'a PortEntry> {
        match *self {
            Self::NotHere => None,
            Self::NotIsolated(port)
            | Self::Itself(port)
            | Self::FromNode(port)
            | Self::Allowed { port, .. }
            | Self::Denied { port, .. } => Some(port),
        }
    }
}

impl Snapshot {
    /// What the source's port says. `source` and `destination` are the ports that have the
    /// connection's addresses, if there are such.
    #[must_use]
    pub fn judge_egress<'a>(
        &'a self,
        connection: &Connection,
        source: Option<&'a PortEntry>,
        destination: Option<&'a PortEntry>,
    ) -> Verdict<'a> {
        let Some(port) = source.filter(|port| port.role == Role::Guest) else {
            return Verdict::NotHere;
        };
        if destination.is_some_and(|destination| destination.port == port.port) {
            return Verdict::Itself(port);
        }
        self.judge(port, port.egress_policy, connection, connection.destination)
    }

    /// What the port says that the connection leaves through. `source` is the port that has its
    /// source address, if there is one.
    #[must_use]
    pub fn judge_ingress<'a>(
        &'a self,
        connection: &Connection,
        source: Option<&'a PortEntry>,
        through: Option<&'a PortEntry>,
    ) -> Verdict<'a> {
        let Some(port) = through.filter(|port| port.role == Role::Guest) else {
            return Verdict::NotHere;
        };
        match source {
            Some(source) if source.port == port.port => Verdict::Itself(port),
            Some(source) if source.role == Role::Host => Verdict::FromNode(port),
            _ => self.judge(port, port.ingress_policy, connection, connection.source),
        }
    }

    fn judge<'a>(
        &'a self,
        port: &'a PortEntry,
        policy: Option<PolicyIndex>,
        connection: &Connection,
        peer: IpAddr,
    ) -> Verdict<'a> {
        let Some(index) = policy else { return Verdict::NotIsolated(port) };
        let set = self.policies.get(index);
        let rule = set
            .and_then(|set| Some((set, set.judge(peer, connection.protocol, connection.port())?)));
        match rule {
            Some((set, rule)) => Verdict::Allowed { port, set, rule },
            None => Verdict::Denied { port, set },
        }
    }

    /// What the two ends say to a connection: the source's, then the destination's.
    #[must_use]
    pub fn explain(&self, connection: &Connection) -> [Verdict<'_>; 2] {
        let find = |address| self.vrf(connection.vrf)?.fib.lookup(address);
        let there = find(connection.destination);
        let source = self.owner(connection.source, find(connection.source));
        let destination = self.owner(connection.destination, there);
        let way = there.and_then(|found| self.pick(found.group, 0));
        let through = destination.or_else(|| self.port_through(way?));
        [
            self.judge_egress(connection, source, destination),
            self.judge_ingress(connection, source, through),
        ]
    }

    /// The port that has `address`, which `found` is the route of, as an own address.
    #[must_use]
    pub fn owner(&self, address: IpAddr, found: Option<FibMatch>) -> Option<&PortEntry> {
        // A port's own address is a route through that port only.
        let port = self.port_through(self.pick(found?.group, 0)?)?;
        port.addresses.contains(&address).then_some(port)
    }

    /// The port that a next hop is.
    #[must_use]
    pub fn port_through(&self, next_hop: NextHopIndex) -> Option<&PortEntry> {
        match &self.next_hops.slot(next_hop)?.hop {
            NextHop::Port(hop) => self.port(hop.port),
            _ => None,
        }
    }
}
