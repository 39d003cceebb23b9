//! MAC addresses, and the one function that makes them from IP addresses.
//!
//! Everything that this node or a peer puts on a wire has a MAC address that follows from an IP
//! address. So nobody has to learn or exchange them, and a test can foresee them. The `encap`
//! crate has the same function for the engine; the vectors in both crates' tests are the same.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// First bytes of a MAC address made from an IPv4 address: locally administered, unicast.
const IPV4_PREFIX: [u8; 2] = [0x0a, 0x58];

/// First bytes of a MAC address made from an IPv6 address.
const IPV6_PREFIX: [u8; 2] = [0x0a, 0x59];

/// A unicast MAC address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MacAddress([u8; 6]);

/// Why a text is not a MAC address that an interface can have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ParseMacError {
    #[error("`{text}` is not six pairs of hexadecimal digits with colons between them")]
    Malformed { text: String },

    #[error("`{text}` is a group address or all zeros: an interface needs a unicast address")]
    NotUnicast { text: String },
}

impl MacAddress {
    /// The address that follows from `ip`: `0a:58` and the four bytes of an IPv4 address, `0a:59`
    /// and the 32-bit FNV-1a hash of the sixteen bytes of an IPv6 address.
    #[must_use]
    pub fn from_ip(ip: IpAddr) -> Self {
        let (prefix, rest) = match ip {
            IpAddr::V4(ip) => (IPV4_PREFIX, ip.octets()),
            IpAddr::V6(ip) => (IPV6_PREFIX, fnv1a(ip).to_be_bytes()),
        };
        let mut octets = [0; 6];
        octets[..2].copy_from_slice(&prefix);
        octets[2..].copy_from_slice(&rest);
        Self(octets)
    }

    /// The address that follows from the IPv4 address among `ips` if there is one, else from the
    /// first. `None` without any address.
    #[must_use]
    pub fn from_preferred(ips: &[IpAddr]) -> Option<Self> {
        ips.iter().find(|ip| ip.is_ipv4()).or_else(|| ips.first()).copied().map(Self::from_ip)
    }

    /// The six bytes, in the order of transmission.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Takes six bytes from a device or a message.
    #[must_use]
    pub fn from_octets(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, octet) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ":" };
            write!(f, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for MacAddress {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let malformed = || ParseMacError::Malformed { text: text.to_owned() };
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or_else(malformed)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(malformed());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| malformed())?;
        }
        if parts.next().is_some() {
            return Err(malformed());
        }
        if octets[0] & 1 == 1 || octets == [0; 6] {
            return Err(ParseMacError::NotUnicast { text: text.to_owned() });
        }
        Ok(Self(octets))
    }
}

impl Serialize for MacAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// FNV-1a, 32 bits (draft-eastlake-fnv, section 2): spreads addresses that differ in few bits.
fn fnv1a(ip: Ipv6Addr) -> u32 {
    ip.octets()
        .iter()
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ipv4_address_is_spelled_in_its_mac_address() {
        let mac = MacAddress::from_ip("10.244.1.5".parse().unwrap());
        assert_eq!(mac.to_string(), "0a:58:0a:f4:01:05");
    }

    #[test]
    fn an_ipv6_address_is_hashed_into_its_mac_address() {
        // FNV-1a of sixteen zero bytes, from the recurrence done by hand in another language.
        assert_eq!(MacAddress::from_ip("::".parse().unwrap()).to_string(), "0a:59:69:69:19:05");
    }

    #[test]
    fn ipv4_is_preferred_wherever_it_stands() {
        let ips = ["fd00::5".parse().unwrap(), "10.0.0.5".parse().unwrap()];
        assert_eq!(MacAddress::from_preferred(&ips), Some(MacAddress::from_ip(ips[1])));
        assert_eq!(MacAddress::from_preferred(&ips[..1]), Some(MacAddress::from_ip(ips[0])));
        assert_eq!(MacAddress::from_preferred(&[]), None);
    }

    #[test]
    fn group_addresses_and_noise_are_refused() {
        for text in ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"] {
            assert!(matches!(text.parse::<MacAddress>(), Err(ParseMacError::NotUnicast { .. })));
        }
        for text in ["", "0a:58", "0a:58:0a:f4:01:05:06", "0a:58:0a:f4:01:+5", "0a-58-0a-f4-01-05"]
        {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_and_address_round_trip(ip in any::<IpAddr>()) {
            let mac = MacAddress::from_ip(ip);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
        }
    }
}
