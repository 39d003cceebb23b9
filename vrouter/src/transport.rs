//! The transport header of a packet: where it lies, what its checksum covers, and finishing one
//! that was left to the device.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::mem;

use encap::{
    checksum::Sum,
    ethernet::{EtherType, EthernetView},
    ip::IpProtocol,
    ipv4::Ipv4View,
    ipv6::{self, Ipv6View},
    tcp::TcpView,
    udp::UdpView,
};

use crate::{
    chain,
    memory::Region,
    packet::{Checksum, Packet},
    parse::IP_OFFSET,
};

/// A transport header and its payload in a whole IP packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Transport {
    pub(crate) protocol: IpProtocol,
    /// Whether it is carried by IPv4, or by IPv6.
    pub(crate) is_ipv4: bool,
    /// Where the transport header starts, in bytes from the Ethernet header on.
    pub(crate) start: usize,
    /// Bytes of it and its payload.
    pub(crate) bytes: usize,
    /// The sum of the two IP addresses.
    pub(crate) addresses: Sum,
}

impl Transport {
    /// The transport header of the frame that starts with `frame` and has `frame_bytes` bytes in
    /// all. `None` if it is no IP packet, a broken one, or a fragment: what a checksum covers is
    /// then not in it.
    pub(crate) fn find(frame: &[u8], frame_bytes: usize) -> Option<Self> {
        let (ethernet, packet) = EthernetView::parse(frame).ok()?;
        let packet_bytes = frame_bytes.saturating_sub(IP_OFFSET);
        match ethernet.ether_type() {
            EtherType::IPV4 => Self::find_ipv4(packet, packet_bytes),
            EtherType::IPV6 => Self::find_ipv6(packet, packet_bytes),
            _ => None,
        }
    }

    fn find_ipv4(packet: &[u8], packet_bytes: usize) -> Option<Self> {
        let (ip, _) = Ipv4View::parse_chained(packet, packet_bytes).ok()?;
        let addresses = packet.get(12..20)?;
        ip.fragment().is_none().then(|| Self {
            protocol: ip.protocol(),
            is_ipv4: true,
            start: IP_OFFSET.saturating_add(ip.header_len()),
            bytes: ip.payload_len(),
            addresses: Sum::of(addresses),
        })
    }

    fn find_ipv6(packet: &[u8], packet_bytes: usize) -> Option<Self> {
        let (ip, payload) = Ipv6View::parse_chained(packet, packet_bytes).ok()?;
        let walked = ipv6::walk(ip.next_header(), payload).ok()?;
        let addresses = packet.get(8..40)?;
        let is_whole = walked.fragment.is_none_or(|fragment| fragment.is_whole());
        is_whole.then(|| Self {
            protocol: walked.protocol,
            is_ipv4: false,
            start: IP_OFFSET.saturating_add(Ipv6View::LEN).saturating_add(walked.header_bytes),
            bytes: ip.payload_len().saturating_sub(walked.header_bytes),
            addresses: Sum::of(addresses),
        })
    }

    /// Where the checksum lies in the header of TCP or UDP, in bytes from its start.
    pub(crate) fn checksum_offset(&self) -> Option<usize> {
        match self.protocol {
            IpProtocol::TCP => Some(16),
            IpProtocol::UDP => Some(6),
            _ => None,
        }
    }

    /// Where the checksum of TCP or UDP lies in the frame.
    pub(crate) fn checksum_place(&self) -> Option<usize> {
        self.checksum_offset().map(|offset| self.start.saturating_add(offset))
    }

    /// The sum of the pseudo header: both families' sum up alike (RFC 8200 section 8.1).
    pub(crate) fn pseudo_header(&self) -> Sum {
        self.pseudo_header_of(self.bytes)
    }

    /// The same, of another length of transport header and payload.
    pub(crate) fn pseudo_header_of(&self, bytes: usize) -> Sum {
        self.addresses
            .add(Sum::of_u16(u16::from(self.protocol.0)))
            .add(Sum::of_u32(u32::try_from(bytes).unwrap_or(u32::MAX)))
    }

    /// Length of the header of TCP or UDP in `frame`, in bytes; `None` if it is cut short.
    pub(crate) fn header_bytes(&self, frame: &[u8]) -> Option<usize> {
        let bytes = frame.get(self.start..)?;
        let header_bytes = match self.protocol {
            IpProtocol::TCP => TcpView::parse(bytes).ok()?.0.header_len(),
            IpProtocol::UDP => bytes.get(..UdpView::LEN)?.len(),
            _ => return None,
        };
        (header_bytes <= self.bytes).then_some(header_bytes)
    }

    /// Whether the checksum's field holds the pseudo header's sum: what a stack leaves there that
    /// leaves the rest to the device.
    pub(crate) fn is_unfinished(&self, frame: &[u8]) -> bool {
        let field = self.checksum_place().and_then(|place| frame.get(place..)?.first_chunk());
        // One's complement has two zeros.
        let one_zero = |sum: u16| if sum == u16::MAX { 0 } else { sum };
        field.is_some_and(|field| {
            one_zero(u16::from_be_bytes(*field)) == one_zero(self.pseudo_header().value())
        })
    }

    /// Whether the checksum of TCP, or one of UDP that is there, is right.
    pub(crate) fn is_intact(&self, packet: &Packet, region: &Region) -> bool {
        let sum = chain::sum(packet, region, self.start, self.bytes);
        sum.add(self.pseudo_header()).is_intact()
    }

    /// Puts the pseudo header's sum where the checksum belongs, for whoever finishes it. False if
    /// there is no such place.
    pub(crate) fn write_pseudo_header(&self, frame: &mut [u8]) -> bool {
        let sum = self.pseudo_header().value();
        self.checksum_place().is_some_and(|place| write_u16(frame, place, sum))
    }
}

/// Computes the layer-4 checksum of a packet that is, or may be, unfinished: once, and in full.
///
/// The checksums of other protocols than TCP, UDP and SCTP are not left to devices.
pub(crate) fn finish(packet: &mut Packet, transport: &Transport, region: &Region) {
    let was = mem::replace(&mut packet.offload.checksum, Checksum::Complete);
    if was == Checksum::Complete {
        return;
    }
    let &Transport { protocol, start, bytes, .. } = transport;
    if protocol == IpProtocol::SCTP {
        return finish_sctp(packet, region, start, bytes);
    }
    let Some(place) = transport.checksum_place() else { return };
    let old = packet.data(region).get(place..).and_then(<[u8]>::first_chunk).copied();
    // Zero in UDP over IPv4 says that there is none (RFC 768).
    let may_be_none = protocol == IpProtocol::UDP && was == Checksum::Unknown;
    let Some(old) = old.filter(|old| !may_be_none || *old != [0, 0]) else { return };
    let sum = chain::sum(packet, region, start, bytes)
        .remove(Sum::of_u16(u16::from_be_bytes(old)))
        .add(transport.pseudo_header());
    let checksum = match protocol {
        IpProtocol::UDP => sum.udp_checksum(),
        _ => sum.checksum(),
    };
    write_u16(packet.data_mut(region), place, checksum);
}

/// Finishes a checksum by the letter of a device's order (VirtIO 1.2 section 5.1.6.2): the sum
/// from `start` to the end of the frame, which covers what the field at `place` holds. False if the
/// place is not in the first segment.
pub(crate) fn finish_at(packet: &mut Packet, start: usize, place: usize, region: &Region) -> bool {
    let bytes = (packet.total_bytes() as usize).saturating_sub(start);
    // Zero might say "none" where the field lies; its other form never does.
    let checksum = chain::sum(packet, region, start, bytes).udp_checksum();
    write_u16(packet.data_mut(region), place, checksum)
}

/// SCTP has a CRC-32C instead of a sum (RFC 9260 section 6.8).
fn finish_sctp(packet: &mut Packet, region: &Region, start: usize, bytes: usize) {
    let place = start.saturating_add(8);
    // The parser found the header whole in the first segment.
    write_crc(packet.data_mut(region), place, 0);
    let crc = chain::crc32c(packet, region, start, bytes);
    write_crc(packet.data_mut(region), place, crc.checksum());
}

fn write_crc(data: &mut [u8], at: usize, checksum: u32) {
    if let Some(field) = data.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *field = checksum.to_le_bytes();
    }
}

fn write_u16(data: &mut [u8], at: usize, value: u16) -> bool {
    let field = data.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
    field.map(|field| *field = value.to_be_bytes()).is_some()
}
