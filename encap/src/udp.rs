//! UDP headers (RFC 768).

use crate::checksum::Sum;
use crate::field::{put_u16, u16_at};
use crate::{Layer, ParseError};

/// A read-only view of a UDP header.
#[derive(Clone, Copy, Debug)]
pub struct UdpView<'a>(&'a [u8; UdpView::LEN]);

impl<'a> UdpView<'a> {
    /// Header length in bytes.
    pub const LEN: usize = 8;

    /// Splits `datagram` into its header and its payload, cut to the length field.
    ///
    /// # Errors
    ///
    /// Fails if the header is cut short, or if the length field is below the header's length or
    /// beyond the bytes there are.
    #[inline]
    pub fn parse(datagram: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        Self::parse_chained(datagram, datagram.len())
    }

    /// As [`Self::parse`], for a datagram of which only the first `segment` is at hand.
    ///
    /// `datagram_bytes` counts from the header to the end of the IP payload. The payload returned
    /// is the part that lies in this segment.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`], with the length field held against `datagram_bytes`.
    #[inline]
    pub fn parse_chained(
        segment: &'a [u8],
        datagram_bytes: usize,
    ) -> Result<(Self, &'a [u8]), ParseError> {
        let (view, rest) = Self::parse_header(segment)?;
        let stated = usize::from(view.length());
        if stated > datagram_bytes {
            return Err(ParseError::LengthBeyondPacket {
                layer: Layer::Udp,
                stated,
                actual: datagram_bytes,
            });
        }
        Ok((view, rest.get(..view.payload_len()).unwrap_or(rest)))
    }

    /// As [`Self::parse`], without holding the length field against what is there: for the first
    /// fragment of a datagram, and for one that an ICMP error quotes.
    ///
    /// # Errors
    ///
    /// Fails if the header is cut short, or if the length field is below the header's length.
    #[inline]
    pub fn parse_header(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        let Some((header, rest)) = bytes.split_first_chunk() else {
            return Err(ParseError::Truncated {
                layer: Layer::Udp,
                needed: Self::LEN,
                actual: bytes.len(),
            });
        };
        let view = Self(header);
        let stated = usize::from(view.length());
        if stated < Self::LEN {
            return Err(ParseError::LengthBelowHeader {
                layer: Layer::Udp,
                stated,
                header: Self::LEN,
            });
        }
        Ok((view, rest))
    }

    /// Source port.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16_at::<0, _>(self.0)
    }

    /// Destination port.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16_at::<2, _>(self.0)
    }

    /// Length of header and payload, in bytes.
    #[must_use]
    pub fn length(&self) -> u16 {
        u16_at::<4, _>(self.0)
    }

    /// Length of the payload by the length field, in bytes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        usize::from(self.length()).wrapping_sub(Self::LEN)
    }

    /// Checksum as it stands in the packet; zero means none.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16_at::<6, _>(self.0)
    }

    /// Checks the checksum, given the sums of the pseudo header and of the payload.
    ///
    /// A checksum of zero, which says that there is none, passes; whether it may be missing depends
    /// on the IP version and is the caller's question.
    ///
    /// # Errors
    ///
    /// Fails with both values if it is wrong.
    pub fn verify_checksum(&self, pseudo_header: Sum, payload: Sum) -> Result<(), ParseError> {
        let found = self.checksum();
        let sum = pseudo_header.add(Sum::of(self.0)).add(payload);
        if found == 0 || sum.is_intact() {
            return Ok(());
        }
        let computed = sum.remove(Sum::of_u16(found)).udp_checksum();
        Err(ParseError::ChecksumMismatch { layer: Layer::Udp, found, computed })
    }
}

/// The fields of a UDP header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UdpHeader {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length of header and payload, in bytes.
    pub length: u16,
    /// Checksum; zero means none.
    pub checksum: u16,
}

impl UdpHeader {
    /// The header as it goes on the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; UdpView::LEN] {
        let mut header = [0; UdpView::LEN];
        put_u16::<0, _>(&mut header, self.source_port);
        put_u16::<2, _>(&mut header, self.destination_port);
        put_u16::<4, _>(&mut header, self.length);
        put_u16::<6, _>(&mut header, self.checksum);
        header
    }
}

#[cfg(test)]
mod tests;
