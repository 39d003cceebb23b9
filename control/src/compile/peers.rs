//! The ways to the other nodes: tunnels, and the routes that lead into them.

use std::net::IpAddr;

use control_api::engine::{NextHop, Prefix, Route, RouteKey, Tunnel, next_hop};
use ipnet::IpNet;

use super::{DEFAULT_VRF, OVERLAY_VNI, VXLAN_PORT, octets};
use crate::{
    cluster::{Cluster, Family, Node, flannel::KernelVtep},
    mac::MacAddress,
    names::NodeName,
    range::PodRange,
};

/// A node to which no tunnel can be built.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "node {peer} cannot be reached: it and {node} have no InternalIP of one family; give both an \
     address of IPv4 or of IPv6"
)]
pub struct UnreachablePeer {
    /// This node.
    pub node: NodeName,
    /// The one that cannot be reached.
    pub peer: NodeName,
}

/// The peers that have pods or addresses, but no tunnel.
#[must_use]
pub fn unreachable_peers(cluster: &Cluster, node: &NodeName) -> Vec<UnreachablePeer> {
    let Some(node) = cluster.nodes.get(node) else { return Vec::new() };
    others(cluster, node)
        .filter(|peer| Ways::new(node, peer).is_none())
        .map(|peer| UnreachablePeer { node: node.name.clone(), peer: peer.name.clone() })
        .collect()
}

/// Tunnels by name, and the routes into them.
pub(super) fn compile(cluster: &Cluster, node: &Node) -> (Vec<Tunnel>, Vec<Route>) {
    let (mut tunnels, mut routes) = (Vec::new(), Vec::new());
    for peer in others(cluster, node) {
        let ways = Ways::new(node, peer);
        for prefix in prefixes(peer) {
            let family = Family::of(prefix.addr());
            let via = match &ways {
                Some(ways) => next_hop::Via::Tunnel(ways.of(family).name.clone()),
                // Known, but out of reach: the sender shall hear of it.
                None => next_hop::Via::Discard(next_hop::Discard::Unreachable.into()),
            };
            routes.push(route(prefix, via));
        }
        if let Some(ways) = ways {
            tunnels.push(ways.preferred);
            tunnels.extend(ways.v6);
        }
    }
    tunnels.sort_by(|a, b| a.name.cmp(&b.name));
    (tunnels, routes)
}

/// The routes to pods of this node that do not exist. Those that do have longer ones, which the
/// engine makes of their ports' addresses, as it does for the node's own addresses.
pub(super) fn own_routes(node: &Node) -> impl Iterator<Item = Route> {
    let unreachable = next_hop::Via::Discard(next_hop::Discard::Unreachable.into());
    node.ranges.iter().map(move |range| route(range.net(), unreachable.clone()))
}

/// The tunnels to one peer: one carries both families, except to a kernel peer with a VTEP for
/// each, where IPv6 pods are behind the other.
struct Ways {
    preferred: Tunnel,
    v6: Option<Tunnel>,
}

impl Ways {
    fn new(node: &Node, peer: &Node) -> Option<Self> {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| {
            // A tunnel's two ends are of one family.
            node.address(family)?;
            tunnel(peer, family)
        });
        match (v4, v6) {
            (Some(v4), v6) => {
                Some(Self { preferred: v4, v6: v6.filter(|_| peer.kernel_peer.is_some()) })
            }
            (None, Some(v6)) => Some(Self { preferred: v6, v6: None }),
            (None, None) => None,
        }
    }

    fn of(&self, family: Family) -> &Tunnel {
        match (&self.v6, family) {
            (Some(v6), Family::V6) => v6,
            _ => &self.preferred,
        }
    }
}

/// The tunnel to `peer` over an underlay of `family`, if the peer has an end there.
fn tunnel(peer: &Node, family: Family) -> Option<Tunnel> {
    let vtep = match &peer.kernel_peer {
        Some(kernel) => match family {
            Family::V4 => kernel.v4,
            Family::V6 => kernel.v6,
        }?,
        None => KernelVtep {
            address: peer.address(family)?,
            mac: MacAddress::from_ip(peer.vtep()?),
            vni: OVERLAY_VNI,
            udp_port: VXLAN_PORT,
        },
    };
    Some(Tunnel {
        name: format!("{}/{}", peer.name, family.word()),
        remote: octets(vtep.address),
        vni: vtep.vni,
        udp_port: vtep.udp_port.into(),
        remote_router_mac: vtep.mac.octets().to_vec(),
        mtu_bytes: 0,
    })
}

/// Everything that is behind a peer: its pods' ranges and its own addresses.
fn prefixes(peer: &Node) -> impl Iterator<Item = IpNet> {
    let ranges = peer.ranges.iter().map(PodRange::net);
    ranges.chain(peer.addresses.iter().map(|address| IpNet::from(*address)))
}

fn others<'a>(cluster: &'a Cluster, node: &'a Node) -> impl Iterator<Item = &'a Node> {
    cluster.nodes.values().filter(|peer| peer.name != node.name)
}

fn route(prefix: IpNet, via: next_hop::Via) -> Route {
    let address: IpAddr = prefix.network();
    Route {
        key: Some(RouteKey {
            vrf: DEFAULT_VRF,
            prefix: Some(Prefix {
                address: octets(address),
                length: u32::from(prefix.prefix_len()),
            }),
        }),
        next_hops: vec![NextHop { via: Some(via) }],
    }
}
