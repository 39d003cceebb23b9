//! Two nodes with two pods each, as `control` would describe them, and frames from and to them.
//!
//! Node `a` (192.0.2.1, `2001:db8::1`) has pods 10.244.1.10 and .11, node `b` (192.0.2.2,
//! `2001:db8::2`) has 10.244.2.10 and .11.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use control_api::engine as api;
use encap::MacAddress;
use etherparse::PacketBuilder;
use vrouter::{
    drops::DropReason,
    port::pcap::file::Captured,
    replay::{ReplayInput, ReplayOutput, replay},
};

/// A pod's MTU: the uplink's 1500 less VXLAN over IPv4.
pub(crate) const POD_MTU_BYTES: u32 = 1450;

/// Which node is replayed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Node {
    A,
    B,
}

impl Node {
    fn number(self) -> u8 {
        if self == Self::A { 1 } else { 2 }
    }

    pub(crate) fn other(self) -> Self {
        if self == Self::A { Self::B } else { Self::A }
    }

    pub(crate) fn ip(self) -> Ipv4Addr {
        [192, 0, 2, self.number()].into()
    }

    pub(crate) fn ip6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits((0x2001_0db8 << 96) | u128::from(self.number()))
    }

    pub(crate) fn mac(self) -> MacAddress {
        MacAddress::from_ip(self.ip().into())
    }

    pub(crate) fn gateway(self) -> Ipv4Addr {
        [10, 244, self.number(), 1].into()
    }

    pub(crate) fn gateway6(self) -> Ipv6Addr {
        Ipv6Addr::from([0xfd00, 0x10, 0x244, u16::from(self.number()), 0, 0, 0, 1])
    }

    pub(crate) fn gateway_mac(self) -> MacAddress {
        MacAddress::from_ip(self.gateway().into())
    }

    /// Pod 10 or 11 of the node.
    pub(crate) fn pod(self, host: u8) -> Ipv4Addr {
        [10, 244, self.number(), host].into()
    }

    pub(crate) fn pod6(self, host: u8) -> Ipv6Addr {
        let (number, host) = (u16::from(self.number()), u16::from(host));
        Ipv6Addr::from([0xfd00, 0x10, 0x244, number, 0, 0, 0, host])
    }

    pub(crate) fn pod_mac(self, host: u8) -> MacAddress {
        MacAddress::from_ip(self.pod(host).into())
    }
}

fn bytes(address: impl Into<IpAddr>) -> Vec<u8> {
    match address.into() {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn object(kind: api::object::Kind) -> api::Object {
    api::Object { kind: Some(kind) }
}

fn port(name: &str, role: api::port::Role, mac: MacAddress, addresses: Vec<Vec<u8>>) -> api::Port {
    api::Port {
        name: name.into(),
        role: role.into(),
        addresses,
        mac: mac.octets().into(),
        mtu_bytes: if role == api::port::Role::Uplink { 1500 } else { POD_MTU_BYTES },
        backend: Some(api::port::Backend::Memory(api::MemoryBackend {})),
        ..api::Port::default()
    }
}

pub(crate) fn route(
    prefix: impl Into<IpAddr>,
    length: u32,
    via: api::next_hop::Via,
) -> api::Object {
    let prefix = api::Prefix { address: bytes(prefix), length };
    object(api::object::Kind::Route(api::Route {
        key: Some(api::RouteKey { vrf: 0, prefix: Some(prefix) }),
        next_hops: vec![api::NextHop { via: Some(via) }],
    }))
}

pub(crate) fn via_tunnel() -> api::next_hop::Via {
    api::next_hop::Via::Tunnel("peer/ipv4".into())
}

/// What describes a node, with its tunnel over the underlay of `family`.
pub(crate) fn objects_over(node: Node, underlay_is_v6: bool) -> Vec<api::Object> {
    let peer = node.other();
    let remote = if underlay_is_v6 { bytes(peer.ip6()) } else { bytes(peer.ip()) };
    let guest = |host: u8| {
        let name = format!("default/pod{host}");
        let addresses = vec![bytes(node.pod(host)), bytes(node.pod6(host))];
        port(&name, api::port::Role::Guest, node.pod_mac(host), addresses)
    };
    let own = vec![bytes(node.ip()), bytes(node.ip6())];
    let mut objects: Vec<_> = [
        api::object::Kind::Node(api::Node {
            name: format!("{node:?}"),
            vtep_addresses: own.clone(),
            router_mac: node.mac().octets().into(),
            uplink_port: "uplink".into(),
            host_port: "host".into(),
            ..api::Node::default()
        }),
        api::object::Kind::Vrf(api::Vrf {
            id: 0,
            name: "default".into(),
            vnis: vec![1],
            gateway_addresses: vec![bytes(node.gateway()), bytes(node.gateway6())],
            gateway_mac: node.gateway_mac().octets().into(),
        }),
        api::object::Kind::Port(port("host", api::port::Role::Host, node.mac(), own)),
        api::object::Kind::Port(port("uplink", api::port::Role::Uplink, node.mac(), vec![])),
        api::object::Kind::Port(guest(10)),
        api::object::Kind::Port(guest(11)),
        api::object::Kind::Tunnel(api::Tunnel {
            name: "peer/ipv4".into(),
            remote,
            vni: 1,
            remote_router_mac: peer.mac().octets().into(),
            ..api::Tunnel::default()
        }),
    ]
    .map(object)
    .into();
    objects.push(route(Ipv4Addr::from([10, 244, peer.number(), 0]), 24, via_tunnel()));
    let prefix6 = Ipv6Addr::from([0xfd00, 0x10, 0x244, u16::from(peer.number()), 0, 0, 0, 0]);
    objects.push(route(prefix6, 64, via_tunnel()));
    objects.push(route(peer.ip(), 32, via_tunnel()));
    objects
}

pub(crate) fn objects(node: Node) -> Vec<api::Object> {
    objects_over(node, false)
}

/// The objects with one port's, or another object's, description changed.
pub(crate) fn changed(
    mut objects: Vec<api::Object>,
    mut change: impl FnMut(&mut api::object::Kind),
) -> Vec<api::Object> {
    objects.iter_mut().filter_map(|object| object.kind.as_mut()).for_each(&mut change);
    objects
}

/// Frames a millisecond apart, from a port.
pub(crate) fn input(port: &str, frames: impl IntoIterator<Item = Vec<u8>>) -> ReplayInput {
    let frames = (1..).zip(frames).map(|(position, frame)| Captured {
        timestamp: Duration::from_millis(1000 + position),
        frame: frame.into(),
    });
    ReplayInput { port: port.into(), frames: frames.collect() }
}

/// Replays and checks that every packet is accounted for.
pub(crate) fn run(objects: Vec<api::Object>, inputs: &[ReplayInput]) -> ReplayOutput {
    let output = replay(objects, inputs).unwrap();
    assert_eq!(output.summary.balance.under_way(), 0, "{:?}", output.summary);
    for input in inputs {
        let port = output.summary.ports[&input.port];
        assert_eq!(port.received, input.frames.len() as u64);
        assert_eq!(port.received, port.forwarded + port.consumed + port.dropped, "{port:?}");
    }
    output
}

/// Replays frames from one port of node `a`.
pub(crate) fn run_from(port: &str, frames: impl IntoIterator<Item = Vec<u8>>) -> ReplayOutput {
    run(objects(Node::A), &[input(port, frames)])
}

pub(crate) fn sent<'a>(output: &'a ReplayOutput, port: &str) -> Vec<&'a [u8]> {
    output.sent.get(port).into_iter().flatten().map(|captured| &*captured.frame).collect()
}

pub(crate) fn only_sent<'a>(output: &'a ReplayOutput, port: &str) -> &'a [u8] {
    let frames = sent(output, port);
    assert_eq!(frames.len(), 1, "sent on {port}; drops: {:?}", output.drops);
    assert_eq!(output.sent.len(), 1, "sent on {:?}", output.sent.keys());
    frames[0]
}

/// The frames' reasons of death, and that nothing was sent.
pub(crate) fn reasons(output: &ReplayOutput) -> Vec<DropReason> {
    output.drops.iter().map(|drop| drop.reason).collect()
}

pub(crate) fn assert_all_dropped(output: &ReplayOutput, reason: DropReason) {
    assert!(output.sent.is_empty(), "sent on {:?}", output.sent.keys());
    assert!(!output.drops.is_empty());
    for drop in &output.drops {
        assert_eq!(drop.reason, reason, "{drop:?}");
    }
}

/// A UDP packet between any addresses of one family, in a frame.
pub(crate) struct Udp {
    pub(crate) macs: (MacAddress, MacAddress),
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) ports: (u16, u16),
    pub(crate) payload: Vec<u8>,
}

impl Udp {
    /// From pod 10 of node `a`, through its gateway.
    pub(crate) fn from_pod(destination: impl Into<IpAddr>) -> Self {
        let destination = destination.into();
        let source = match destination {
            IpAddr::V4(_) => Node::A.pod(10).into(),
            IpAddr::V6(_) => Node::A.pod6(10).into(),
        };
        Self {
            macs: (Node::A.pod_mac(10), Node::A.gateway_mac()),
            source,
            destination,
            ttl: 64,
            ports: (5000, 6000),
            payload: b"hello".into(),
        }
    }

    pub(crate) fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(self.macs.0.octets(), self.macs.1.octets());
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                ethernet.ipv4(from.octets(), to.octets(), self.ttl)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                ethernet.ipv6(from.octets(), to.octets(), self.ttl)
            }
            _ => panic!("one family"),
        };
        let mut frame = Vec::new();
        ip.udp(self.ports.0, self.ports.1).write(&mut frame, &self.payload).unwrap();
        frame
    }
}

/// An echo request from pod 10 of node `a`.
pub(crate) fn echo_request(destination: impl Into<IpAddr>, payload: &[u8]) -> Vec<u8> {
    let udp = Udp::from_pod(destination);
    let ethernet = PacketBuilder::ethernet2(udp.macs.0.octets(), udp.macs.1.octets());
    let mut frame = Vec::new();
    match (udp.source, udp.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet
            .ipv4(from.octets(), to.octets(), udp.ttl)
            .icmpv4_echo_request(77, 1)
            .write(&mut frame, payload),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet
            .ipv6(from.octets(), to.octets(), udp.ttl)
            .icmpv6_echo_request(77, 1)
            .write(&mut frame, payload),
        _ => panic!("one family"),
    }
    .unwrap();
    frame
}

/// The IPv4 "don't fragment" flag, with the header checksum after it.
pub(crate) fn with_dont_fragment(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20] |= 0x40;
    fix_ipv4_checksum(&mut frame);
    frame
}

/// Makes the checksum of an IPv4 header without options right again.
pub(crate) fn fix_ipv4_checksum(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let checksum = encap::checksum::Sum::of(&frame[14..34]).checksum();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// Checks everything in a frame that has a checksum.
pub(crate) fn assert_checksums(frame: &[u8]) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    if let Some(NetSlice::Ipv4(ip)) = &packet.net {
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
    }
    let ip = packet.net.as_ref().unwrap();
    match (ip, packet.transport.as_ref().unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let computed = udp
                .to_header()
                .calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
                .unwrap();
            assert!(udp.checksum() == computed || udp.checksum() == 0);
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let computed = udp
                .to_header()
                .calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
                .unwrap();
            assert_eq!(udp.checksum(), computed);
        }
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let computed = tcp
                .to_header()
                .calc_checksum_ipv4(&ip.header().to_header(), tcp.payload())
                .unwrap();
            assert_eq!(tcp.checksum(), computed);
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let computed = tcp
                .to_header()
                .calc_checksum_ipv6(&ip.header().to_header(), tcp.payload())
                .unwrap();
            assert_eq!(tcp.checksum(), computed);
        }
        (_, TransportSlice::Icmpv4(icmp)) => {
            assert!(encap::checksum::Sum::of(icmp.slice()).is_intact());
        }
        (NetSlice::Ipv6(ip), TransportSlice::Icmpv6(icmp)) => {
            let (from, to) = (ip.header().source(), ip.header().destination());
            assert!(icmp.is_checksum_valid(from, to));
        }
        other => panic!("no checksum to look at in {other:?}"),
    }
}

/// An IPv4 or IPv6 packet of node `b`, as node `a` receives it from the fabric.
pub(crate) fn from_b(packet: &Udp) -> Vec<u8> {
    let inner =
        Udp { macs: (Node::B.mac(), Node::A.mac()), payload: packet.payload.clone(), ..*packet };
    frame_from_b(&inner.frame())
}

/// An inner frame in the outer headers that node `b` puts around it for node `a`.
pub(crate) fn frame_from_b(inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0, 0, 0, 1, 0];
    payload.extend_from_slice(inner);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(Node::B.mac().octets(), Node::A.mac().octets())
        .ipv4(Node::B.ip().octets(), Node::A.ip().octets(), 64)
        .udp(50_000, 4789)
        .write(&mut frame, &payload)
        .unwrap();
    frame
}

/// The inner frame of an encapsulated one, over either underlay.
pub(crate) fn inner(frame: &[u8]) -> &[u8] {
    let is_v4 = frame[12..14] == [0x08, 0x00];
    &frame[if is_v4 { 50 } else { 70 }..]
}
