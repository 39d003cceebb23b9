//! What both versions of IP have in common.

use core::fmt;
use core::net::IpAddr;

use crate::ecn::TrafficClass;
use crate::ipv4::Ipv4View;
use crate::ipv6::{self, Ipv6View};
use crate::{Layer, ParseError};

/// The protocol that an IP header carries (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// IPv6 routing header.
    pub const ROUTING: Self = Self(43);
    /// IPv6 fragment header.
    pub const FRAGMENT: Self = Self(44);
    /// Authentication header.
    pub const AUTHENTICATION: Self = Self(51);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// IPv6: nothing follows.
    pub const NO_NEXT_HEADER: Self = Self(59);
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: Self = Self(60);
    /// SCTP.
    pub const SCTP: Self = Self(132);
}

impl fmt::Debug for IpProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::ICMP => "ICMP",
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::ICMPV6 => "ICMPv6",
            Self::SCTP => "SCTP",
            Self(number) => return write!(formatter, "{number}"),
        };
        formatter.write_str(name)
    }
}

/// Where a fragment lies in its packet. A packet that was not fragmented has none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fragment {
    /// Identification shared by all fragments of a packet; IPv4 uses the low 16 bits.
    pub identification: u32,
    /// Position of this fragment's payload in the packet's, in bytes, a multiple of eight.
    pub offset_bytes: u16,
    /// Whether fragments follow this one.
    pub has_more: bool,
}

impl Fragment {
    /// Whether this is the fragment that starts with the transport header.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset_bytes == 0
    }

    /// Whether this is a whole packet with a fragment header all the same ("atomic fragment"), to be
    /// treated as if it had none (RFC 6946 section 4, RFC 8200 section 4.5).
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.is_first() && !self.has_more
    }
}

/// A read-only view of an IP header of either version.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum IpView<'a> {
    V4(Ipv4View<'a>),
    V6(Ipv6View<'a>),
}

impl<'a> IpView<'a> {
    /// Splits `packet` into its header and payload, by the version in its first byte.
    ///
    /// The payload is cut to the length that the header states. For IPv6 it begins with the
    /// extension headers, if there are any.
    ///
    /// # Errors
    ///
    /// As [`Ipv4View::parse`] and [`Ipv6View::parse`], and for any other version.
    pub fn parse(packet: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        match version(packet)? {
            4 => Ipv4View::parse(packet).map(|(view, payload)| (Self::V4(view), payload)),
            6 => Ipv6View::parse(packet).map(|(view, payload)| (Self::V6(view), payload)),
            actual => Err(ParseError::VersionMismatch { layer: Layer::Ip, actual }),
        }
    }

    /// As [`Self::parse`] for a packet that may be cut short, as ICMP errors quote it.
    ///
    /// # Errors
    ///
    /// As [`Ipv4View::parse_header`] and [`Ipv6View::parse_header`], and for any other version.
    pub fn parse_header(packet: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        match version(packet)? {
            4 => Ipv4View::parse_header(packet).map(|(view, payload)| (Self::V4(view), payload)),
            6 => Ipv6View::parse_header(packet).map(|(view, payload)| (Self::V6(view), payload)),
            actual => Err(ParseError::VersionMismatch { layer: Layer::Ip, actual }),
        }
    }

    /// Source address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        match self {
            Self::V4(view) => view.source().into(),
            Self::V6(view) => view.source().into(),
        }
    }

    /// Destination address.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::V4(view) => view.destination().into(),
            Self::V6(view) => view.destination().into(),
        }
    }

    /// Type of service or traffic class.
    #[must_use]
    pub fn traffic_class(&self) -> TrafficClass {
        match self {
            Self::V4(view) => view.traffic_class(),
            Self::V6(view) => view.traffic_class(),
        }
    }

    /// TTL or hop limit.
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        match self {
            Self::V4(view) => view.ttl(),
            Self::V6(view) => view.hop_limit(),
        }
    }

    /// Finds the upper-layer header in `payload`, which is what the parse returned beside this
    /// view.
    ///
    /// # Errors
    ///
    /// As [`ipv6::walk`] for IPv6; never for IPv4.
    pub fn upper_layer<'p>(&self, payload: &'p [u8]) -> Result<UpperLayer<'p>, ParseError> {
        match self {
            Self::V4(view) => Ok(UpperLayer {
                protocol: view.protocol(),
                fragment: view.fragment(),
                bytes: payload,
            }),
            Self::V6(view) => {
                let walked = ipv6::walk(view.next_header(), payload)?;
                Ok(UpperLayer {
                    protocol: walked.protocol,
                    fragment: walked.fragment,
                    bytes: payload.get(walked.header_bytes..).unwrap_or_default(),
                })
            }
        }
    }
}

/// The transport header of a packet, or whatever its last IP header carries.
#[derive(Clone, Copy, Debug)]
pub struct UpperLayer<'a> {
    /// Its protocol.
    pub protocol: IpProtocol,
    /// Set if the packet is a fragment; `bytes` start with a transport header only in the first.
    pub fragment: Option<Fragment>,
    /// Transport header and payload.
    pub bytes: &'a [u8],
}

/// The version field of the IP header at the start of `packet`.
///
/// # Errors
///
/// Fails if there is no byte.
pub fn version(packet: &[u8]) -> Result<u8, ParseError> {
    match packet.first() {
        Some(byte) => Ok(byte >> 4),
        None => {
            Err(ParseError::Truncated { layer: Layer::Ip, needed: Ipv4View::LEN_MIN, actual: 0 })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::ipv6::Ipv6Header;

    #[test]
    fn only_versions_4_and_6_are_ip() {
        for actual in (0..16).filter(|version| !matches!(version, 4 | 6)) {
            let error = ParseError::VersionMismatch { layer: Layer::Ip, actual };
            let bytes = [actual << 4; 40];
            assert_eq!(IpView::parse(&bytes).unwrap_err(), error);
            assert_eq!(IpView::parse_header(&bytes).unwrap_err(), error);
        }
        let error = IpView::parse(&[]).unwrap_err();
        assert_eq!(error.to_string(), "IP needs 20 bytes but only 0 are there");
    }

    #[test]
    fn the_upper_layer_lies_behind_the_extension_headers() {
        let header = Ipv6Header {
            traffic_class: TrafficClass(0),
            flow_label: 0,
            payload_length: 12,
            next_header: IpProtocol::DESTINATION_OPTIONS,
            hop_limit: 64,
            source: core::net::Ipv6Addr::LOCALHOST,
            destination: core::net::Ipv6Addr::LOCALHOST,
        };
        let mut packet = header.to_bytes().to_vec();
        packet.extend([17, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3, 4]);
        let (ip, payload) = IpView::parse(&packet).unwrap();
        let upper = ip.upper_layer(payload).unwrap();
        assert_eq!((upper.protocol, upper.bytes), (IpProtocol::UDP, &[1, 2, 3, 4][..]));
        assert_eq!(upper.fragment, None);
    }

    #[test]
    fn protocols_print_by_name_or_number() {
        assert_eq!(IpProtocol::ICMPV6.to_string(), "ICMPv6");
        assert_eq!(IpProtocol(47).to_string(), "47");
    }

    proptest! {
        #[test]
        fn noise_never_panics(bytes: Vec<u8>) {
            for (ip, payload) in
                [IpView::parse(&bytes), IpView::parse_header(&bytes)].into_iter().flatten()
            {
                let _ = (ip.source(), ip.destination(), ip.traffic_class(), ip.hop_limit());
                let _ = ip.upper_layer(payload);
            }
        }
    }
}
