//! Packets from the underlay, and frames through a tunnel and out again.
//!
//! The first bytes of the input describe a tunnel; the rest is a packet from the underlay, and then
//! again an inner frame. The packet is decapsulated or refused as it is, and once more with its
//! checksums mended, so that mutations get past them. The inner frame comes out of the tunnel as it
//! went in.

use std::net::{Ipv4Addr, Ipv6Addr};

use encap::{
    MacAddress,
    checksum::Sum,
    ecn::{Dscp, DscpModel, EcnMode, TrafficClass},
    ethernet::EthernetView,
    ip::IpView,
    ipv4::Ipv4View,
    vxlan::{
        Decap, DecapError, DecapSettings, ENTROPY_PORT_MIN, EncapPacket, EncapTemplate,
        OVERHEAD_IPV6, Outer, OuterDf, TunnelAddresses, TunnelSettings, UdpChecksum, Vni,
    },
};

/// Bytes that describe the tunnel.
pub(crate) const SETTINGS_BYTES: usize = 16;

/// Longest inner frame tried, in bytes. Longer ones are refused by their length alone, which unit
/// tests hold.
const FRAME_BYTES_MAX: usize = 4096;

pub(crate) fn run(data: &[u8]) {
    let Some((settings, bytes)) = data.split_first_chunk::<SETTINGS_BYTES>() else { return };
    let accepts = DecapSettings { accepts_zero_checksum_over_ipv6: settings[0] & 0x80 != 0 };
    from_underlay(bytes, accepts);
    from_underlay(&mended(bytes), accepts);
    if bytes.len() <= FRAME_BYTES_MAX {
        there_and_back(settings, bytes);
    }
}

fn from_underlay(packet: &[u8], accepts: DecapSettings) {
    // A chain whose later segments hold as many bytes again.
    for rest in [0, packet.len()] {
        let Ok(outer) = Outer::parse(packet, packet.len() + rest) else { continue };
        assert_eq!(outer.source().is_ipv4(), outer.destination().is_ipv4());
        let asked = |bytes| {
            assert!(0 < bytes && bytes <= rest);
            Sum::ZERO
        };
        let Ok(decap) = outer.decap(accepts, asked) else { continue };
        assert!(decap.inner_offset() + EthernetView::LEN <= packet.len());
        merge_mark(decap, &packet[decap.inner_offset()..]);
    }
}

/// The mark is merged in place: nothing else of the traffic class changes, and the checksum
/// follows.
fn merge_mark(decap: Decap, frame: &[u8]) {
    let mut merged = frame.to_vec();
    decap.apply_ecn(&mut merged);
    let Some(mark) = decap.new_ecn() else {
        assert_eq!(merged, frame);
        return;
    };
    let start = |frame: &[u8]| if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let (Ok((before, _)), Ok((after, _))) = (
        IpView::parse_header(&frame[start(frame)..]),
        IpView::parse_header(&merged[start(&merged)..]),
    ) else {
        panic!("a mark was merged into what is not IP");
    };
    assert_eq!(after.traffic_class(), before.traffic_class().with_ecn(mark));
    if let (IpView::V4(before), IpView::V4(after)) = (before, after) {
        assert_eq!(before.verify_checksum().is_ok(), after.verify_checksum().is_ok());
    }
}

fn there_and_back(settings: &[u8; SETTINGS_BYTES], frame: &[u8]) {
    let settings = tunnel(settings);
    let template = EncapTemplate::new(&settings);
    let inner_class = inner_class(frame);
    let packet = EncapPacket {
        frame_bytes: frame.len(),
        flow_hash: u64::from(Sum::of(frame).value()) << 32 | u64::from(settings.vni.value()),
        traffic_class: inner_class.unwrap_or_default(),
        dont_fragment: settings.hop_limit & 1 != 0,
        identification: settings.destination_port,
    };
    let mut sent = vec![0; template.overhead()];
    template.write(&mut sent, &packet, || Sum::of(frame)).expect("the frame is short enough");
    assert!(template.overhead() <= OVERHEAD_IPV6);
    sent.extend_from_slice(frame);

    let underlay = &sent[EthernetView::LEN..];
    let outer = Outer::parse(underlay, underlay.len()).expect("what was sent is UDP");
    let ends = TunnelAddresses::new(outer.source(), outer.destination());
    assert_eq!(ends, Ok(settings.addresses));
    assert_eq!(outer.destination_port(), settings.destination_port);
    assert!(outer.source_port() >= ENTROPY_PORT_MIN);
    match outer.decap(DecapSettings::default(), |_| unreachable!("it is in one piece")) {
        Ok(decap) => {
            assert_eq!(decap.vni(), settings.vni);
            assert_eq!(&underlay[decap.inner_offset()..], frame);
            if inner_class.is_some() {
                // Nobody marked it on the way.
                assert_eq!(decap.new_ecn(), None);
            }
        }
        Err(DecapError::Malformed(_)) => assert!(frame.len() < EthernetView::LEN),
        Err(other) => panic!("refused what was sent: {other}"),
    }
}

/// The traffic class that the engine would encapsulate a frame with; `None` if it is not IP.
fn inner_class(frame: &[u8]) -> Option<TrafficClass> {
    let (ethernet, mut payload) = EthernetView::parse(frame).ok()?;
    let mut ether_type = ethernet.ether_type();
    if ether_type == encap::ethernet::EtherType::VLAN {
        let (tag, rest) = encap::vlan::VlanView::parse(payload).ok()?;
        (ether_type, payload) = (tag.ether_type(), rest);
    }
    let (ip, _) = IpView::parse_header(payload).ok()?;
    let is_named = match ip {
        IpView::V4(_) => ether_type == encap::ethernet::EtherType::IPV4,
        IpView::V6(_) => ether_type == encap::ethernet::EtherType::IPV6,
    };
    is_named.then(|| ip.traffic_class())
}

fn tunnel(settings: &[u8; SETTINGS_BYTES]) -> TunnelSettings {
    let [flags, hop_limit, dscp, port_high, port_low, vni @ .., a, b, c, d] = *settings;
    let port = u16::from_be_bytes([port_high, port_low]);
    let vni = u32::from_be_bytes([0, vni[0], vni[1], vni[2]]);
    let addresses = if flags & 1 == 0 {
        TunnelAddresses::V4 {
            source: Ipv4Addr::new(192, 0, a, b),
            destination: Ipv4Addr::new(198, 51, c, d),
        }
    } else {
        let address = |high, low| Ipv6Addr::new(0x2001, 0xdb8, high, low, 0, 0, 0, 1);
        TunnelAddresses::V6 {
            source: address(a.into(), b.into()),
            destination: address(c.into(), d.into()),
        }
    };
    TunnelSettings {
        source_mac: MacAddress::new([2, 0, 0, 0, a, b]),
        destination_mac: MacAddress::new([2, 0, 0, 1, c, d]),
        addresses,
        destination_port: port,
        vni: Vni::new(vni).expect("24 bits"),
        hop_limit,
        dscp: Dscp::new(dscp).map_or(DscpModel::Uniform, DscpModel::Pipe),
        ecn: if flags & 2 == 0 { EcnMode::Normal } else { EcnMode::Compatibility },
        outer_df: [OuterDf::Set, OuterDf::Clear, OuterDf::Inherit][usize::from(flags >> 2) % 3],
        udp_checksum: [UdpChecksum::ByFamily, UdpChecksum::Zero, UdpChecksum::Computed]
            [usize::from(flags >> 4 & 7) % 3],
    }
}

/// The packet with a right IPv4 checksum, and without a UDP checksum if it starts with plain IP and
/// UDP headers.
fn mended(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let udp = match packet.first() {
        Some(first) if first >> 4 == 4 => {
            let header_len = usize::from(first & 15) * 4;
            if let Some(header) = packet.get_mut(..header_len.max(Ipv4View::LEN_MIN)) {
                header[10..12].fill(0);
                let checksum = Sum::of(header).checksum();
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            header_len
        }
        _ => 40,
    };
    if let Some(checksum) = packet.get_mut(udp + 6..udp + 8) {
        checksum.fill(0);
    }
    packet
}
