//! Peers whose packets Linux forwards, as flannel announces them on their Node objects.
//!
//! flannel's VXLAN backend leaves on each Node what the others need for their neighbour tables:
//! the MAC address of the `flannel.<VNI>` device and its VNI, for each family of the underlay.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::Deserialize;

use crate::{
    cluster::{Cluster, Conflict, Family},
    mac::MacAddress,
};

/// The UDP port of a kernel `vxlan` device unless told otherwise. flannel keeps it on Linux, and
/// announces no other.
pub const KERNEL_VXLAN_PORT: u16 = 8472;

/// The VNI that flannel takes unless told otherwise.
const FLANNEL_VNI: u32 = 1;

/// The largest VNI (RFC 7348 section 5: 24 bits).
const VNI_MAX: u32 = 0x00ff_ffff;

/// The most VNIs of kernel peers: the engine takes 64 in all, one is ours.
const KERNEL_VNIS_MAX: usize = 63;

/// The most UDP ports of kernel peers: the engine takes 8 in all, one is ours, the configuration
/// may name [`crate::config::UDP_PORTS_MAX`].
const KERNEL_PORTS_MAX: usize = 3;

const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";
const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
const BACKEND_V6_DATA: &str = "flannel.alpha.coreos.com/backend-v6-data";
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";
const PUBLIC_IPV6: &str = "flannel.alpha.coreos.com/public-ipv6";

/// The VTEPs of a node whose kernel forwards.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KernelPeer {
    /// The one over an IPv4 underlay.
    pub v4: Option<KernelVtep>,
    /// The one over an IPv6 underlay.
    pub v6: Option<KernelVtep>,
}

/// A kernel `vxlan` device at the other end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KernelVtep {
    /// Its underlay address.
    pub address: IpAddr,
    /// The device's MAC address: the destination of inner frames.
    pub mac: MacAddress,
    /// Its VNI.
    pub vni: u32,
    /// The UDP port it listens on.
    pub udp_port: u16,
}

#[derive(Deserialize)]
struct BackendData {
    #[serde(rename = "VNI", default)]
    vni: Option<u32>,
    #[serde(rename = "VtepMAC")]
    vtep_mac: String,
    #[serde(rename = "Port", default)]
    port: Option<u16>,
}

impl KernelPeer {
    /// Reads flannel's annotations; `None` if there are none, or another backend than VXLAN.
    ///
    /// # Errors
    ///
    /// Fails if an annotation cannot be understood, or names no address and the node has none.
    pub fn from_annotations(
        annotations: &BTreeMap<String, String>,
        node_addresses: &[IpAddr],
    ) -> Result<Option<Self>, Conflict> {
        match annotations.get(BACKEND_TYPE).map(String::as_str) {
            Some("vxlan") => {}
            Some(other) => {
                let message = format!("backend `{other}` is not supported; use vxlan");
                return Err(Conflict::Annotation { annotation: BACKEND_TYPE, message });
            }
            None => return Ok(None),
        }
        let node_address =
            |family| node_addresses.iter().find(|ip| Family::of(**ip) == family).copied();
        let v4_address = parse::<Ipv4Addr>(annotations, PUBLIC_IP)?.map(IpAddr::V4);
        let v6_address = parse::<Ipv6Addr>(annotations, PUBLIC_IPV6)?.map(IpAddr::V6);
        let v4_address = v4_address.or_else(|| node_address(Family::V4));
        let v6_address = v6_address.or_else(|| node_address(Family::V6));
        let peer = Self {
            v4: vtep(annotations, BACKEND_DATA, v4_address)?,
            v6: vtep(annotations, BACKEND_V6_DATA, v6_address)?,
        };
        if peer == Self::default() {
            let message = "missing beside backend-type `vxlan`".to_owned();
            return Err(Conflict::Annotation { annotation: BACKEND_DATA, message });
        }
        Ok(Some(peer))
    }

    /// The VTEPs that there are.
    pub fn vteps(&self) -> impl Iterator<Item = &KernelVtep> {
        self.v4.iter().chain(&self.v6)
    }
}

/// Fails if a peer's VNIs and UDP ports are more than the engine takes, besides those of its
/// predecessors. A cluster of flannel's has one of each.
pub(super) fn check_variety(cluster: &Cluster, peer: Option<&KernelPeer>) -> Result<(), Conflict> {
    let known = cluster.nodes.values().filter_map(|node| node.kernel_peer.as_ref());
    let vteps: Vec<&KernelVtep> = known.chain(peer).flat_map(KernelPeer::vteps).collect();
    let vnis: BTreeSet<u32> = vteps.iter().map(|vtep| vtep.vni).collect();
    let ports: BTreeSet<u16> = vteps.iter().map(|vtep| vtep.udp_port).collect();
    for (what, count, max) in
        [("VNIs", vnis.len(), KERNEL_VNIS_MAX), ("UDP ports", ports.len(), KERNEL_PORTS_MAX)]
    {
        if peer.is_some() && count > max {
            let message = format!("with it, kernel peers have {count} {what}, at most {max} fit");
            return Err(Conflict::Annotation { annotation: BACKEND_DATA, message });
        }
    }
    Ok(())
}

fn vtep(
    annotations: &BTreeMap<String, String>,
    annotation: &'static str,
    address: Option<IpAddr>,
) -> Result<Option<KernelVtep>, Conflict> {
    // A node without a family carries `null` for it.
    let Some(text) = annotations.get(annotation).filter(|text| !matches!(&***text, "" | "null"))
    else {
        return Ok(None);
    };
    let wrong = |message: String| Conflict::Annotation { annotation, message };
    let data: BackendData = serde_json::from_str(text)
        .map_err(|error| wrong(format!("`{text}` is not flannel's JSON: {error}")))?;
    let mac = data.vtep_mac.parse().map_err(|error| wrong(format!("VtepMAC: {error}")))?;
    let vni = data.vni.unwrap_or(FLANNEL_VNI);
    if vni > VNI_MAX {
        return Err(wrong(format!("VNI: {vni} has more than 24 bits")));
    }
    let address = address.ok_or_else(|| {
        wrong("there is no public-ip annotation and no InternalIP of that family".to_owned())
    })?;
    let udp_port = data.port.filter(|port| *port != 0).unwrap_or(KERNEL_VXLAN_PORT);
    Ok(Some(KernelVtep { address, mac, vni, udp_port }))
}

fn parse<T: std::str::FromStr>(
    annotations: &BTreeMap<String, String>,
    annotation: &'static str,
) -> Result<Option<T>, Conflict> {
    let Some(text) = annotations.get(annotation).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| Conflict::Annotation {
        annotation,
        message: format!("`{text}` is not an IP address of that family"),
    })
}
