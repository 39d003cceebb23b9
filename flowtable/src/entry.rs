//! Entries: one direction's key, compiled action, version and scopes, in one cache line for IPv4.
//!
//! ```text
//!  IPv4, 8 words    addresses | meta | stamp | scopes |       action x 4
//!  IPv6, 12 words   addresses x 4 | meta | stamp | scopes | spare | action x 4
//! ```
//!
//! `meta` is that of the [`FlowKey`], with the upper half of the connection's 16-bit generation in
//! place of the family, which the index tells. `stamp` is version (32 bits), connection (24), and
//! the lower half of the generation (8).
//!
//! An entry is written while nobody can find it, then published by its index in a bucket, and not
//! written again before it has been retired and every worker has passed a quiescent point. Only its
//! stamp's version changes meanwhile.

use crate::{
    key::{Family, FlowKey, high32, low32},
    ordering,
    region::{Section, prefetch},
    scopes::Scopes,
    sync::{AtomicU64, Relaxed},
};

/// Words an action may have.
pub(crate) const ACTION_WORDS: usize = 4;

/// Connections a table can hold: their index has 24 bits in an entry's stamp. Sixteen million is
/// twice the largest plan.
pub(crate) const CONNECTIONS_MAX: u32 = 1 << 24;

const FAMILY_BIT: u32 = 1 << 31;

/// An entry's words as they lie in the region.
#[derive(Debug)]
#[repr(C, align(32))]
pub(crate) struct Entry<const WORDS: usize>([AtomicU64; WORDS]);

const _: () = assert!(size_of::<Entry<8>>() == 64 || cfg!(loom));
const _: () = assert!(size_of::<Entry<12>>() == 96 || cfg!(loom));

impl<const WORDS: usize> Default for Entry<WORDS> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::default()))
    }
}

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Direction {
    /// As the first packet went.
    Forward = 0,
    /// The answer.
    Reply = 1,
}

impl Direction {
    /// The other direction.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Reply,
            Self::Reply => Self::Forward,
        }
    }
}

/// Where an entry lies: family, record (a pair of entries), direction. As a number, what a bucket's
/// slot holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(transparent)]
pub(crate) struct EntryIndex(pub(crate) u32);

impl EntryIndex {
    pub(crate) fn new(family: Family, record: u32, direction: Direction) -> Self {
        let family = match family {
            Family::V4 => 0,
            Family::V6 => FAMILY_BIT,
        };
        Self(family | (record << 1) | direction as u32)
    }

    pub(crate) fn family(self) -> Family {
        if self.0 & FAMILY_BIT == 0 { Family::V4 } else { Family::V6 }
    }

    pub(crate) fn record(self) -> u32 {
        (self.0 & !FAMILY_BIT) >> 1
    }

    pub(crate) fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Forward } else { Direction::Reply }
    }

    pub(crate) fn with(self, direction: Direction) -> Self {
        Self((self.0 & !1) | direction as u32)
    }

    fn in_slab(self) -> u32 {
        self.0 & !FAMILY_BIT
    }
}

/// Whose an entry is, in the form that it has there, so that a lookup need not take it apart: a
/// connection's number above the lower half of its generation, and the upper half.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Owner {
    word: u32,
    upper: u8,
}

impl Owner {
    /// A connection of a generation.
    pub(crate) fn new(connection: u32, generation: u16) -> Self {
        let [upper, lower] = generation.to_be_bytes();
        Self { word: (connection << 8) | u32::from(lower), upper }
    }

    /// The connection's number.
    #[inline]
    pub(crate) fn connection(self) -> u32 {
        self.word >> 8
    }

    /// The part of the connection's generation that entries carry.
    #[inline]
    pub(crate) fn generation(self) -> u16 {
        let [.., lower] = self.word.to_be_bytes();
        u16::from_be_bytes([self.upper, lower])
    }
}

/// What an entry was stamped with: the version it was compiled under, or found still right under,
/// and whose it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stamp {
    pub(crate) version: u32,
    pub(crate) owner: Owner,
}

impl Stamp {
    /// From an entry's meta and stamp words.
    #[inline]
    fn from_words(meta: u64, stamp: u64) -> Self {
        let [.., upper] = meta.to_be_bytes();
        Self { version: high32(stamp), owner: Owner { word: low32(stamp), upper } }
    }

    fn to_word(self) -> u64 {
        (u64::from(self.version) << 32) | u64::from(self.owner.word)
    }
}

/// The entries of both families.
#[derive(Debug)]
pub(crate) struct Entries {
    pub(crate) v4: Section<Entry<8>>,
    pub(crate) v6: Section<Entry<12>>,
}

impl Entries {
    /// The entry at `index`; `None` only for an index that did not come from this table.
    #[inline]
    pub(crate) fn at(&self, index: EntryIndex) -> Option<EntryView<'_>> {
        match index.family() {
            Family::V4 => self.v4.at(index.in_slab()).map(|entry| EntryView(&entry.0)),
            Family::V6 => self.v6.at(index.in_slab()).map(|entry| EntryView(&entry.0)),
        }
    }

    /// The slabs that they lie in.
    #[inline]
    pub(crate) fn slabs(&self) -> Slabs<'_> {
        Slabs { v4: self.v4.all(), v6: self.v6.all() }
    }

    /// Asks for the cache lines of the entry at `index`.
    #[inline]
    pub(crate) fn prefetch(&self, index: EntryIndex) {
        self.slabs().prefetch(index);
    }
}

/// The entries of both families as plain slices, whose places and lengths a loop keeps in
/// registers.
#[derive(Clone, Copy)]
pub(crate) struct Slabs<'a> {
    v4: &'a [Entry<8>],
    v6: &'a [Entry<12>],
}

impl Slabs<'_> {
    /// The stamp of the entry at `index`, if that is the entry of `key`.
    #[inline]
    pub(crate) fn stamp_of(self, index: EntryIndex, key: &FlowKey) -> Option<Stamp> {
        // One comparison tells families apart, free slots, and what lies beyond the slab.
        let Some(Entry(words)) = self.v4.get(index.0 as usize) else {
            return self.stamp_of_v6(index, key);
        };
        let ([address, meta, stamp, ..], [addresses, ..]) = (words, key.addresses);
        let meta = meta.load(Relaxed);
        let difference = (address.load(Relaxed) ^ addresses) | ((meta ^ key.meta) & !0xff);
        (difference == 0 && key.family() == Family::V4)
            .then(|| Stamp::from_words(meta, stamp.load(Relaxed)))
    }

    #[inline]
    fn stamp_of_v6(self, index: EntryIndex, key: &FlowKey) -> Option<Stamp> {
        if index.family() == Family::V4 {
            return None;
        }
        let Entry(words) = self.v6.get(index.in_slab() as usize)?;
        let ([w0, w1, w2, w3, meta, stamp, ..], [k0, k1, k2, k3]) = (words, key.addresses);
        let differs = |word: &AtomicU64, part: u64| word.load(Relaxed) ^ part;
        let source = differs(w0, k0) | differs(w1, k1);
        let destination = differs(w2, k2) | differs(w3, k3);
        let meta = meta.load(Relaxed);
        let difference = source | destination | ((meta ^ key.meta) & !0xff);
        (difference == 0 && key.family() == Family::V6)
            .then(|| Stamp::from_words(meta, stamp.load(Relaxed)))
    }

    /// Asks for the cache lines of the entry at `index`.
    #[inline]
    pub(crate) fn prefetch(self, index: EntryIndex) {
        match index.family() {
            Family::V4 => prefetch(self.v4, index.in_slab()),
            Family::V6 => prefetch(self.v6, index.in_slab()),
        }
    }
}

/// One entry, of either family.
#[derive(Clone, Copy)]
pub(crate) struct EntryView<'a>(&'a [AtomicU64]);

impl EntryView<'_> {
    /// Writes the whole entry. Nobody but the caller can find it.
    pub(crate) fn write(self, key: &FlowKey, stamp: Stamp, scopes: Scopes, action: [u64; 4]) {
        for (word, address) in self.0.iter().take(self.meta_at()).zip(key.addresses) {
            word.store(address, Relaxed);
        }
        let upper = u64::from(stamp.owner.upper);
        self.store(self.meta_at(), (key.meta & !0xff) | upper);
        self.store(self.meta_at() + 1, stamp.to_word());
        self.store(self.meta_at() + 2, scopes.to_word());
        for (word, part) in self.0.iter().rev().take(ACTION_WORDS).rev().zip(action) {
            word.store(part, Relaxed);
        }
    }

    /// The key.
    pub(crate) fn key(self) -> FlowKey {
        let mut addresses = [0; 4];
        for (address, word) in addresses.iter_mut().zip(self.0.iter().take(self.meta_at())) {
            *address = word.load(Relaxed);
        }
        let family = if self.meta_at() == 1 { Family::V4 } else { Family::V6 };
        FlowKey { addresses, meta: (self.load(self.meta_at()) & !0xff) | family as u64 }
    }

    /// The stamp.
    #[inline]
    pub(crate) fn stamp(self) -> Stamp {
        Stamp::from_words(self.load(self.meta_at()), self.load(self.meta_at() + 1))
    }

    /// The scopes the action depends on.
    #[inline]
    pub(crate) fn scopes(self) -> Scopes {
        Scopes::from_word(self.load(self.meta_at() + 2))
    }

    /// The compiled action.
    #[inline]
    pub(crate) fn action(self) -> [u64; 4] {
        let mut action = [0; 4];
        for (part, word) in action.iter_mut().zip(self.0.iter().rev().take(ACTION_WORDS).rev()) {
            *part = word.load(Relaxed);
        }
        action
    }

    /// Says that the entry is still right under `version`, if its stamp is still `judged` (claim
    /// 4).
    #[inline]
    pub(crate) fn restamp(self, judged: Stamp, version: u32) {
        let Some(word) = self.0.get(self.meta_at() + 1) else { return };
        let next = Stamp { version, ..judged }.to_word();
        if ordering::restamp_by_exchange() {
            // Losing means that another worker stamped it, under a version that may be newer.
            let _ = word.compare_exchange(judged.to_word(), next, Relaxed, Relaxed);
        } else {
            word.store(next, Relaxed);
        }
    }

    /// Where the meta word lies: after one word of addresses, or four.
    #[inline]
    fn meta_at(self) -> usize {
        if self.0.len() == 8 { 1 } else { 4 }
    }

    #[inline]
    fn load(self, at: usize) -> u64 {
        self.0.get(at).map_or(0, |word| word.load(Relaxed))
    }

    fn store(self, at: usize, value: u64) {
        if let Some(word) = self.0.get(at) {
            word.store(value, Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_gives_back_what_was_written(
            six: bool, words: [u64; 2], port: u16, version: u32, connection in 0..CONNECTIONS_MAX,
            generation: u16, scopes: u64, action: [u64; 4], next: u32,
        ) {
            let entries = (Entry::<8>::default(), Entry::<12>::default());
            let (key, view) = if six {
                let address = Ipv6Addr::from_bits(u128::from(words[0]) << 3);
                let key = FlowKey::v6(5, 17, (address, port), (Ipv6Addr::LOCALHOST, 53));
                (key, EntryView(&entries.1.0))
            } else {
                let address = Ipv4Addr::from_bits(low32(words[0]));
                let key = FlowKey::v4(5, 17, (address, port), (Ipv4Addr::LOCALHOST, 53));
                (key, EntryView(&entries.0.0))
            };
            let owner = Owner::new(connection, generation);
            prop_assert_eq!((owner.connection(), owner.generation()), (connection, generation));
            let stamp = Stamp { version, owner };
            view.write(&key, stamp, Scopes::from_word(scopes), action);
            prop_assert_eq!(view.key(), key);
            prop_assert_eq!((view.stamp(), view.action()), (stamp, action));
            prop_assert_eq!(view.scopes().to_word(), scopes);
            view.restamp(stamp, next);
            prop_assert_eq!(view.stamp(), Stamp { version: next, ..stamp });
            view.restamp(Stamp { version: next.wrapping_add(1), ..stamp }, 0);
            prop_assert_eq!(view.stamp(), Stamp { version: next, ..stamp });
        }
    }
}
