use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::ecn::{Dscp, Ecn};
use crate::ip::IpView;
use crate::vxlan::{DecapSettings, ENTROPY_PORT_MIN, Outer};

const IPV4: TunnelAddresses = TunnelAddresses::V4 {
    source: Ipv4Addr::new(192, 168, 7, 1),
    destination: Ipv4Addr::new(192, 168, 7, 2),
};
const IPV6: TunnelAddresses = TunnelAddresses::V6 {
    source: Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 1),
    destination: Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2),
};

fn settings(addresses: TunnelAddresses) -> TunnelSettings {
    TunnelSettings {
        source_mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
        addresses,
        destination_port: super::super::PORT,
        vni: Vni::new(1).unwrap(),
        hop_limit: 64,
        dscp: DscpModel::Uniform,
        ecn: EcnMode::Normal,
        outer_df: OuterDf::Set,
        udp_checksum: UdpChecksum::ByFamily,
    }
}

/// Encapsulates `frame` by `settings` and returns the outer frame.
fn encapsulated(settings: &TunnelSettings, packet: &EncapPacket, frame: &[u8]) -> Vec<u8> {
    let template = EncapTemplate::new(settings);
    let mut outer = vec![0xee; template.overhead()];
    let packet = EncapPacket { frame_bytes: frame.len(), ..*packet };
    template.write(&mut outer, &packet, || Sum::of(frame)).unwrap();
    outer.extend(frame);
    outer
}

fn any_settings() -> impl Strategy<Value = TunnelSettings> {
    let addresses = prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(source, destination)| TunnelAddresses::V4 {
            source: source.into(),
            destination: destination.into(),
        }),
        any::<([u8; 16], [u8; 16])>().prop_map(|(source, destination)| TunnelAddresses::V6 {
            source: source.into(),
            destination: destination.into(),
        }),
    ];
    let dscp = prop_oneof![
        Just(DscpModel::Uniform),
        (0..=Dscp::MAX).prop_map(|value| DscpModel::Pipe(Dscp::new(value).unwrap())),
    ];
    let ecn = prop_oneof![Just(EcnMode::Normal), Just(EcnMode::Compatibility)];
    let outer_df = prop_oneof![Just(OuterDf::Set), Just(OuterDf::Clear), Just(OuterDf::Inherit)];
    let udp_checksum = prop_oneof![
        Just(UdpChecksum::ByFamily),
        Just(UdpChecksum::Zero),
        Just(UdpChecksum::Computed)
    ];
    (
        any::<([u8; 6], [u8; 6], u16, u8)>(),
        0..=Vni::MAX,
        addresses,
        (dscp, ecn, outer_df, udp_checksum),
    )
        .prop_map(|((source, destination, port, hop_limit), vni, addresses, modes)| {
            TunnelSettings {
                source_mac: source.into(),
                destination_mac: destination.into(),
                addresses,
                destination_port: port,
                vni: Vni::new(vni).unwrap(),
                hop_limit,
                dscp: modes.0,
                ecn: modes.1,
                outer_df: modes.2,
                udp_checksum: modes.3,
            }
        })
}

fn any_packet() -> impl Strategy<Value = EncapPacket> {
    any::<(u64, u8, bool, u16)>().prop_map(|(flow_hash, class, dont_fragment, identification)| {
        EncapPacket {
            frame_bytes: 0,
            flow_hash,
            traffic_class: TrafficClass(class),
            dont_fragment,
            identification,
        }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_what_was_set(
        settings in any_settings(),
        packet in any_packet(),
        frame in prop::collection::vec(any::<u8>(), 14..2000),
    ) {
        let outer = encapsulated(&settings, &packet, &frame);
        let (ethernet, rest) = EthernetView::parse(&outer).unwrap();
        prop_assert_eq!(ethernet.source(), settings.source_mac);
        prop_assert_eq!(ethernet.destination(), settings.destination_mac);

        let (ip, payload) = IpView::parse(rest).unwrap();
        let class = encapsulate(packet.traffic_class, settings.dscp, settings.ecn);
        prop_assert_eq!(ip.traffic_class(), class);
        prop_assert_eq!(ip.hop_limit(), settings.hop_limit);
        let pseudo_header = match ip {
            IpView::V4(ip) => {
                ip.verify_checksum().unwrap();
                let is_set = match settings.outer_df {
                    OuterDf::Set => true,
                    OuterDf::Clear => false,
                    OuterDf::Inherit => packet.dont_fragment,
                };
                prop_assert_eq!(ip.is_dont_fragment(), is_set);
                let identification = if is_set { 0 } else { packet.identification };
                prop_assert_eq!(ip.identification(), identification);
                prop_assert!(ip.fragment().is_none());
                ip.pseudo_header()
            }
            IpView::V6(ip) => {
                prop_assert_eq!(ip.flow_label(), flow_label(packet.flow_hash));
                ip.pseudo_header(IpProtocol::UDP, u32::try_from(payload.len()).unwrap())
            }
        };
        let (udp, vxlan) = UdpView::parse(payload).unwrap();
        prop_assert_eq!(udp.source_port(), entropy_port(packet.flow_hash));
        prop_assert_eq!(udp.destination_port(), settings.destination_port);
        prop_assert_eq!(usize::from(udp.length()), frame.len() + 16);
        let template = EncapTemplate::new(&settings);
        prop_assert_eq!(udp.checksum() != 0, template.has_udp_checksum());
        udp.verify_checksum(pseudo_header, Sum::of(vxlan)).unwrap();
        let (vxlan, inner) = VxlanView::parse(vxlan).unwrap();
        prop_assert_eq!(vxlan.vni(), settings.vni);
        prop_assert_eq!(inner, &frame[..]);
    }

    #[test]
    fn etherparse_agrees_on_lengths_and_checksums(
        settings in any_settings(),
        packet in any_packet(),
        frame in prop::collection::vec(any::<u8>(), 14..200),
    ) {
        use etherparse::{NetSlice, SlicedPacket, TransportSlice};
        let settings = TunnelSettings { udp_checksum: UdpChecksum::Computed, ..settings };
        let outer = encapsulated(&settings, &packet, &frame);
        let oracle = SlicedPacket::from_ethernet(&outer).unwrap();
        let Some(TransportSlice::Udp(udp)) = oracle.transport else { panic!("no UDP") };
        let expected = match oracle.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap()
            }
            NetSlice::Ipv6(ip) => {
                udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap()
            }
            NetSlice::Arp(_) => panic!("no IP"),
        };
        prop_assert_eq!(udp.checksum(), expected);
    }

    #[test]
    fn decap_gives_back_what_encap_was_given(
        settings in any_settings(),
        packet in any_packet(),
        frame in prop::collection::vec(any::<u8>(), 14..300),
    ) {
        let outer = encapsulated(&settings, &packet, &frame);
        let ip = &outer[EthernetView::LEN..];
        let parsed = Outer::parse(ip, ip.len()).unwrap();
        prop_assert_eq!(
            TunnelAddresses::new(parsed.source(), parsed.destination()),
            Ok(settings.addresses)
        );
        prop_assert_eq!(parsed.destination_port(), settings.destination_port);
        prop_assert!(parsed.source_port() >= ENTROPY_PORT_MIN);
        // The frame is noise and may by chance be IP with a mark that has it dropped.
        if let Ok(decap) = parsed.decap(DecapSettings::default(), |_| panic!("one segment")) {
            prop_assert_eq!(decap.vni(), settings.vni);
            prop_assert_eq!(&ip[decap.inner_offset()..], &frame[..]);
        }
    }
}

#[test]
fn families_do_not_mix() {
    let (from, to) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    assert_eq!(TunnelAddresses::new(from, to), Err(MixedFamilies { from, to }));
    assert_eq!(TunnelAddresses::new(to, from), Err(MixedFamilies { from: to, to: from }));
}

#[test]
fn only_the_end_of_the_headroom_is_written() {
    for addresses in [IPV4, IPV6] {
        let template = EncapTemplate::new(&settings(addresses));
        let mut headroom = [0xee; 128];
        let packet = EncapPacket { frame_bytes: 60, ..EncapPacket::default() };
        template.write(&mut headroom, &packet, || Sum::ZERO).unwrap();
        let (untouched, headers) = headroom.split_at(128 - template.overhead());
        assert!(untouched.iter().all(|byte| *byte == 0xee));
        assert_eq!(headers[..6], [2, 0, 0, 0, 0, 2]);
        assert_eq!(headers[headers.len() - 8..], [8, 0, 0, 0, 0, 0, 1, 0]);
    }
}

#[test]
fn too_little_headroom_is_refused_untouched() {
    for addresses in [IPV4, IPV6] {
        let template = EncapTemplate::new(&settings(addresses));
        for actual in 0..template.overhead() {
            let mut headroom = vec![0xee; actual];
            assert_eq!(
                template.write(&mut headroom, &EncapPacket::default(), || Sum::ZERO),
                Err(EncapError::HeadroomTooShort { needed: addresses.overhead(), actual })
            );
            assert!(headroom.iter().all(|byte| *byte == 0xee));
        }
    }
}

#[test]
fn the_longest_inner_frame_fills_the_length_field() {
    for (addresses, limit) in [(IPV4, 65_499), (IPV6, 65_519)] {
        let template = EncapTemplate::new(&settings(addresses));
        let mut headroom = [0; 70];
        let packet = EncapPacket { frame_bytes: limit, ..EncapPacket::default() };
        assert_eq!(template.write(&mut headroom, &packet, || Sum::ZERO), Ok(()));
        for frame_bytes in [limit + 1, usize::MAX] {
            let packet = EncapPacket { frame_bytes, ..packet };
            assert_eq!(
                template.write(&mut headroom, &packet, || Sum::ZERO),
                Err(EncapError::FrameTooLong { limit, actual: frame_bytes })
            );
        }
    }
}

#[test]
fn new_macs_change_nothing_else() {
    for addresses in [IPV4, IPV6] {
        let (source, destination) = (MacAddress::new([4; 6]), MacAddress::new([6; 6]));
        let mut template = EncapTemplate::new(&settings(addresses));
        template.set_macs(source, destination);
        let mut changed = settings(addresses);
        changed.source_mac = source;
        changed.destination_mac = destination;
        let packet = EncapPacket { frame_bytes: 100, ..EncapPacket::default() };
        let (mut ours, mut expected) = ([0; 70], [0; 70]);
        template.write(&mut ours, &packet, || Sum::ZERO).unwrap();
        EncapTemplate::new(&changed).write(&mut expected, &packet, || Sum::ZERO).unwrap();
        assert_eq!(ours, expected);
    }
}

#[test]
fn the_sum_of_the_frame_is_asked_for_only_if_it_is_needed() {
    for (addresses, udp_checksum, is_needed) in [
        (IPV4, UdpChecksum::ByFamily, false),
        (IPV6, UdpChecksum::ByFamily, true),
        (IPV4, UdpChecksum::Zero, false),
        (IPV6, UdpChecksum::Zero, false),
        (IPV4, UdpChecksum::Computed, true),
        (IPV6, UdpChecksum::Computed, true),
    ] {
        let template = EncapTemplate::new(&TunnelSettings { udp_checksum, ..settings(addresses) });
        let mut is_asked = false;
        let sum = || {
            is_asked = true;
            Sum::ZERO
        };
        template.write(&mut [0; 70], &EncapPacket::default(), sum).unwrap();
        assert_eq!(is_asked, is_needed);
        assert_eq!(template.has_udp_checksum(), is_needed);
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_sent_as_ones() {
    // The inner sum is chosen so that the whole comes out as 0xffff.
    let template = EncapTemplate::new(&settings(IPV6));
    let packet = EncapPacket { frame_bytes: 64, ..EncapPacket::default() };
    let mut headers = [0; OVERHEAD_IPV6];
    template.write(&mut headers, &packet, || Sum::ZERO).unwrap();
    let checksum = u16::from_be_bytes([headers[60], headers[61]]);
    template.write(&mut headers, &packet, || Sum::of_u16(checksum)).unwrap();
    assert_eq!(headers[60..62], [0xff, 0xff]);
}

#[test]
fn every_inner_class_appears_outside_as_the_models_say() {
    for class in 0..=255 {
        for ecn in [EcnMode::Normal, EcnMode::Compatibility] {
            for addresses in [IPV4, IPV6] {
                let settings = TunnelSettings { ecn, ..settings(addresses) };
                let packet =
                    EncapPacket { traffic_class: TrafficClass(class), ..EncapPacket::default() };
                let outer = encapsulated(&settings, &packet, &[0; 60]);
                let (ip, _) = IpView::parse(&outer[14..]).unwrap();
                let expected = match ecn {
                    EcnMode::Normal => TrafficClass(class),
                    EcnMode::Compatibility => TrafficClass(class).with_ecn(Ecn::NotEct),
                };
                assert_eq!(ip.traffic_class(), expected);
            }
        }
    }
}
