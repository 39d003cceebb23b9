//! An attachment: one interface of one container, from the moment ADD is accepted to the end of
//! DEL. Its record is in the store before anything it names exists.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    link::Link, mac::MacAddress, names::PodName, port_type::PortType, vhost_socket::VhostSocket,
};

/// Names of host-side interfaces begin so. What follows is a hash: 15 bytes in all, the kernel's
/// limit for a name.
pub const HOST_INTERFACE_PREFIX: &str = "vr";

/// What the aliases of our interfaces begin with; the attachment's key and the node's name follow.
pub const ALIAS_PREFIX: &str = "vrouter:";

/// Which interface of which container.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct AttachmentKey {
    /// The runtime's name for the container.
    pub container_id: String,
    /// The interface's name in the container.
    pub ifname: String,
}

/// How far an attachment has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// ADD has begun. Found after a restart: undone, since nobody was told that it succeeded.
    Adding,
    /// ADD has succeeded, or is about to be told so.
    Ready,
    /// DEL has begun. Found after a restart: finished.
    Deleting,
}

/// What an attachment is made of.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attachment {
    /// Which interface of which container.
    pub key: AttachmentKey,
    /// How far it has come.
    pub phase: Phase,
    /// The name of the CNI network that asked for it.
    pub network: String,
    /// The path of the container's network namespace.
    pub netns: String,
    /// The pod. Containers without one are in the namespace [`CONTAINER_NAMESPACE`].
    pub pod: PodName,
    /// Its addresses, none while an IPAM plugin has not answered yet.
    pub addresses: Vec<IpAddr>,
    /// The MAC address of its end; `None` until it has addresses.
    pub mac: Option<MacAddress>,
    /// The MTU of its end, in bytes.
    pub mtu_bytes: u32,
    /// The name of the interface on the node's side, if it has one.
    pub host_interface: String,
    /// What it is attached by. Records from before there was a choice are of veth pairs.
    #[serde(default)]
    pub means: Means,
    /// The IPAM plugin that gave the addresses, if it was not us.
    pub delegate: Option<Delegate>,
}

/// What attaches a container: what [`PortType`] says, and what has to be remembered of it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Means {
    /// A veth pair.
    #[default]
    Veth,
    /// A TAP device in the container.
    Tap,
    /// A vhost-user socket; no interface of the kernel.
    VhostUser(VhostSocket),
}

impl Means {
    /// Its type.
    #[must_use]
    pub fn port_type(&self) -> PortType {
        match self {
            Self::Veth => PortType::Veth,
            Self::Tap => PortType::Tap,
            Self::VhostUser(_) => PortType::VhostUser,
        }
    }

    /// The socket, if it is one.
    #[must_use]
    pub fn socket(&self) -> Option<&VhostSocket> {
        match self {
            Self::VhostUser(socket) => Some(socket),
            Self::Veth | Self::Tap => None,
        }
    }
}

/// How to reach the IPAM plugin again when the addresses are to be given back.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Delegate {
    /// The plugin's name: `ipam.type` of the network's configuration.
    pub plugin: String,
    /// Where plugins are: `CNI_PATH` of the ADD.
    pub path: String,
    /// `CNI_ARGS` of the ADD.
    pub args: String,
    /// The network's configuration, as JSON.
    pub config: String,
}

/// The namespace in the port names of containers that are no pods.
pub const CONTAINER_NAMESPACE: &str = "container";

impl AttachmentKey {
    /// Whether an interface is the attachment's, by its alias; or without one, if we were killed
    /// before we set it. The node may have had another name then.
    #[must_use]
    pub(crate) fn owns(&self, link: &Link) -> bool {
        match &link.alias {
            Some(alias) => alias
                .strip_prefix(ALIAS_PREFIX)
                .is_some_and(|rest| rest.ends_with(&format!(":{self}"))),
            None => (link.is_veth() || link.is_tap()) && !link.is_up,
        }
    }

    /// The key that is displayed as `text`. Neither part of a key has a slash.
    #[must_use]
    pub(crate) fn from_text(text: &str) -> Self {
        let (container_id, ifname) = text.rsplit_once('/').unwrap_or((text, ""));
        Self { container_id: container_id.to_owned(), ifname: ifname.to_owned() }
    }

    /// The name of the interface on the node's side.
    #[must_use]
    pub fn host_interface(&self) -> String {
        // 52 bits of FNV-1a, 64 bits: some 10⁵ attachments before two names are likely to meet,
        // and then the kernel refuses the second.
        let hash = self.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("{HOST_INTERFACE_PREFIX}{:013x}", hash >> 12)
    }
}

impl fmt::Display for AttachmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container_id, self.ifname)
    }
}

impl Attachment {
    /// The engine's name for its port.
    #[must_use]
    pub fn port(&self) -> String {
        self.pod.port(&self.key.ifname)
    }

    /// The tag by which its interface is known as ours.
    #[must_use]
    pub fn alias(&self, node: &str) -> String {
        format!("{ALIAS_PREFIX}{node}:{}", self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_interface_has_a_name_that_the_kernel_takes() {
        let key = AttachmentKey { container_id: "c".repeat(64), ifname: "eth0".into() };
        let name = key.host_interface();
        assert_eq!(name.len(), 15);
        assert!(name.starts_with(HOST_INTERFACE_PREFIX));
        let other = AttachmentKey { ifname: "eth1".into(), ..key.clone() };
        assert_ne!(name, other.host_interface());
        assert_eq!(name, key.host_interface());
    }
}
