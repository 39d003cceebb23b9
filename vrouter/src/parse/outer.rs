//! Packets from the fabric: is it ours to decapsulate, about a tunnel of ours, or the node's own?

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::IpAddr;

use encap::{
    checksum::Sum,
    ethernet::{EtherType, EthernetView},
    icmp::IcmpView,
    icmpv6::Icmpv6View,
    ip::{IpProtocol, IpView},
    ipv6::Ipv6View,
    quote::QuotedView,
    udp::UdpView,
    vxlan::{Decap, DecapError, DecapSettings, Outer, OuterError, Vni, VxlanView},
};

use super::{
    IP_OFFSET, Refusal,
    outer_fragments::{Datagram, OuterFragments},
};
use crate::{drops::DropReason, snapshot::NodeTable, trace::Detail};

/// What a frame from the fabric is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FromFabric {
    /// An encapsulated frame for us from `remote`; `inner_offset` is where the inner Ethernet header
    /// starts.
    Encapsulated { decap: Decap, remote: IpAddr, inner_offset: usize },
    /// The underlay says that a packet of ours was too big.
    TooBig(OuterTooBig),
    /// Not ours to handle: the node's.
    Node,
}

/// The underlay's word about a packet that we encapsulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OuterTooBig {
    /// Whom the packet was for.
    pub(crate) remote: IpAddr,
    pub(crate) vni: Option<Vni>,
    /// The largest outer IP packet, in bytes; 0 if the router does not tell.
    pub(crate) mtu_bytes: u32,
    /// The outer IP packet as we sent it, in bytes.
    pub(crate) packet_bytes: u32,
    /// Where the inner Ethernet frame starts in the received frame.
    pub(crate) inner_offset: usize,
}

/// Judges a frame from the fabric.
///
/// `frame` is the first segment of a packet of `packet_bytes` bytes, and `rest_sum` gives the sum
/// over so many bytes of the segments after it. An error is a packet to a tunnel of ours that must
/// be dropped.
///
/// Tunnel endpoints neither fragment nor reassemble (RFC 7348 section 4.3), so all fragments of a
/// packet to a tunnel are dropped. Later ones name no port: `fragmented` remembers the first ones.
pub(crate) fn classify(
    frame: &[u8],
    packet_bytes: usize,
    node: &NodeTable,
    fragmented: &OuterFragments,
    rest_sum: impl FnOnce(usize) -> Sum,
) -> Result<FromFabric, Refusal> {
    let Ok((ethernet, packet)) = EthernetView::parse(frame) else {
        return Ok(FromFabric::Node);
    };
    let ether_type = ethernet.ether_type();
    if ether_type != EtherType::IPV4 && ether_type != EtherType::IPV6 {
        return Ok(FromFabric::Node);
    }
    let is_ours = |address, udp_port| node.is_vtep(address) && node.udp_ports.contains(&udp_port);
    match Outer::parse(packet, packet_bytes.saturating_sub(IP_OFFSET)) {
        Ok(outer) if is_ours(outer.destination(), outer.destination_port()) => {
            let decap = outer.decap(DecapSettings::default(), rest_sum).map_err(refuse_decap)?;
            let inner_offset = IP_OFFSET.saturating_add(decap.inner_offset());
            Ok(FromFabric::Encapsulated { decap, remote: outer.source(), inner_offset })
        }
        Ok(_) => Ok(FromFabric::Node),
        Err(OuterError::Fragmented { .. }) => match tunnel_fragment(packet, fragmented, is_ours) {
            Some(detail) => Err(Refusal::new(DropReason::VxlanOuterFragment, detail)),
            None => Ok(FromFabric::Node),
        },
        Err(OuterError::NotUdp { .. }) => {
            Ok(too_big(packet, node).map_or(FromFabric::Node, FromFabric::TooBig))
        }
        // Broken, but only what is for one of our tunnels is ours to drop.
        Err(OuterError::Malformed(error)) => match udp_destination(packet) {
            Some((address, udp_port)) if is_ours(address, udp_port) => Err(error.into()),
            _ => Ok(FromFabric::Node),
        },
    }
}

fn refuse_decap(error: DecapError) -> Refusal {
    match error {
        DecapError::Malformed(error) => error.into(),
        DecapError::UdpChecksumWrong(error) => {
            Refusal::new(DropReason::VxlanChecksum, Detail::Header(error))
        }
        DecapError::UdpChecksumMissing => Refusal::new(DropReason::VxlanChecksum, Detail::None),
        DecapError::CongestionNotTransportable => Refusal::new(DropReason::VxlanEcn, Detail::None),
    }
}

/// The destination of what looks like a UDP packet, however broken it is.
fn udp_destination(packet: &[u8]) -> Option<(IpAddr, u16)> {
    let (ip, payload) = IpView::parse_header(packet).ok()?;
    let upper = ip.upper_layer(payload).ok()?;
    if upper.protocol != IpProtocol::UDP {
        return None;
    }
    let port = upper.bytes.get(2..4)?.first_chunk()?;
    Some((ip.destination(), u16::from_be_bytes(*port)))
}

/// The fragment, if it is one of a packet to a tunnel of ours.
#[cold]
fn tunnel_fragment(
    packet: &[u8],
    fragmented: &OuterFragments,
    is_ours: impl Fn(IpAddr, u16) -> bool,
) -> Option<Detail> {
    let (ip, payload) = IpView::parse_header(packet).ok()?;
    let upper = ip.upper_layer(payload).ok()?;
    let part = upper.fragment?;
    let (source, destination) = (ip.source(), ip.destination());
    let datagram = Datagram { source, destination, identification: part.identification };
    let is_tunnel = if part.is_first() {
        let udp_port = (upper.protocol == IpProtocol::UDP)
            .then(|| UdpView::parse_header(upper.bytes).ok())
            .flatten()
            .map(|(udp, _)| udp.destination_port());
        let is_tunnel = udp_port.is_some_and(|udp_port| is_ours(destination, udp_port));
        fragmented.note_first(&datagram, is_tunnel);
        is_tunnel
    } else {
        fragmented.contains(&datagram)
    };
    is_tunnel.then_some(Detail::Fragment {
        source,
        destination,
        identification: part.identification,
        offset_bytes: part.offset_bytes,
    })
}

/// Reads an ICMP "too big" about a packet that we encapsulated. `None` for anything else.
fn too_big(packet: &[u8], node: &NodeTable) -> Option<OuterTooBig> {
    let (ip, payload) = IpView::parse(packet).ok()?;
    let upper = ip.upper_layer(payload).ok()?;
    if upper.fragment.is_some_and(|part| !part.is_whole()) {
        return None;
    }
    let (quoted, body, mtu_bytes) = match (ip, upper.protocol) {
        (IpView::V4(_), IpProtocol::ICMP) => {
            let (icmp, body) = IcmpView::parse(upper.bytes).ok()?;
            let mtu = u32::from(icmp.next_hop_mtu()?);
            icmp.verify_checksum(Sum::of(body)).ok()?;
            (QuotedView::parse_icmp(&icmp, body).ok()?, body, mtu)
        }
        (IpView::V6(ip), IpProtocol::ICMPV6) => {
            let (icmp, body) = Icmpv6View::parse(upper.bytes).ok()?;
            let mtu = icmp.next_hop_mtu()?;
            let length = u32::try_from(upper.bytes.len()).ok()?;
            let pseudo_header = ip.pseudo_header(IpProtocol::ICMPV6, length);
            icmp.verify_checksum(pseudo_header, Sum::of(body)).ok()?;
            (QuotedView::parse_icmpv6(&icmp, body).ok()?, body, mtu)
        }
        _ => return None,
    };
    if !node.is_vtep(quoted.source()) || quoted.protocol() != IpProtocol::UDP {
        return None;
    }
    let quoted_udp = body.get(quoted.upper_offset()..)?;
    let (udp, tunnelled) = UdpView::parse_header(quoted_udp).ok()?;
    if !node.udp_ports.contains(&udp.destination_port()) {
        return None;
    }
    let packet_bytes = match quoted.ip() {
        IpView::V4(ip) => u32::from(ip.total_length()),
        IpView::V6(ip) => u32::try_from(Ipv6View::LEN.saturating_add(ip.payload_len())).ok()?,
    };
    let vni = VxlanView::parse(tunnelled).ok().map(|(vxlan, _)| vxlan.vni());
    let ip_header_bytes = match ip {
        IpView::V4(ip) => ip.header_len(),
        IpView::V6(_) => Ipv6View::LEN,
    };
    let extension_bytes = payload.len().saturating_sub(upper.bytes.len());
    // The frame's own headers, then the quoted ones in front of the inner frame.
    let before_inner = [
        IP_OFFSET,
        ip_header_bytes,
        extension_bytes,
        IcmpView::LEN,
        quoted.upper_offset(),
        UdpView::LEN,
        VxlanView::LEN,
    ];
    Some(OuterTooBig {
        remote: quoted.destination(),
        vni,
        mtu_bytes,
        packet_bytes,
        inner_offset: before_inner.into_iter().fold(0, usize::saturating_add),
    })
}
