//! Access to guest memory: copies, and words that both sides read and write.
//!
//! # Safety boundary
//!
//! A guest writes its memory whenever it likes, so no Rust reference to plain bytes of it ever
//! exists. A [`GuestSlice`] is a range inside a mapping that outlives it: only
//! [`super::mapping::MappedRegion`] makes one, with bounds checked, and cutting makes it shorter.
//! Words that both sides agree on are atomics. All other bytes are copied, once, and what was
//! copied is what is judged: behind each copy a compiler fence keeps the compiler from reading the
//! guest's bytes a second time instead of the copy.
#![expect(unsafe_code, reason = "reads and writes memory that a guest shares")]

use std::{
    marker::PhantomData,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{
            AtomicU8, AtomicU16, AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
            compiler_fence,
        },
    },
};

use super::mapping::MappedRegion;

/// Up to here, a copy is a few moves in place; above, it is a call.
const INLINE_BYTES_MAX: usize = 128;

/// A range of guest memory, inside one mapping that lives at least as long as `'a`.
#[derive(Clone, Copy, Debug)]
pub struct GuestSlice<'a> {
    start: NonNull<u8>,
    bytes: usize,
    mapping: PhantomData<&'a MappedRegion>,
}

impl GuestSlice<'_> {
    /// The range of `bytes` bytes from `start` on.
    ///
    /// # Safety
    ///
    /// The range is mapped, readable and writable, as long as `'a` lasts.
    pub(super) unsafe fn new(start: NonNull<u8>, bytes: usize) -> Self {
        Self { start, bytes, mapping: PhantomData }
    }

    /// Bytes in the range.
    #[must_use]
    #[inline]
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// The first `bytes` bytes, and the rest; cut to what there is.
    #[must_use]
    #[inline]
    pub fn split_at(self, bytes: usize) -> (Self, Self) {
        let bytes = bytes.min(self.bytes);
        let rest = self.bytes.wrapping_sub(bytes);
        // SAFETY: at most the length of the range.
        let middle = unsafe { self.start.add(bytes) };
        let mapping = PhantomData;
        (Self { bytes, ..self }, Self { start: middle, bytes: rest, mapping })
    }

    /// Copies from the start of the range, as many bytes as both have; returns how many.
    #[inline]
    pub fn copy_to(self, out: &mut [u8]) -> usize {
        let bytes = self.bytes.min(out.len());
        // SAFETY: both ranges have that many bytes, and no reference to guest memory exists that
        // they could overlap.
        unsafe { copy(self.start.as_ptr(), out.as_mut_ptr(), bytes) };
        compiler_fence(SeqCst);
        bytes
    }

    /// Copies to the start of the range, as many bytes as both have; returns how many.
    #[inline]
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn copy_from(self, from: &[u8]) -> usize {
        let bytes = self.bytes.min(from.len());
        // SAFETY: as in `copy_to`.
        unsafe { copy(from.as_ptr(), self.start.as_ptr(), bytes) };
        compiler_fence(SeqCst);
        bytes
    }

    /// The first `N` bytes; `None` if there are fewer.
    #[inline]
    #[must_use]
    pub fn read<const N: usize>(self) -> Option<[u8; N]> {
        if self.bytes < N {
            return None;
        }
        let mut out = [0; N];
        // SAFETY: both have `N` bytes.
        unsafe { ptr::copy_nonoverlapping(self.start.as_ptr(), out.as_mut_ptr(), N) };
        compiler_fence(SeqCst);
        Some(out)
    }

    /// Writes the first `N` bytes; false if there are fewer.
    #[inline]
    #[expect(clippy::must_use_candidate, reason = "called for what it does")]
    pub fn write<const N: usize>(self, bytes: &[u8; N]) -> bool {
        if self.bytes < N {
            return false;
        }
        // SAFETY: both have `N` bytes.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.as_ptr(), N) };
        compiler_fence(SeqCst);
        true
    }

    /// Writes zeros to all of the range.
    pub fn fill_with_zeros(self) {
        // SAFETY: the range is mapped and writable.
        unsafe { self.start.write_bytes(0, self.bytes) };
        compiler_fence(SeqCst);
    }

    /// Asks for the cache line at `offset`, soon to be read.
    #[inline]
    pub fn prefetch(self, offset: usize) {
        prefetch_line(self.start.as_ptr().wrapping_add(offset));
    }

    /// Asks for the cache line at `offset`, soon to be written.
    #[inline]
    pub fn prefetch_for_write(self, offset: usize) {
        prefetch_line_for_write(self.start.as_ptr().wrapping_add(offset));
    }
}

/// What both sides of a ring may read and write: atomics, all of whose values are legal.
///
/// # Safety
///
/// The type consists of atomics alone, without padding.
pub(super) unsafe trait Word {}

// SAFETY: an atomic.
unsafe impl Word for AtomicU8 {}
// SAFETY: an atomic.
unsafe impl Word for AtomicU16 {}
// SAFETY: an atomic.
unsafe impl Word for AtomicU64 {}
// SAFETY: two atomics.
unsafe impl Word for [AtomicU32; 2] {}
// SAFETY: two atomics.
unsafe impl Word for [AtomicU64; 2] {}

/// The second word of a packed ring's descriptor (VirtIO 1.2 section 2.8.13), read and written at
/// once: whose turn it is comes with what it says, and an engine that dies leaves all of it or
/// nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedTail {
    pub(super) bytes: u32,
    pub(super) id: u16,
    pub(super) flags: u16,
}

impl PackedTail {
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "parts of a word are meant")]
    pub(super) const fn from_word(word: u64) -> Self {
        Self { bytes: word as u32, id: (word >> 32) as u16, flags: (word >> 48) as u16 }
    }

    #[inline]
    pub(super) const fn to_word(self) -> u64 {
        self.bytes as u64 | (self.id as u64) << 32 | (self.flags as u64) << 48
    }
}

/// An array of words in guest memory, which it keeps mapped.
#[derive(Debug)]
pub(super) struct Words<T: Word> {
    start: NonNull<T>,
    count: usize,
    _mapping: Arc<MappedRegion>,
}

// SAFETY: atomics may be reached from any thread, and the mapping is tied to none.
unsafe impl<T: Word> Send for Words<T> {}
// SAFETY: as above.
unsafe impl<T: Word> Sync for Words<T> {}

impl<T: Word> Words<T> {
    /// `count` words, at least one, from `offset` of a region on; `None` if they do not lie inside
    /// or are not aligned.
    pub(super) fn new(region: &Arc<MappedRegion>, offset: usize, count: usize) -> Option<Self> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let slice = region.slice(offset, bytes)?;
        let start = slice.start.cast::<T>();
        (count > 0 && start.is_aligned()).then(|| Self {
            start,
            count,
            _mapping: Arc::clone(region),
        })
    }

    /// The word at `index`, which is below the count; the first one for any other.
    #[inline]
    pub(super) fn at(&self, index: usize) -> &T {
        let index = if index < self.count { index } else { 0 };
        // SAFETY: `new` checked that so many words are mapped.
        let word = unsafe { self.start.add(index) };
        // SAFETY: as above; they are aligned, the mapping is kept, and all access on our side is
        // atomic.
        unsafe { word.as_ref() }
    }

    /// Asks for the cache line of a word, soon to be read.
    #[inline]
    pub(super) fn prefetch(&self, index: usize) {
        prefetch_line(ptr::from_ref(self.at(index)).cast());
    }

    /// Asks for the cache line of a word, soon to be written.
    #[inline]
    pub(super) fn prefetch_for_write(&self, index: usize) {
        prefetch_line_for_write(ptr::from_ref(self.at(index)).cast());
    }
}

/// One descriptor of a split ring's table or an indirect one, as 16 bytes read once.
#[inline]
pub(super) fn load_pair(words: &[AtomicU64; 2]) -> [u64; 2] {
    [u64::from_le(words[0].load(Relaxed)), u64::from_le(words[1].load(Relaxed))]
}

/// Copies `bytes` bytes.
///
/// # Safety
///
/// Both ranges are mapped and do not overlap.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    if bytes > INLINE_BYTES_MAX {
        // SAFETY: the caller's contract.
        unsafe { ptr::copy_nonoverlapping(from, to, bytes) };
    } else if bytes >= 64 {
        // SAFETY: as above, with at least 64 bytes.
        unsafe { copy_ends::<64>(from, to, bytes) };
    } else if bytes >= 32 {
        // SAFETY: as above, with at least 32 bytes.
        unsafe { copy_ends::<32>(from, to, bytes) };
    } else if bytes >= 16 {
        // SAFETY: as above, with at least 16 bytes.
        unsafe { copy_ends::<16>(from, to, bytes) };
    } else if bytes >= 8 {
        // SAFETY: as above, with at least 8 bytes.
        unsafe { copy_ends::<8>(from, to, bytes) };
    } else if bytes >= 4 {
        // SAFETY: as above, with at least 4 bytes.
        unsafe { copy_ends::<4>(from, to, bytes) };
    } else {
        // SAFETY: the caller's contract.
        unsafe { ptr::copy_nonoverlapping(from, to, bytes) };
    }
}

/// Copies the first and the last `N` bytes, which meet or overlap: `N` to `2 * N` bytes in all.
///
/// # Safety
///
/// As for [`copy`], with `bytes` at least `N`.
#[inline]
unsafe fn copy_ends<const N: usize>(from: *const u8, to: *mut u8, bytes: usize) {
    let tail = bytes.wrapping_sub(N);
    // SAFETY: the caller's contract: `N` bytes from the start are inside.
    unsafe { ptr::copy_nonoverlapping(from, to, N) };
    let (from, to) = (from.wrapping_add(tail), to.wrapping_add(tail));
    // SAFETY: as above, with `N` bytes before the end.
    unsafe { ptr::copy_nonoverlapping(from, to, N) };
}

#[inline]
fn prefetch_line(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is a part of x86-64; a prefetch reads nothing and faults on no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[inline]
fn prefetch_line_for_write(line: *const u8) {
    // The intrinsic of the same name is a prefetch for reading unless the program is compiled for
    // processors that have this one: then a line that the driver has, too, comes over twice.
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch_line`; a processor that does not know the instruction ignores it.
    unsafe {
        std::arch::asm!(
            "prefetchw [{line}]",
            line = in(reg) line.addr(),
            options(nomem, nostack, preserves_flags)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}
