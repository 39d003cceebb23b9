//! Why bytes are not the header they should be.

use core::fmt;

/// The header that a [`ParseError`] is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names say it")]
pub enum Layer {
    Ethernet,
    Vlan,
    Arp,
    Ip,
    Ipv4,
    Ipv6,
    Ipv6Extension,
    Tcp,
    Udp,
    Icmp,
    Icmpv6,
    Sctp,
    Vxlan,
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ethernet => "Ethernet",
            Self::Vlan => "802.1Q",
            Self::Arp => "ARP",
            Self::Ip => "IP",
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Ipv6Extension => "IPv6 extension",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPv6",
            Self::Sctp => "SCTP",
            Self::Vxlan => "VXLAN",
        })
    }
}

/// Why a header could not be parsed. Lengths are in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ParseError {
    #[error("{layer} needs {needed} bytes but only {actual} are there")]
    Truncated { layer: Layer, needed: usize, actual: usize },

    #[error("{layer} header has version {actual}")]
    VersionMismatch { layer: Layer, actual: u8 },

    #[error("{layer} header states a header length of {actual} bytes, below the minimum {minimum}")]
    HeaderLengthTooSmall { layer: Layer, minimum: usize, actual: usize },

    #[error("{layer} length field states {stated} bytes, less than its header of {header}")]
    LengthBelowHeader { layer: Layer, stated: usize, header: usize },

    #[error("{layer} length field states {stated} bytes but only {actual} are there")]
    LengthBeyondPacket { layer: Layer, stated: usize, actual: usize },

    #[error("{layer} checksum is {found:#06x} but the bytes give {computed:#06x}")]
    ChecksumMismatch { layer: Layer, found: u16, computed: u16 },

    #[error(
        "ARP for hardware type {hardware}, protocol {protocol:#06x}, address lengths \
         {hardware_len} and {protocol_len} is not IPv4 over Ethernet"
    )]
    ArpNotIpv4OverEthernet { hardware: u16, protocol: u16, hardware_len: u8, protocol_len: u8 },

    #[error("more than {limit} IPv6 extension headers")]
    TooManyExtensionHeaders { limit: usize },

    #[error("{layer} type {actual} is not the one asked for")]
    TypeMismatch { layer: Layer, actual: u8 },

    #[error("{layer} option of length zero")]
    OptionLengthZero { layer: Layer },

    #[error("VXLAN I flag is clear (flags {flags:#04x}): the header carries no valid VNI")]
    VniFlagUnset { flags: u8 },
}

/// The packet may not be forwarded: its TTL or hop limit would reach zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("TTL or hop limit is {actual}, too low to forward")]
pub struct HopLimitExceeded {
    /// The value in the packet, 0 or 1.
    pub actual: u8,
}

/// The buffer given is too small for what is to be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("needs a buffer of {needed} bytes but only {actual} are there")]
pub struct BufferTooSmall {
    /// Bytes needed.
    pub needed: usize,
    /// Bytes given.
    pub actual: usize,
}
