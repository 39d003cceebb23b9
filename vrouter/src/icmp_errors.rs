//! ICMP errors: those that the engine sends, and what becomes of those that it receives.
//!
//! Sent ones come from the VRF's gateway address, within the worker's rate limit; whether one may
//! be sent at all is [`encap::icmp_error::ErrorReply`]'s judgement. The packet that is reported on
//! is dropped with its reason either way.

#![warn(clippy::indexing_slicing)]

use std::net::IpAddr;

use encap::{
    ecn::TrafficClass,
    ethernet::{EtherType, EthernetView},
    icmp::IcmpView,
    icmp_error::{ErrorCause, ErrorReply},
    icmpv6::Icmpv6View,
    ip::{Fragment, IpProtocol},
    quote::{QuotedFlow, QuotedView},
    vxlan::{OVERHEAD_IPV4, OVERHEAD_IPV6},
};

use flowtable::{Direction, FlowKey, FragmentKey, Lookup};

use crate::{
    drops::DropReason,
    packet::Packet,
    parse::{Headers, IP_OFFSET, key, outer::OuterTooBig, query},
    pipeline::Pass,
    rewrite::{Outgoing, mtu_for},
    segment::Plan,
    snapshot::VrfIndex,
    trace::Detail,
};

/// Below this, a word about the MTU is not believed: what every IPv4 host takes (RFC 791), as Linux
/// has it (`min_pmtu`).
pub(crate) const PATH_MTU_BYTES_MIN: u32 = 552;

/// MTUs that links have, from the largest: what to try when a router does not tell (RFC 1191
/// section 7.1).
const PLATEAUS: [u32; 7] = [65_535, 17_914, 8166, 4352, 2002, 1492, 1006];

/// As much as the longest error quotes (RFC 4443 section 2.4 (c)).
const QUOTE_BYTES_MAX: usize = encap::icmp_error::IPV6_ERROR_BYTES_MAX;

impl Pass<'_> {
    /// TTL or hop limit ran out.
    #[cold]
    pub(crate) fn expire(&mut self, packet: Packet, headers: &Headers) {
        self.send_error(&packet, headers, ErrorCause::HopLimitExceeded);
        let detail = Detail::HopLimit { hop_limit: headers.hop_limit };
        self.drop_packet(packet, DropReason::TtlExceeded, detail);
    }

    /// Tells the sender of `packet`, which is dropped by the caller, what happened to it.
    #[cold]
    pub(crate) fn send_error(&mut self, packet: &Packet, headers: &Headers, cause: ErrorCause) {
        let region = self.pool.region();
        let frame = packet.data(region);
        let Ok((ethernet, _)) = EthernetView::parse(frame) else { return };
        let destination = ethernet.destination();
        // What would have been on the wire is quoted.
        let first = packet.offload.gso.and_then(|_| Plan::of(packet, region).ok());
        let end = first.map_or(headers.end(), |plan| plan.frame_bytes_max()).min(frame.len());
        // The quote is copied out, since the packet's frame is borrowed from the pool that the
        // answer's comes from.
        let mut copy = [0; IP_OFFSET + QUOTE_BYTES_MAX];
        let end = end.min(copy.len());
        let Some(copy) = copy.get_mut(..end) else { return };
        copy.copy_from_slice(frame.get(..end).unwrap_or(&[]));
        if let Some(plan) = first {
            plan.write_first(copy, packet, region);
        }
        let Some(copy) = copy.get_mut(IP_OFFSET..) else { return };
        if let Ok(reply) = ErrorReply::new(copy, destination, cause) {
            self.send_reply(&reply, headers.vrf);
        }
    }

    /// An ICMP error belongs to the connection whose packet it quotes, and goes the way of the
    /// direction that leads to the quoted packet's sender. It opens no connection.
    #[cold]
    pub(crate) fn follow_quoted_flow(&mut self, packet: Packet, headers: &Headers) {
        let key = self.quoted_key(&packet, headers);
        match key.map(|key| self.look_up_one(&key)) {
            Some((hash, Lookup::Hit(flow))) => self.follow(packet, headers, hash, flow),
            Some((hash, Lookup::Stale(flow))) => self.judge_again(packet, headers, hash, flow),
            Some((_, Lookup::Miss)) | None => {
                self.drop_packet(packet, DropReason::IcmpUnrelated, headers.flow_detail());
            }
        }
    }

    /// The key of the direction that the error goes: the quoted packet's, reversed.
    fn quoted_key(&mut self, packet: &Packet, headers: &Headers) -> Option<FlowKey> {
        let frame = packet.data(self.pool.region());
        let message = frame.get(headers.transport_offset..)?;
        let quoted = match headers.source {
            IpAddr::V4(_) => {
                let (icmp, body) = IcmpView::parse(message).ok()?;
                QuotedView::parse_icmp(&icmp, body).ok()?
            }
            IpAddr::V6(_) => {
                let (icmp, body) = Icmpv6View::parse(message).ok()?;
                QuotedView::parse_icmpv6(&icmp, body).ok()?
            }
        };
        // The error is for whoever sent the quoted packet (RFC 1122 section 3.2.2).
        if quoted.source() != headers.destination {
            return None;
        }
        let (protocol, ends) = (quoted.protocol(), (quoted.source(), quoted.destination()));
        match quoted.fragment().filter(|fragment| !fragment.is_first()) {
            Some(fragment) => self.key_after_fragment(headers.vrf, protocol, ends, fragment),
            None => Some(key_after(headers.vrf, protocol, ends, quoted.flow())),
        }
    }

    /// The key of the answers to a later fragment, which has no ports: its first one told them.
    fn key_after_fragment(
        &mut self,
        vrf: VrfIndex,
        protocol: IpProtocol,
        (source, destination): (IpAddr, IpAddr),
        fragment: Fragment,
    ) -> Option<FlowKey> {
        let id = fragment.identification;
        let key = FragmentKey::new(vrf.0, protocol.0, source, destination, id)?;
        let flow = self.worker.fragment_lookup(&key, self.ticks)?;
        match flow.direction() {
            Direction::Forward => self.worker.reply_key(flow),
            Direction::Reply => self.worker.original_key(flow),
        }
    }

    fn send_reply(&mut self, reply: &ErrorReply<'_>, vrf: VrfIndex) {
        let destination = reply.destination();
        let gateway = self.snapshot.vrf(vrf).and_then(|vrf| match destination {
            IpAddr::V4(_) => vrf.gateway_v4.map(IpAddr::V4),
            IpAddr::V6(_) => vrf.gateway_v6.map(IpAddr::V6),
        });
        let Some(gateway) = gateway else { return };
        // An error that nobody could be reached with costs no token.
        if self.route(vrf, destination).is_none() || !self.own.icmp_errors.take(self.now) {
            return;
        }
        let packet = self.generate(|frame| {
            let packet = frame.get_mut(IP_OFFSET..).unwrap_or(&mut []);
            reply.write(gateway, packet).map_or(0, |bytes| IP_OFFSET + bytes)
        });
        let outgoing = Outgoing {
            is_ipv4: destination.is_ipv4(),
            traffic_class: TrafficClass(0xc0),
            is_whole_only: true,
            flow_hash: 0,
        };
        if let Some(packet) = packet {
            self.send_generated(packet, vrf, destination, &outgoing);
        }
    }

    /// The underlay dropped an encapsulated packet as too big: the tunnel's MTU is lowered for a
    /// while, and the sender of the inner packet is told, if enough of it is quoted.
    #[cold]
    pub(crate) fn lower_path_mtu(&mut self, packet: Packet, message: &OuterTooBig) {
        let way = message.vni.and_then(|vni| self.snapshot.tunnel_to(message.remote, vni));
        let Some(way) = way else {
            return self.give_to_node(packet, DropReason::HostPortMissing, Detail::None);
        };
        let overhead = if message.remote.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
        let overhead = u32::try_from(overhead).unwrap_or(u32::MAX);
        let outer_mtu = match message.mtu_bytes {
            0 => PLATEAUS.into_iter().find(|mtu| *mtu < message.packet_bytes).unwrap_or(0),
            mtu => mtu,
        };
        // A router that lets the packet pass has nothing to say.
        if outer_mtu < message.packet_bytes {
            let mtu = outer_mtu.saturating_sub(overhead).max(PATH_MTU_BYTES_MIN);
            let mtu_bytes = u16::try_from(mtu).unwrap_or(u16::MAX);
            self.snapshot.path_mtus.lower(way, mtu_bytes, self.now);
            self.tell_inner_sender(&packet, message, mtu_bytes);
        }
        self.consume(packet);
    }

    fn tell_inner_sender(&mut self, packet: &Packet, message: &OuterTooBig, mtu_bytes: u16) {
        let Some(vrf) = message.vni.and_then(|vni| self.snapshot.vrf_of_vni(vni)) else { return };
        let frame = packet.data(self.pool.region());
        let quoted = frame.get(message.inner_offset..).unwrap_or(&[]);
        let Ok((ethernet, inner)) = EthernetView::parse(quoted) else { return };
        let destination = ethernet.destination();
        let is_ipv4 = ethernet.ether_type() == EtherType::IPV4;
        let mtu = u32::from(mtu_for(mtu_bytes, is_ipv4));
        let mut copy = [0; QUOTE_BYTES_MAX];
        let Some(copy) = copy.get_mut(..inner.len().min(QUOTE_BYTES_MAX)) else { return };
        copy.copy_from_slice(inner.get(..copy.len()).unwrap_or(&[]));
        if let Ok(reply) = ErrorReply::new(copy, destination, ErrorCause::TooBig { mtu }) {
            self.send_reply(&reply, vrf);
        }
    }
}

/// The key of the answers to a quoted packet.
fn key_after(
    vrf: VrfIndex,
    protocol: IpProtocol,
    (source, destination): (IpAddr, IpAddr),
    flow: QuotedFlow,
) -> FlowKey {
    let (source_port, destination_port) = match flow {
        QuotedFlow::Ports { source, destination } => (source, destination),
        QuotedFlow::Echo { id, asked, is_request } => query::ports(id, asked, is_request),
        QuotedFlow::Unknown => (0, 0),
    };
    key(vrf, protocol, (destination, destination_port), (source, source_port))
}
