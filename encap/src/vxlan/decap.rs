//! Taking the outer headers off.
//!
//! Two steps, since the question "is this ours?" lies between them: [`Outer::parse`] reads
//! addresses and ports and judges nothing; [`Outer::decap`] is for a packet to a tunnel of ours,
//! and what it refuses is to be dropped.

use core::net::IpAddr;

use super::{Vni, VxlanView};
use crate::checksum::Sum;
use crate::ecn::{Ecn, EcnAnomaly, TrafficClass, decapsulate};
use crate::ethernet::{EtherType, EthernetView};
use crate::ip::{IpProtocol, version};
use crate::ipv4::{Ipv4Mut, Ipv4View};
use crate::ipv6::{self, Ipv6Mut, Ipv6View};
use crate::udp::UdpView;
use crate::vlan::VlanView;
use crate::{Layer, ParseError};

/// Why a packet has no outer UDP header that could be a tunnel's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum OuterError {
    #[error(transparent)]
    Malformed(#[from] ParseError),

    #[error("outer packet carries {protocol}, not UDP")]
    NotUdp { protocol: IpProtocol },

    #[error("outer packet is a fragment, at offset {offset_bytes}")]
    Fragmented { offset_bytes: u16 },
}

/// Why a packet to a tunnel of ours was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum DecapError {
    #[error("VXLAN header is malformed")]
    Malformed(#[source] ParseError),

    #[error("outer UDP checksum is wrong")]
    UdpChecksumWrong(#[source] ParseError),

    #[error("outer UDP checksum is missing, which this tunnel does not accept over IPv6")]
    UdpChecksumMissing,

    #[error("outer header reports congestion to an inner packet that does not understand it")]
    CongestionNotTransportable,
}

/// What a tunnel accepts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DecapSettings {
    /// Whether a UDP checksum of zero is accepted over IPv6. Over IPv4 it always is.
    ///
    /// RFC 6935 section 5 has it accepted only on ports that are set up for a tunnel protocol.
    /// Decap is asked only about such ports, so the default is to accept: a peer that sends none is
    /// heard. Refusing guards against an underlay that corrupts addresses or ports (RFC 6936
    /// section 3).
    pub accepts_zero_checksum_over_ipv6: bool,
}

impl Default for DecapSettings {
    fn default() -> Self {
        Self { accepts_zero_checksum_over_ipv6: true }
    }
}

/// The outer IP and UDP headers of a packet that may be a tunnel's.
///
/// Holding one proves that the packet is UDP and whole, that its lengths agree and, over
/// IPv4, that the header checksum is right.
#[derive(Clone, Copy, Debug)]
pub struct Outer<'a> {
    source: IpAddr,
    destination: IpAddr,
    traffic_class: TrafficClass,
    udp: UdpView<'a>,
    /// The part of the UDP payload that lies in the first segment.
    payload: &'a [u8],
    /// Where the payload starts, from the IP header on.
    payload_offset: usize,
}

impl<'a> Outer<'a> {
    /// Reads the outer headers from the IP header on.
    ///
    /// `segment` is the first segment of a packet of `packet_bytes` bytes; for a packet in one
    /// piece `packet_bytes` is `segment.len()`.
    ///
    /// # Errors
    ///
    /// Fails if the packet is no unfragmented UDP datagram, or is malformed.
    #[inline]
    pub fn parse(segment: &'a [u8], packet_bytes: usize) -> Result<Self, OuterError> {
        match version(segment)? {
            4 => Self::parse_ipv4(segment, packet_bytes),
            6 => Self::parse_ipv6(segment, packet_bytes),
            actual => Err(ParseError::VersionMismatch { layer: Layer::Ip, actual }.into()),
        }
    }

    /// The peer's underlay address.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// The underlay address the packet was sent to.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// Outer traffic class.
    #[must_use]
    pub fn traffic_class(&self) -> TrafficClass {
        self.traffic_class
    }

    /// UDP source port: entropy.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        self.udp.source_port()
    }

    /// UDP destination port.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        self.udp.destination_port()
    }

    /// Checks the packet as one of our tunnels' and finds the inner frame.
    ///
    /// `rest_sum` gives the sum over this many bytes of UDP payload that lie in later segments, as
    /// if they started at an even offset; it is called only if there are some and the packet has a
    /// checksum. For a packet in one piece it is never called.
    ///
    /// # Errors
    ///
    /// Fails if the VXLAN header is cut short or its I flag clear, if the UDP checksum is wrong or
    /// missing against `settings`, if there is no inner Ethernet header, and if RFC 6040 has the
    /// packet dropped.
    #[inline]
    pub fn decap(
        &self,
        settings: DecapSettings,
        rest_sum: impl FnOnce(usize) -> Sum,
    ) -> Result<Decap, DecapError> {
        let (vxlan, inner) = VxlanView::parse(self.payload).map_err(DecapError::Malformed)?;
        self.verify_checksum(settings, rest_sum)?;
        let (ethernet, inner_payload) =
            EthernetView::parse(inner).map_err(DecapError::Malformed)?;
        let mut decap = Decap {
            vni: vxlan.vni(),
            inner_offset: self.payload_offset.wrapping_add(VxlanView::LEN),
            inner_bytes: self.udp.payload_len().saturating_sub(VxlanView::LEN),
            ecn_anomaly: None,
            ecn_update: None,
        };
        if let Some((offset, class)) = inner_traffic_class(ethernet.ether_type(), inner_payload) {
            let egress = decapsulate(class.ecn(), self.traffic_class.ecn());
            let ecn = egress.forward.ok_or(DecapError::CongestionNotTransportable)?;
            decap.ecn_anomaly = egress.anomaly;
            decap.ecn_update =
                (ecn != class.ecn()).then_some(EcnUpdate { offset, class: class.with_ecn(ecn) });
        }
        Ok(decap)
    }

    fn parse_ipv4(segment: &'a [u8], packet_bytes: usize) -> Result<Self, OuterError> {
        let (ip, payload) = Ipv4View::parse_chained(segment, packet_bytes)?;
        ip.verify_checksum()?;
        if let Some(fragment) = ip.fragment() {
            return Err(OuterError::Fragmented { offset_bytes: fragment.offset_bytes });
        }
        if ip.protocol() != IpProtocol::UDP {
            return Err(OuterError::NotUdp { protocol: ip.protocol() });
        }
        let (udp, payload) = UdpView::parse_chained(payload, ip.payload_len())?;
        Ok(Self {
            source: ip.source().into(),
            destination: ip.destination().into(),
            traffic_class: ip.traffic_class(),
            udp,
            payload,
            payload_offset: ip.header_len().wrapping_add(UdpView::LEN),
        })
    }

    fn parse_ipv6(segment: &'a [u8], packet_bytes: usize) -> Result<Self, OuterError> {
        let (ip, payload) = Ipv6View::parse_chained(segment, packet_bytes)?;
        let walked = ipv6::walk(ip.next_header(), payload)?;
        if let Some(fragment) = walked.fragment.filter(|part| !part.is_whole()) {
            return Err(OuterError::Fragmented { offset_bytes: fragment.offset_bytes });
        }
        if walked.protocol != IpProtocol::UDP {
            return Err(OuterError::NotUdp { protocol: walked.protocol });
        }
        let datagram = payload.get(walked.header_bytes..).unwrap_or_default();
        let datagram_bytes = ip.payload_len().saturating_sub(walked.header_bytes);
        let (udp, payload) = UdpView::parse_chained(datagram, datagram_bytes)?;
        Ok(Self {
            source: ip.source().into(),
            destination: ip.destination().into(),
            traffic_class: ip.traffic_class(),
            udp,
            payload,
            payload_offset: Ipv6View::LEN
                .wrapping_add(walked.header_bytes)
                .wrapping_add(UdpView::LEN),
        })
    }

    fn verify_checksum(
        &self,
        settings: DecapSettings,
        rest_sum: impl FnOnce(usize) -> Sum,
    ) -> Result<(), DecapError> {
        if self.udp.checksum() == 0 {
            return if self.source.is_ipv4() || settings.accepts_zero_checksum_over_ipv6 {
                Ok(())
            } else {
                Err(DecapError::UdpChecksumMissing)
            };
        }
        let length = self.udp.length();
        let pseudo_header = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                Sum::of_ipv4_pseudo_header(source, destination, IpProtocol::UDP, length)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                Sum::of_ipv6_pseudo_header(source, destination, IpProtocol::UDP, length.into())
            }
            // Both come from one header.
            _ => Sum::ZERO,
        };
        let mut payload = Sum::of(self.payload);
        let rest = self.udp.payload_len().saturating_sub(self.payload.len());
        if rest > 0 {
            payload = payload.add_at(rest_sum(rest), self.payload.len());
        }
        self.udp.verify_checksum(pseudo_header, payload).map_err(DecapError::UdpChecksumWrong)
    }
}

/// What was found inside a tunnel's packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decap {
    vni: Vni,
    inner_offset: usize,
    inner_bytes: usize,
    ecn_anomaly: Option<EcnAnomaly>,
    ecn_update: Option<EcnUpdate>,
}

/// An inner traffic class that changes, since the outer header carries a congestion mark.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct EcnUpdate {
    /// Where the inner IP header starts in the inner frame.
    offset: usize,
    class: TrafficClass,
}

impl Decap {
    /// Network of the inner frame.
    #[must_use]
    pub fn vni(&self) -> Vni {
        self.vni
    }

    /// Where the inner Ethernet frame starts, in bytes from the outer IP header on.
    #[must_use]
    pub fn inner_offset(&self) -> usize {
        self.inner_offset
    }

    /// How long the inner Ethernet frame is by the outer UDP length, in bytes. The segments of the
    /// packet may hold more: padding of the outer frame.
    #[must_use]
    pub fn inner_bytes(&self) -> usize {
        self.inner_bytes
    }

    /// Set if the pair of congestion marks should not occur (RFC 6040 section 4.2).
    #[must_use]
    pub fn ecn_anomaly(&self) -> Option<EcnAnomaly> {
        self.ecn_anomaly
    }

    /// The mark to be written into the inner header; `None` if it stays.
    #[must_use]
    pub fn new_ecn(&self) -> Option<Ecn> {
        self.ecn_update.map(|update| update.class.ecn())
    }

    /// Writes the merged congestion mark into the inner header; the IPv4 checksum follows.
    ///
    /// `frame` is the inner Ethernet frame that this was made from. Nothing to change is nothing
    /// done.
    #[inline]
    pub fn apply_ecn(&self, frame: &mut [u8]) {
        if let Some(update) = self.ecn_update {
            update.apply(frame);
        }
    }
}

impl EcnUpdate {
    #[cold]
    fn apply(self, frame: &mut [u8]) {
        let packet = frame.get_mut(self.offset..).unwrap_or_default();
        if let Ok(mut ip) = Ipv4Mut::parse(packet) {
            ip.set_traffic_class(self.class);
        } else if let Ok(mut ip) = Ipv6Mut::parse(packet) {
            ip.set_traffic_class(self.class);
        }
    }
}

/// Traffic class of the IP packet in an inner frame, behind one 802.1Q tag at most, and where its
/// header starts. `None` for other frames, and for headers that the next parser will refuse.
fn inner_traffic_class(ether_type: EtherType, payload: &[u8]) -> Option<(usize, TrafficClass)> {
    let (ether_type, payload, offset) = if ether_type == EtherType::VLAN {
        let (tag, payload) = VlanView::parse(payload).ok()?;
        (tag.ether_type(), payload, EthernetView::LEN.wrapping_add(VlanView::LEN))
    } else {
        (ether_type, payload, EthernetView::LEN)
    };
    let class = match ether_type {
        EtherType::IPV4 => Ipv4View::parse_header(payload).ok()?.0.traffic_class(),
        EtherType::IPV6 => Ipv6View::parse_header(payload).ok()?.0.traffic_class(),
        _ => return None,
    };
    Some((offset, class))
}

#[cfg(test)]
mod tests;
