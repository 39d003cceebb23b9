//! IPv6 headers (RFC 8200).
//!
//! Jumbograms (RFC 2675) are not supported: a payload length of zero is an empty payload.

use core::net::Ipv6Addr;

use crate::checksum::Sum;
use crate::ecn::TrafficClass;
use crate::field::{bytes_at, put, put_u16, u16_at, u32_at};
use crate::ip::{Fragment, IpProtocol};
use crate::{HopLimitExceeded, Layer, ParseError};

/// Extension headers walked at most.
///
/// The order that RFC 8200 section 4.1 recommends holds six that can be walked (ESP ends the
/// chain); two more are for senders that repeat destination options. A longer chain is not
/// legitimate traffic, and the walk is per packet.
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// A read-only view of the fixed IPv6 header.
///
/// Holding one proves that the version is 6 and the header is whole.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6View<'a>(&'a [u8; Ipv6View::LEN]);

impl<'a> Ipv6View<'a> {
    /// Header length in bytes, without extension headers.
    pub const LEN: usize = 40;

    /// Splits `packet` into its header and its payload, cut to the payload length.
    ///
    /// The payload starts with the extension headers, if there are any: see [`walk`]. Bytes beyond
    /// the payload length, such as Ethernet padding, are tolerated.
    ///
    /// # Errors
    ///
    /// Fails if the version is not 6, if the header is cut short, or if the payload length exceeds
    /// the bytes there are.
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
    /// As [`Self::parse`], with the payload length held against `packet_bytes`.
    #[inline]
    pub fn parse_chained(
        segment: &'a [u8],
        packet_bytes: usize,
    ) -> Result<(Self, &'a [u8]), ParseError> {
        let (view, rest) = Self::parse_header(segment)?;
        let stated = view.payload_len();
        let actual = packet_bytes.saturating_sub(Self::LEN);
        if stated > actual {
            return Err(ParseError::LengthBeyondPacket { layer: Layer::Ipv6, stated, actual });
        }
        Ok((view, rest.get(..stated).unwrap_or(rest)))
    }

    /// As [`Self::parse`], without holding the payload length against what is there.
    ///
    /// For packets that are cut short on purpose, as ICMP errors quote them. What is returned
    /// beside the view is all that follows the header.
    ///
    /// # Errors
    ///
    /// Fails if the version is not 6 or the header is cut short.
    #[inline]
    pub fn parse_header(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        let Some((header, rest)) = bytes.split_first_chunk::<{ Ipv6View::LEN }>() else {
            return Err(truncated(bytes.len()));
        };
        if header[0] >> 4 != 6 {
            return Err(ParseError::VersionMismatch { layer: Layer::Ipv6, actual: header[0] >> 4 });
        }
        Ok((Self(header), rest))
    }

    /// Traffic class: DSCP and ECN.
    #[must_use]
    pub fn traffic_class(&self) -> TrafficClass {
        TrafficClass((self.0[0] << 4) | (self.0[1] >> 4))
    }

    /// Flow label, 20 bits (RFC 6437).
    #[must_use]
    pub fn flow_label(&self) -> u32 {
        u32_at::<0, _>(self.0) & 0x000f_ffff
    }

    /// Length of what follows the fixed header, extension headers included, in bytes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        usize::from(u16_at::<4, _>(self.0))
    }

    /// Protocol of the first extension header or of the payload.
    #[must_use]
    pub fn next_header(&self) -> IpProtocol {
        IpProtocol(self.0[6])
    }

    /// Hop limit.
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        self.0[7]
    }

    /// Source address.
    #[must_use]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(*bytes_at::<8, 16, _>(self.0))
    }

    /// Destination address. With a routing header it is the next stop, not the last.
    #[must_use]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(*bytes_at::<24, 16, _>(self.0))
    }

    /// The sum of the pseudo header of an upper layer of `length` bytes carried by this packet.
    #[must_use]
    pub fn pseudo_header(&self, protocol: IpProtocol, length: u32) -> Sum {
        Sum::of(bytes_at::<8, 32, _>(self.0))
            .add(Sum::of_u16(u16::from(protocol.0)))
            .add(Sum::of_u32(length))
    }
}

/// Where the chain of extension headers of a packet leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Walked {
    /// What follows the last header walked.
    pub protocol: IpProtocol,
    /// Length of all headers walked, in bytes: where `protocol`'s bytes start in the payload.
    pub header_bytes: usize,
    /// Set if the packet is a fragment, also for a fragment that is the whole ("atomic", RFC 6946).
    pub fragment: Option<Fragment>,
}

/// Walks the extension headers at the start of an IPv6 `payload` whose first protocol is `first`.
///
/// Hop-by-hop options, routing, destination options, fragment and authentication headers are
/// walked. Any other protocol ends the chain, and so do hop-by-hop options that are not first, a
/// second fragment header, and what follows the fragment header of a fragment that is not the first
/// one: those bytes are not headers.
///
/// # Errors
///
/// Fails if a header is cut short, and beyond [`EXTENSION_HEADERS_MAX`] headers.
pub fn walk(first: IpProtocol, payload: &[u8]) -> Result<Walked, ParseError> {
    let mut walked = Walked { protocol: first, header_bytes: 0, fragment: None };
    if !is_extension(first) {
        return Ok(walked);
    }
    for index in 0..=EXTENSION_HEADERS_MAX {
        let bytes = payload.get(walked.header_bytes..).unwrap_or_default();
        let ends = match walked.protocol {
            IpProtocol::HOP_BY_HOP => index != 0,
            IpProtocol::FRAGMENT => walked.fragment.is_some(),
            protocol => !is_extension(protocol),
        };
        if ends || walked.fragment.is_some_and(|fragment| !fragment.is_first()) {
            return Ok(walked);
        }
        let length = match bytes {
            [_, _, ..] if walked.protocol == IpProtocol::FRAGMENT => 8,
            // In units of four bytes, less two (RFC 4302 section 2.2).
            [_, units, ..] if walked.protocol == IpProtocol::AUTHENTICATION => {
                usize::from(*units).wrapping_add(2).wrapping_mul(4)
            }
            // In units of eight bytes, less one.
            [_, units, ..] => usize::from(*units).wrapping_add(1).wrapping_mul(8),
            _ => 8,
        };
        let Some(header) = bytes.get(..length) else {
            return Err(extension_truncated(length, bytes.len()));
        };
        if walked.protocol == IpProtocol::FRAGMENT
            && let Some(header) = header.first_chunk::<8>()
        {
            let word = u16_at::<2, _>(header);
            walked.fragment = Some(Fragment {
                identification: u32_at::<4, _>(header),
                offset_bytes: word & 0xfff8,
                has_more: word & 1 != 0,
            });
        }
        walked.protocol =
            header.first().map_or(IpProtocol::NO_NEXT_HEADER, |next| IpProtocol(*next));
        walked.header_bytes = walked.header_bytes.wrapping_add(length);
    }
    Err(ParseError::TooManyExtensionHeaders { limit: EXTENSION_HEADERS_MAX })
}

/// Whether this protocol is an extension header that [`walk`] looks into.
#[must_use]
pub const fn is_extension(protocol: IpProtocol) -> bool {
    matches!(
        protocol,
        IpProtocol::HOP_BY_HOP
            | IpProtocol::ROUTING
            | IpProtocol::FRAGMENT
            | IpProtocol::AUTHENTICATION
            | IpProtocol::DESTINATION_OPTIONS
    )
}

/// A fixed IPv6 header that can be edited in place.
#[derive(Debug)]
pub struct Ipv6Mut<'a>(&'a mut [u8; Ipv6View::LEN]);

impl<'a> Ipv6Mut<'a> {
    /// Borrows the header at the start of `packet`.
    ///
    /// # Errors
    ///
    /// Fails below 40 bytes and if the version is not 6. Lengths are not looked at.
    #[inline]
    pub fn parse(packet: &'a mut [u8]) -> Result<Self, ParseError> {
        let actual = packet.len();
        let Some(header) = packet.first_chunk_mut::<{ Ipv6View::LEN }>() else {
            return Err(truncated(actual));
        };
        if header[0] >> 4 != 6 {
            return Err(ParseError::VersionMismatch { layer: Layer::Ipv6, actual: header[0] >> 4 });
        }
        Ok(Self(header))
    }

    /// Takes one off the hop limit and returns what is left, at least 1.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if none would be left (RFC 8200 section 3).
    #[inline]
    pub fn decrement_hop_limit(&mut self) -> Result<u8, HopLimitExceeded> {
        let hop_limit = self.0[7];
        if hop_limit <= 1 {
            return Err(HopLimitExceeded { actual: hop_limit });
        }
        self.0[7] = hop_limit.wrapping_sub(1);
        Ok(self.0[7])
    }

    /// Sets the traffic class.
    #[inline]
    pub fn set_traffic_class(&mut self, class: TrafficClass) {
        self.0[0] = 0x60 | (class.0 >> 4);
        self.0[1] = (class.0 << 4) | (self.0[1] & 0x0f);
    }

    /// Sets the source address. Transport checksums are the caller's: see
    /// [`crate::checksum::Delta`].
    #[inline]
    pub fn set_source(&mut self, address: Ipv6Addr) {
        put::<8, 16, _>(self.0, address.octets());
    }

    /// Sets the destination address. Transport checksums are the caller's, as for the source.
    #[inline]
    pub fn set_destination(&mut self, address: Ipv6Addr) {
        put::<24, 16, _>(self.0, address.octets());
    }
}

/// The fields of a fixed IPv6 header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ipv6Header {
    /// Traffic class.
    pub traffic_class: TrafficClass,
    /// Flow label; counts with its low 20 bits.
    pub flow_label: u32,
    /// Length of what follows the header, in bytes.
    pub payload_length: u16,
    /// What the packet carries.
    pub next_header: IpProtocol,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
}

impl Ipv6Header {
    /// The header as it goes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Ipv6View::LEN] {
        let mut header = [0; Ipv6View::LEN];
        let first =
            0x6000_0000 | (u32::from(self.traffic_class.0) << 20) | (self.flow_label & 0x000f_ffff);
        put::<0, 4, _>(&mut header, first.to_be_bytes());
        put_u16::<4, _>(&mut header, self.payload_length);
        header[6] = self.next_header.0;
        header[7] = self.hop_limit;
        put::<8, 16, _>(&mut header, self.source.octets());
        put::<24, 16, _>(&mut header, self.destination.octets());
        header
    }
}

#[cold]
fn truncated(actual: usize) -> ParseError {
    ParseError::Truncated { layer: Layer::Ipv6, needed: Ipv6View::LEN, actual }
}

#[cold]
fn extension_truncated(needed: usize, actual: usize) -> ParseError {
    ParseError::Truncated { layer: Layer::Ipv6Extension, needed, actual }
}

#[cfg(test)]
mod tests;
