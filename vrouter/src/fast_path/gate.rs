//! What plain packets are held against before their flows are looked up, and reading them.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![expect(clippy::inline_always, reason = "a third slower where it is called instead")]

use std::net::{IpAddr, Ipv4Addr};

use encap::{
    MacAddress,
    ecn::Ecn,
    ip::IpProtocol,
    plain::{PlainIpv4, PlainIpv6, PlainVxlan},
    vxlan::{OVERHEAD_IPV4, Vni},
};
use flowtable::FlowKey;

use super::Plain;
use crate::{
    config::Role,
    packet::{Checksum, Packet},
    pipeline::{Pass, Scratch},
    snapshot::{NodeTable, PortEntry, Snapshot, Vrf, VrfIndex},
};

/// Stands for an address that there is not: no packet of a flow is from a group, or to one.
const NOBODY_V4: [u8; 4] = [0xff; 4];
const NOBODY_V6: [u8; 16] = [0xff; 16];

/// What the plain packets of one port, or of one virtual network, are held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    /// Who the packets are for.
    mac: MacAddress,
    vrf: VrfIndex,
    /// Sources of a guest's packets, its first of each family; others are looked at in full.
    source_v4: [u8; 4],
    source_v6: [u8; 16],
    /// Packets may be from any address.
    is_trusted: bool,
    /// The gateway itself, which answers instead of forwarding.
    gateway_v4: [u8; 4],
    gateway_v6: [u8; 16],
    /// Packets may carry partial checksums.
    has_partial_checksums: bool,
}

impl Gate {
    /// The gate of a port's own packets; `None` for a port without a VRF.
    pub(crate) fn of_station(port: &PortEntry, snapshot: &Snapshot) -> Option<Self> {
        let mut gate = Self::of_vrf(port.gateway_mac, port.vrf, snapshot.vrf(port.vrf)?);
        gate.is_trusted = port.role != Role::Guest;
        gate.has_partial_checksums = port.has_partial_checksums;
        for address in port.addresses.iter().rev() {
            match address {
                IpAddr::V4(address) => gate.source_v4 = address.octets(),
                IpAddr::V6(address) => gate.source_v6 = address.octets(),
            }
        }
        Some(gate)
    }

    /// The gate of what comes out of tunnels; `None` for a network that is not ours.
    fn of_tunnel(vni: Vni, snapshot: &Snapshot) -> Option<Self> {
        let vrf = snapshot.vrf_of_vni(vni)?;
        Some(Self::of_vrf(snapshot.node.router_mac, vrf, snapshot.vrf(vrf)?))
    }

    fn of_vrf(mac: MacAddress, index: VrfIndex, vrf: &Vrf) -> Self {
        Self {
            mac,
            vrf: index,
            source_v4: NOBODY_V4,
            source_v6: NOBODY_V6,
            is_trusted: true,
            gateway_v4: vrf.gateway_v4.map_or(NOBODY_V4, |address| address.octets()),
            gateway_v6: vrf.gateway_v6.map_or(NOBODY_V6, |address| address.octets()),
            has_partial_checksums: false,
        }
    }

    /// Reads a plain packet that is for us, from whom it may be from, and not at its end here.
    /// `None` says only that it must be looked at in full.
    #[inline(always)]
    fn read(&self, frame: &[u8], frame_bytes: usize) -> Option<(Plain, FlowKey)> {
        if let Some(ip) = PlainIpv4::read(frame, frame_bytes) {
            let is_admitted = ip.destination_mac() == self.mac
                && (self.is_trusted || self.source_v4 == ip.source())
                && self.gateway_v4 != ip.destination()
                && ip.ttl() > 1;
            return is_admitted.then(|| self.note_ipv4(ip));
        }
        let ip = PlainIpv6::read(frame, frame_bytes)?;
        let is_admitted = ip.destination_mac() == self.mac
            && (self.is_trusted || self.source_v6 == ip.source())
            && self.gateway_v6 != ip.destination()
            && ip.hop_limit() > 1;
        is_admitted.then(|| self.note_ipv6(ip))
    }

    #[inline]
    fn note_ipv4(&self, ip: PlainIpv4<'_>) -> (Plain, FlowKey) {
        let protocol = ip.protocol();
        let plain = Plain {
            ip_bytes: u32::from(ip.total_length()),
            traffic_class: ip.traffic_class(),
            is_ipv4: true,
            is_tcp: protocol == IpProtocol::TCP,
            is_whole_only: ip.is_dont_fragment(),
        };
        (plain, FlowKey::of_ipv4_header(self.vrf.0, protocol.0, ip.addresses(), ip.ports()))
    }

    #[inline]
    fn note_ipv6(&self, ip: PlainIpv6<'_>) -> (Plain, FlowKey) {
        let protocol = ip.protocol();
        let plain = Plain {
            ip_bytes: ip.packet_length(),
            traffic_class: ip.traffic_class(),
            is_ipv4: false,
            is_tcp: protocol == IpProtocol::TCP,
            is_whole_only: true,
        };
        (plain, FlowKey::of_ipv6_header(self.vrf.0, protocol.0, ip.addresses(), ip.ports()))
    }
}

/// What packets of one tunnel have in common.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Ends {
    /// The underlay addresses, the peer's first.
    addresses: [u8; 8],
    udp_port: u16,
    vni: Vni,
}

impl Ends {
    #[inline]
    fn of(outer: &PlainVxlan<'_>) -> Self {
        Self { addresses: *outer.addresses(), udp_port: outer.destination_port(), vni: outer.vni() }
    }

    fn remote(&self) -> Ipv4Addr {
        let [a, b, c, d, ..] = self.addresses;
        Ipv4Addr::new(a, b, c, d)
    }

    /// Whether packets with these ends are for this node's tunnels.
    fn are_ours(&self, node: &NodeTable) -> bool {
        let [.., a, b, c, d] = self.addresses;
        node.vtep_v4 == Some(Ipv4Addr::new(a, b, c, d)) && node.udp_ports.contains(&self.udp_port)
    }
}

/// The gate of the tunnel that the last packet came out of, and how many came in a row.
#[derive(Debug, Default)]
pub(crate) struct TunnelGate {
    gate: Option<(Ends, Gate)>,
    /// Not counted yet.
    packets: u64,
    bytes: u64,
}

impl TunnelGate {
    #[inline]
    fn gate_of(&self, outer: &PlainVxlan<'_>) -> Option<&Gate> {
        let (current, gate) = self.gate.as_ref()?;
        (*current == Ends::of(outer)).then_some(gate)
    }
}

impl Pass<'_> {
    /// Reads a packet from a guest or the node, if it is plain.
    #[inline]
    pub(crate) fn read_plain(
        &self,
        packet: &mut Packet,
        gate: &Gate,
        scratch: &mut Scratch,
    ) -> bool {
        let bytes = packet.total_bytes() as usize;
        let Some((plain, key)) = gate.read(packet.data(self.pool.region()), bytes) else {
            return false;
        };
        if !trim_padding(packet, plain.end()) {
            return false;
        }
        if gate.has_partial_checksums {
            packet.offload.checksum = Checksum::Unknown;
        }
        scratch.push_plain(plain, key, self.flows.hash_ahead(&key));
        true
    }

    /// Takes a packet out of the tunnel that it came in, if it and the packet around it are plain;
    /// otherwise changes nothing.
    #[inline]
    pub(crate) fn read_encapsulated(
        &mut self,
        packet: &mut Packet,
        tunnel: &mut TunnelGate,
        scratch: &mut Scratch,
    ) -> bool {
        let bytes = packet.total_bytes() as usize;
        let frame = packet.data(self.pool.region());
        let Some(outer) = PlainVxlan::read(frame, bytes) else { return false };
        let Some(gate) = tunnel.gate_of(&outer) else {
            let ends = Ends::of(&outer);
            return self.enter_tunnel(ends, tunnel)
                && self.read_encapsulated(packet, tunnel, scratch);
        };
        let inner = frame.get(OVERHEAD_IPV4..).unwrap_or(&[]);
        let inner_bytes = outer.inner_bytes();
        let Some((plain, key)) = gate.read(inner, inner_bytes) else { return false };
        // Equal marks, or none outside, leave the inner one as it is (RFC 6040 section 4.2).
        let mark = outer.traffic_class().ecn();
        if mark != Ecn::NotEct && mark != plain.traffic_class.ecn() {
            return false;
        }
        if !trim_padding(packet, OVERHEAD_IPV4.saturating_add(plain.end()))
            || !u16::try_from(OVERHEAD_IPV4).is_ok_and(|bytes| packet.pull(bytes))
        {
            return false;
        }
        tunnel.packets = tunnel.packets.wrapping_add(1);
        tunnel.bytes = tunnel.bytes.wrapping_add(inner_bytes as u64);
        scratch.push_plain(plain, key, self.flows.hash_ahead(&key));
        true
    }

    /// Makes the gate that of this tunnel; false if packets with these ends are not for our tunnels.
    #[inline(never)]
    fn enter_tunnel(&mut self, ends: Ends, tunnel: &mut TunnelGate) -> bool {
        self.leave_tunnel(tunnel);
        tunnel.gate = ends
            .are_ours(&self.snapshot.node)
            .then(|| Gate::of_tunnel(ends.vni, self.snapshot))
            .flatten()
            .map(|gate| (ends, gate));
        tunnel.gate.is_some()
    }

    /// Counts what came out of the tunnel.
    pub(crate) fn leave_tunnel(&mut self, tunnel: &mut TunnelGate) {
        if let Some((ends, _)) = tunnel.gate
            && tunnel.packets > 0
        {
            let remote = ends.remote().into();
            self.count_decapsulated(remote, ends.vni, tunnel.packets, tunnel.bytes);
        }
        (tunnel.packets, tunnel.bytes) = (0, 0);
    }
}

/// Padding does not travel on. False if it is in several segments, which takes longer.
#[inline]
fn trim_padding(packet: &mut Packet, end: usize) -> bool {
    end >= packet.total_bytes() as usize || u16::try_from(end).is_ok_and(|end| packet.truncate(end))
}
