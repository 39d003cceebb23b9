//! Fragments: which connection the later fragments of a datagram belong to.
//!
//! Only the first fragment has ports. Whoever forwards it notes (VRF, source, destination,
//! protocol, identification), and later fragments, on whatever worker they arrive, find the
//! connection by that. The table is bounded: a set holds four fragments, and the oldest gives way.
//!
//! A fragment is one cache line under a version of its own: odd while it is written. Readers copy
//! the words and look at the version before and after (claim 5).

use std::net::IpAddr;

use crate::{
    entry::Direction,
    facts::Ticks,
    key::{FlowKey, high32, low32},
    ordering,
    sync::{Acquire, AtomicU32, AtomicU64, Relaxed, Release, fence, spin_loop},
};

/// How long fragments of a datagram are waited for: 30 seconds, as hosts' reassembly commonly does;
/// RFC 8200, section 4.5 allows 60. Identifications of 16 bits come round in less on a busy path,
/// and then the new first fragment takes the old one's place.
pub const FRAGMENT_TIMEOUT: Ticks = 3000;

/// How often a fragment that is being written is looked at again before it counts as unknown.
const READS_MAX: u32 = if cfg!(loom) { 2 } else { 16 };

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FragmentKey {
    words: [u64; 5],
}

impl FragmentKey {
    /// The key of a datagram's fragments; addresses as on the wire, both of one family.
    ///
    /// `None` if the families differ.
    #[must_use]
    pub fn new(
        vrf: u16,
        protocol: u8,
        source: IpAddr,
        destination: IpAddr,
        identification: u32,
    ) -> Option<Self> {
        // The identification takes the place of both ports.
        let ports = identification.to_be_bytes();
        let source_port = u16::from_be_bytes([ports[0], ports[1]]);
        let destination_port = u16::from_be_bytes([ports[2], ports[3]]);
        let key = match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                FlowKey::v4(vrf, protocol, (source, source_port), (destination, destination_port))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                FlowKey::v6(vrf, protocol, (source, source_port), (destination, destination_port))
            }
            _ => return None,
        };
        let [a, b, c, d] = key.addresses;
        Some(Self { words: [a, b, c, d, key.meta] })
    }

    /// The key in the form that the table's hash takes.
    pub(crate) fn as_flow_key(&self) -> FlowKey {
        let [a, b, c, d, meta] = self.words;
        FlowKey { addresses: [a, b, c, d], meta }
    }
}

/// One fragment.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Fragment {
    version: AtomicU32,
    noted: AtomicU32,
    key: [AtomicU64; 5],
    /// Generation above connection. Zero where there is no fragment: the generations of the living
    /// are odd.
    owner: AtomicU64,
    direction: AtomicU32,
    reserved: AtomicU32,
}

const _: () = assert!(size_of::<Fragment>() == 64 || cfg!(loom));

/// The fragments that share a place.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct FragmentSet {
    ways: [Fragment; Self::WAYS as usize],
}

/// What a fragment leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FragmentOwner {
    pub(crate) connection: u32,
    pub(crate) generation: u32,
    pub(crate) direction: Direction,
}

/// A fragment's words, read as a whole.
#[derive(Clone, Copy)]
struct Noted {
    version: u32,
    at: Ticks,
    key: FragmentKey,
    owner: FragmentOwner,
}

impl FragmentSet {
    /// Fragments in a set.
    pub(crate) const WAYS: u32 = if cfg!(loom) { 1 } else { 4 };

    /// What the datagram of this key belongs to.
    pub(crate) fn find(&self, key: &FragmentKey, now: Ticks) -> Option<FragmentOwner> {
        let noted = self.ways.iter().filter_map(Fragment::read).find(|noted| noted.key == *key)?;
        noted.is_current(now).then_some(noted.owner)
    }

    /// Notes what the datagram of this key belongs to; returns whether it could.
    pub(crate) fn insert(&self, key: &FragmentKey, owner: FragmentOwner, now: Ticks) -> bool {
        // The same datagram's place, else a free or forgotten one, else the oldest.
        let age = |noted: &Noted| {
            if noted.key == *key || !noted.is_current(now) {
                Ticks::MAX
            } else {
                now.wrapping_sub(noted.at)
            }
        };
        let readable = self.ways.iter().filter_map(|way| way.read().map(|noted| (way, noted)));
        readable
            .max_by_key(|(_, noted)| (noted.key == *key, age(noted)))
            .is_some_and(|(way, noted)| way.write(noted.version, key, owner, now))
    }

    /// Forgets all fragments.
    pub(crate) fn reset(&self) {
        for way in &self.ways {
            way.version.store(0, Relaxed);
            way.owner.store(0, Relaxed);
        }
    }
}

impl Noted {
    fn is_current(&self, now: Ticks) -> bool {
        let age = now.wrapping_sub(self.at);
        // A time ahead of `now` is that of a worker whose poll began later.
        self.owner.generation != 0 && !(FRAGMENT_TIMEOUT..=Ticks::MAX / 2).contains(&age)
    }
}

impl Fragment {
    /// Reads all words as of one moment; `None` while they are being written.
    fn read(&self) -> Option<Noted> {
        for _ in 0..READS_MAX {
            let version = self.version.load(Acquire);
            if version & 1 == 1 {
                spin_loop();
                continue;
            }
            let owner = self.owner.load(Relaxed);
            let noted = Noted {
                version,
                at: self.noted.load(Relaxed),
                key: FragmentKey { words: std::array::from_fn(|i| self.key_word(i)) },
                owner: FragmentOwner {
                    connection: low32(owner),
                    generation: high32(owner),
                    direction: match self.direction.load(Relaxed) {
                        0 => Direction::Forward,
                        _ => Direction::Reply,
                    },
                },
            };
            fence(Acquire);
            if !ordering::recheck_fragment() || self.version.load(Relaxed) == version {
                return Some(noted);
            }
        }
        None
    }

    /// Writes all words, unless they changed since `version` was read.
    fn write(&self, version: u32, key: &FragmentKey, owner: FragmentOwner, now: Ticks) -> bool {
        let odd = version.wrapping_add(1);
        if self.version.compare_exchange(version, odd, Acquire, Relaxed).is_err() {
            return false;
        }
        if ordering::fence_fragment() {
            fence(Release);
        }
        self.noted.store(now, Relaxed);
        for (word, value) in self.key.iter().zip(key.words) {
            word.store(value, Relaxed);
        }
        let packed = (u64::from(owner.generation) << 32) | u64::from(owner.connection);
        self.owner.store(packed, Relaxed);
        self.direction.store(owner.direction as u32, Relaxed);
        self.version.store(odd.wrapping_add(1), Release);
        true
    }

    fn key_word(&self, i: usize) -> u64 {
        self.key.get(i).map_or(0, |word| word.load(Relaxed))
    }
}
