//! Stage 5: what changes in a packet on its way out: TTL, checksums, MAC addresses, tunnel headers.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod unfinished;

use std::{mem, net::IpAddr};

use encap::{
    checksum::Sum,
    ecn::TrafficClass,
    ethernet::{EtherType, EthernetHeader, EthernetView},
    icmp_error::ErrorCause,
    ipv4::Ipv4Mut,
    ipv6::Ipv6Mut,
    vxlan::EncapPacket,
};

use crate::{
    chain,
    drops::DropReason,
    next_hop::{NextHop, NextHopIndex, PortHop, TunnelExit, TunnelHop, TunnelRef},
    packet::{Offload, Offloads, Packet},
    parse::{Headers, IP_OFFSET},
    pipeline::Pass,
    segment::fits_in_segments,
    settle::settle,
    trace::Detail,
};

/// What the outer headers of a packet depend on, apart from the packet's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    pub(crate) is_ipv4: bool,
    pub(crate) traffic_class: TrafficClass,
    pub(crate) is_whole_only: bool,
    pub(crate) flow_hash: u64,
}

impl Outgoing {
    pub(crate) fn of(headers: &Headers, flow_hash: u64) -> Self {
        Self {
            is_ipv4: headers.source.is_ipv4(),
            traffic_class: headers.traffic_class,
            is_whole_only: headers.is_whole_only,
            flow_hash,
        }
    }
}

/// Packets in a row that were put into one tunnel, and are not yet counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TunnelRun {
    tunnel: TunnelRef,
    packets: u64,
    bytes: u64,
}

impl Pass<'_> {
    /// Sends a routed packet on its way: everything that the way asks for, or the reason why not.
    pub(crate) fn forward(
        &mut self,
        mut packet: Packet,
        headers: &Headers,
        index: NextHopIndex,
        hop: &NextHop,
        flow_hash: u64,
    ) {
        let mtu_bytes = match hop {
            NextHop::Port(hop) => hop.mtu_bytes,
            NextHop::Tunnel(hop) => {
                let TunnelExit::Port(_) = hop.exit else {
                    return self.unresolved(packet, headers, index, hop.exit);
                };
                mtu_for(
                    self.snapshot.path_mtus.limit(index, hop.mtu_bytes, self.now),
                    headers.source.is_ipv4(),
                )
            }
            NextHop::Unreachable => return self.unreachable(packet, headers),
            NextHop::Blackhole => {
                let detail = Detail::Destination { destination: headers.destination };
                return self.drop_packet(packet, DropReason::RouteBlackhole, detail);
            }
            NextHop::Unused => {
                let detail = Detail::NextHop { next_hop: index };
                return self.drop_packet(packet, DropReason::RouteNone, detail);
            }
        };
        let is_too_big = headers.ip_bytes > u32::from(mtu_bytes)
            && !fits_in_segments(&packet, mtu_bytes, self.pool.region());
        let cut = if is_too_big { self.plan_cut(&packet, headers, mtu_bytes) } else { None };
        if is_too_big && cut.is_none() {
            return self.too_big(packet, headers, mtu_bytes);
        }
        let region = self.pool.region();
        // A checksum covers the whole packet, so that it is finished before there are pieces.
        if cut.is_some() && !settle(&mut packet, Offloads::NONE, region) {
            return self.forward_segments(packet, headers, index, hop, flow_hash);
        }
        decrement_hop_limit(packet.data_mut(region), headers);
        let outgoing = Outgoing::of(headers, flow_hash);
        if let Some(cut) = cut {
            return self.send_in_fragments(packet, headers, hop, &cut, &outgoing);
        }
        self.emit(packet, hop, &outgoing);
    }

    /// Puts the link's headers on a finished IP packet and sends it. Bytes before [`IP_OFFSET`] are
    /// overwritten.
    pub(crate) fn emit(&mut self, packet: Packet, hop: &NextHop, outgoing: &Outgoing) {
        match hop {
            NextHop::Port(hop) => self.emit_to_port(packet, hop, outgoing),
            NextHop::Tunnel(hop) => self.emit_to_tunnel(packet, hop, outgoing),
            NextHop::Unused | NextHop::Unreachable | NextHop::Blackhole => {
                self.drop_packet(packet, DropReason::RouteNone, Detail::None);
            }
        }
    }

    fn emit_to_port(&mut self, mut packet: Packet, hop: &PortHop, outgoing: &Outgoing) {
        let header = ethernet(hop.destination_mac, hop.source_mac, outgoing);
        write_front(packet.data_mut(self.pool.region()), header);
        self.transmit(packet, hop.port);
    }

    fn emit_to_tunnel(&mut self, mut packet: Packet, hop: &TunnelHop, outgoing: &Outgoing) {
        let header = ethernet(hop.destination_mac, hop.source_mac, outgoing);
        write_front(packet.data_mut(self.pool.region()), header);
        self.put_into_tunnel(packet, hop, outgoing);
    }

    /// Puts the outer headers in front of an inner frame, which is finished first, and sends it.
    fn put_into_tunnel(&mut self, mut packet: Packet, hop: &TunnelHop, outgoing: &Outgoing) {
        if packet.offload != Offload::NONE {
            return self.put_unfinished_into_tunnel(packet, hop, outgoing);
        }
        let TunnelExit::Port(port) = hop.exit else {
            return self.drop_packet(packet, DropReason::NextHopUnresolved, Detail::None);
        };
        match self.write_outer_headers_seldom(&mut packet, hop, outgoing) {
            Some(bytes) => self.transmit(packet.with_front(bytes), port),
            None => self.drop_packet(packet, DropReason::HeadroomMissing, Detail::None),
        }
    }

    #[inline(never)]
    fn write_outer_headers_seldom(
        &mut self,
        packet: &mut Packet,
        hop: &TunnelHop,
        outgoing: &Outgoing,
    ) -> Option<u16> {
        self.write_outer_headers(packet, hop, outgoing)
    }

    /// Writes the outer headers into the headroom of a finished inner frame and counts it. Tells how
    /// many bytes there are now in front of the packet that belong to it; `None` if they do not fit.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "calling it takes a fifth of its own instructions")]
    pub(crate) fn write_outer_headers(
        &mut self,
        packet: &mut Packet,
        hop: &TunnelHop,
        outgoing: &Outgoing,
    ) -> Option<u16> {
        let region = self.pool.region();
        let frame_bytes = packet.total_bytes() as usize;
        let sum = if hop.template.has_udp_checksum() {
            chain::sum(packet, region, 0, frame_bytes)
        } else {
            Sum::ZERO
        };
        self.own.identification = self.own.identification.wrapping_add(1);
        let encap = EncapPacket {
            frame_bytes,
            flow_hash: outgoing.flow_hash,
            traffic_class: outgoing.traffic_class,
            dont_fragment: outgoing.is_whole_only,
            identification: self.own.identification,
        };
        let start = usize::from(packet.offset());
        let headroom = packet.frame_mut(region).get_mut(..start).unwrap_or(&mut []);
        hop.template.write(headroom, &encap, || sum).ok()?;
        self.count_encapsulated(hop.tunnel, frame_bytes as u64);
        u16::try_from(hop.template.overhead()).ok()
    }

    /// Counts a packet that is put into a tunnel, together with those before it.
    #[inline]
    fn count_encapsulated(&mut self, tunnel: TunnelRef, bytes: u64) {
        if self.into_tunnel.tunnel != tunnel {
            self.end_tunnel_run();
            self.into_tunnel.tunnel = tunnel;
        }
        let run = &mut self.into_tunnel;
        run.packets = run.packets.wrapping_add(1);
        run.bytes = run.bytes.wrapping_add(bytes);
    }

    /// Tells the counters of packets in a row that were put into one tunnel.
    pub(crate) fn end_tunnel_run(&mut self) {
        let run = mem::take(&mut self.into_tunnel);
        if run.packets > 0 {
            self.stats.tunnel_tx(run.tunnel, run.packets, run.bytes);
        }
    }

    /// A frame that is not ours to handle goes to the node's own stack, whole. `missing` is why it
    /// dies without one.
    pub(crate) fn give_to_node(&mut self, mut packet: Packet, missing: DropReason, detail: Detail) {
        let host = self.snapshot.node.host.and_then(|host| self.snapshot.port(host));
        let Some(host) = host else { return self.drop_packet(packet, missing, detail) };
        let frame = packet.data_mut(self.pool.region());
        let is_unicast =
            EthernetView::parse(frame).is_ok_and(|(view, _)| view.destination().is_unicast());
        if is_unicast {
            // To the far side of the host port; a stack takes no frame to another MAC address.
            write_front(frame, host.mac.octets());
        }
        self.transmit(packet, host.port);
    }
}

/// What a tunnel of this MTU carries of a family: IPv6 in packets of 1280 bytes, whatever the
/// underlay says (RFC 8200 section 5).
pub(crate) fn mtu_for(mtu_bytes: u16, is_ipv4: bool) -> u16 {
    const IPV6_MTU_BYTES_MIN: u16 = 1280;
    if is_ipv4 { mtu_bytes } else { mtu_bytes.max(IPV6_MTU_BYTES_MIN) }
}

fn ethernet(
    destination: encap::MacAddress,
    source: encap::MacAddress,
    outgoing: &Outgoing,
) -> [u8; EthernetView::LEN] {
    let ether_type = if outgoing.is_ipv4 { EtherType::IPV4 } else { EtherType::IPV6 };
    EthernetHeader { destination, source, ether_type }.to_bytes()
}

/// Every frame that got this far is longer than what is written.
fn write_front<const N: usize>(frame: &mut [u8], bytes: [u8; N]) {
    if let Some(front) = frame.first_chunk_mut() {
        *front = bytes;
    }
}

fn decrement_hop_limit(frame: &mut [u8], headers: &Headers) {
    let packet = frame.get_mut(IP_OFFSET..).unwrap_or(&mut []);
    // The parser found both header and a hop limit above one, so neither fails.
    match headers.source {
        IpAddr::V4(_) => {
            let _ = Ipv4Mut::parse(packet).map(|mut ip| ip.decrement_ttl());
        }
        IpAddr::V6(_) => {
            let _ = Ipv6Mut::parse(packet).map(|mut ip| ip.decrement_hop_limit());
        }
    }
}

impl Pass<'_> {
    fn unreachable(&mut self, packet: Packet, headers: &Headers) {
        self.send_error(&packet, headers, ErrorCause::NoRoute);
        let detail = Detail::Destination { destination: headers.destination };
        self.drop_packet(packet, DropReason::RouteUnreachable, detail);
    }

    /// The node that leads to the destination cannot be reached: "host unreachable" (RFC 1812
    /// section 5.2.7.1), "address unreachable" (RFC 4443 section 3.1). While its next hop is only
    /// being asked for, the sender is not told (RFC 1812 section 3.3.2, RFC 4861 section 7.2.2).
    #[cold]
    fn unresolved(
        &mut self,
        packet: Packet,
        headers: &Headers,
        next_hop: NextHopIndex,
        exit: TunnelExit,
    ) {
        if exit == TunnelExit::Unreachable {
            self.send_error(&packet, headers, ErrorCause::AddressUnreachable);
        }
        self.drop_packet(packet, DropReason::NextHopUnresolved, Detail::NextHop { next_hop });
    }

    /// Drops a packet that the way does not carry, and tells its sender what it does.
    #[cold]
    pub(crate) fn too_big(&mut self, packet: Packet, headers: &Headers, mtu_bytes: u16) {
        let mtu = u32::from(mtu_bytes);
        self.send_error(&packet, headers, ErrorCause::TooBig { mtu });
        let detail = Detail::Size { packet_bytes: headers.ip_bytes, mtu_bytes: mtu };
        self.drop_packet(packet, DropReason::MtuExceeded, detail);
    }
}
