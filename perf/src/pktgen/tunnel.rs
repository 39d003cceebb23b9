//! Generated frames inside of VXLAN (RFC 7348).
//!
//! The sum of a generated frame is the same for every flow and every packet: what changes in its
//! ports and its tag is made up for by the checksums behind. So the outer UDP checksum is worked
//! out once. As with Linux there is none over IPv4 (RFC 7348 section 5), and one over IPv6.

use std::net::IpAddr;

use encap::{
    MacAddress,
    checksum::Delta,
    vxlan::{Vni, VxlanView, header_bytes},
};
use etherparse::{PacketBuilder, err::packet::BuildVecWriteError};

/// TTL or hop limit.
const HOPS: u8 = 64;
const UDP_HEADER_BYTES: usize = 8;
/// The first of the source ports, which are the dynamic ones (RFC 7348 section 5).
const ENTROPY_FIRST: u16 = 49_152;

/// A tunnel that frames are sent through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tunnel {
    /// The network.
    pub vni: Vni,
    /// The outer source MAC address.
    pub source_mac: MacAddress,
    /// The outer destination MAC address.
    pub destination_mac: MacAddress,
    /// The sending VTEP.
    pub source: IpAddr,
    /// The receiving VTEP, of the same family.
    pub destination: IpAddr,
    /// The UDP destination port.
    pub port: u16,
}

impl Tunnel {
    /// Bytes that the tunnel puts before a frame.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        let ip_header_bytes = if self.source.is_ipv4() { 20 } else { 40 };
        14 + ip_header_bytes + UDP_HEADER_BYTES + VxlanView::LEN
    }

    /// A frame with the tunnel's headers before it; none if its ends are of two families.
    ///
    /// # Errors
    ///
    /// Fails if the frame is too large.
    pub(super) fn wrap(&self, inner: &[u8]) -> Result<Option<Vec<u8>>, BuildVecWriteError> {
        let mut payload = header_bytes(self.vni).to_vec();
        payload.extend_from_slice(inner);
        let ethernet =
            PacketBuilder::ethernet2(self.source_mac.octets(), self.destination_mac.octets());
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), HOPS)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ethernet.ipv6(source.octets(), destination.octets(), HOPS)
            }
            _ => return Ok(None),
        };
        let mut frame = Vec::new();
        ip.udp(ENTROPY_FIRST, self.port).write_to_vec(&mut frame, &payload)?;
        if self.source.is_ipv4()
            && let Some(checksum) = frame.get_mut(14 + 20 + 6..14 + 20 + 8)
        {
            checksum.fill(0);
        }
        Ok(Some(frame))
    }

    /// Gives a wrapped frame the source port of its flow.
    pub(super) fn mark_flow(&self, frame: &mut [u8], flow: u32) -> Option<()> {
        let udp_at = self.header_bytes() - VxlanView::LEN - UDP_HEADER_BYTES;
        let udp = frame.get_mut(udp_at..)?.first_chunk_mut::<UDP_HEADER_BYTES>()?;
        let [s0, s1, _, _, _, _, c0, c1] = udp;
        let ports = u32::from(u16::MAX - ENTROPY_FIRST) + 1;
        let port = ENTROPY_FIRST + u16::try_from(flow % ports).unwrap_or(0);
        let delta = Delta::of_u16(u16::from_be_bytes([*s0, *s1]), port);
        [*s0, *s1] = port.to_be_bytes();
        [*c0, *c1] = delta.apply_udp(u16::from_be_bytes([*c0, *c1])).to_be_bytes();
        Some(())
    }
}
