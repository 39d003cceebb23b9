//! The pod's end of its pair: addresses, routes, and whether they are still there.

use std::{collections::BTreeSet, fs, net::IpAddr};

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope, RouteType},
    },
};

use crate::{
    cluster::Family,
    link::{self, NetlinkError},
    mac::MacAddress,
};

/// Added to an interface's number, the metric of the gateway's route there if another interface has
/// the default route: behind all routes that have the kernel's default metric, 1024 for IPv6.
const SECOND_METRIC: u32 = 1024;

/// What a pod's interface is to look like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodNetwork {
    /// The interface's name in the pod.
    pub ifname: String,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its addresses, each alone on its prefix: everything else is behind the gateway.
    pub addresses: Vec<IpAddr>,
    /// The gateways: at most one of each family.
    pub gateways: Vec<IpAddr>,
}

/// How a pod's interface differs from what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Mismatch {
    #[error("the container has no interface {ifname}")]
    NoInterface { ifname: String },

    #[error("{ifname} is switched off")]
    Down { ifname: String },

    #[error("{ifname} has the MAC address {found}, not {expected}")]
    Mac { ifname: String, found: String, expected: MacAddress },

    #[error("{ifname} does not have the address {address}")]
    NoAddress { ifname: String, address: IpAddr },

    #[error("there is no default route via {gateway}")]
    NoRoute { gateway: IpAddr },

    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl PodNetwork {
    /// Gives the interface its addresses and routes and switches it and `lo` on. Runs within the
    /// pod's namespace. Returns the gateways that have become the pod's default: none of a family
    /// that has a default route through another interface.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses a step.
    pub async fn configure(&self, handle: &Handle) -> Result<Vec<IpAddr>, NetlinkError> {
        let ifname = &self.ifname;
        let link = link::find(handle, ifname).await?.ok_or_else(|| NetlinkError {
            action: format!("find the interface {ifname}"),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        switch_on(handle, "lo").await?;
        self.prepare_ipv6();
        for address in &self.addresses {
            self.add_address(handle, link.index, *address).await?;
        }
        switch_on(handle, ifname).await?;
        let mut defaults = Vec::new();
        for gateway in self.used_gateways() {
            let is_default = !has_other_default(handle, Family::of(gateway), link.index).await?;
            self.add_routes(handle, link.index, gateway, is_default).await?;
            defaults.extend(is_default.then_some(gateway));
        }
        Ok(defaults)
    }

    /// Compares what is there with what should be. Runs within the pod's namespace.
    ///
    /// More than expected is fine: a later plugin may have added it. `defaults` are the gateways
    /// that the result of ADD has a default route through.
    ///
    /// # Errors
    ///
    /// Fails with the first difference.
    pub async fn check(&self, handle: &Handle, defaults: &[IpAddr]) -> Result<(), Mismatch> {
        let ifname = || self.ifname.clone();
        let found = link::find(handle, &self.ifname).await?;
        let link = found.ok_or_else(|| Mismatch::NoInterface { ifname: ifname() })?;
        if !link.is_up {
            return Err(Mismatch::Down { ifname: ifname() });
        }
        if link.mac != Some(self.mac) {
            let found = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
            return Err(Mismatch::Mac { ifname: ifname(), found, expected: self.mac });
        }
        let addresses = addresses(handle, link.index).await?;
        if let Some(address) = self.addresses.iter().find(|ip| !addresses.contains(ip)) {
            return Err(Mismatch::NoAddress { ifname: ifname(), address: *address });
        }
        for gateway in self.used_gateways().filter(|gateway| defaults.contains(gateway)) {
            let defaults = default_gateways(handle, Family::of(gateway), link.index).await?;
            if !defaults.contains(&gateway) {
                return Err(Mismatch::NoRoute { gateway });
            }
        }
        Ok(())
    }

    /// The gateways of those families that the pod has an address of.
    pub(crate) fn used_gateways(&self) -> impl Iterator<Item = IpAddr> {
        let families: BTreeSet<_> = self.addresses.iter().map(|ip| Family::of(*ip)).collect();
        self.gateways.clone().into_iter().filter(move |ip| families.contains(&Family::of(*ip)))
    }

    /// Runtimes may switch IPv6 off in a new namespace; routers never announce themselves here.
    fn prepare_ipv6(&self) {
        if self.addresses.iter().any(IpAddr::is_ipv6) {
            for (setting, value) in [("disable_ipv6", "0"), ("accept_ra", "0")] {
                let path = format!("/proc/sys/net/ipv6/conf/{}/{setting}", self.ifname);
                if let Err(error) = fs::write(&path, value) {
                    // If it mattered, adding the address fails next, and that is reported.
                    tracing::debug!(path, %error, "cannot write");
                }
            }
        }
    }

    async fn add_address(
        &self,
        handle: &Handle,
        index: u32,
        address: IpAddr,
    ) -> Result<(), NetlinkError> {
        let prefix = IpNet::from(address).prefix_len();
        let mut request = handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            // We gave it out once: nobody else can have it, so the pod need not wait and ask.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(|error| {
            NetlinkError::new(format!("add the address {address} to {}", self.ifname), &error)
        })
    }

    /// A route to the gateway, which no prefix covers, and everything else through it, if this is
    /// the way to everything else.
    async fn add_routes(
        &self,
        handle: &Handle,
        index: u32,
        gateway: IpAddr,
        is_default: bool,
    ) -> Result<(), NetlinkError> {
        let mut to_gateway = builder(IpNet::from(gateway)).scope(RouteScope::Link);
        if !is_default {
            // The other interface may be ours, and then has the same route already.
            to_gateway = to_gateway.priority(SECOND_METRIC.saturating_add(index));
        }
        let default = builder(default_prefix(Family::of(gateway))).gateway(gateway);
        let default = default.map_err(|error| NetlinkError {
            action: format!("describe a route via {gateway}"),
            source: std::io::Error::other(error),
        })?;
        for route in [to_gateway].into_iter().chain(is_default.then_some(default)) {
            let route = route.output_interface(index).build();
            handle.route().add(route).execute().await.map_err(|error| {
                NetlinkError::new(format!("add the routes via {gateway}"), &error)
            })?;
        }
        Ok(())
    }
}

async fn switch_on(handle: &Handle, name: &str) -> Result<(), NetlinkError> {
    let up = LinkUnspec::new_with_name(name).up().build();
    let result = handle.link().set(up).execute().await;
    result.map_err(|error| NetlinkError::new(format!("switch on {name}"), &error))
}

/// The prefix of everything.
fn default_prefix(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// A route to `prefix`. Its length is legal by its type.
pub(crate) fn builder(prefix: IpNet) -> RouteMessageBuilder<IpAddr> {
    RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(prefix.network(), prefix.prefix_len())
        .unwrap_or_default()
}

async fn addresses(handle: &Handle, index: u32) -> Result<Vec<IpAddr>, NetlinkError> {
    let request = handle.address().get().set_link_index_filter(index).execute();
    let messages: Vec<AddressMessage> = request
        .try_collect()
        .await
        .map_err(|error| NetlinkError::new("list the addresses", &error))?;
    let address = |message: AddressMessage| {
        message.attributes.into_iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(address),
            _ => None,
        })
    };
    Ok(messages.into_iter().filter_map(address).collect())
}

/// All routes of a family.
pub(crate) async fn routes(
    handle: &Handle,
    family: Family,
) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut query = RouteMessage::default();
    query.header.address_family = match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let request = handle.route().get(query).execute();
    request.try_collect().await.map_err(|error| NetlinkError::new("list the routes", &error))
}

/// Whether a route leaves through the interface with that number.
pub(crate) fn leaves_through(route: &RouteMessage, index: u32) -> bool {
    route.attributes.contains(&RouteAttribute::Oif(index))
}

/// Whether the family has a default route through another interface than that with the number.
async fn has_other_default(
    handle: &Handle,
    family: Family,
    index: u32,
) -> Result<bool, NetlinkError> {
    let is_other_default = |route: &RouteMessage| {
        route.header.destination_prefix_length == 0
            && route.header.kind == RouteType::Unicast
            && route.header.table == RouteHeader::RT_TABLE_MAIN
            && !leaves_through(route, index)
    };
    Ok(routes(handle, family).await?.iter().any(is_other_default))
}

async fn default_gateways(
    handle: &Handle,
    family: Family,
    index: u32,
) -> Result<Vec<IpAddr>, NetlinkError> {
    let routes = routes(handle, family).await?.into_iter();
    let defaults = routes.filter(|route| {
        route.header.destination_prefix_length == 0 && leaves_through(route, index)
    });
    let gateway = |attribute: RouteAttribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(gateway.into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => Some(gateway.into()),
        _ => None,
    };
    Ok(defaults.filter_map(|route| route.attributes.into_iter().find_map(gateway)).collect())
}
