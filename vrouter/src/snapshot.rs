//! What workers act upon: the configuration, compiled and immutable.
//!
//! A snapshot is a struct of shared tables. Publishing one route copies the route's nodes (see
//! [`crate::fib`]) and this struct; the other tables are shared with the snapshot before.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use arrayvec::ArrayVec;
use encap::{MacAddress, vxlan::Vni};

use crate::{
    config::{PORT_ADDRESSES_MAX, Role},
    fib::{Fib, GroupIndex},
    next_hop::{NextHop, NextHopIndex, NextHopTable, PathMtus},
    policy::PolicySet,
    port::PortRef,
    publish::Versioned,
};

/// UDP ports on which encapsulated frames are accepted at most, those that tunnels name included.
pub const VXLAN_PORTS_MAX: usize = 16;

/// The compiled configuration of one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Grows with each publication, from 1.
    pub version: u64,
    /// The generation of the client's batch that is in force.
    pub generation: u64,
    /// This node.
    pub node: Arc<NodeTable>,
    /// Ports by slot.
    pub ports: Arc<[Option<PortEntry>]>,
    /// VRFs by [`VrfIndex`].
    pub vrfs: Arc<[Option<Vrf>]>,
    /// Which VRF a VNI's frames are routed in, by VNI.
    pub vnis: Arc<[(Vni, VrfIndex)]>,
    /// The ways to other nodes: remote address, VNI and slot, in order.
    pub tunnels: Arc<[(IpAddr, Vni, NextHopIndex)]>,
    /// Next-hop groups by [`GroupIndex`].
    pub groups: Arc<Vec<Arc<[NextHopIndex]>>>,
    /// Next hops by [`NextHopIndex`].
    pub next_hops: NextHopTable,
    /// What the underlay said about the MTU of tunnels.
    pub path_mtus: Arc<PathMtus>,
    /// What judges connections of isolated ports.
    pub policies: PolicyTable,
}

impl Versioned for Snapshot {
    fn version(&self) -> u64 {
        self.version
    }
}

impl Snapshot {
    /// The port in a slot, if the reference is to it and not to a former one.
    #[must_use]
    pub fn port(&self, port: PortRef) -> Option<&PortEntry> {
        let entry = self.ports.get(usize::from(port.index))?.as_ref()?;
        (entry.port == port).then_some(entry)
    }

    /// A VRF that is in use.
    #[must_use]
    pub fn vrf(&self, index: VrfIndex) -> Option<&Vrf> {
        self.vrfs.get(usize::from(index.0))?.as_ref()
    }

    /// The VRF that a VNI's frames are routed in.
    #[must_use]
    pub fn vrf_of_vni(&self, vni: Vni) -> Option<VrfIndex> {
        let position = self.vnis.binary_search_by_key(&vni, |(vni, _)| *vni).ok()?;
        self.vnis.get(position).map(|(_, vrf)| *vrf)
    }

    /// The slot of the tunnel to a remote address.
    #[must_use]
    pub fn tunnel_to(&self, remote: IpAddr, vni: Vni) -> Option<NextHopIndex> {
        let key = (remote, vni);
        let position = self.tunnels.binary_search_by_key(&key, |(ip, vni, _)| (*ip, *vni)).ok()?;
        self.tunnels.get(position).map(|(_, _, index)| *index)
    }

    /// The member of a group that a flow takes: the same one as long as the group stays.
    #[must_use]
    pub fn pick(&self, group: GroupIndex, flow_hash: u64) -> Option<NextHopIndex> {
        let members = self.groups.get(group.0 as usize)?;
        match **members {
            [only] => Some(only),
            ref members => {
                // The high half times the count: even without a division, whatever the count.
                let position = ((flow_hash >> 32) * members.len() as u64) >> 32;
                members.get(usize::try_from(position).ok()?).copied()
            }
        }
    }

    /// Where a next hop leads now; `None` if `generation` is not that of its slot.
    #[must_use]
    pub fn next_hop(&self, index: NextHopIndex, generation: u16) -> Option<&NextHop> {
        let slot = self.next_hops.slot(index)?;
        (slot.generation == generation).then_some(&slot.hop)
    }
}

/// This node, as far as each packet may ask for it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeTable {
    /// Our tunnel endpoint over IPv4.
    pub vtep_v4: Option<Ipv4Addr>,
    /// Our tunnel endpoint over IPv6.
    pub vtep_v6: Option<Ipv6Addr>,
    /// The destination MAC of inner frames for us.
    pub router_mac: MacAddress,
    /// UDP ports on which encapsulated frames are accepted.
    pub udp_ports: ArrayVec<u16, VXLAN_PORTS_MAX>,
    /// The port toward the fabric.
    pub uplink: Option<PortRef>,
    /// The port toward this node's own stack.
    pub host: Option<PortRef>,
}

impl NodeTable {
    /// Whether an underlay address is one of our tunnel endpoints.
    #[must_use]
    pub fn is_vtep(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.vtep_v4 == Some(address),
            IpAddr::V6(address) => self.vtep_v6 == Some(address),
        }
    }
}

/// Names a VRF in a snapshot and in flow keys: dense, unlike the client's ids.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VrfIndex(pub u16);

/// A routing instance.
#[derive(Clone, Debug)]
pub struct Vrf {
    /// The client's number for it.
    pub id: u32,
    /// For people.
    pub name: Arc<str>,
    /// Routes.
    pub fib: Fib,
    /// What the engine answers for on guest ports, and the source of its ICMP errors.
    pub gateway_v4: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Source MAC of frames to guests and the host.
    pub gateway_mac: MacAddress,
}

impl Vrf {
    /// Whether the address is the gateway's.
    #[must_use]
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.gateway_v4 == Some(address),
            IpAddr::V6(address) => self.gateway_v6 == Some(address),
        }
    }
}

/// A port, as far as each packet may ask for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortEntry {
    /// Itself, with its generation.
    pub port: PortRef,
    /// Its name, for people.
    pub name: Arc<str>,
    /// What it leads to.
    pub role: Role,
    /// Where its packets are routed.
    pub vrf: VrfIndex,
    /// Source addresses that a guest may use.
    pub addresses: ArrayVec<IpAddr, PORT_ADDRESSES_MAX>,
    /// MAC address of the far side.
    pub mac: MacAddress,
    /// What the far side sends its packets to.
    pub gateway_mac: MacAddress,
    /// The largest IP packet, in bytes.
    pub mtu_bytes: u16,
    /// Frames from the far side may carry partial checksums.
    pub has_partial_checksums: bool,
    /// The way out through it.
    pub next_hop: NextHopIndex,
    /// What judges new connections to a guest; `None`: it is not isolated.
    pub ingress_policy: Option<PolicyIndex>,
    /// What judges new connections from a guest; `None`: it is not isolated.
    pub egress_policy: Option<PolicyIndex>,
}

/// A place in a [`PolicyTable`]: a policy set keeps it as long as it is there.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct PolicyIndex(pub u32);

impl PolicyIndex {
    /// A place that nothing ever has.
    pub(crate) const NOWHERE: Self = Self(u32::MAX);
}

/// The compiled policy sets. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct PolicyTable(Arc<Vec<Option<PolicySet>>>);

impl PolicyTable {
    /// The policy set in a place; `None` if it is gone.
    #[must_use]
    pub fn get(&self, index: PolicyIndex) -> Option<&PolicySet> {
        self.0.get(index.0 as usize)?.as_ref()
    }

    /// The first place behind those that were ever used.
    pub(crate) fn next_index(&self) -> PolicyIndex {
        PolicyIndex(u32::try_from(self.0.len()).unwrap_or(u32::MAX))
    }

    /// Puts a policy set in a place, or clears it.
    pub(crate) fn set(&mut self, index: PolicyIndex, set: Option<PolicySet>) {
        let table = Arc::make_mut(&mut self.0);
        let index = index.0 as usize;
        if table.len() <= index {
            table.resize_with(index + 1, || None);
        }
        if let Some(place) = table.get_mut(index) {
            *place = set;
        }
    }
}

impl PortEntry {
    /// Whether packets from this port may carry `source`.
    #[must_use]
    pub fn may_send_from(&self, source: IpAddr) -> bool {
        self.role != Role::Guest || self.addresses.contains(&source)
    }
}
