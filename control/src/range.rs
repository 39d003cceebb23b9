//! A node's range of pod addresses, and what may be handed out of it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// Addresses at the start of a range that no pod gets: the network's (for IPv6 the subnet-router
/// anycast address, RFC 4291 section 2.6.1) and the gateway's.
const FIRST_POD_OFFSET: u128 = 2;

/// Host bits that leave room for the network, the gateway, the broadcast address and one pod.
const HOST_BITS_MIN: u8 = 2;

/// The addresses that one node gives to its pods, of one family.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PodRange(IpNet);

/// Why a text is not a usable range of pod addresses.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ParseRangeError {
    #[error("`{text}` is not a range such as 10.244.1.0/24 or fd00:10:244:1::/64")]
    Malformed { text: String },

    #[error("`{text}` has bits set beyond its prefix: write {network}")]
    HostBits { text: String, network: IpNet },

    #[error("`{text}` has no room for a gateway and a pod: use a /{longest} or shorter")]
    TooSmall { text: String, longest: u8 },
}

impl PodRange {
    /// The range in prefix notation.
    #[must_use]
    pub fn net(&self) -> IpNet {
        self.0
    }

    /// The first host address: what the pods see as their router.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.at(1)
    }

    /// Whether `address` lies within the range, assignable or not.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether a pod may have `address`: within the range, and none of those kept back.
    #[must_use]
    pub fn is_assignable(&self, address: IpAddr) -> bool {
        self.offset(address)
            .is_some_and(|offset| (FIRST_POD_OFFSET..=self.last_pod_offset()).contains(&offset))
    }

    /// How many addresses there are for pods.
    #[must_use]
    pub fn capacity(&self) -> u128 {
        self.last_pod_offset().saturating_sub(FIRST_POD_OFFSET).saturating_add(1)
    }

    /// The assignable address that follows `address`, round and round; the first one if `address`
    /// is not assignable.
    #[must_use]
    pub fn next_after(&self, address: Option<IpAddr>) -> IpAddr {
        let offset = address
            .filter(|address| self.is_assignable(*address))
            .and_then(|address| self.offset(address));
        match offset {
            Some(offset) if offset < self.last_pod_offset() => self.at(offset + 1),
            _ => self.at(FIRST_POD_OFFSET),
        }
    }

    /// Whether the two ranges have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.0.network()) || other.0.contains(&self.0.network())
    }

    fn last_pod_offset(&self) -> u128 {
        let host_bits = u32::from(self.0.max_prefix_len() - self.0.prefix_len());
        let last = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
        // IPv4 keeps its last address back for broadcasts; IPv6 has none.
        if self.0.addr().is_ipv4() { last.saturating_sub(1) } else { last }
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| bits(address) - bits(self.0.network()))
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.0.network() {
            // The parsed prefix leaves room for every offset used here: no bit is lost.
            IpAddr::V4(network) => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                Ipv4Addr::from_bits(network.to_bits().saturating_add(offset)).into()
            }
            IpAddr::V6(network) => {
                Ipv6Addr::from_bits(network.to_bits().saturating_add(offset)).into()
            }
        }
    }
}

impl FromStr for PodRange {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        let net: IpNet =
            text.parse().map_err(|_| ParseRangeError::Malformed { text: text.to_owned() })?;
        if net.trunc() != net {
            return Err(ParseRangeError::HostBits { text: text.to_owned(), network: net.trunc() });
        }
        let longest = net.max_prefix_len() - HOST_BITS_MIN;
        if net.prefix_len() > longest {
            return Err(ParseRangeError::TooSmall { text: text.to_owned(), longest });
        }
        Ok(Self(net))
    }
}

impl fmt::Display for PodRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(text: &str) -> PodRange {
        text.parse().unwrap()
    }

    #[test]
    fn the_gateway_is_the_first_host_address() {
        assert_eq!(range("10.244.1.0/24").gateway().to_string(), "10.244.1.1");
        assert_eq!(range("fd00:10:244:1::/64").gateway().to_string(), "fd00:10:244:1::1");
    }

    #[test]
    fn network_gateway_and_broadcast_are_kept_back() {
        let small = range("10.0.0.0/30");
        assert_eq!(small.capacity(), 1);
        for (address, assignable) in
            [("10.0.0.0", false), ("10.0.0.1", false), ("10.0.0.2", true), ("10.0.0.3", false)]
        {
            assert_eq!(small.is_assignable(address.parse().unwrap()), assignable, "{address}");
        }
        assert_eq!(range("fd00::/126").capacity(), 2);
        assert_eq!(range("10.244.1.0/24").capacity(), 253);
    }

    #[test]
    fn the_next_address_wraps_around() {
        let small = range("10.0.0.0/29");
        assert_eq!(small.next_after(None).to_string(), "10.0.0.2");
        assert_eq!(small.next_after("10.0.0.6".parse().ok()).to_string(), "10.0.0.2");
        assert_eq!(small.next_after("10.9.9.9".parse().ok()).to_string(), "10.0.0.2");
    }

    #[test]
    fn bad_ranges_are_refused_with_the_right_one() {
        assert!(matches!("nonsense".parse::<PodRange>(), Err(ParseRangeError::Malformed { .. })));
        let error = "10.244.1.5/24".parse::<PodRange>().unwrap_err();
        assert!(error.to_string().contains("10.244.1.0/24"), "{error}");
        let error = "10.0.0.0/31".parse::<PodRange>().unwrap_err();
        assert!(error.to_string().contains("/30"), "{error}");
    }

    proptest! {
        #[test]
        fn walking_a_range_visits_every_assignable_address_once(
            network in any::<u32>(), prefix in 24_u8..=30
        ) {
            let net = IpNet::new(Ipv4Addr::from_bits(network).into(), prefix).unwrap().trunc();
            let range: PodRange = net.to_string().parse().unwrap();
            let mut seen = std::collections::BTreeSet::new();
            let mut address = None;
            for _ in 0..range.capacity() {
                let next = range.next_after(address);
                prop_assert!(range.is_assignable(next));
                prop_assert!(seen.insert(next));
                address = Some(next);
            }
            prop_assert!(seen.contains(&range.next_after(address)));
        }
    }
}
