//! A ring's memory, mapped from its socket.
//!
//! # Safety boundary
//!
//! Maps the kernel's rings and points [`RingMemory`] into them. It is sound because the offsets and
//! the length are those that the kernel names for this very socket, and because a [`MappedRing`]
//! keeps its mapping for as long as the ring that points into it. A mapping keeps its socket open:
//! to close one, drop its rings as well as its descriptor.
#![expect(unsafe_code, reason = "maps memory shared with the kernel")]

use std::{
    io,
    ops::{Deref, DerefMut},
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    net::xdp::XdpRingOffset,
};

use super::ring::{ConsumerRing, ProducerRing, RingMemory};

/// A ring and the mapping that it lies in.
#[derive(Debug)]
pub(super) struct MappedRing<R> {
    ring: R,
    _mapping: Mapping,
}

impl<R> Deref for MappedRing<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.ring
    }
}

impl<R> DerefMut for MappedRing<R> {
    fn deref_mut(&mut self) -> &mut R {
        &mut self.ring
    }
}

/// Maps a ring that we produce: `page_offset` picks which of the socket's.
pub(super) fn map_producer<T: Copy>(
    socket: BorrowedFd<'_>,
    page_offset: u64,
    offsets: &XdpRingOffset,
    entries: u32,
) -> io::Result<MappedRing<ProducerRing<T>>> {
    let (mapping, memory) = map_ring(socket, page_offset, offsets, entries)?;
    Ok(MappedRing { ring: ProducerRing::new(memory), _mapping: mapping })
}

/// Maps a ring that we consume: `page_offset` picks which of the socket's.
pub(super) fn map_consumer<T: Copy>(
    socket: BorrowedFd<'_>,
    page_offset: u64,
    offsets: &XdpRingOffset,
    entries: u32,
) -> io::Result<MappedRing<ConsumerRing<T>>> {
    let (mapping, memory) = map_ring(socket, page_offset, offsets, entries)?;
    Ok(MappedRing { ring: ConsumerRing::new(memory), _mapping: mapping })
}

#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is plain memory, tied to no thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// The address at `offset`, as a pointer to a `T` that lies wholly inside.
    fn at<T>(&self, offset: u64, count: usize) -> io::Result<NonNull<T>> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let offset = usize::try_from(offset).map_err(|_| invalid())?;
        let end = size_of::<T>().checked_mul(count).and_then(|bytes| bytes.checked_add(offset));
        if end.is_none_or(|end| end > self.bytes) || !offset.is_multiple_of(align_of::<T>()) {
            return Err(invalid());
        }
        // SAFETY: the offset is inside the mapping (checked above).
        Ok(unsafe { self.start.add(offset) }.cast())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is what mmap returned; the ring that points into it goes with its
        // `MappedRing`.
        let result = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(result.is_ok(), "a mapping of our own is unmapped once");
    }
}

fn map_ring<T: Copy>(
    socket: BorrowedFd<'_>,
    page_offset: u64,
    offsets: &XdpRingOffset,
    entries: u32,
) -> io::Result<(Mapping, RingMemory<T>)> {
    let flags = offsets.flags.ok_or(io::ErrorKind::Unsupported)?;
    let slots_bytes = u64::from(entries) * size_of::<T>() as u64;
    let bytes = usize::try_from(offsets.desc + slots_bytes).map_err(io::Error::other)?;
    // SAFETY: maps a socket's ring at an address of the kernel's choice.
    let start = unsafe {
        mmap(
            ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::POPULATE,
            socket,
            page_offset,
        )
    }?;
    let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    let mapping = Mapping { start, bytes };
    // SAFETY: the pointers were checked against the mapping, which lives as long as the ring; the
    // far side is the kernel; a socket's ring is mapped once.
    let memory = unsafe {
        RingMemory::new(
            mapping.at(offsets.producer, 1)?,
            mapping.at(offsets.consumer, 1)?,
            mapping.at(flags, 1)?,
            mapping.at(offsets.desc, entries as usize)?,
            entries,
        )
    };
    Ok((mapping, memory))
}
