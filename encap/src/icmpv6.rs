//! ICMP for IPv6 (RFC 4443). Neighbour discovery is in [`ndp`].

pub mod ndp;

use crate::checksum::{Delta, Sum};
use crate::field::{bytes_at, put_u16, u16_at, u32_at};
use crate::icmp_header::{shared_accessors, verify_checksum};
use crate::{Layer, ParseError};

/// An ICMPv6 message type.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct Icmpv6Type(pub u8);

impl Icmpv6Type {
    /// Destination unreachable.
    pub const DESTINATION_UNREACHABLE: Self = Self(1);
    /// Packet too big.
    pub const PACKET_TOO_BIG: Self = Self(2);
    /// Time exceeded.
    pub const TIME_EXCEEDED: Self = Self(3);
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: Self = Self(4);
    /// Echo request.
    pub const ECHO_REQUEST: Self = Self(128);
    /// Echo reply.
    pub const ECHO_REPLY: Self = Self(129);
    /// Multicast listener query (RFC 2710).
    pub const MULTICAST_LISTENER_QUERY: Self = Self(130);
    /// Multicast listener report (RFC 2710).
    pub const MULTICAST_LISTENER_REPORT: Self = Self(131);
    /// Multicast listener done (RFC 2710).
    pub const MULTICAST_LISTENER_DONE: Self = Self(132);
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICITATION: Self = Self(133);
    /// Router advertisement (RFC 4861).
    pub const ROUTER_ADVERTISEMENT: Self = Self(134);
    /// Neighbour solicitation (RFC 4861).
    pub const NEIGHBOUR_SOLICITATION: Self = Self(135);
    /// Neighbour advertisement (RFC 4861).
    pub const NEIGHBOUR_ADVERTISEMENT: Self = Self(136);
    /// Redirect (RFC 4861).
    pub const REDIRECT: Self = Self(137);
    /// Multicast listener report, version 2 (RFC 3810).
    pub const MULTICAST_LISTENER_REPORT_V2: Self = Self(143);

    /// Whether messages of this type report on a packet, which they quote: types below 128
    /// (RFC 4443 section 2.1).
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 < 128
    }

    /// Whether messages of this type ask, or answer, under an identifier.
    #[must_use]
    pub const fn is_query(self) -> bool {
        matches!(self, Self::ECHO_REQUEST | Self::ECHO_REPLY)
    }

    /// Whether messages of this type ask.
    #[must_use]
    pub const fn is_request(self) -> bool {
        matches!(self, Self::ECHO_REQUEST)
    }

    /// The type that asks what messages of this type ask, or answer; `None` for no query's.
    #[must_use]
    pub const fn asked(self) -> Option<Self> {
        if self.is_query() { Some(Self::ECHO_REQUEST) } else { None }
    }

    /// Whether messages of this type belong to neighbour discovery (RFC 4861): never forwarded.
    #[must_use]
    pub const fn is_neighbour_discovery(self) -> bool {
        matches!(self.0, 133..=137)
    }

    /// Whether messages of this type belong to multicast listener discovery: never forwarded.
    #[must_use]
    pub const fn is_listener_discovery(self) -> bool {
        matches!(self.0, 130..=132 | 143)
    }
}

/// A read-only view of the eight bytes that every ICMPv6 message handled here starts with.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv6View<'a>(&'a [u8; Icmpv6View::LEN]);

impl<'a> Icmpv6View<'a> {
    shared_accessors!(Icmpv6Type);

    /// Splits `message` into its header and what follows: data, a neighbour discovery body, or the
    /// packet that an error quotes.
    ///
    /// # Errors
    ///
    /// Fails below [`Self::LEN`] bytes. The checksum is not looked at: see
    /// [`Self::verify_checksum`].
    #[inline]
    pub fn parse(message: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        match message.split_first_chunk() {
            Some((header, body)) => Ok((Self(header), body)),
            None => Err(truncated(Self::LEN, message.len())),
        }
    }

    /// MTU in bytes of the link that a packet was too big for; `None` for other types.
    #[must_use]
    pub fn next_hop_mtu(&self) -> Option<u32> {
        (self.kind() == Icmpv6Type::PACKET_TOO_BIG).then(|| u32_at::<4, _>(self.0))
    }

    /// Checks the checksum, given the sums of the pseudo header and of what follows the header.
    ///
    /// # Errors
    ///
    /// Fails with both values if it is wrong.
    pub fn verify_checksum(&self, pseudo_header: Sum, body: Sum) -> Result<(), ParseError> {
        verify_checksum(*self.0, pseudo_header.add(body), Layer::Icmpv6)
    }
}

/// An ICMPv6 header that can be edited in place. Every edit keeps the checksum right (RFC 1624).
#[derive(Debug)]
pub struct Icmpv6Mut<'a>(&'a mut [u8; Icmpv6View::LEN]);

impl<'a> Icmpv6Mut<'a> {
    /// Borrows the header at the start of `message`.
    ///
    /// # Errors
    ///
    /// Fails below [`Icmpv6View::LEN`] bytes.
    #[inline]
    pub fn parse(message: &'a mut [u8]) -> Result<Self, ParseError> {
        let actual = message.len();
        message.first_chunk_mut().map(Self).ok_or_else(|| truncated(Icmpv6View::LEN, actual))
    }

    /// Turns an echo request into the reply to it, whose data is the same.
    ///
    /// The checksum stays right if source and destination of the packet merely trade places.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if the message is not an echo request.
    pub fn make_echo_reply(&mut self) -> Result<(), ParseError> {
        let old = u16_at::<0, _>(self.0);
        if self.0[0] != Icmpv6Type::ECHO_REQUEST.0 {
            return Err(ParseError::TypeMismatch { layer: Layer::Icmpv6, actual: self.0[0] });
        }
        self.0[0] = Icmpv6Type::ECHO_REPLY.0;
        let checksum = Delta::of_u16(old, u16_at::<0, _>(self.0)).apply(u16_at::<2, _>(self.0));
        put_u16::<2, _>(self.0, checksum);
        Ok(())
    }
}

#[cold]
fn truncated(needed: usize, actual: usize) -> ParseError {
    ParseError::Truncated { layer: Layer::Icmpv6, needed, actual }
}

#[cfg(test)]
mod tests;
