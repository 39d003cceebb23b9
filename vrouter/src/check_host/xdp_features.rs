//! What a device's driver can do with XDP, as the kernel's `netdev` family tells (Linux 6.3).

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// `linux/genetlink.h`, `linux/netdev.h`.
const CONTROL_FAMILY: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
const NETDEV_DEV_GET: u8 = 1;
const NETDEV_IFINDEX: u16 = 1;
const NETDEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ZC_MAX_SEGS: u16 = 4;
/// `NETDEV_XDP_ACT_BASIC` and `NETDEV_XDP_ACT_REDIRECT`.
const FEATURES_NATIVE: u64 = 0b11;
/// `NETDEV_XDP_ACT_XSK_ZEROCOPY`.
const FEATURE_ZERO_COPY: u64 = 1 << 3;

/// A netlink header and a generic one.
const HEADERS_BYTES: usize = 16 + 4;
const MESSAGE_ERROR: u16 = 2;

/// What a driver can do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct XdpFeatures {
    /// Programs run in the driver, and redirect.
    pub(super) has_native: bool,
    pub(super) has_zero_copy: bool,
    /// Buffers that a packet may have in zero copy.
    pub(super) zero_copy_segments_max: u32,
}

/// What the driver of an interface of this thread's namespace can do; `None` if the kernel does not
/// tell.
pub(super) fn xdp_features(interface_index: u32) -> io::Result<Option<XdpFeatures>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = attribute(CONTROL_FAMILY_NAME, b"netdev\0");
    let Some(family) = ask(&socket, CONTROL_FAMILY, CONTROL_GET_FAMILY, &name)? else {
        return Ok(None);
    };
    let Some(family) = value(&family, CONTROL_FAMILY_ID).and_then(number) else {
        return Ok(None);
    };
    let family = u16::try_from(family).unwrap_or(u16::MAX);
    let index = attribute(NETDEV_IFINDEX, &interface_index.to_ne_bytes());
    let Some(device) = ask(&socket, family, NETDEV_DEV_GET, &index)? else { return Ok(None) };
    let Some(features) = value(&device, NETDEV_XDP_FEATURES).and_then(number) else {
        return Ok(None);
    };
    let segments = value(&device, NETDEV_XDP_ZC_MAX_SEGS).and_then(number).unwrap_or(1);
    Ok(Some(XdpFeatures {
        has_native: features & FEATURES_NATIVE == FEATURES_NATIVE,
        has_zero_copy: features & FEATURE_ZERO_COPY != 0,
        zero_copy_segments_max: u32::try_from(segments).unwrap_or(u32::MAX),
    }))
}

/// Asks one question; returns the attributes of the answer, or `None` if the kernel does not know
/// it.
fn ask(
    socket: &Socket,
    family: u16,
    command: u8,
    attributes: &[u8],
) -> io::Result<Option<Vec<u8>>> {
    const FLAG_REQUEST: u16 = 1;
    let length = u32::try_from(HEADERS_BYTES + attributes.len()).unwrap_or(u32::MAX);
    let mut request = Vec::new();
    request.extend_from_slice(&length.to_ne_bytes());
    request.extend_from_slice(&family.to_ne_bytes());
    request.extend_from_slice(&FLAG_REQUEST.to_ne_bytes());
    // Sequence and port: one question at a time needs none.
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[command, 1, 0, 0]);
    request.extend_from_slice(attributes);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(MESSAGE_ERROR) {
        return Ok(None);
    }
    Ok(answer.get(HEADERS_BYTES..).map(<[u8]>::to_vec))
}

/// An attribute: length, kind, value, and padding to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of a kind.
fn value(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (length, rest) = attributes.split_first_chunk::<2>()?;
        let (this, _) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let value = attributes.get(4..length)?;
        // The two highest bits of a kind are flags.
        if u16::from_ne_bytes(*this) & 0x3fff == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// A number of two, four or eight bytes.
fn number(value: &[u8]) -> Option<u64> {
    match *value {
        [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
        _ => value.try_into().ok().map(u64::from_ne_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_behind_another_one() {
        let bytes = [attribute(7, b"abc"), attribute(3, &9_u64.to_ne_bytes())].concat();
        assert_eq!(value(&bytes, 3).and_then(number), Some(9));
        assert_eq!(value(&bytes, 7), Some(&b"abc"[..]));
        assert_eq!(value(&bytes, 8), None);
    }

    #[test]
    fn attributes_that_are_cut_short_or_empty_end_the_search() {
        let bytes = attribute(3, &9_u64.to_ne_bytes());
        for end in 0..bytes.len() {
            assert_eq!(value(&bytes[..end], 3), None);
        }
        assert_eq!(value(&[0; 16], 3), None);
    }
}
