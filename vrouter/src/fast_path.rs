//! Plain packets of known flows: what most packets are, and all that is done for one of them.
//!
//! A plain packet (see [`encap::plain`]) is read at fixed offsets and keeps eight bytes of notes
//! beside its flow key, instead of all its headers. If its flow is known and its way is open, it is
//! recorded, edited in place and sent. Whatever is not so leaves the fast path untouched and takes
//! the same steps as every other packet, headers and all: nothing is decided here that is not
//! decided there in the same way.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod gate;

pub(crate) use self::gate::{Gate, TunnelGate};

use encap::{
    MacAddress,
    ecn::TrafficClass,
    ethernet::EthernetView,
    plain::{self, PlainIpv4, PlainIpv6},
    tcp::TcpView,
};
use flowtable::{FlowHash, FlowRef, PacketFacts, TransportFacts, Verdict};

use crate::{
    config::Role,
    drops::DropReason,
    next_hop::{NextHop, PortHop, TunnelExit, TunnelHop},
    packet::Packet,
    parse::{Headers, IP_OFFSET, Refusal, parse_ip, tcp_facts},
    pipeline::Pass,
    port::PortRef,
    rewrite::{Outgoing, mtu_for},
    segment::fits_in_segments,
    snapshot::VrfIndex,
    trace::Detail,
};

/// What is kept of a plain packet's headers, apart from its flow key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Plain {
    /// The IP packet in bytes.
    ip_bytes: u32,
    traffic_class: TrafficClass,
    is_ipv4: bool,
    is_tcp: bool,
    /// Routers may not fragment it: always so for IPv6.
    is_whole_only: bool,
}

/// A way that is open.
enum Way<'a> {
    Port(&'a PortHop),
    /// Through the tunnel, and out of this port.
    Tunnel(&'a TunnelHop, PortRef),
}

impl Plain {
    /// Where the IP packet ends, in bytes from the Ethernet header on.
    #[inline]
    fn end(self) -> usize {
        IP_OFFSET.saturating_add(self.ip_bytes as usize)
    }

    #[inline]
    fn transport_offset(self) -> usize {
        if self.is_ipv4 { PlainIpv4::TRANSPORT_OFFSET } else { PlainIpv6::TRANSPORT_OFFSET }
    }

    /// What the flow table is told about the packet in `frame`.
    #[inline]
    fn facts(self, frame: &[u8]) -> PacketFacts {
        let transport = if self.is_tcp { self.tcp_facts(frame) } else { TransportFacts::Datagram };
        PacketFacts { bytes: self.ip_bytes, transport }
    }

    #[inline]
    fn tcp_facts(self, frame: &[u8]) -> TransportFacts {
        let offset = self.transport_offset();
        let segment = frame.get(offset..).unwrap_or(&[]);
        match TcpView::parse(segment) {
            Ok((tcp, _)) => TransportFacts::Tcp(tcp_facts(&tcp, self.end().saturating_sub(offset))),
            // The header was found whole when the packet was read.
            Err(_) => TransportFacts::Datagram,
        }
    }

    #[inline]
    fn outgoing(self, flow_hash: u64) -> Outgoing {
        Outgoing {
            is_ipv4: self.is_ipv4,
            traffic_class: self.traffic_class,
            is_whole_only: self.is_whole_only,
            flow_hash,
        }
    }

    /// One hop less, in place.
    #[inline]
    fn decrement_hop_limit(self, frame: &mut [u8]) {
        if self.is_ipv4 {
            if let Some(frame) = frame.first_chunk_mut() {
                plain::decrement_ttl(frame);
            }
        } else if let Some(frame) = frame.first_chunk_mut() {
            plain::decrement_hop_limit(frame);
        }
    }
}

impl Pass<'_> {
    /// Sends a plain packet of a known flow along the flow's way and takes it, if nothing speaks
    /// against it. Otherwise says false and has recorded nothing: at most, a flow that the packet
    /// supersedes is gone, which is the first thing that the other way would do.
    #[inline]
    pub(crate) fn follow_plain(
        &mut self,
        packet: &mut Packet,
        plain: Plain,
        hash: FlowHash,
        flow: &FlowRef,
    ) -> bool {
        let Some(held) = self.worker.hold(flow) else { return false };
        let action = held.action;
        if action.has_local_source() && self.ingress.role == Role::Uplink {
            return false;
        }
        let Some((index, generation)) = action.next_hop() else { return false };
        let snapshot = self.snapshot;
        let Some(hop) = snapshot.next_hop(index, generation) else { return false };
        let (way, mtu_bytes) = match hop {
            NextHop::Port(hop) => (Way::Port(hop), hop.mtu_bytes),
            NextHop::Tunnel(hop) => {
                let TunnelExit::Port(port) = hop.exit else { return false };
                let limit = snapshot.path_mtus.limit(index, hop.mtu_bytes, self.now);
                (Way::Tunnel(hop, port), mtu_for(limit, plain.is_ipv4))
            }
            NextHop::Unused | NextHop::Unreachable | NextHop::Blackhole => return false,
        };
        if plain.ip_bytes > u32::from(mtu_bytes)
            && !fits_in_segments(packet, mtu_bytes, self.pool.region())
        {
            return false;
        }
        let recorded = if plain.is_tcp {
            let facts = plain.facts(packet.data(self.pool.region()));
            held.record(&facts, self.ticks)
        } else {
            held.record_datagram(plain.ip_bytes, self.ticks)
        };
        if recorded.is_none() && !self.record_rare(packet, plain, flow) {
            return packet.is_taken();
        }
        match way {
            Way::Port(hop) => self.send_plain(packet, plain, hop),
            Way::Tunnel(hop, port) => self.encapsulate_plain(packet, plain, hop, port, hash),
        }
        true
    }

    /// Records a packet that is not what most are. False if its flow has ended, and if it is
    /// invalid: then it was taken, and dropped.
    #[inline(never)]
    fn record_rare(&mut self, packet: &mut Packet, plain: Plain, flow: &FlowRef) -> bool {
        let facts = plain.facts(packet.data(self.pool.region()));
        match self.worker.record(*flow, &facts, self.ticks).map(|recorded| recorded.verdict) {
            None => false,
            Some(Verdict::Invalid(reason)) => {
                let detail = Detail::Invalid { reason };
                self.drop_packet(packet.take(), DropReason::FlowInvalid, detail);
                false
            }
            Some(_) => true,
        }
    }

    #[inline]
    fn send_plain(&mut self, packet: &mut Packet, plain: Plain, hop: &PortHop) {
        let frame = packet.data_mut(self.pool.region());
        plain.decrement_hop_limit(frame);
        write_macs(frame, hop.destination_mac, hop.source_mac);
        // The hop is of the same snapshot as the port, so that the port is there.
        self.put_out(hop.port.index, packet.take());
    }

    #[inline]
    fn encapsulate_plain(
        &mut self,
        packet: &mut Packet,
        plain: Plain,
        hop: &TunnelHop,
        port: PortRef,
        hash: FlowHash,
    ) {
        let frame = packet.data_mut(self.pool.region());
        plain.decrement_hop_limit(frame);
        write_macs(frame, hop.destination_mac, hop.source_mac);
        if !packet.offload.is_nothing() {
            return self.encapsulate_unfinished(packet, plain, hop, hash);
        }
        match self.write_outer_headers(packet, hop, &plain.outgoing(hash.0)) {
            Some(bytes) if self.snapshot.port(port).is_some() => {
                self.put_out(port.index, packet.take().with_front(bytes));
            }
            Some(_) => self.drop_packet(packet.take(), DropReason::PortDown, Detail::None),
            None => self.drop_packet(packet.take(), DropReason::HeadroomMissing, Detail::None),
        }
    }

    /// Out of line, so that what most packets need is close together.
    #[cold]
    #[inline(never)]
    fn encapsulate_unfinished(
        &mut self,
        packet: &mut Packet,
        plain: Plain,
        hop: &TunnelHop,
        hash: FlowHash,
    ) {
        self.put_unfinished_into_tunnel(packet.take(), hop, &plain.outgoing(hash.0));
    }

    #[inline]
    fn put_out(&mut self, port: u16, packet: Packet) {
        if let Err(packet) = self.outbox.push(port, packet) {
            self.drop_packet(packet, DropReason::TxRingFull, Detail::None);
        }
    }

    /// All headers of a plain packet that left the fast path.
    #[cold]
    pub(crate) fn headers_of_plain(
        &self,
        packet: &Packet,
        vrf: VrfIndex,
    ) -> Result<Headers, Refusal> {
        let frame = packet.data(self.pool.region());
        let (ethernet, _) = EthernetView::parse(frame)?;
        parse_ip(frame, packet.total_bytes() as usize, ethernet.ether_type(), vrf)
    }
}

/// The `EtherType` after them stays: what is inside does not change its family.
#[inline]
fn write_macs(frame: &mut [u8], to: MacAddress, from: MacAddress) {
    let macs = frame.first_chunk_mut::<12>().map(|macs| macs.as_chunks_mut().0);
    if let Some([destination, source]) = macs {
        *destination = to.octets();
        *source = from.octets();
    }
}
