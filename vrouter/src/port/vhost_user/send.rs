//! To the guest: packets are copied into the buffers that its driver made available.
//!
//! The usual packet is one segment and fits the first buffer; all others take the slow way, which
//! may fill several chains with `VIRTIO_NET_F_MRG_RXBUF` (VirtIO 1.2 section 5.1.6.4).

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::Range;

use arrayvec::ArrayVec;

use super::{
    access::GuestSlice,
    log::RingLog,
    memory::GuestMemory,
    ring::{DeviceRing, Direction, HEADS_MAX, Head, Heads, Part, Parts, RingFault, RingFeatures},
    tally::RefusedExample,
};
use crate::{
    burst::Burst,
    drops::DropReason,
    memory::FramePool,
    packet::Packet,
    stats::{SentTally, WorkerStats},
    virtio_net::VirtioNetHeader,
};

/// Chains that one packet takes at most: 64 KiB in buffers of 256 bytes.
const CHAINS_MAX: usize = 256;

/// Their parts at most: two each, and more of those that are as small as that.
const ALL_PARTS_MAX: usize = 2 * CHAINS_MAX;

/// Bytes of a buffer that are asked for beside the line that it starts in: header and headers.
const PREFETCH_BYTES: usize = 64;

/// Where the number of buffers lies in a header of 12 bytes.
const BUFFER_COUNT_PLACE: Range<usize> = 10..12;

/// What a burst of sending needs beside the ring.
pub(super) struct Sender<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) features: RingFeatures,
    pub(super) log: Option<&'a RingLog>,
    pub(super) pool: &'a mut FramePool,
    pub(super) stats: &'a WorkerStats,
    pub(super) example: &'a mut RefusedExample,
    /// The region of guest memory where the last buffer lay.
    pub(super) region_hint: &'a mut usize,
}

/// Chains that the driver offered, and where their first buffers are if they are plain.
struct Window<'a> {
    heads: Heads,
    slices: ArrayVec<Option<GuestSlice<'a>>, HEADS_MAX>,
    /// The next one to use.
    at: usize,
}

/// The chains that a packet takes, and the bytes that each has room for.
type Chains = ArrayVec<(Head, usize), CHAINS_MAX>;

/// The parts of those chains, in order.
type AllParts<'a> = ArrayVec<Part<'a>, ALL_PARTS_MAX>;

/// Why a packet did not go.
enum Refusal {
    /// The driver has not made enough buffers available.
    RingFull,
    /// The buffer is too small, and the packet may not take several.
    BufferTooSmall,
    /// The driver broke the rules.
    Fault(RingFault),
}

impl<'a> Sender<'a> {
    /// Takes packets from the front of `burst` until it is empty or the driver has no more buffers;
    /// returns how many. Those that no buffer can hold are dropped on the way.
    pub(super) fn send(
        &mut self,
        ring: &mut impl DeviceRing,
        burst: &mut Burst,
        sent: &mut SentTally<'_>,
    ) -> (usize, Result<(), RingFault>) {
        let mut window = Window { heads: Heads::new(), slices: ArrayVec::new(), at: 0 };
        let mut result = self.refill(ring, &mut window, burst.len());
        let mut taken = 0_usize;
        let mut refused = None;
        let header_bytes = self.features.header_bytes();
        if result.is_ok() || !window.heads.is_empty() {
            for packet in burst.iter_mut() {
                let header = VirtioNetHeader::of(packet, self.pool.region()).to_bytes();
                if !packet.is_chained()
                    && let Some((head, slice)) = window.plain()
                    && slice.bytes() >= header_bytes.saturating_add(packet.linear_bytes().into())
                {
                    let (_, rest) = slice.split_at(header_bytes);
                    // Of the shorter header, the frame comes over the last two bytes, if it has any.
                    if !slice.write(&header) {
                        slice.copy_from(&header);
                    }
                    let data = packet.data(self.pool.region());
                    let bytes = rest.copy_from(data).saturating_add(header_bytes);
                    self.mark(head.address, bytes);
                    ring.complete(&head, u32::try_from(bytes).unwrap_or(u32::MAX), self.log);
                    window.at = window.at.wrapping_add(1);
                } else if let Err(refusal) = self.send_chained(ring, &mut window, packet, &header) {
                    match refusal {
                        Refusal::RingFull => break,
                        Refusal::BufferTooSmall => {
                            let reason = DropReason::VhostBufferTooSmall;
                            self.stats.dropped(packet.ingress, reason, 1);
                            refused.get_or_insert(taken);
                            taken = taken.wrapping_add(1);
                            continue;
                        }
                        Refusal::Fault(fault) => {
                            result = Err(fault);
                            break;
                        }
                    }
                }
                sent.add(packet.ingress, packet.total_bytes());
                taken = taken.wrapping_add(1);
            }
        }
        ring.rewind();
        ring.publish(self.log);
        for (at, packet) in burst.drain(..taken).enumerate() {
            if refused == Some(at) {
                self.example.keep(packet, DropReason::VhostBufferTooSmall, self.pool);
            } else {
                self.pool.free_packet(packet);
            }
        }
        (taken, result)
    }

    /// Looks at more chains, `heads_max` at most.
    fn refill(
        &mut self,
        ring: &mut impl DeviceRing,
        window: &mut Window<'a>,
        heads_max: usize,
    ) -> Result<(), RingFault> {
        window.clear();
        let result = ring.peek(&mut window.heads, heads_max);
        let memory = self.memory;
        for head in &window.heads {
            let slice = if head.is_plain(Direction::ToGuest) {
                memory.translate_near(self.region_hint, head.address, head.bytes as usize)
            } else {
                None
            };
            if let Some(slice) = slice {
                slice.prefetch_for_write(0);
                slice.prefetch_for_write(PREFETCH_BYTES);
            }
            window.slices.push(slice);
        }
        result
    }

    /// A packet of several segments, or one that does not fit a plain buffer.
    #[cold]
    #[inline(never)]
    fn send_chained(
        &mut self,
        ring: &mut impl DeviceRing,
        window: &mut Window<'a>,
        packet: &Packet,
        header: &[u8; VirtioNetHeader::LEN],
    ) -> Result<(), Refusal> {
        let header = header.get(..self.features.header_bytes()).unwrap_or(header);
        let needed = header.len().saturating_add(packet.total_bytes() as usize);
        let mut chains = Chains::new();
        let mut parts = AllParts::new();
        if let Err(refusal) = self.reserve(ring, window, needed, &mut chains, &mut parts) {
            // None of them was used.
            window.clear();
            ring.rewind();
            return Err(refusal);
        }
        let mut sink = Sink { parts: &parts, offset: 0, log: self.log };
        let mut header: ArrayVec<u8, { VirtioNetHeader::LEN }> = header.iter().copied().collect();
        if let Some(place) = header.get_mut(BUFFER_COUNT_PLACE) {
            let count = u16::try_from(chains.len()).unwrap_or(u16::MAX);
            place.copy_from_slice(&count.to_le_bytes());
        }
        sink.write(&header);
        packet.for_each_segment(self.pool.region(), |segment| sink.write(segment));
        let mut left = needed;
        for (head, bytes) in &chains {
            let written = left.min(*bytes);
            left = left.saturating_sub(written);
            ring.complete(head, u32::try_from(written).unwrap_or(u32::MAX), self.log);
        }
        Ok(())
    }

    /// Finds chains with room for `needed` bytes in all, which may be several if the driver can
    /// merge them.
    fn reserve(
        &mut self,
        ring: &mut impl DeviceRing,
        window: &mut Window<'a>,
        needed: usize,
        chains: &mut Chains,
        parts: &mut AllParts<'a>,
    ) -> Result<(), Refusal> {
        let mut room = 0_usize;
        // Bounded by the room in `chains`.
        while room < needed {
            let is_last = !self.features.mergeable && !chains.is_empty();
            if is_last || chains.is_full() {
                return Err(Refusal::BufferTooSmall);
            }
            if window.is_used_up() {
                self.refill(ring, window, HEADS_MAX).map_err(Refusal::Fault)?;
            }
            let head = window.take().ok_or(Refusal::RingFull)?;
            let mut own = Parts::new();
            ring.parts(&head, Direction::ToGuest, self.features, self.memory, &mut own)
                .map_err(Refusal::Fault)?;
            let bytes = own.iter().fold(0_usize, |sum, it| sum.saturating_add(it.slice.bytes()));
            if parts.remaining_capacity() < own.len() {
                return Err(Refusal::BufferTooSmall);
            }
            parts.extend(own);
            chains.push((head, bytes));
            room = room.saturating_add(bytes);
        }
        Ok(())
    }

    #[inline]
    fn mark(&self, guest_address: u64, bytes: usize) {
        if let Some(log) = self.log {
            log.log.mark(guest_address, bytes as u64);
        }
    }
}

impl<'a> Window<'a> {
    /// The next chain, if it is one plain buffer.
    #[inline]
    fn plain(&self) -> Option<(Head, GuestSlice<'a>)> {
        let slice = (*self.slices.get(self.at)?)?;
        Some((*self.heads.get(self.at)?, slice))
    }

    fn is_used_up(&self) -> bool {
        self.at >= self.heads.len()
    }

    fn take(&mut self) -> Option<Head> {
        let head = *self.heads.get(self.at)?;
        self.at = self.at.wrapping_add(1);
        Some(head)
    }

    fn clear(&mut self) {
        self.heads.clear();
        self.slices.clear();
        self.at = 0;
    }
}

/// Where a packet's bytes go, one after the other.
struct Sink<'a, 'b> {
    parts: &'b [Part<'a>],
    /// Where the first part goes on.
    offset: usize,
    log: Option<&'b RingLog>,
}

impl Sink<'_, '_> {
    /// Writes bytes, for which there is room.
    fn write(&mut self, mut bytes: &[u8]) {
        // Bounded: each round ends a part, or `bytes`.
        while let Some((part, rest)) = self.parts.split_first()
            && !bytes.is_empty()
        {
            let (_, room) = part.slice.split_at(self.offset);
            let copied = room.copy_from(bytes);
            if let Some(log) = self.log {
                log.log.mark(part.address.saturating_add(self.offset as u64), copied as u64);
            }
            bytes = bytes.get(copied..).unwrap_or(&[]);
            self.offset = self.offset.saturating_add(copied);
            if copied == room.bytes() {
                (self.parts, self.offset) = (rest, 0);
            }
        }
    }
}
