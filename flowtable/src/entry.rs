//! Entries: one direction's key, compiled action, version and scopes, in one cache line for IPv4.
//!
//! ```text
//!  IPv4, 8 words    addresses | meta | stamp | scopes |       action x 4
//!  IPv6, 12 words   addresses x 4 | meta | stamp | scopes | spare | action x 4
//! ```
//!
//! `meta` is that of the [`FlowKey`], with the lower half of the connection's 16-bit generation in
//! place of the family, which the index tells. `stamp` is version (32 bits), connection (24), and
//! the upper half of the generation (8).
//!
//! An entry is written while nobody can find it, then published by its index in a bucket, and not
//! written again before it has been retired and every worker has passed a quiescent point. Only two
//! things change meanwhile: its stamp's version, and once, when it no longer leads to a living
//! connection, the lowest bit of the generation: that of the living is odd. So whoever holds a
//! reference need not look at the connection to know that it lives.

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
    #[inline]
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

    #[inline]
    pub(crate) fn family(self) -> Family {
        if self.0 & FAMILY_BIT == 0 { Family::V4 } else { Family::V6 }
    }

    pub(crate) fn record(self) -> u32 {
        (self.0 & !FAMILY_BIT) >> 1
    }

    #[inline]
    pub(crate) fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Forward } else { Direction::Reply }
    }

    pub(crate) fn with(self, direction: Direction) -> Self {
        Self((self.0 & !1) | direction as u32)
    }

    #[inline]
    fn in_slab(self) -> u32 {
        self.0 & !FAMILY_BIT
    }
}

/// Whose an entry is, in the form that it has there, so that a lookup need not take it apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Owner {
    /// The connection's number above the upper half of its generation: a part of `stamp`.
    word: u32,
    /// The protocol above the lower half of the generation: a part of `meta`.
    low: u16,
}

impl Owner {
    /// A connection of a generation, of a protocol.
    pub(crate) fn new(connection: u32, generation: u16, protocol: u8) -> Self {
        let [upper, lower] = generation.to_be_bytes();
        let word = (connection << 8) | u32::from(upper);
        Self { word, low: u16::from_be_bytes([protocol, lower]) }
    }

    /// The connection's number.
    #[inline]
    pub(crate) fn connection(self) -> u32 {
        self.word >> 8
    }

    /// The part of the connection's generation that entries carry.
    #[inline]
    pub(crate) fn generation(self) -> u16 {
        let ([.., upper], [_, lower]) = (self.word.to_be_bytes(), self.low.to_be_bytes());
        u16::from_be_bytes([upper, lower])
    }

    /// The IP protocol.
    #[inline]
    pub(crate) fn protocol(self) -> u8 {
        let [protocol, _] = self.low.to_be_bytes();
        protocol
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
        let [.., protocol, lower] = meta.to_be_bytes();
        let low = u16::from_be_bytes([protocol, lower]);
        Self { version: high32(stamp), owner: Owner { word: low32(stamp), low } }
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

    /// The action of the entry at `index`, if that is still `owner`'s and leads to a living
    /// connection.
    #[inline]
    pub(crate) fn action_of(&self, index: EntryIndex, owner: Owner) -> Option<ActionWords<'_>> {
        let (meta, stamp, action) = if let Some(Entry(words)) = self.v4.at(index.0) {
            let [_, meta, stamp, _, action @ ..] = words;
            (meta, stamp, action)
        } else {
            let Entry(words) = self.v6.at(index.in_slab())?;
            let [_, _, _, _, meta, stamp, _, _, action @ ..] = words;
            (meta, stamp, action)
        };
        let stamp = Stamp::from_words(meta.load(Relaxed), stamp.load(Relaxed));
        (stamp.owner == owner).then_some(ActionWords(action))
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
        match index.family() {
            Family::V4 => self.stamp_of_v4(index, key),
            Family::V6 => self.stamp_of_v6(index, key),
        }
    }

    /// The same for an entry of IPv4; `None` for others.
    #[inline]
    pub(crate) fn stamp_of_v4(self, index: EntryIndex, key: &FlowKey) -> Option<Stamp> {
        // One comparison tells families apart, free slots, and what lies beyond the slab.
        let Entry(words) = self.v4.get(index.0 as usize)?;
        let ([address, meta, stamp, ..], [addresses, ..]) = (words, key.addresses);
        let meta = meta.load(Relaxed);
        let difference = (address.load(Relaxed) ^ addresses) | differs_in_life(meta, key.meta);
        (difference == 0 && key.family() == Family::V4)
            .then(|| Stamp::from_words(meta, stamp.load(Relaxed)))
    }

    /// The same for an entry of IPv6; `None` for others.
    #[inline]
    pub(crate) fn stamp_of_v6(self, index: EntryIndex, key: &FlowKey) -> Option<Stamp> {
        // As above: an index of IPv4 is far beyond the slab once its family's bit is turned.
        let Entry(words) = self.v6.get((index.0 ^ FAMILY_BIT) as usize)?;
        let ([w0, w1, w2, w3, meta, stamp, ..], [k0, k1, k2, k3]) = (words, key.addresses);
        let differs = |word: &AtomicU64, part: u64| word.load(Relaxed) ^ part;
        let source = differs(w0, k0) | differs(w1, k1);
        let destination = differs(w2, k2) | differs(w3, k3);
        let meta = meta.load(Relaxed);
        let difference = source | destination | differs_in_life(meta, key.meta);
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

/// Where an entry's action lies.
#[derive(Clone, Copy)]
pub(crate) struct ActionWords<'a>(&'a [AtomicU64; ACTION_WORDS]);

impl ActionWords<'_> {
    /// The action.
    #[inline]
    pub(crate) fn load(self) -> [u64; ACTION_WORDS] {
        self.0.each_ref().map(|word| word.load(Relaxed))
    }
}

/// One entry, of either family.
#[derive(Clone, Copy)]
pub(crate) struct EntryView<'a>(&'a [AtomicU64]);

impl EntryView<'_> {
    /// Writes the whole entry. Nobody but the caller can find it.
    pub(crate) fn write(self, key: &FlowKey, stamp: Stamp, scopes: Scopes, action: [u64; 4]) {
        let lower = u64::from(stamp.owner.low & 0xff);
        let (meta, stamp, scopes) = ((key.meta & !0xff) | lower, stamp.to_word(), scopes.to_word());
        let [k0, k1, k2, k3] = key.addresses;
        let [a0, a1, a2, a3] = action;
        if let Some(words) = self.0.first_chunk::<12>() {
            store(words, [k0, k1, k2, k3, meta, stamp, scopes, 0, a0, a1, a2, a3]);
        } else if let Some(words) = self.0.first_chunk::<8>() {
            store(words, [k0, meta, stamp, scopes, a0, a1, a2, a3]);
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
    pub(crate) fn action(self) -> [u64; ACTION_WORDS] {
        self.0.last_chunk().map_or([0; ACTION_WORDS], |words| ActionWords(words).load())
    }

    /// Says that the entry no longer leads to a living connection. The caller holds the locks of the
    /// connection's buckets, none of which leads here any more.
    pub(crate) fn end(self) {
        if let Some(meta) = self.0.get(self.meta_at()) {
            meta.store(meta.load(Relaxed) & !1, ordering::publish_end());
        }
    }

    /// Says that the entry is still right under `version`, unless another worker has said so of its
    /// own version since `judged` (claim 4).
    #[inline]
    pub(crate) fn restamp(self, judged: Stamp, version: u32) {
        let Some(word) = self.0.get(self.meta_at() + 1) else { return };
        let next = Stamp { version, ..judged }.to_word();
        if word.load(Relaxed) == judged.to_word() {
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
}

#[inline]
fn store<const WORDS: usize>(words: &[AtomicU64; WORDS], values: [u64; WORDS]) {
    for (word, value) in words.iter().zip(values) {
        word.store(value, Relaxed);
    }
}

/// What is different between the `meta` of a living entry and that of a key: zero if nothing is.
#[inline]
fn differs_in_life(entry: u64, key: u64) -> u64 {
    // All but the generation, of which only the lowest bit is compared: the living have it.
    (entry ^ (key | 1)) & !0xfe
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
            let owner = Owner::new(connection, generation, 17);
            prop_assert_eq!((owner.connection(), owner.generation()), (connection, generation));
            prop_assert_eq!(owner.protocol(), 17);
            let stamp = Stamp { version, owner };
            view.write(&key, stamp, Scopes::from_word(scopes), action);
            prop_assert_eq!(view.key(), key);
            prop_assert_eq!((view.stamp(), view.action()), (stamp, action));
            prop_assert_eq!(view.scopes().to_word(), scopes);
            view.restamp(stamp, next);
            prop_assert_eq!(view.stamp(), Stamp { version: next, ..stamp });
            view.restamp(Stamp { version: next.wrapping_add(1), ..stamp }, 0);
            prop_assert_eq!(view.stamp(), Stamp { version: next, ..stamp });
            view.end();
            prop_assert_eq!(view.stamp().owner, Owner::new(connection, generation & !1, 17));
            prop_assert_eq!((view.key(), view.action()), (key, action));
        }
    }
}
