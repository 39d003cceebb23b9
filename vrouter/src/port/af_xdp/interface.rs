//! What there is to know about a network interface before it becomes a port.

use std::{ffi::CStr, fs, io};

use netlink_packet_core::Nla;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
};

use super::ethtool;
use crate::netlink::Connection;

/// A network interface of the calling thread's namespace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Interface {
    /// The kernel's number for it, in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The largest IP packet, in bytes.
    pub mtu_bytes: u32,
    /// Its MAC address, if it has one.
    pub mac_address: Option<[u8; 6]>,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// The driver, such as "veth" or "`virtio_net`"; empty if unknown.
    pub driver: String,
    /// The NUMA node of its device, if known.
    pub numa_node: Option<u32>,
    /// The XDP program that is attached, if any: its id, and whether it runs in the driver.
    pub(super) program: Option<(u32, bool)>,
    /// What kind of TUN or TAP device it is, if it is one.
    pub(in crate::port) tun: Option<TunKind>,
}

/// What the kernel says about a TUN or TAP device (`IFLA_TUN_*`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::port) struct TunKind {
    /// It carries Ethernet frames.
    pub(in crate::port) is_tap: bool,
    /// It may have several queues.
    pub(in crate::port) is_multi_queue: bool,
    /// Queues that somebody has open; 0 if it has one only.
    pub(in crate::port) queues_open: u32,
}

impl Interface {
    /// Looks an interface up by name.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is none of that name.
    pub fn find(name: &str) -> io::Result<Self> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut connection = Connection::open()?;
        let answers =
            connection.request(RouteNetlinkMessage::GetLink(message), 0).map_err(|error| {
                if error.raw_os_error() == Some(libc::ENODEV) {
                    io::Error::from(io::ErrorKind::NotFound)
                } else {
                    error
                }
            })?;
        let link = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        });
        link.map(|link| Self::from_message(name, &link)).ok_or(io::ErrorKind::NotFound.into())
    }

    fn from_message(name: &str, link: &LinkMessage) -> Self {
        let facts = ethtool::facts(name);
        let mut interface = Self {
            index: link.header.index,
            name: name.to_owned(),
            mtu_bytes: 0,
            mac_address: None,
            rx_queues: facts.rx_queues.unwrap_or(1),
            driver: facts.driver.unwrap_or_default(),
            numa_node: numa_node(name),
            program: None,
            tun: None,
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Mtu(bytes) => interface.mtu_bytes = *bytes,
                LinkAttribute::Address(bytes) => {
                    interface.mac_address = bytes.as_slice().try_into().ok();
                }
                LinkAttribute::Xdp(attributes) => interface.program = attached(attributes),
                LinkAttribute::LinkInfo(infos) => interface.tun = infos.iter().find_map(tun_kind),
                _ => {}
            }
        }
        interface
    }
}

fn attached(attributes: &[LinkXdp]) -> Option<(u32, bool)> {
    let is_native = attributes.contains(&LinkXdp::Attached(XdpAttached::Driver));
    attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) if *id != 0 => Some((*id, is_native)),
        _ => None,
    })
}

fn tun_kind(info: &LinkInfo) -> Option<TunKind> {
    // Of `linux/if_link.h` and `linux/if_tun.h`.
    const TYPE: u16 = 3;
    const MULTI_QUEUE: u16 = 7;
    const NUM_QUEUES: u16 = 8;
    const IFF_TAP: u8 = 2;
    let LinkInfo::Data(InfoData::Tun(attributes)) = info else { return None };
    let mut kind = TunKind::default();
    for attribute in attributes {
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        match (attribute.kind(), value.as_slice()) {
            (TYPE, [kind_of, ..]) => kind.is_tap = *kind_of == IFF_TAP,
            (MULTI_QUEUE, [is, ..]) => kind.is_multi_queue = *is != 0,
            (NUM_QUEUES, bytes) => {
                kind.queues_open =
                    bytes.first_chunk().map_or(0, |count| u32::from_ne_bytes(*count));
            }
            _ => {}
        }
    }
    Some(kind)
}

/// Sysfs shows the interfaces of the namespace that it was mounted in; for others nothing is known.
fn numa_node(name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/device/numa_node")).ok()?;
    text.trim().parse().ok()
}

/// The text of a C string in a fixed array, up to its end mark.
pub(super) fn text(bytes: &[u8]) -> Option<String> {
    CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok().map(str::to_owned)
}
