//! The Internet checksum: one's-complement sums (RFC 1071) and their update (RFC 1624).
//!
//! A [`Sum`] is the one's-complement sum of some bytes. Sums of parts add up to the sum of the
//! whole, in any order; a part that starts at an odd offset is added with [`Sum::add_at`]. The
//! checksum that goes on the wire is the complement, [`Sum::checksum`].
//!
//! One's complement has two zeros, 0x0000 and 0xffff. A sum is 0x0000 only if every byte is zero,
//! so a checksum is 0xffff only over zeros, which no IP, TCP or UDP packet is: its version,
//! protocol or ports are not zero. UDP sends a checksum that comes out as 0x0000 as 0xffff (RFC
//! 768), since 0x0000 says "none".

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::ip::IpProtocol;

/// Bytes summed in one step of the inner loop: eight lanes of eight bytes, two or four vectors.
const BLOCK_BYTES: usize = 64;

/// The one's-complement sum of some bytes, taken as big-endian 16-bit words.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sum(u16);

impl Sum {
    /// The sum of no bytes.
    pub const ZERO: Self = Self(0);

    /// The sum of `bytes`, as if they started at an even offset. An odd last byte counts as the
    /// high half of a word (RFC 1071 section 4.1).
    #[must_use]
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        // Native byte order throughout: a one's-complement sum may be taken in either order and
        // swapped at the end (RFC 1071 section 2(B)).
        let total = if bytes.len() < BLOCK_BYTES { sum_short(0, bytes) } else { sum_blocks(bytes) };
        Self(u16::from_be_bytes(fold(total).to_ne_bytes()))
    }

    /// The sum of one 16-bit word.
    #[must_use]
    pub const fn of_u16(word: u16) -> Self {
        Self(word)
    }

    /// The sum of one 32-bit word.
    #[must_use]
    pub const fn of_u32(word: u32) -> Self {
        let [a, b, c, d] = word.to_be_bytes();
        Self(u16::from_be_bytes([a, b])).add(Self(u16::from_be_bytes([c, d])))
    }

    /// The sum of a 16-byte address.
    #[must_use]
    pub fn of_ipv6(address: Ipv6Addr) -> Self {
        address.segments().into_iter().fold(Self::ZERO, |sum, word| sum.add(Self(word)))
    }

    /// The sum of the IPv4 pseudo header (RFC 768, RFC 9293 section 3.1).
    ///
    /// `length` is that of the transport header and its payload, in bytes.
    #[must_use]
    pub const fn of_ipv4_pseudo_header(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: IpProtocol,
        length: u16,
    ) -> Self {
        Self::of_u32(source.to_bits())
            .add(Self::of_u32(destination.to_bits()))
            .add(Self(protocol.0 as u16))
            .add(Self(length))
    }

    /// The sum of the IPv6 pseudo header (RFC 8200 section 8.1).
    ///
    /// `length` is that of the upper-layer header and its payload, in bytes.
    #[must_use]
    pub fn of_ipv6_pseudo_header(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        protocol: IpProtocol,
        length: u32,
    ) -> Self {
        Self::of_ipv6(source)
            .add(Self::of_ipv6(destination))
            .add(Self(u16::from(protocol.0)))
            .add(Self::of_u32(length))
    }

    /// The sum of both parts; `other` starts at an even offset.
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        let (sum, carry) = self.0.overflowing_add(other.0);
        // A carry leaves at most 0xfffe, so adding it does not carry again.
        Self(sum.wrapping_add(carry as u16))
    }

    /// The sum with a few more words.
    #[must_use]
    #[inline]
    pub(crate) fn add_words<const N: usize>(self, words: [u16; N]) -> Self {
        const { assert!(N <= 16, "the second fold takes all carries in") };
        let total = words
            .into_iter()
            .fold(u32::from(self.0), |total, word| total.wrapping_add(u32::from(word)));
        // At most 2^16 − 1 and a carry for each word.
        let total = (total & 0xffff).wrapping_add(total >> 16);
        Self((total & 0xffff).wrapping_add(total >> 16) as u16)
    }

    /// The sum of both parts, where `other` starts `offset` bytes into the whole.
    ///
    /// At an odd offset the bytes of each word trade places (RFC 1071 section 2(B)).
    #[must_use]
    pub const fn add_at(self, other: Self, offset: usize) -> Self {
        if offset.is_multiple_of(2) {
            self.add(other)
        } else {
            self.add(Self(other.0.swap_bytes()))
        }
    }

    /// Takes a part out again that was added before.
    ///
    /// Exact unless nothing but zeros remains: then the sum is 0xffff, one's complement's other
    /// zero.
    #[must_use]
    pub const fn remove(self, part: Self) -> Self {
        self.add(Self(!part.0))
    }

    /// The folded sum itself, before the complement.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0
    }

    /// The checksum to put on the wire: the complement.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.0
    }

    /// The checksum as UDP sends it: 0xffff in place of zero, which would say "none" (RFC 768).
    #[must_use]
    pub const fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether this sum, over bytes with their checksum in place, proves them intact.
    #[must_use]
    pub const fn is_intact(self) -> bool {
        self.0 == 0xffff
    }
}

/// The change that an edit of some words makes to a checksum over them (RFC 1624, equation 3).
///
/// Prepared once, for a NAT rewrite for instance, and applied to each packet. Words edited must lie
/// at even offsets of the summed bytes. The result equals a full computation for every checksum
/// over bytes that are not all zero after the edit, see the [module](self).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Delta(Sum);

impl Delta {
    /// The change of nothing.
    pub const NONE: Self = Self(Sum::ZERO);

    /// A 16-bit word becomes another.
    #[must_use]
    pub const fn of_u16(old: u16, new: u16) -> Self {
        Self(Sum(!old).add(Sum(new)))
    }

    /// A 32-bit word, such as an IPv4 address, becomes another.
    #[must_use]
    pub const fn of_u32(old: u32, new: u32) -> Self {
        Self(Sum::of_u32(!old).add(Sum::of_u32(new)))
    }

    /// An IPv4 address becomes another.
    #[must_use]
    pub const fn of_ipv4(old: Ipv4Addr, new: Ipv4Addr) -> Self {
        Self::of_u32(old.to_bits(), new.to_bits())
    }

    /// An IPv6 address becomes another.
    #[must_use]
    pub fn of_ipv6(old: Ipv6Addr, new: Ipv6Addr) -> Self {
        Self(Sum::of_ipv6(Ipv6Addr::from_bits(!old.to_bits())).add(Sum::of_ipv6(new)))
    }

    /// Both changes together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0.add(other.0))
    }

    /// The checksum after the change.
    #[must_use]
    pub const fn apply(self, checksum: u16) -> u16 {
        Sum(!checksum).add(self.0).checksum()
    }

    /// The UDP checksum after the change: none (zero) stays none, and zero is sent as 0xffff.
    #[must_use]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 { 0 } else { Sum(!checksum).add(self.0).udp_checksum() }
    }
}

/// Sums whole blocks, then the rest.
///
/// Each lane adds 32-bit halves into 64 bits and so cannot overflow below 2^32 blocks; without
/// carries between words the compiler makes vector instructions of it.
fn sum_blocks(bytes: &[u8]) -> u64 {
    let (blocks, tail) = bytes.as_chunks::<BLOCK_BYTES>();
    let mut lanes = [0_u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            let word = u64::from_ne_bytes(*word);
            *lane = lane.wrapping_add(word & 0xffff_ffff).wrapping_add(word >> 32);
        }
    }
    sum_short(lanes.iter().fold(0, |total, &lane| add_carry(total, lane)), tail)
}

/// Adds `bytes` to `total` by words of falling length. Inlined, so that headers of known length
/// need no loop: 20 bytes take three additions.
#[inline]
fn sum_short(mut total: u64, bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        total = add_carry(total, u64::from_ne_bytes(*word));
    }
    let (word, tail) = tail.as_chunks::<4>();
    if let [word] = word {
        total = add_carry(total, u32::from_ne_bytes(*word).into());
    }
    let (word, tail) = tail.as_chunks::<2>();
    if let [word] = word {
        total = add_carry(total, u16::from_ne_bytes(*word).into());
    }
    if let [byte] = tail {
        total = add_carry(total, u16::from_ne_bytes([*byte, 0]).into());
    }
    total
}

#[inline]
const fn add_carry(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum.wrapping_add(carry as u64)
}

/// Folds 64 bits into 16 with end-around carries.
#[inline]
const fn fold(total: u64) -> u16 {
    // At most 2^33 − 2.
    let total = (total & 0xffff_ffff).wrapping_add(total >> 32);
    // At most 2^17 − 1.
    let total = (total & 0xffff).wrapping_add((total >> 16) & 0xffff).wrapping_add(total >> 32);
    // At most 2^16.
    let total = (total & 0xffff).wrapping_add(total >> 16);
    // At most 2^16 − 1.
    ((total & 0xffff).wrapping_add(total >> 16)) as u16
}

#[cfg(test)]
mod tests;
