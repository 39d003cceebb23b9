//! The region of packet memory.
//!
//! # Safety boundary
//!
//! This module turns a frame's index into a slice of shared memory. It is sound because a [`Frame`]
//! is neither `Copy` nor `Clone`, the region hands each index out once ([`Region::take_all`]), and
//! [`Region::adopt`] — the only other way to make one — is unsafe: its caller vouches that the ring
//! which held the index gave it up.
#![expect(unsafe_code, reason = "maps memory and slices it by frame")]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicBool, Ordering},
};

use super::chain::SegmentLink;

/// Bytes before the data of a received frame that are ours: room for a tunnel header and more.
///
/// The largest template is 70 bytes (VXLAN over IPv6); 128 leaves room for stacked headers and
/// keeps the data aligned to a cache line pair. Copy mode and zero copy add the kernel's own 256
/// bytes before it.
pub const HEADROOM_BYTES: u16 = 128;

/// The index that stands for "no frame".
pub const NO_FRAME: FrameIndex = FrameIndex(u32::MAX);

const HEADER_BYTES: usize = 4096;
const MAGIC: u64 = 0x7672_6672_616d_6573; // "vrframes"
const LAYOUT_VERSION: u32 = 1;
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Names a frame without owning it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct FrameIndex(pub u32);

/// Owns one frame of a region.
///
/// There is no destructor: a frame that is dropped instead of returned to a [`super::FramePool`] is
/// lost until the free list is rebuilt, and tests count frames to find that out.
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to its pool"]
#[repr(transparent)]
pub struct Frame(u32);

impl Frame {
    /// No frame: it has no bytes, and no pool takes it.
    pub(crate) const NONE: Self = Self(NO_FRAME.0);

    /// The frame's index.
    #[must_use]
    pub fn index(&self) -> FrameIndex {
        FrameIndex(self.0)
    }

    /// Gives the frame up to a ring; [`Region::adopt`] takes it back.
    #[must_use]
    pub fn into_index(self) -> FrameIndex {
        FrameIndex(self.0)
    }
}

/// How much packet memory to make, and of what pages.
#[derive(Clone, Copy, Debug)]
pub struct RegionConfig {
    /// Frames in all.
    pub frame_count: u32,
    /// Bytes a frame: 2048 or 4096, what aligned AF_XDP chunks can be.
    pub frame_bytes: u32,
    /// Tries huge pages first; without free ones the region falls back to ordinary pages.
    pub huge_pages: bool,
}

impl Default for RegionConfig {
    fn default() -> Self {
        Self { frame_count: 65_536, frame_bytes: 2048, huge_pages: true }
    }
}

/// Why packet memory could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum CreateRegionError {
    #[error("frames of {frame_bytes} bytes are not possible: AF_XDP takes 2048 or 4096")]
    FrameSize { frame_bytes: u32 },
    #[error("{frame_count} frames are not possible: at least 64, at most 2^24")]
    FrameCount { frame_count: u32 },
    #[error(
        "cannot map {bytes} bytes of packet memory; lower packet_memory.frames or see hugepages.md"
    )]
    Map {
        bytes: usize,
        #[source]
        source: io::Error,
    },
}

/// One contiguous region of packet memory.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
    frames_offset: usize,
    frame_count: u32,
    frame_bytes: u32,
    huge: bool,
    file: File,
    taken: AtomicBool,
}

// SAFETY: the region is plain memory; access to a frame's bytes goes through the frame's only
// owner.
unsafe impl Send for Region {}
// SAFETY: as above: shared references give no access to bytes without a `Frame`.
unsafe impl Sync for Region {}

impl Region {
    /// Maps a region of its own memfd and prefaults it.
    ///
    /// # Errors
    ///
    /// Fails for a size that AF_XDP cannot use, or if the memory is not there.
    pub fn create(config: &RegionConfig) -> Result<Self, CreateRegionError> {
        let RegionConfig { frame_count, frame_bytes, huge_pages } = *config;
        if frame_bytes != 2048 && frame_bytes != 4096 {
            return Err(CreateRegionError::FrameSize { frame_bytes });
        }
        if !(64..=1 << 24).contains(&frame_count) {
            return Err(CreateRegionError::FrameCount { frame_count });
        }
        let links_bytes = frame_count as usize * size_of::<SegmentLink>();
        let frames_offset = (HEADER_BYTES + links_bytes).next_multiple_of(4096);
        let bytes = (frames_offset + frame_count as usize * frame_bytes as usize)
            .next_multiple_of(HUGE_PAGE_BYTES);
        let mapped = if huge_pages {
            map(bytes, true).or_else(|_| map(bytes, false))
        } else {
            map(bytes, false)
        };
        let (base, file, huge) =
            mapped.map_err(|source| CreateRegionError::Map { bytes, source })?;
        let region = Self {
            base,
            bytes,
            frames_offset,
            frame_count,
            frame_bytes,
            huge,
            file,
            taken: AtomicBool::new(false),
        };
        region.write_header();
        Ok(region)
    }

    /// Hands out every frame, once.
    ///
    /// Later calls return nothing: a frame has one owner.
    pub fn take_all(&self) -> impl Iterator<Item = Frame> + use<> {
        let count = if self.taken.swap(true, Ordering::AcqRel) { 0 } else { self.frame_count };
        (0..count).map(Frame)
    }

    /// Takes a frame back from a ring that held it by index.
    ///
    /// # Safety
    ///
    /// `index` came from [`Frame::into_index`] on a frame of this region, and whoever held it since
    /// (a ring of the kernel, a hand-off ring) has given it up for good.
    pub unsafe fn adopt(&self, index: FrameIndex) -> Frame {
        Frame(index.0)
    }

    /// All bytes of a frame; empty for a frame of another, larger region.
    #[must_use]
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        // SAFETY: the borrow of the only owner rules out a writer.
        unsafe { self.bytes_of(frame.index()) }
    }

    /// All bytes of a frame, by index; empty for a frame of another, larger region.
    ///
    /// # Safety
    ///
    /// The caller has borrowed whatever owns the frame for as long as it uses the bytes.
    pub(super) unsafe fn bytes_of(&self, index: FrameIndex) -> &[u8] {
        let Some(start) = self.frame_start(index.0) else { return &[] };
        // SAFETY: the range is inside the mapping, and the caller rules out a writer.
        unsafe { slice::from_raw_parts(start.as_ptr(), self.frame_bytes as usize) }
    }

    /// All bytes of a frame, for writing; empty for a frame of another, larger region.
    #[must_use]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let Some(start) = self.frame_start(frame.0) else { return &mut [] };
        // SAFETY: the range is inside the mapping, and the mutable borrow of the only owner rules
        // out any other access.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.frame_bytes as usize) }
    }

    /// All bytes of the first of `frames` and of those after it that lie right behind it in memory,
    /// for writing, as one; and the frames that do not.
    pub fn split_run<'a>(&'a self, frames: &'a mut [Frame]) -> (&'a mut [u8], &'a mut [Frame]) {
        let Some(first) = frames.first().map(|frame| frame.0) else { return (&mut [], frames) };
        let Some(start) = self.frame_start(first) else { return (&mut [], &mut []) };
        let expected = first..self.frame_count;
        let count =
            frames.iter().zip(expected).take_while(|(frame, next)| frame.0 == *next).count();
        let (run, rest) = frames.split_at_mut(count);
        let bytes = run.len() * self.frame_bytes as usize;
        // SAFETY: each frame of the run is one of this region's, and each lies behind the one before
        // it, so the range is inside the mapping; the mutable borrow of their only owners rules out
        // any other access.
        (unsafe { slice::from_raw_parts_mut(start.as_ptr(), bytes) }, rest)
    }

    /// So many bytes, some of them perhaps in frames behind the one in which they start; empty if
    /// they go beyond the region.
    ///
    /// # Safety
    ///
    /// The caller has borrowed whatever owns the frames that the bytes lie in for as long as it uses
    /// them.
    pub(super) unsafe fn bytes_at(&self, index: FrameIndex, offset: usize, bytes: usize) -> &[u8] {
        let frame_bytes = self.frame_bytes as usize;
        let end = (index.0 as usize).saturating_mul(frame_bytes).saturating_add(offset + bytes);
        let Some(start) = self.frame_start(index.0) else { return &[] };
        if end > self.frame_count as usize * frame_bytes {
            return &[];
        }
        // SAFETY: the range is inside the mapping, as was just seen.
        let start = unsafe { start.add(offset) };
        // SAFETY: as above, and the caller rules out a writer.
        unsafe { slice::from_raw_parts(start.as_ptr(), bytes) }
    }

    /// Where the link of a frame to the next segment lies; `None` for a frame of another, larger
    /// region.
    pub(super) fn link_start(&self, index: FrameIndex) -> Option<NonNull<SegmentLink>> {
        if index.0 >= self.frame_count {
            return None;
        }
        let offset = HEADER_BYTES + index.0 as usize * size_of::<SegmentLink>();
        // SAFETY: the links lie before `frames_offset`, inside the mapping.
        Some(unsafe { self.base.add(offset) }.cast())
    }

    /// Bytes a frame.
    #[must_use]
    pub fn frame_bytes(&self) -> u32 {
        self.frame_bytes
    }

    /// Frames in all.
    #[must_use]
    pub fn frame_count(&self) -> u32 {
        self.frame_count
    }

    /// Whether the region lies on huge pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.huge
    }

    /// The frames as a UMEM registers them: start address and length in bytes.
    #[must_use]
    pub fn umem(&self) -> (*mut u8, usize) {
        let start = self.base.as_ptr().wrapping_add(self.frames_offset);
        (start, self.frame_count as usize * self.frame_bytes as usize)
    }

    /// The memfd, for another process to map.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.file.as_fd()
    }

    fn frame_start(&self, index: u32) -> Option<NonNull<u8>> {
        if index >= self.frame_count {
            return None;
        }
        let offset = self.frames_offset + index as usize * self.frame_bytes as usize;
        // SAFETY: the offset is below `bytes`, the size of the mapping.
        Some(unsafe { self.base.add(offset) })
    }

    fn write_header(&self) {
        let header = [
            MAGIC,
            u64::from(LAYOUT_VERSION),
            u64::from(self.frame_count),
            u64::from(self.frame_bytes),
            self.frames_offset as u64,
            size_of::<SegmentLink>() as u64,
        ];
        // SAFETY: the header page is inside the mapping, aligned, and nobody else knows the region
        // yet.
        unsafe { self.base.cast::<[u64; 6]>().write(header) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are what mmap returned and was given; no slice outlives the
        // region.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

fn map(bytes: usize, huge: bool) -> io::Result<(NonNull<u8>, File, bool)> {
    let flags = libc::MFD_CLOEXEC | if huge { libc::MFD_HUGETLB } else { 0 };
    // SAFETY: the name is a C string; the call has no other precondition.
    let fd = unsafe { libc::memfd_create(c"vrouter-frames".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes as u64)?;
    // SAFETY: maps a file of our own at an address of the kernel's choice.
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
    NonNull::new(address.cast()).map(|base| (base, file, huge)).ok_or_else(io::Error::last_os_error)
}
