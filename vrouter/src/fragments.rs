//! IPv4 packets that are too big for the way and may be fragmented (RFC 791 section 3.2).
//!
//! IPv6 packets never are: their senders are told. Each fragment is a new packet, except that the
//! first takes over the original's ingress port, so that one packet in is one packet forwarded; the
//! others count as replicated.

#![warn(clippy::indexing_slicing)]

use arrayvec::ArrayVec;
use encap::{checksum::Sum, ipv4::Ipv4View, vxlan::OVERHEAD_IPV4};

use crate::{
    chain,
    drops::DropReason,
    icmp_errors::PATH_MTU_BYTES_MIN,
    memory::{Frame, HEADROOM_BYTES},
    next_hop::NextHop,
    packet::Packet,
    parse::{Headers, IP_OFFSET},
    pipeline::Pass,
    port::PortRef,
    rewrite::Outgoing,
    trace::Detail,
};

/// Fragments of one packet at most: what the longest IPv4 packet becomes in a tunnel on a way of
/// 552 bytes, if its header has all the options there can be. No path's word about its MTU is
/// believed below that, neither by us nor by the kernel; where an operator or a link is lower, the
/// sender is told.
pub(crate) const FRAGMENTS_MAX: usize = {
    let payload_bytes = u16::MAX as usize - IPV4_HEADER_BYTES_MAX;
    let most = PATH_MTU_BYTES_MIN as usize - OVERHEAD_IPV4 - IPV4_HEADER_BYTES_MAX;
    payload_bytes.div_ceil(most - most % UNIT_BYTES)
};
/// The longest IPv4 header: fifteen words (RFC 791 section 3.1).
const IPV4_HEADER_BYTES_MAX: usize = 60;
/// Fragment offsets count in units of eight bytes.
const UNIT_BYTES: usize = 8;
/// Flags of the fragment word: "reserved" and "don't fragment", and "more fragments".
const KEPT_FLAGS: u16 = 0xc000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// How a packet is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    mtu_bytes: u16,
    /// The IP header with its options, in bytes.
    header_bytes: usize,
    payload_bytes: usize,
    /// Payload bytes of each fragment but the last.
    piece_bytes: usize,
    /// The fragment word of the original: it may be a fragment itself.
    word: u16,
    identification: u16,
}

impl Pass<'_> {
    /// Sends an IPv4 packet in the fragments that [`Self::plan_cut`] found.
    #[cold]
    pub(crate) fn send_in_fragments(
        &mut self,
        packet: Packet,
        headers: &Headers,
        hop: &NextHop,
        cut: &Cut,
        outgoing: &Outgoing,
    ) {
        let count = cut.payload_bytes.div_ceil(cut.piece_bytes);
        let Some(frames) = self.take_frames(count) else {
            let refused = Detail::Size {
                packet_bytes: headers.ip_bytes,
                mtu_bytes: u32::from(cut.mtu_bytes),
            };
            return self.drop_packet(packet, DropReason::MemoryExhausted, refused);
        };
        let ingress = packet.ingress;
        self.stats.replicated(count.saturating_sub(1) as u64);
        for (position, mut frame) in frames.into_iter().enumerate() {
            let region = self.pool.region();
            let start = usize::from(HEADROOM_BYTES);
            let out = region.bytes_mut(&mut frame).get_mut(start..).unwrap_or(&mut []);
            let bytes =
                cut.write_piece(position, out, |from, out| chain::copy(&packet, region, from, out));
            let origin = if position == 0 { ingress } else { PortRef::ENGINE };
            let len = u16::try_from(bytes).unwrap_or(0);
            self.emit(Packet::new(frame, HEADROOM_BYTES, len, origin), hop, outgoing);
        }
        // The original lives on in its first fragment.
        self.pool.free_packet(packet);
    }

    /// How a packet that is too big is cut into pieces of at most `mtu_bytes`; `None` if it may not
    /// be, or they would be too many.
    #[cold]
    pub(crate) fn plan_cut(
        &self,
        packet: &Packet,
        headers: &Headers,
        mtu_bytes: u16,
    ) -> Option<Cut> {
        if headers.is_whole_only {
            return None;
        }
        let region = self.pool.region();
        let bytes = packet.data(region).get(IP_OFFSET..)?;
        let (ip, _) = Ipv4View::parse_header(bytes).ok()?;
        let header_bytes = ip.header_len();
        let frame_bytes = region.frame_bytes() as usize;
        let room = frame_bytes.checked_sub(usize::from(HEADROOM_BYTES) + IP_OFFSET)?;
        let most = usize::from(mtu_bytes).min(room).checked_sub(header_bytes)?;
        let piece_bytes = most - most % UNIT_BYTES;
        let payload_bytes = ip.payload_len();
        if piece_bytes == 0 || payload_bytes.div_ceil(piece_bytes) > FRAGMENTS_MAX {
            return None;
        }
        let word = u16::from_be_bytes(*bytes.get(6..8)?.first_chunk()?);
        Some(Cut {
            mtu_bytes,
            header_bytes,
            payload_bytes,
            piece_bytes,
            word,
            identification: ip.identification(),
        })
    }

    /// All frames that the fragments need, or none.
    fn take_frames(&mut self, count: usize) -> Option<ArrayVec<Frame, FRAGMENTS_MAX>> {
        let mut frames = ArrayVec::new();
        for _ in 0..count {
            let Some(frame) = self.pool.allocate() else {
                frames.into_iter().for_each(|frame| self.pool.free(frame));
                return None;
            };
            frames.push(frame);
        }
        Some(frames)
    }
}

impl Cut {
    /// Writes the fragment at `position` into `out`, from the Ethernet header on; returns its
    /// length.
    ///
    /// `copy` copies bytes of the original's frame. Options stay in every fragment: those that need
    /// not be copied (RFC 791 section 3.1) do no harm there, and padding keeps their length.
    fn write_piece(
        &self,
        position: usize,
        out: &mut [u8],
        copy: impl Fn(usize, &mut [u8]) -> usize,
    ) -> usize {
        let from = position * self.piece_bytes;
        let bytes = self.piece_bytes.min(self.payload_bytes.saturating_sub(from));
        let payload_start = IP_OFFSET + self.header_bytes;
        let Some(out) = out.get_mut(..payload_start + bytes) else { return 0 };
        let (front, payload) = out.split_at_mut(payload_start);
        copy(0, front);
        copy(payload_start + from, payload);
        let is_last = from + bytes == self.payload_bytes;
        let units = u16::try_from(from / UNIT_BYTES).unwrap_or(0);
        let more = if is_last { self.word & MORE_FRAGMENTS } else { MORE_FRAGMENTS };
        let offset = (self.word & OFFSET_MASK).wrapping_add(units) & OFFSET_MASK;
        let word = (self.word & KEPT_FLAGS) | more | offset;
        let total = u16::try_from(self.header_bytes + bytes).unwrap_or(0);
        let header = front.get_mut(IP_OFFSET..).unwrap_or(&mut []);
        put(header, 2, total);
        put(header, 4, self.identification);
        put(header, 6, word);
        put(header, 10, 0);
        let checksum = Sum::of(header).checksum();
        put(header, 10, checksum);
        out.len()
    }
}

fn put(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&word.to_be_bytes());
    }
}
