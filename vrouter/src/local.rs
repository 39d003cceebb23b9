//! What the engine itself answers on guest and host ports, as their gateway: ARP, neighbour
//! discovery and echo.
//!
//! ARP and neighbour solicitations are answered with the gateway's MAC address, for the gateway and
//! (as a proxy) for any other target that the VRF routes, but never for the asking port's own
//! addresses: a guest that checks whether its own address is taken must hear nothing. Router
//! solicitations are dropped as `nd_unanswered`: a pod's addresses and routes come from CNI, so
//! there is nothing to advertise.
//!
//! An answer reuses the question's frame; the question counts as consumed and the answer as
//! generated.

#![warn(clippy::indexing_slicing)]

mod echo;

use std::net::IpAddr;

use encap::{
    arp::{ArpOperation, ArpPacket, ArpView},
    ethernet::EthernetView,
    icmpv6::{
        Icmpv6View,
        ndp::{self, NeighbourMessage, NeighbourMessageKind, NeighbourView},
    },
    ipv6::Ipv6View,
};

use crate::{
    config::Role,
    drops::DropReason,
    memory::{HEADROOM_BYTES, Segment},
    next_hop::{NextHop, NextHopIndex},
    packet::Packet,
    parse::{Headers, IP_OFFSET, Refusal, is_martian},
    pipeline::Pass,
    port::PortRef,
    rewrite::Outgoing,
    snapshot::VrfIndex,
    trace::Detail,
};

impl Pass<'_> {
    /// Answers an ARP request, or drops what is none.
    #[cold]
    pub(crate) fn answer_arp(&mut self, packet: Packet) {
        let frame = packet.data(self.pool.region());
        let request = frame.get(IP_OFFSET..).unwrap_or(&[]);
        let reply = match ArpView::parse(request) {
            Ok((request, _)) => self.judge_arp(request),
            Err(error) => Err(error.into()),
        };
        match reply {
            Ok(reply) => self.answer(packet, |frame| reply.write_frame(frame).unwrap_or(0)),
            Err(refusal) => self.refuse(packet, refusal),
        }
    }

    fn judge_arp(&self, request: ArpView<'_>) -> Result<ArpPacket, Refusal> {
        let source = IpAddr::V4(request.sender_ip());
        // A probe (RFC 5227 section 1.1) has no sender yet.
        if !source.is_unspecified() && !self.ingress.may_send_from(source) {
            return Err(Refusal::new(DropReason::RpfSpoofedSource, Detail::Source { source }));
        }
        let target = IpAddr::V4(request.target_ip());
        let is_question =
            request.operation() == ArpOperation::REQUEST && !request.is_announcement();
        if !is_question || !self.answers_for(target) {
            return Err(Refusal::new(DropReason::ArpUnanswered, Detail::Target { target }));
        }
        Ok(ArpPacket::reply(&request, self.ingress.gateway_mac))
    }

    /// Answers a neighbour solicitation, or drops another message of neighbour discovery.
    #[cold]
    pub(crate) fn answer_neighbour(&mut self, packet: Packet, headers: &Headers) {
        match self.judge_neighbour(&packet, headers) {
            Ok((answer, destination)) => {
                let source = self.ingress.gateway_mac;
                self.answer(packet, |frame| {
                    write_neighbour_answer(frame, &answer, source, destination)
                });
            }
            Err(refusal) => self.refuse(packet, refusal),
        }
    }

    fn judge_neighbour(
        &self,
        packet: &Packet,
        headers: &Headers,
    ) -> Result<(NeighbourMessage, encap::MacAddress), Refusal> {
        let frame = packet.data(self.pool.region());
        let (ethernet, ip_packet) = EthernetView::parse(frame)?;
        let (ip, _) = Ipv6View::parse_header(ip_packet)?;
        let message = frame.get(headers.transport_offset..).unwrap_or(&[]);
        let end = headers.end();
        let message =
            message.get(..end.saturating_sub(headers.transport_offset)).unwrap_or(message);
        let (icmp, body) = Icmpv6View::parse(message)?;
        let unanswered = |detail| Err(Refusal::new(DropReason::NdUnanswered, detail));
        let kind = Detail::Message { kind: icmp.kind().0, code: icmp.code() };
        // From the fabric it is none of ours: neighbours are on the link (RFC 4861 section 7.1.1).
        if self.ingress.role == Role::Uplink || ip.hop_limit() != ndp::HOP_LIMIT {
            return unanswered(Detail::HopLimit { hop_limit: ip.hop_limit() });
        }
        if icmp.kind() != encap::icmpv6::Icmpv6Type::NEIGHBOUR_SOLICITATION || icmp.code() != 0 {
            return unanswered(kind);
        }
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let pseudo_header = ip.pseudo_header(encap::ip::IpProtocol::ICMPV6, length);
        icmp.verify_checksum(pseudo_header, encap::checksum::Sum::of(body))?;
        let solicitation = NeighbourView::parse(icmp, body)?;
        let source = headers.source;
        let is_local = source.is_unspecified() || is_link_local(source);
        if !is_local && !self.ingress.may_send_from(source) {
            return Err(Refusal::new(DropReason::RpfSpoofedSource, Detail::Source { source }));
        }
        let target = IpAddr::V6(solicitation.target());
        if !self.answers_for(target) {
            return unanswered(Detail::Target { target });
        }
        let mut answer = NeighbourMessage::router_answer(
            ip.source(),
            solicitation.target(),
            self.ingress.gateway_mac,
        );
        if let NeighbourMessageKind::Advertisement { is_override, .. } = &mut answer.kind {
            // An answer for somebody else overrides nobody's own (RFC 4861 section 7.2.8).
            *is_override = self.is_gateway(target);
        }
        let destination = if ip.source().is_unspecified() {
            encap::MacAddress::from_ipv6_group(ndp::ALL_NODES)
        } else {
            solicitation.source_link_address().unwrap_or(ethernet.source())
        };
        Ok((answer, destination))
    }

    /// Whether the engine says "that is me" on the ingress port when asked who has `target`.
    fn answers_for(&self, target: IpAddr) -> bool {
        if self.ingress.addresses.contains(&target) {
            return false;
        }
        self.is_gateway(target) || self.route(self.ingress.vrf, target).is_some()
    }

    fn is_gateway(&self, address: IpAddr) -> bool {
        self.snapshot.vrf(self.ingress.vrf).is_some_and(|vrf| vrf.is_gateway(address))
    }

    /// Sends the answer that `write` makes of the question's frame back to the port that it came
    /// from.
    fn answer(&mut self, packet: Packet, write: impl FnOnce(&mut [u8]) -> usize) {
        let ingress = packet.ingress;
        if let Some(answer) = self.reuse(packet, write) {
            self.transmit(answer, ingress);
        }
    }

    /// Counts the packet as consumed and makes one of the engine's of its first frame; `write`
    /// fills it from the Ethernet header on and returns how long it is.
    pub(crate) fn reuse(
        &mut self,
        packet: Packet,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) -> Option<Packet> {
        let ingress = packet.ingress;
        if packet.is_chained() {
            // Nothing that is answered this way needs more than one frame.
            self.drop_packet(packet, DropReason::GatewayUnserved, Detail::None);
            return None;
        }
        let offset = packet.offset().max(HEADROOM_BYTES);
        // It has one segment, so the rest is empty.
        let (Segment { mut frame, .. }, _rest) = packet.into_segments();
        let bytes = self.pool.region().bytes_mut(&mut frame);
        let len = bytes.get_mut(usize::from(offset)..).map_or(0, write);
        self.stats.consumed(ingress, 1);
        self.stats.generated(1);
        let len = u16::try_from(len).unwrap_or(0);
        Some(Packet::new(frame, offset, len, PortRef::ENGINE))
    }

    /// A packet of the engine's own in a free frame; `None` if there is none. `write` is as for
    /// [`Self::reuse`].
    pub(crate) fn generate(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> Option<Packet> {
        let mut frame = self.pool.allocate()?;
        let bytes = self.pool.region().bytes_mut(&mut frame);
        let len = bytes.get_mut(usize::from(HEADROOM_BYTES)..).map_or(0, write);
        let len = u16::try_from(len).unwrap_or(0);
        self.stats.generated(1);
        Some(Packet::new(frame, HEADROOM_BYTES, len, PortRef::ENGINE))
    }

    /// Routes a packet of the engine's own, whose IP header starts at [`IP_OFFSET`].
    pub(crate) fn send_generated(
        &mut self,
        packet: Packet,
        vrf: VrfIndex,
        destination: IpAddr,
        outgoing: &Outgoing,
    ) {
        let way = self.route(vrf, destination);
        if let Some(slot) = way.and_then(|index| self.snapshot.next_hops.slot(index)) {
            self.emit(packet, &slot.hop, outgoing);
        } else {
            let detail = Detail::Destination { destination };
            self.drop_packet(packet, DropReason::RouteNone, detail);
        }
    }

    /// The next hop of a packet that belongs to no flow; `None` without a route.
    pub(crate) fn route(&self, vrf: VrfIndex, destination: IpAddr) -> Option<NextHopIndex> {
        if !is_routable(destination) {
            return None;
        }
        let found = self.snapshot.vrf(vrf)?.fib.lookup(destination)?;
        let index = self.snapshot.pick(found.group, 0)?;
        let slot = self.snapshot.next_hops.slot(index)?;
        (!matches!(slot.hop, NextHop::Unreachable | NextHop::Blackhole)).then_some(index)
    }
}

/// Whether routers forward to the address at all: neither nobody's, unspecified, nor on one link
/// only.
pub(crate) fn is_routable(destination: IpAddr) -> bool {
    !(is_martian(destination) || destination.is_unspecified() || is_link_local(destination))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn write_neighbour_answer(
    frame: &mut [u8],
    answer: &NeighbourMessage,
    source: encap::MacAddress,
    destination: encap::MacAddress,
) -> usize {
    let header = encap::ethernet::EthernetHeader {
        destination,
        source,
        ether_type: encap::ethernet::EtherType::IPV6,
    };
    let Some((front, packet)) = frame.split_first_chunk_mut::<{ EthernetView::LEN }>() else {
        return 0;
    };
    *front = header.to_bytes();
    answer.write_packet(packet).map_or(0, |bytes| IP_OFFSET + bytes)
}
