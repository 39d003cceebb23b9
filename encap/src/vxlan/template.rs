//! The prebuilt outer headers of a tunnel.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{OVERHEAD_IPV4, OVERHEAD_IPV6, Vni, VxlanView, entropy_port, flow_label, header_bytes};
use crate::MacAddress;
use crate::checksum::Sum;
use crate::ecn::{DscpModel, EcnMode, TrafficClass, encapsulate};
use crate::ethernet::{EtherType, EthernetHeader, EthernetView};
use crate::field::{put, put_u16};
use crate::ip::IpProtocol;
use crate::ipv4::{Ipv4Header, Ipv4View};
use crate::ipv6::{Ipv6Header, Ipv6View};
use crate::udp::{UdpHeader, UdpView};

/// UDP and VXLAN headers, in bytes.
const TRANSPORT_BYTES: usize = UdpView::LEN.saturating_add(VxlanView::LEN);
/// The longest inner frame over IPv4: the total length has 16 bits.
const FRAME_BYTES_MAX_IPV4: usize =
    (u16::MAX as usize).saturating_sub(Ipv4View::LEN_MIN).saturating_sub(TRANSPORT_BYTES);
/// The longest inner frame over IPv6: the payload length has 16 bits.
const FRAME_BYTES_MAX_IPV6: usize = (u16::MAX as usize).saturating_sub(TRANSPORT_BYTES);
/// "Don't fragment" in the word of flags and fragment offset.
const DONT_FRAGMENT: u16 = 0x4000;

/// The two ends of a tunnel: underlay addresses of one family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TunnelAddresses {
    V4 { source: Ipv4Addr, destination: Ipv4Addr },
    V6 { source: Ipv6Addr, destination: Ipv6Addr },
}

/// A tunnel has one underlay family.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("tunnel source {from} and destination {to} are not of one address family")]
pub struct MixedFamilies {
    /// Source address.
    pub from: IpAddr,
    /// Destination address.
    pub to: IpAddr,
}

impl TunnelAddresses {
    /// The pair, if both are of one family.
    ///
    /// # Errors
    ///
    /// Fails with both addresses if they are not.
    pub const fn new(source: IpAddr, destination: IpAddr) -> Result<Self, MixedFamilies> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Ok(Self::V4 { source, destination }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Ok(Self::V6 { source, destination }),
            (from, to) => Err(MixedFamilies { from, to }),
        }
    }

    /// Bytes put in front of an inner frame: [`OVERHEAD_IPV4`] or [`OVERHEAD_IPV6`].
    #[must_use]
    pub const fn overhead(&self) -> usize {
        match self {
            Self::V4 { .. } => OVERHEAD_IPV4,
            Self::V6 { .. } => OVERHEAD_IPV6,
        }
    }
}

/// The outer "don't fragment" flag over IPv4. Over IPv6 nobody fragments on the way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OuterDf {
    /// Set: routers report what is too big, and the sender learns it. The default, since an egress
    /// may discard outer fragments (RFC 7348 section 4.3), and this one does.
    #[default]
    Set,
    /// Clear: routers may fragment. For a peer that reassembles behind a path whose ICMP is
    /// filtered.
    Clear,
    /// As the inner packet has it; set for inner IPv6, which is never fragmented on the way.
    Inherit,
}

/// Whether a UDP checksum is sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UdpChecksum {
    /// None over IPv4 (RFC 7348 section 5), one over IPv6 (RFC 8200 section 8.1).
    #[default]
    ByFamily,
    /// None. Over IPv6 this is for peers that are told to accept it (RFC 6935, RFC 6936).
    Zero,
    /// One, over both families.
    Computed,
}

/// What the outer headers of a tunnel are made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TunnelSettings {
    /// MAC address that the underlay's interface sends from.
    pub source_mac: MacAddress,
    /// MAC address of the underlay's next hop.
    pub destination_mac: MacAddress,
    /// Underlay addresses of the two ends.
    pub addresses: TunnelAddresses,
    /// The peer's UDP port: [`super::PORT`] or [`super::LINUX_PORT`] as a rule.
    pub destination_port: u16,
    /// Network of the inner frames.
    pub vni: Vni,
    /// Outer TTL or hop limit.
    pub hop_limit: u8,
    /// How the outer DSCP is made.
    pub dscp: DscpModel,
    /// How the outer ECN field is made.
    pub ecn: EcnMode,
    /// The outer "don't fragment" flag.
    pub outer_df: OuterDf,
    /// Whether a UDP checksum is sent.
    pub udp_checksum: UdpChecksum,
}

/// What the outer headers of one packet depend on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EncapPacket {
    /// Length of the inner Ethernet frame in bytes, all segments together.
    pub frame_bytes: usize,
    /// Hash of the inner flow; a hash of 32 bits is widened.
    pub flow_hash: u64,
    /// The inner traffic class; zero for a frame that is not IP.
    pub traffic_class: TrafficClass,
    /// Whether the inner packet may not be fragmented, for [`OuterDf::Inherit`]: true for IPv6.
    pub dont_fragment: bool,
    /// Outer IPv4 identification, used only with DF clear: unique among packets that may still be
    /// on their way (RFC 6864 section 4.3), a counter of the sender. With DF set zero is sent.
    pub identification: u16,
}

/// Why a packet could not be encapsulated. Lengths are in bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum EncapError {
    #[error("outer headers need {needed} bytes of headroom but only {actual} are there")]
    HeadroomTooShort { needed: usize, actual: usize },

    #[error("inner frame of {actual} bytes is above the longest that fits, {limit}")]
    FrameTooLong { limit: usize, actual: usize },
}

/// The outer Ethernet, IP, UDP and VXLAN headers of a tunnel, ready but for what differs per
/// packet.
#[derive(Clone, Copy, Debug)]
pub struct EncapTemplate {
    headers: Headers,
    /// Sum over the UDP pseudo header, UDP header and VXLAN header with lengths and source port
    /// zero.
    udp_sum: Sum,
    has_udp_checksum: bool,
    class: OuterClass,
    outer_df: OuterDf,
}

/// How the outer traffic class is made of the inner one, for the DSCP and ECN fields at once.
#[derive(Clone, Copy, Debug)]
struct OuterClass {
    /// Bits that are as the inner packet has them.
    kept: u8,
    /// The others.
    set: u8,
}

impl OuterClass {
    const fn new(dscp: DscpModel, ecn: EcnMode) -> Self {
        let set = encapsulate(TrafficClass(0), dscp, ecn).0;
        let all = encapsulate(TrafficClass(u8::MAX), dscp, ecn).0;
        Self { kept: all ^ set, set }
    }

    #[inline]
    const fn of(self, inner: TrafficClass) -> TrafficClass {
        TrafficClass((inner.0 & self.kept) | self.set)
    }
}

#[derive(Clone, Copy, Debug)]
enum Headers {
    V4 {
        bytes: [u8; OVERHEAD_IPV4],
        /// Sum over the IPv4 header with its variable fields zero.
        header_sum: Sum,
    },
    V6 {
        bytes: [u8; OVERHEAD_IPV6],
    },
}

impl EncapTemplate {
    /// Prepares the headers of a tunnel.
    #[must_use]
    pub fn new(settings: &TunnelSettings) -> Self {
        let ether_type = match settings.addresses {
            TunnelAddresses::V4 { .. } => EtherType::IPV4,
            TunnelAddresses::V6 { .. } => EtherType::IPV6,
        };
        let ethernet = EthernetHeader {
            destination: settings.destination_mac,
            source: settings.source_mac,
            ether_type,
        }
        .to_bytes();
        let udp = UdpHeader {
            source_port: 0,
            destination_port: settings.destination_port,
            length: 0,
            checksum: 0,
        }
        .to_bytes();
        let vxlan = header_bytes(settings.vni);
        let (headers, pseudo_header) = match settings.addresses {
            TunnelAddresses::V4 { source, destination } => {
                ipv4_headers(ethernet, source, destination, settings.hop_limit, udp, vxlan)
            }
            TunnelAddresses::V6 { source, destination } => {
                ipv6_headers(ethernet, source, destination, settings.hop_limit, udp, vxlan)
            }
        };
        let has_udp_checksum = match settings.udp_checksum {
            UdpChecksum::ByFamily => matches!(headers, Headers::V6 { .. }),
            UdpChecksum::Zero => false,
            UdpChecksum::Computed => true,
        };
        Self {
            headers,
            udp_sum: pseudo_header.add(Sum::of(&udp)).add(Sum::of(&vxlan)),
            has_udp_checksum,
            class: OuterClass::new(settings.dscp, settings.ecn),
            outer_df: settings.outer_df,
        }
    }

    /// Length of the outer headers in bytes: [`OVERHEAD_IPV4`] or [`OVERHEAD_IPV6`].
    #[must_use]
    pub const fn overhead(&self) -> usize {
        match self.headers {
            Headers::V4 { .. } => OVERHEAD_IPV4,
            Headers::V6 { .. } => OVERHEAD_IPV6,
        }
    }

    /// Replaces the MAC addresses, for an underlay next hop that has changed.
    pub fn set_macs(&mut self, source: MacAddress, destination: MacAddress) {
        let bytes = match &mut self.headers {
            Headers::V4 { bytes, .. } => bytes.first_chunk_mut::<{ EthernetView::LEN }>(),
            Headers::V6 { bytes } => bytes.first_chunk_mut::<{ EthernetView::LEN }>(),
        };
        if let Some(ethernet) = bytes {
            put::<0, 6, _>(ethernet, destination.octets());
            put::<6, 6, _>(ethernet, source.octets());
        }
    }

    /// Whether [`Self::write`] asks for the sum of the inner frame.
    #[must_use]
    pub const fn has_udp_checksum(&self) -> bool {
        self.has_udp_checksum
    }

    /// Writes the outer headers of a packet into the last bytes of `headroom`, right in front of
    /// the inner frame.
    ///
    /// `frame_sum` gives the sum over the whole inner frame, all segments (see [`Sum::add_at`]); it
    /// is called only if a UDP checksum is sent.
    ///
    /// # Errors
    ///
    /// Fails, and writes nothing, if the headroom is shorter than [`Self::overhead`], or if the
    /// inner frame makes the outer packet longer than 65,535 bytes.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call hands over as much as is written")]
    pub fn write(
        &self,
        headroom: &mut [u8],
        packet: &EncapPacket,
        frame_sum: impl FnOnce() -> Sum,
    ) -> Result<(), EncapError> {
        let class = self.class.of(packet.traffic_class);
        let port = entropy_port(packet.flow_hash);
        let actual = headroom.len();
        match &self.headers {
            Headers::V4 { bytes, header_sum } => {
                let udp_length = udp_length(packet.frame_bytes, FRAME_BYTES_MAX_IPV4)?;
                let Some(out) = headroom.last_chunk_mut::<OVERHEAD_IPV4>() else {
                    return Err(EncapError::HeadroomTooShort { needed: OVERHEAD_IPV4, actual });
                };
                let (flags, identification) = self.ipv4_fragmentation(packet);
                // Cannot wrap: the frame's length has been held against the limit.
                let total_length = udp_length.wrapping_add(20);
                let words = [u16::from(class.0), total_length, identification, flags];
                let checksum = header_sum.add_words(words).checksum();
                *out = *bytes;
                out[15] = class.0;
                put_u16::<16, _>(out, total_length);
                put_u16::<18, _>(out, identification);
                put_u16::<20, _>(out, flags);
                put_u16::<24, _>(out, checksum);
                put_u16::<34, _>(out, port);
                put_u16::<38, _>(out, udp_length);
                put_u16::<40, _>(out, self.udp_checksum(port, udp_length, frame_sum));
            }
            Headers::V6 { bytes } => {
                let udp_length = udp_length(packet.frame_bytes, FRAME_BYTES_MAX_IPV6)?;
                let Some(out) = headroom.last_chunk_mut::<OVERHEAD_IPV6>() else {
                    return Err(EncapError::HeadroomTooShort { needed: OVERHEAD_IPV6, actual });
                };
                let first = 0x6000_0000 | (u32::from(class.0) << 20) | flow_label(packet.flow_hash);
                *out = *bytes;
                put::<14, 4, _>(out, first.to_be_bytes());
                put_u16::<18, _>(out, udp_length);
                put_u16::<54, _>(out, port);
                put_u16::<58, _>(out, udp_length);
                put_u16::<60, _>(out, self.udp_checksum(port, udp_length, frame_sum));
            }
        }
        Ok(())
    }

    /// The word of flags and fragment offset, and the identification.
    fn ipv4_fragmentation(&self, packet: &EncapPacket) -> (u16, u16) {
        let is_set = match self.outer_df {
            OuterDf::Set => true,
            OuterDf::Clear => false,
            OuterDf::Inherit => packet.dont_fragment,
        };
        if is_set { (DONT_FRAGMENT, 0) } else { (0, packet.identification) }
    }

    fn udp_checksum(&self, port: u16, length: u16, frame_sum: impl FnOnce() -> Sum) -> u16 {
        if !self.has_udp_checksum {
            return 0;
        }
        // The length counts twice: in the pseudo header and in the header.
        self.udp_sum
            .add(Sum::of_u16(port))
            .add(Sum::of_u16(length))
            .add(Sum::of_u16(length))
            .add(frame_sum())
            .udp_checksum()
    }
}

/// The UDP length of an inner frame, which may have `limit` bytes.
#[inline]
fn udp_length(frame_bytes: usize, limit: usize) -> Result<u16, EncapError> {
    let error = EncapError::FrameTooLong { limit, actual: frame_bytes };
    if frame_bytes > limit {
        return Err(error);
    }
    u16::try_from(frame_bytes.wrapping_add(TRANSPORT_BYTES)).map_err(|_| error)
}

fn ipv4_headers(
    ethernet: [u8; EthernetView::LEN],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    udp: [u8; UdpView::LEN],
    vxlan: [u8; VxlanView::LEN],
) -> (Headers, Sum) {
    let mut ip = Ipv4Header {
        traffic_class: TrafficClass(0),
        total_length: 0,
        identification: 0,
        dont_fragment: false,
        ttl,
        protocol: IpProtocol::UDP,
        source,
        destination,
    }
    .to_bytes();
    put_u16::<10, _>(&mut ip, 0);
    let mut bytes = [0; OVERHEAD_IPV4];
    put::<0, 14, _>(&mut bytes, ethernet);
    put::<14, 20, _>(&mut bytes, ip);
    put::<34, 8, _>(&mut bytes, udp);
    put::<42, 8, _>(&mut bytes, vxlan);
    let pseudo_header = Sum::of_ipv4_pseudo_header(source, destination, IpProtocol::UDP, 0);
    (Headers::V4 { bytes, header_sum: Sum::of(&ip) }, pseudo_header)
}

fn ipv6_headers(
    ethernet: [u8; EthernetView::LEN],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    udp: [u8; UdpView::LEN],
    vxlan: [u8; VxlanView::LEN],
) -> (Headers, Sum) {
    let ip = Ipv6Header {
        traffic_class: TrafficClass(0),
        flow_label: 0,
        payload_length: 0,
        next_header: IpProtocol::UDP,
        hop_limit,
        source,
        destination,
    }
    .to_bytes();
    let mut bytes = [0; OVERHEAD_IPV6];
    put::<0, 14, _>(&mut bytes, ethernet);
    put::<14, { Ipv6View::LEN }, _>(&mut bytes, ip);
    put::<54, 8, _>(&mut bytes, udp);
    put::<62, 8, _>(&mut bytes, vxlan);
    let pseudo_header = Sum::of_ipv6_pseudo_header(source, destination, IpProtocol::UDP, 0);
    (Headers::V6 { bytes }, pseudo_header)
}

#[cfg(test)]
mod tests;
