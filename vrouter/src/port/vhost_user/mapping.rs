//! A file descriptor of a frontend, mapped once.
//!
//! # Safety boundary
//!
//! Maps memory that another process may write at any time, and unmaps it when the last owner goes.
//! It is sound because nobody gets a reference to its bytes, only [`GuestSlice`]s whose bounds are
//! checked here. A file that is shorter than what the frontend says is refused; one that is cut
//! later is [`super::truncation`]'s business.
#![expect(unsafe_code, reason = "maps memory that a guest shares")]

use std::{
    fs::File,
    io,
    os::fd::AsFd,
    os::unix::fs::MetadataExt,
    ptr::{self, NonNull},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{access::GuestSlice, truncation::Watch};

/// The file systems whose pages are memory (statfs(2)); memfd is on one of them.
const TMPFS_MAGIC: u64 = 0x0102_1994;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// Why a frontend's memory could not be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum MapError {
    #[error("a region of {bytes} bytes from {offset} of its file is not possible")]
    Bounds { offset: u64, bytes: u64 },
    #[error(
        "the region is no file of memfd, tmpfs or hugetlbfs, but one of file system \
         {file_system:#x}; share memory"
    )]
    NoMemory { file_system: u64 },
    #[error("the region ends at byte {needed} of its file, which has only {actual}")]
    FileTooShort { needed: u64, actual: u64 },
    #[error("more than {} regions of guest memory are mapped", super::truncation::WATCHES_MAX)]
    TooManyRegions,
    #[error("cannot map {bytes} bytes of guest memory")]
    Map {
        bytes: u64,
        #[source]
        source: io::Error,
    },
}

/// A part of a file, mapped; unmapped when dropped.
#[derive(Debug)]
pub struct MappedRegion {
    /// The mapping, whole pages of the file's kind.
    base: NonNull<u8>,
    base_bytes: usize,
    /// What was asked for, inside the mapping.
    start: NonNull<u8>,
    bytes: usize,
    watch: Watch,
}

// SAFETY: a mapping is plain memory, tied to no thread; its bytes are reached by copies and atomics
// alone.
unsafe impl Send for MappedRegion {}
// SAFETY: as above.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    /// Maps `bytes` bytes from `offset` of `file` on, for reading and writing.
    ///
    /// # Errors
    ///
    /// Fails if the file does not have them, or cannot be mapped.
    pub fn map(file: &File, offset: u64, bytes: u64) -> Result<Self, MapError> {
        let failed = |source| MapError::Map { bytes, source };
        let bounds = || MapError::Bounds { offset, bytes };
        let metadata = file.metadata().map_err(failed)?;
        let file_system = rustix::fs::fstatfs(file).map_err(|errno| failed(errno.into()))?.f_type;
        let file_system = u64::try_from(file_system).unwrap_or_default();
        // A page of any other file is fetched by whoever serves the file, a guest perhaps: a worker
        // would wait for it.
        let is_memory = [TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&file_system);
        if !is_memory || !metadata.is_file() {
            return Err(MapError::NoMemory { file_system });
        }
        let end = offset.checked_add(bytes).filter(|_| bytes > 0).ok_or_else(bounds)?;
        if end > metadata.size() {
            return Err(MapError::FileTooShort { needed: end, actual: metadata.size() });
        }
        // Of huge pages, only whole ones can be mapped and unmapped.
        let page_bytes = metadata.blksize().max(4096);
        let page_bytes = if page_bytes.is_power_of_two() { page_bytes } else { 4096 };
        let base_offset = offset & !(page_bytes - 1);
        let base_end = end.checked_next_multiple_of(page_bytes).ok_or_else(bounds)?;
        let base_bytes = usize::try_from(base_end - base_offset).map_err(|_| bounds())?;
        let lead = usize::try_from(offset - base_offset).map_err(|_| bounds())?;
        // SAFETY: maps a file at an address of the kernel's choice.
        let base = unsafe {
            mmap(
                ptr::null_mut(),
                base_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                file.as_fd(),
                base_offset,
            )
        }
        .map_err(|errno| failed(errno.into()))?;
        let unmap = || {
            // SAFETY: the range is what mmap returned, and nobody knows of it.
            let _ = unsafe { munmap(base, base_bytes) };
        };
        let Some(base) = NonNull::new(base.cast::<u8>()) else {
            return Err(failed(io::ErrorKind::OutOfMemory.into()));
        };
        let Some(watch) = Watch::new(base.as_ptr().addr(), base_bytes) else {
            unmap();
            return Err(MapError::TooManyRegions);
        };
        // SAFETY: the lead is less than a page, and at least one byte follows it.
        let start = unsafe { base.add(lead) };
        // `bytes` fits, since the whole mapping does.
        let bytes = usize::try_from(bytes).map_err(|_| bounds())?;
        Ok(Self { base, base_bytes, start, bytes, watch })
    }

    /// Bytes that were asked for.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the file was cut under the mapping: what is there now is nobody's memory.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.watch.is_struck()
    }

    /// The range of `bytes` bytes from `offset` on; `None` if it does not lie inside.
    #[must_use]
    #[inline]
    pub fn slice(&self, offset: usize, bytes: usize) -> Option<GuestSlice<'_>> {
        if offset > self.bytes || bytes > self.bytes - offset {
            return None;
        }
        // SAFETY: inside the mapping, as was just checked.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: as above; the slice borrows the mapping.
        Some(unsafe { GuestSlice::new(start, bytes) })
    }
}

impl Drop for MappedRegion {
    fn drop(&mut self) {
        self.watch.end();
        // SAFETY: the range is what mmap returned, and no slice outlives the region.
        let result = unsafe { munmap(self.base.as_ptr().cast(), self.base_bytes) };
        debug_assert!(result.is_ok(), "a mapping of our own is unmapped once");
    }
}
