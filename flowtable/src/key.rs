//! Flow keys: what names one direction of a connection.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// An address family. Its number is its place in arrays that have one element a family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// One direction of a connection: routing instance, protocol, addresses, ports.
///
/// Plain words in host order, so that comparing and hashing need no decoding: an IPv4 key fills
/// `addresses[0]` only (source above destination), an IPv6 key all four. `meta` is source port,
/// destination port, VRF, protocol, family, from the top down.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct FlowKey {
    pub(crate) addresses: [u64; 4],
    pub(crate) meta: u64,
}

impl FlowKey {
    /// The key of an IPv4 packet. For protocols without ports pass zero; for an ICMP query two
    /// numbers that only its answers have the other way round.
    #[must_use]
    pub fn v4(
        vrf: u16,
        protocol: u8,
        (source, source_port): (Ipv4Addr, u16),
        (destination, destination_port): (Ipv4Addr, u16),
    ) -> Self {
        let addresses = (u64::from(source.to_bits()) << 32) | u64::from(destination.to_bits());
        Self {
            addresses: [addresses, 0, 0, 0],
            meta: meta(source_port, destination_port, vrf, protocol, Family::V4),
        }
    }

    /// The key of an IPv6 packet. For protocols without ports pass zero; for an ICMP query two
    /// numbers that only its answers have the other way round.
    #[must_use]
    pub fn v6(
        vrf: u16,
        protocol: u8,
        (source, source_port): (Ipv6Addr, u16),
        (destination, destination_port): (Ipv6Addr, u16),
    ) -> Self {
        let (source, destination) = (source.to_bits(), destination.to_bits());
        Self {
            addresses: [high(source), low(source), high(destination), low(destination)],
            meta: meta(source_port, destination_port, vrf, protocol, Family::V6),
        }
    }

    /// The key of an IPv4 packet, of addresses and ports as they stand in its headers: the source
    /// first.
    #[must_use]
    #[inline]
    pub fn of_ipv4_header(vrf: u16, protocol: u8, addresses: &[u8; 8], ports: &[u8; 4]) -> Self {
        Self {
            addresses: [u64::from_be_bytes(*addresses), 0, 0, 0],
            meta: meta_of_header(*ports, vrf, protocol, Family::V4),
        }
    }

    /// The key of an IPv6 packet, of addresses and ports as they stand in its headers: the source
    /// first.
    #[must_use]
    #[inline]
    pub fn of_ipv6_header(vrf: u16, protocol: u8, addresses: &[u8; 32], ports: &[u8; 4]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(addresses.as_chunks().0) {
            *word = u64::from_be_bytes(*bytes);
        }
        Self { addresses: words, meta: meta_of_header(*ports, vrf, protocol, Family::V6) }
    }

    /// The key of the answer: source and destination change places.
    #[must_use]
    pub fn reversed(&self) -> Self {
        let addresses = match self.family() {
            Family::V4 => [self.addresses[0].rotate_left(32), 0, 0, 0],
            Family::V6 => {
                let [a, b, c, d] = self.addresses;
                [c, d, a, b]
            }
        };
        let ports = (self.meta >> 32).rotate_left(16);
        let ports = (ports | (ports >> 32)) & 0xffff_ffff;
        Self { addresses, meta: (ports << 32) | (self.meta & 0xffff_ffff) }
    }

    /// The address family.
    #[must_use]
    #[inline]
    pub fn family(&self) -> Family {
        if self.meta & 0xff == Family::V4 as u64 { Family::V4 } else { Family::V6 }
    }

    /// The routing instance.
    #[must_use]
    pub fn vrf(&self) -> u16 {
        field16(self.meta, 16)
    }

    /// The IP protocol number.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.meta.to_be_bytes()[6]
    }

    /// The source address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        let [a, b, ..] = self.addresses;
        match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(high32(a))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(join(a, b))),
        }
    }

    /// The destination address.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        let [a, _, c, d] = self.addresses;
        match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(low32(a))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(join(c, d))),
        }
    }

    /// The source port, or what stands for it.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        field16(self.meta, 48)
    }

    /// The destination port, or what stands for it.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        field16(self.meta, 32)
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = SocketAddr::new(self.source(), self.source_port());
        let destination = SocketAddr::new(self.destination(), self.destination_port());
        write!(f, "vrf {} protocol {} {source} -> {destination}", self.vrf(), self.protocol())
    }
}

fn meta(source_port: u16, destination_port: u16, vrf: u16, protocol: u8, family: Family) -> u64 {
    (u64::from(source_port) << 48)
        | (u64::from(destination_port) << 32)
        | (u64::from(vrf) << 16)
        | (u64::from(protocol) << 8)
        | family as u64
}

fn meta_of_header(ports: [u8; 4], vrf: u16, protocol: u8, family: Family) -> u64 {
    (u64::from(u32::from_be_bytes(ports)) << 32)
        | (u64::from(vrf) << 16)
        | (u64::from(protocol) << 8)
        | family as u64
}

#[inline]
pub(crate) fn high32(word: u64) -> u32 {
    (word >> 32) as u32
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
pub(crate) fn low32(word: u64) -> u32 {
    word as u32
}

#[expect(clippy::cast_possible_truncation, reason = "takes 16 bits")]
fn field16(word: u64, shift: u32) -> u16 {
    (word >> shift) as u16
}

fn high(bits: u128) -> u64 {
    (bits >> 64) as u64
}

#[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
fn low(bits: u128) -> u64 {
    bits as u64
}

fn join(high: u64, low: u64) -> u128 {
    (u128::from(high) << 64) | u128::from(low)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_ipv4_key_gives_back_what_it_was_made_of(
            vrf: u16, protocol: u8, source: u32, source_port: u16, destination: u32, port: u16
        ) {
            let [source, destination] = [source, destination].map(Ipv4Addr::from_bits);
            let key = FlowKey::v4(vrf, protocol, (source, source_port), (destination, port));
            prop_assert_eq!(key.family(), Family::V4);
            prop_assert_eq!((key.vrf(), key.protocol()), (vrf, protocol));
            prop_assert_eq!((key.source(), key.source_port()), (IpAddr::V4(source), source_port));
            prop_assert_eq!(key.destination(), IpAddr::V4(destination));
            prop_assert_eq!(key.destination_port(), port);
            let reply = FlowKey::v4(vrf, protocol, (destination, port), (source, source_port));
            prop_assert_eq!(key.reversed(), reply);
            let addresses = (u64::from(source.to_bits()) << 32) | u64::from(destination.to_bits());
            let ports = (u32::from(source_port) << 16) | u32::from(port);
            let (addresses, ports) = (addresses.to_be_bytes(), ports.to_be_bytes());
            prop_assert_eq!(FlowKey::of_ipv4_header(vrf, protocol, &addresses, &ports), key);
        }

        #[test]
        fn an_ipv6_key_gives_back_what_it_was_made_of(
            vrf: u16, protocol: u8, source: u128, source_port: u16, destination: u128, port: u16
        ) {
            let [source, destination] = [source, destination].map(Ipv6Addr::from_bits);
            let key = FlowKey::v6(vrf, protocol, (source, source_port), (destination, port));
            prop_assert_eq!(key.family(), Family::V6);
            prop_assert_eq!((key.vrf(), key.protocol()), (vrf, protocol));
            prop_assert_eq!((key.source(), key.source_port()), (IpAddr::V6(source), source_port));
            prop_assert_eq!(key.destination(), IpAddr::V6(destination));
            prop_assert_eq!(key.destination_port(), port);
            let reply = FlowKey::v6(vrf, protocol, (destination, port), (source, source_port));
            prop_assert_eq!(key.reversed(), reply);
            let mut addresses = [0; 32];
            addresses[..16].copy_from_slice(&source.octets());
            addresses[16..].copy_from_slice(&destination.octets());
            let ports = ((u32::from(source_port) << 16) | u32::from(port)).to_be_bytes();
            prop_assert_eq!(FlowKey::of_ipv6_header(vrf, protocol, &addresses, &ports), key);
        }
    }
}
