//! What flows depend on: the routes that their two directions take.
//!
//! A flow is stale once a scope that it was compiled under was touched since. A route's scope is found by hashing its VRF and
//! prefix into a fixed number of scopes: two routes that share one make some flows stale for nothing, which costs them a
//! walk through the slow path and nothing else. Adding a longer prefix touches the scope of the route that covered it.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use ipnet::IpNet;

use crate::{
    fib::{FibMatch, prefix_of},
    snapshot::VrfIndex,
};

/// Scopes in all: 512 KiB of versions, and one flow in 65,536 judged again for nothing when one route changes.
pub const SCOPES_COUNT: usize = 1 << 16;

/// A route that flows may depend on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RouteScope {
    /// The VRF.
    pub vrf: VrfIndex,
    /// The prefix.
    pub prefix: IpNet,
}

impl RouteScope {
    /// The scope of the route that a lookup of `address` found.
    #[must_use]
    pub fn of_match(vrf: VrfIndex, address: IpAddr, found: FibMatch) -> Self {
        Self { vrf, prefix: prefix_of(address, found.length) }
    }

    /// The scope's number, below [`SCOPES_COUNT`].
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the shift leaves 16 bits")]
    pub fn index(&self) -> u32 {
        let (high, low) = match self.prefix.addr() {
            IpAddr::V4(address) => (u64::from(address.to_bits()), 4),
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                ((bits >> 64) as u64, bits as u64)
            }
        };
        let rest = u64::from(self.vrf.0) << 8 | u64::from(self.prefix.prefix_len());
        let hash = [high, low, rest].into_iter().fold(0, |hash: u64, word| {
            // 2^64 over the golden ratio: each step carries low bits into high ones.
            (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        (hash >> 48) as u32
    }
}

/// The version in which each scope was touched last. The main thread writes, workers read.
#[derive(Debug)]
pub struct Scopes(Box<[AtomicU64]>);

impl Default for Scopes {
    fn default() -> Self {
        Self((0..SCOPES_COUNT).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Scopes {
    /// Makes what depends on `scope` and is older than `version` stale.
    pub fn touch(&self, scope: RouteScope, version: u64) {
        if let Some(word) = self.0.get(scope.index() as usize) {
            // Ordered before the snapshot of this version by its publication.
            word.store(version, Ordering::Release);
        }
    }
}
