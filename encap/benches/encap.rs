//! Writing the outer headers of a tunnel in front of an inner frame.
//!
//! Over IPv6 the sum of the inner frame is part of the work, unless a zero checksum is set.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encap::MacAddress;
use encap::checksum::Sum;
use encap::ecn::{DscpModel, EcnMode, TrafficClass};
use encap::vxlan::{
    EncapPacket, EncapTemplate, OuterDf, PORT, TunnelAddresses, TunnelSettings, UdpChecksum, Vni,
};

const IPV4: TunnelAddresses = TunnelAddresses::V4 {
    source: Ipv4Addr::new(192, 168, 7, 1),
    destination: Ipv4Addr::new(192, 168, 7, 2),
};
const IPV6: TunnelAddresses = TunnelAddresses::V6 {
    source: Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 1),
    destination: Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2),
};

fn template(addresses: TunnelAddresses, udp_checksum: UdpChecksum) -> EncapTemplate {
    EncapTemplate::new(&TunnelSettings {
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
    })
}

fn encap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encap");
    group.throughput(Throughput::Elements(1));
    for (name, addresses, udp_checksum) in [
        ("ipv4", IPV4, UdpChecksum::ByFamily),
        ("ipv6", IPV6, UdpChecksum::ByFamily),
        ("ipv6_zero_checksum", IPV6, UdpChecksum::Zero),
    ] {
        let template = template(addresses, udp_checksum);
        for frame_bytes in [64_usize, 1500] {
            let frame = vec![0xab; frame_bytes];
            let mut headroom = [0; 128];
            let mut packet = EncapPacket {
                frame_bytes,
                flow_hash: 1,
                traffic_class: TrafficClass(0xba),
                dont_fragment: true,
                identification: 0,
            };
            group.bench_function(BenchmarkId::new(name, frame_bytes), |bencher| {
                bencher.iter(|| {
                    packet.flow_hash = packet.flow_hash.wrapping_add(0x1234_5678_9abc);
                    let sum = || Sum::of(black_box(&frame));
                    let result = template.write(&mut headroom, black_box(&packet), sum);
                    black_box(&headroom);
                    result
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, encap);
criterion_main!(benches);
