//! What an ICMP error says, in one vocabulary for both families.

use crate::icmp::{CODE_FRAGMENTATION_NEEDED, IcmpType};
use crate::icmpv6::Icmpv6Type;

/// Why a packet could not be forwarded or delivered, as its sender is told.
///
/// | cause | ICMP type/code | ICMPv6 type/code |
/// |---|---|---|
/// | `HopLimitExceeded` | 11/0 | 3/0 |
/// | `ReassemblyTimeExceeded` | 11/1 | 3/1 |
/// | `NoRoute` | 3/0 | 1/0 |
/// | `AddressUnreachable` | 3/1 | 1/3 |
/// | `PortUnreachable` | 3/3 | 1/4 |
/// | `AdministrativelyProhibited` | 3/13 | 1/1 |
/// | `SourceRefused` | 3/13 | 1/5 |
/// | `TooBig` | 3/4 | 2/0 |
/// | `HeaderField` | 12/0 | 4/0 |
/// | `UnknownProtocol` | 3/2 | 4/1 |
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorCause {
    /// TTL or hop limit ran out on the way.
    HopLimitExceeded,
    /// Not all fragments arrived in time.
    ReassemblyTimeExceeded,
    /// No route leads to the destination.
    NoRoute,
    /// The destination does not answer.
    AddressUnreachable,
    /// Nobody listens on the port.
    PortUnreachable,
    /// A rule forbids it.
    AdministrativelyProhibited,
    /// The source address is not one that the sender may use.
    SourceRefused,
    /// The packet does not fit the next link and may not be fragmented.
    TooBig {
        /// The longest IP packet that does fit, in bytes. ICMP has 16 bits for it.
        mtu: u32,
    },
    /// A header field makes no sense.
    HeaderField {
        /// Offset of the field in bytes, from the IP header on. ICMP has 8 bits for it.
        pointer: u32,
    },
    /// The protocol or next header is unknown here.
    UnknownProtocol {
        /// Offset of its number in bytes, from the IP header on; ICMP does not tell it.
        pointer: u32,
    },
}

impl ErrorCause {
    /// Type, code and rest of the header of the ICMP message.
    #[must_use]
    pub fn icmp(self) -> (IcmpType, u8, [u8; 4]) {
        const UNREACHABLE: IcmpType = IcmpType::DESTINATION_UNREACHABLE;
        match self {
            Self::HopLimitExceeded => (IcmpType::TIME_EXCEEDED, 0, [0; 4]),
            Self::ReassemblyTimeExceeded => (IcmpType::TIME_EXCEEDED, 1, [0; 4]),
            Self::NoRoute => (UNREACHABLE, 0, [0; 4]),
            Self::AddressUnreachable => (UNREACHABLE, 1, [0; 4]),
            Self::UnknownProtocol { .. } => (UNREACHABLE, 2, [0; 4]),
            Self::PortUnreachable => (UNREACHABLE, 3, [0; 4]),
            Self::TooBig { mtu } => {
                let [high, low] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
                (UNREACHABLE, CODE_FRAGMENTATION_NEEDED, [0, 0, high, low])
            }
            Self::AdministrativelyProhibited | Self::SourceRefused => (UNREACHABLE, 13, [0; 4]),
            Self::HeaderField { pointer } => {
                let pointer = u8::try_from(pointer).unwrap_or(u8::MAX);
                (IcmpType::PARAMETER_PROBLEM, 0, [pointer, 0, 0, 0])
            }
        }
    }

    /// Type, code and rest of the header of the ICMPv6 message.
    #[must_use]
    pub fn icmpv6(self) -> (Icmpv6Type, u8, [u8; 4]) {
        const UNREACHABLE: Icmpv6Type = Icmpv6Type::DESTINATION_UNREACHABLE;
        match self {
            Self::HopLimitExceeded => (Icmpv6Type::TIME_EXCEEDED, 0, [0; 4]),
            Self::ReassemblyTimeExceeded => (Icmpv6Type::TIME_EXCEEDED, 1, [0; 4]),
            Self::NoRoute => (UNREACHABLE, 0, [0; 4]),
            Self::AdministrativelyProhibited => (UNREACHABLE, 1, [0; 4]),
            Self::AddressUnreachable => (UNREACHABLE, 3, [0; 4]),
            Self::PortUnreachable => (UNREACHABLE, 4, [0; 4]),
            Self::SourceRefused => (UNREACHABLE, 5, [0; 4]),
            Self::TooBig { mtu } => (Icmpv6Type::PACKET_TOO_BIG, 0, mtu.to_be_bytes()),
            Self::HeaderField { pointer } => {
                (Icmpv6Type::PARAMETER_PROBLEM, 0, pointer.to_be_bytes())
            }
            Self::UnknownProtocol { pointer } => {
                (Icmpv6Type::PARAMETER_PROBLEM, 1, pointer.to_be_bytes())
            }
        }
    }
}
