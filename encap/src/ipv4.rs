//! IPv4 headers (RFC 791).

use core::net::Ipv4Addr;

use crate::checksum::{Delta, Sum};
use crate::ecn::TrafficClass;
use crate::field::{bytes_at, put, put_u16, u16_at};
use crate::ip::{Fragment, IpProtocol};
use crate::{HopLimitExceeded, Layer, ParseError};

/// "Don't fragment" in the word of flags and fragment offset.
const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in the same word.
const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset in the same word, in units of eight bytes.
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// A read-only view of an IPv4 header with its options.
///
/// Holding one proves that the version is 4, the header is whole, and the total length covers it.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4View<'a> {
    fixed: &'a [u8; Ipv4View::LEN_MIN],
    options: &'a [u8],
}

impl<'a> Ipv4View<'a> {
    /// Length of a header without options, in bytes.
    pub const LEN_MIN: usize = 20;
    /// Length of the longest header, in bytes.
    pub const LEN_MAX: usize = 60;

    /// Splits `packet` into its header and its payload, cut to the total length.
    ///
    /// Bytes beyond the total length, such as Ethernet padding, are tolerated.
    ///
    /// # Errors
    ///
    /// Fails if the version is not 4, if the header is cut short, or if the lengths contradict each
    /// other or the bytes there are. The checksum is not looked at: see [`Self::verify_checksum`].
    #[inline]
    pub fn parse(packet: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        Self::parse_chained(packet, packet.len())
    }

    /// As [`Self::parse`], for a packet of which only the first `segment` is at hand.
    ///
    /// `packet_bytes` counts from the header to the end of the last segment. The payload returned
    /// is the part that lies in this segment.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`], with the total length held against `packet_bytes`.
    #[inline]
    pub fn parse_chained(
        segment: &'a [u8],
        packet_bytes: usize,
    ) -> Result<(Self, &'a [u8]), ParseError> {
        let (view, rest) = Self::parse_header(segment)?;
        let stated = usize::from(view.total_length());
        if stated > packet_bytes {
            return Err(ParseError::LengthBeyondPacket {
                layer: Layer::Ipv4,
                stated,
                actual: packet_bytes,
            });
        }
        Ok((view, rest.get(..view.payload_len()).unwrap_or(rest)))
    }

    /// As [`Self::parse`], without holding the total length against what is there.
    ///
    /// For packets that are cut short on purpose, as ICMP errors quote them. What is returned
    /// beside the view is all that follows the header.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`], except for a total length beyond the bytes there are.
    #[inline]
    pub fn parse_header(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        let Some((fixed, rest)) = bytes.split_first_chunk::<{ Ipv4View::LEN_MIN }>() else {
            return Err(truncated(Self::LEN_MIN, bytes.len()));
        };
        if fixed[0] >> 4 != 4 {
            return Err(ParseError::VersionMismatch { layer: Layer::Ipv4, actual: fixed[0] >> 4 });
        }
        let header = usize::from(fixed[0] & 0x0f).wrapping_mul(4);
        let Some(options_len) = header.checked_sub(Self::LEN_MIN) else {
            return Err(ParseError::HeaderLengthTooSmall {
                layer: Layer::Ipv4,
                minimum: Self::LEN_MIN,
                actual: header,
            });
        };
        let Some((options, rest)) = rest.split_at_checked(options_len) else {
            return Err(truncated(header, bytes.len()));
        };
        let view = Self { fixed, options };
        let stated = usize::from(view.total_length());
        if stated < header {
            return Err(ParseError::LengthBelowHeader { layer: Layer::Ipv4, stated, header });
        }
        Ok((view, rest))
    }

    /// Length of the header with its options, in bytes.
    #[must_use]
    pub fn header_len(&self) -> usize {
        Self::LEN_MIN.wrapping_add(self.options.len())
    }

    /// Type of service: DSCP and ECN.
    #[must_use]
    pub fn traffic_class(&self) -> TrafficClass {
        TrafficClass(self.fixed[1])
    }

    /// Length of header and payload, in bytes.
    #[must_use]
    pub fn total_length(&self) -> u16 {
        u16_at::<2, _>(self.fixed)
    }

    /// Length of the payload by the total length, in bytes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        usize::from(self.total_length()).wrapping_sub(self.header_len())
    }

    /// Identification. It means something only in fragments and with DF clear (RFC 6864).
    #[must_use]
    pub fn identification(&self) -> u16 {
        u16_at::<4, _>(self.fixed)
    }

    /// Whether routers may not fragment the packet.
    #[must_use]
    pub fn is_dont_fragment(&self) -> bool {
        self.fragment_word() & DONT_FRAGMENT != 0
    }

    /// Where the packet lies in the one it is a fragment of; `None` for a whole packet.
    #[must_use]
    pub fn fragment(&self) -> Option<Fragment> {
        let word = self.fragment_word();
        (word & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0).then(|| Fragment {
            identification: u32::from(self.identification()),
            offset_bytes: (word & FRAGMENT_OFFSET) << 3,
            has_more: word & MORE_FRAGMENTS != 0,
        })
    }

    /// Time to live, in hops.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// What the packet carries.
    #[must_use]
    pub fn protocol(&self) -> IpProtocol {
        IpProtocol(self.fixed[9])
    }

    /// Header checksum as it stands in the packet.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16_at::<10, _>(self.fixed)
    }

    /// Source address.
    #[must_use]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from(*bytes_at::<12, 4, _>(self.fixed))
    }

    /// Destination address.
    #[must_use]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from(*bytes_at::<16, 4, _>(self.fixed))
    }

    /// The options with their padding, a multiple of four bytes; empty as a rule.
    #[must_use]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// Checks the header checksum.
    ///
    /// # Errors
    ///
    /// Fails with both values if it is wrong.
    #[inline]
    pub fn verify_checksum(&self) -> Result<(), ParseError> {
        let mut sum = Sum::of(self.fixed);
        if !self.options.is_empty() {
            sum = sum.add(Sum::of(self.options));
        }
        if sum.is_intact() { Ok(()) } else { Err(self.checksum_mismatch(sum)) }
    }

    /// The sum of the pseudo header of this packet's transport, for an unfragmented packet.
    #[must_use]
    pub fn pseudo_header(&self) -> Sum {
        let length = self.total_length().wrapping_sub(
            // At most 60.
            u16::try_from(self.header_len()).unwrap_or(0),
        );
        Sum::of_ipv4_pseudo_header(self.source(), self.destination(), self.protocol(), length)
    }

    #[cold]
    fn checksum_mismatch(&self, sum: Sum) -> ParseError {
        let found = self.checksum();
        let computed = sum.remove(Sum::of_u16(found)).checksum();
        ParseError::ChecksumMismatch { layer: Layer::Ipv4, found, computed }
    }

    fn fragment_word(&self) -> u16 {
        u16_at::<6, _>(self.fixed)
    }
}

/// An IPv4 header that can be edited in place. Every edit keeps the checksum right (RFC 1624).
#[derive(Debug)]
pub struct Ipv4Mut<'a>(&'a mut [u8; Ipv4View::LEN_MIN]);

impl<'a> Ipv4Mut<'a> {
    /// Borrows the fixed part of the header at the start of `packet`.
    ///
    /// # Errors
    ///
    /// Fails below 20 bytes and if the version is not 4. Lengths are not looked at.
    #[inline]
    pub fn parse(packet: &'a mut [u8]) -> Result<Self, ParseError> {
        let actual = packet.len();
        let Some(header) = packet.first_chunk_mut::<{ Ipv4View::LEN_MIN }>() else {
            return Err(truncated(Ipv4View::LEN_MIN, actual));
        };
        if header[0] >> 4 != 4 {
            return Err(ParseError::VersionMismatch { layer: Layer::Ipv4, actual: header[0] >> 4 });
        }
        Ok(Self(header))
    }

    /// Takes one hop off the time to live and returns what is left, at least 1.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if none would be left (RFC 1812 section 5.3.1).
    #[inline]
    pub fn decrement_ttl(&mut self) -> Result<u8, HopLimitExceeded> {
        let ttl = self.0[8];
        if ttl <= 1 {
            return Err(HopLimitExceeded { actual: ttl });
        }
        self.0[8] = ttl.wrapping_sub(1);
        // The TTL is the high byte of its word: one less is 0x0100 less, whatever the low byte is.
        self.update(Delta::of_u16(0x0100, 0));
        Ok(ttl.wrapping_sub(1))
    }

    /// Sets the type of service.
    #[inline]
    pub fn set_traffic_class(&mut self, class: TrafficClass) {
        let old = u16_at::<0, _>(self.0);
        self.0[1] = class.0;
        self.update(Delta::of_u16(old, u16_at::<0, _>(self.0)));
    }

    /// Sets the source address. Transport checksums are the caller's: see [`Delta::of_ipv4`].
    #[inline]
    pub fn set_source(&mut self, address: Ipv4Addr) {
        let old = Ipv4Addr::from(*bytes_at::<12, 4, _>(self.0));
        put::<12, 4, _>(self.0, address.octets());
        self.update(Delta::of_ipv4(old, address));
    }

    /// Sets the destination address. Transport checksums are the caller's: see [`Delta::of_ipv4`].
    #[inline]
    pub fn set_destination(&mut self, address: Ipv4Addr) {
        let old = Ipv4Addr::from(*bytes_at::<16, 4, _>(self.0));
        put::<16, 4, _>(self.0, address.octets());
        self.update(Delta::of_ipv4(old, address));
    }

    fn update(&mut self, delta: Delta) {
        let checksum = delta.apply(u16_at::<10, _>(self.0));
        put_u16::<10, _>(self.0, checksum);
    }
}

/// The fields of an IPv4 header without options, of a packet that is no fragment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ipv4Header {
    /// Type of service.
    pub traffic_class: TrafficClass,
    /// Length of header and payload, in bytes.
    pub total_length: u16,
    /// Identification; zero is right with DF set (RFC 6864 section 4.1).
    pub identification: u16,
    /// Whether routers may not fragment the packet.
    pub dont_fragment: bool,
    /// Time to live, in hops.
    pub ttl: u8,
    /// What the packet carries.
    pub protocol: IpProtocol,
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
}

impl Ipv4Header {
    /// The header as it goes on the wire, checksum included.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Ipv4View::LEN_MIN] {
        let mut header = [0; Ipv4View::LEN_MIN];
        header[0] = 0x45;
        header[1] = self.traffic_class.0;
        put_u16::<2, _>(&mut header, self.total_length);
        put_u16::<4, _>(&mut header, self.identification);
        put_u16::<6, _>(&mut header, if self.dont_fragment { DONT_FRAGMENT } else { 0 });
        header[8] = self.ttl;
        header[9] = self.protocol.0;
        put::<12, 4, _>(&mut header, self.source.octets());
        put::<16, 4, _>(&mut header, self.destination.octets());
        let checksum = Sum::of(&header).checksum();
        put_u16::<10, _>(&mut header, checksum);
        header
    }
}

#[cold]
fn truncated(needed: usize, actual: usize) -> ParseError {
    ParseError::Truncated { layer: Layer::Ipv4, needed, actual }
}

#[cfg(test)]
mod tests;
