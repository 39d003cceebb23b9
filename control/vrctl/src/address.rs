//! Addresses as text: the wire has bytes, people and programs want the usual notation.

use std::net::IpAddr;

use control_api::engine::Prefix;

/// An IP address of 4 or 16 bytes; empty for none. Other lengths are shown as they are.
pub(crate) fn ip(bytes: &[u8]) -> String {
    match parse_ip(bytes) {
        Some(address) => address.to_string(),
        None if bytes.is_empty() => String::new(),
        None => format!("{bytes:02x?}"),
    }
}

/// Several addresses.
pub(crate) fn ips(list: &[Vec<u8>]) -> Vec<String> {
    list.iter().map(|bytes| ip(bytes)).collect()
}

/// A MAC address in the usual notation; empty for none.
pub(crate) fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// A prefix such as `10.244.1.0/24`.
pub(crate) fn prefix(prefix: &Prefix) -> String {
    format!("{}/{}", ip(&prefix.address), prefix.length)
}

/// An address and a layer-4 port; the port is left out if it is 0.
pub(crate) fn endpoint(address: &str, port: u32) -> String {
    match port {
        0 => address.to_owned(),
        _ if address.contains(':') => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

/// Text that may be missing: the wire says so with an empty string, JSON with null.
pub(crate) fn optional(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// An address as the wire has it: 4 or 16 bytes in network byte order.
pub(crate) fn to_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An IP address of 4 or 16 bytes.
pub(crate) fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_and_nothing_are_shown() {
        assert_eq!(ip(&[10, 244, 1, 2]), "10.244.1.2");
        assert_eq!(ip(&to_bytes("fd00::1".parse().unwrap())), "fd00::1");
        assert_eq!(ip(&[]), "");
        assert_eq!(ip(&[1, 2, 3]), "[01, 02, 03]");
        assert_eq!(mac(&[0x0a, 0x58, 10, 244, 1, 2]), "0a:58:0a:f4:01:02");
        assert_eq!(mac(&[]), "");
    }

    #[test]
    fn an_endpoint_of_ipv6_is_in_brackets() {
        assert_eq!(endpoint("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(endpoint("fd00::1", 80), "[fd00::1]:80");
        assert_eq!(endpoint("fd00::1", 0), "fd00::1");
    }
}
