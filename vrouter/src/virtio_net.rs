//! The header before each frame of a virtio network device, and of a TAP that has `IFF_VNET_HDR`:
//! what is left to do to the frame (VirtIO 1.2 section 5.1.6).
//!
//! Two translations: [`VirtioNetHeader::apply`] from the header of a received frame to a
//! [`crate::packet::Offload`], and [`VirtioNetHeader::of`] from a packet that is about to be sent
//! to its header. Who writes the header that is received may mean harm: nothing in it is believed
//! that the frame does not bear out. The header's bytes are copied before they are read, once.
//!
//! Numbers are little-endian, as VirtIO 1 has them; a TAP is told so (`TUNSETVNETLE`) or runs on a
//! machine that is.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::ops::BitOr;

use encap::{
    ip::IpProtocol,
    tcp::{TcpFlags, TcpView},
};

use crate::{
    drops::DropReason,
    memory::Region,
    packet::{Checksum, Gso, Offload, Packet},
    transport::{self, Transport},
};

/// Bits of a header's `flags`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct HeaderFlags(pub u8);

impl HeaderFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The checksum at `csum_start` + `csum_offset` is to be finished.
    pub const NEEDS_CSUM: Self = Self(1);
    /// The checksum was verified.
    pub const DATA_VALID: Self = Self(2);

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A header's `gso_type`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct GsoType(pub u8);

impl GsoType {
    /// One frame as it is.
    pub const NONE: Self = Self(0);
    /// TCP over IPv4.
    pub const TCPV4: Self = Self(1);
    /// TCP over IPv6.
    pub const TCPV6: Self = Self(4);
    /// UDP, a datagram a segment.
    pub const UDP_L4: Self = Self(5);
    /// Beside one of TCP's: the first segment alone has CWR set.
    pub const ECN: Self = Self(0x80);

    /// The type without [`Self::ECN`].
    #[must_use]
    pub const fn without_ecn(self) -> Self {
        Self(self.0 & !Self::ECN.0)
    }
}

impl BitOr for GsoType {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A read-only view of a virtio-net header, with or without its number of buffers.
///
/// Holding one proves that [`VirtioNetHeader::LEN_LEGACY`] bytes are present.
#[derive(Clone, Copy, Debug)]
pub struct VirtioNetView<'a>(&'a [u8; VirtioNetHeader::LEN_LEGACY]);

impl<'a> VirtioNetView<'a> {
    /// The header at the start of `bytes`; `None` if it is cut short.
    #[must_use]
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(Self)
    }

    /// Whether there is nothing left to do to the frame: true of most, so look here first.
    #[must_use]
    #[inline]
    pub fn is_plain(self) -> bool {
        let [flags, gso_type, ..] = *self.0;
        flags & HeaderFlags::NEEDS_CSUM.0 == 0 && gso_type == GsoType::NONE.0
    }

    /// The header's value; its number of buffers is 1.
    #[must_use]
    pub fn header(self) -> VirtioNetHeader {
        let [flags, gso_type, words @ ..] = *self.0;
        let [[h0, h1], [g0, g1], [s0, s1], [o0, o1]] = words.as_chunks::<2>().0 else {
            return VirtioNetHeader::PLAIN;
        };
        VirtioNetHeader {
            flags: HeaderFlags(flags),
            gso_type: GsoType(gso_type),
            header_bytes: u16::from_le_bytes([*h0, *h1]),
            gso_bytes: u16::from_le_bytes([*g0, *g1]),
            checksum_start: u16::from_le_bytes([*s0, *s1]),
            checksum_offset: u16::from_le_bytes([*o0, *o1]),
            buffer_count: 1,
        }
    }
}

/// A virtio-net header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VirtioNetHeader {
    /// `flags`.
    pub flags: HeaderFlags,
    /// `gso_type`.
    pub gso_type: GsoType,
    /// `hdr_len`: Ethernet, IP and transport headers in bytes. A hint that is not looked at when
    /// received.
    pub header_bytes: u16,
    /// `gso_size`: payload bytes a segment.
    pub gso_bytes: u16,
    /// `csum_start`: where what the checksum covers starts, in bytes from the Ethernet header on.
    pub checksum_start: u16,
    /// `csum_offset`: where the checksum lies, in bytes from `checksum_start` on.
    pub checksum_offset: u16,
    /// `num_buffers`: receive buffers that the frame takes up. Whoever writes several sets it.
    pub buffer_count: u16,
}

impl VirtioNetHeader {
    /// Header length in bytes, as VirtIO 1 has it, and older ones with mergeable buffers.
    pub const LEN: usize = 12;
    /// Header length in bytes without the number of buffers.
    pub const LEN_LEGACY: usize = 10;

    /// The header of a frame to which nothing is left to do.
    pub const PLAIN: Self = Self {
        flags: HeaderFlags::NONE,
        gso_type: GsoType::NONE,
        header_bytes: 0,
        gso_bytes: 0,
        checksum_start: 0,
        checksum_offset: 0,
        buffer_count: 1,
    };

    /// The header as it is written; where there is no number of buffers, without the last two.
    #[must_use]
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let [h0, h1] = self.header_bytes.to_le_bytes();
        let [g0, g1] = self.gso_bytes.to_le_bytes();
        let [s0, s1] = self.checksum_start.to_le_bytes();
        let [o0, o1] = self.checksum_offset.to_le_bytes();
        let [b0, b1] = self.buffer_count.to_le_bytes();
        [self.flags.0, self.gso_type.0, h0, h1, g0, g1, s0, s1, o0, o1, b0, b1]
    }

    /// Notes in `packet`, the frame that came behind this header, what is left to do to it.
    ///
    /// A checksum that is well ordered but not that of the packet's own TCP or UDP (such as an
    /// inner one of a tunnel's) is finished here and now.
    ///
    /// # Errors
    ///
    /// Fails if header and frame contradict each other: the packet is to be dropped with this
    /// reason.
    #[inline]
    pub fn apply(&self, packet: &mut Packet, region: &Region) -> Result<(), DropReason> {
        if !self.flags.contains(HeaderFlags::NEEDS_CSUM) && self.gso_type == GsoType::NONE {
            return Ok(());
        }
        let offload = self.try_apply(packet, region).ok_or(DropReason::RxOffloadMalformed)?;
        packet.offload = offload;
        Ok(())
    }

    #[inline(never)]
    fn try_apply(&self, packet: &mut Packet, region: &Region) -> Option<Offload> {
        let frame = packet.data(region);
        let transport = Transport::find(frame, packet.total_bytes() as usize);
        let has_gso = self.gso_type.without_ecn() != GsoType::NONE;
        let gso = if has_gso { self.gso(transport?, frame)? } else { None };
        let partial = Offload { checksum: Checksum::Partial, gso };
        if !self.flags.contains(HeaderFlags::NEEDS_CSUM) {
            // A driver must ask for both (section 5.1.6.2); segmenting makes checksums anew anyway.
            return Some(if has_gso { partial } else { Offload::NONE });
        }
        let start = usize::from(self.checksum_start);
        let place = start.saturating_add(usize::from(self.checksum_offset));
        let own = transport.filter(|own| own.start == start && own.checksum_place() == Some(place));
        match own {
            // Stacks differ in what they leave there of a packet that is to be segmented.
            Some(own) if has_gso || own.is_unfinished(frame) => Some(partial),
            None if has_gso => None,
            _ => transport::finish_at(packet, start, place, region).then_some(Offload::NONE),
        }
    }

    /// How the packet is to be segmented: not at all if it is one segment. The outer `None` is a
    /// contradiction.
    #[expect(clippy::option_option, reason = "private, and told apart by its one caller")]
    fn gso(&self, transport: Transport, frame: &[u8]) -> Option<Option<Gso>> {
        let segment_bytes = self.gso_bytes;
        let payload_bytes = transport.bytes.checked_sub(transport.header_bytes(frame)?)?;
        let gso = match (self.gso_type.without_ecn(), transport.protocol, transport.is_ipv4) {
            _ if segment_bytes == 0 => return None,
            (GsoType::TCPV4, IpProtocol::TCP, true) => Gso::TcpV4 { segment_bytes },
            (GsoType::TCPV6, IpProtocol::TCP, false) => Gso::TcpV6 { segment_bytes },
            (GsoType::UDP_L4, IpProtocol::UDP, _) => Gso::Udp { segment_bytes },
            _ => return None,
        };
        Some((payload_bytes > usize::from(segment_bytes)).then_some(gso))
    }

    /// The header to send `packet` with. What a port does not cover must be done before; what is
    /// left of the checksum is made ready for the far side to finish.
    #[must_use]
    #[inline]
    pub fn of(packet: &mut Packet, region: &Region) -> Self {
        if packet.offload == Offload::NONE {
            return Self::PLAIN;
        }
        Self::of_unfinished(packet, region)
    }

    #[inline(never)]
    fn of_unfinished(packet: &mut Packet, region: &Region) -> Self {
        let Offload { checksum, gso } = packet.offload;
        let frame = packet.data(region);
        let transport = Transport::find(frame, packet.total_bytes() as usize);
        let found = transport.and_then(|it| Some((it, it.checksum_offset()?)));
        let Some((transport, checksum_offset)) = found else { return Self::PLAIN };
        if checksum == Checksum::Unknown && !transport.is_unfinished(frame) {
            transport::finish(packet, &transport, region);
            return Self::PLAIN;
        }
        let header_bytes = transport.header_bytes(frame).unwrap_or(0);
        let gso_type = gso.map_or(GsoType::NONE, |gso| gso_type(gso, &transport, frame));
        if !transport.write_pseudo_header(packet.data_mut(region)) {
            return Self::PLAIN;
        }
        let u16_of = |bytes| u16::try_from(bytes).unwrap_or(u16::MAX);
        Self {
            flags: HeaderFlags::NEEDS_CSUM,
            gso_type,
            header_bytes: u16_of(transport.start.saturating_add(header_bytes)),
            gso_bytes: gso.map_or(0, Gso::segment_bytes),
            checksum_start: u16_of(transport.start),
            checksum_offset: u16_of(checksum_offset),
            buffer_count: 1,
        }
    }
}

fn gso_type(gso: Gso, transport: &Transport, frame: &[u8]) -> GsoType {
    let tcp = match gso {
        Gso::TcpV4 { .. } => GsoType::TCPV4,
        Gso::TcpV6 { .. } => GsoType::TCPV6,
        Gso::Udp { .. } => return GsoType::UDP_L4,
    };
    let has_cwr = frame
        .get(transport.start..)
        .and_then(|segment| TcpView::parse(segment).ok())
        .is_some_and(|(tcp_header, _)| tcp_header.flags().contains(TcpFlags::CWR));
    if has_cwr { tcp | GsoType::ECN } else { tcp }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests;
