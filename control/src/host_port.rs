//! The node's own way to the pods: a veth pair, or a TAP device, between its stack and the engine.
//!
//! ```text
//! node's stack ── vrhost0 ═══ vrhost1 ── engine (port "host")        veth
//! node's stack ── vrhost0 ────────────── engine (port "host")        tap
//! ```
//!
//! The node has a route through `vrhost0` for every pod range of the cluster, with its `InternalIP`
//! as the source, and a fixed neighbour entry for the gateway: the engine has no MAC address that
//! could change. `vrhost0` has no address. Its `rp_filter` is 2 (loose): the engine hands over what
//! was steered to it and is nobody's, and that comes from where the uplink leads. All settings are
//! on our own two interfaces; they and the routes go with them.
//!
//! Transmit checksums stay partial on `vrhost0`; the engine finishes them.

use std::{collections::BTreeMap, fs, net::IpAddr};

use control_api::engine::af_xdp_backend::Mode;
use ipnet::IpNet;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};

use crate::{
    attachment::ALIAS_PREFIX,
    cluster::{Cluster, Family, Node},
    compile::{Backend, gateway_mac, gateways},
    link::{self, End, Link, NetlinkError, Stack},
    mac::MacAddress,
    names::NodeName,
    pod_network,
    port_type::PortType,
    tap::{self, Tap},
};

/// The end that the node's stack uses.
pub const STACK_INTERFACE: &str = "vrhost0";

/// The end that the engine opens.
pub const ENGINE_INTERFACE: &str = "vrhost1";

/// How many queues each end has: the node's own traffic to its pods is probes and the like.
const QUEUES: u32 = 1;

/// Marks our routes among others (`proto` of `ip route`). Numbers up to 4 are the kernel's, those
/// of the routing daemons begin at 8; this one is nobody's.
const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(118);

/// Why the node's stack has no way to the pods, or not to all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum HostPortError {
    #[error("{name} exists and is not vrouter's: rename or remove it (`ip link del {name}`)")]
    ForeignInterface { name: &'static str },

    #[error("{}: {}", .0, .0.source)]
    Netlink(#[from] NetlinkError),

    #[error(
        "cannot route {prefix} through {STACK_INTERFACE} with source {source_address} ({error}): \
         does the node have that address, and does nobody else route there?"
    )]
    Route { prefix: IpNet, source_address: IpAddr, error: std::io::Error },
}

/// What the engine opens.
#[must_use]
pub fn backend(port_type: PortType) -> Backend {
    if port_type == PortType::Tap {
        let interface = STACK_INTERFACE.to_owned();
        return Backend::Tap { interface, netns_path: String::new(), queues: 0 };
    }
    Backend::AfXdp {
        interface: ENGINE_INTERFACE.to_owned(),
        queues: QUEUES,
        mode: Mode::Auto,
        partial_checksums: true,
    }
}

/// Whether an interface is one of the pair.
#[must_use]
pub fn is_ours(name: &str) -> bool {
    name == STACK_INTERFACE || name == ENGINE_INTERFACE
}

/// Makes the pair, or the TAP device, if it is not there, and brings its routes in step with the
/// cluster.
///
/// What is there and right is left alone, so traffic goes on through a restart; what is there of
/// the other type is made anew.
///
/// # Errors
///
/// Returns everything that did not succeed; the rest is in force.
pub async fn sync(
    handle: &Handle,
    cluster: &Cluster,
    node: &Node,
    mtu_bytes: u32,
    port_type: PortType,
) -> Vec<HostPortError> {
    let mac = node.vtep().map(MacAddress::from_ip);
    let wanted = Wanted { mac, mtu_bytes, is_tap: port_type == PortType::Tap };
    let index = match ensure_interface(handle, &node.name, &wanted).await {
        Ok(index) => index,
        Err(error) => return vec![error],
    };
    if let Err(error) = set_neighbours(handle, node, index).await {
        return vec![error.into()];
    }
    match sync_routes(handle, cluster, node, index).await {
        Ok(errors) => errors,
        Err(error) => vec![error.into()],
    }
}

/// Removes the pair, and with it the routes, if it is ours.
///
/// # Errors
///
/// Fails if the interface is somebody else's, or the kernel refuses.
pub async fn remove(handle: &Handle) -> Result<(), HostPortError> {
    if let Some(found) = link::find(handle, STACK_INTERFACE).await? {
        check_ours(&found)?;
        link::remove(handle, STACK_INTERFACE).await?;
    }
    Ok(())
}

/// Ours by its alias; or without one, if we were killed before we set it.
fn check_ours(found: &Link) -> Result<(), HostPortError> {
    let is_ours = match &found.alias {
        Some(alias) => alias.starts_with(ALIAS_PREFIX),
        None => (found.is_veth() || found.is_tap()) && !found.is_up,
    };
    if is_ours { Ok(()) } else { Err(HostPortError::ForeignInterface { name: STACK_INTERFACE }) }
}

/// What the stack's interface is to look like.
struct Wanted {
    mac: Option<MacAddress>,
    mtu_bytes: u32,
    is_tap: bool,
}

/// Returns the number of the stack's interface.
async fn ensure_interface(
    handle: &Handle,
    node: &NodeName,
    wanted: &Wanted,
) -> Result<u32, HostPortError> {
    let Wanted { mac, mtu_bytes, is_tap } = *wanted;
    let stack = End { name: STACK_INTERFACE, mac, netns_fd: None, stack: Stack::NoLinkLocal };
    let engine = End { name: ENGINE_INTERFACE, mac: None, netns_fd: None, stack: Stack::Silent };
    let alias = format!("{ALIAS_PREFIX}{node}:host");
    let mut found = link::find(handle, STACK_INTERFACE).await?;
    if let Some(other) = &found {
        check_ours(other)?;
        if other.is_tap() != is_tap {
            link::remove(handle, STACK_INTERFACE).await?;
            found = None;
        }
    }
    if found.is_none() {
        if is_tap {
            let device = Tap { end: stack.clone(), mtu_bytes, alias: &alias };
            tap::create(handle, &device).await?;
        } else {
            link::make_pair(handle, [&stack, &engine], mtu_bytes, QUEUES).await?;
        }
        found = link::find(handle, STACK_INTERFACE).await?;
    }
    let Some(found) = found else {
        let action = format!("find {STACK_INTERFACE}, which was just made");
        return Err(NetlinkError { action, source: std::io::ErrorKind::NotFound.into() }.into());
    };
    if found.mac != mac || found.mtu_bytes != mtu_bytes {
        link::reshape(handle, STACK_INTERFACE, mac, mtu_bytes).await?;
        if !is_tap {
            link::reshape(handle, ENGINE_INTERFACE, None, mtu_bytes).await?;
        }
    }
    if !found.is_up || found.alias.is_none() {
        for (setting, value) in [("ipv4", "rp_filter", "2"), ("ipv6", "disable_ipv6", "0")]
            .map(|(family, name, value)| (format!("{family}/conf/{STACK_INTERFACE}/{name}"), value))
        {
            if let Err(error) = fs::write(format!("/proc/sys/net/{setting}"), value) {
                tracing::warn!(setting, value, %error, "cannot write the setting");
            }
        }
        let ends = [&stack, &engine];
        // A TAP device has no other end.
        let ends = if is_tap { &ends[..1] } else { &ends[..] };
        for end in ends.iter().rev() {
            link::bring_up(handle, end, &alias).await?;
        }
    }
    Ok(found.index)
}

/// The gateway's MAC address follows from its address: nobody has to be asked.
async fn set_neighbours(handle: &Handle, node: &Node, index: u32) -> Result<(), NetlinkError> {
    let Some(mac) = gateway_mac(node) else { return Ok(()) };
    for gateway in gateways(node) {
        let request = handle.neighbours().add(index, gateway).link_layer_address(&mac.octets());
        request.replace().execute().await.map_err(|error| {
            NetlinkError::new(format!("add a neighbour entry for the gateway {gateway}"), &error)
        })?;
    }
    Ok(())
}

/// A route's source and gateway.
type Way = (IpAddr, IpAddr);

async fn sync_routes(
    handle: &Handle,
    cluster: &Cluster,
    node: &Node,
    index: u32,
) -> Result<Vec<HostPortError>, NetlinkError> {
    let mut wanted = wanted(cluster, node);
    let mut present = pod_network::routes(handle, Family::V4).await?;
    present.extend(pod_network::routes(handle, Family::V6).await?);
    for route in present {
        let is_ours =
            route.header.protocol == ROUTE_PROTOCOL && pod_network::leaves_through(&route, index);
        if !is_ours {
            continue;
        }
        let prefix = destination(&route);
        let right = prefix.and_then(|prefix| wanted.get(&prefix)).copied();
        if right.is_some() && right == way(&route) {
            wanted.retain(|other, _| Some(*other) != prefix);
        } else {
            let removed = handle.route().del(route).execute().await;
            removed.map_err(|error| NetlinkError::new("remove a stale route", &error))?;
        }
    }
    let mut errors = Vec::new();
    for (prefix, (source_address, gateway)) in wanted {
        let added = add_route(handle, prefix, source_address, gateway, index).await;
        if let Err(error) = added {
            errors.push(HostPortError::Route { prefix, source_address, error });
        }
    }
    Ok(errors)
}

/// Every pod range of the cluster, this node's own included.
fn wanted(cluster: &Cluster, node: &Node) -> BTreeMap<IpNet, Way> {
    let gateways = gateways(node);
    let way = |family| {
        let gateway = gateways.iter().find(|gateway| Family::of(**gateway) == family)?;
        Some((node.address(family)?, *gateway))
    };
    let ranges = cluster.nodes.values().flat_map(|node| &node.ranges);
    let routed = ranges.filter_map(|range| Some((range.net(), way(Family::of(range.gateway()))?)));
    routed.collect()
}

async fn add_route(
    handle: &Handle,
    prefix: IpNet,
    source: IpAddr,
    gateway: IpAddr,
    index: u32,
) -> Result<(), std::io::Error> {
    let route = describe(prefix, source, gateway).map_err(std::io::Error::other)?;
    let route = route.output_interface(index).onlink().protocol(ROUTE_PROTOCOL).build();
    let added = handle.route().add(route).execute().await;
    added.map_err(|error| NetlinkError::new("add a route", &error).source)
}

fn describe(
    prefix: IpNet,
    source: IpAddr,
    gateway: IpAddr,
) -> Result<RouteMessageBuilder<IpAddr>, impl std::error::Error + Send + Sync + 'static> {
    pod_network::builder(prefix).pref_source(source).and_then(|route| route.gateway(gateway))
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

fn way(route: &RouteMessage) -> Option<Way> {
    let find = |pick: fn(&RouteAttribute) -> Option<&RouteAddress>| {
        route.attributes.iter().find_map(|attribute| ip(pick(attribute)?))
    };
    let source = find(|attribute| match attribute {
        RouteAttribute::PrefSource(address) => Some(address),
        _ => None,
    })?;
    let gateway = find(|attribute| match attribute {
        RouteAttribute::Gateway(address) => Some(address),
        _ => None,
    })?;
    Some((source, gateway))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
