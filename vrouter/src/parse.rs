//! Stage 2: headers, and what kind of packet it is.
//!
//! Reads only. Whatever is wrong with a packet is a [`Refusal`]: a drop reason with the values that
//! led to it.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub(crate) mod outer;
pub(crate) mod outer_fragments;
pub(crate) mod query;
mod stage;
mod tunnel_cache;

pub(crate) use self::tunnel_cache::TunnelCache;

use std::net::IpAddr;

use encap::{
    ParseError,
    ecn::TrafficClass,
    ethernet::EtherType,
    icmp::IcmpView,
    icmpv6::Icmpv6View,
    ip::{Fragment, IpProtocol},
    ipv4::Ipv4View,
    ipv6::{self, Ipv6View},
    sctp::{ChunkType, SctpView},
    tcp::TcpView,
    udp::UdpView,
};
use flowtable::{FlowKey, FragmentKey, PacketFacts, SctpFacts, TcpFacts, TcpFlags, TransportFacts};

use crate::{drops::DropReason, snapshot::VrfIndex, trace::Detail};

/// Bytes of an Ethernet header: where the IP header starts.
pub(crate) const IP_OFFSET: usize = encap::ethernet::EthernetView::LEN;

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) reason: DropReason,
    pub(crate) detail: Detail,
}

impl Refusal {
    pub(crate) fn new(reason: DropReason, detail: Detail) -> Self {
        Self { reason, detail }
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        let reason = match error {
            ParseError::Truncated { .. } | ParseError::LengthBeyondPacket { .. } => {
                DropReason::ParseTruncated
            }
            ParseError::ChecksumMismatch { layer: encap::Layer::Ipv4, .. } => {
                DropReason::ParseIpv4Checksum
            }
            ParseError::TooManyExtensionHeaders { .. } => DropReason::ParseExtensionHeaders,
            ParseError::VniFlagUnset { .. } => DropReason::VxlanFlagUnset,
            _ => DropReason::ParseMalformed,
        };
        Self::new(reason, Detail::Header(error))
    }
}

/// What kind of message an IP packet carries, as far as the engine treats them differently.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Message {
    /// A packet of a connection.
    Flow(TransportFacts),
    /// An echo request: a packet of a connection, unless it is for the gateway.
    EchoRequest,
    /// An answer to an ICMP query: a packet of the connection that the request opened. It opens none
    /// itself, or requests of the other side would pass as the answers to it.
    QueryAnswer,
    /// An ICMP error, which belongs to the connection that it quotes.
    IcmpError,
    /// A later fragment: only its first one tells the ports.
    LaterFragment,
    /// Neighbour discovery (RFC 4861), with its type and code.
    Neighbour(u8, u8),
    /// Another ICMP message, with its type and code: none that a router forwards or answers.
    Unserved(u8, u8),
}

/// What the headers of one packet say. For an encapsulated one: the inner headers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Headers {
    pub(crate) vrf: VrfIndex,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Ports; of an ICMP query what [`query::ports`] says; else zero.
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) protocol: IpProtocol,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: TrafficClass,
    /// Routers may not fragment it: always so for IPv6.
    pub(crate) is_whole_only: bool,
    /// Set if the packet is not a whole one.
    pub(crate) fragment: Option<Fragment>,
    /// The IP packet in bytes.
    pub(crate) ip_bytes: u32,
    /// Where the transport header starts, in bytes from the Ethernet header on.
    pub(crate) transport_offset: usize,
    pub(crate) message: Message,
}

impl Headers {
    /// The key of the connection's direction that the packet belongs to.
    pub(crate) fn key(&self) -> FlowKey {
        key(
            self.vrf,
            self.protocol,
            (self.source, self.source_port),
            (self.destination, self.destination_port),
        )
    }

    /// Where the IP packet ends, in bytes from the Ethernet header on; what follows is padding.
    pub(crate) fn end(&self) -> usize {
        IP_OFFSET.saturating_add(self.ip_bytes as usize)
    }

    /// What the fragments of one datagram have in common; `None` for a whole packet.
    pub(crate) fn fragment_key(&self) -> Option<FragmentKey> {
        let identification = self.fragment?.identification;
        FragmentKey::new(self.vrf.0, self.protocol.0, self.source, self.destination, identification)
    }

    /// What the flow table is told about the packet.
    pub(crate) fn facts(&self) -> PacketFacts {
        let transport = match self.message {
            Message::Flow(facts) => facts,
            Message::IcmpError => TransportFacts::IcmpError,
            _ => TransportFacts::Datagram,
        };
        PacketFacts { bytes: self.ip_bytes, transport }
    }

    pub(crate) fn flow_detail(&self) -> Detail {
        let (source_port, destination_port) = crate::flows::shown_ports(&self.key());
        Detail::Flow {
            protocol: self.protocol,
            source: self.source,
            source_port,
            destination: self.destination,
            destination_port,
        }
    }
}

/// The flow key of a tuple; both addresses are of one family, as they come from one header.
pub(crate) fn key(
    vrf: VrfIndex,
    protocol: IpProtocol,
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
) -> FlowKey {
    match (source.0, destination.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            FlowKey::v4(vrf.0, protocol.0, (from, source.1), (to, destination.1))
        }
        (from, to) => {
            FlowKey::v6(vrf.0, protocol.0, (v6_of(from), source.1), (v6_of(to), destination.1))
        }
    }
}

fn v6_of(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Parses the IP packet in `frame`, the first segment of a packet of `packet_bytes` bytes.
pub(crate) fn parse_ip(
    frame: &[u8],
    packet_bytes: usize,
    ether_type: EtherType,
    vrf: VrfIndex,
) -> Result<Headers, Refusal> {
    let segment = frame.get(IP_OFFSET..).unwrap_or(&[]);
    let ip_bytes = packet_bytes.saturating_sub(IP_OFFSET);
    let headers = match ether_type {
        EtherType::IPV4 => parse_ipv4(segment, ip_bytes, vrf)?,
        EtherType::IPV6 => parse_ipv6(segment, ip_bytes, vrf)?,
        EtherType(ether_type) => {
            let detail = Detail::EtherType { ether_type };
            return Err(Refusal::new(DropReason::ParseUnknownEthertype, detail));
        }
    };
    check_addresses(&headers)?;
    Ok(headers)
}

fn parse_ipv4(segment: &[u8], ip_bytes: usize, vrf: VrfIndex) -> Result<Headers, Refusal> {
    let (ip, payload) = Ipv4View::parse_chained(segment, ip_bytes)?;
    ip.verify_checksum()?;
    let headers = Headers {
        vrf,
        source: ip.source().into(),
        destination: ip.destination().into(),
        source_port: 0,
        destination_port: 0,
        protocol: ip.protocol(),
        hop_limit: ip.ttl(),
        traffic_class: ip.traffic_class(),
        is_whole_only: ip.is_dont_fragment(),
        fragment: ip.fragment(),
        ip_bytes: u32::from(ip.total_length()),
        transport_offset: IP_OFFSET.saturating_add(ip.header_len()),
        message: Message::LaterFragment,
    };
    parse_transport(headers, payload, ip.payload_len())
}

fn parse_ipv6(segment: &[u8], ip_bytes: usize, vrf: VrfIndex) -> Result<Headers, Refusal> {
    let (ip, payload) = Ipv6View::parse_chained(segment, ip_bytes)?;
    let walked = ipv6::walk(ip.next_header(), payload)?;
    let transport = payload.get(walked.header_bytes..).unwrap_or(&[]);
    let length = ip.payload_len();
    let headers = Headers {
        vrf,
        source: ip.source().into(),
        destination: ip.destination().into(),
        source_port: 0,
        destination_port: 0,
        protocol: walked.protocol,
        hop_limit: ip.hop_limit(),
        traffic_class: ip.traffic_class(),
        is_whole_only: true,
        fragment: walked.fragment.filter(|part| !part.is_whole()),
        ip_bytes: u32::try_from(Ipv6View::LEN.saturating_add(length)).unwrap_or(u32::MAX),
        transport_offset: IP_OFFSET
            .saturating_add(Ipv6View::LEN)
            .saturating_add(walked.header_bytes),
        message: Message::LaterFragment,
    };
    parse_transport(headers, transport, length.saturating_sub(walked.header_bytes))
}

/// `bytes` is what lies of the transport header and its payload in the first segment, `length` what
/// there is of it in all.
fn parse_transport(mut headers: Headers, bytes: &[u8], length: usize) -> Result<Headers, Refusal> {
    if headers.fragment.is_some_and(|fragment| !fragment.is_first()) {
        return Ok(headers);
    }
    let mut ports = (0, 0);
    headers.message = match headers.protocol {
        IpProtocol::TCP => {
            let (tcp, _) = TcpView::parse(bytes)?;
            ports = (tcp.source_port(), tcp.destination_port());
            Message::Flow(TransportFacts::Tcp(tcp_facts(&tcp, length)))
        }
        IpProtocol::UDP => {
            let (udp, _) = match headers.fragment {
                Some(_) => UdpView::parse_header(bytes)?,
                None => UdpView::parse_chained(bytes, length)?,
            };
            ports = (udp.source_port(), udp.destination_port());
            Message::Flow(TransportFacts::Datagram)
        }
        IpProtocol::SCTP => {
            let (sctp, chunks) = SctpView::parse(bytes)?;
            ports = (sctp.source_port(), sctp.destination_port());
            Message::Flow(TransportFacts::Sctp(sctp_facts(sctp, chunks)))
        }
        IpProtocol::ICMP if headers.source.is_ipv4() => {
            let (icmp, _) = IcmpView::parse(bytes)?;
            let kind = icmp.kind();
            if let (Some(id), Some(asked)) = (icmp.echo_id(), kind.asked()) {
                ports = query::ports(id, asked.0, kind.is_request());
            }
            if kind.is_error() {
                Message::IcmpError
            } else if kind == encap::icmp::IcmpType::ECHO_REQUEST {
                Message::EchoRequest
            } else if kind.is_request() {
                Message::Flow(TransportFacts::Datagram)
            } else if kind.is_query() {
                Message::QueryAnswer
            } else {
                Message::Unserved(kind.0, icmp.code())
            }
        }
        IpProtocol::ICMPV6 if headers.source.is_ipv6() => {
            let (icmp, _) = Icmpv6View::parse(bytes)?;
            let kind = icmp.kind();
            if let (Some(id), Some(asked)) = (icmp.echo_id(), kind.asked()) {
                ports = query::ports(id, asked.0, kind.is_request());
            }
            if kind.is_error() {
                Message::IcmpError
            } else if kind.is_request() {
                Message::EchoRequest
            } else if kind.is_query() {
                Message::QueryAnswer
            } else if kind.is_neighbour_discovery() {
                Message::Neighbour(kind.0, icmp.code())
            } else {
                Message::Unserved(kind.0, icmp.code())
            }
        }
        _ => Message::Flow(TransportFacts::Datagram),
    };
    (headers.source_port, headers.destination_port) = ports;
    Ok(headers)
}

pub(crate) fn tcp_facts(tcp: &TcpView<'_>, length: usize) -> TcpFacts {
    let flags = TcpFlags(tcp.flags().0);
    let payload = length.saturating_sub(tcp.header_len());
    TcpFacts {
        flags,
        sequence: tcp.sequence(),
        acknowledgement: tcp.acknowledgement(),
        window: tcp.window(),
        payload_bytes: u32::try_from(payload).unwrap_or(u32::MAX),
        // Only a SYN's option counts, so others are not searched.
        window_scale: if flags.has(TcpFlags::SYN) { tcp.window_scale() } else { None },
    }
}

fn sctp_facts(sctp: SctpView<'_>, chunks: &[u8]) -> SctpFacts {
    let chunk = SctpView::first_chunk_type(chunks);
    let initiates = matches!(chunk, Some(ChunkType::INIT | ChunkType::INIT_ACK));
    // The initiate tag follows the chunk's type, flags and length (RFC 9260 section 3.3.2).
    let tag = chunks.get(4..8).and_then(|tag| tag.first_chunk()).filter(|_| initiates);
    SctpFacts {
        chunk_type: chunk.map_or(u8::MAX, |chunk| chunk.0),
        verification_tag: sctp.verification_tag(),
        initiate_tag: tag.map_or(0, |tag| u32::from_be_bytes(*tag)),
        tag_reflected: chunks.get(1).is_some_and(|flags| flags & 1 != 0),
    }
}

/// Addresses that no router forwards from or to.
fn check_addresses(headers: &Headers) -> Result<(), Refusal> {
    let Headers { source, destination, .. } = *headers;
    let is_neighbour = matches!(headers.message, Message::Neighbour(..));
    let is_group = match destination {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        // Neighbour discovery is for us although it goes to a group.
        IpAddr::V6(address) => address.is_multicast() && !is_neighbour,
    };
    if is_group {
        return Err(Refusal::new(DropReason::ParseMulticast, Detail::Destination { destination }));
    }
    // Duplicate address detection asks from the unspecified address (RFC 4862 section 5.4.2).
    let is_unspecified = source.is_ipv6() && source.is_unspecified() && !is_neighbour;
    if is_martian(source) || is_unspecified {
        return Err(Refusal::new(DropReason::ParseMartianSource, Detail::Source { source }));
    }
    Ok(())
}

/// Whether no host has the address: "this network", loopback, and multicast up to broadcast (RFC
/// 1812 section 5.3.7). The unspecified address of IPv6 is not among them.
///
/// Neither forwarded from nor to, so that no flow has it: the fast path need not look.
pub(crate) fn is_martian(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first == 0 || first == 127 || first >= 224
        }
        IpAddr::V6(address) => address.is_multicast() || address.is_loopback(),
    }
}
