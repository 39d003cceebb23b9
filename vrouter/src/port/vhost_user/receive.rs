//! From the guest: chains of a ring become packets in frames of our own.
//!
//! Nothing is judged where a guest can still change it: header and frame are copied out first. The
//! usual chain is one buffer that fits a frame; all others take the slow way.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use arrayvec::ArrayVec;

use super::{
    access::GuestSlice,
    log::RingLog,
    memory::GuestMemory,
    ring::{DeviceRing, Direction, HEADS_MAX, Head, Heads, Part, Parts, RingFault, RingFeatures},
    tally::{RefusedExample, RefusedTally},
};
use crate::{
    burst::Burst,
    drops::DropReason,
    memory::{FramePool, HEADROOM_BYTES, Segment},
    packet::Packet,
    port::PortRef,
    virtio_net::{VirtioNetHeader, VirtioNetView},
};

/// The longest frame: the largest IP packet behind an Ethernet header with a VLAN tag.
pub(super) const FRAME_BYTES_MAX: usize = 65_535 + 18;

/// Bytes of a frame that the first look brings into the cache, beside the line that it starts in.
const PREFETCH_BYTES: usize = 64;

/// Shorter chains take the slow way, whatever the header's length.
const PLAIN_BYTES_MIN: usize = VirtioNetHeader::LEN + 1;

/// What a burst of receiving needs beside the ring.
pub(super) struct Receiver<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) features: RingFeatures,
    pub(super) log: Option<&'a RingLog>,
    pub(super) port: PortRef,
    pub(super) pool: &'a mut FramePool,
    pub(super) refused: &'a mut RefusedTally,
    pub(super) example: &'a mut RefusedExample,
    /// The region of guest memory where the last buffer lay.
    pub(super) region_hint: &'a mut usize,
}

impl Receiver<'_> {
    /// Appends packets to `burst` until it is full or nothing waits; hands their chains back.
    pub(super) fn receive(
        &mut self,
        ring: &mut impl DeviceRing,
        burst: &mut Burst,
    ) -> Result<(), RingFault> {
        let mut heads = Heads::new();
        let peeked = ring.peek(&mut heads, burst.remaining_capacity());
        let mut slices = ArrayVec::<Option<GuestSlice<'_>>, HEADS_MAX>::new();
        let memory = self.memory;
        for head in &heads {
            let slice = if head.is_plain(Direction::FromGuest) {
                memory.translate_near(self.region_hint, head.address, head.bytes as usize)
            } else {
                None
            };
            if let Some(slice) = slice {
                slice.prefetch(0);
                slice.prefetch(PREFETCH_BYTES);
            }
            slices.push(slice);
        }
        let header_bytes = self.features.header_bytes();
        let frame_bytes = self.pool.region().frame_bytes() as usize;
        let plain_bytes_max =
            frame_bytes.saturating_sub(usize::from(HEADROOM_BYTES)).saturating_add(header_bytes);
        let mut result = peeked;
        for (head, slice) in heads.iter().zip(slices) {
            let received = match slice {
                Some(slice) if (PLAIN_BYTES_MIN..=plain_bytes_max).contains(&slice.bytes()) => {
                    self.receive_plain(slice, header_bytes, burst);
                    Ok(())
                }
                _ => self.receive_chain(ring, head, burst),
            };
            if received.is_err() {
                result = received;
                break;
            }
            ring.complete(head, 0, self.log);
        }
        ring.publish(self.log);
        if result.is_err() {
            self.refused.add(DropReason::VhostRingBroken, 0);
        }
        result
    }

    /// One buffer, which fits a frame.
    #[inline]
    fn receive_plain(&mut self, slice: GuestSlice<'_>, header_bytes: usize, burst: &mut Burst) {
        // Of the shorter header, the last two bytes belong to the frame and say nothing.
        let header: Option<[u8; VirtioNetHeader::LEN]> = slice.read();
        let (_, data) = slice.split_at(header_bytes);
        let Some(mut frame) = self.pool.allocate() else {
            return self.refused.add(DropReason::MemoryExhausted, data.bytes() as u64);
        };
        let room = self.pool.region().bytes_mut(&mut frame).get_mut(usize::from(HEADROOM_BYTES)..);
        let len = data.copy_to(room.unwrap_or(&mut []));
        let len = u16::try_from(len).unwrap_or(0);
        // Made where it goes: moved right after, it would be read before it is in the cache.
        burst.push(Packet::new(frame, HEADROOM_BYTES, len, self.port));
        let Some(header) = header else { return };
        if VirtioNetView::parse(&header).is_none_or(|view| !view.is_plain()) {
            self.finish(header, burst);
        }
    }

    /// A chain of any shape. A fault means that the ring is broken; a chain that merely is no frame
    /// is dropped.
    #[cold]
    #[inline(never)]
    fn receive_chain(
        &mut self,
        ring: &impl DeviceRing,
        head: &Head,
        burst: &mut Burst,
    ) -> Result<(), RingFault> {
        let mut parts = Parts::new();
        ring.parts(head, Direction::FromGuest, self.features, self.memory, &mut parts)?;
        let bytes = parts.iter().fold(0_usize, |sum, it| sum.saturating_add(it.slice.bytes()));
        let mut source = Source { parts: &parts, offset: 0 };
        let mut header = [0; VirtioNetHeader::LEN];
        let (header_part, _) = header.split_at_mut(self.features.header_bytes());
        let header_bytes = source.fill(header_part);
        let frame_bytes = bytes.saturating_sub(header_bytes);
        let gathered = if header_bytes < self.features.header_bytes() || frame_bytes == 0 {
            Err(DropReason::VhostHeaderTruncated)
        } else if frame_bytes > FRAME_BYTES_MAX {
            Err(DropReason::RxOversized)
        } else {
            gather(source, frame_bytes, self.pool, self.port).ok_or(DropReason::MemoryExhausted)
        };
        match gathered {
            Ok(packet) => {
                burst.push(packet);
                self.finish(header, burst);
            }
            Err(reason) => self.refused.add(reason, frame_bytes as u64),
        }
        Ok(())
    }

    /// Does what the header asks for to the last packet of the burst, or drops it.
    #[cold]
    fn finish(&mut self, header: [u8; VirtioNetHeader::LEN], burst: &mut Burst) {
        let Some(view) = VirtioNetView::parse(&header) else { return };
        let Some(packet) = burst.last_mut() else { return };
        if let Err(reason) = view.header().apply(packet, self.pool.region())
            && let Some(packet) = burst.pop()
        {
            self.refused.add(reason, u64::from(packet.total_bytes()));
            self.example.keep(packet, reason, self.pool);
        }
    }
}

/// The bytes of a chain that are not copied yet.
struct Source<'a, 'b> {
    parts: &'b [Part<'a>],
    /// Where the first part goes on.
    offset: usize,
}

impl Source<'_, '_> {
    /// Copies the next bytes to `out`, as many as there are; returns how many.
    fn fill(&mut self, out: &mut [u8]) -> usize {
        let mut filled = 0_usize;
        // Bounded: each round ends a part, or `out`.
        while let Some((part, rest)) = self.parts.split_first() {
            let Some(out) = out.get_mut(filled..).filter(|out| !out.is_empty()) else { break };
            let (_, left) = part.slice.split_at(self.offset);
            let copied = left.copy_to(out);
            filled = filled.saturating_add(copied);
            self.offset = self.offset.saturating_add(copied);
            if copied == left.bytes() {
                (self.parts, self.offset) = (rest, 0);
            }
        }
        filled
    }
}

/// A packet of the next `bytes` bytes; `None` if there are not enough free frames.
fn gather(
    mut source: Source<'_, '_>,
    bytes: usize,
    pool: &mut FramePool,
    port: PortRef,
) -> Option<Packet> {
    let first = fill_frame(&mut source, bytes, HEADROOM_BYTES, pool)?;
    let mut left = bytes.saturating_sub(usize::from(first.len));
    let mut packet = Packet::new(first.frame, first.offset, first.len, port);
    while left > 0 {
        let Some(segment) = fill_frame(&mut source, left, 0, pool) else {
            pool.free_packet(packet);
            return None;
        };
        left = left.saturating_sub(usize::from(segment.len));
        // What is still missing was not where it was said to be; it cannot happen, and would not
        // end.
        let is_empty = segment.len == 0;
        packet.append(pool.region(), segment);
        if is_empty {
            break;
        }
    }
    Some(packet)
}

/// A frame of the next bytes, at most `bytes`, from `offset` on.
fn fill_frame(
    source: &mut Source<'_, '_>,
    bytes: usize,
    offset: u16,
    pool: &mut FramePool,
) -> Option<Segment> {
    let mut frame = pool.allocate()?;
    let room = pool.region().bytes_mut(&mut frame).get_mut(usize::from(offset)..);
    let room = room.unwrap_or(&mut []);
    let bytes = bytes.min(room.len());
    let filled = source.fill(room.get_mut(..bytes).unwrap_or(&mut []));
    Some(Segment { frame, offset, len: u16::try_from(filled).unwrap_or(0) })
}
