//! 48-bit Ethernet addresses.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

/// First two bytes of an address derived from IPv4: locally administered, unicast.
const IPV4_PREFIX: [u8; 2] = [0x0a, 0x58];
/// First two bytes of an address derived from IPv6: locally administered, unicast.
const IPV6_PREFIX: [u8; 2] = [0x0a, 0x59];

/// An Ethernet (MAC) address.
#[derive(Clone, Copy, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// Length in bytes.
    pub const LEN: usize = 6;
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zero: "unknown" in ARP requests.
    pub const ZERO: Self = Self([0; 6]);

    /// The address of these bytes, in transmission order.
    #[must_use]
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The bytes in transmission order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The MAC address that belongs to an IP address throughout a cluster.
    ///
    /// IPv4 `a.b.c.d` gives `0a:58:aa:bb:cc:dd` with the four bytes in hexadecimal. IPv6 gives
    /// `0a:59:` and the 32-bit FNV-1a hash of the sixteen bytes. Both are locally administered
    /// unicast addresses, so every node derives the same one without asking.
    ///
    /// ```
    /// let mac = encap::MacAddress::from_ip([10, 244, 1, 2].into());
    /// assert_eq!(mac.to_string(), "0a:58:0a:f4:01:02");
    /// ```
    #[must_use]
    pub fn from_ip(address: IpAddr) -> Self {
        let (prefix, suffix) = match address {
            IpAddr::V4(address) => (IPV4_PREFIX, address.octets()),
            IpAddr::V6(address) => (IPV6_PREFIX, fnv1a(&address.octets()).to_be_bytes()),
        };
        let ([p0, p1], [s0, s1, s2, s3]) = (prefix, suffix);
        Self([p0, p1, s0, s1, s2, s3])
    }

    /// The multicast MAC address of an IPv6 group: `33:33` and its low 32 bits (RFC 2464 section
    /// 7).
    #[must_use]
    pub const fn from_ipv6_group(group: Ipv6Addr) -> Self {
        let octets = group.octets();
        Self([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
    }

    /// Whether the group bit is set (multicast, and broadcast too).
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is `ff:ff:ff:ff:ff:ff`.
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Whether this can be the address of one station: neither a group nor all zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }
}

impl From<[u8; 6]> for MacAddress {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

impl From<MacAddress> for [u8; 6] {
    fn from(address: MacAddress) -> Self {
        address.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(formatter, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(formatter, ":{byte:02x}"))
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Why a text is not a MAC address.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a MAC address is six pairs of hexadecimal digits with colons, such as 0a:58:0a:f4:01:02")]
pub struct ParseMacAddressError;

impl FromStr for MacAddress {
    type Err = ParseMacAddressError;

    /// Reads six pairs of hexadecimal digits, in either case, separated by colons.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or(ParseMacAddressError)?;
            // `from_str_radix` takes a sign as well: the digits are checked first.
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(ParseMacAddressError);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseMacAddressError)?;
        }
        if pairs.next().is_some() {
            return Err(ParseMacAddressError);
        }
        Ok(Self(bytes))
    }
}

/// 32-bit FNV-1a: offset basis 2166136261, prime 16777619.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0x811c_9dc5, |hash: u32, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ipv4_address_maps_to_its_bytes() {
        let mac = MacAddress::from_ip([10, 244, 1, 200].into());
        assert_eq!(mac.to_string(), "0a:58:0a:f4:01:c8");
    }

    #[test]
    fn an_ipv6_address_maps_to_its_fnv1a_hash() {
        // Published FNV-1a vectors: the empty input, and "foobar".
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
        let mac = MacAddress::from_ip("fd00:10:244:1::1".parse::<IpAddr>().unwrap());
        assert_eq!(mac.octets()[..2], [0x0a, 0x59]);
        assert!(mac.is_unicast());
    }

    #[test]
    fn an_ipv6_group_maps_to_its_low_32_bits() {
        let group = "ff02::1:ff28:9c5a".parse().unwrap();
        assert_eq!(MacAddress::from_ipv6_group(group).to_string(), "33:33:ff:28:9c:5a");
        assert!(MacAddress::from_ipv6_group(group).is_multicast());
    }

    #[test]
    fn broadcast_is_a_multicast_address_and_zero_is_no_station() {
        assert!(MacAddress::BROADCAST.is_broadcast());
        assert!(MacAddress::BROADCAST.is_multicast());
        assert!(!MacAddress::ZERO.is_unicast());
    }

    #[test]
    fn malformed_texts_are_refused() {
        let malformed = [
            "",
            ":",
            "0a:58:0a:f4:01",
            "0a:58:0a:f4:01:02:03",
            "0a:58:0a:f4:01:2",
            "0a-58-0a-f4-01-02",
            "+a:58:0a:f4:01:02",
            "0a:58:0a:f4:01:0g",
            "0a:58:0a:f4:01:02 ",
        ];
        for text in malformed {
            assert_eq!(text.parse::<MacAddress>(), Err(ParseMacAddressError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips_in_both_cases(bytes: [u8; 6]) {
            let mac = MacAddress::new(bytes);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
            prop_assert_eq!(mac.to_string().to_uppercase().parse(), Ok(mac));
        }

        #[test]
        fn noise_never_panics(text: std::string::String) {
            let _ = text.parse::<MacAddress>();
        }

        #[test]
        fn a_derived_address_is_local_and_unicast(address: IpAddr) {
            let mac = MacAddress::from_ip(address);
            prop_assert!(mac.is_unicast());
            prop_assert_eq!(mac.octets()[0] & 2, 2);
        }
    }
}
