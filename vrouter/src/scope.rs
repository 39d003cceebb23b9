//! What flows depend on: the routes that their two directions take, and the policy of the ports at
//! their two ends.
//!
//! A flow is stale once a scope that it was compiled under was touched since. A route's scope is
//! found by hashing its VRF and prefix into as many as the flow table has: two routes that share
//! one make some flows stale for nothing, which costs them a walk through the slow path and nothing
//! else. Adding a longer prefix touches the scope of the route that covered it.
//!
//! That there is no route is something to depend on, too: the scope of the default route, of the
//! same VRF and family, stands for it. Adding a prefix that nothing covered touches that scope.
//!
//! Policy has one scope a guest port, for both directions: it is touched when the port gets other
//! policy sets, or one of its sets another content. Also a port that is not isolated has one, since
//! it may be isolated later.

use std::net::IpAddr;

use flowtable::ScopeId;
use ipnet::IpNet;

use crate::{
    fib::{FibMatch, prefix_of},
    next_hop::NextHopIndex,
    snapshot::VrfIndex,
};

/// A route that flows may depend on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RouteScope {
    /// The VRF.
    pub vrf: VrfIndex,
    /// The prefix.
    pub prefix: IpNet,
}

impl RouteScope {
    /// What a lookup of `address` depends on: the route that it found, or that there was none.
    #[must_use]
    pub fn of_lookup(vrf: VrfIndex, address: IpAddr, found: Option<FibMatch>) -> Self {
        Self { vrf, prefix: prefix_of(address, found.map_or(0, |found| found.length)) }
    }

    /// The scope that stands for the route.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "takes words")]
    pub fn id(&self) -> ScopeId {
        let (high, low) = match self.prefix.addr() {
            IpAddr::V4(address) => (u64::from(address.to_bits()), 4),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                ((bits >> 64) as u64, bits as u64)
            }
        };
        let rest = u64::from(self.vrf.0) << 8 | u64::from(self.prefix.prefix_len());
        scope([high, low, rest])
    }
}

/// The policy of a guest port, by the port's next-hop slot: that stays when the port's backend is
/// changed, and its flows with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PolicyScope(pub NextHopIndex);

impl PolicyScope {
    /// No route's words begin like this: it keeps the two kinds apart.
    const KIND: u64 = u64::MAX;

    /// The scope that stands for the port's policy.
    #[must_use]
    pub fn id(self) -> ScopeId {
        scope([Self::KIND, Self::KIND, u64::from(self.0.0)])
    }
}

fn scope(words: [u64; 3]) -> ScopeId {
    let hash = words.into_iter().fold(0, |hash: u64, word| {
        // 2^64 over the golden ratio: each step carries low bits into high ones.
        (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    // Zero says "no scope".
    ScopeId(((hash >> 48) as u16).max(1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::RouteScope;
    use crate::snapshot::VrfIndex;

    #[test]
    fn routes_spread_over_the_scopes() {
        let mut scopes = HashSet::new();
        for vrf in 0..4 {
            for third in 0..=255_u8 {
                let prefix = format!("10.244.{third}.0/24").parse().unwrap();
                scopes.insert(RouteScope { vrf: VrfIndex(vrf), prefix }.id());
                let prefix = format!("fd00:10:244:{third:x}::/64").parse().unwrap();
                scopes.insert(RouteScope { vrf: VrfIndex(vrf), prefix }.id());
            }
        }
        // 2048 routes into 65,535 scopes: some 32 collide.
        assert!(scopes.len() > 1960, "{}", scopes.len());
    }
}
