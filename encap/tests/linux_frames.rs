//! Frames that a Linux `vxlan` device sent are understood, and ours are the same to the byte in all
//! that `golden/README.md` does not except.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::MacAddress;
use encap::checksum::{Delta, Sum};
use encap::ecn::{DscpModel, Ecn, EcnMode, TrafficClass};
use encap::ethernet::{EtherType, EthernetView};
use encap::ip::IpView;
use encap::vxlan::{
    DecapSettings, EncapPacket, EncapTemplate, Outer, OuterDf, TunnelAddresses, TunnelSettings,
    UdpChecksum, Vni,
};

/// One capture: a file, and how the device was set up that sent it.
struct Capture {
    text: &'static str,
    vni: u32,
    port: u16,
    is_ipv4: bool,
    dscp: DscpModel,
    outer_df: OuterDf,
    udp_checksum: UdpChecksum,
}

fn captures() -> [Capture; 5] {
    let pipe = DscpModel::Pipe(encap::ecn::Dscp::default());
    [
        Capture {
            text: include_str!("golden/linux_ipv4.hex"),
            vni: 1,
            port: 4789,
            is_ipv4: true,
            dscp: pipe,
            outer_df: OuterDf::Clear,
            udp_checksum: UdpChecksum::Computed,
        },
        Capture {
            text: include_str!("golden/linux_ipv4_df.hex"),
            vni: Vni::MAX,
            port: 4790,
            is_ipv4: true,
            dscp: DscpModel::Uniform,
            outer_df: OuterDf::Set,
            udp_checksum: UdpChecksum::Computed,
        },
        Capture {
            text: include_str!("golden/linux_ipv4_zero_checksum.hex"),
            vni: 3,
            port: 4792,
            is_ipv4: true,
            dscp: pipe,
            outer_df: OuterDf::Clear,
            udp_checksum: UdpChecksum::ByFamily,
        },
        Capture {
            text: include_str!("golden/linux_ipv6.hex"),
            vni: 1,
            port: 8472,
            is_ipv4: false,
            dscp: pipe,
            outer_df: OuterDf::Set,
            udp_checksum: UdpChecksum::ByFamily,
        },
        Capture {
            text: include_str!("golden/linux_ipv6_zero_checksum.hex"),
            vni: 2,
            port: 4791,
            is_ipv4: false,
            dscp: DscpModel::Uniform,
            outer_df: OuterDf::Set,
            udp_checksum: UdpChecksum::Zero,
        },
    ]
}

impl Capture {
    /// The frames in the file: an offset of zero starts a new one.
    fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for line in self.text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (offset, bytes) = line.split_once(' ').unwrap();
            if offset == "000000" {
                frames.push(Vec::new());
            }
            let bytes = bytes.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap());
            frames.last_mut().unwrap().extend(bytes);
        }
        assert_eq!(frames.len(), 4);
        frames
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        if self.is_ipv4 {
            (Ipv4Addr::new(192, 168, 7, 1).into(), Ipv4Addr::new(192, 168, 7, 2).into())
        } else {
            let address = |last| Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, last);
            (address(1).into(), address(2).into())
        }
    }

    fn template(&self) -> EncapTemplate {
        let (source, destination) = self.addresses();
        EncapTemplate::new(&TunnelSettings {
            source_mac: "02:00:00:00:0a:01".parse::<MacAddress>().unwrap(),
            destination_mac: "02:00:00:00:0a:02".parse::<MacAddress>().unwrap(),
            addresses: TunnelAddresses::new(source, destination).unwrap(),
            destination_port: self.port,
            vni: Vni::new(self.vni).unwrap(),
            hop_limit: 64,
            dscp: self.dscp,
            ecn: EcnMode::Normal,
            outer_df: self.outer_df,
            udp_checksum: self.udp_checksum,
        })
    }
}

/// The traffic class of the packet in an inner frame; zero for ARP.
fn inner_class(frame: &[u8]) -> TrafficClass {
    let (ethernet, packet) = EthernetView::parse(frame).unwrap();
    match ethernet.ether_type() {
        EtherType::IPV4 | EtherType::IPV6 => IpView::parse(packet).unwrap().0.traffic_class(),
        _ => TrafficClass(0),
    }
}

fn word(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}

fn set_word(bytes: &mut [u8], offset: usize, word: u16) {
    bytes[offset..offset + 2].copy_from_slice(&word.to_be_bytes());
}

/// Gives `ours` what Linux chooses otherwise, and the checksums that follow from it.
fn take_over_choices(ours: &mut [u8], linux: &[u8], is_ipv4: bool, is_congested: bool) {
    let udp = if is_ipv4 { 34 } else { 54 };
    let port = Delta::of_u16(word(ours, udp), word(linux, udp));
    let checksum = port.apply_udp(word(ours, udp + 6));
    set_word(ours, udp, word(linux, udp));
    set_word(ours, udp + 6, checksum);
    if is_ipv4 {
        set_word(ours, 18, word(linux, 18));
        if is_congested {
            ours[15] = linux[15];
        }
        set_word(ours, 24, 0);
        let checksum = Sum::of(&ours[14..34]).checksum();
        set_word(ours, 24, checksum);
    } else {
        // The flow label is in the low 20 bits of the first word.
        ours[15] = ours[15] & 0xf0 | linux[15] & 0x0f;
        ours[16..18].copy_from_slice(&linux[16..18]);
        if is_congested {
            ours[15] = ours[15] & 0x0f | linux[15] & 0xf0;
        }
    }
}

#[test]
fn frames_from_linux_are_understood() {
    for capture in captures() {
        for frame in capture.frames() {
            let (_, packet) = EthernetView::parse(&frame).unwrap();
            let outer = Outer::parse(packet, packet.len()).unwrap();
            assert_eq!((outer.source(), outer.destination()), capture.addresses());
            assert_eq!(outer.destination_port(), capture.port);
            let decap = outer.decap(DecapSettings::default(), |_| Sum::ZERO).unwrap();
            assert_eq!(decap.vni().value(), capture.vni);
            assert_eq!((decap.ecn_anomaly(), decap.new_ecn()), (None, None));
            let inner = &packet[decap.inner_offset()..];
            let (ethernet, _) = EthernetView::parse(inner).unwrap();
            assert_eq!(ethernet.source().octets()[..4], [2, 0, 0, 0]);
        }
    }
}

#[test]
fn frames_from_linux_and_ours_are_the_same() {
    for capture in captures() {
        let template = capture.template();
        for linux in capture.frames() {
            let inner = &linux[template.overhead()..];
            let class = inner_class(inner);
            let packet = EncapPacket {
                frame_bytes: inner.len(),
                flow_hash: 0x1234_5678_9abc_def0,
                traffic_class: class,
                ..EncapPacket::default()
            };
            let mut ours = vec![0; template.overhead()];
            template.write(&mut ours, &packet, || Sum::of(inner)).unwrap();
            ours.extend(inner);
            let is_congested = class.ecn() == Ecn::Ce;
            take_over_choices(&mut ours, &linux, capture.is_ipv4, is_congested);
            assert_eq!(ours, linux);
        }
    }
}

#[test]
fn linux_marks_congestion_outside_as_rfc_3168_did() {
    for capture in captures() {
        let classes: Vec<_> = capture
            .frames()
            .iter()
            .map(|frame| {
                let (_, packet) = EthernetView::parse(frame).unwrap();
                let outer = IpView::parse(packet).unwrap().0.traffic_class();
                (inner_class(&frame[capture.template().overhead()..]).ecn(), outer.ecn())
            })
            .collect();
        let expected = [
            (Ecn::NotEct, Ecn::NotEct),
            (Ecn::Ect0, Ecn::Ect0),
            (Ecn::Ce, Ecn::Ect0),
            (Ecn::Ect1, Ecn::Ect1),
        ];
        assert_eq!(classes, expected);
    }
}
