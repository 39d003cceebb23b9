//! Where a frame is read to: one system call puts it into the frames of a packet.
//!
//! ```text
//!  header │ first frame, behind its headroom │ more frames ... │ spill
//! ```
//!
//! Nobody knows beforehand how large the next frame is, and what does not fit would be lost. So
//! there is always room for the largest; in frames of packet memory while large ones come, which
//! then are not copied again, and in an ordinary buffer, the spill, while small ones come: a port
//! that is quiet or sends small frames keeps two frames and not thirty.
//!
//! Frames that lie in a row in memory are one part of the reading: the kernel copies 64 KiB in one
//! piece faster than in 33.

use std::{io::IoSliceMut, os::fd::BorrowedFd};

use arrayvec::ArrayVec;
use rustix::io::Errno;

use crate::{
    memory::{Frame, FramePool, HEADROOM_BYTES, Segment},
    packet::Packet,
    port::PortRef,
    virtio_net::VirtioNetHeader,
};

/// The largest frame: an IP packet of 64 KiB behind an Ethernet header with an 802.1Q tag.
const FRAME_BYTES_MAX: usize = 65_535 + 18;
/// Frames of packet memory that hold the largest frame, at the smallest size that there is (2048).
const FRAMES_LARGE: usize = 33;
/// Frames kept while small frames come: enough for an MTU of 1500 and up to 3900.
const FRAMES_SMALL: usize = 2;
/// Small frames in a row after which no more large ones are expected.
const SMALL_FRAMES_MIN: u32 = 64;

/// What a reading brought.
#[derive(Debug)]
pub(super) enum Landed {
    /// A packet, and the virtio-net header before it.
    Packet(Packet, [u8; VirtioNetHeader::LEN]),
    /// A frame of so many bytes for which there was no packet memory.
    Lost {
        /// Bytes of the frame.
        bytes: u32,
    },
}

/// Frames made ready to be read to.
#[derive(Debug)]
pub(super) struct Landing {
    frames: ArrayVec<Frame, FRAMES_LARGE>,
    /// Where the rest of a frame goes that is larger than expected; memory comes with its first
    /// use.
    spill: Box<[u8]>,
    expects_large: bool,
    small_frames: u32,
}

impl Landing {
    /// Nothing ready.
    pub(super) fn new() -> Self {
        Self {
            frames: ArrayVec::new(),
            spill: vec![0; FRAME_BYTES_MAX].into_boxed_slice(),
            expects_large: false,
            small_frames: 0,
        }
    }

    /// Reads one frame from the device.
    ///
    /// # Errors
    ///
    /// `AGAIN` if there is none; others if the device is gone.
    pub(super) fn read(
        &mut self,
        device: BorrowedFd<'_>,
        pool: &mut FramePool,
        port: PortRef,
    ) -> Result<Landed, Errno> {
        self.prepare(pool);
        let mut header = [0; VirtioNetHeader::LEN];
        let bytes = {
            let mut parts: ArrayVec<IoSliceMut<'_>, { FRAMES_LARGE + 2 }> = ArrayVec::new();
            parts.push(IoSliceMut::new(&mut header));
            let (mut offset, mut frames) = (usize::from(HEADROOM_BYTES), &mut self.frames[..]);
            while !frames.is_empty() {
                let (room, rest) = pool.region().split_run(frames);
                parts.push(IoSliceMut::new(room.get_mut(offset..).unwrap_or(&mut [])));
                (offset, frames) = (0, rest);
            }
            parts.push(IoSliceMut::new(&mut self.spill));
            rustix::io::readv(device, &mut parts)?
        };
        // The kernel writes no frame without its header.
        let bytes = bytes.saturating_sub(VirtioNetHeader::LEN).min(FRAME_BYTES_MAX);
        Ok(match self.assemble(bytes, pool, port) {
            Some(packet) => Landed::Packet(packet, header),
            None => Landed::Lost { bytes: u32::try_from(bytes).unwrap_or(u32::MAX) },
        })
    }

    /// Gives the frames back.
    pub(super) fn clear(&mut self, pool: &mut FramePool) {
        for frame in self.frames.drain(..) {
            pool.free(frame);
        }
        self.expects_large = false;
        self.small_frames = 0;
    }

    /// Puts as many frames in place as are wanted, if there are so many.
    fn prepare(&mut self, pool: &mut FramePool) {
        let wanted = if self.expects_large { FRAMES_LARGE } else { FRAMES_SMALL };
        if self.frames.len() >= wanted {
            return;
        }
        while self.frames.len() < wanted
            && let Some(frame) = pool.allocate()
        {
            self.frames.push(frame);
        }
        // What lies in a row is one part of the reading, and one copy.
        self.frames.sort_unstable_by_key(Frame::index);
    }

    /// The packet of `bytes` bytes that were read; `None` if its last bytes are in the spill and
    /// there are no frames for them.
    fn assemble(&mut self, bytes: usize, pool: &mut FramePool, port: PortRef) -> Option<Packet> {
        let frame_bytes = pool.region().frame_bytes() as usize;
        let linear_max = frame_bytes.saturating_sub(usize::from(HEADROOM_BYTES));
        let used = 1 + bytes.saturating_sub(linear_max).div_ceil(frame_bytes);
        self.expect(used, pool);
        let landed = used.min(self.frames.len());
        let mut frames = self.frames.drain(..landed);
        let head = frames.next()?;
        let linear = bytes.min(linear_max);
        let len = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        let mut packet = Packet::new(head, HEADROOM_BYTES, len(linear), port);
        let mut left = bytes.saturating_sub(linear);
        for frame in frames {
            let here = left.min(frame_bytes);
            packet.append(pool.region(), Segment { frame, offset: 0, len: len(here) });
            left = left.saturating_sub(here);
        }
        let spilled = self.spill.get(..left).unwrap_or(&[]);
        for part in spilled.chunks(frame_bytes) {
            let Some(mut frame) = pool.allocate() else {
                pool.free_packet(packet);
                return None;
            };
            if let Some(place) = pool.region().bytes_mut(&mut frame).get_mut(..part.len()) {
                place.copy_from_slice(part);
            }
            packet.append(pool.region(), Segment { frame, offset: 0, len: len(part.len()) });
        }
        Some(packet)
    }

    /// Learns from a frame that took `used` frames what the next ones will take.
    fn expect(&mut self, used: usize, pool: &mut FramePool) {
        if used > FRAMES_SMALL {
            self.expects_large = true;
            self.small_frames = 0;
        } else if self.expects_large {
            self.small_frames = self.small_frames.saturating_add(1);
            if self.small_frames >= SMALL_FRAMES_MIN {
                self.expects_large = false;
                let surplus = FRAMES_SMALL.max(used).min(self.frames.len());
                for frame in self.frames.drain(surplus..) {
                    pool.free(frame);
                }
            }
        }
    }
}
