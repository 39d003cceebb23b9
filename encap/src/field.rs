//! Fixed-size fields at positions known at compile time.
//!
//! A position outside the header does not compile, so reading a field needs no check at run time.

/// The `LEN` bytes at offset `AT`.
#[inline]
pub(crate) fn bytes_at<const AT: usize, const LEN: usize, const N: usize>(
    header: &[u8; N],
) -> &[u8; LEN] {
    const { assert!(AT.saturating_add(LEN) <= N, "the field lies outside the header") };
    // The assertion above makes `None` impossible; the compiler removes the branch.
    header.get(AT..).and_then(<[u8]>::first_chunk).unwrap_or(const { &[0; LEN] })
}

/// The big-endian 16-bit number at offset `AT`.
#[inline]
pub(crate) fn u16_at<const AT: usize, const N: usize>(header: &[u8; N]) -> u16 {
    u16::from_be_bytes(*bytes_at::<AT, 2, N>(header))
}

/// The big-endian 32-bit number at offset `AT`.
#[inline]
pub(crate) fn u32_at<const AT: usize, const N: usize>(header: &[u8; N]) -> u32 {
    u32::from_be_bytes(*bytes_at::<AT, 4, N>(header))
}

/// Writes `value` at offset `AT`.
#[inline]
pub(crate) fn put<const AT: usize, const LEN: usize, const N: usize>(
    header: &mut [u8; N],
    value: [u8; LEN],
) {
    const { assert!(AT.saturating_add(LEN) <= N, "the field lies outside the header") };
    if let Some(slot) = header.get_mut(AT..).and_then(<[u8]>::first_chunk_mut) {
        *slot = value;
    }
}

/// Writes a big-endian 16-bit number at offset `AT`.
#[inline]
pub(crate) fn put_u16<const AT: usize, const N: usize>(header: &mut [u8; N], value: u16) {
    put::<AT, 2, N>(header, value.to_be_bytes());
}
