//! The keyed hash of flow keys.
//!
//! A multiply hash whose operands are masked with secret words: which keys collide depends on the
//! secret, so that a pod that does not know it cannot pick tuples that fall into one bucket. (CRC32
//! does not have this property: its collisions are the same under every seed.) It is no
//! cryptographic hash; the secret must come from a random source and be known to nobody.

use crate::key::{Family, FlowKey, high32, low32};

/// The hash of a flow key, under one table's secret.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct FlowHash(pub u64);

impl FlowHash {
    /// The key's first bucket among `count`.
    #[inline]
    pub(crate) fn first_bucket(self, count: u32) -> u32 {
        scale(high32(self.0), count)
    }

    /// The key's second bucket among `count`: another one than the first if there are two.
    #[inline]
    pub(crate) fn second_bucket(self, count: u32) -> u32 {
        let second = scale(low32(self.0), count);
        if second != self.first_bucket(count) {
            return second;
        }
        let next = second.wrapping_add(1);
        if next < count { next } else { 0 }
    }

    /// The tag that stands for the key in a bucket; never zero, which marks a free slot.
    ///
    /// Buckets are chosen by the high bits of the halves. The low ones of both, together, depend on
    /// neither choice alone: so among the keys of a bucket all tags occur, whichever half led there.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "takes the low bits")]
    pub(crate) fn tag(self) -> u16 {
        let tag = (self.0 ^ (self.0 >> 32)) as u16;
        tag.wrapping_add(u16::from(tag == 0))
    }
}

/// A table's hash function.
#[derive(Clone, Copy)]
pub(crate) struct KeyedHash([u64; 6]);

impl KeyedHash {
    /// Derives the masks from a secret of 128 bits.
    pub(crate) fn new([first, second]: [u64; 2]) -> Self {
        // SplitMix64 spreads the secret over as many words as there are multiplications to mask.
        let mut state = first;
        let mut masks = [0; 6];
        for (round, mask) in (0u32..).zip(&mut masks) {
            state = state
                .wrapping_add(0x9e37_79b9_7f4a_7c15)
                .wrapping_add(second.rotate_left(round * 11));
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *mask = z ^ (z >> 31);
        }
        masks[5] |= 1;
        Self(masks)
    }

    /// Hashes a key.
    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> FlowHash {
        let [k0, k1, k2, k3, k4, k5] = self.0;
        let [a, b, c, d] = key.addresses;
        let mixed = match key.family() {
            Family::V4 => fold(a ^ k0, key.meta ^ k1),
            Family::V6 => {
                let addresses = fold(a ^ k0, b ^ k1) ^ fold(c ^ k2, d ^ k3).rotate_left(32);
                fold(addresses ^ k0, key.meta ^ k1)
            }
        };
        FlowHash(fold(mixed ^ k4, k5))
    }
}

/// The product of two words, its halves folded onto each other.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "takes the lower half")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a).wrapping_mul(u128::from(b));
    product as u64 ^ (product >> 64) as u64
}

/// Maps 32 random bits to `0..count` by a multiplication.
#[inline]
fn scale(bits: u32, count: u32) -> u32 {
    high32(u64::from(bits).wrapping_mul(u64::from(count)))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn key(i: u32) -> FlowKey {
        let [_, _, _, port] = i.to_be_bytes();
        let source = Ipv4Addr::from_bits(0x0a00_0000 | (i >> 8));
        FlowKey::v4(0, 17, (source, 1000), (Ipv4Addr::new(10, 1, 0, 1), u16::from(port)))
    }

    #[test]
    fn neighbouring_keys_spread_evenly_over_the_buckets() {
        let hash = KeyedHash::new([1, 2]);
        let mut first = vec![0u32; 4096];
        let mut second = vec![0u32; 4096];
        let mut tags = vec![0u32; 1 << 16];
        for i in 0..65_536 {
            let h = hash.hash(&key(i));
            first[h.first_bucket(4096) as usize] += 1;
            second[h.second_bucket(4096) as usize] += 1;
            tags[usize::from(h.tag())] += 1;
        }
        // Sixteen keys a bucket on average; chi squared of 4095 degrees of freedom is 4095 +- 90.
        for counts in [first, second] {
            let chi: f64 = counts.iter().map(|&n| (f64::from(n) - 16.0).powi(2) / 16.0).sum();
            assert!((3500.0..4700.0).contains(&chi), "chi squared {chi}");
        }
        assert_eq!(tags[0], 0);
        assert!(tags.iter().max() < Some(&12), "{:?}", tags.iter().max());
    }

    #[test]
    fn which_keys_collide_depends_on_the_secret() {
        let (one, other) = (KeyedHash::new([1, 2]), KeyedHash::new([3, 4]));
        let target = one.hash(&key(0)).first_bucket(256);
        let colliding: Vec<_> =
            (0..65_536).map(key).filter(|k| one.hash(k).first_bucket(256) == target).collect();
        assert!(colliding.len() > 150);
        let mut buckets: Vec<_> =
            colliding.iter().map(|k| other.hash(k).first_bucket(256)).collect();
        buckets.sort_unstable();
        buckets.dedup();
        assert!(
            buckets.len() > 80,
            "{} of them fall into {} buckets",
            colliding.len(),
            buckets.len()
        );
    }

    #[test]
    fn every_bit_of_an_ipv6_key_changes_the_hash() {
        let hash = KeyedHash::new([7, 9]);
        let base = FlowKey::v6(1, 6, (Ipv6Addr::LOCALHOST, 1), (Ipv6Addr::LOCALHOST, 2));
        let mut seen = vec![hash.hash(&base)];
        for word in 0..5 {
            for bit in 0..64 {
                let mut changed = base;
                match changed.addresses.get_mut(word) {
                    Some(address) => *address ^= 1 << bit,
                    None if bit >= 8 => changed.meta ^= 1 << bit,
                    None => continue,
                }
                seen.push(hash.hash(&changed));
            }
        }
        let count = seen.len();
        seen.sort_unstable_by_key(|h| h.0);
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
