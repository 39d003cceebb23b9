//! The node that measurements run on, and the frames that come in on it.
//!
//! A node with pods and a tunnel to another node. A flow is a number: the same number is the same
//! 5-tuple, another number another one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control_api::engine as api;
use encap::{
    MacAddress,
    checksum::Sum,
    ecn::TrafficClass,
    ethernet::{EtherType, EthernetHeader},
    ip::IpProtocol,
    ipv4::Ipv4Header,
    ipv6::Ipv6Header,
    udp::UdpHeader,
};
use vrouter::{next_hop::Adjacency, port::PortRef};

/// Flows that there can be of one way: a flow table that is half full of them is as large as one
/// can be.
pub const FLOWS_MAX: u32 = 1 << 23;

/// Pods that packets come from or go to at most. The last one's next is the first.
pub const PODS_MAX: u8 = 19;

/// The name of the tunnel to the other node.
pub const TUNNEL: &str = "peer/ipv4";

/// This node's tunnel endpoint.
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The other node's.
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1);
/// The last part of the first pod's addresses; the next pod has the next one.
const FIRST_POD: u8 = 10;
/// Pods of the other node that flows are spread over.
const FAR_PODS: u32 = 200;
/// Source ports that flows are spread over, from this one.
const SOURCE_PORTS: (u16, u32) = (1024, 1 << 14);
/// Destination ports, from this one.
const DESTINATION_PORT: u16 = 5000;
/// Outer source ports that the other node takes entropy from (RFC 7348 section 5).
const ENTROPY_PORTS: (u16, u32) = (49_152, 1 << 14);
const VXLAN_PORT: u16 = 4789;
const TTL: u8 = 64;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
/// What VXLAN over IPv4 puts around a frame.
const TUNNEL_BYTES: usize = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES + 8;
/// The largest IP packet: its length has 16 bits.
const PACKET_BYTES_MAX: usize = 65_535;

/// What a packet's way is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// IPv4 from one pod to another of the same node.
    PodToPod,
    /// The same with IPv6.
    PodToPodV6,
    /// IPv4 from a pod into the tunnel.
    Encap,
    /// IPv4 out of the tunnel to a pod.
    Decap,
}

impl Way {
    /// Every way.
    pub const ALL: [Self; 4] = [Self::PodToPod, Self::PodToPodV6, Self::Encap, Self::Decap];

    /// The port that packets from or to `pod` come in on.
    #[must_use]
    pub fn ingress(self, pod: u8) -> String {
        if self == Self::Decap { "uplink".into() } else { pod_name(pod) }
    }

    /// Bytes around the frame when it comes in.
    #[must_use]
    pub fn bytes_around(self) -> usize {
        if self == Self::Decap { TUNNEL_BYTES } else { 0 }
    }

    /// Whether packets are in a tunnel on one side.
    fn is_tunnelled(self) -> bool {
        matches!(self, Self::Encap | Self::Decap)
    }

    fn header_bytes(self) -> usize {
        let ip = if self == Self::PodToPodV6 { IPV6_BYTES } else { IPV4_BYTES };
        ETHERNET_BYTES + ip + UDP_BYTES
    }

    /// Whether a pod's frame may have this size.
    ///
    /// # Errors
    ///
    /// Fails below the size of the headers, and above what an IP packet, with the tunnel around it
    /// if there is one, can hold.
    pub fn check_frame_bytes(self, frame_bytes: usize) -> Result<(), FrameSizeError> {
        let tunnel = if self.is_tunnelled() { TUNNEL_BYTES } else { 0 };
        let (min, max) = (self.header_bytes(), ETHERNET_BYTES + PACKET_BYTES_MAX - tunnel);
        if (min..=max).contains(&frame_bytes) {
            return Ok(());
        }
        Err(FrameSizeError { frame_bytes, min, max })
    }
}

/// A frame cannot have a size.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("frames of {frame_bytes} bytes are not possible: at least {min}, at most {max}")]
pub struct FrameSizeError {
    /// What was asked for.
    pub frame_bytes: usize,
    /// What the headers take.
    pub min: usize,
    /// What fits an IP packet.
    pub max: usize,
}

/// The name of a pod's port.
#[must_use]
pub fn pod_name(pod: u8) -> String {
    format!("default/pod{}", FIRST_POD + pod)
}

/// How the underlay reaches the other node through `uplink`.
#[must_use]
pub fn adjacency(uplink: PortRef) -> (IpAddr, Adjacency) {
    let adjacency = Adjacency::Resolved {
        port: uplink,
        source_mac: MacAddress::from_ip(OWN.into()),
        destination_mac: MacAddress::from_ip(PEER.into()),
        mtu_bytes: u16::MAX,
    };
    (PEER.into(), adjacency)
}

/// The frame of a flow as it comes in: from a pod to the next one, or into the tunnel,
/// or out of the tunnel to that pod.
///
/// `frame_bytes` is the size of the pods' frame, from its MAC addresses on and without frame check
/// sequence; what a tunnel puts around it comes on top. Sizes that [`Way::check_frame_bytes`]
/// refuses become the next possible one.
#[must_use]
pub fn frame(way: Way, pod: u8, flow: u32, frame_bytes: usize) -> Vec<u8> {
    let next_pod = (pod + 1) % PODS_MAX;
    let ports = ports(flow);
    let payload = vec![0x5a; frame_bytes.saturating_sub(way.header_bytes())];
    let far_pod = Ipv4Addr::new(10, 244, 2, far(flow));
    let gateway_mac = MacAddress::from_ip(GATEWAY.into());
    let from_pod = (MacAddress::from_ip(pod_v4(pod).into()), gateway_mac);
    match way {
        Way::PodToPod => {
            let ends = (pod_v4(pod).into(), pod_v4(next_pod).into());
            udp(from_pod, ends, ports, &payload)
        }
        Way::PodToPodV6 => {
            let ends = (pod_v6(pod).into(), pod_v6(next_pod).into());
            udp(from_pod, ends, ports, &payload)
        }
        Way::Encap => udp(from_pod, (pod_v4(pod).into(), far_pod.into()), ports, &payload),
        Way::Decap => {
            let macs = (MacAddress::from_ip(PEER.into()), MacAddress::from_ip(OWN.into()));
            let mut tunnelled = vec![8, 0, 0, 0, 0, 0, 1, 0];
            let inner = udp(macs, (far_pod.into(), pod_v4(pod).into()), ports, &payload);
            tunnelled.extend_from_slice(&inner);
            let entropy = port_of(ENTROPY_PORTS.0, mix(flow) % ENTROPY_PORTS.1);
            let mut outer = udp(macs, (PEER.into(), OWN.into()), (entropy, VXLAN_PORT), &tunnelled);
            // Over IPv4 there is none (RFC 7348 section 5).
            if let Some(checksum) = outer.get_mut(40..42) {
                checksum.fill(0);
            }
            outer
        }
    }
}

/// The node's configuration, with so many pods, all at once.
#[must_use]
pub fn objects(pods: u8) -> Vec<api::Object> {
    use api::object::Kind;
    let v4 = |address: Ipv4Addr| address.octets().to_vec();
    let v6 = |address: Ipv6Addr| address.octets().to_vec();
    let mac = |address: Ipv4Addr| MacAddress::from_ip(IpAddr::V4(address)).octets().to_vec();
    let port = |name: String, role: api::port::Role, addresses, mac| {
        Kind::Port(api::Port {
            name,
            role: role.into(),
            addresses,
            mac,
            backend: Some(api::port::Backend::Memory(api::MemoryBackend {})),
            ..api::Port::default()
        })
    };
    let route = |address, length| {
        Kind::Route(api::Route {
            key: Some(api::RouteKey { vrf: 0, prefix: Some(api::Prefix { address, length }) }),
            next_hops: vec![api::NextHop { via: Some(api::next_hop::Via::Tunnel(TUNNEL.into())) }],
        })
    };
    let node = [
        Kind::Node(api::Node {
            name: "bench".into(),
            vtep_addresses: vec![v4(OWN)],
            router_mac: mac(OWN),
            uplink_port: "uplink".into(),
            ..api::Node::default()
        }),
        Kind::Vrf(api::Vrf {
            name: "default".into(),
            vnis: vec![1],
            gateway_addresses: vec![v4(GATEWAY), v6(GATEWAY_V6)],
            gateway_mac: mac(GATEWAY),
            ..api::Vrf::default()
        }),
        port("uplink".into(), api::port::Role::Uplink, vec![], vec![]),
        Kind::Tunnel(api::Tunnel {
            name: TUNNEL.into(),
            remote: v4(PEER),
            vni: 1,
            remote_router_mac: mac(PEER),
            ..api::Tunnel::default()
        }),
        route(vec![10, 244, 2, 0], 24),
        route(v6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 2, 0, 0, 0, 0)), 64),
    ];
    let pods = (0..pods).map(|pod| {
        let addresses = vec![v4(pod_v4(pod)), v6(pod_v6(pod))];
        port(pod_name(pod), api::port::Role::Guest, addresses, mac(pod_v4(pod)))
    });
    node.into_iter().chain(pods).map(|kind| api::Object { kind: Some(kind) }).collect()
}

/// The flows `0..count`, each once, in an order that is random and always the same.
#[must_use]
pub fn shuffled(count: u32) -> Vec<u32> {
    let mut flows: Vec<u32> = (0..count).collect();
    let mut state = 0x5eed_u64;
    for last in (1..flows.len()).rev() {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut random = state;
        random = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random = (random ^ (random >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let choice = (random ^ (random >> 31)) % (last as u64 + 1);
        flows.swap(last, usize::try_from(choice).unwrap_or(0));
    }
    flows
}

fn pod_v4(pod: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, FIRST_POD.wrapping_add(pod))
}

fn pod_v6(pod: u8) -> Ipv6Addr {
    let last = u16::from(FIRST_POD.wrapping_add(pod));
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, last)
}

/// The source and destination port of a flow, which no other flow has both of.
fn ports(flow: u32) -> (u16, u16) {
    let (first, count) = SOURCE_PORTS;
    (port_of(first, flow % count), port_of(DESTINATION_PORT, flow / count))
}

fn port_of(first: u16, offset: u32) -> u16 {
    first.wrapping_add(u16::try_from(offset).unwrap_or(0))
}

/// The last part of the other end's address.
fn far(flow: u32) -> u8 {
    u8::try_from(mix(flow) % FAR_PODS).unwrap_or(0).wrapping_add(10)
}

/// Spreads a flow's number, so that what is derived of it tells little of its ports.
fn mix(flow: u32) -> u32 {
    flow.wrapping_mul(0x9e37_79b9) >> 8
}

fn udp(
    (from_mac, to_mac): (MacAddress, MacAddress),
    ends: (IpAddr, IpAddr),
    (source_port, destination_port): (u16, u16),
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(payload.len() + UDP_BYTES).unwrap_or(u16::MAX);
    let udp = UdpHeader { source_port, destination_port, length, checksum: 0 };
    let (ether_type, ip, pseudo_header) = match ends {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = ipv6(source, destination, length);
            let pseudo =
                Sum::of_ipv6_pseudo_header(source, destination, IpProtocol::UDP, length.into());
            (EtherType::IPV6, header.to_bytes().to_vec(), pseudo)
        }
        (source, destination) => {
            let (source, destination) = (only_v4(source), only_v4(destination));
            let header = ipv4(source, destination, length);
            let pseudo = Sum::of_ipv4_pseudo_header(source, destination, IpProtocol::UDP, length);
            (EtherType::IPV4, header.to_bytes().to_vec(), pseudo)
        }
    };
    let sum = pseudo_header.add(Sum::of(&udp.to_bytes())).add(Sum::of(payload));
    let udp = UdpHeader { checksum: sum.udp_checksum(), ..udp };
    let ethernet = EthernetHeader { destination: to_mac, source: from_mac, ether_type };
    [&ethernet.to_bytes()[..], &ip, &udp.to_bytes(), payload].concat()
}

fn only_v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> Ipv4Header {
    Ipv4Header {
        traffic_class: TrafficClass(0),
        total_length: length.saturating_add(20),
        identification: 0,
        dont_fragment: true,
        ttl: TTL,
        protocol: IpProtocol::UDP,
        source,
        destination,
    }
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, length: u16) -> Ipv6Header {
    Ipv6Header {
        traffic_class: TrafficClass(0),
        flow_label: 0,
        payload_length: length,
        next_header: IpProtocol::UDP,
        hop_limit: TTL,
        source,
        destination,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_frame_has_the_size_asked_for() {
        for way in Way::ALL {
            for bytes in [64, 1514, 9014] {
                assert_eq!(frame(way, 0, 7, bytes).len(), bytes + way.bytes_around(), "{way:?}");
            }
        }
    }

    #[test]
    fn flows_are_distinct() {
        for way in Way::ALL {
            let frames: HashSet<Vec<u8>> = (0..FLOWS_MAX)
                .step_by(257)
                .chain(0..20_000)
                .map(|flow| frame(way, 0, flow, 64))
                .collect();
            let flows: HashSet<u32> = (0..FLOWS_MAX).step_by(257).chain(0..20_000).collect();
            assert_eq!(frames.len(), flows.len(), "{way:?}");
        }
        assert_eq!(ports(FLOWS_MAX - 1), (1024 + 16_383, 5000 + 511));
    }

    #[test]
    fn a_shuffle_keeps_every_flow_once() {
        let mut flows = shuffled(1000);
        assert_ne!(flows, (0..1000).collect::<Vec<_>>());
        flows.sort_unstable();
        assert_eq!(flows, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn sizes_that_cannot_be_are_errors() {
        assert_eq!(Way::PodToPod.check_frame_bytes(42), Ok(()));
        assert_eq!(
            Way::PodToPodV6.check_frame_bytes(61).unwrap_err().to_string(),
            "frames of 61 bytes are not possible: at least 62, at most 65549"
        );
        assert!(Way::Encap.check_frame_bytes(65_549).is_err());
        assert_eq!(Way::Encap.check_frame_bytes(65_499), Ok(()));
    }
}
