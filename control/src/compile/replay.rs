//! The same configuration without a machine: every port is a pair of rings in process.
//!
//! `vrctl replay` feeds them from files. The pods of the node are its guests, with the addresses
//! of `status.podIPs`.

use std::net::IpAddr;

use control_api::engine::{Object, VxlanSettings};

use super::{
    Backend, CompileError, Dataplane, GuestPort, compile, find, gateway_mac, overhead_bytes,
    router_mac,
};
use crate::{
    cluster::{Cluster, Node},
    mac::MacAddress,
    names::{HOST_PORT, NodeName, PRIMARY_INTERFACE, UPLINK_PORT},
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
    compile(cluster, node, &dataplane, &guests(cluster, found, mtu_bytes))
}

/// The ports of the replayed node: `host`, `uplink`, then its pods by name.
///
/// # Errors
///
/// As [`compile`].
pub fn replay_ports(cluster: &Cluster, node: &NodeName) -> Result<Vec<ReplayPort>, CompileError> {
    let found = find(cluster, node)?;
    let mac = router_mac(found)?;
    let gateway_mac = gateway_mac(found);
    let addresses = &found.addresses;
    let own = |port: &str, gateway_mac| ReplayPort {
        port: port.to_owned(),
        mac,
        gateway_mac,
        addresses: addresses.clone(),
    };
    let guests = guests(cluster, found, 0).into_iter().map(|guest| ReplayPort {
        port: guest.name,
        mac: guest.mac,
        gateway_mac,
        addresses: guest.addresses,
    });
    Ok([own(HOST_PORT, gateway_mac), own(UPLINK_PORT, None)].into_iter().chain(guests).collect())
}

/// The pods of the node that have addresses of their own.
fn guests(cluster: &Cluster, node: &Node, mtu_bytes: u32) -> Vec<GuestPort> {
    let of_node = cluster.pods.values().filter(|pod| pod.node.as_ref() == Some(&node.name));
    of_node
        .filter(|pod| !pod.host_network)
        .filter_map(|pod| {
            Some(GuestPort {
                name: pod.name.port(PRIMARY_INTERFACE),
                addresses: pod.addresses.clone(),
                mac: MacAddress::from_preferred(&pod.addresses)?,
                mtu_bytes,
                backend: Backend::Memory,
                description: String::new(),
            })
        })
        .collect()
}
