//! From the cluster to everything that this node's engine must know.
//!
//! A pure function: the same cluster, node and guests give the same [`Objects`], in the daemon and
//! in `vrctl replay`. The daemon sends the difference of two results; the engine is never told how
//! to get from one to the other. What judges the guests' connections is compiled apart, by
//! [`policy`](crate::policy), since it follows changes one by one; here guests only name it.

use std::{collections::BTreeSet, net::IpAddr};

use control_api::engine::{
    AfXdpBackend, MemoryBackend, Node as NodeObject, Object, Port, TapBackend, VhostUserBackend,
    Vrf, VxlanSettings, af_xdp_backend::Mode, object::Kind, port, vhost_user_backend,
};

use crate::{
    cluster::{Cluster, Node},
    mac::MacAddress,
    names::{HOST_PORT, NodeName, UPLINK_PORT},
    policy::Assignment,
    range::PodRange,
};

mod objects;
mod peers;
pub mod replay;

pub use objects::Objects;
pub use peers::{UnreachablePeer, unreachable_peers};

/// The VRF that all pods are in.
pub const DEFAULT_VRF: u32 = 0;

/// The VNI between our own nodes.
pub const OVERLAY_VNI: u32 = 1;

/// The UDP port between our own nodes (RFC 7348 section 8.1, assigned by IANA).
pub const VXLAN_PORT: u16 = 4789;

/// Bytes that VXLAN adds over IPv4: outer IPv4 (20), UDP (8), VXLAN (8), inner Ethernet (14).
pub const IPV4_OVERHEAD_BYTES: u32 = 50;

/// Bytes that VXLAN adds over IPv6: the outer header has 40.
pub const IPV6_OVERHEAD_BYTES: u32 = 70;

/// What the engine's configuration depends on besides the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataplane {
    /// How encapsulated packets look.
    pub vxlan: VxlanSettings,
    /// The port toward the fabric.
    pub uplink: Backend,
    /// The uplink's largest IP packet, in bytes. 0: what the device says.
    pub uplink_mtu_bytes: u32,
    /// The port toward this node's own stack.
    pub host: Backend,
    /// The host port's largest IP packet, in bytes. 0: what the device says.
    pub host_mtu_bytes: u32,
}

/// What moves a port's frames.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// An interface of this machine.
    AfXdp {
        /// Its name.
        interface: String,
        /// How many queues to open; 0: all.
        queues: u32,
        /// Copy or zero copy, native or generic.
        mode: Mode,
        /// Whether a local socket may be at the other end (of a veth), so that checksums come
        /// unfinished.
        partial_checksums: bool,
    },
    /// A TAP device.
    Tap {
        /// Its name.
        interface: String,
        /// The namespace it is in; empty: the node's.
        netns_path: String,
        /// How many queues to open; 0: one for each of the engine's workers.
        queues: u32,
    },
    /// A vhost-user socket that the engine makes.
    VhostUser {
        /// Its path, short enough for a socket's address.
        socket_path: String,
        /// How many queue pairs to offer; 0: one for each of the engine's workers.
        queue_pairs: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
        /// Its mode.
        file_mode: u32,
    },
    /// Rings in process: replay and tests.
    Memory,
}

/// A port toward a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestPort {
    /// The engine's name for it.
    pub name: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The pod's MAC address.
    pub mac: MacAddress,
    /// The pod's largest IP packet, in bytes. 0: what the device says.
    pub mtu_bytes: u32,
    /// What moves its frames.
    pub backend: Backend,
    /// For people: the container it belongs to.
    pub description: String,
    /// What judges its connections.
    pub policy: Assignment,
}

/// Why nothing can be compiled for a node.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum CompileError {
    #[error(
        "there is no Node {name} in force, only {known}: add its manifest, or name another node"
    )]
    NoSuchNode { name: NodeName, known: String },

    #[error("Node {name} has no InternalIP in status.addresses: tunnels could not end there")]
    NoAddress { name: NodeName },
}

/// Everything that the engine of `node` must know.
///
/// All but the sets that judge the guests' connections.
///
/// # Errors
///
/// Fails if the cluster has no such node, or the node has no address.
pub fn compile(
    cluster: &Cluster,
    node: &NodeName,
    dataplane: &Dataplane,
    guests: &[GuestPort],
) -> Result<Objects, CompileError> {
    let (node, router_mac) = find_usable(cluster, node)?;
    let (tunnels, mut routes) = peers::compile(cluster, node);
    let ports = ports(node, router_mac, dataplane, guests);

    let mut vnis = BTreeSet::from([OVERLAY_VNI]);
    let mut udp_ports = BTreeSet::from([u32::from(VXLAN_PORT)]);
    for tunnel in &tunnels {
        vnis.insert(tunnel.vni);
        udp_ports.insert(tunnel.udp_port);
    }
    udp_ports.extend(&dataplane.vxlan.udp_ports);
    let vtep_addresses = [
        node.addresses.iter().find(|ip| ip.is_ipv4()),
        node.addresses.iter().find(|ip| ip.is_ipv6()),
    ];
    let node_object = NodeObject {
        name: node.name.to_string(),
        vtep_addresses: vtep_addresses.into_iter().flatten().map(|ip| octets(*ip)).collect(),
        router_mac: router_mac.octets().to_vec(),
        vxlan: Some(VxlanSettings {
            udp_ports: udp_ports.into_iter().collect(),
            ..dataplane.vxlan.clone()
        }),
        uplink_port: UPLINK_PORT.to_owned(),
        host_port: HOST_PORT.to_owned(),
    };
    let vrf = Vrf {
        id: DEFAULT_VRF,
        name: "default".to_owned(),
        vnis: vnis.into_iter().collect(),
        gateway_addresses: gateways(node).into_iter().map(octets).collect(),
        gateway_mac: gateway_mac(node).map(|mac| mac.octets().to_vec()).unwrap_or_default(),
    };
    routes.extend(peers::own_routes(node));

    let kinds = [Kind::Node(node_object), Kind::Vrf(vrf)].into_iter();
    let kinds = kinds
        .chain(ports.into_iter().map(Kind::Port))
        .chain(tunnels.into_iter().map(Kind::Tunnel))
        .chain(routes.into_iter().map(Kind::Route));
    Ok(kinds.map(|kind| Object { kind: Some(kind) }).collect())
}

/// The node's gateway addresses: what its pods see as their router, one of each family.
#[must_use]
pub fn gateways(node: &Node) -> Vec<IpAddr> {
    let mut gateways: Vec<_> = node.ranges.iter().map(PodRange::gateway).collect();
    gateways.sort();
    gateways
}

/// The MAC address that the engine answers with for the gateway; `None` without a pod range.
#[must_use]
pub fn gateway_mac(node: &Node) -> Option<MacAddress> {
    MacAddress::from_preferred(&gateways(node))
}

/// The node's router MAC: source of the inner frames it sends, destination of those it accepts.
///
/// # Errors
///
/// Fails if the node has no address.
pub fn router_mac(node: &Node) -> Result<MacAddress, CompileError> {
    node.vtep()
        .map(MacAddress::from_ip)
        .ok_or_else(|| CompileError::NoAddress { name: node.name.clone() })
}

/// Finds a node in force.
///
/// # Errors
///
/// Fails if there is no such node; the error lists those there are.
pub fn find<'a>(cluster: &'a Cluster, name: &NodeName) -> Result<&'a Node, CompileError> {
    cluster.nodes.get(name).ok_or_else(|| {
        let known: Vec<_> = cluster.nodes.keys().map(NodeName::as_str).collect();
        let known = if known.is_empty() { "none at all".to_owned() } else { known.join(", ") };
        CompileError::NoSuchNode { name: name.clone(), known }
    })
}

/// Finds a node that objects can be compiled for, and its router MAC.
///
/// # Errors
///
/// As [`compile`].
pub fn find_usable<'a>(
    cluster: &'a Cluster,
    name: &NodeName,
) -> Result<(&'a Node, MacAddress), CompileError> {
    let node = find(cluster, name)?;
    Ok((node, router_mac(node)?))
}

/// How many bytes of the underlay's MTU encapsulation takes: by the family that tunnels of this
/// node prefer.
#[must_use]
pub fn overhead_bytes(node: &Node) -> u32 {
    if node.vtep().is_some_and(|ip| ip.is_ipv4()) {
        IPV4_OVERHEAD_BYTES
    } else {
        IPV6_OVERHEAD_BYTES
    }
}

fn ports(
    node: &Node,
    router_mac: MacAddress,
    dataplane: &Dataplane,
    guests: &[GuestPort],
) -> Vec<Port> {
    let uplink = Port {
        name: UPLINK_PORT.to_owned(),
        role: port::Role::Uplink.into(),
        vrf: DEFAULT_VRF,
        mtu_bytes: dataplane.uplink_mtu_bytes,
        backend: Some(backend(&dataplane.uplink)),
        ..Port::default()
    };
    let host = Port {
        name: HOST_PORT.to_owned(),
        role: port::Role::Host.into(),
        vrf: DEFAULT_VRF,
        addresses: node.addresses.iter().map(|ip| octets(*ip)).collect(),
        // The far side is the node's own stack: its interface has the node's MAC address.
        mac: router_mac.octets().to_vec(),
        mtu_bytes: dataplane.host_mtu_bytes,
        backend: Some(backend(&dataplane.host)),
        description: "this node's own stack".to_owned(),
        ..Port::default()
    };
    let guests = guests.iter().map(|guest| Port {
        name: guest.name.clone(),
        role: port::Role::Guest.into(),
        vrf: DEFAULT_VRF,
        addresses: guest.addresses.iter().map(|ip| octets(*ip)).collect(),
        mac: guest.mac.octets().to_vec(),
        mtu_bytes: guest.mtu_bytes,
        backend: Some(backend(&guest.backend)),
        description: guest.description.clone(),
        ingress_policy: guest.policy.ingress,
        egress_policy: guest.policy.egress,
    });
    [uplink, host].into_iter().chain(guests).collect()
}

fn backend(backend: &Backend) -> port::Backend {
    match backend {
        Backend::AfXdp { interface, queues, mode, partial_checksums } => {
            port::Backend::AfXdp(AfXdpBackend {
                interface: interface.clone(),
                netns_path: String::new(),
                queues: *queues,
                mode: (*mode).into(),
                partial_checksums: *partial_checksums,
            })
        }
        Backend::Tap { interface, netns_path, queues } => port::Backend::Tap(TapBackend {
            interface: interface.clone(),
            netns_path: netns_path.clone(),
            queues: *queues,
        }),
        Backend::VhostUser { socket_path, queue_pairs, uid, gid, file_mode } => {
            port::Backend::VhostUser(VhostUserBackend {
                socket_path: socket_path.clone(),
                mode: vhost_user_backend::Mode::Server.into(),
                queue_pairs: *queue_pairs,
                owner_uid: *uid,
                owner_gid: *gid,
                file_mode: *file_mode,
            })
        }
        Backend::Memory => port::Backend::Memory(MemoryBackend {}),
    }
}

/// An address as the protocol carries it: 4 or 16 bytes.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests;
