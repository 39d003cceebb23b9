//! Ids that stay the same over restarts: hashes of what they stand for.
//!
//! The engine keeps its objects by id while control restarts; so an id must be a function of the
//! object's meaning alone. Two texts with one hash are told apart: the later one is hashed again.

use std::collections::{HashMap, hash_map::Entry};

/// FNV-1a with 64 bits: its offset basis and its prime.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The ids in use, and what each stands for.
#[derive(Debug)]
pub(super) struct Identities {
    texts: HashMap<u64, Box<str>>,
    hash: fn(&str, u64) -> u64,
}

impl Default for Identities {
    fn default() -> Self {
        Self { texts: HashMap::new(), hash: fnv }
    }
}

impl Identities {
    /// The id of a text that nobody has claimed yet. Never 0.
    ///
    /// Whoever claims it keeps the id until its [`release`](Self::release).
    pub(super) fn claim(&mut self, text: &str) -> u64 {
        let mut attempt = 0;
        loop {
            let id = (self.hash)(text, attempt);
            if id != 0
                && let Entry::Vacant(entry) = self.texts.entry(id)
            {
                entry.insert(text.into());
                return id;
            }
            // Ends: there are fewer claims than numbers, and each attempt yields another.
            attempt += 1;
        }
    }

    /// Gives an id back.
    pub(super) fn release(&mut self, id: u64) {
        self.texts.remove(&id);
    }
}

fn fnv(text: &str, attempt: u64) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    let hash = text.as_bytes().iter().fold(FNV_BASIS, step);
    // The last bytes of a text reach few of FNV's bits; this spreads them (MurmurHash3's finalizer).
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (hash ^ (hash >> 33)).wrapping_add(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_function_of_the_text() {
        let mut identities = Identities::default();
        let id = identities.claim("ingress a/b");
        identities.release(id);
        assert_eq!(identities.claim("ingress a/b"), id);
        assert_eq!(Identities::default().claim("ingress a/b"), id);
        assert_eq!(
            id, 15_584_545_895_027_965_127,
            "ids outlive this process: the hash must not change"
        );
    }

    #[test]
    fn texts_with_one_hash_get_different_ids() {
        let hash = |_: &str, attempt| attempt;
        let mut identities = Identities { texts: HashMap::new(), hash };
        assert_eq!(identities.claim("a"), 1, "0 means no policy");
        assert_eq!(identities.claim("b"), 2);
        identities.release(1);
        assert_eq!(identities.claim("c"), 1);
    }
}
