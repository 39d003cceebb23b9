//! Frames built beforehand, one for each size; from packet to packet only ports and tag change.
//!
//! Sizes count the frame check sequence, as RFC 2544 section 9 does: a 64-byte frame is 60 bytes in
//! a buffer. Flows differ in their source port and, once those are used up, in their destination
//! port: their addresses are the same, so that a route or a policy for one is for all.

use std::{fmt, net::IpAddr, str::FromStr};

use encap::{
    MacAddress,
    checksum::{Delta, Sum},
};
use etherparse::PacketBuilder;

use super::{
    FCS_BYTES,
    tag::{TAG_BYTES, Tag},
    tunnel::Tunnel,
};

/// Flows of one generator: the sink keeps eight bytes for each.
pub const FLOWS_MAX: u32 = 1 << 24;
/// The largest frame: an IPv4 packet of 9,216 bytes, what switches call jumbo, and its headers.
pub const FRAME_BYTES_MAX: usize = 9216 + 14 + FCS_BYTES;
/// TTL or hop limit.
const HOPS: u8 = 64;
const UDP_HEADER_BYTES: usize = 8;
/// The sizes that RFC 2544 section 9.1 names for Ethernet.
pub const RFC_2544_SIZES: [usize; 7] = [64, 128, 256, 512, 1024, 1280, 1518];
/// "Simple IMIX", 7:4:1, in an order that spreads the sizes; in the notation of RFC 6985 a genome
/// of twelve frames.
const IMIX: [usize; 12] = [64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570];

/// Where packets come from and go to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Addressing {
    /// The sender's MAC address.
    pub source_mac: MacAddress,
    /// The next hop's MAC address.
    pub destination_mac: MacAddress,
    /// The sender.
    pub source: IpAddr,
    /// The receiver, of the same family.
    pub destination: IpAddr,
    /// The first flow's UDP source port.
    pub source_port: u16,
    /// The first flow's UDP destination port.
    pub destination_port: u16,
    /// What the frames are sent through, if anything. Sizes are those of the frames inside.
    pub tunnel: Option<Tunnel>,
}

impl Addressing {
    /// The smallest frame that holds its headers and a tag, in bytes, with FCS.
    #[must_use]
    pub fn frame_bytes_min(&self) -> usize {
        let ip_header_bytes = if self.source.is_ipv4() { 20 } else { 40 };
        14 + ip_header_bytes + UDP_HEADER_BYTES + TAG_BYTES + FCS_BYTES
    }
}

/// Frame sizes that take turns, in bytes with FCS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FrameMix {
    sizes: Vec<usize>,
    /// Sizes that a family has no room for are raised to the smallest possible.
    is_imix: bool,
}

impl FrameMix {
    /// Frames of one size.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        Self { sizes: vec![bytes], is_imix: false }
    }

    /// The mix of 7 × 64, 4 × 570 and 1 × 1518 bytes.
    #[must_use]
    pub fn imix() -> Self {
        Self { sizes: IMIX.into(), is_imix: true }
    }
}

impl FromStr for FrameMix {
    type Err = FrameMixError;

    /// `imix`, a size, or sizes joined by `+`.
    fn from_str(text: &str) -> Result<Self, FrameMixError> {
        if text == "imix" {
            return Ok(Self::imix());
        }
        let size = |part: &str| match part.trim().parse() {
            Ok(bytes) if (1..=FRAME_BYTES_MAX).contains(&bytes) => Ok(bytes),
            _ => Err(FrameMixError(part.to_owned())),
        };
        let sizes = text.split('+').map(size).collect::<Result<_, _>>()?;
        Ok(Self { sizes, is_imix: false })
    }
}

impl fmt::Display for FrameMix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_imix {
            return formatter.pad("imix");
        }
        let sizes: Vec<_> = self.sizes.iter().map(usize::to_string).collect();
        formatter.pad(&sizes.join("+"))
    }
}

/// Not a frame size.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is no frame size; give bytes with FCS up to {FRAME_BYTES_MAX}, sizes joined by +, or imix"
)]
pub struct FrameMixError(String);

/// Why frames cannot be built.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum FrameSetError {
    #[error("there are no packets without a flow; give at least 1")]
    NoFlow,
    #[error(
        "{flows} flows are more than ports {source_port} and {destination_port} leave room for, which is {limit}; give fewer, or lower ports"
    )]
    TooManyFlows { flows: u32, source_port: u16, destination_port: u16, limit: u64 },
    #[error("{source} and {destination} are of two families; give both addresses in one")]
    MixedFamilies { r#source: IpAddr, destination: IpAddr },
    #[error(
        "a frame of {bytes} bytes has no room for the headers and the tag of {TAG_BYTES} bytes; the smallest is {smallest} bytes with FCS"
    )]
    TooSmall { bytes: usize, smallest: usize },
    #[error("cannot build a frame of {bytes} bytes: {reason}")]
    Unbuildable { bytes: usize, reason: String },
}

/// What a sender sends.
#[derive(Clone, Debug)]
pub struct FrameSet {
    addressing: Addressing,
    flows: u32,
    /// One for each place in the mix.
    templates: Vec<Template>,
}

#[derive(Clone, Debug)]
struct Template {
    bytes: Vec<u8>,
    /// Where the UDP header begins.
    udp_at: usize,
    checksum: u16,
    /// The sum of the payload behind the tag.
    fill: Sum,
}

impl FrameSet {
    /// Builds the frames, each with its tunnel headers.
    ///
    /// # Errors
    ///
    /// Fails if there are no flows or too many, if the addresses are of two families, and if a
    /// frame is too small for headers and tag.
    pub fn new(addressing: Addressing, mix: &FrameMix, flows: u32) -> Result<Self, FrameSetError> {
        let Addressing { source, destination, source_port, destination_port, .. } = addressing;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(FrameSetError::MixedFamilies { source, destination });
        }
        let ports = |first: u16| 0x1_0000 - u64::from(first);
        let limit = (ports(source_port) * ports(destination_port)).min(FLOWS_MAX.into());
        match u64::from(flows) {
            0 => return Err(FrameSetError::NoFlow),
            count if count > limit => {
                return Err(FrameSetError::TooManyFlows {
                    flows,
                    source_port,
                    destination_port,
                    limit,
                });
            }
            _ => {}
        }
        let smallest = addressing.frame_bytes_min();
        let template = |&bytes: &usize| {
            let bytes = if mix.is_imix { bytes.max(smallest) } else { bytes };
            Template::build(&addressing, bytes, smallest)
        };
        let templates = mix.sizes.iter().map(template).collect::<Result<_, _>>()?;
        Ok(Self { addressing, flows, templates })
    }

    /// Frames after which flows and sizes come round again.
    #[must_use]
    pub fn period(&self) -> u64 {
        let (flows, sizes) = (u64::from(self.flows), self.templates.len() as u64);
        let (mut common, mut rest) = (flows, sizes);
        while rest > 0 {
            (common, rest) = (rest, common % rest);
        }
        flows / common.max(1) * sizes
    }

    /// How many flows take turns.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.flows
    }

    /// The largest frame, tunnel headers included, in bytes with FCS.
    #[must_use]
    pub fn frame_bytes_max(&self) -> usize {
        self.templates.iter().map(Template::frame_bytes).max().unwrap_or(0)
    }

    /// The mean of the sizes, tunnel headers included, in bytes with FCS.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a few thousand bytes")]
    pub fn frame_bytes_mean(&self) -> f64 {
        let total: usize = self.templates.iter().map(Template::frame_bytes).sum();
        total as f64 / self.templates.len().max(1) as f64
    }

    /// Writes the frame with this tag to the front of `buffer`, without FCS.
    ///
    /// Returns its bytes; none if the buffer is too small.
    pub fn write(&self, tag: Tag, buffer: &mut [u8]) -> usize {
        let place = tag.sequence % self.templates.len().max(1) as u64;
        let template = usize::try_from(place).ok().and_then(|place| self.templates.get(place));
        let flow = u32::try_from(tag.sequence % u64::from(self.flows.max(1))).unwrap_or(0);
        template
            .and_then(|template| {
                let bytes = template.write(self.ports(flow), tag, buffer)?;
                if let Some(tunnel) = &self.addressing.tunnel {
                    tunnel.mark_flow(buffer, flow)?;
                }
                Some(bytes)
            })
            .unwrap_or(0)
    }

    /// A flow's source and destination port.
    fn ports(&self, flow: u32) -> (u16, u16) {
        let Addressing { source_port, destination_port, .. } = self.addressing;
        let sources = 0x1_0000 - u32::from(source_port);
        let add = |first: u16, add: u32| first.wrapping_add(u16::try_from(add).unwrap_or(0));
        (add(source_port, flow % sources), add(destination_port, flow / sources))
    }
}

impl Template {
    fn build(
        addressing: &Addressing,
        frame_bytes: usize,
        smallest: usize,
    ) -> Result<Self, FrameSetError> {
        let Some(more_bytes) = frame_bytes.checked_sub(smallest) else {
            return Err(FrameSetError::TooSmall { bytes: frame_bytes, smallest });
        };
        let mut payload = vec![0; TAG_BYTES + more_bytes];
        for (byte, value) in payload.iter_mut().skip(TAG_BYTES).zip((1..=251).cycle()) {
            *byte = value;
        }
        let fill = Sum::of(payload.get(TAG_BYTES..).unwrap_or_default());
        if let Some(start) = payload.first_chunk_mut() {
            Tag { stream: 0, sequence: 0, sent_ns: 0 }.write(start, fill);
        }
        let unbuildable = |error: &dyn fmt::Display| FrameSetError::Unbuildable {
            bytes: frame_bytes,
            reason: error.to_string(),
        };
        let ethernet = PacketBuilder::ethernet2(
            addressing.source_mac.octets(),
            addressing.destination_mac.octets(),
        );
        let ip = match (addressing.source, addressing.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                ethernet.ipv4(source.octets(), destination.octets(), HOPS)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                ethernet.ipv6(source.octets(), destination.octets(), HOPS)
            }
            (source, destination) => {
                return Err(FrameSetError::MixedFamilies { source, destination });
            }
        };
        let udp = ip.udp(addressing.source_port, addressing.destination_port);
        let mut bytes = Vec::with_capacity(frame_bytes);
        udp.write_to_vec(&mut bytes, &payload).map_err(|error| unbuildable(&error))?;
        let udp_at = bytes.len() - payload.len() - UDP_HEADER_BYTES;
        let checksum = match bytes.get(udp_at + 6..udp_at + 8) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => return Err(unbuildable(&"no UDP header")),
        };
        if let Some(tunnel) = &addressing.tunnel {
            let (source, destination) = (tunnel.source, tunnel.destination);
            bytes = tunnel
                .wrap(&bytes)
                .map_err(|error| unbuildable(&error))?
                .ok_or(FrameSetError::MixedFamilies { source, destination })?;
        }
        let udp_at = udp_at + addressing.tunnel.map_or(0, |tunnel| tunnel.header_bytes());
        Ok(Self { bytes, udp_at, checksum, fill })
    }

    fn frame_bytes(&self) -> usize {
        self.bytes.len() + FCS_BYTES
    }

    fn write(&self, ports: (u16, u16), tag: Tag, buffer: &mut [u8]) -> Option<usize> {
        let frame = buffer.get_mut(..self.bytes.len())?;
        frame.copy_from_slice(&self.bytes);
        let (udp, payload) = frame.get_mut(self.udp_at..)?.split_first_chunk_mut::<8>()?;
        let [s0, s1, d0, d1, _, _, c0, c1] = udp;
        let old = u32::from_be_bytes([*s0, *s1, *d0, *d1]);
        let [n0, n1] = ports.0.to_be_bytes();
        let [n2, n3] = ports.1.to_be_bytes();
        let delta = Delta::of_u32(old, u32::from_be_bytes([n0, n1, n2, n3]));
        (*s0, *s1, *d0, *d1) = (n0, n1, n2, n3);
        [*c0, *c1] = delta.apply_udp(self.checksum).to_be_bytes();
        tag.write(payload.first_chunk_mut()?, self.fill);
        Some(self.bytes.len())
    }
}

#[cfg(test)]
mod tests;
