//! Where packets go: next hops in stable slots.
//!
//! Flows name a slot, not what is in it. So a changed MAC address, tunnel or MTU is in force for
//! all flows with the next snapshot, and makes none stale. A slot that gets another user gets
//! another generation: a flow that was compiled for the former one is told apart.

mod path_mtu;
mod table;

use encap::{MacAddress, vxlan::EncapTemplate, vxlan::TunnelSettings};

pub use path_mtu::{PATH_MTU_LIFETIME_SECONDS, PathMtus};
pub use table::{NextHopSlot, NextHopTable};

use crate::{
    port::{PORTS_MAX, PortRef},
    underlay::{Obstacle, Way},
};

/// Tunnels at most: 5,000 nodes, the size that Kubernetes is tested to, with one way of each
/// family, and room to change.
pub const TUNNELS_MAX: usize = 16_384;
/// Slots at most: each port, each tunnel, and the two ways to discard.
pub const NEXT_HOPS_MAX: usize = 2 + PORTS_MAX + TUNNELS_MAX;

/// Names a slot.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NextHopIndex(pub u32);

impl NextHopIndex {
    /// The slot of routes that tell the sender.
    pub const UNREACHABLE: Self = Self(0);
    /// The slot of routes that do not.
    pub const BLACKHOLE: Self = Self(1);
}

/// Names a tunnel, or one that was: the slot is reused, the generation tells the users apart.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TunnelRef {
    /// Its next-hop slot.
    pub slot: NextHopIndex,
    /// The slot's generation.
    pub generation: u16,
}

/// Where a packet goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum NextHop {
    /// Nowhere: the slot has no user.
    #[default]
    Unused,
    /// Dropped, and the sender is told.
    Unreachable,
    /// Dropped silently.
    Blackhole,
    /// To the far side of a guest port or the host port.
    Port(PortHop),
    /// To another node.
    Tunnel(Box<TunnelHop>),
}

/// The way out through a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortHop {
    /// The port.
    pub port: PortRef,
    /// The gateway's MAC address.
    pub source_mac: MacAddress,
    /// The far side's MAC address.
    pub destination_mac: MacAddress,
    /// The largest IP packet, in bytes.
    pub mtu_bytes: u16,
}

/// The way to another node.
#[derive(Clone, Debug)]
pub struct TunnelHop {
    /// Itself: what its packets are counted under.
    pub tunnel: TunnelRef,
    /// Where its packets leave the node, if they do.
    pub exit: TunnelExit,
    /// Source MAC address of the inner frame.
    pub source_mac: MacAddress,
    /// Destination MAC address of the inner frame.
    pub destination_mac: MacAddress,
    /// The largest inner IP packet, in bytes, as long as the underlay says nothing else.
    pub mtu_bytes: u16,
    /// What the template was made from.
    pub settings: TunnelSettings,
    /// The outer headers.
    pub template: EncapTemplate,
}

/// Where a tunnel's packets leave the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TunnelExit {
    /// Through the port that the underlay's next hop is behind.
    Port(PortRef),
    /// Not known yet: packets are dropped, and their senders try again.
    Pending,
    /// Nowhere: packets are dropped, and their senders are told.
    Unreachable,
}

impl PartialEq for TunnelHop {
    fn eq(&self, other: &Self) -> bool {
        // The template is a function of the settings.
        self.tunnel == other.tunnel
            && self.exit == other.exit
            && self.source_mac == other.source_mac
            && self.destination_mac == other.destination_mac
            && self.mtu_bytes == other.mtu_bytes
            && self.settings == other.settings
    }
}

/// How the underlay reaches an address: what [`crate::config::Config::set_adjacency`] is told.
///
/// Not being reached *yet* is apart from not being reached: a host must not be reported unreachable
/// only because its MAC address is not known yet (RFC 1812 section 3.3.2), but once it does not
/// answer (RFC 4861 section 7.2.2). A TCP connection that is being opened ends by such a report.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Adjacency {
    /// The next hop's MAC address is known.
    Resolved {
        /// The port that it is behind.
        port: PortRef,
        /// Our MAC address there.
        source_mac: MacAddress,
        /// The next hop's.
        destination_mac: MacAddress,
        /// The largest outer IP packet that the way carries, in bytes, as far as the kernel knows.
        mtu_bytes: u16,
    },
    /// Not known yet: nobody looked, or the neighbour is being asked.
    #[default]
    Pending,
    /// There is no route, the link is down, or the neighbour does not answer.
    Unreachable,
}

impl Adjacency {
    /// What a way means for tunnels; `port_on` knows the port on an interface. A way through
    /// another interface is none.
    pub fn from_way(way: &Way, port_on: impl FnOnce(&str) -> Option<PortRef>) -> Self {
        match way {
            Way::Resolved(hop) => match port_on(&hop.interface) {
                Some(port) => Self::Resolved {
                    port,
                    source_mac: hop.source_mac,
                    destination_mac: hop.destination_mac,
                    mtu_bytes: u16::try_from(hop.mtu_bytes).unwrap_or(u16::MAX),
                },
                None => Self::Unreachable,
            },
            Way::Unresolved(Obstacle::Unknown | Obstacle::NeighbourPending { .. }) => Self::Pending,
            Way::Unresolved(
                Obstacle::NoRoute
                | Obstacle::Local
                | Obstacle::LinkDown { .. }
                | Obstacle::NoMac { .. }
                | Obstacle::NeighbourFailed { .. },
            ) => Self::Unreachable,
        }
    }

    /// Whether packets can be sent.
    #[must_use]
    pub const fn is_resolved(&self) -> bool {
        matches!(self, Self::Resolved { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::underlay::Hop;

    #[test]
    fn only_what_has_failed_is_unreachable() {
        let interface = "up0".to_owned();
        let address = IpAddr::from([192, 0, 2, 2]);
        let adjacency = |obstacle| Adjacency::from_way(&Way::Unresolved(obstacle), |_| None);
        for obstacle in [
            Obstacle::Unknown,
            Obstacle::NeighbourPending { interface: interface.clone(), address },
        ] {
            assert_eq!(adjacency(obstacle), Adjacency::Pending);
        }
        for obstacle in [
            Obstacle::NoRoute,
            Obstacle::Local,
            Obstacle::LinkDown { interface: interface.clone() },
            Obstacle::NoMac { interface: interface.clone() },
            Obstacle::NeighbourFailed { interface, address },
        ] {
            assert_eq!(adjacency(obstacle), Adjacency::Unreachable);
        }
    }

    #[test]
    fn a_way_through_an_interface_that_is_no_port_is_none() {
        let hop = Hop {
            interface_index: 2,
            interface: "up0".to_owned(),
            address: IpAddr::from([192, 0, 2, 2]),
            source_mac: MacAddress::new([2; 6]),
            destination_mac: MacAddress::new([4; 6]),
            mtu_bytes: 100_000,
        };
        let way = Way::Resolved(hop);
        let port = PortRef::default();
        let adjacency = |name| Adjacency::from_way(&way, |of| (of == name).then_some(port));
        assert_eq!(adjacency("up1"), Adjacency::Unreachable);
        let resolved = Adjacency::Resolved {
            port,
            source_mac: MacAddress::new([2; 6]),
            destination_mac: MacAddress::new([4; 6]),
            mtu_bytes: u16::MAX,
        };
        assert_eq!(adjacency("up0"), resolved);
    }
}
