//! Which tunnel leads to where a packet came from: a comparison for the peers of late, instead of a
//! search among all of them.
//!
//! What was found is only good for the snapshot that it was found in: each entry has its version.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, Ipv4Addr};

use encap::vxlan::Vni;

use crate::next_hop::TunnelRef;

/// Peers of late: a hundred that send in turn mostly find each other's entries untouched. 12 KiB,
/// of which a peer uses one cache line.
const ENTRIES: usize = 1 << ENTRIES_BITS;
const ENTRIES_BITS: u32 = 8;

/// One worker's cache: each peer has one place that its entry can be in.
#[derive(Debug)]
pub(crate) struct TunnelCache(Box<[Entry]>);

#[derive(Clone, Copy, Debug)]
struct Entry {
    version: u64,
    remote: IpAddr,
    /// `None` in an entry that was never used.
    vni: Option<Vni>,
    /// `None` also if there is no tunnel.
    tunnel: Option<TunnelRef>,
}

impl Default for TunnelCache {
    fn default() -> Self {
        let remote = Ipv4Addr::UNSPECIFIED.into();
        let unused = Entry { version: 0, remote, vni: None, tunnel: None };
        Self(vec![unused; ENTRIES].into_boxed_slice())
    }
}

impl TunnelCache {
    /// The tunnel to `remote`, as `search` found it under the snapshot of this version.
    pub(crate) fn find(
        &mut self,
        version: u64,
        remote: IpAddr,
        vni: Vni,
        search: impl FnOnce() -> Option<TunnelRef>,
    ) -> Option<TunnelRef> {
        // The place is in range.
        let entry = self.0.get_mut(place(remote, vni))?;
        if entry.remote != remote || entry.vni != Some(vni) || entry.version != version {
            *entry = Entry { version, remote, vni: Some(vni), tunnel: search() };
        }
        entry.tunnel
    }
}

#[expect(clippy::cast_possible_truncation, reason = "takes words, and the high bits of one")]
fn place(remote: IpAddr, vni: Vni) -> usize {
    let word = match remote {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            ((bits >> 64) as u64).rotate_left(32) ^ bits as u64
        }
    };
    // 2^64 over the golden ratio: addresses in a row spread evenly over the high bits.
    let hash = (word ^ u64::from(vni.value()) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> (u64::BITS - ENTRIES_BITS)) as usize
}

#[cfg(test)]
mod tests {
    #![expect(clippy::arithmetic_side_effects, reason = "small numbers")]

    use std::net::Ipv6Addr;

    use super::*;
    use crate::next_hop::NextHopIndex;

    /// Asks for the peers in turn, some rounds; returns how many searches each round took.
    fn searches(cache: &mut TunnelCache, version: u64, peers: &[(IpAddr, Vni)]) -> [usize; 3] {
        [(); 3].map(|()| {
            let mut count = 0;
            for (slot, (remote, vni)) in (0..).zip(peers) {
                let tunnel = TunnelRef { slot: NextHopIndex(slot), generation: 1 };
                let found = cache.find(version, *remote, *vni, || {
                    count += 1;
                    Some(tunnel)
                });
                assert_eq!(found, Some(tunnel), "a peer's own");
            }
            count
        })
    }

    fn peers(count: u16, is_v4: bool) -> Vec<(IpAddr, Vni)> {
        let address = |host: u16| {
            if is_v4 {
                IpAddr::V4(Ipv4Addr::from_bits(0xc000_0200 + u32::from(host)))
            } else {
                Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, host]).into()
            }
        };
        (1..=count).map(|host| (address(host), Vni::new(1).unwrap())).collect()
    }

    #[test]
    fn a_hundred_peers_in_turn_are_searched_for_once() {
        for is_v4 in [true, false] {
            let peers = peers(100, is_v4);
            let [first, second, third] = searches(&mut TunnelCache::default(), 1, &peers);
            assert_eq!(first, 100);
            assert!(second <= 4 && third <= 4, "{second} and {third} of 100 met");
        }
    }

    #[test]
    fn peers_that_share_a_place_get_their_own_tunnels() {
        let mut many = peers(1000, true);
        many.extend(peers(1000, false));
        // The same addresses in another network are other tunnels.
        many.extend(peers(1000, true).into_iter().map(|(ip, _)| (ip, Vni::new(7).unwrap())));
        searches(&mut TunnelCache::default(), 1, &many);
    }

    #[test]
    fn another_snapshot_is_searched_anew() {
        let mut cache = TunnelCache::default();
        let peers = peers(10, true);
        assert_eq!(searches(&mut cache, 1, &peers), [10, 0, 0]);
        assert_eq!(searches(&mut cache, 2, &peers), [10, 0, 0]);
        let (remote, vni) = peers[0];
        assert_eq!(cache.find(3, remote, vni, || None), None);
        assert_eq!(cache.find(3, remote, vni, || panic!("it is known that there is none")), None);
    }
}
