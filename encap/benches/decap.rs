//! Checking and taking off the outer headers that `Outer` and `Decap` know.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encap::MacAddress;
use encap::checksum::Sum;
use encap::ecn::{DscpModel, EcnMode, TrafficClass};
use encap::ethernet::{EtherType, EthernetHeader, EthernetView};
use encap::ip::IpProtocol;
use encap::ipv4::Ipv4Header;
use encap::vxlan::{
    DecapSettings, EncapPacket, EncapTemplate, Outer, OuterDf, PORT, TunnelAddresses,
    TunnelSettings, UdpChecksum, Vni,
};

const IPV4: TunnelAddresses = TunnelAddresses::V4 {
    source: Ipv4Addr::new(192, 168, 7, 1),
    destination: Ipv4Addr::new(192, 168, 7, 2),
};
const IPV6: TunnelAddresses = TunnelAddresses::V6 {
    source: Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 1),
    destination: Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2),
};

/// An inner frame of this length: IPv4, ECT(0).
fn inner_frame(bytes: u16) -> Vec<u8> {
    let (destination, source) = (MacAddress::new([2; 6]), MacAddress::new([4; 6]));
    let ethernet = EthernetHeader { destination, source, ether_type: EtherType::IPV4 };
    let ip = Ipv4Header {
        traffic_class: TrafficClass(2),
        total_length: bytes.saturating_sub(14),
        identification: 0,
        dont_fragment: true,
        ttl: 64,
        protocol: IpProtocol::UDP,
        source: Ipv4Addr::new(10, 0, 0, 1),
        destination: Ipv4Addr::new(10, 0, 0, 2),
    };
    let mut frame = ethernet.to_bytes().to_vec();
    frame.extend(ip.to_bytes());
    frame.resize(bytes.into(), 0xab);
    frame
}

fn outer_packet(addresses: TunnelAddresses, udp_checksum: UdpChecksum, frame: &[u8]) -> Vec<u8> {
    let template = EncapTemplate::new(&TunnelSettings {
        source_mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
        addresses,
        destination_port: PORT,
        vni: Vni::try_from(1).unwrap_or_else(|_| unreachable!()),
        hop_limit: 64,
        dscp: DscpModel::Uniform,
        ecn: EcnMode::Normal,
        outer_df: OuterDf::Set,
        udp_checksum,
    });
    let mut packet = vec![0; template.overhead()];
    let fields = EncapPacket {
        frame_bytes: frame.len(),
        traffic_class: TrafficClass(2),
        ..EncapPacket::default()
    };
    template.write(&mut packet, &fields, || Sum::of(frame)).unwrap_or_else(|_| unreachable!());
    packet.extend(frame);
    packet.split_off(EthernetView::LEN)
}

fn decap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decap");
    group.throughput(Throughput::Elements(1));
    for (name, addresses, udp_checksum) in [
        ("ipv4", IPV4, UdpChecksum::ByFamily),
        ("ipv4_checksum", IPV4, UdpChecksum::Computed),
        ("ipv6", IPV6, UdpChecksum::ByFamily),
        ("ipv6_zero_checksum", IPV6, UdpChecksum::Zero),
    ] {
        for frame_bytes in [64, 1500] {
            let packet = outer_packet(addresses, udp_checksum, &inner_frame(frame_bytes));
            group.bench_function(BenchmarkId::new(name, frame_bytes), |bencher| {
                bencher.iter(|| {
                    let packet = black_box(&packet[..]);
                    let outer = Outer::parse(packet, packet.len());
                    outer.map(|outer| outer.decap(DecapSettings::default(), |_| Sum::ZERO))
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decap);
criterion_main!(benches);
