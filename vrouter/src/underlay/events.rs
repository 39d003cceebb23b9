//! What the kernel tells without being asked.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::LinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use ipnet::IpNet;

use super::{
    Link, NeighbourKey,
    kernel::{NeighbourEntry, link, neighbour},
};
use crate::netlink::messages;

/// The groups that are followed, of `linux/rtnetlink.h`: links, neighbours, and routes and rules of
/// both families.
const GROUPS: [u32; 6] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_NEIGH,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
];
/// What the kernel may have to tell at once: 1 MiB are some thousand changes.
const RECEIVE_BUFFER_BYTES: i32 = 1 << 20;
/// Datagrams read at once at most; the descriptor stays readable while there are more.
const DATAGRAMS_MAX: usize = 1024;

/// Something happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Event {
    /// An interface is new or different.
    Link(u32, Link),
    /// An interface is gone.
    LinkGone(u32),
    /// Routes to a prefix are different; `None`: it may be any, as with rules.
    Routes(Option<IpNet>),
    /// A neighbour is new or different.
    Neighbour(NeighbourKey, NeighbourEntry),
    /// The kernel has forgotten a neighbour.
    NeighbourGone(NeighbourKey),
    /// Something happened that we were not told.
    Lost,
}

/// The kernel's announcements.
#[derive(Debug)]
pub(super) struct Events {
    socket: Socket,
}

impl Events {
    pub(super) fn subscribe() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        // The system may allow less; then more is lost, which is noticed.
        let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER_BYTES);
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self { socket })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Appends what happened since the last call, also if it fails then. Does not wait.
    pub(super) fn read(&self, events: &mut Vec<Event>) -> io::Result<()> {
        for _ in 0..DATAGRAMS_MAX {
            match self.socket.recv_from_full() {
                Ok((datagram, _)) => {
                    let payloads = messages(&datagram).map(|(_, payload)| payload);
                    events.extend(payloads.filter_map(|payload| match payload {
                        NetlinkPayload::InnerMessage(message) => event(&message),
                        _ => None,
                    }));
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    events.push(Event::Lost);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    match message {
        // Messages of another family are about an interface's part in something, such as a bridge.
        RouteNetlinkMessage::NewLink(message) => {
            let (index, link) = link(message);
            is_about_the_link(message).then_some(Event::Link(index, link))
        }
        RouteNetlinkMessage::DelLink(message) => {
            is_about_the_link(message).then_some(Event::LinkGone(message.header.index))
        }
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
            is_of_interest(message).then(|| Event::Routes(prefix(message)))
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => {
            Some(Event::Routes(None))
        }
        RouteNetlinkMessage::NewNeighbour(message) => {
            neighbour(message).map(|(key, entry)| Event::Neighbour(key, entry))
        }
        RouteNetlinkMessage::DelNeighbour(message) => {
            neighbour(message).map(|(key, _)| Event::NeighbourGone(key))
        }
        _ => None,
    }
}

fn is_about_the_link(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

/// Whether a route may lead to another node. Every interface that comes or goes brings link-local
/// and multicast ones.
fn is_of_interest(message: &RouteMessage) -> bool {
    if matches!(
        message.header.kind,
        RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast
    ) {
        return false;
    }
    !message.attributes.iter().any(|attribute| {
        matches!(attribute, RouteAttribute::Destination(RouteAddress::Inet6(address))
            if address.is_unicast_link_local() || address.is_multicast())
    })
}

/// The prefix that a route is about. A default route has no destination.
fn prefix(message: &RouteMessage) -> Option<IpNet> {
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    let any = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    IpNet::new(destination.unwrap_or(any), message.header.destination_prefix_length).ok()
}
