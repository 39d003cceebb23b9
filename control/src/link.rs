//! Interfaces of this node: pairs made and removed, and what is there.

use std::{fs, io};

use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth,
    packet_route::link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
        LinkFlags, LinkInfo, LinkMessage,
    },
};

use crate::mac::MacAddress;

/// Why the kernel did not do as asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct NetlinkError {
    /// What was asked, with the names: "make the interface vr0123".
    pub action: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// An interface that exists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// Its number within the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: Option<MacAddress>,
    /// Its MTU, in bytes.
    pub mtu_bytes: u32,
    /// Its alias: a text of its owner's.
    pub alias: Option<String>,
    /// What kind it is.
    pub kind: LinkKind,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Whether its other end is in another namespace.
    pub is_far: bool,
}

/// The kinds of interfaces that are ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LinkKind {
    /// One end of a veth pair.
    Veth,
    /// A TUN or TAP device.
    Tap,
    /// None of them.
    Other,
}

/// One end of a pair to be made.
#[derive(Clone, Debug)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address; the kernel chooses one if there is none.
    pub mac: Option<MacAddress>,
    /// The namespace it is made in, as an open descriptor; ours if there is none.
    pub netns_fd: Option<i32>,
    /// What the kernel's own stack does with this end.
    pub stack: Stack,
}

/// What the kernel's own stack does with one end of a pair.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stack {
    /// All that it does with any interface.
    Full,
    /// It sends and receives, but has no IPv6 link-local address there to announce.
    NoLinkLocal,
    /// Nothing: frames pass below it. It is kept from speaking, also with ARP, and from listening.
    Silent,
}

impl Link {
    /// Whether it is one end of a veth pair.
    #[must_use]
    pub fn is_veth(&self) -> bool {
        self.kind == LinkKind::Veth
    }

    /// Whether it is a TUN or TAP device.
    #[must_use]
    pub fn is_tap(&self) -> bool {
        self.kind == LinkKind::Tap
    }
}

impl NetlinkError {
    /// Wraps the answer to `action`.
    #[must_use]
    pub fn new(action: impl Into<String>, error: &rtnetlink::Error) -> Self {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        Self { action: action.into(), source }
    }

    /// Whether the kernel said that it is there already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }

    /// Whether the kernel said that there is no such thing (any more).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        const ENODEV: i32 = 19;
        self.source.kind() == io::ErrorKind::NotFound || self.source.raw_os_error() == Some(ENODEV)
    }
}

/// Makes a veth pair; each end is made in its namespace, so neither is ever seen elsewhere.
///
/// # Errors
///
/// Fails, and makes nothing, if a name is taken or the kernel refuses.
pub async fn make_pair(
    handle: &Handle,
    ends: [&End<'_>; 2],
    mtu_bytes: u32,
    queues: u32,
) -> Result<(), NetlinkError> {
    let [near, far] = ends;
    let peer = describe(LinkUnspec::new_with_name(far.name), far, mtu_bytes, queues).build();
    let pair =
        LinkVeth::new(near.name, far.name).set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
    let pair = describe(pair, near, mtu_bytes, queues).build();
    handle.link().add(pair).execute().await.map_err(|error| {
        NetlinkError::new(format!("make the pair {} and {}", near.name, far.name), &error)
    })
}

fn describe<T>(
    builder: LinkMessageBuilder<T>,
    end: &End<'_>,
    mtu_bytes: u32,
    queues: u32,
) -> LinkMessageBuilder<T> {
    let mut builder = builder
        .mtu(mtu_bytes)
        .append_extra_attribute(LinkAttribute::NumTxQueues(queues))
        .append_extra_attribute(LinkAttribute::NumRxQueues(queues));
    if let Some(mac) = end.mac {
        builder = builder.address(mac.octets().to_vec());
    }
    if let Some(fd) = end.netns_fd {
        builder = builder.setns_by_fd(fd);
    }
    builder
}

/// Switches an interface on, tagged as ours; the kernel's stack is told first what to do with it.
///
/// # Errors
///
/// Fails if there is no such interface or the kernel refuses.
pub async fn bring_up(handle: &Handle, end: &End<'_>, alias: &str) -> Result<(), NetlinkError> {
    let failed = |error| NetlinkError::new(format!("switch on {}", end.name), &error);
    let mut message = LinkUnspec::new_with_name(end.name).alias(alias);
    if end.stack != Stack::Full {
        let no_link_local = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        message =
            message.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
                vec![no_link_local],
            )]));
    }
    if end.stack == Stack::Silent {
        seal(end.name);
        message = message.arp(false);
    }
    handle.link().set(message.build()).execute().await.map_err(failed)?;
    let up = LinkUnspec::new_with_name(end.name).up().build();
    handle.link().set(up).execute().await.map_err(failed)
}

/// Keeps the node's stack from taking what the engine does not: while the engine is away, a pod
/// must not reach the node by writing its frames to everybody. No source has its route through such
/// an interface, so the strict reverse-path check (RFC 3704) drops all of IPv4.
fn seal(name: &str) {
    for (setting, value) in [("ipv6/conf/{}/disable_ipv6", "1"), ("ipv4/conf/{}/rp_filter", "1")] {
        let path = format!("/proc/sys/net/{}", setting.replace("{}", name));
        if let Err(error) = fs::write(&path, value) {
            tracing::warn!(path, value, %error, "cannot write the setting");
        }
    }
}

/// Changes an interface's MAC address and MTU.
///
/// # Errors
///
/// Fails if there is no such interface or the kernel refuses.
pub async fn reshape(
    handle: &Handle,
    name: &str,
    mac: Option<MacAddress>,
    mtu_bytes: u32,
) -> Result<(), NetlinkError> {
    let mut message = LinkUnspec::new_with_name(name).mtu(mtu_bytes);
    if let Some(mac) = mac {
        message = message.address(mac.octets().to_vec());
    }
    let result = handle.link().set(message.build()).execute().await;
    result.map_err(|error| NetlinkError::new(format!("change MAC and MTU of {name}"), &error))
}

/// Removes an interface and, with it, its other end. Nothing happens if there is none.
///
/// # Errors
///
/// Fails if the kernel refuses.
pub async fn remove(handle: &Handle, name: &str) -> Result<(), NetlinkError> {
    let message = LinkUnspec::new_with_name(name).build();
    match handle.link().del_with_message(message).execute().await {
        Ok(()) => Ok(()),
        Err(error) => {
            let error = NetlinkError::new(format!("remove the interface {name}"), &error);
            if error.is_gone() { Ok(()) } else { Err(error) }
        }
    }
}

/// Looks for an interface by name.
///
/// # Errors
///
/// Fails if the kernel does not answer.
pub async fn find(handle: &Handle, name: &str) -> Result<Option<Link>, NetlinkError> {
    let request = handle.link().get().match_name(name).execute().try_next().await;
    match request {
        Ok(message) => Ok(message.map(|message| link(&message))),
        Err(error) => {
            let error = NetlinkError::new(format!("look for the interface {name}"), &error);
            if error.is_gone() { Ok(None) } else { Err(error) }
        }
    }
}

/// All interfaces of the namespace.
///
/// # Errors
///
/// Fails if the kernel does not answer.
pub async fn list(handle: &Handle) -> Result<Vec<Link>, NetlinkError> {
    let links = handle.link().get().execute().map_ok(|message| link(&message));
    links.try_collect().await.map_err(|error| NetlinkError::new("list the interfaces", &error))
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu_bytes: 0,
        alias: None,
        kind: LinkKind::Other,
        is_up: message.header.flags.contains(LinkFlags::Up),
        is_far: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(octets) => {
                link.mac = <[u8; 6]>::try_from(octets.as_slice()).ok().map(MacAddress::from_octets);
            }
            LinkAttribute::Mtu(mtu_bytes) => link.mtu_bytes = *mtu_bytes,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::LinkNetNsId(_) => link.is_far = true,
            LinkAttribute::LinkInfo(details) => {
                if details.contains(&LinkInfo::Kind(InfoKind::Veth)) {
                    link.kind = LinkKind::Veth;
                } else if details.contains(&LinkInfo::Kind(InfoKind::Tun)) {
                    link.kind = LinkKind::Tap;
                }
            }
            _ => {}
        }
    }
    link
}
