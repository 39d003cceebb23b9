//! ICMP errors about a packet: whether one may be sent, and its bytes.
//!
//! [`ErrorReply::new`] judges the offending packet, so that holding one proves that an answer is
//! allowed. Rate limits (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)) need a clock and are
//! the caller's; so is a subnet's broadcast address, which only its routes tell.

mod cause;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use cause::ErrorCause;

use crate::checksum::Sum;
use crate::ecn::TrafficClass;
use crate::field::{put, put_u16};
use crate::icmp::{IcmpType, IcmpView};
use crate::icmpv6::{Icmpv6Type, Icmpv6View};
use crate::ip::{IpProtocol, IpView};
use crate::ipv4::{Ipv4Header, Ipv4View};
use crate::ipv6::{Ipv6Header, Ipv6View};
use crate::{BufferTooSmall, MacAddress, ParseError};

/// Longest ICMP error packet: what every IPv4 host takes (RFC 1812 section 4.3.2.3).
pub const IPV4_ERROR_BYTES_MAX: usize = 576;
/// Longest ICMPv6 error packet: the minimum MTU of IPv6 (RFC 4443 section 2.4 (c)).
pub const IPV6_ERROR_BYTES_MAX: usize = 1280;
/// TTL and hop limit of errors: the recommended default (RFC 1700, RFC 1812 section 4.2.2.9).
const HOP_LIMIT: u8 = 64;
/// Internetwork control: errors of a router go out with it (RFC 1812 section 4.3.2.5).
const TRAFFIC_CLASS: TrafficClass = TrafficClass(0xc0);

/// IPv4 and ICMP headers of an error, in bytes.
const IPV4_HEADERS_LEN: usize = Ipv4View::LEN_MIN.saturating_add(IcmpView::LEN);
/// IPv6 and ICMPv6 headers of an error, in bytes.
const IPV6_HEADERS_LEN: usize = Ipv6View::LEN.saturating_add(Icmpv6View::LEN);

/// Why no ICMP error may be sent about a packet (RFC 1122 section 3.2.2, RFC 1812 section 4.3.2.7,
/// RFC 4443 section 2.4 (e)).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum NotAnswerable {
    #[error("no ICMP error about a malformed packet")]
    Malformed(#[from] ParseError),

    #[error("no ICMP error about an ICMP error or redirect")]
    IsIcmpError,

    #[error("no ICMP error about a packet to the group or broadcast address {destination}")]
    DestinationIsGroup { destination: IpAddr },

    #[error("no ICMP error about a frame to the group or broadcast address {destination}")]
    FrameToGroup { destination: MacAddress },

    #[error("no ICMP error about a fragment at offset {offset_bytes}")]
    NotFirstFragment { offset_bytes: u16 },

    #[error("no ICMP error to {source_address}, which is not the address of one node")]
    SourceIsNoNode { source_address: IpAddr },
}

/// An ICMP error that may be sent about a packet.
#[derive(Clone, Copy, Debug)]
pub struct ErrorReply<'a> {
    cause: ErrorCause,
    /// The offending packet, cut to what is quoted.
    quote: &'a [u8],
    destination: IpAddr,
}

impl<'a> ErrorReply<'a> {
    /// Judges whether an error may be sent about `packet`, which came in a frame to
    /// `frame_destination`.
    ///
    /// `packet` starts with its IP header and should be as it was received, TTL included. It may be
    /// the first segment of a chain: what is there is quoted.
    ///
    /// # Errors
    ///
    /// Fails with the rule that forbids it.
    pub fn new(
        packet: &'a [u8],
        frame_destination: MacAddress,
        cause: ErrorCause,
    ) -> Result<Self, NotAnswerable> {
        let (ip, payload) = IpView::parse_header(packet)?;
        match ip {
            IpView::V4(ip) => {
                may_answer_ipv4(&ip, payload)?;
                refuse_group(frame_destination)?;
            }
            IpView::V6(ip) => {
                may_answer_ipv6(ip, payload, cause)?;
                if !is_for_groups_too(cause) {
                    refuse_group(frame_destination)?;
                }
            }
        }
        let (packet_len, quote_len_max) = match ip {
            IpView::V4(ip) => (
                usize::from(ip.total_length()),
                IPV4_ERROR_BYTES_MAX.saturating_sub(IPV4_HEADERS_LEN),
            ),
            IpView::V6(ip) => (
                ip.payload_len().saturating_add(Ipv6View::LEN),
                IPV6_ERROR_BYTES_MAX.saturating_sub(IPV6_HEADERS_LEN),
            ),
        };
        let quote = packet.get(..packet_len.min(quote_len_max)).unwrap_or(packet);
        let quote = quote.get(..quote_len_max).unwrap_or(quote);
        Ok(Self { cause, quote, destination: ip.source() })
    }

    /// Who is told: the source of the offending packet.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// Length of the error from its IP header on, in bytes: at most [`IPV4_ERROR_BYTES_MAX`] or
    /// [`IPV6_ERROR_BYTES_MAX`].
    #[must_use]
    pub fn packet_len(&self) -> usize {
        let headers = match self.destination {
            IpAddr::V4(_) => IPV4_HEADERS_LEN,
            IpAddr::V6(_) => IPV6_HEADERS_LEN,
        };
        headers.saturating_add(self.quote.len())
    }

    /// Writes the error from its IP header on and returns its length, [`Self::packet_len`].
    ///
    /// `source` is this router's address towards the sender.
    ///
    /// # Errors
    ///
    /// Fails, and writes nothing, if `source` is of the other family or `out` is too short.
    pub fn write(&self, source: IpAddr, out: &mut [u8]) -> Result<usize, WriteErrorReplyError> {
        let needed = self.packet_len();
        let actual = out.len();
        let Some(out) = out.get_mut(..needed) else {
            return Err(BufferTooSmall { needed, actual }.into());
        };
        match (source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.write_ipv4(source, destination, out);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.write_ipv6(source, destination, out);
            }
            (from, to) => return Err(WriteErrorReplyError::MixedFamilies { from, to }),
        }
        Ok(needed)
    }

    /// `out` has [`Self::packet_len`] bytes.
    fn write_ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr, out: &mut [u8]) {
        let Some((headers, quote)) = out.split_first_chunk_mut::<IPV4_HEADERS_LEN>() else {
            return;
        };
        let ip = Ipv4Header {
            traffic_class: TRAFFIC_CLASS,
            // At most 576.
            total_length: u16::try_from(self.packet_len()).unwrap_or(u16::MAX),
            identification: 0,
            dont_fragment: true,
            ttl: HOP_LIMIT,
            protocol: IpProtocol::ICMP,
            source,
            destination,
        };
        let (kind, code, rest) = self.cause.icmp();
        let mut icmp = [0; IcmpView::LEN];
        icmp[0] = kind.0;
        icmp[1] = code;
        put::<4, 4, _>(&mut icmp, rest);
        let checksum = Sum::of(&icmp).add(Sum::of(self.quote)).checksum();
        put_u16::<2, _>(&mut icmp, checksum);
        put::<0, { Ipv4View::LEN_MIN }, _>(headers, ip.to_bytes());
        put::<{ Ipv4View::LEN_MIN }, { IcmpView::LEN }, _>(headers, icmp);
        quote.copy_from_slice(self.quote);
    }

    /// `out` has [`Self::packet_len`] bytes.
    fn write_ipv6(&self, source: Ipv6Addr, destination: Ipv6Addr, out: &mut [u8]) {
        let Some((headers, quote)) = out.split_first_chunk_mut::<IPV6_HEADERS_LEN>() else {
            return;
        };
        // At most 1240.
        let length =
            u16::try_from(self.quote.len().saturating_add(Icmpv6View::LEN)).unwrap_or(u16::MAX);
        let ip = Ipv6Header {
            traffic_class: TRAFFIC_CLASS,
            flow_label: 0,
            payload_length: length,
            next_header: IpProtocol::ICMPV6,
            hop_limit: HOP_LIMIT,
            source,
            destination,
        };
        let (kind, code, rest) = self.cause.icmpv6();
        let mut icmp = [0; Icmpv6View::LEN];
        icmp[0] = kind.0;
        icmp[1] = code;
        put::<4, 4, _>(&mut icmp, rest);
        let checksum =
            Sum::of_ipv6_pseudo_header(source, destination, IpProtocol::ICMPV6, length.into())
                .add(Sum::of(&icmp))
                .add(Sum::of(self.quote))
                .checksum();
        put_u16::<2, _>(&mut icmp, checksum);
        put::<0, { Ipv6View::LEN }, _>(headers, ip.to_bytes());
        put::<{ Ipv6View::LEN }, { Icmpv6View::LEN }, _>(headers, icmp);
        quote.copy_from_slice(self.quote);
    }
}

/// Why an ICMP error could not be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum WriteErrorReplyError {
    #[error(transparent)]
    BufferTooSmall(#[from] BufferTooSmall),

    #[error("an ICMP error to {to} cannot come from {from}")]
    MixedFamilies { from: IpAddr, to: IpAddr },
}

fn may_answer_ipv4(ip: &Ipv4View<'_>, payload: &[u8]) -> Result<(), NotAnswerable> {
    ip.verify_checksum()?;
    let (source, destination) = (ip.source(), ip.destination());
    if destination.is_multicast() || destination.is_broadcast() {
        return Err(NotAnswerable::DestinationIsGroup { destination: destination.into() });
    }
    if !is_ipv4_node(source) {
        return Err(NotAnswerable::SourceIsNoNode { source_address: source.into() });
    }
    if let Some(fragment) = ip.fragment()
        && !fragment.is_first()
    {
        return Err(NotAnswerable::NotFirstFragment { offset_bytes: fragment.offset_bytes });
    }
    if ip.protocol() == IpProtocol::ICMP {
        let (icmp, _) = IcmpView::parse(payload)?;
        if icmp.kind().is_error() || !is_known_query(icmp.kind()) {
            return Err(NotAnswerable::IsIcmpError);
        }
    }
    Ok(())
}

fn may_answer_ipv6(
    ip: Ipv6View<'_>,
    payload: &[u8],
    cause: ErrorCause,
) -> Result<(), NotAnswerable> {
    let (source, destination) = (ip.source(), ip.destination());
    if destination.is_multicast() && !is_for_groups_too(cause) {
        return Err(NotAnswerable::DestinationIsGroup { destination: destination.into() });
    }
    if source.is_multicast() || source.is_unspecified() || source.is_loopback() {
        return Err(NotAnswerable::SourceIsNoNode { source_address: source.into() });
    }
    let upper = IpView::V6(ip).upper_layer(payload)?;
    if upper.protocol == IpProtocol::ICMPV6 {
        // A later fragment does not tell whether the message is an error. Other protocols'
        // fragments are answered: RFC 4443 does not except them.
        if let Some(fragment) = upper.fragment
            && !fragment.is_first()
        {
            return Err(NotAnswerable::NotFirstFragment { offset_bytes: fragment.offset_bytes });
        }
        let (icmp, _) = Icmpv6View::parse(upper.bytes)?;
        if icmp.kind().is_error() || icmp.kind() == Icmpv6Type::REDIRECT {
            return Err(NotAnswerable::IsIcmpError);
        }
    }
    Ok(())
}

/// Path MTU discovery works for multicast too (RFC 4443 section 2.4 (e.3)).
const fn is_for_groups_too(cause: ErrorCause) -> bool {
    matches!(cause, ErrorCause::TooBig { .. })
}

fn refuse_group(destination: MacAddress) -> Result<(), NotAnswerable> {
    if destination.is_multicast() {
        return Err(NotAnswerable::FrameToGroup { destination });
    }
    Ok(())
}

/// Neither "this network", loopback, multicast, reserved nor broadcast (RFC 1812 section 4.3.2.7).
fn is_ipv4_node(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

/// ICMP types that are known not to be errors: those up to address mask reply, and extended echo
/// (RFC 8335). An unknown type may be an error.
const fn is_known_query(kind: IcmpType) -> bool {
    matches!(kind.0, 0 | 8..=10 | 13..=18 | 42 | 43)
}

#[cfg(test)]
mod tests;
