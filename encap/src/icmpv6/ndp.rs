//! Neighbour discovery messages (RFC 4861).
//!
//! The views here take what follows the eight bytes of an [`Icmpv6View`]. What is not checked: that
//! the hop limit was 255 and that the ICMPv6 checksum is right; both need the packet around it.

use core::net::Ipv6Addr;

use super::{Icmpv6Type, Icmpv6View, truncated};
use crate::checksum::Sum;
use crate::ecn::TrafficClass;
use crate::field::{put, put_u16, u32_at};
use crate::ip::IpProtocol;
use crate::ipv6::{Ipv6Header, Ipv6View};
use crate::{BufferTooSmall, Layer, MacAddress, ParseError};

/// Hop limit that every neighbour discovery packet has, which proves that it was not forwarded.
pub const HOP_LIMIT: u8 = 255;

/// Option type: link-layer address of the sender.
const SOURCE_LINK_ADDRESS: u8 = 1;
/// Option type: link-layer address of the target.
const TARGET_LINK_ADDRESS: u8 = 2;
/// Options looked at in one message. RFC 4861 defines five kinds; a sender that hides the address
/// behind more than this is not served.
const OPTIONS_MAX: usize = 16;
/// Length of a target address and one link-layer address option, in bytes.
const TARGET_AND_OPTION_LEN: usize = 24;

/// Router flag of a neighbour advertisement.
const ROUTER: u8 = 0x80;
/// Solicited flag of a neighbour advertisement.
const SOLICITED: u8 = 0x40;
/// Override flag of a neighbour advertisement.
const OVERRIDE: u8 = 0x20;

/// A neighbour solicitation or advertisement: a target address and options.
#[derive(Clone, Copy, Debug)]
pub struct NeighbourView<'a> {
    icmp: Icmpv6View<'a>,
    target: Ipv6Addr,
    options: Options<'a>,
}

impl<'a> NeighbourView<'a> {
    /// Reads what follows the header of a neighbour solicitation or advertisement.
    ///
    /// # Errors
    ///
    /// Fails for other types, if the target address is cut short, and if an option is cut short or
    /// has length zero (RFC 4861 sections 7.1.1 and 7.1.2).
    pub fn parse(icmp: Icmpv6View<'a>, body: &'a [u8]) -> Result<Self, ParseError> {
        match icmp.kind() {
            Icmpv6Type::NEIGHBOUR_SOLICITATION | Icmpv6Type::NEIGHBOUR_ADVERTISEMENT => {}
            other => {
                return Err(ParseError::TypeMismatch { layer: Layer::Icmpv6, actual: other.0 });
            }
        }
        let Some((target, options)) = body.split_first_chunk::<16>() else {
            return Err(message_truncated(16, body.len()));
        };
        Ok(Self { icmp, target: Ipv6Addr::from(*target), options: Options::parse(options)? })
    }

    /// Whether this is a question, not an answer.
    #[must_use]
    pub fn is_solicitation(&self) -> bool {
        self.icmp.kind() == Icmpv6Type::NEIGHBOUR_SOLICITATION
    }

    /// The address asked for or told about. It is invalid if it is multicast.
    #[must_use]
    pub fn target(&self) -> Ipv6Addr {
        self.target
    }

    /// The asker's MAC address, where it is told. Duplicate address detection does not.
    #[must_use]
    pub fn source_link_address(&self) -> Option<MacAddress> {
        self.options.link_address(SOURCE_LINK_ADDRESS)
    }

    /// The target's MAC address, where it is told.
    #[must_use]
    pub fn target_link_address(&self) -> Option<MacAddress> {
        self.options.link_address(TARGET_LINK_ADDRESS)
    }

    /// Whether an advertisement comes from a router.
    #[must_use]
    pub fn is_router(&self) -> bool {
        self.flags() & ROUTER != 0
    }

    /// Whether an advertisement answers a solicitation.
    #[must_use]
    pub fn is_solicited(&self) -> bool {
        self.flags() & SOLICITED != 0
    }

    /// Whether an advertisement replaces what the receiver knows.
    #[must_use]
    pub fn is_override(&self) -> bool {
        self.flags() & OVERRIDE != 0
    }

    fn flags(&self) -> u8 {
        let [flags, ..] = self.icmp.rest_of_header();
        flags
    }
}

/// A router solicitation.
#[derive(Clone, Copy, Debug)]
pub struct RouterSolicitationView<'a>(Options<'a>);

impl<'a> RouterSolicitationView<'a> {
    /// Reads what follows the header of a router solicitation.
    ///
    /// # Errors
    ///
    /// Fails for other types, and if an option is cut short or has length zero.
    pub fn parse(icmp: Icmpv6View<'a>, body: &'a [u8]) -> Result<Self, ParseError> {
        if icmp.kind() != Icmpv6Type::ROUTER_SOLICITATION {
            let actual = icmp.kind().0;
            return Err(ParseError::TypeMismatch { layer: Layer::Icmpv6, actual });
        }
        Options::parse(body).map(Self)
    }

    /// The asker's MAC address, where it is told.
    #[must_use]
    pub fn source_link_address(&self) -> Option<MacAddress> {
        self.0.link_address(SOURCE_LINK_ADDRESS)
    }
}

/// A router advertisement.
#[derive(Clone, Copy, Debug)]
pub struct RouterAdvertisementView<'a> {
    icmp: Icmpv6View<'a>,
    timers: &'a [u8; 8],
    options: Options<'a>,
}

impl<'a> RouterAdvertisementView<'a> {
    /// Reads what follows the header of a router advertisement.
    ///
    /// # Errors
    ///
    /// Fails for other types, if the timers are cut short, and if an option is cut short or has
    /// length zero.
    pub fn parse(icmp: Icmpv6View<'a>, body: &'a [u8]) -> Result<Self, ParseError> {
        if icmp.kind() != Icmpv6Type::ROUTER_ADVERTISEMENT {
            let actual = icmp.kind().0;
            return Err(ParseError::TypeMismatch { layer: Layer::Icmpv6, actual });
        }
        let Some((timers, options)) = body.split_first_chunk() else {
            return Err(message_truncated(8, body.len()));
        };
        Ok(Self { icmp, timers, options: Options::parse(options)? })
    }

    /// Hop limit that hosts should use; zero for "unspecified".
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        let [hop_limit, ..] = self.icmp.rest_of_header();
        hop_limit
    }

    /// For how many seconds the sender is a default router; zero: it is none.
    #[must_use]
    pub fn router_lifetime_s(&self) -> u16 {
        let [_, _, high, low] = self.icmp.rest_of_header();
        u16::from_be_bytes([high, low])
    }

    /// For how many milliseconds a neighbour counts as reachable; zero for "unspecified".
    #[must_use]
    pub fn reachable_ms(&self) -> u32 {
        u32_at::<0, _>(self.timers)
    }

    /// Milliseconds between solicitations; zero for "unspecified".
    #[must_use]
    pub fn retransmit_ms(&self) -> u32 {
        u32_at::<4, _>(self.timers)
    }

    /// The router's MAC address, where it is told.
    #[must_use]
    pub fn source_link_address(&self) -> Option<MacAddress> {
        self.options.link_address(SOURCE_LINK_ADDRESS)
    }
}

/// A neighbour solicitation or advertisement to be sent.
///
/// The packet carries one link-layer address option: the sender's in a solicitation, the target's
/// in an advertisement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NeighbourMessage {
    /// Source address of the packet.
    pub source: Ipv6Addr,
    /// Destination address of the packet.
    pub destination: Ipv6Addr,
    /// The address asked for or told about.
    pub target: Ipv6Addr,
    /// The MAC address in the option.
    pub link_address: MacAddress,
    /// Question, or answer with its flags.
    pub kind: NeighbourMessageKind,
}

/// Which of the two messages a [`NeighbourMessage`] is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NeighbourMessageKind {
    /// Who has the target address?
    Solicitation,
    /// The target address is at this MAC address.
    Advertisement {
        /// The sender is a router.
        is_router: bool,
        /// It answers a solicitation.
        is_solicited: bool,
        /// It replaces what the receiver knows; not set when answering for somebody else (proxy).
        is_override: bool,
    },
}

impl NeighbourMessage {
    /// Length of the packet from the IPv6 header on, in bytes.
    pub const PACKET_LEN: usize = 72;

    /// A question for `target`, to its solicited-node group.
    #[must_use]
    pub const fn solicitation(
        source: Ipv6Addr,
        target: Ipv6Addr,
        link_address: MacAddress,
    ) -> Self {
        Self {
            source,
            destination: solicited_node_group(target),
            target,
            link_address,
            kind: NeighbourMessageKind::Solicitation,
        }
    }

    /// The answer of a router to a solicitation for `target` that came from `asker`.
    ///
    /// A question from the unspecified address (duplicate address detection) is answered to all
    /// nodes, and then the answer does not count as solicited (RFC 4861 section 7.2.4).
    #[must_use]
    pub const fn router_answer(
        asker: Ipv6Addr,
        target: Ipv6Addr,
        link_address: MacAddress,
    ) -> Self {
        let is_solicited = !asker.is_unspecified();
        Self {
            source: target,
            destination: if is_solicited { asker } else { ALL_NODES },
            target,
            link_address,
            kind: NeighbourMessageKind::Advertisement {
                is_router: true,
                is_solicited,
                is_override: true,
            },
        }
    }

    /// Writes the packet, from the IPv6 header on, and returns its length, [`Self::PACKET_LEN`].
    ///
    /// # Errors
    ///
    /// Fails, and writes nothing, if `packet` is shorter than that.
    pub fn write_packet(&self, packet: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let actual = packet.len();
        let Some(packet) = packet.first_chunk_mut::<{ Self::PACKET_LEN }>() else {
            return Err(BufferTooSmall { needed: Self::PACKET_LEN, actual });
        };
        let message = self.message_bytes();
        let ip = Ipv6Header {
            // CS6, network control (RFC 4594 section 3.1).
            traffic_class: TrafficClass(0xc0),
            flow_label: 0,
            payload_length: 32,
            next_header: IpProtocol::ICMPV6,
            hop_limit: HOP_LIMIT,
            source: self.source,
            destination: self.destination,
        };
        put::<0, { Ipv6View::LEN }, _>(packet, ip.to_bytes());
        put::<40, 32, _>(packet, message);
        Ok(Self::PACKET_LEN)
    }

    fn message_bytes(&self) -> [u8; Icmpv6View::LEN.saturating_add(TARGET_AND_OPTION_LEN)] {
        let (kind, flags, option) = match self.kind {
            NeighbourMessageKind::Solicitation => {
                (Icmpv6Type::NEIGHBOUR_SOLICITATION, 0, SOURCE_LINK_ADDRESS)
            }
            NeighbourMessageKind::Advertisement { is_router, is_solicited, is_override } => (
                Icmpv6Type::NEIGHBOUR_ADVERTISEMENT,
                (if is_router { ROUTER } else { 0 })
                    | (if is_solicited { SOLICITED } else { 0 })
                    | (if is_override { OVERRIDE } else { 0 }),
                TARGET_LINK_ADDRESS,
            ),
        };
        let mut message = [0; 32];
        message[0] = kind.0;
        message[4] = flags;
        put::<8, 16, _>(&mut message, self.target.octets());
        // Type, and length in units of eight bytes.
        put::<24, 2, _>(&mut message, [option, 1]);
        put::<26, 6, _>(&mut message, self.link_address.octets());
        let checksum =
            Sum::of_ipv6_pseudo_header(self.source, self.destination, IpProtocol::ICMPV6, 32)
                .add(Sum::of(&message))
                .checksum();
        put_u16::<2, _>(&mut message, checksum);
        message
    }
}

/// All nodes on the link, `ff02::1`.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The group that a node with this address listens to for solicitations (RFC 4291 section 2.7.1).
#[must_use]
pub const fn solicited_node_group(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (a & 0xff), b)
}

/// Options that are known to be whole, up to [`OPTIONS_MAX`].
#[derive(Clone, Copy, Debug)]
struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut rest = bytes;
        for _ in 0..OPTIONS_MAX {
            rest = match rest {
                [] => break,
                [_, 0, ..] => return Err(ParseError::OptionLengthZero { layer: Layer::Icmpv6 }),
                [_, units, ..] => {
                    let length = usize::from(*units).wrapping_mul(8);
                    match rest.get(length..) {
                        Some(rest) => rest,
                        None => return Err(truncated(length, rest.len())),
                    }
                }
                [_] => return Err(truncated(2, 1)),
            };
        }
        Ok(Self(bytes))
    }

    /// The address in the first option of this type, if it is one of Ethernet.
    fn link_address(&self, kind: u8) -> Option<MacAddress> {
        let mut rest = self.0;
        for _ in 0..OPTIONS_MAX {
            let [found, units, value @ ..] = rest else {
                return None;
            };
            if *found == kind && *units == 1 {
                return value.first_chunk::<6>().map(|address| MacAddress::new(*address));
            }
            rest = rest.get(usize::from(*units).wrapping_mul(8)..)?;
        }
        None
    }
}

/// A message shorter than its type demands, counted with the eight bytes before its body.
#[cold]
fn message_truncated(needed: usize, actual: usize) -> ParseError {
    truncated(needed.saturating_add(Icmpv6View::LEN), actual.saturating_add(Icmpv6View::LEN))
}

#[cfg(test)]
mod tests;
