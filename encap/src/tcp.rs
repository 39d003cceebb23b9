//! TCP headers (RFC 9293).

use core::fmt;

use crate::field::{u16_at, u32_at};
use crate::{Layer, ParseError};

/// Options looked at in one header: 40 bytes hold no more of two bytes each, and padding is
/// skipped.
const OPTIONS_MAX: usize = 40;

/// TCP control bits, the low byte of the flags word.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// Whether every flag of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any flag of `other` is set.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The flags of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for TcpFlags {
    /// One letter a flag, lowest bit first, such as `SA`; `-` for none.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let letters = [
            (Self::FIN, 'F'),
            (Self::SYN, 'S'),
            (Self::RST, 'R'),
            (Self::PSH, 'P'),
            (Self::ACK, 'A'),
            (Self::URG, 'U'),
            (Self::ECE, 'E'),
            (Self::CWR, 'C'),
        ];
        if self.0 == 0 {
            return formatter.write_char('-');
        }
        letters
            .into_iter()
            .filter(|(flag, _)| self.contains(*flag))
            .try_for_each(|(_, letter)| formatter.write_char(letter))
    }
}

/// A read-only view of a TCP header with its options.
///
/// Holding one proves that the header is whole by its data offset.
#[derive(Clone, Copy, Debug)]
pub struct TcpView<'a> {
    fixed: &'a [u8; TcpView::LEN_MIN],
    options: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// Length of a header without options, in bytes.
    pub const LEN_MIN: usize = 20;
    /// Length of the longest header, in bytes.
    pub const LEN_MAX: usize = 60;

    /// Splits `segment` into its header and its payload.
    ///
    /// # Errors
    ///
    /// Fails if the header is cut short, or if the data offset is below five words.
    #[inline]
    pub fn parse(segment: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        let Some((fixed, rest)) = segment.split_first_chunk::<{ TcpView::LEN_MIN }>() else {
            return Err(truncated(Self::LEN_MIN, segment.len()));
        };
        let header = usize::from(fixed[12] >> 4).wrapping_mul(4);
        let Some(options_len) = header.checked_sub(Self::LEN_MIN) else {
            return Err(ParseError::HeaderLengthTooSmall {
                layer: Layer::Tcp,
                minimum: Self::LEN_MIN,
                actual: header,
            });
        };
        match rest.split_at_checked(options_len) {
            Some((options, payload)) => Ok((Self { fixed, options }, payload)),
            None => Err(truncated(header, segment.len())),
        }
    }

    /// Length of the header with its options, in bytes.
    #[must_use]
    pub fn header_len(&self) -> usize {
        Self::LEN_MIN.wrapping_add(self.options.len())
    }

    /// Source port.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16_at::<0, _>(self.fixed)
    }

    /// Destination port.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16_at::<2, _>(self.fixed)
    }

    /// Sequence number of the first byte, or of the SYN.
    #[must_use]
    pub fn sequence(&self) -> u32 {
        u32_at::<4, _>(self.fixed)
    }

    /// Acknowledgement number; significant with [`TcpFlags::ACK`].
    #[must_use]
    pub fn acknowledgement(&self) -> u32 {
        u32_at::<8, _>(self.fixed)
    }

    /// Control bits.
    #[must_use]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.fixed[13])
    }

    /// Window, before scaling.
    #[must_use]
    pub fn window(&self) -> u16 {
        u16_at::<14, _>(self.fixed)
    }

    /// Checksum as it stands in the packet.
    #[must_use]
    pub fn checksum(&self) -> u16 {
        u16_at::<16, _>(self.fixed)
    }

    /// Urgent pointer; significant with [`TcpFlags::URG`].
    #[must_use]
    pub fn urgent(&self) -> u16 {
        u16_at::<18, _>(self.fixed)
    }

    /// The options with their padding, a multiple of four bytes.
    #[must_use]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// Maximum segment size in bytes, from its option (RFC 9293 section 3.7.1).
    #[must_use]
    pub fn maximum_segment_bytes(&self) -> Option<u16> {
        match self.option(2) {
            Some([high, low]) => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        }
    }

    /// Window scale shift, from its option; at most 14 (RFC 7323 section 2.3).
    #[must_use]
    pub fn window_scale(&self) -> Option<u8> {
        match self.option(3) {
            Some([shift]) => Some((*shift).min(14)),
            _ => None,
        }
    }

    /// Whether selective acknowledgements are permitted (RFC 2018), an option of a SYN.
    #[must_use]
    pub fn is_sack_permitted(&self) -> bool {
        self.option(4).is_some()
    }

    /// The value of the first option of this kind. Malformed options end the search.
    fn option(&self, kind: u8) -> Option<&'a [u8]> {
        let mut rest = self.options;
        for _ in 0..OPTIONS_MAX {
            rest = match rest {
                // End of options.
                [] | [0, ..] => return None,
                // No operation.
                [1, tail @ ..] => tail,
                [found, length, tail @ ..] => {
                    let (value, tail) =
                        tail.split_at_checked(usize::from(*length).checked_sub(2)?)?;
                    if *found == kind {
                        return Some(value);
                    }
                    tail
                }
                [_] => return None,
            };
        }
        None
    }
}

#[cold]
fn truncated(needed: usize, actual: usize) -> ParseError {
    ParseError::Truncated { layer: Layer::Tcp, needed, actual }
}

#[cfg(test)]
mod tests;
