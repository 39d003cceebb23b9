//! Cutting a packet into segments that fit a wire: TCP and UDP, over both IP versions.
//!
//! Each segment has all the headers, with its own lengths, checksums, and IPv4 identification (RFC
//! 6864 section 4.2), as a stack would have sent it. TCP's sequence number advances; FIN and PSH
//! are the last segment's, CWR the first one's (RFC 3168 section 6.1.2). The payload is copied: two
//! packets cannot own one frame.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::mem;

use encap::{checksum::Sum, ip::IpProtocol, ipv6::Ipv6View, tcp::TcpFlags};

use crate::{
    chain,
    drops::DropReason,
    fragments::FRAGMENTS_MAX,
    memory::{Chain, Frame, FramePool, HEADROOM_BYTES, Region, Segment},
    packet::{Checksum, Packet},
    parse::IP_OFFSET,
    port::PortRef,
    transport::Transport,
};

/// Segments of one packet at most: as many as fragments, so that no packet becomes more packets
/// than that either way. A 64 KiB packet may so have segments of 440 bytes, less than any TCP sends
/// on a path of 576; senders of smaller ones do not collect 64 KiB of them, unless they mean harm.
pub(crate) const SEGMENTS_MAX: usize = FRAGMENTS_MAX;

/// How a packet is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    transport: Transport,
    /// Ethernet, IP and transport headers, in bytes.
    header_bytes: usize,
    payload_bytes: usize,
    /// Payload bytes of each segment but the last.
    segment_bytes: usize,
}

impl Plan {
    /// How to cut `packet`, which has a segment size.
    ///
    /// # Errors
    ///
    /// Fails with the reason to drop it for.
    pub(crate) fn of(packet: &Packet, region: &Region) -> Result<Self, DropReason> {
        let plan = Self::find(packet, region).ok_or(DropReason::SegmentImpossible)?;
        let room = (region.frame_bytes() as usize).saturating_sub(usize::from(HEADROOM_BYTES));
        if plan.count() > SEGMENTS_MAX || plan.header_bytes > room {
            return Err(DropReason::SegmentImpossible);
        }
        Ok(plan)
    }

    fn find(packet: &Packet, region: &Region) -> Option<Self> {
        let gso = packet.offload.gso?;
        let frame = packet.data(region);
        let transport = Transport::find(frame, packet.total_bytes() as usize)?;
        let transport_header_bytes = transport.header_bytes(frame)?;
        Some(Self {
            transport,
            header_bytes: transport.start.saturating_add(transport_header_bytes),
            payload_bytes: transport.bytes.saturating_sub(transport_header_bytes),
            segment_bytes: usize::from(gso.segment_bytes().max(1)),
        })
    }

    /// How many segments there will be.
    pub(crate) fn count(&self) -> usize {
        self.payload_bytes.div_ceil(self.segment_bytes).max(1)
    }

    /// The longest segment, from the Ethernet header on, in bytes.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        self.header_bytes.saturating_add(self.segment_bytes.min(self.payload_bytes))
    }

    /// Makes `data`, the start of `packet`, that of its first segment: to be quoted.
    pub(crate) fn write_first(&self, data: &mut [u8], packet: &Packet, region: &Region) {
        let bytes = self.segment_bytes.min(self.payload_bytes);
        let sum = chain::sum(packet, region, self.header_bytes, bytes);
        self.write_headers(data, 0, bytes, Some(sum));
    }

    /// Makes the headers in `data`, which are the whole packet's, those of the segment at
    /// `position` with `payload_bytes` bytes. `payload_sum` is theirs, if the checksum is to be
    /// finished.
    fn write_headers(
        &self,
        data: &mut [u8],
        position: usize,
        payload_bytes: usize,
        payload_sum: Option<Sum>,
    ) {
        let Some(headers) = data.get_mut(..self.header_bytes) else { return };
        let (link_and_ip, transport) = headers.split_at_mut(self.transport.start);
        let ip = link_and_ip.get_mut(IP_OFFSET..).unwrap_or(&mut []);
        let transport_bytes = transport.len().saturating_add(payload_bytes);
        if self.transport.is_ipv4 {
            write_ipv4(ip, position, transport_bytes);
        } else {
            let extension_bytes = ip.len().saturating_sub(Ipv6View::LEN);
            put(ip, 4, u16_of(extension_bytes.saturating_add(transport_bytes)));
        }
        if self.transport.protocol == IpProtocol::TCP {
            self.write_tcp(transport, position);
        } else {
            put(transport, 4, u16_of(transport_bytes));
        }
        let Some(payload_sum) = payload_sum else { return };
        let place = self.transport.checksum_offset().unwrap_or(0);
        put(transport, place, 0);
        let pseudo_header = self.transport.pseudo_header_of(transport_bytes);
        let sum = Sum::of(transport).add(pseudo_header).add(payload_sum);
        let is_udp = self.transport.protocol == IpProtocol::UDP;
        put(transport, place, if is_udp { sum.udp_checksum() } else { sum.checksum() });
    }

    fn write_tcp(&self, header: &mut [u8], position: usize) {
        if let Some(sequence) = header.get_mut(4..8).and_then(<[u8]>::first_chunk_mut) {
            let advance = position.wrapping_mul(self.segment_bytes);
            let advance = u32::try_from(advance).unwrap_or(u32::MAX);
            *sequence = u32::from_be_bytes(*sequence).wrapping_add(advance).to_be_bytes();
        }
        let is_last = position.saturating_add(1) == self.count();
        let not_first = if position == 0 { 0 } else { TcpFlags::CWR.0 };
        let not_last = if is_last { 0 } else { TcpFlags::FIN.union(TcpFlags::PSH).0 };
        if let Some(flags) = header.get_mut(13) {
            *flags &= !(not_first | not_last);
        }
    }
}

/// Whether a packet that is larger than the way is one that will be segmented, into pieces that are
/// not.
#[cold]
#[inline(never)]
pub(crate) fn fits_in_segments(packet: &Packet, mtu_bytes: u16, region: &Region) -> bool {
    Plan::find(packet, region).is_some_and(|plan| {
        plan.frame_bytes_max().saturating_sub(IP_OFFSET) <= usize::from(mtu_bytes)
    })
}

/// What is left of a packet that is being cut.
#[derive(Debug)]
#[must_use = "a packet that is being cut owns frames: end it"]
pub(crate) struct Segmenter {
    plan: Plan,
    source: Source,
    ingress: PortRef,
    /// Of the segments: [`Checksum::Partial`] if the port finishes them.
    checksum: Checksum,
    position: usize,
    left_bytes: usize,
}

impl Segmenter {
    /// Starts to cut `packet` by its plan. Segments get their checksums, or leave them to the port
    /// if it says `finishes_checksums`.
    pub(crate) fn new(packet: Packet, plan: Plan, finishes_checksums: bool) -> Self {
        let ingress = packet.ingress;
        let checksum = if finishes_checksums { Checksum::Partial } else { Checksum::Complete };
        let source = Source::new(packet, plan.header_bytes);
        Self { plan, source, ingress, checksum, position: 0, left_bytes: plan.payload_bytes }
    }

    /// The next segment. An error is one for which there is no memory, with the port that it counts
    /// for; others may follow.
    ///
    /// The first one takes over the packet's ingress port, so that one packet in is one packet
    /// forwarded.
    pub(crate) fn next(&mut self, pool: &mut FramePool) -> Option<Result<Packet, PortRef>> {
        if self.position == self.plan.count() {
            return None;
        }
        let bytes = self.plan.segment_bytes.min(self.left_bytes);
        let origin = if self.position == 0 { self.ingress } else { PortRef::ENGINE };
        let made = self.make(bytes, origin, pool);
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        self.position = self.position.saturating_add(1);
        self.source.free_spent(pool);
        Some(made.ok_or(origin))
    }

    /// Frees what is left.
    pub(crate) fn end(self, pool: &mut FramePool) {
        self.source.free(pool);
    }

    fn make(&mut self, bytes: usize, origin: PortRef, pool: &mut FramePool) -> Option<Packet> {
        let Some(mut packet) = self.make_head(bytes, origin, pool) else {
            self.source.read(pool.region(), bytes, |_| ());
            return None;
        };
        let mut copied = usize::from(packet.linear_bytes()).saturating_sub(self.plan.header_bytes);
        let mut sum = self.sum_of(packet.data(pool.region()).get(self.plan.header_bytes..));
        // Each round fills a frame.
        while copied < bytes {
            let Some(mut frame) = pool.allocate() else {
                self.source.read(pool.region(), bytes.saturating_sub(copied), |_| ());
                pool.free_packet(packet);
                return None;
            };
            let region = pool.region();
            let left = bytes.saturating_sub(copied);
            let room = region.bytes_mut(&mut frame);
            let len = room.len().min(left);
            let room = room.get_mut(..len).unwrap_or(&mut []);
            self.source.copy(region, room);
            sum = sum.zip(self.sum_of(Some(room))).map(|(sum, part)| sum.add_at(part, copied));
            copied = copied.saturating_add(len);
            packet.append(region, Segment { frame, offset: 0, len: u16_of(len) });
        }
        let data = packet.data_mut(pool.region());
        self.plan.write_headers(data, self.position, bytes, sum);
        packet.offload.checksum = self.checksum;
        Some(packet)
    }

    /// A packet of one frame, with the whole packet's headers and as much payload as fits.
    fn make_head(&mut self, bytes: usize, origin: PortRef, pool: &mut FramePool) -> Option<Packet> {
        let mut frame = pool.allocate()?;
        let region = pool.region();
        let start = usize::from(HEADROOM_BYTES);
        let room = region.bytes_mut(&mut frame).get_mut(start..).unwrap_or(&mut []);
        let len = self.plan.header_bytes.saturating_add(bytes).min(room.len());
        let room = room.get_mut(..len).unwrap_or(&mut []);
        // The plan holds only if the headers fit.
        let (headers, payload) = room.split_at_mut(self.plan.header_bytes.min(len));
        headers.copy_from_slice(self.source.headers(region).get(..headers.len()).unwrap_or(&[]));
        self.source.copy(region, payload);
        Some(Packet::new(frame, HEADROOM_BYTES, u16_of(len), origin))
    }

    fn sum_of(&self, bytes: Option<&[u8]>) -> Option<Sum> {
        (self.checksum == Checksum::Complete).then(|| Sum::of(bytes.unwrap_or(&[])))
    }
}

/// A packet whose payload is read from front to back.
#[derive(Debug)]
struct Source {
    /// Kept to the end, for its headers.
    head: Frame,
    head_start: usize,
    header_bytes: usize,
    /// The frame that is read from; `None` is the head.
    current: Option<Frame>,
    /// Which of its bytes are unread.
    start: usize,
    end: usize,
    rest: Chain,
    /// Frames that were read.
    spent: Chain,
}

impl Source {
    fn new(packet: Packet, header_bytes: usize) -> Self {
        let (Segment { frame, offset, len }, rest) = packet.into_segments();
        let head_start = usize::from(offset);
        Self {
            head: frame,
            head_start,
            header_bytes,
            current: None,
            start: head_start.saturating_add(header_bytes),
            end: head_start.saturating_add(usize::from(len)),
            rest,
            spent: Chain::EMPTY,
        }
    }

    fn headers<'a>(&'a self, region: &'a Region) -> &'a [u8] {
        let end = self.head_start.saturating_add(self.header_bytes);
        region.bytes(&self.head).get(self.head_start..end).unwrap_or(&[])
    }

    /// Fills `out` with the next bytes; zeros if there are no more.
    fn copy(&mut self, region: &Region, out: &mut [u8]) {
        let mut at = 0_usize;
        self.read(region, out.len(), |part| {
            let end = at.saturating_add(part.len());
            if let Some(place) = out.get_mut(at..end) {
                place.copy_from_slice(part);
            }
            at = end;
        });
        out.get_mut(at..).unwrap_or(&mut []).fill(0);
    }

    /// Calls `see` with the parts of the next `bytes` bytes.
    fn read(&mut self, region: &Region, bytes: usize, mut see: impl FnMut(&[u8])) {
        let mut left = bytes;
        while left > 0 {
            if self.start >= self.end && !self.turn(region) {
                return;
            }
            let end = self.end.min(self.start.saturating_add(left));
            let frame = self.current.as_ref().unwrap_or(&self.head);
            see(region.bytes(frame).get(self.start..end).unwrap_or(&[]));
            left = left.saturating_sub(end.saturating_sub(self.start));
            self.start = end;
        }
    }

    /// Goes on to the next frame; false if there is none.
    fn turn(&mut self, region: &Region) -> bool {
        let Some(Segment { frame, offset, len }) = self.rest.pop(region) else { return false };
        if let Some(frame) = self.current.replace(frame) {
            self.spent.push(region, Segment { frame, offset: 0, len: 0 });
        }
        self.start = usize::from(offset);
        self.end = self.start.saturating_add(usize::from(len));
        true
    }

    fn free_spent(&mut self, pool: &mut FramePool) {
        if !self.spent.is_empty() {
            pool.free_chain(mem::replace(&mut self.spent, Chain::EMPTY));
        }
    }

    fn free(self, pool: &mut FramePool) {
        let Self { head, current, rest, spent, .. } = self;
        pool.free(head);
        if let Some(frame) = current {
            pool.free(frame);
        }
        pool.free_chain(rest);
        pool.free_chain(spent);
    }
}

fn write_ipv4(header: &mut [u8], position: usize, transport_bytes: usize) {
    put(header, 2, u16_of(header.len().saturating_add(transport_bytes)));
    if let Some(identification) = header.get_mut(4..6).and_then(<[u8]>::first_chunk_mut) {
        let first = u16::from_be_bytes(*identification);
        *identification = first.wrapping_add(u16_of(position)).to_be_bytes();
    }
    put(header, 10, 0);
    put(header, 10, Sum::of(header).checksum());
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = word.to_be_bytes();
    }
}

fn u16_of(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests;
