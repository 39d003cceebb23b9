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

use crate::port::{PORTS_MAX, PortRef};

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
    /// The port that the underlay's next hop is behind; `None` while its MAC address is not known.
    pub port: Option<PortRef>,
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

impl PartialEq for TunnelHop {
    fn eq(&self, other: &Self) -> bool {
        // The template is a function of the settings.
        self.tunnel == other.tunnel
            && self.port == other.port
            && self.source_mac == other.source_mac
            && self.destination_mac == other.destination_mac
            && self.mtu_bytes == other.mtu_bytes
            && self.settings == other.settings
    }
}

/// How the underlay reaches an address: what [`crate::config::Config::set_adjacency`] is told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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
    /// There is no route, or the neighbour does not answer.
    Unresolved,
}
