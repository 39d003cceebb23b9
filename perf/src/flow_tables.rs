//! Flow tables side by side: ours, and general maps doing what a dataplane would do with them.
//!
//! Every table maps one direction's key to what to do with its packets, and takes both directions
//! of a connection as two entries. The maps all hash with the same keyed hash function, `ahash`,
//! which is faster than the ones they come with. What is *not* the same: our table also keeps the
//! state of connections, enters both directions in one step, and tells stale entries; maps do none
//! of it.

mod maps;
mod ours;

use flowtable::{CreateTableError, FlowKey};
use std::net::Ipv4Addr;

pub use maps::{dashmap, papaya, rw_lock, scc};
pub use ours::ours;

/// Keys that are looked up together.
pub const BURST_KEYS: usize = 64;

/// One user of a table that others may use at the same time.
pub trait Access: Send {
    /// Looks up the keys, in bursts of [`BURST_KEYS`]; returns how many were found.
    fn look_up(&mut self, keys: &[FlowKey]) -> usize;

    /// Enters connections: these keys and their reverses.
    fn insert_pairs(&mut self, forward: &[FlowKey]);

    /// Removes connections.
    fn remove_pairs(&mut self, forward: &[FlowKey]);
}

/// A table.
pub trait FlowMap {
    /// Its name in results.
    fn name(&self) -> &'static str;

    /// Access for one more thread. There are two at most.
    fn access(&self) -> Box<dyn Access>;

    /// Bytes of memory that it has taken outside of the heap.
    fn bytes_outside_heap(&self) -> usize {
        0
    }

    /// Whether its memory is on huge pages; `None` if it does not ask for them.
    fn is_on_huge_pages(&self) -> Option<bool> {
        None
    }
}

/// Makes a table for `directions` entries, of which it is to be `load_percent` full once they are
/// in it. General maps grow as they like.
pub type MakeFlowMap =
    fn(directions: u32, load_percent: u32) -> Result<Box<dyn FlowMap>, CreateTableError>;

/// Every kind of table, ours first.
pub const ALL: [(&str, MakeFlowMap); 5] = [
    ("vrouter", ours),
    ("dashmap", dashmap),
    ("papaya", papaya),
    ("scc", scc),
    ("rwlock-hashmap", rw_lock),
];

/// The `index`th connection's key: numbers are spread, so that neighbours have nothing in common.
#[must_use]
pub fn key(index: u32) -> FlowKey {
    // A multiplication by an odd number is one to one.
    let spread = index.wrapping_mul(0x9e37_79b1);
    let [a, b, c, d] = spread.to_be_bytes();
    let source = Ipv4Addr::new(10, 1, a, b);
    FlowKey::v4(1, 17, (source, u16::from_be_bytes([c, d])), (Ipv4Addr::new(10, 200, 0, 1), 53))
}

/// Keys of packets that come in random order: of the connections from `first` on, `count` of them,
/// in either direction.
#[must_use]
pub fn packets(first: u32, count: u32, packets: usize) -> Vec<FlowKey> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..packets)
        .map(|_| {
            let random = next();
            let index = u32::try_from(random % u64::from(count.max(1))).unwrap_or(0);
            let key = key(first.wrapping_add(index));
            if random >> 63 == 0 { key } else { key.reversed() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_finds_what_was_entered_and_not_what_was_removed() {
        let connections: Vec<_> = (0..5000).map(key).collect();
        let (gone, there) = connections.split_at(1000);
        for (name, make) in ALL {
            let map = make(10_000, 50).unwrap();
            assert_eq!(map.name(), name);
            let (mut one, mut other) = (map.access(), map.access());
            one.insert_pairs(&connections);
            other.remove_pairs(gone);
            for access in [&mut one, &mut other] {
                assert_eq!(access.look_up(there), 4000, "{name}");
                let replies: Vec<_> = there.iter().map(FlowKey::reversed).collect();
                assert_eq!(access.look_up(&replies), 4000, "{name}");
                assert_eq!(access.look_up(gone), 0, "{name}");
            }
        }
    }

    #[test]
    fn packets_are_of_the_connections_asked_for() {
        let map = ours(2000, 50).unwrap();
        let mut access = map.access();
        access.insert_pairs(&(100..200).map(key).collect::<Vec<_>>());
        assert_eq!(access.look_up(&packets(100, 100, 1000)), 1000);
        assert_eq!(access.look_up(&packets(200, 100, 1000)), 0);
    }
}
