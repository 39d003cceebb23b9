//! Plain packets: whole TCP segments and UDP datagrams in Ethernet, behind an IP header without
//! options or extension headers. Most packets are plain.
//!
//! Where every field of a plain packet lies is known beforehand, so that a few comparisons tell
//! whether a frame is one. A frame that is not may still be a good packet: the views of the other
//! modules judge it. The two agree: a frame is plain only if those views find nothing wrong with
//! it.
#![expect(
    clippy::inline_always,
    reason = "called from three places, and a third slower where it is not inlined"
)]

use crate::MacAddress;
use crate::ecn::TrafficClass;
use crate::ethernet::EthernetView;
use crate::field::{bytes_at, put_u16, u16_at};
use crate::ip::IpProtocol;
use crate::ipv4::Ipv4View;
use crate::ipv6::Ipv6View;
use crate::tcp::{TcpFlags, TcpView};
use crate::udp::UdpView;
use crate::vxlan::{Vni, VxlanView};

/// Ethernet, IPv4, and as much of the transport header as both protocols have.
const IPV4_BYTES: usize = EthernetView::LEN.saturating_add(Ipv4View::LEN_MIN).saturating_add(8);
/// The same with IPv6.
const IPV6_BYTES: usize = EthernetView::LEN.saturating_add(Ipv6View::LEN).saturating_add(8);
/// UDP and VXLAN headers, and an inner Ethernet header.
const MIN_VXLAN_UDP_BYTES: usize =
    UdpView::LEN.saturating_add(VxlanView::LEN).saturating_add(EthernetView::LEN);
/// `EtherType`, version and header length; the byte of the traffic class does not count.
const IPV4_START: u32 = u32::from_be_bytes([0x08, 0x00, 0x45, 0]);
/// `EtherType` and version; what follows are the traffic class and the flow label.
const IPV6_START: u32 = u32::from_be_bytes([0x86, 0xdd, 0x60, 0]);

/// The headers of a plain IPv4 packet.
///
/// Holding one proves that lengths agree, that the header checksum is right, that the packet is no
/// fragment, and that it is a UDP datagram or a TCP segment without SYN.
#[derive(Clone, Copy, Debug)]
pub struct PlainIpv4<'a>(&'a [u8; IPV4_BYTES]);

impl<'a> PlainIpv4<'a> {
    /// Where the transport header starts, in bytes from the Ethernet header on.
    pub const TRANSPORT_OFFSET: usize = EthernetView::LEN.saturating_add(Ipv4View::LEN_MIN);
    /// Where the addresses start, in bytes from the Ethernet header on.
    pub const ADDRESSES: usize = 26;

    /// The headers at the start of `frame`, the first segment of a frame of `frame_bytes` bytes;
    /// `None` if it is not plain.
    #[must_use]
    #[inline(always)]
    pub fn read(frame: &'a [u8], frame_bytes: usize) -> Option<Self> {
        let head: &[u8; IPV4_BYTES] = frame.first_chunk()?;
        let start = u32::from_be_bytes(*bytes_at::<12, 4, _>(head)) & 0xffff_ff00;
        let is_fragment = u16_at::<20, _>(head) & 0x3fff != 0;
        if start != IPV4_START || is_fragment {
            return None;
        }
        let ip_bytes = usize::from(u16_at::<16, _>(head));
        if ip_bytes.saturating_add(EthernetView::LEN) > frame_bytes {
            return None;
        }
        // Underflows of lengths below the header's are told by the transport's minimum.
        let transport_bytes = ip_bytes.checked_sub(Ipv4View::LEN_MIN)?;
        let is_whole = is_transport_plain(
            frame,
            *bytes_at::<34, 8, _>(head),
            IpProtocol(head[23]),
            Self::TRANSPORT_OFFSET,
            transport_bytes,
        );
        (is_whole && is_ipv4_header_intact(bytes_at::<14, 20, _>(head))).then_some(Self(head))
    }

    /// Who the frame is for.
    #[must_use]
    #[inline]
    pub fn destination_mac(&self) -> MacAddress {
        MacAddress::new(*bytes_at::<0, 6, _>(self.0))
    }

    /// Type of service.
    #[must_use]
    #[inline]
    pub fn traffic_class(&self) -> TrafficClass {
        TrafficClass(self.0[15])
    }

    /// Length of header and payload, in bytes.
    #[must_use]
    #[inline]
    pub fn total_length(&self) -> u16 {
        u16_at::<16, _>(self.0)
    }

    /// Whether routers may not fragment the packet.
    #[must_use]
    #[inline]
    pub fn is_dont_fragment(&self) -> bool {
        self.0[20] & 0x40 != 0
    }

    /// Time to live, in hops.
    #[must_use]
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.0[22]
    }

    /// TCP or UDP.
    #[must_use]
    #[inline]
    pub fn protocol(&self) -> IpProtocol {
        IpProtocol(self.0[23])
    }

    /// Source and destination address, as they stand in the header.
    #[must_use]
    #[inline]
    pub fn addresses(&self) -> &'a [u8; 8] {
        bytes_at::<26, 8, _>(self.0)
    }

    /// Source address.
    #[must_use]
    #[inline]
    pub fn source(&self) -> [u8; 4] {
        *bytes_at::<26, 4, _>(self.0)
    }

    /// Destination address.
    #[must_use]
    #[inline]
    pub fn destination(&self) -> [u8; 4] {
        *bytes_at::<30, 4, _>(self.0)
    }

    /// Source and destination port, as they stand in the header.
    #[must_use]
    #[inline]
    pub fn ports(&self) -> &'a [u8; 4] {
        bytes_at::<34, 4, _>(self.0)
    }
}

/// The outer headers of a VXLAN packet over plain IPv4, without a UDP checksum.
///
/// The inner frame starts [`OVERHEAD_IPV4`](crate::vxlan::OVERHEAD_IPV4) bytes into the frame;
/// nothing is known of it.
#[derive(Clone, Copy, Debug)]
pub struct PlainVxlan<'a> {
    outer: PlainIpv4<'a>,
    vni: Vni,
}

impl<'a> PlainVxlan<'a> {
    /// As [`PlainIpv4::read`]. Whether the UDP port is a tunnel's is for the caller to say.
    #[must_use]
    #[inline(always)]
    pub fn read(frame: &'a [u8], frame_bytes: usize) -> Option<Self> {
        let outer = PlainIpv4::read(frame, frame_bytes)?;
        let has_checksum = u16_at::<40, _>(outer.0) != 0;
        if outer.protocol() != IpProtocol::UDP || has_checksum {
            return None;
        }
        // The UDP length may end before the header does, whatever follows.
        let is_short = usize::from(u16_at::<38, _>(outer.0)) < MIN_VXLAN_UDP_BYTES;
        let (vxlan, _) = VxlanView::parse(frame.get(IPV4_BYTES..)?).ok()?;
        (!is_short).then_some(Self { outer, vni: vxlan.vni() })
    }

    /// Outer type of service.
    #[must_use]
    #[inline]
    pub fn traffic_class(&self) -> TrafficClass {
        self.outer.traffic_class()
    }

    /// The underlay addresses, as they stand in the header: the peer's first.
    #[must_use]
    #[inline]
    pub fn addresses(&self) -> &'a [u8; 8] {
        self.outer.addresses()
    }

    /// UDP destination port.
    #[must_use]
    #[inline]
    pub fn destination_port(&self) -> u16 {
        u16_at::<36, _>(self.outer.0)
    }

    /// Length of the inner frame by the UDP length field, in bytes; what follows is padding of the
    /// outer frame.
    #[must_use]
    #[inline]
    pub fn inner_bytes(&self) -> usize {
        let headers = UdpView::LEN.saturating_add(VxlanView::LEN);
        usize::from(u16_at::<38, _>(self.outer.0)).saturating_sub(headers)
    }

    /// The network that the inner frame belongs to.
    #[must_use]
    #[inline]
    pub fn vni(&self) -> Vni {
        self.vni
    }
}

/// The headers of a plain IPv6 packet.
///
/// Holding one proves that lengths agree and that the packet is a UDP datagram or a TCP segment
/// without SYN.
#[derive(Clone, Copy, Debug)]
pub struct PlainIpv6<'a>(&'a [u8; IPV6_BYTES]);

impl<'a> PlainIpv6<'a> {
    /// Where the transport header starts, in bytes from the Ethernet header on.
    pub const TRANSPORT_OFFSET: usize = EthernetView::LEN.saturating_add(Ipv6View::LEN);
    /// Where the addresses start, in bytes from the Ethernet header on.
    pub const ADDRESSES: usize = 22;

    /// The headers at the start of `frame`, the first segment of a frame of `frame_bytes` bytes;
    /// `None` if it is not plain.
    #[must_use]
    #[inline(always)]
    pub fn read(frame: &'a [u8], frame_bytes: usize) -> Option<Self> {
        let head: &[u8; IPV6_BYTES] = frame.first_chunk()?;
        if u32::from_be_bytes(*bytes_at::<12, 4, _>(head)) & 0xffff_f000 != IPV6_START {
            return None;
        }
        let payload_bytes = usize::from(u16_at::<18, _>(head));
        if payload_bytes.saturating_add(Self::TRANSPORT_OFFSET) > frame_bytes {
            return None;
        }
        let is_whole = is_transport_plain(
            frame,
            *bytes_at::<54, 8, _>(head),
            IpProtocol(head[20]),
            Self::TRANSPORT_OFFSET,
            payload_bytes,
        );
        is_whole.then_some(Self(head))
    }

    /// Who the frame is for.
    #[must_use]
    #[inline]
    pub fn destination_mac(&self) -> MacAddress {
        MacAddress::new(*bytes_at::<0, 6, _>(self.0))
    }

    /// Traffic class: DSCP and ECN.
    #[must_use]
    #[inline]
    pub fn traffic_class(&self) -> TrafficClass {
        TrafficClass((self.0[14] << 4) | (self.0[15] >> 4))
    }

    /// Length of header and payload, in bytes.
    #[must_use]
    #[inline]
    pub fn packet_length(&self) -> u32 {
        u32::from(u16_at::<18, _>(self.0)).wrapping_add(40)
    }

    /// Hops that are left.
    #[must_use]
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.0[21]
    }

    /// TCP or UDP.
    #[must_use]
    #[inline]
    pub fn protocol(&self) -> IpProtocol {
        IpProtocol(self.0[20])
    }

    /// Source and destination address, as they stand in the header.
    #[must_use]
    #[inline]
    pub fn addresses(&self) -> &'a [u8; 32] {
        bytes_at::<22, 32, _>(self.0)
    }

    /// Source address.
    #[must_use]
    #[inline]
    pub fn source(&self) -> [u8; 16] {
        *bytes_at::<22, 16, _>(self.0)
    }

    /// Destination address.
    #[must_use]
    #[inline]
    pub fn destination(&self) -> [u8; 16] {
        *bytes_at::<38, 16, _>(self.0)
    }

    /// Source and destination port, as they stand in the header.
    #[must_use]
    #[inline]
    pub fn ports(&self) -> &'a [u8; 4] {
        bytes_at::<54, 4, _>(self.0)
    }
}

/// Takes one hop off the time to live of an IPv4 packet that is known to have more than one left,
/// and keeps its header checksum right (RFC 1624, equation 3).
#[inline]
pub fn decrement_ttl(frame: &mut [u8; IPV4_BYTES]) {
    frame[22] = frame[22].wrapping_sub(1);
    // The TTL is the high byte of its word, so that the word becomes less by 0x0100: its change in
    // one's complement is 0xfeff.
    let sum = u32::from(!u16_at::<24, _>(frame)).wrapping_add(0xfeff);
    let [_, carry, high, low] = sum.to_be_bytes();
    let folded = u16::from_be_bytes([high, low]).wrapping_add(u16::from(carry));
    put_u16::<24, _>(frame, !folded);
}

/// Takes one hop off the hop limit of an IPv6 packet that is known to have more than one left.
#[inline]
pub fn decrement_hop_limit(frame: &mut [u8; IPV6_BYTES]) {
    frame[21] = frame[21].wrapping_sub(1);
}

/// Whether the one's-complement sum over a header, its checksum included, proves it intact.
///
/// That sum is the plain sum modulo 65,535, in either byte order and in words of any multiple of 16
/// bits (RFC 1071 section 2); it is not zero, since the version is not.
#[inline]
fn is_ipv4_header_intact(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    // Five words of 32 bits: no carry is lost.
    let word = |word: &[u8; 4]| u64::from(u32::from_ne_bytes(*word));
    words.iter().map(word).fold(0, u64::wrapping_add).is_multiple_of(0xffff)
}

/// Whether a transport header and its lengths are right, and there is nothing special about it.
/// `start` are its first bytes, at `offset` of `frame`; it and its payload have `bytes` bytes.
#[inline]
fn is_transport_plain(
    frame: &[u8],
    start: [u8; 8],
    protocol: IpProtocol,
    offset: usize,
    bytes: usize,
) -> bool {
    match protocol {
        IpProtocol::UDP => {
            let stated = usize::from(u16_at::<4, _>(&start));
            stated >= UdpView::LEN && stated <= bytes
        }
        IpProtocol::TCP => {
            let present = frame.len().saturating_sub(offset).min(bytes);
            let Some(rest) = frame.get(offset.saturating_add(8)..) else { return false };
            let Some(&[_, _, _, _, data_offset, flags]) = rest.first_chunk() else { return false };
            let header_bytes = usize::from(data_offset >> 4).wrapping_mul(4);
            let opens = TcpFlags(flags).contains(TcpFlags::SYN);
            header_bytes >= TcpView::LEN_MIN && header_bytes <= present && !opens
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
