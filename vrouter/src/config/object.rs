//! The objects of the API as types that only hold what is possible.
//!
//! Each is parsed on its own here; what objects ask of one another is checked by [`super::state`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use control_api::engine as api;
use encap::{MacAddress, ecn::Dscp};
use ipnet::IpNet;

use super::{
    error::{ApplyError, FieldError, Problem},
    field,
};
use crate::port::Backend;
pub use crate::port::Role;

/// Addresses behind one port at most: two families, and room for secondary ones. The reverse-path
/// check looks at each.
pub const PORT_ADDRESSES_MAX: usize = 16;
/// Next hops of one route at most.
pub const ROUTE_NEXT_HOPS_MAX: usize = 32;
/// VNIs of one VRF at most: one, and some for peers that use another.
pub(super) const VRF_VNIS_MAX: usize = 64;
pub(super) use control_api::policy::NAME_BYTES_MAX;
/// UDP ports on which encapsulated frames are accepted, at most, besides those that tunnels name.
pub(super) const UDP_PORTS_MAX: usize = 8;
/// The UDP port of VXLAN (RFC 7348 section 8).
pub const VXLAN_UDP_PORT: u16 = 4789;

/// This node.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "documented in vrouter.proto")]
pub struct NodeObject {
    pub name: Box<str>,
    pub vtep_v4: Option<Ipv4Addr>,
    pub vtep_v6: Option<Ipv6Addr>,
    pub router_mac: MacAddress,
    pub vxlan: VxlanObject,
    pub uplink_port: Option<Box<str>>,
    pub host_port: Option<Box<str>>,
}

/// How this node encapsulates.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "documented in vrouter.proto")]
pub struct VxlanObject {
    pub udp_ports: Box<[u16]>,
    /// `None`: copied from the inner header.
    pub fixed_dscp: Option<Dscp>,
    pub ipv6_zero_checksum: bool,
    pub outer_dont_fragment: bool,
}

/// A routing instance.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "documented in vrouter.proto")]
pub struct VrfObject {
    pub id: u32,
    pub name: Arc<str>,
    pub vnis: Box<[u32]>,
    pub gateway_v4: Option<Ipv4Addr>,
    pub gateway_v6: Option<Ipv6Addr>,
    pub gateway_mac: MacAddress,
}

/// An attachment point.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "documented in vrouter.proto")]
pub struct PortObject {
    pub name: Box<str>,
    pub role: Role,
    pub vrf: u32,
    pub addresses: Box<[IpAddr]>,
    /// All zero for the uplink.
    pub mac: MacAddress,
    /// `None`: what the device says, which is the most in any case.
    pub mtu_bytes: Option<u16>,
    /// A change of it closes the port and opens a new one.
    pub backend: Backend,
    pub description: Box<str>,
    /// `None`: not isolated.
    pub ingress_policy: Option<u64>,
    /// `None`: not isolated.
    pub egress_policy: Option<u64>,
}

/// A way to another node.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "documented in vrouter.proto")]
pub struct TunnelObject {
    pub name: Box<str>,
    pub remote: IpAddr,
    pub vni: u32,
    pub udp_port: u16,
    pub remote_router_mac: MacAddress,
    /// `None`: the way's, less the encapsulation, which is the most in any case.
    pub mtu_bytes: Option<u16>,
}

/// Names a route.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "documented in vrouter.proto")]
pub struct RouteKey {
    pub vrf: u32,
    pub prefix: IpNet,
}

/// A route.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "documented in vrouter.proto")]
pub struct RouteObject {
    pub key: RouteKey,
    pub next_hops: Box<[NextHopObject]>,
}

/// Where a route leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NextHopObject {
    /// A guest port or the host port, by name.
    Port(Box<str>),
    /// A tunnel, by name.
    Tunnel(Box<str>),
    /// Dropped, and the sender is told.
    Unreachable,
    /// Dropped silently.
    Blackhole,
}

impl NodeObject {
    pub(super) fn parse(node: api::Node) -> Result<Self, ApplyError> {
        let object = format!("node \"{}\"", node.name);
        Self::parse_fields(node).map_err(|error| error.of(object))
    }

    fn parse_fields(node: api::Node) -> Result<Self, FieldError> {
        let (vtep_v4, vtep_v6) = field::one_of_each_family("vtep_addresses", &node.vtep_addresses)?;
        let vxlan = node.vxlan.unwrap_or_default();
        let mut udp_ports = Vec::new();
        for port in &vxlan.udp_ports {
            let port = field::in_range("vxlan.udp_ports", u64::from(*port), 1, 65_535)?;
            udp_ports.push(port);
        }
        field::at_most("vxlan.udp_ports", udp_ports.len(), UDP_PORTS_MAX)?;
        if udp_ports.is_empty() {
            udp_ports.push(VXLAN_UDP_PORT);
        }
        let dscp = field::in_range("vxlan.dscp", u64::from(vxlan.dscp), 0, 63)?;
        let fixed_dscp = if vxlan.dscp_fixed { Dscp::new(dscp) } else { None };
        Ok(Self {
            name: field::name("name", node.name)?,
            vtep_v4,
            vtep_v6,
            router_mac: field::unicast_mac("router_mac", &node.router_mac)?,
            vxlan: VxlanObject {
                udp_ports: udp_ports.into(),
                fixed_dscp,
                ipv6_zero_checksum: vxlan.ipv6_zero_checksum,
                outer_dont_fragment: vxlan.outer_dont_fragment,
            },
            uplink_port: field::optional(node.uplink_port),
            host_port: field::optional(node.host_port),
        })
    }
}

impl VrfObject {
    pub(super) fn parse(vrf: api::Vrf) -> Result<Self, ApplyError> {
        let object = vrf_label(vrf.id);
        Self::parse_fields(vrf).map_err(|error| error.of(object))
    }

    fn parse_fields(vrf: api::Vrf) -> Result<Self, FieldError> {
        let (gateway_v4, gateway_v6) =
            field::one_of_each_family("gateway_addresses", &vrf.gateway_addresses)?;
        let has_gateway = gateway_v4.is_some() || gateway_v6.is_some();
        let gateway_mac = if has_gateway || !vrf.gateway_mac.is_empty() {
            field::unicast_mac("gateway_mac", &vrf.gateway_mac)?
        } else {
            MacAddress::ZERO
        };
        field::at_most("vnis", vrf.vnis.len(), VRF_VNIS_MAX)?;
        for vni in &vrf.vnis {
            field::vni("vnis", *vni)?;
        }
        let name = Arc::from(vrf.name);
        Ok(Self { id: vrf.id, name, vnis: vrf.vnis.into(), gateway_v4, gateway_v6, gateway_mac })
    }
}

impl PortObject {
    pub(super) fn parse(port: api::Port) -> Result<Self, ApplyError> {
        let object = port_label(&port.name);
        Self::parse_fields(port).map_err(|error| error.of(object))
    }

    fn parse_fields(port: api::Port) -> Result<Self, FieldError> {
        let role = match port.role() {
            api::port::Role::Uplink => Role::Uplink,
            api::port::Role::Host => Role::Host,
            api::port::Role::Guest => Role::Guest,
            api::port::Role::Unspecified if port.role == 0 => {
                return Err(FieldError::new("role", Problem::Missing));
            }
            api::port::Role::Unspecified => {
                return Err(FieldError::new("role", Problem::UnknownEnum { number: port.role }));
            }
        };
        for (field, set) in
            [("ingress_policy", port.ingress_policy), ("egress_policy", port.egress_policy)]
        {
            if set != 0 && role != Role::Guest {
                return Err(FieldError::new(field, Problem::NotAGuest));
            }
        }
        field::at_most("addresses", port.addresses.len(), PORT_ADDRESSES_MAX)?;
        let mut addresses = Vec::with_capacity(port.addresses.len());
        for (index, bytes) in port.addresses.iter().enumerate() {
            let path = format!("addresses[{index}]");
            let address = field::unicast_address(&path, bytes)?;
            if addresses.contains(&address) {
                return Err(FieldError::new(path, Problem::Twice));
            }
            addresses.push(address);
        }
        let mac = match role {
            Role::Uplink if port.mac.is_empty() => MacAddress::ZERO,
            _ => field::unicast_mac("mac", &port.mac)?,
        };
        Ok(Self {
            name: field::name("name", port.name)?,
            role,
            vrf: port.vrf,
            addresses: addresses.into(),
            mac,
            mtu_bytes: field::mtu("mtu_bytes", port.mtu_bytes)?,
            backend: Backend::parse(port.backend)?,
            description: port.description.into_boxed_str(),
            ingress_policy: Some(port.ingress_policy).filter(|set| *set != 0),
            egress_policy: Some(port.egress_policy).filter(|set| *set != 0),
        })
    }

    /// Whether frames from the far side may carry partial checksums.
    #[must_use]
    pub fn has_partial_checksums(&self) -> bool {
        matches!(&self.backend, Backend::AfXdp(af_xdp) if af_xdp.partial_checksums)
    }
}

impl TunnelObject {
    pub(super) fn parse(tunnel: api::Tunnel) -> Result<Self, ApplyError> {
        let object = tunnel_label(&tunnel.name);
        Self::parse_fields(tunnel).map_err(|error| error.of(object))
    }

    fn parse_fields(tunnel: api::Tunnel) -> Result<Self, FieldError> {
        let udp_port: u16 = field::in_range("udp_port", u64::from(tunnel.udp_port), 0, 65_535)?;
        Ok(Self {
            name: field::name("name", tunnel.name)?,
            remote: field::unicast_address("remote", &tunnel.remote)?,
            vni: field::vni("vni", tunnel.vni)?,
            udp_port: if udp_port == 0 { VXLAN_UDP_PORT } else { udp_port },
            remote_router_mac: field::unicast_mac("remote_router_mac", &tunnel.remote_router_mac)?,
            mtu_bytes: field::mtu("mtu_bytes", tunnel.mtu_bytes)?,
        })
    }
}

impl RouteKey {
    pub(super) fn parse(key: Option<api::RouteKey>) -> Result<Self, ApplyError> {
        let missing = |path: &str| FieldError::new(path, Problem::Missing).of("a route");
        let key = key.ok_or_else(|| missing("key"))?;
        let prefix = key.prefix.ok_or_else(|| missing("key.prefix"))?;
        let prefix = field::prefix("key.prefix", &prefix)
            .map_err(|error| error.of(format!("a route in {}", vrf_label(key.vrf))))?;
        Ok(Self { vrf: key.vrf, prefix })
    }

    pub(super) fn label(&self) -> String {
        format!("route {} in {}", self.prefix, vrf_label(self.vrf))
    }
}

impl RouteObject {
    pub(super) fn parse(route: api::Route) -> Result<Self, ApplyError> {
        let key = RouteKey::parse(route.key)?;
        let next_hops =
            Self::parse_next_hops(route.next_hops).map_err(|error| error.of(key.label()))?;
        Ok(Self { key, next_hops })
    }

    fn parse_next_hops(next_hops: Vec<api::NextHop>) -> Result<Box<[NextHopObject]>, FieldError> {
        use api::next_hop::{Discard, Via};
        let count = next_hops.len();
        field::at_most("next_hops", count, ROUTE_NEXT_HOPS_MAX)?;
        if count == 0 {
            return Err(FieldError::new("next_hops", Problem::Missing));
        }
        let mut parsed = Vec::with_capacity(count);
        for (index, next_hop) in next_hops.into_iter().enumerate() {
            let wrong = |field: &str, problem| {
                Err(FieldError::new(format!("next_hops[{index}]{field}"), problem))
            };
            let next_hop = match next_hop.via {
                Some(Via::Port(name)) => NextHopObject::Port(name.into()),
                Some(Via::Tunnel(name)) => NextHopObject::Tunnel(name.into()),
                Some(Via::Discard(_)) if count > 1 => {
                    return wrong(".discard", Problem::DiscardAmongOthers);
                }
                Some(Via::Discard(number)) => match Discard::try_from(number) {
                    Ok(Discard::Unreachable) => NextHopObject::Unreachable,
                    Ok(Discard::Blackhole) => NextHopObject::Blackhole,
                    Ok(Discard::Unspecified) => return wrong(".discard", Problem::Missing),
                    Err(_) => return wrong(".discard", Problem::UnknownEnum { number }),
                },
                None => return wrong("", Problem::Missing),
            };
            if parsed.contains(&next_hop) {
                return wrong("", Problem::Twice);
            }
            parsed.push(next_hop);
        }
        Ok(parsed.into())
    }
}

/// Whether an address is of the IPv4 or the IPv6 family, for messages.
pub(super) fn family_name(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(super) fn vrf_label(id: u32) -> String {
    format!("vrf {id}")
}

pub(super) fn port_label(name: &str) -> String {
    format!("port \"{name}\"")
}

pub(super) fn tunnel_label(name: &str) -> String {
    format!("tunnel \"{name}\"")
}
