//! From the desired state to a snapshot.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use encap::{
    MacAddress,
    ecn::{DscpModel, EcnMode},
    vxlan::{
        EncapTemplate, OVERHEAD_IPV4, OVERHEAD_IPV6, OuterDf, TunnelAddresses, TunnelSettings,
        UdpChecksum, Vni,
    },
};

use super::{
    object::{NodeObject, Role},
    policies::Policies,
    state::{PortState, State, TunnelState},
};
use crate::{
    next_hop::{
        Adjacency, NextHop, NextHopIndex, NextHopSlot, NextHopTable, PathMtus, PortHop, TunnelExit,
        TunnelHop, TunnelRef,
    },
    port::{PORTS_MAX, PortRef},
    snapshot::{NodeTable, PolicyIndex, PortEntry, Snapshot, Vrf, VrfIndex},
};

/// The MTU of a port whose object and device say nothing: Ethernet's.
const MTU_BYTES_DEFAULT: u16 = 1500;
/// Outer TTL: what Linux uses for its own packets.
const OUTER_HOP_LIMIT: u8 = 64;

/// All that a snapshot is compiled from.
pub(super) struct Inputs<'a> {
    pub(super) state: &'a State,
    pub(super) adjacencies: &'a HashMap<IpAddr, Adjacency>,
    pub(super) device_mtus: &'a HashMap<PortRef, u16>,
    pub(super) policies: &'a Policies,
}

impl Inputs<'_> {
    pub(super) fn port_mtu(&self, port: &PortState) -> u16 {
        let device = self.device_mtus.get(&port.port).copied();
        let wanted = port.object.mtu_bytes;
        wanted.into_iter().chain(device).min().unwrap_or(MTU_BYTES_DEFAULT)
    }
}

/// Compiles everything; next hops that are as they were stay shared with the snapshot before.
pub(super) fn compile(
    inputs: &Inputs<'_>,
    before: Option<&Snapshot>,
    path_mtus: &Arc<PathMtus>,
) -> Snapshot {
    let state = inputs.state;
    Snapshot {
        version: 0,
        generation: state.generation,
        node: Arc::new(node_table(state)),
        ports: port_table(inputs),
        vrfs: vrf_table(state),
        vnis: vni_table(state),
        tunnels: tunnel_table(state),
        groups: Arc::clone(state.groups.members()),
        next_hops: next_hop_table(inputs, before),
        path_mtus: Arc::clone(path_mtus),
        policies: inputs.policies.table().clone(),
    }
}

/// Compiles a snapshot that differs in routes and in what policy sets say only.
pub(super) fn with_new_routes(inputs: &Inputs<'_>, before: &Snapshot) -> Snapshot {
    let state = inputs.state;
    Snapshot {
        generation: state.generation,
        vrfs: vrf_table(state),
        groups: Arc::clone(state.groups.members()),
        policies: inputs.policies.table().clone(),
        ..before.clone()
    }
}

/// Compiles a snapshot that differs in routes, policy sets and next hops only.
pub(super) fn with_new_next_hops(inputs: &Inputs<'_>, before: &Snapshot) -> Snapshot {
    Snapshot { next_hops: next_hop_table(inputs, Some(before)), ..with_new_routes(inputs, before) }
}

fn node_table(state: &State) -> NodeTable {
    let Some(node) = &state.node else { return NodeTable::default() };
    let port = |name: &Option<Box<str>>| {
        name.as_ref().and_then(|name| state.ports.get(&**name)).map(|port| port.port)
    };
    let mut table = NodeTable {
        vtep_v4: node.vtep_v4,
        vtep_v6: node.vtep_v6,
        router_mac: node.router_mac,
        uplink: port(&node.uplink_port),
        host: port(&node.host_port),
        ..NodeTable::default()
    };
    let tunnel_ports = state.tunnels.values().map(|tunnel| tunnel.object.udp_port);
    for udp_port in node.vxlan.udp_ports.iter().copied().chain(tunnel_ports) {
        if !table.udp_ports.contains(&udp_port) {
            // The check of the batch let no more pass than fit.
            let _ = table.udp_ports.try_push(udp_port);
        }
    }
    table
}

fn port_table(inputs: &Inputs<'_>) -> Arc<[Option<PortEntry>]> {
    // Every set that a port names is there; in a place that is empty nothing would be allowed.
    let policy = |set: Option<u64>| {
        set.map(|set| inputs.policies.index(set).unwrap_or(PolicyIndex::NOWHERE))
    };
    let mut table = vec![None; PORTS_MAX];
    for state in inputs.state.ports.values() {
        let Some(vrf) = inputs.state.vrfs.get(&state.object.vrf) else { continue };
        let entry = PortEntry {
            port: state.port,
            name: Arc::from(&*state.object.name),
            role: state.object.role,
            vrf: vrf.index,
            addresses: state.object.addresses.iter().copied().collect(),
            mac: state.object.mac,
            gateway_mac: vrf.object.gateway_mac,
            mtu_bytes: inputs.port_mtu(state),
            has_partial_checksums: state.object.has_partial_checksums(),
            next_hop: state.next_hop,
            ingress_policy: policy(state.object.ingress_policy),
            egress_policy: policy(state.object.egress_policy),
        };
        if let Some(place) = table.get_mut(usize::from(state.port.index)) {
            *place = Some(entry);
        }
    }
    table.into()
}

fn vrf_table(state: &State) -> Arc<[Option<Vrf>]> {
    let count = state.vrfs.values().map(|vrf| usize::from(vrf.index.0) + 1).max().unwrap_or(0);
    let mut table = vec![None; count];
    for vrf in state.vrfs.values() {
        if let Some(place) = table.get_mut(usize::from(vrf.index.0)) {
            *place = Some(Vrf {
                id: vrf.object.id,
                name: Arc::clone(&vrf.object.name),
                fib: vrf.fib.clone(),
                gateway_v4: vrf.object.gateway_v4,
                gateway_v6: vrf.object.gateway_v6,
                gateway_mac: vrf.object.gateway_mac,
            });
        }
    }
    table.into()
}

fn vni_table(state: &State) -> Arc<[(Vni, VrfIndex)]> {
    let of_vrf = state.vrfs.values().flat_map(|vrf| {
        vrf.object.vnis.iter().filter_map(|vni| Some((Vni::new(*vni)?, vrf.index)))
    });
    let mut table: Vec<_> = of_vrf.collect();
    table.sort_unstable();
    table.into()
}

fn tunnel_table(state: &State) -> Arc<[(IpAddr, Vni, NextHopIndex)]> {
    let tunnels = state.tunnels.values().filter_map(|tunnel| {
        Some((tunnel.object.remote, Vni::new(tunnel.object.vni)?, tunnel.next_hop))
    });
    let mut table: Vec<_> = tunnels.collect();
    table.sort_unstable();
    table.into()
}

fn next_hop_table(inputs: &Inputs<'_>, before: Option<&Snapshot>) -> NextHopTable {
    let state = inputs.state;
    let mut hops = vec![NextHop::Unused; state.next_hop_slot_count()];
    let mut put = |index: NextHopIndex, hop| {
        if let Some(place) = hops.get_mut(index.0 as usize) {
            *place = hop;
        }
    };
    put(NextHopIndex::UNREACHABLE, NextHop::Unreachable);
    put(NextHopIndex::BLACKHOLE, NextHop::Blackhole);
    for port in state.ports.values() {
        put(port.next_hop, port_hop(inputs, port));
    }
    let uplink_mtu = uplink_mtu(inputs);
    for tunnel in state.tunnels.values() {
        let itself = state.tunnel_ref(tunnel);
        let hop = state.node.as_ref().and_then(|node| {
            let adjacency = inputs.adjacencies.get(&tunnel.object.remote);
            let adjacency = adjacency.copied().unwrap_or_default();
            tunnel_hop(itself, node, tunnel, adjacency, uplink_mtu)
        });
        put(tunnel.next_hop, hop.unwrap_or_default());
    }
    let mut table = before.map(|before| before.next_hops.clone()).unwrap_or_default();
    for (index, hop) in (0..).map(NextHopIndex).zip(hops) {
        table.set(index, NextHopSlot { generation: state.next_hop_generation(index), hop });
    }
    table
}

fn uplink_mtu(inputs: &Inputs<'_>) -> u16 {
    let uplink = inputs.state.ports.values().find(|port| port.object.role == Role::Uplink);
    uplink.map_or(MTU_BYTES_DEFAULT, |port| inputs.port_mtu(port))
}

fn port_hop(inputs: &Inputs<'_>, port: &PortState) -> NextHop {
    let vrf = inputs.state.vrfs.get(&port.object.vrf);
    NextHop::Port(PortHop {
        port: port.port,
        source_mac: vrf.map_or(MacAddress::ZERO, |vrf| vrf.object.gateway_mac),
        destination_mac: port.object.mac,
        mtu_bytes: inputs.port_mtu(port),
    })
}

fn tunnel_hop(
    itself: TunnelRef,
    node: &NodeObject,
    tunnel: &TunnelState,
    adjacency: Adjacency,
    uplink_mtu: u16,
) -> Option<NextHop> {
    let object = &tunnel.object;
    let addresses = match object.remote {
        IpAddr::V4(destination) => TunnelAddresses::V4 { source: node.vtep_v4?, destination },
        IpAddr::V6(destination) => TunnelAddresses::V6 { source: node.vtep_v6?, destination },
    };
    let unresolved = |exit| (exit, MacAddress::ZERO, MacAddress::ZERO, uplink_mtu);
    let (exit, source_mac, destination_mac, way_mtu) = match adjacency {
        Adjacency::Resolved { port, source_mac, destination_mac, mtu_bytes } => {
            (TunnelExit::Port(port), source_mac, destination_mac, uplink_mtu.min(mtu_bytes))
        }
        Adjacency::Pending => unresolved(TunnelExit::Pending),
        Adjacency::Unreachable => unresolved(TunnelExit::Unreachable),
    };
    let settings = TunnelSettings {
        source_mac,
        destination_mac,
        addresses,
        destination_port: object.udp_port,
        vni: Vni::new(object.vni)?,
        hop_limit: OUTER_HOP_LIMIT,
        dscp: match node.vxlan.fixed_dscp {
            Some(dscp) => DscpModel::Pipe(dscp),
            None => DscpModel::Uniform,
        },
        ecn: EcnMode::Normal,
        outer_df: if node.vxlan.outer_dont_fragment { OuterDf::Set } else { OuterDf::Clear },
        udp_checksum: if node.vxlan.ipv6_zero_checksum {
            UdpChecksum::Zero
        } else {
            UdpChecksum::ByFamily
        },
    };
    let overhead = if object.remote.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
    let overhead = u16::try_from(overhead).unwrap_or(u16::MAX);
    let way_mtu = way_mtu.saturating_sub(overhead);
    let mtu_bytes = object.mtu_bytes.map_or(way_mtu, |wanted| wanted.min(way_mtu));
    Some(NextHop::Tunnel(Box::new(TunnelHop {
        tunnel: itself,
        exit,
        source_mac: node.router_mac,
        destination_mac: object.remote_router_mac,
        mtu_bytes,
        template: EncapTemplate::new(&settings),
        settings,
    })))
}
