//! The forwarding table of one VRF: longest prefix match from an address to a next-hop group.
//!
//! Persistent: a clone costs two reference counts and shares all nodes. A change after that copies
//! only the nodes from the root to the prefix it touches (at most 6 for IPv4, 22 for IPv6), so
//! publishing one route among a million copies some kilobytes. Without a clone in between, changes
//! happen in place: a bulk load copies nothing.
//!
//! The table is the RIB as well: it holds exactly the prefixes that were inserted, and can list and
//! remove them.

mod node;
mod trie;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::ControlFlow,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use self::trie::Trie;

/// Names a next-hop group of the snapshot that the table belongs to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupIndex(pub u32);

/// The longest prefix that covers an address, and where it leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FibMatch {
    /// The prefix's length in bits; the prefix is the address cut to it.
    pub length: u8,
    /// Where it leads.
    pub group: GroupIndex,
}

/// Routes of both families of one VRF.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    v4: Trie,
    v6: Trie,
}

impl Fib {
    /// Inserts or replaces a route; returns where the prefix led before.
    ///
    /// Host bits of the prefix are ignored.
    pub fn insert(&mut self, prefix: IpNet, group: GroupIndex) -> Option<GroupIndex> {
        let (bits, length) = key_of(&prefix);
        self.trie_mut(&prefix).insert(bits, length, group.0).map(GroupIndex)
    }

    /// Removes a route; returns where it led.
    pub fn remove(&mut self, prefix: IpNet) -> Option<GroupIndex> {
        let (bits, length) = key_of(&prefix);
        self.trie_mut(&prefix).remove(bits, length).map(GroupIndex)
    }

    /// The route of exactly this prefix.
    #[must_use]
    pub fn find(&self, prefix: IpNet) -> Option<GroupIndex> {
        let (bits, length) = key_of(&prefix);
        self.trie(&prefix).find(bits, length).map(GroupIndex)
    }

    /// The longest prefix that covers `address`.
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<FibMatch> {
        let found = match address {
            IpAddr::V4(address) => self.v4.longest(v4_bits(address), 32),
            IpAddr::V6(address) => self.v6.longest(address.to_bits(), 128),
        };
        found.map(|(length, group)| FibMatch { length, group: GroupIndex(group) })
    }

    /// The longest prefix that covers `prefix` and is shorter than it: the one whose traffic a new
    /// route takes over.
    #[must_use]
    pub fn covering(&self, prefix: IpNet) -> Option<FibMatch> {
        let (bits, length) = key_of(&prefix);
        let longest = length.checked_sub(1)?;
        self.trie(&prefix)
            .longest(bits, longest)
            .map(|(length, group)| FibMatch { length, group: GroupIndex(group) })
    }

    /// Routes of both families.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there is no route.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Visits all routes, IPv4 first, by address and then by length, until `visit` breaks.
    pub fn for_each(
        &self,
        mut visit: impl FnMut(IpNet, GroupIndex) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.v4.for_each(&mut |bits, length, group| {
            visit(v4_prefix(bits, length), GroupIndex(group))
        })?;
        self.v6
            .for_each(&mut |bits, length, group| visit(v6_prefix(bits, length), GroupIndex(group)))
    }

    /// Bytes of memory that the nodes take, shared ones included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.v4.memory_bytes() + self.v6.memory_bytes()
    }

    fn trie(&self, prefix: &IpNet) -> &Trie {
        match prefix {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        }
    }

    fn trie_mut(&mut self, prefix: &IpNet) -> &mut Trie {
        match prefix {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }
}

/// The prefix of `length` bits that covers `address`.
#[must_use]
pub fn prefix_of(address: IpAddr, length: u8) -> IpNet {
    match address {
        IpAddr::V4(address) => v4_prefix(v4_bits(address), length),
        IpAddr::V6(address) => v6_prefix(address.to_bits(), length),
    }
}

/// The prefix that covers one address only.
#[must_use]
pub fn host_prefix(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// Keys are left-aligned in 128 bits, so that one trie serves both families.
fn key_of(prefix: &IpNet) -> (u128, u8) {
    let bits = match prefix.network() {
        IpAddr::V4(address) => v4_bits(address),
        IpAddr::V6(address) => address.to_bits(),
    };
    (bits, prefix.prefix_len())
}

fn v4_bits(address: Ipv4Addr) -> u128 {
    u128::from(address.to_bits()) << 96
}

fn v4_prefix(bits: u128, length: u8) -> IpNet {
    let address = Ipv4Addr::from_bits((bits >> 96) as u32);
    IpNet::V4(Ipv4Net::new_assert(address, length.min(32)).trunc())
}

fn v6_prefix(bits: u128, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), length.min(128)).trunc())
}
