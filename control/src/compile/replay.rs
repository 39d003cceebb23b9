//! The same configuration without a machine: every port is a pair of rings in process.
//!
//! `vrctl replay` feeds them from files. The pods of the node are its guests, with the addresses
//! of `status.podIPs`, and the policies that select them.

use std::net::IpAddr;

use control_api::engine::{Object, VxlanSettings};

use super::{
    Backend, CompileError, Dataplane, GuestPort, compile, find, find_usable, gateway_mac,
    overhead_bytes,
};
use crate::{
    cluster::{Cluster, Node},
    mac::MacAddress,
    names::{HOST_PORT, NodeName, PRIMARY_INTERFACE, PodName, UPLINK_PORT},
    policy::{Assignment, Compiler, Scope, changes},
};

/// The uplink's MTU in replay, in bytes: Ethernet's.
pub const UPLINK_MTU_BYTES: u32 = 1500;

/// A port of the replayed node, and what frames from and to it look like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplayPort {
    /// The engine's name for it: `uplink`, `host`, or `namespace/pod`.
    pub port: String,
    /// The MAC address of the port's far side; for the uplink, the node's own on the underlay.
    pub mac: MacAddress,
    /// Where the far side sends its frames; `None` for the uplink.
    pub gateway_mac: Option<MacAddress>,
    /// The far side's addresses; for the uplink, the node's own.
    pub addresses: Vec<IpAddr>,
}

/// Everything that the replayed engine must know.
///
/// # Errors
///
/// As [`compile`].
pub fn replay_objects(cluster: &Cluster, node: &NodeName) -> Result<Vec<Object>, CompileError> {
    let found = find(cluster, node)?;
    let mtu_bytes = UPLINK_MTU_BYTES - overhead_bytes(found);
    let dataplane = Dataplane {
        vxlan: VxlanSettings::default(),
        uplink: Backend::Memory,
        uplink_mtu_bytes: UPLINK_MTU_BYTES,
        host: Backend::Memory,
        host_mtu_bytes: mtu_bytes,
    };
    let mut compiler = Compiler::new(Scope::Node(node.clone()));
    let update = compiler.apply(changes(&Cluster::default(), cluster));
    let mut guests = guests(cluster, found, mtu_bytes);
    for (pod, guest) in &mut guests {
        guest.policy = compiler.assignment(pod).unwrap_or_default();
    }
    let guests: Vec<_> = guests.into_iter().map(|(_, guest)| guest).collect();
    let objects = compile(cluster, node, &dataplane, &guests)?;
    Ok(objects.with(&update.objects().collect()).iter().cloned().collect())
}

/// The ports of the replayed node: `host`, `uplink`, then its pods by name.
///
/// # Errors
///
/// As [`compile`].
pub fn replay_ports(cluster: &Cluster, node: &NodeName) -> Result<Vec<ReplayPort>, CompileError> {
    let (found, mac) = find_usable(cluster, node)?;
    let gateway_mac = gateway_mac(found);
    let addresses = &found.addresses;
    let own = |port: &str, gateway_mac| ReplayPort {
        port: port.to_owned(),
        mac,
        gateway_mac,
        addresses: addresses.clone(),
    };
    let guests = guests(cluster, found, 0).into_iter().map(|(_, guest)| ReplayPort {
        port: guest.name,
        mac: guest.mac,
        gateway_mac,
        addresses: guest.addresses,
    });
    Ok([own(HOST_PORT, gateway_mac), own(UPLINK_PORT, None)].into_iter().chain(guests).collect())
}

/// The pods of the node that have addresses of their own. What judges them is left open.
fn guests<'a>(cluster: &'a Cluster, node: &Node, mtu_bytes: u32) -> Vec<(&'a PodName, GuestPort)> {
    let of_node = cluster.pods.values().filter(|pod| pod.node.as_ref() == Some(&node.name));
    of_node
        .filter(|pod| !pod.host_network)
        .filter_map(|pod| {
            let guest = GuestPort {
                name: pod.name.port(PRIMARY_INTERFACE),
                addresses: pod.addresses.clone(),
                mac: MacAddress::from_preferred(&pod.addresses)?,
                mtu_bytes,
                backend: Backend::Memory,
                description: String::new(),
                policy: Assignment::default(),
            };
            Some((&pod.name, guest))
        })
        .collect()
}
