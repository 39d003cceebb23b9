//! From the first byte of a frame to its ports: what every packet pays.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use encap::ecn::TrafficClass;
use encap::ethernet::{EtherType, EthernetHeader, EthernetView};
use encap::ip::{IpProtocol, IpView};
use encap::ipv4::{Ipv4Header, Ipv4Mut};
use encap::ipv6::Ipv6Header;
use encap::tcp::TcpView;
use encap::udp::{UdpHeader, UdpView};
use encap::{MacAddress, ParseError};

/// What a flow key is made of.
type Tuple = (IpAddr, IpAddr, IpProtocol, u16, u16);

fn ports(frame: &[u8]) -> Result<Tuple, ParseError> {
    let (_, packet) = EthernetView::parse(frame)?;
    let (ip, payload) = IpView::parse(packet)?;
    let upper = ip.upper_layer(payload)?;
    let (source, destination) = match upper.protocol {
        IpProtocol::TCP => {
            let (tcp, _) = TcpView::parse(upper.bytes)?;
            (tcp.source_port(), tcp.destination_port())
        }
        IpProtocol::UDP => {
            let (udp, _) = UdpView::parse(upper.bytes)?;
            (udp.source_port(), udp.destination_port())
        }
        _ => (0, 0),
    };
    Ok((ip.source(), ip.destination(), upper.protocol, source, destination))
}

fn ethernet(ether_type: EtherType) -> Vec<u8> {
    let (destination, source) = (MacAddress::new([2; 6]), MacAddress::new([4; 6]));
    EthernetHeader { destination, source, ether_type }.to_bytes().to_vec()
}

fn ipv4(protocol: IpProtocol, transport: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(EtherType::IPV4);
    let header = Ipv4Header {
        traffic_class: TrafficClass(0),
        total_length: u16::try_from(transport.len().saturating_add(20)).unwrap_or(u16::MAX),
        identification: 0,
        dont_fragment: true,
        ttl: 64,
        protocol,
        source: Ipv4Addr::new(10, 0, 0, 1),
        destination: Ipv4Addr::new(10, 0, 0, 2),
    };
    frame.extend(header.to_bytes());
    frame.extend(transport);
    frame
}

fn ipv6(next_header: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(EtherType::IPV6);
    let header = Ipv6Header {
        traffic_class: TrafficClass(0),
        flow_label: 0,
        payload_length: u16::try_from(payload.len()).unwrap_or(u16::MAX),
        next_header,
        hop_limit: 64,
        source: Ipv6Addr::LOCALHOST,
        destination: Ipv6Addr::LOCALHOST,
    };
    frame.extend(header.to_bytes());
    frame.extend(payload);
    frame
}

fn parse(criterion: &mut Criterion) {
    let udp = UdpHeader { source_port: 1, destination_port: 2, length: 8, checksum: 0 }.to_bytes();
    let tcp = [0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0];
    let mut behind_options = vec![IpProtocol::UDP.0, 0, 1, 4, 0, 0, 0, 0];
    behind_options.extend(udp);
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (name, frame) in [
        ("ipv4_udp", ipv4(IpProtocol::UDP, &udp)),
        ("ipv4_tcp", ipv4(IpProtocol::TCP, &tcp)),
        ("ipv6_udp", ipv6(IpProtocol::UDP, &udp)),
        ("ipv6_tcp", ipv6(IpProtocol::TCP, &tcp)),
        ("ipv6_options_udp", ipv6(IpProtocol::DESTINATION_OPTIONS, &behind_options)),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| ports(black_box(&frame))));
    }
    group.bench_function("ipv4_decrement_ttl", |bencher| {
        let mut frame = ipv4(IpProtocol::UDP, &udp);
        bencher.iter(|| {
            let packet = black_box(&mut frame[14..]);
            packet[8] = 64;
            Ipv4Mut::parse(packet).map(|mut ip| ip.decrement_ttl())
        });
    });
    group.finish();
}

criterion_group!(benches, parse);
criterion_main!(benches);
