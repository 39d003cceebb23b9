//! Pods on this node that another plugin made: listed, and their addresses kept back, but never
//! touched.
//!
//! Such a pod shows as a veth whose other end is in another namespace and whose alias is not ours.
//! Most plugins route the pod's address to it, which tells the address.

use std::net::IpAddr;

use rtnetlink::{
    Handle,
    packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};

use crate::{
    attachment::ALIAS_PREFIX,
    cluster::Family,
    link::{self, Link, NetlinkError},
    pod_network::{leaves_through, routes},
};

/// A pod that is not ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForeignPod {
    /// The interface on the node's side.
    pub interface: String,
    /// The addresses that are routed to it.
    pub addresses: Vec<IpAddr>,
}

/// Looks for pods of other plugins.
///
/// `is_known` tells the interfaces that are no pod of another plugin: the uplink, and our own that
/// have no alias yet.
///
/// # Errors
///
/// Fails if the kernel does not answer.
pub async fn find(
    handle: &Handle,
    is_known: impl Fn(&str) -> bool,
) -> Result<Vec<ForeignPod>, NetlinkError> {
    let links = link::list(handle).await?;
    let foreign: Vec<&Link> = links
        .iter()
        .filter(|link| link.is_veth() && link.is_far && !is_known(&link.name))
        .filter(|link| !link.alias.as_ref().is_some_and(|alias| alias.starts_with(ALIAS_PREFIX)))
        .collect();
    if foreign.is_empty() {
        return Ok(Vec::new());
    }
    let mut all = routes(handle, Family::V4).await?;
    all.extend(routes(handle, Family::V6).await?);
    let pod = |link: &Link| ForeignPod {
        interface: link.name.clone(),
        addresses: all
            .iter()
            .filter(|route| leaves_through(route, link.index))
            .filter_map(host_route)
            .collect(),
    };
    Ok(foreign.into_iter().map(pod).collect())
}

/// The destination of a unicast route to one address.
fn host_route(route: &RouteMessage) -> Option<IpAddr> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address))
            if route.header.destination_prefix_length == 32 =>
        {
            Some(IpAddr::V4(*address))
        }
        RouteAttribute::Destination(RouteAddress::Inet6(address))
            if route.header.destination_prefix_length == 128 =>
        {
            Some(IpAddr::V6(*address))
        }
        _ => None,
    })
}
