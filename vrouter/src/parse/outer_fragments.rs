//! Which fragmented datagrams from the fabric are for a tunnel of ours.
//!
//! Only a first fragment names its ports. What it says is kept for those that follow, on whatever
//! worker they arrive: one word a datagram, in a table without collisions' chains, so that a newer
//! datagram may take an older one's place. A fragment that is forgotten goes to the node, as one
//! does whose first was never seen.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Datagrams remembered at a time. A tunnel peer that fragments is a mistake to be found, not a
/// load to be carried.
const DATAGRAMS_MAX: usize = 1024;

/// What the fragments of one datagram have in common.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Datagram {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) identification: u32,
}

/// Datagrams to our tunnels whose first fragment was seen. Workers write and read.
#[derive(Debug)]
pub(crate) struct OuterFragments {
    /// Hashes, 0 in empty places. A word says all there is to say, so no order is needed.
    places: Box<[AtomicU64]>,
}

impl Default for OuterFragments {
    fn default() -> Self {
        Self { places: (0..DATAGRAMS_MAX).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl OuterFragments {
    /// A first fragment came in, for a tunnel or not. Identifications come round: one that is not
    /// for a tunnel makes an older one forgotten.
    pub(crate) fn note_first(&self, datagram: &Datagram, is_tunnel: bool) {
        let (hash, place) = self.place(datagram);
        let Some(place) = place else { return };
        if is_tunnel {
            place.store(hash, Relaxed);
        } else if place.load(Relaxed) == hash {
            place.store(0, Relaxed);
        }
    }

    /// Whether the datagram's first fragment was seen, and was for a tunnel.
    pub(crate) fn contains(&self, datagram: &Datagram) -> bool {
        let (hash, place) = self.place(datagram);
        place.is_some_and(|place| place.load(Relaxed) == hash)
    }

    fn place(&self, datagram: &Datagram) -> (u64, Option<&AtomicU64>) {
        // Always the same keys: a replay gives the same output twice.
        let mut hasher = DefaultHasher::new();
        datagram.hash(&mut hasher);
        let hash = hasher.finish() | 1;
        (hash, self.places.get((hash >> 1) as usize % DATAGRAMS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn datagram(identification: u32) -> Datagram {
        let address = |last| Ipv4Addr::new(192, 0, 2, last).into();
        Datagram { source: address(1), destination: address(2), identification }
    }

    #[test]
    fn a_datagram_is_known_from_its_first_fragment_on() {
        let fragments = OuterFragments::default();
        assert!(!fragments.contains(&datagram(7)));
        fragments.note_first(&datagram(7), true);
        assert!(fragments.contains(&datagram(7)));
        assert!(!fragments.contains(&datagram(8)));
    }

    #[test]
    fn an_identification_that_comes_round_is_the_newer_datagrams() {
        let fragments = OuterFragments::default();
        fragments.note_first(&datagram(7), true);
        fragments.note_first(&datagram(7), false);
        assert!(!fragments.contains(&datagram(7)));
    }
}
