//! Comparing a tag with all eight of a bucket at once.
//!
//! # Safety boundary
//!
//! The intrinsics of SSE2 and NEON work on values alone, never on memory: a bucket's tags are
//! loaded as atomics before. Each is called only where the compiler's target has the instructions,
//! as every x86-64 and every aarch64 processor does; so there is nothing to detect at run time.
//! Other targets take the portable way, which tests hold to the same results.
#![cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "vector instructions")
)]

/// The slots whose tag is `tag`, as a mask: bit 0 is slot 0, the lowest lane of `low`.
#[inline]
pub(crate) fn matching(low: u64, high: u64, tag: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is a part of x86-64.
    let mask = unsafe { sse2::matching(low, high, tag) };
    #[cfg(target_arch = "aarch64")]
    // SAFETY: NEON is a part of aarch64 as Linux runs on it.
    let mask = unsafe { neon::matching(low, high, tag) };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let mask = portable::matching(low, high, tag);
    mask
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x, _mm_set1_epi16,
        _mm_setzero_si128,
    };

    #[inline]
    #[target_feature(enable = "sse2")]
    pub(super) fn matching(low: u64, high: u64, tag: u16) -> u32 {
        let tags = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
        let equal = _mm_cmpeq_epi16(tags, _mm_set1_epi16(tag.cast_signed()));
        // A lane of ones becomes a byte of ones, whose top bit goes into the mask.
        let bytes = _mm_packs_epi16(equal, _mm_setzero_si128());
        _mm_movemask_epi8(bytes).cast_unsigned()
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::{
        vaddv_u8, vand_u8, vceqq_u16, vcombine_u64, vcreate_u8, vcreate_u64, vdupq_n_u16,
        vmovn_u16, vreinterpretq_u16_u64,
    };

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn matching(low: u64, high: u64, tag: u16) -> u32 {
        let tags = vreinterpretq_u16_u64(vcombine_u64(vcreate_u64(low), vcreate_u64(high)));
        let equal = vmovn_u16(vceqq_u16(tags, vdupq_n_u16(tag)));
        // Each slot's byte keeps a bit of its own; their sum is the mask.
        let bits = vand_u8(equal, vcreate_u8(0x8040_2010_0804_0201));
        u32::from(vaddv_u8(bits))
    }
}

#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod portable {
    const LANES: u64 = 0x0001_0001_0001_0001;
    const LANE_HIGH: u64 = 0x8000_8000_8000_8000;

    pub(super) fn matching(low: u64, high: u64, tag: u16) -> u32 {
        let pattern = LANES.wrapping_mul(u64::from(tag));
        zero_lanes(low ^ pattern) | (zero_lanes(high ^ pattern) << 4)
    }

    /// Which of a word's four 16-bit lanes are zero, as four bits.
    fn zero_lanes(word: u64) -> u32 {
        // A lane's high bit ends up set unless all its bits are zero; nothing carries into the next
        // lane.
        let nonzero = ((word & !LANE_HIGH).wrapping_add(!LANE_HIGH) | word) & LANE_HIGH;
        // Bits 15, 31, 47, 63 move to bits 60 to 63, and from there to the bottom.
        let zero = (!nonzero & LANE_HIGH) >> 15;
        crate::key::high32(zero.wrapping_mul(0x1000_2000_4000_8000)) >> 28
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_mask_names_exactly_the_slots_with_the_tag(
            few in prop::array::uniform8(0u16..3),
            noise in prop::array::uniform8(any::<u16>()),
            tag in prop_oneof![0u16..3, any::<u16>()],
        ) {
            for tags in [few, noise] {
                let word = |lanes: &[u16]| {
                    lanes.iter().rev().fold(0, |word, &lane| (word << 16) | u64::from(lane))
                };
                let (low, high) = (word(&tags[..4]), word(&tags[4..]));
                let equal = (0..8).filter(|&slot| tags[slot] == tag);
                let expected = equal.fold(0, |mask, slot| mask | 1 << slot);
                prop_assert_eq!(matching(low, high, tag), expected);
                prop_assert_eq!(portable::matching(low, high, tag), expected);
            }
        }
    }
}
