//! The packet that an ICMP error quotes: which flow the error is about.
//!
//! Any length in the quote may exceed what is there, and the quote may end right behind the first
//! eight bytes of the transport header (RFC 792); over IPv6 it may not even reach them.

use core::net::IpAddr;

use crate::icmp::{IcmpType, IcmpView};
use crate::icmpv6::{Icmpv6Type, Icmpv6View};
use crate::ip::{Fragment, IpProtocol, IpView};
use crate::{Layer, ParseError};

/// What tells flows of one protocol between two addresses apart.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum QuotedFlow {
    /// Ports of TCP, UDP or SCTP.
    Ports {
        /// Source port of the quoted packet.
        source: u16,
        /// Its destination port.
        destination: u16,
    },
    /// Identifier of an ICMP or ICMPv6 query.
    Echo {
        /// The identifier.
        id: u16,
        /// The type that asks: the quoted packet's, or that which it answers.
        asked: u8,
        /// Whether the quoted packet asked; if not, it answered.
        is_request: bool,
    },
    /// The protocol has neither, or the quoted packet is a fragment other than the first.
    Unknown,
}

/// A read-only view of the packet quoted by an ICMP error.
///
/// It went the other way: its source is the node that the error is for.
#[derive(Clone, Copy, Debug)]
pub struct QuotedView<'a> {
    ip: IpView<'a>,
    protocol: IpProtocol,
    upper_offset: usize,
    fragment: Option<Fragment>,
    flow: QuotedFlow,
}

impl<'a> QuotedView<'a> {
    /// Reads the quote in `body`, which follows the header `icmp` of an ICMP error.
    ///
    /// # Errors
    ///
    /// Fails if the message is no error, if the quote is not IPv4, and if it does not reach the
    /// ports or the identifier.
    pub fn parse_icmp(icmp: &IcmpView<'_>, body: &'a [u8]) -> Result<Self, ParseError> {
        if !icmp.kind().is_error() {
            return Err(ParseError::TypeMismatch { layer: Layer::Icmp, actual: icmp.kind().0 });
        }
        let quoted = Self::parse(body)?;
        match quoted.ip {
            IpView::V4(_) => Ok(quoted),
            IpView::V6(_) => Err(ParseError::VersionMismatch { layer: Layer::Ipv4, actual: 6 }),
        }
    }

    /// Reads the quote in `body`, which follows the header `icmp` of an ICMPv6 error.
    ///
    /// # Errors
    ///
    /// Fails if the message is no error, if the quote is not IPv6, and if it does not reach the
    /// ports or the identifier.
    pub fn parse_icmpv6(icmp: &Icmpv6View<'_>, body: &'a [u8]) -> Result<Self, ParseError> {
        if !icmp.kind().is_error() {
            return Err(ParseError::TypeMismatch { layer: Layer::Icmpv6, actual: icmp.kind().0 });
        }
        let quoted = Self::parse(body)?;
        match quoted.ip {
            IpView::V6(_) => Ok(quoted),
            IpView::V4(_) => Err(ParseError::VersionMismatch { layer: Layer::Ipv6, actual: 4 }),
        }
    }

    /// IP header of the quoted packet.
    #[must_use]
    pub fn ip(&self) -> &IpView<'a> {
        &self.ip
    }

    /// Source address of the quoted packet.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.ip.source()
    }

    /// Destination address of the quoted packet.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        self.ip.destination()
    }

    /// Transport protocol of the quoted packet.
    #[must_use]
    pub fn protocol(&self) -> IpProtocol {
        self.protocol
    }

    /// Where the quoted transport header starts, in bytes from the quoted IP header on.
    #[must_use]
    pub fn upper_offset(&self) -> usize {
        self.upper_offset
    }

    /// Which fragment the quoted packet is, if it is one.
    #[must_use]
    pub fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// Ports or identifier of the quoted packet.
    #[must_use]
    pub fn flow(&self) -> QuotedFlow {
        self.flow
    }

    fn parse(quote: &'a [u8]) -> Result<Self, ParseError> {
        let (ip, payload) = IpView::parse_header(quote)?;
        let upper = ip.upper_layer(payload)?;
        let is_fragment = upper.fragment.is_some_and(|fragment| !fragment.is_first());
        let flow =
            if is_fragment { QuotedFlow::Unknown } else { flow(upper.protocol, upper.bytes)? };
        Ok(Self {
            ip,
            protocol: upper.protocol,
            upper_offset: quote.len().saturating_sub(upper.bytes.len()),
            fragment: upper.fragment,
            flow,
        })
    }
}

fn flow(protocol: IpProtocol, transport: &[u8]) -> Result<QuotedFlow, ParseError> {
    match protocol {
        IpProtocol::TCP => ports(Layer::Tcp, transport),
        IpProtocol::UDP => ports(Layer::Udp, transport),
        IpProtocol::SCTP => ports(Layer::Sctp, transport),
        IpProtocol::ICMP => {
            let (icmp, _) = IcmpView::parse(transport)?;
            let kind = icmp.kind();
            Ok(query(icmp.echo_id(), kind.asked().map(|asked| asked.0), kind.is_request()))
        }
        IpProtocol::ICMPV6 => {
            let (icmp, _) = Icmpv6View::parse(transport)?;
            let kind = icmp.kind();
            Ok(query(icmp.echo_id(), kind.asked().map(|asked| asked.0), kind.is_request()))
        }
        _ => Ok(QuotedFlow::Unknown),
    }
}

fn query(id: Option<u16>, asked: Option<u8>, is_request: bool) -> QuotedFlow {
    match (id, asked) {
        (Some(id), Some(asked)) => QuotedFlow::Echo { id, asked, is_request },
        _ => QuotedFlow::Unknown,
    }
}

/// All three protocols start with source and destination port.
fn ports(layer: Layer, transport: &[u8]) -> Result<QuotedFlow, ParseError> {
    match transport {
        [a, b, c, d, ..] => Ok(QuotedFlow::Ports {
            source: u16::from_be_bytes([*a, *b]),
            destination: u16::from_be_bytes([*c, *d]),
        }),
        _ => Err(ParseError::Truncated { layer, needed: 4, actual: transport.len() }),
    }
}

/// Whether an ICMP message of this protocol and type quotes a packet.
#[must_use]
pub const fn is_icmp_error(protocol: IpProtocol, kind: u8) -> bool {
    match protocol {
        IpProtocol::ICMP => IcmpType(kind).is_error(),
        IpProtocol::ICMPV6 => Icmpv6Type(kind).is_error(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
