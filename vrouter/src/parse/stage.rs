//! The parse stage over a burst: each packet to the flows, to the gateway's services, to the node,
//! or dropped.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::IpAddr;

use encap::{
    ethernet::{EtherType, EthernetView},
    vxlan::Vni,
};
use flowtable::{FlowHash, FlowKey};

use super::{
    Headers, Message,
    outer::{self, FromFabric},
    parse_ip,
};
use crate::{
    burst::Burst,
    chain,
    config::Role,
    drops::DropReason,
    fast_path::{Gate, Plain, TunnelGate},
    memory::FramePool,
    next_hop::{NextHop, TunnelRef},
    packet::{Checksum, Packet},
    pipeline::{Parsed, Pass, Scratch},
    snapshot::{Snapshot, VrfIndex},
    trace::Detail,
};

impl Pass<'_> {
    /// Takes what is not plain out of `burst`; what is known about packets of flows is in `scratch`
    /// afterwards.
    pub(crate) fn parse(&mut self, burst: &mut Burst, scratch: &mut Scratch) {
        scratch.clear();
        if self.ingress.role == Role::Uplink {
            let mut tunnel = TunnelGate::default();
            for packet in burst {
                let is_plain =
                    self.own.has_fast_path && self.read_encapsulated(packet, &mut tunnel, scratch);
                if !is_plain {
                    let packet = packet.take();
                    scratch.parse_other(|scratch| self.parse_from_fabric(packet, scratch));
                }
            }
            return self.leave_tunnel(&mut tunnel);
        }
        let gate = self.own.has_fast_path.then(|| Gate::of_station(self.ingress, self.snapshot));
        let gate = gate.flatten();
        for packet in burst {
            let is_plain = gate.as_ref().is_some_and(|gate| self.read_plain(packet, gate, scratch));
            if !is_plain {
                let packet = packet.take();
                scratch.parse_other(|scratch| self.parse_from_station(packet, scratch));
            }
        }
    }

    fn parse_from_fabric(&mut self, mut packet: Packet, scratch: &mut Scratch) {
        let region = self.pool.region();
        let frame = packet.data(region);
        let linear = frame.len();
        let (bytes, node) = (packet.total_bytes() as usize, &self.snapshot.node);
        let verdict = outer::classify(frame, bytes, node, self.flows.outer_fragments(), |bytes| {
            chain::sum(&packet, region, linear, bytes)
        });
        let (decap, remote, inner_offset) = match verdict {
            Ok(FromFabric::Encapsulated { decap, remote, inner_offset }) => {
                (decap, remote, inner_offset)
            }
            Ok(FromFabric::TooBig(message)) => return self.lower_path_mtu(packet, &message),
            Ok(FromFabric::Node) => {
                return self.give_to_node(packet, DropReason::HostPortMissing, Detail::None);
            }
            Err(refusal) => return self.refuse(packet, refusal),
        };
        let vni = decap.vni();
        let Some(vrf) = self.snapshot.vrf_of_vni(vni) else {
            let detail = Detail::Vni { vni };
            return self.give_to_node(packet, DropReason::VxlanUnknownVni, detail);
        };
        // The outer headers lie in the first segment: the parser has seen them there.
        if !u16::try_from(inner_offset).is_ok_and(|bytes| packet.pull(bytes)) {
            return self.drop_packet(packet, DropReason::ParseTruncated, Detail::None);
        }
        let bytes = decap.inner_bytes();
        trim(&mut packet, bytes, self.pool);
        self.count_decapsulated(remote, vni, 1, bytes as u64);
        let region = self.pool.region();
        decap.apply_ecn(packet.data_mut(region));
        let expected = self.snapshot.node.router_mac;
        match EthernetView::parse(packet.data(region)) {
            Ok((ethernet, _)) if ethernet.destination() == expected => {
                let ether_type = ethernet.ether_type();
                self.parse_routed(packet, bytes, ether_type, vrf, scratch);
            }
            Ok((ethernet, _)) => {
                let detail = Detail::Mac { found: ethernet.destination(), expected };
                self.drop_packet(packet, DropReason::VxlanInnerMac, detail);
            }
            Err(error) => self.refuse(packet, error.into()),
        }
    }

    /// Counts packets under the tunnel that they came out of, if there is one to where they came
    /// from.
    pub(crate) fn count_decapsulated(
        &mut self,
        remote: IpAddr,
        vni: Vni,
        packets: u64,
        bytes: u64,
    ) {
        let snapshot = self.snapshot;
        let search = || find_tunnel(snapshot, remote, vni);
        if let Some(tunnel) = self.own.tunnels.find(snapshot.version, remote, vni, search) {
            self.stats.tunnel_rx(tunnel, packets, bytes);
        }
    }

    /// A frame from a guest or from the node's own stack.
    fn parse_from_station(&mut self, mut packet: Packet, scratch: &mut Scratch) {
        let (ether_type, destination) = match EthernetView::parse(packet.data(self.pool.region())) {
            Ok((ethernet, _)) => (ethernet.ether_type(), ethernet.destination()),
            Err(error) => return self.refuse(packet, error.into()),
        };
        if ether_type == EtherType::ARP {
            return self.answer_arp(packet);
        }
        // Groups are sorted out by the IP destination; another station's frame is not ours.
        let expected = self.ingress.gateway_mac;
        if destination != expected && !destination.is_multicast() {
            let detail = Detail::Mac { found: destination, expected };
            return self.drop_packet(packet, DropReason::ParseForeignMac, detail);
        }
        if self.ingress.has_partial_checksums {
            packet.offload.checksum = Checksum::Unknown;
        }
        let bytes = packet.total_bytes() as usize;
        self.parse_routed(packet, bytes, ether_type, self.ingress.vrf, scratch);
    }

    /// An IP packet that is to be routed in `vrf`. What is of it in the packet ends after `bytes`
    /// bytes.
    fn parse_routed(
        &mut self,
        mut packet: Packet,
        bytes: usize,
        ether_type: EtherType,
        vrf: VrfIndex,
        scratch: &mut Scratch,
    ) {
        let parsed = parse_ip(packet.data(self.pool.region()), bytes, ether_type, vrf);
        let headers = match parsed {
            Ok(headers) => headers,
            Err(refusal) => return self.refuse(packet, refusal),
        };
        if let Message::Neighbour(..) = headers.message {
            return self.answer_neighbour(packet, &headers);
        }
        if is_group_frame(packet.data(self.pool.region())) {
            let detail = Detail::Destination { destination: headers.destination };
            return self.drop_packet(packet, DropReason::ParseForeignMac, detail);
        }
        let source = headers.source;
        if !self.ingress.may_send_from(source) {
            return self.drop_packet(
                packet,
                DropReason::RpfSpoofedSource,
                Detail::Source { source },
            );
        }
        trim(&mut packet, headers.end(), self.pool);
        let is_gateway =
            self.snapshot.vrf(vrf).is_some_and(|vrf| vrf.is_gateway(headers.destination));
        if is_gateway || headers.hop_limit <= 1 {
            return self.end_here(packet, &headers, is_gateway);
        }
        match headers.message {
            Message::IcmpError => self.follow_quoted_flow(packet, &headers),
            Message::Unserved(kind, code) => {
                let detail = Detail::Message { kind, code };
                self.drop_packet(packet, DropReason::IcmpUnserved, detail);
            }
            _ => {
                let key = headers.key();
                scratch.push_key(key, self.flows.hash_ahead(&key));
                // As many as a burst holds, so there is room.
                scratch.others.push((packet, headers));
            }
        }
    }

    /// A packet to the gateway, or with no hop left: it belongs to no flow, so that its source is
    /// judged before it is answered.
    #[cold]
    fn end_here(&mut self, packet: Packet, headers: &Headers, is_gateway: bool) {
        match self.check_answered_source(headers) {
            Ok(()) if is_gateway => self.serve_gateway(packet, headers),
            Ok(()) => self.expire(packet, headers),
            Err(refusal) => self.refuse(packet, refusal),
        }
    }
}

#[cold]
fn find_tunnel(snapshot: &Snapshot, remote: IpAddr, vni: Vni) -> Option<TunnelRef> {
    let slot = snapshot.next_hops.slot(snapshot.tunnel_to(remote, vni)?)?;
    match &slot.hop {
        NextHop::Tunnel(hop) => Some(hop.tunnel),
        _ => None,
    }
}

impl Scratch {
    fn clear(&mut self) {
        self.parsed.clear();
        self.keys.clear();
        self.hashes.clear();
    }

    /// Notes what `parse` makes of a packet that is not plain.
    #[cold]
    fn parse_other(&mut self, parse: impl FnOnce(&mut Self)) {
        let others = self.others.len();
        parse(self);
        self.parsed.push(if self.others.len() > others { Parsed::Other } else { Parsed::Gone });
    }

    #[inline]
    pub(crate) fn push_key(&mut self, key: FlowKey, hash: FlowHash) {
        // As many as a burst holds, so there is room.
        self.keys.push(key);
        self.hashes.push(hash);
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "called from two places, once a packet")]
    pub(crate) fn push_plain(&mut self, plain: Plain, key: FlowKey, hash: FlowHash) {
        self.push_key(key, hash);
        self.parsed.push(Parsed::Plain(plain));
    }
}

/// Takes off what is behind so many bytes: Ethernet pads short packets, a guest may send anything.
/// It does not travel on.
fn trim(packet: &mut Packet, bytes: usize, pool: &mut FramePool) {
    let total_bytes = packet.total_bytes();
    if let Ok(bytes) = u32::try_from(bytes)
        && bytes < total_bytes
    {
        packet.shorten(bytes, pool);
    }
}

/// A link-level broadcast of what is for one host only (RFC 1122 section 3.3.6).
fn is_group_frame(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & 1 != 0)
}
