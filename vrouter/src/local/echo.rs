//! Echo requests to a gateway address.

#![warn(clippy::indexing_slicing)]

use std::net::IpAddr;

use encap::{
    checksum::Sum,
    icmp::IcmpMut,
    icmpv6::Icmpv6Mut,
    ipv4::{Ipv4Mut, Ipv4View},
    ipv6::Ipv6Mut,
};

use crate::{
    drops::DropReason,
    packet::Packet,
    parse::{Headers, IP_OFFSET, Message},
    pipeline::Pass,
    port::PortRef,
    rewrite::Outgoing,
};

/// TTL and hop limit of answers: the recommended default (RFC 1700).
const HOP_LIMIT: u8 = 64;

impl Pass<'_> {
    /// A packet to a gateway address: an echo request is answered, all else is dropped.
    #[cold]
    pub(crate) fn serve_gateway(&mut self, mut packet: Packet, headers: &Headers) {
        // A fragment cannot be answered without the rest, and nothing is reassembled here.
        if headers.message != Message::EchoRequest || headers.fragment.is_some() {
            return self.drop_packet(packet, DropReason::GatewayUnserved, headers.flow_detail());
        }
        let ingress = packet.ingress;
        make_reply(packet.data_mut(self.pool.region()), headers);
        self.stats.consumed(ingress, 1);
        self.stats.generated(1);
        packet.ingress = PortRef::ENGINE;
        let outgoing = Outgoing::of(headers, self.flows.hash(&headers.key()).0);
        self.send_generated(packet, headers.vrf, headers.source, &outgoing);
    }
}

/// Turns the frame of an echo request into that of its reply, whatever the chain behind it holds.
fn make_reply(frame: &mut [u8], headers: &Headers) {
    if let Some(message) = frame.get_mut(headers.transport_offset..) {
        // The parser found an echo request there, so neither fails.
        match headers.source {
            IpAddr::V4(_) => {
                let _ = IcmpMut::parse(message).map(|mut icmp| icmp.make_echo_reply());
            }
            IpAddr::V6(_) => {
                let _ = Icmpv6Mut::parse(message).map(|mut icmp| icmp.make_echo_reply());
            }
        }
    }
    let packet = frame.get_mut(IP_OFFSET..).unwrap_or(&mut []);
    match (headers.source, headers.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            if let Ok(mut ip) = Ipv4Mut::parse(packet) {
                ip.set_source(destination);
                ip.set_destination(source);
            }
            set_ipv4_ttl(packet);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            if let Ok(mut ip) = Ipv6Mut::parse(packet) {
                ip.set_source(destination);
                ip.set_destination(source);
            }
            if let Some(hop_limit) = packet.get_mut(7) {
                *hop_limit = HOP_LIMIT;
            }
        }
        // Both come from one header.
        _ => {}
    }
}

/// Sets the TTL and computes the header checksum anew.
fn set_ipv4_ttl(packet: &mut [u8]) {
    let Ok((view, _)) = Ipv4View::parse_header(packet) else { return };
    let header_len = view.header_len();
    let Some(header) = packet.get_mut(..header_len) else { return };
    if let [_, _, _, _, _, _, _, _, ttl, _, checksum_high, checksum_low, ..] = header {
        *ttl = HOP_LIMIT;
        (*checksum_high, *checksum_low) = (0, 0);
    }
    let [high, low] = Sum::of(header).checksum().to_be_bytes();
    if let [_, _, _, _, _, _, _, _, _, _, checksum_high, checksum_low, ..] = header {
        (*checksum_high, *checksum_low) = (high, low);
    }
}
