//! What is asked of the kernel about the underlay, and how its answers read.

use std::{collections::BTreeMap, io, net::IpAddr};

use encap::MacAddress;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage, State},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia},
};

use super::{Link, NeighbourKey};
use crate::netlink::Connection;

/// The kernel's answers.
#[derive(Debug)]
pub(super) struct Kernel {
    connection: Connection,
}

/// Where the kernel would send a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Route {
    /// Nowhere, or a route says so.
    None,
    /// To itself.
    Local,
    /// To a next hop.
    Via {
        interface_index: u32,
        next_hop: IpAddr,
        /// What the route says, if it says something; path MTU discovery does.
        mtu_bytes: Option<u32>,
    },
}

/// What the kernel knows about a neighbour.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NeighbourEntry {
    /// It is being asked.
    Pending,
    /// It does not answer.
    Failed,
    /// It answered, now or before.
    Resolved(MacAddress),
    /// An operator or another program said so.
    Static(MacAddress),
}

impl NeighbourEntry {
    pub(super) fn mac(self) -> Option<MacAddress> {
        match self {
            Self::Resolved(mac) | Self::Static(mac) => Some(mac),
            Self::Pending | Self::Failed => None,
        }
    }

    /// What counts when this comes after `before`. One that failed and is asked once more has
    /// failed all the same, until it answers or is forgotten.
    pub(super) fn after(self, before: Self) -> Self {
        match (before, self) {
            (Self::Failed, Self::Pending) => Self::Failed,
            _ => self,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Resolved(_) => "resolved",
            Self::Static(_) => "static",
        }
    }
}

impl Kernel {
    pub(super) fn connect() -> io::Result<Self> {
        Ok(Self { connection: Connection::open()? })
    }

    /// A kernel that does not answer.
    #[cfg(test)]
    pub(super) fn connect_to_nobody() -> io::Result<Self> {
        Ok(Self { connection: Connection::open_to(u32::MAX)? })
    }

    /// All interfaces.
    pub(super) fn links(&mut self) -> io::Result<BTreeMap<u32, Link>> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.connection.request(request, NLM_F_DUMP)?;
        let links = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(link(message)),
            _ => None,
        });
        Ok(links.collect())
    }

    /// Where the kernel would send a packet to `remote`.
    pub(super) fn route(&mut self, remote: IpAddr) -> io::Result<Route> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(remote);
        message.header.destination_prefix_length = if remote.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(remote)));
        match self.connection.request(RouteNetlinkMessage::GetRoute(message), 0) {
            Ok(answers) => Ok(answers
                .iter()
                .find_map(|answer| match answer {
                    RouteNetlinkMessage::NewRoute(message) => Some(route(remote, message)),
                    _ => None,
                })
                .unwrap_or(Route::None)),
            Err(error) if is_no_route(&error) => Ok(Route::None),
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel keep a neighbour resolved; returns what it knows now. Static entries are
    /// left as they are.
    pub(super) fn manage_neighbour(&mut self, key: NeighbourKey) -> io::Result<NeighbourEntry> {
        let known = self.neighbour(key)?;
        if let Some((entry @ NeighbourEntry::Static(_), _)) = known {
            return Ok(entry);
        }
        let mut message = neighbour_message(key);
        // Managed says "for good", use says "now": older kernels know only the latter, and ignore
        // the former.
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let request = RouteNetlinkMessage::NewNeighbour(message);
        match self.connection.request(request, NLM_F_CREATE) {
            Ok(_) => {}
            // An interface without neighbours, or one that is gone or down: its events follow.
            Err(error) if is_no_neighbour(&error) => return Ok(NeighbourEntry::Failed),
            Err(error) => return Err(error),
        }
        Ok(self.neighbour(key)?.map_or(NeighbourEntry::Pending, |(entry, _)| entry))
    }

    /// Looks at a neighbour again, and asks for it once more if the kernel does not keep it
    /// resolved by itself.
    pub(super) fn remind_neighbour(&mut self, key: NeighbourKey) -> io::Result<NeighbourEntry> {
        match self.neighbour(key)? {
            Some((entry, is_managed)) if is_managed => Ok(entry),
            _ => self.manage_neighbour(key),
        }
    }

    /// Looks again at a neighbour that failed. One that is being removed by somebody fails on its
    /// way out, and is then asked for anew.
    pub(super) fn failed_neighbour(&mut self, key: NeighbourKey) -> io::Result<NeighbourEntry> {
        match self.neighbour(key)? {
            Some((entry, _)) => Ok(entry.after(NeighbourEntry::Failed)),
            None => self.manage_neighbour(key),
        }
    }

    /// Stops keeping a neighbour resolved. The kernel asks anew when it needs it itself.
    pub(super) fn release_neighbour(&mut self, key: NeighbourKey, entry: NeighbourEntry) {
        if !matches!(entry, NeighbourEntry::Static(_)) {
            let request = RouteNetlinkMessage::DelNeighbour(neighbour_message(key));
            // One that is gone already is as good.
            let _ = self.connection.request(request, 0);
        }
    }

    /// What the kernel knows about a neighbour, and whether it keeps it resolved (as it does static
    /// ones).
    fn neighbour(&mut self, key: NeighbourKey) -> io::Result<Option<(NeighbourEntry, bool)>> {
        let request = RouteNetlinkMessage::GetNeighbour(neighbour_message(key));
        match self.connection.request(request, 0) {
            Ok(answers) => Ok(answers.iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => {
                    let (_, entry) = neighbour(message)?;
                    Some((entry, is_kept(message)))
                }
                _ => None,
            })),
            Err(error) if is_no_neighbour(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An interface, from its message.
pub(super) fn link(message: &LinkMessage) -> (u32, Link) {
    let mut link = Link { name: String::new(), is_up: false, mtu_bytes: 0, mac: None };
    let mut has_carrier = true;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(bytes) => link.mtu_bytes = *bytes,
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::OperState(state) => {
                // Simple drivers say nothing about their state: up is as good as unknown (RFC
                // 2863).
                has_carrier = matches!(state, State::Up | State::Unknown | State::Dormant);
            }
            _ => {}
        }
    }
    link.is_up = has_carrier && message.header.flags.contains(LinkFlags::Up);
    (message.header.index, link)
}

/// A neighbour, from its message; `None` for entries of other kinds, such as those of bridges.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, NeighbourEntry)> {
    let (mut address, mut mac_address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac_address = mac(bytes),
            _ => {}
        }
    }
    let entry = match (message.header.state, mac_address) {
        (NeighbourState::Permanent | NeighbourState::Noarp, Some(mac)) => {
            NeighbourEntry::Static(mac)
        }
        (NeighbourState::Failed, _) => NeighbourEntry::Failed,
        (
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe,
            Some(mac),
        ) => NeighbourEntry::Resolved(mac),
        _ => NeighbourEntry::Pending,
    };
    Some(((message.header.ifindex, address?), entry))
}

fn route(remote: IpAddr, message: &RouteMessage) -> Route {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Route::Local,
        _ => return Route::None,
    }
    let (mut interface, mut next_hop, mut mtu_bytes) = (None, remote, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4))
            | RouteAttribute::Via(RouteVia::Inet(v4)) => next_hop = IpAddr::V4(*v4),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6))
            | RouteAttribute::Via(RouteVia::Inet6(v6)) => next_hop = IpAddr::V6(*v6),
            RouteAttribute::Metrics(metrics) => {
                mtu_bytes = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(bytes) if *bytes > 0 => Some(*bytes),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    match interface {
        Some(interface_index) => Route::Via { interface_index, next_hop, mtu_bytes },
        None => Route::None,
    }
}

fn neighbour_message((interface_index, address): NeighbourKey) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = interface_index;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

fn is_kept(message: &NeighbourMessage) -> bool {
    matches!(message.header.state, NeighbourState::Permanent | NeighbourState::Noarp)
        || message.attributes.iter().any(|attribute| {
            matches!(attribute, NeighbourAttribute::ExtFlags(flags)
                if flags.contains(NeighbourExtFlags::Managed))
        })
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn mac(bytes: &[u8]) -> Option<MacAddress> {
    <[u8; 6]>::try_from(bytes).ok().map(MacAddress::new)
}

fn is_no_route(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL | libc::ENODEV)
    )
}

fn is_no_neighbour(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::EINVAL | libc::ENETDOWN | libc::ENXIO)
    )
}
