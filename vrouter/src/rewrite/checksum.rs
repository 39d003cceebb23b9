//! Checksums that a local socket left to the device.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::IpAddr;

use encap::{checksum::Sum, ip::IpProtocol};

use crate::{
    chain,
    memory::Region,
    packet::{Checksum, Packet},
    parse::Headers,
};

/// A transport header and payload whose checksum was left to the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unfinished {
    pub(crate) protocol: IpProtocol,
    /// Where the transport header starts, in bytes from the Ethernet header on.
    pub(crate) start: usize,
    /// Bytes of it and its payload.
    pub(crate) bytes: usize,
    /// The sum of the two IP addresses.
    pub(crate) addresses: Sum,
}

/// Computes the layer-4 checksum of a packet from a local socket, which left it to the device:
/// once, and in full.
///
/// The kernel leaves no checksum of a fragment open, and none of ICMP.
pub(super) fn finish_checksum(packet: &mut Packet, headers: &Headers, region: &Region) {
    packet.offload.checksum = Checksum::Complete;
    if headers.fragment.is_some() {
        return;
    }
    let start = headers.transport_offset;
    let addresses = match (headers.source, headers.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            Sum::of_u32(from.to_bits()).add(Sum::of_u32(to.to_bits()))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => Sum::of_ipv6(from).add(Sum::of_ipv6(to)),
        _ => return,
    };
    let bytes = headers.end().saturating_sub(start);
    finish(packet, &Unfinished { protocol: headers.protocol, start, bytes, addresses }, region);
}

/// As [`finish_checksum`], of what is known to be a whole packet.
pub(crate) fn finish(packet: &mut Packet, unfinished: &Unfinished, region: &Region) {
    packet.offload.checksum = Checksum::Complete;
    let &Unfinished { protocol, start, bytes, addresses } = unfinished;
    let field = match protocol {
        IpProtocol::TCP => start.saturating_add(16),
        IpProtocol::UDP => start.saturating_add(6),
        IpProtocol::SCTP => return finish_sctp(packet, region, start, bytes),
        _ => return,
    };
    let old = packet.data(region).get(field..).and_then(<[u8]>::first_chunk).copied();
    // Zero in UDP over IPv4 says that there is none (RFC 768).
    let Some(old) = old.filter(|old| protocol == IpProtocol::TCP || *old != [0, 0]) else {
        return;
    };
    // The pseudo headers of both families sum up alike (RFC 8200 section 8.1).
    let pseudo_header = addresses
        .add(Sum::of_u16(u16::from(protocol.0)))
        .add(Sum::of_u32(u32::try_from(bytes).unwrap_or(u32::MAX)));
    let sum = chain::sum(packet, region, start, bytes)
        .remove(Sum::of_u16(u16::from_be_bytes(old)))
        .add(pseudo_header);
    let checksum = match protocol {
        IpProtocol::UDP => sum.udp_checksum(),
        _ => sum.checksum(),
    };
    let place = packet.data_mut(region).get_mut(field..).and_then(<[u8]>::first_chunk_mut);
    if let Some(place) = place {
        *place = checksum.to_be_bytes();
    }
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
