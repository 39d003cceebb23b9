//! Frames for tests, by etherparse, and what it thinks of ours.

use std::sync::Arc;

use etherparse::{
    EtherType, Ethernet2Header, IpEcn, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions,
    Ipv6FlowLabel, Ipv6Header, NetHeaders, PacketBuilder, PacketHeaders, TcpHeader,
    TransportHeader, UdpHeader,
};

use crate::{
    memory::{Depot, FramePool, Region, RegionConfig},
    packet::Packet,
};

/// A pool of its own.
pub(crate) fn pool() -> FramePool {
    let config = RegionConfig { frame_count: 256, huge_pages: false, ..Default::default() };
    FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())))
}

/// A frame of TCP or UDP with the right checksums, by etherparse.
pub(crate) fn whole(is_ipv4: bool, is_tcp: bool, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = if is_ipv4 {
        ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
    } else {
        ethernet.ipv6([0xfd; 16], [0xfe; 16], 64)
    };
    let mut frame = Vec::new();
    if is_tcp {
        ip.tcp(1000, 2000, 3, 4).ack(9).write(&mut frame, payload).unwrap();
    } else {
        ip.udp(1000, 2000).write(&mut frame, payload).unwrap();
    }
    frame
}

/// As [`whole`], with all that can stand before the payload: IPv4 or TCP options, IPv6 destination
/// options, TCP flags, a marked traffic class.
pub(crate) fn adorned(is_ipv4: bool, is_tcp: bool, flags: u8, payload: &[u8]) -> Vec<u8> {
    let options = [8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1];
    let transport_bytes = payload.len() + if is_tcp { 32 } else { 8 };
    let protocol = if is_tcp { IpNumber::TCP } else { IpNumber::UDP };
    let (ip, exts) = if is_ipv4 {
        let length = u16::try_from(transport_bytes + 4).unwrap();
        let mut ip = Ipv4Header::new(length, 64, protocol, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        (ip.identification, ip.ecn) = (0xfffe, IpEcn::TWO);
        ip.options = [148, 4, 0, 0].into();
        ip.header_checksum = ip.calc_header_checksum();
        (NetHeaders::Ipv4(ip, Ipv4Extensions::default()), vec![])
    } else {
        let ip = Ipv6Header {
            traffic_class: 2,
            flow_label: Ipv6FlowLabel::try_new(0x12345).unwrap(),
            payload_length: u16::try_from(8 + transport_bytes).unwrap(),
            next_header: IpNumber::IPV6_DESTINATION_OPTIONS,
            hop_limit: 64,
            source: [0xfd; 16],
            destination: [0xfe; 16],
        };
        // One option of padding fills the header.
        (NetHeaders::Ipv6(ip, Ipv6Extensions::default()), vec![protocol.0, 0, 1, 4, 0, 0, 0, 0])
    };
    let ethertype = if is_ipv4 { EtherType::IPV4 } else { EtherType::IPV6 };
    let mut frame = Vec::new();
    let link = Ethernet2Header { source: [2; 6], destination: [4; 6], ether_type: ethertype };
    link.write(&mut frame).unwrap();
    match &ip {
        NetHeaders::Ipv4(ip, _) => ip.write(&mut frame).unwrap(),
        NetHeaders::Ipv6(ip, _) => ip.write(&mut frame).unwrap(),
        NetHeaders::Arp(_) => {}
    }
    frame.extend(exts);
    if is_tcp {
        let mut tcp = TcpHeader::new(1000, 2000, u32::MAX - 100, 4);
        tcp.set_options_raw(&options).unwrap();
        tcp.checksum = tcp_checksum(&tcp, &ip, payload);
        let start = frame.len();
        tcp.write(&mut frame).unwrap();
        frame[start + 13] = flags;
        let patched = TcpHeader::from_slice(&frame[start..]).unwrap().0;
        let checksum = tcp_checksum(&patched, &ip, payload);
        frame[start + 16..start + 18].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let length = u16::try_from(transport_bytes).unwrap();
        let mut udp = UdpHeader { source_port: 1, destination_port: 2, length, checksum: 0 };
        udp.checksum = match &ip {
            NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, payload).unwrap(),
            NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, payload).unwrap(),
            NetHeaders::Arp(_) => 0,
        };
        udp.write(&mut frame).unwrap();
    }
    frame.extend_from_slice(payload);
    frame
}

fn tcp_checksum(tcp: &TcpHeader, ip: &NetHeaders, payload: &[u8]) -> u16 {
    match ip {
        NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, payload).unwrap(),
        NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, payload).unwrap(),
        NetHeaders::Arp(_) => 0,
    }
}

/// All bytes of a packet.
pub(crate) fn bytes_of(packet: &Packet, region: &Region) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.for_each_segment(region, |segment| bytes.extend_from_slice(segment));
    bytes
}

/// Asserts that lengths agree, and that all checksums are right.
pub(crate) fn assert_right(frame: &[u8]) {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let (ip, payload) = (headers.net.unwrap(), headers.payload.slice());
    match &ip {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len) + 14, frame.len());
        }
        NetHeaders::Ipv6(ip, _) => {
            assert_eq!(usize::from(ip.payload_length) + 54, frame.len());
        }
        NetHeaders::Arp(_) => panic!("no IP packet"),
    }
    let (found, expected) = match (headers.transport.unwrap(), ip) {
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv4(ip, _)) => {
            (tcp.checksum, tcp.calc_checksum_ipv4(&ip, payload))
        }
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv6(ip, _)) => {
            (tcp.checksum, tcp.calc_checksum_ipv6(&ip, payload))
        }
        (TransportHeader::Udp(udp), NetHeaders::Ipv4(ip, _)) => {
            (udp.checksum, udp.calc_checksum_ipv4(&ip, payload))
        }
        (TransportHeader::Udp(udp), NetHeaders::Ipv6(ip, _)) => {
            (udp.checksum, udp.calc_checksum_ipv6(&ip, payload))
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(found, expected.unwrap());
}
