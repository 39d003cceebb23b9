//! ICMP for IPv4 (RFC 792).

use crate::checksum::{Delta, Sum};
use crate::field::{bytes_at, put_u16, u16_at};
use crate::icmp_header::{shared_accessors, verify_checksum};
use crate::{Layer, ParseError};

/// An ICMP message type.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct IcmpType(pub u8);

impl IcmpType {
    /// Echo reply.
    pub const ECHO_REPLY: Self = Self(0);
    /// Destination unreachable.
    pub const DESTINATION_UNREACHABLE: Self = Self(3);
    /// Source quench, deprecated (RFC 6633).
    pub const SOURCE_QUENCH: Self = Self(4);
    /// Redirect.
    pub const REDIRECT: Self = Self(5);
    /// Echo request.
    pub const ECHO_REQUEST: Self = Self(8);
    /// Time exceeded.
    pub const TIME_EXCEEDED: Self = Self(11);
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: Self = Self(12);
    /// Timestamp request.
    pub const TIMESTAMP: Self = Self(13);
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: Self = Self(14);

    /// Whether messages of this type report on a packet, which they quote (RFC 1122 section 3.2.2).
    #[must_use]
    pub const fn is_error(self) -> bool {
        matches!(
            self,
            Self::DESTINATION_UNREACHABLE
                | Self::SOURCE_QUENCH
                | Self::REDIRECT
                | Self::TIME_EXCEEDED
                | Self::PARAMETER_PROBLEM
        )
    }

    /// Whether messages of this type ask, or answer, under an identifier.
    #[must_use]
    pub const fn is_query(self) -> bool {
        self.is_request() || matches!(self, Self::ECHO_REPLY | Self::TIMESTAMP_REPLY)
    }

    /// Whether messages of this type ask.
    #[must_use]
    pub const fn is_request(self) -> bool {
        matches!(self, Self::ECHO_REQUEST | Self::TIMESTAMP)
    }

    /// The type that asks what messages of this type ask, or answer; `None` for no query's.
    #[must_use]
    pub const fn asked(self) -> Option<Self> {
        match self {
            Self::ECHO_REQUEST | Self::ECHO_REPLY => Some(Self::ECHO_REQUEST),
            Self::TIMESTAMP | Self::TIMESTAMP_REPLY => Some(Self::TIMESTAMP),
            _ => None,
        }
    }
}

/// Code of a destination unreachable message: fragmentation needed and DF set.
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;

/// A read-only view of the eight bytes that every ICMP message starts with.
#[derive(Clone, Copy, Debug)]
pub struct IcmpView<'a>(&'a [u8; IcmpView::LEN]);

impl<'a> IcmpView<'a> {
    shared_accessors!(IcmpType);

    /// Splits `message` into its header and what follows: data, or the packet that an error quotes.
    ///
    /// # Errors
    ///
    /// Fails below [`Self::LEN`] bytes. The checksum is not looked at: see
    /// [`Self::verify_checksum`].
    #[inline]
    pub fn parse(message: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        match message.split_first_chunk() {
            Some((header, body)) => Ok((Self(header), body)),
            None => Err(truncated(message.len())),
        }
    }

    /// Next-hop MTU in bytes of a "fragmentation needed" (RFC 1191 section 4); `None` for other
    /// messages. Zero comes from a router that does not know better.
    #[must_use]
    pub fn next_hop_mtu(&self) -> Option<u16> {
        (self.kind() == IcmpType::DESTINATION_UNREACHABLE
            && self.code() == CODE_FRAGMENTATION_NEEDED)
            .then(|| u16_at::<6, _>(self.0))
    }

    /// Checks the checksum, given the sum of what follows the header.
    ///
    /// # Errors
    ///
    /// Fails with both values if it is wrong.
    pub fn verify_checksum(&self, body: Sum) -> Result<(), ParseError> {
        verify_checksum(*self.0, body, Layer::Icmp)
    }
}

/// An ICMP header that can be edited in place. Every edit keeps the checksum right (RFC 1624).
#[derive(Debug)]
pub struct IcmpMut<'a>(&'a mut [u8; IcmpView::LEN]);

impl<'a> IcmpMut<'a> {
    /// Borrows the header at the start of `message`.
    ///
    /// # Errors
    ///
    /// Fails below [`IcmpView::LEN`] bytes.
    #[inline]
    pub fn parse(message: &'a mut [u8]) -> Result<Self, ParseError> {
        let actual = message.len();
        message.first_chunk_mut().map(Self).ok_or_else(|| truncated(actual))
    }

    /// Turns an echo request into the reply to it, whose data is the same.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if the message is not an echo request.
    pub fn make_echo_reply(&mut self) -> Result<(), ParseError> {
        let old = u16_at::<0, _>(self.0);
        if self.0[0] != IcmpType::ECHO_REQUEST.0 {
            return Err(ParseError::TypeMismatch { layer: Layer::Icmp, actual: self.0[0] });
        }
        self.0[0] = IcmpType::ECHO_REPLY.0;
        let checksum = Delta::of_u16(old, u16_at::<0, _>(self.0)).apply(u16_at::<2, _>(self.0));
        // A reply with nothing but zeros has the checksum 0xffff; for any other reply 0xffff proves
        // as much as 0x0000.
        put_u16::<2, _>(self.0, if checksum == 0 { 0xffff } else { checksum });
        Ok(())
    }
}

#[cold]
fn truncated(actual: usize) -> ParseError {
    ParseError::Truncated { layer: Layer::Icmp, needed: IcmpView::LEN, actual }
}

#[cfg(test)]
mod tests;
