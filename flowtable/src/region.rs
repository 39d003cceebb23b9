//! The memory of a table: one contiguous region, and typed sections of it.
//!
//! # Safety boundary
//!
//! This module maps memory that other processes may map too, and turns ranges of it into slices. It
//! is sound because only types that implement `Shared` can be laid over a region: those consist
//! of atomics alone, so every bit pattern is a value, and reads that race with writes of any thread
//! or process are defined. A section keeps its region alive. Ranges are checked against the
//! region when a section is made. Sealing keeps others from shrinking the file.
//!
//! Under loom a section is a plain slice of default values, since loom's atomics cannot be laid
//! over memory.
#![cfg_attr(not(loom), expect(unsafe_code, reason = "maps memory and lays atomics over it"))]

use std::io;

/// Huge pages are 2 MiB on the machines we run on.
#[cfg(not(loom))]
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Of the processors that we run on.
#[cfg(not(loom))]
const CACHE_LINE_BYTES: usize = 64;

/// Where a table's region lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Memory {
    /// On the process's heap: for tests and unprivileged replay. Dies with the process.
    Heap,
    /// In a memfd that another process can map, prefaulted.
    Memfd {
        /// Tries huge pages first; without free ones the region falls back to ordinary pages.
        huge_pages: bool,
    },
}

#[cfg(not(loom))]
pub(crate) use mapped::{Region, Section, prefetch};

#[cfg(loom)]
pub(crate) use modelled::{Region, Section, prefetch};

#[cfg(not(loom))]
mod mapped {
    use std::{
        alloc::{self, Layout},
        fs::File,
        io,
        os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd},
        ptr::NonNull,
        slice,
    };

    use super::{CACHE_LINE_BYTES, HUGE_PAGE_BYTES, Memory};
    use crate::sync::{Arc, AtomicU32, AtomicU64};

    /// What may be laid over a region.
    ///
    /// # Safety
    ///
    /// The type consists of atomic integers (or arrays and `repr(C)` structs of them) without
    /// padding, is aligned to at most 64 bytes, and has no destructor.
    pub(crate) unsafe trait Shared {}

    // SAFETY: an atomic integer.
    unsafe impl Shared for AtomicU32 {}
    // SAFETY: an atomic integer.
    unsafe impl Shared for AtomicU64 {}
    // SAFETY: an array of what may be laid over a region.
    unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}
    // SAFETY: atomic integers and arrays of them that fill 64 bytes.
    unsafe impl Shared for crate::bucket::Bucket {}
    // SAFETY: atomic integers only, which fill 16 bytes.
    unsafe impl Shared for crate::connection::Connection {}
    // SAFETY: atomic integers only, which fill 32 bytes.
    unsafe impl Shared for crate::connection::DirectionState {}
    // SAFETY: one array of atomic integers, of a multiple of 32 bytes.
    unsafe impl<const WORDS: usize> Shared for crate::entry::Entry<WORDS> {}
    // SAFETY: four times atomic integers only, which fill 64 bytes.
    unsafe impl Shared for crate::fragments::FragmentSet {}

    #[derive(Debug)]
    enum Backing {
        Heap(Layout),
        Memfd { file: File, huge: bool },
    }

    /// One contiguous piece of zeroed, or inherited, memory.
    #[derive(Debug)]
    pub(crate) struct Region {
        base: NonNull<u8>,
        bytes: usize,
        backing: Backing,
    }

    // SAFETY: plain memory that nobody owns a part of; it is reached through atomics only.
    unsafe impl Send for Region {}
    // SAFETY: as above.
    unsafe impl Sync for Region {}

    impl Region {
        /// Makes a zeroed region.
        pub(crate) fn create(bytes: usize, memory: Memory) -> io::Result<Arc<Self>> {
            let region = match memory {
                Memory::Heap => Self::on_heap(bytes)?,
                Memory::Memfd { huge_pages: true } => {
                    Self::in_memfd(bytes, true).or_else(|_| Self::in_memfd(bytes, false))?
                }
                Memory::Memfd { huge_pages: false } => Self::in_memfd(bytes, false)?,
            };
            Ok(Arc::new(region))
        }

        /// Maps the region that `file` holds, whole.
        pub(crate) fn attach(file: File) -> io::Result<Arc<Self>> {
            let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            let base = map(&file, bytes)?;
            Ok(Arc::new(Self { base, bytes, backing: Backing::Memfd { file, huge: false } }))
        }

        /// Its length in bytes.
        pub(crate) fn bytes(&self) -> usize {
            self.bytes
        }

        /// Whether it was made on huge pages.
        pub(crate) fn is_huge(&self) -> bool {
            matches!(self.backing, Backing::Memfd { huge: true, .. })
        }

        /// The memfd, if it is in one.
        pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
            match &self.backing {
                Backing::Heap(_) => None,
                Backing::Memfd { file, .. } => Some(file.as_fd()),
            }
        }

        /// Lays `count` values of `T` over the region from `offset` on; `None` if they do not fit
        /// or are misaligned.
        pub(crate) fn section<T: Shared>(
            self: &Arc<Self>,
            offset: usize,
            count: u32,
        ) -> Option<Section<T>> {
            let bytes = size_of::<T>().checked_mul(count as usize)?;
            if offset.checked_add(bytes)? > self.bytes || !offset.is_multiple_of(align_of::<T>()) {
                return None;
            }
            // SAFETY: the offset is inside the region (checked above).
            let start = unsafe { self.base.add(offset) }.cast();
            Some(Section { start, count: count as usize, _region: Arc::clone(self) })
        }

        fn on_heap(bytes: usize) -> io::Result<Self> {
            let layout = Layout::from_size_align(bytes.max(64), 4096)
                .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
            // SAFETY: the layout's size is not zero.
            let base = unsafe { alloc::alloc_zeroed(layout) };
            let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self { base, bytes, backing: Backing::Heap(layout) })
        }

        fn in_memfd(bytes: usize, huge: bool) -> io::Result<Self> {
            let bytes = bytes.next_multiple_of(if huge { HUGE_PAGE_BYTES } else { 4096 });
            let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
            if huge {
                flags |= libc::MFD_HUGETLB;
            }
            // SAFETY: the name is a C string; the call has no other precondition.
            let fd = unsafe { libc::memfd_create(c"vrouter-flows".as_ptr(), flags) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the descriptor is new and ours.
            let file = unsafe { File::from_raw_fd(fd) };
            file.set_len(bytes as u64)?;
            let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
            // SAFETY: sealing takes a descriptor and a number, and touches no memory.
            if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
                return Err(io::Error::last_os_error());
            }
            let base = map(&file, bytes)?;
            Ok(Self { base, bytes, backing: Backing::Memfd { file, huge } })
        }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            match self.backing {
                // SAFETY: `base` was allocated with this layout, and no section outlives the
                // region.
                Backing::Heap(layout) => unsafe { alloc::dealloc(self.base.as_ptr(), layout) },
                Backing::Memfd { .. } => {
                    // SAFETY: `base` and `bytes` are what mmap returned and was given; no section
                    // outlives the region.
                    unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
                }
            }
        }
    }

    /// Maps and prefaults the whole of `file`.
    fn map(file: &File, bytes: usize) -> io::Result<NonNull<u8>> {
        // SAFETY: maps a file at an address of the kernel's choice; nothing else lies there.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Values of one type that lie side by side in a region.
    #[derive(Debug)]
    pub(crate) struct Section<T> {
        start: NonNull<T>,
        count: usize,
        _region: Arc<Region>,
    }

    // SAFETY: gives shared references to atomics only.
    unsafe impl<T: Shared> Send for Section<T> {}
    // SAFETY: as above.
    unsafe impl<T: Shared> Sync for Section<T> {}

    impl<T: Shared> Section<T> {
        /// All of them.
        #[inline]
        pub(crate) fn all(&self) -> &[T] {
            // SAFETY: `count` values lie inside the region, which the section keeps alive; any bits
            // are values of `T`.
            unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
        }

        /// The one with this index.
        #[inline]
        pub(crate) fn at(&self, index: u32) -> Option<&T> {
            self.all().get(index as usize)
        }

        /// Asks for the cache lines of the one with this index, which may be none of the section's:
        /// nothing is read.
        #[inline]
        pub(crate) fn prefetch(&self, index: u32) {
            prefetch(self.all(), index);
        }
    }

    /// Asks for the cache lines of the value with this index, which may be beyond the last: nothing
    /// is read.
    #[inline]
    pub(crate) fn prefetch<T: Shared>(values: &[T], index: u32) {
        let first = values.as_ptr().cast::<u8>();
        let line = first.wrapping_add((index as usize).wrapping_mul(size_of::<T>()));
        prefetch_line(line);
        if size_of::<T>() > CACHE_LINE_BYTES {
            prefetch_line(line.wrapping_add(CACHE_LINE_BYTES));
        }
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
}

#[cfg(loom)]
mod modelled {
    use std::{fs::File, io, os::fd::BorrowedFd};

    use super::Memory;
    use crate::sync::Arc;

    /// What may be laid over a region.
    pub(crate) trait Shared: Default {}
    impl<T: Default> Shared for T {}

    /// Stands for a region: only its length is kept.
    #[derive(Debug)]
    pub(crate) struct Region(usize);

    impl Region {
        pub(crate) fn create(bytes: usize, _memory: Memory) -> io::Result<Arc<Self>> {
            Ok(Arc::new(Self(bytes)))
        }

        pub(crate) fn attach(_file: File) -> io::Result<Arc<Self>> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn bytes(&self) -> usize {
            self.0
        }

        pub(crate) fn is_huge(&self) -> bool {
            false
        }

        pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        pub(crate) fn section<T: Shared>(
            self: &Arc<Self>,
            _offset: usize,
            count: u32,
        ) -> Option<Section<T>> {
            Some(Section((0..count).map(|_| T::default()).collect()))
        }
    }

    pub(crate) fn prefetch<T>(_values: &[T], _index: u32) {}

    /// Values of one type.
    #[derive(Debug)]
    pub(crate) struct Section<T>(Box<[T]>);

    impl<T> Section<T> {
        pub(crate) fn all(&self) -> &[T] {
            &self.0
        }

        pub(crate) fn at(&self, index: u32) -> Option<&T> {
            self.0.get(index as usize)
        }

        pub(crate) fn prefetch(&self, _index: u32) {}
    }
}

/// The error of a region that is too small for what its header says.
pub(crate) fn does_not_fit() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a section does not fit into the region")
}
