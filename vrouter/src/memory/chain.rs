//! The later segments of a packet.
//!
//! # Safety boundary
//!
//! This module turns indices that it reads from the links of a region into frames. It is sound
//! because a [`Chain`] owns each frame on it: only [`Chain::push`] puts one there, and it takes the
//! [`Frame`]; nothing else writes links, and a chain is neither `Copy` nor `Clone`.
#![expect(unsafe_code, reason = "follows indices in shared memory")]

use std::iter;

use super::region::{Frame, FrameIndex, NO_FRAME, Region};

/// A frame and which of its bytes belong to a packet.
#[derive(Debug)]
#[must_use = "a segment that is dropped loses its frame"]
pub struct Segment {
    /// The frame.
    pub frame: Frame,
    /// Where the bytes start in it.
    pub offset: u16,
    /// How many there are.
    pub len: u16,
}

/// Where the next segment of a packet lies. Kept beside the frames, one a frame; read and written
/// by the owner of the chain that the frame is on.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct SegmentLink {
    /// The next segment, or [`NO_FRAME`].
    next: FrameIndex,
    /// Where this segment's bytes start in its frame.
    offset: u16,
    /// How many bytes this segment holds.
    len: u16,
}

const END: SegmentLink = SegmentLink { next: NO_FRAME, offset: 0, len: 0 };

/// Segments in a row. Owns their frames, which are of one region.
#[derive(Debug)]
#[must_use = "a chain that is dropped loses its frames"]
pub struct Chain {
    first: FrameIndex,
    last: FrameIndex,
}

impl Chain {
    /// No segments.
    pub const EMPTY: Self = Self { first: NO_FRAME, last: NO_FRAME };

    /// Whether there is no segment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first == NO_FRAME
    }

    /// Appends a segment, whose frame is of `region`.
    pub fn push(&mut self, region: &Region, segment: Segment) {
        let Segment { frame, offset, len } = segment;
        let index = frame.into_index();
        write(region, index, SegmentLink { next: NO_FRAME, offset, len });
        if self.is_empty() {
            self.first = index;
        } else {
            write(region, self.last, SegmentLink { next: index, ..read(region, self.last) });
        }
        self.last = index;
    }

    /// Takes the first segment off.
    pub fn pop(&mut self, region: &Region) -> Option<Segment> {
        if self.is_empty() {
            return None;
        }
        let SegmentLink { next, offset, len } = read(region, self.first);
        // SAFETY: the chain owned the frame by this index, and forgets it with the next line.
        let frame = unsafe { region.adopt(self.first) };
        self.first = next;
        Some(Segment { frame, offset, len })
    }

    /// `len` bytes from `offset` of `head`, and those of the segments after it, in order; what lies in
    /// a row in memory as one.
    pub fn runs_from<'a>(
        &'a self,
        region: &'a Region,
        head: &'a Frame,
        (offset, len): (u16, u16),
    ) -> impl Iterator<Item = &'a [u8]> {
        let frame_bytes = region.frame_bytes() as usize;
        let within = move |offset: u16, len: u16| {
            let offset = usize::from(offset).min(frame_bytes);
            (offset, usize::from(len).min(frame_bytes - offset))
        };
        let mut begun = Some((head.index(), within(offset, len)));
        let mut next = self.first;
        iter::from_fn(move || {
            let (start, (offset, mut bytes)) = begun.take()?;
            while next != NO_FRAME {
                let index = next;
                let link = read(region, index);
                let (offset_here, here) = within(link.offset, link.len);
                next = link.next;
                let frames_behind = index.0.checked_sub(start.0).map(|frames| frames as usize);
                let place = frames_behind.map(|frames| frames * frame_bytes + offset_here);
                if place != Some(offset + bytes) {
                    begun = Some((index, (offset_here, here)));
                    break;
                }
                bytes += here;
            }
            // SAFETY: each piece lies within a frame that the chain or `head` owns, and begins where
            // the one before it ends; both are borrowed as long as the bytes are.
            Some(unsafe { region.bytes_at(start, offset, bytes) })
        })
    }

    /// The bytes of each segment, in order.
    pub fn segments<'a>(&'a self, region: &'a Region) -> impl Iterator<Item = &'a [u8]> {
        let mut next = self.first;
        iter::from_fn(move || {
            if next == NO_FRAME {
                return None;
            }
            let link = read(region, next);
            // SAFETY: the chain owns the frame, and is borrowed as long as the bytes are.
            let frame = unsafe { region.bytes_of(next) };
            next = link.next;
            let start = usize::from(link.offset);
            Some(frame.get(start..start + usize::from(link.len)).unwrap_or(&[]))
        })
    }
}

fn read(region: &Region, index: FrameIndex) -> SegmentLink {
    match region.link_start(index) {
        // SAFETY: inside the mapping, aligned (8-byte entries from the start of a page), and read
        // by the owner of the chain.
        Some(link) => unsafe { link.read() },
        None => END,
    }
}

fn write(region: &Region, index: FrameIndex, link: SegmentLink) {
    if let Some(start) = region.link_start(index) {
        // SAFETY: inside the mapping, aligned, and written by the owner of the chain.
        unsafe { start.write(link) };
    }
}
