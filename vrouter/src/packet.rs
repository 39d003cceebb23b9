//! A packet: a chain of segments, and what is known about it.
//!
//! Headers lie in the first segment (at least 256 bytes linear unless the packet is shorter), with
//! headroom before them; the payload in the rest is opaque. What the pipeline learns about a packet
//! lives in its scratch arrays, not here.

use std::{iter, mem};

use crate::{
    memory::{Chain, Frame, FrameIndex, FramePool, Region, Segment},
    port::PortRef,
};

/// Bytes of headers that the first segment of a longer packet must hold.
pub const LINEAR_BYTES_MIN: usize = 256;

/// Whether the layer-4 checksum is in place.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Checksum {
    /// As it should be on the wire.
    #[default]
    Complete,
    /// Unfinished, whatever the field holds: whoever sends the packet to a port that cannot finish
    /// it, must.
    Partial,
    /// Complete, or unfinished and then the field holds the pseudo header's sum: the port that it
    /// came from does not tell, and the packet is not from a wire. Complete where it is not found
    /// to be unfinished.
    Unknown,
}

/// A packet larger than the MTU that a port or the engine has yet to segment. Its checksum is
/// [`Checksum::Partial`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gso {
    /// TCP over IPv4, with the payload bytes a segment.
    TcpV4 {
        /// Payload bytes a segment.
        segment_bytes: u16,
    },
    /// TCP over IPv6, with the payload bytes a segment.
    TcpV6 {
        /// Payload bytes a segment.
        segment_bytes: u16,
    },
    /// UDP, with the payload bytes a segment.
    Udp {
        /// Payload bytes a segment.
        segment_bytes: u16,
    },
}

impl Gso {
    /// Payload bytes a segment; the last one may have fewer.
    #[must_use]
    pub const fn segment_bytes(self) -> u16 {
        match self {
            Self::TcpV4 { segment_bytes }
            | Self::TcpV6 { segment_bytes }
            | Self::Udp { segment_bytes } => segment_bytes,
        }
    }
}

/// What a port or the engine has yet to do to a packet before it may be on a wire.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Offload {
    /// The layer-4 checksum's state.
    pub checksum: Checksum,
    /// Segmentation, if any.
    pub gso: Option<Gso>,
}

impl Offload {
    /// Nothing is left to do: the packet is as on a wire.
    pub const NONE: Self = Self { checksum: Checksum::Complete, gso: None };

    /// Whether nothing is left to do.
    #[must_use]
    #[inline]
    pub const fn is_nothing(self) -> bool {
        matches!(self.checksum, Checksum::Complete) && self.gso.is_none()
    }
}

/// What the far side of a port does itself, so that the engine need not.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a feature that a far side may lack")]
pub struct Offloads {
    /// Finishes partial checksums.
    pub checksum: bool,
    /// Takes TCP over IPv4 unsegmented.
    pub tcp_v4: bool,
    /// Takes TCP over IPv6 unsegmented.
    pub tcp_v6: bool,
    /// Takes UDP unsegmented, over both.
    pub udp: bool,
    /// Takes TCP with CWR set unsegmented: it belongs on the first segment only (RFC 3168 section
    /// 6.1.2), which a device must be made for.
    pub tcp_ecn: bool,
}

impl Offloads {
    /// Nothing: frames must be as on a wire.
    pub const NONE: Self =
        Self { checksum: false, tcp_v4: false, tcp_v6: false, udp: false, tcp_ecn: false };

    /// All there is.
    pub const ALL: Self =
        Self { checksum: true, tcp_v4: true, tcp_v6: true, udp: true, tcp_ecn: true };

    /// Whether TCP in larger packets than the way's MTU is welcome.
    #[must_use]
    pub fn has_tcp(self) -> bool {
        self.checksum && (self.tcp_v4 || self.tcp_v6)
    }

    /// Whether the far side does all that is left to do to a packet. Of one with TCP's CWR set, see
    /// [`Self::tcp_ecn`]; a checksum that is [`Checksum::Unknown`] has to be looked at.
    #[must_use]
    #[inline]
    pub fn cover(self, offload: Offload) -> bool {
        let takes_size = match offload.gso {
            None => true,
            Some(Gso::TcpV4 { .. }) => self.tcp_v4,
            Some(Gso::TcpV6 { .. }) => self.tcp_v6,
            Some(Gso::Udp { .. }) => self.udp,
        };
        let takes_checksum = match offload.checksum {
            Checksum::Complete => true,
            Checksum::Partial => self.checksum,
            Checksum::Unknown => false,
        };
        takes_size && takes_checksum
    }
}

/// A packet and its only owner.
#[derive(Debug)]
#[must_use = "a packet that is dropped loses its frames: free it in a pool"]
pub struct Packet {
    head: Frame,
    rest: Chain,
    offset: u16,
    len: u16,
    total_bytes: u32,
    /// The port it came in on.
    pub ingress: PortRef,
    /// What is left to do before it may be on a wire.
    pub offload: Offload,
}

impl Packet {
    /// A packet of one segment: `len` bytes from `offset` of `head`. Both are cut to what the frame
    /// holds.
    #[inline]
    pub fn new(head: Frame, offset: u16, len: u16, ingress: PortRef) -> Self {
        Self {
            head,
            rest: Chain::EMPTY,
            offset,
            len,
            total_bytes: u32::from(len),
            ingress,
            offload: Offload::NONE,
        }
    }

    /// Takes the packet; what is left in its place owns nothing and may be forgotten.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        let nothing = Self {
            head: Frame::NONE,
            rest: Chain::EMPTY,
            offset: 0,
            len: 0,
            total_bytes: 0,
            ingress: PortRef::ENGINE,
            offload: Offload::NONE,
        };
        mem::replace(self, nothing)
    }

    /// Whether the packet was taken: this is what is left in its place.
    pub(crate) fn is_taken(&self) -> bool {
        self.head.index() == Frame::NONE.index()
    }

    /// Appends a segment.
    pub fn append(&mut self, region: &Region, segment: Segment) {
        self.total_bytes = self.total_bytes.saturating_add(u32::from(segment.len));
        self.rest.push(region, segment);
    }

    /// Bytes in all segments.
    #[must_use]
    pub fn total_bytes(&self) -> u32 {
        self.total_bytes
    }

    /// Bytes in the first segment.
    #[must_use]
    pub fn linear_bytes(&self) -> u16 {
        self.len
    }

    /// Where the data starts in the first frame.
    #[must_use]
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// The first frame's index.
    #[must_use]
    pub fn head_index(&self) -> FrameIndex {
        self.head.index()
    }

    /// Whether the packet has more than one segment.
    #[must_use]
    pub fn is_chained(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The first segment's bytes.
    #[must_use]
    #[inline]
    pub fn data<'a>(&'a self, region: &'a Region) -> &'a [u8] {
        let start = usize::from(self.offset);
        region.bytes(&self.head).get(start..start + usize::from(self.len)).unwrap_or(&[])
    }

    /// The first segment's bytes, for writing.
    #[must_use]
    #[inline]
    pub fn data_mut<'a>(&'a mut self, region: &'a Region) -> &'a mut [u8] {
        let start = usize::from(self.offset);
        let end = start + usize::from(self.len);
        region.bytes_mut(&mut self.head).get_mut(start..end).unwrap_or(&mut [])
    }

    /// The whole first frame, headroom and tailroom included.
    #[must_use]
    pub fn frame_mut<'a>(&'a mut self, region: &'a Region) -> &'a mut [u8] {
        region.bytes_mut(&mut self.head)
    }

    /// Free bytes before the data.
    #[must_use]
    pub fn headroom_bytes(&self) -> u16 {
        self.offset
    }

    /// Takes `bytes` off the front. False, and nothing happens, if the first segment is shorter.
    #[must_use]
    pub fn pull(&mut self, bytes: u16) -> bool {
        if bytes > self.len {
            return false;
        }
        self.offset += bytes;
        self.len -= bytes;
        self.total_bytes -= u32::from(bytes);
        true
    }

    /// The packet with `bytes` of headroom in front, which must be there.
    // Made anew, field by field: one that was just changed in place is not yet in the cache when it
    // is moved.
    #[inline]
    pub(crate) fn with_front(self, bytes: u16) -> Self {
        let Self { head, rest, offset, len, total_bytes, ingress, offload } = self;
        debug_assert!(bytes <= offset, "the headroom holds it");
        Self {
            head,
            rest,
            offset: offset.saturating_sub(bytes),
            len: len.saturating_add(bytes),
            total_bytes: total_bytes.saturating_add(u32::from(bytes)),
            ingress,
            offload,
        }
    }

    /// Cuts the packet after `bytes` of its first segment. False, and nothing happens, if it is
    /// chained or shorter.
    #[must_use]
    pub fn truncate(&mut self, bytes: u16) -> bool {
        if self.is_chained() || bytes > self.len {
            return false;
        }
        self.len = bytes;
        self.total_bytes = u32::from(bytes);
        true
    }

    /// Cuts the packet after `bytes`, in whatever segment that is; `pool` gets the frames behind.
    #[cold]
    pub(crate) fn shorten(&mut self, bytes: u32, pool: &mut FramePool) {
        let mut rest = mem::replace(&mut self.rest, Chain::EMPTY);
        self.len = u16::try_from(bytes).map_or(self.len, |bytes| self.len.min(bytes));
        self.total_bytes = u32::from(self.len);
        while let Some(mut segment) = rest.pop(pool.region()) {
            let missing = bytes.saturating_sub(self.total_bytes);
            if missing == 0 {
                pool.free(segment.frame);
                continue;
            }
            segment.len = u16::try_from(missing).map_or(segment.len, |it| segment.len.min(it));
            self.append(pool.region(), segment);
        }
    }

    /// Calls `visit` with each segment's bytes, in order.
    pub fn for_each_segment(&self, region: &Region, mut visit: impl FnMut(&[u8])) {
        visit(self.data(region));
        self.rest.segments(region).for_each(visit);
    }

    /// The bytes of each segment, in order.
    pub fn segments<'a>(&'a self, region: &'a Region) -> impl Iterator<Item = &'a [u8]> {
        iter::once(self.data(region)).chain(self.rest.segments(region))
    }

    /// As [`Self::segments`], but segments that lie in a row in memory are one.
    pub fn runs<'a>(&'a self, region: &'a Region) -> impl Iterator<Item = &'a [u8]> {
        self.rest.runs_from(region, &self.head, (self.offset, self.len))
    }

    /// Gives up the packet: its first segment, and the later ones.
    #[inline]
    pub fn into_segments(self) -> (Segment, Chain) {
        let Self { head, rest, offset, len, .. } = self;
        (Segment { frame: head, offset, len }, rest)
    }
}
