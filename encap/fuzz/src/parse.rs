//! Every view of a frame, edits in place, and ICMP errors about it.
//!
//! The input is a frame. Every view takes it or refuses it, where it belongs and at the start of
//! the input; what they take is consistent, edits keep checksums right, and ICMP errors about it
//! quote it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use encap::{
    MacAddress,
    arp::{ArpPacket, ArpView},
    checksum::Sum,
    ecn::TrafficClass,
    ethernet::{EtherType, EthernetMut, EthernetView},
    icmp::{IcmpMut, IcmpView},
    icmp_error::{ErrorCause, ErrorReply, IPV4_ERROR_BYTES_MAX, IPV6_ERROR_BYTES_MAX},
    icmpv6::{
        Icmpv6Mut, Icmpv6View,
        ndp::{NeighbourView, RouterAdvertisementView, RouterSolicitationView},
    },
    ip::{IpProtocol, IpView},
    ipv4::{Ipv4Mut, Ipv4View},
    ipv6::{Ipv6Mut, Ipv6View},
    quote::QuotedView,
    sctp::SctpView,
    tcp::TcpView,
    udp::UdpView,
    vlan::VlanView,
    vxlan::VxlanView,
};

/// Where the input is cut for the law that a sum is the sum of its parts.
const CUTS: [usize; 4] = [0, 1, 14, 33];

pub(crate) fn run(frame: &[u8]) {
    sums(frame);
    // Each view at the start of the input, whatever is there.
    transports(frame);
    ip(frame);
    arp(frame);
    let _ = VxlanView::parse(frame).map(|(view, inner)| (view.vni(), inner.len()));
    // And where it belongs.
    if let Ok((ethernet, mut payload)) = EthernetView::parse(frame) {
        let mut ether_type = ethernet.ether_type();
        if ether_type == EtherType::VLAN
            && let Ok((tag, rest)) = VlanView::parse(payload)
        {
            assert!(tag.id().value() < 4096 && tag.priority() < 8);
            (ether_type, payload) = (tag.ether_type(), rest);
        }
        match ether_type {
            EtherType::ARP => arp(payload),
            _ => ip(payload),
        }
        edit_ethernet(frame, ethernet.destination());
    }
}

fn sums(bytes: &[u8]) {
    let whole = Sum::of(bytes);
    for cut in CUTS {
        let Some((head, tail)) = bytes.split_at_checked(cut) else { break };
        assert_eq!(Sum::of(head).add_at(Sum::of(tail), cut).value(), whole.value());
    }
}

fn edit_ethernet(frame: &[u8], destination: MacAddress) {
    let mut copy = frame.to_vec();
    let mut ethernet = EthernetMut::parse(&mut copy).expect("it was long enough for a view");
    ethernet.set_source(destination);
    let (edited, payload) = EthernetView::parse(&copy).expect("the length is the same");
    assert_eq!((edited.source(), edited.destination()), (destination, destination));
    assert_eq!(payload, &frame[EthernetView::LEN..]);
}

fn arp(bytes: &[u8]) {
    let Ok((view, _)) = ArpView::parse(bytes) else { return };
    let _ = (view.operation(), view.target_mac(), view.is_announcement());
    let reply = ArpPacket::reply(&view, view.sender_mac()).to_bytes();
    let (reply, rest) = ArpView::parse(&reply).expect("a reply is ARP");
    assert!(rest.is_empty());
    assert_eq!((reply.target_ip(), reply.sender_ip()), (view.sender_ip(), view.target_ip()));
}

fn ip(packet: &[u8]) {
    if let Ok((view, payload)) = IpView::parse_header(packet) {
        assert!(payload.len() < packet.len());
        upper_layer(view, payload);
        errors_about(packet, &view);
    }
    if let Ok((view, payload)) = IpView::parse(packet) {
        upper_layer(view, payload);
        edit_ip(packet, &view);
    }
    for packet_bytes in [0, packet.len().saturating_mul(2), usize::MAX] {
        let _ = Ipv4View::parse_chained(packet, packet_bytes);
        let _ = Ipv6View::parse_chained(packet, packet_bytes);
    }
}

fn upper_layer(ip: IpView<'_>, payload: &[u8]) {
    let _ = (ip.source(), ip.destination(), ip.hop_limit(), ip.traffic_class());
    if let IpView::V4(ip) = ip {
        assert_eq!(ip.header_len(), Ipv4View::LEN_MIN + ip.options().len());
        let _ = (ip.verify_checksum(), ip.is_dont_fragment(), ip.pseudo_header());
    }
    let Ok(upper) = ip.upper_layer(payload) else { return };
    assert!(payload.ends_with(upper.bytes));
    if let Some(fragment) = upper.fragment {
        assert_eq!(fragment.offset_bytes % 8, 0);
        assert_eq!(fragment.is_first(), fragment.offset_bytes == 0);
    }
    match upper.protocol {
        IpProtocol::TCP => tcp(upper.bytes),
        IpProtocol::UDP => udp(upper.bytes),
        IpProtocol::SCTP => sctp(upper.bytes),
        IpProtocol::ICMP => icmp(upper.bytes),
        IpProtocol::ICMPV6 => icmpv6(upper.bytes),
        _ => {}
    }
}

fn transports(bytes: &[u8]) {
    tcp(bytes);
    udp(bytes);
    sctp(bytes);
    icmp(bytes);
    icmpv6(bytes);
}

fn tcp(segment: &[u8]) {
    let Ok((view, payload)) = TcpView::parse(segment) else { return };
    assert_eq!(view.header_len() + payload.len(), segment.len());
    assert!(view.header_len() >= view.options().len());
    let _ = (view.maximum_segment_bytes(), view.window_scale(), view.is_sack_permitted());
    let _ = (view.source_port(), view.destination_port(), view.sequence(), view.acknowledgement());
    let _ = (view.flags(), view.window(), view.checksum(), view.urgent());
}

fn udp(datagram: &[u8]) {
    let _ = UdpView::parse_chained(datagram, usize::MAX);
    let Ok((view, payload)) = UdpView::parse(datagram) else { return };
    assert_eq!(view.payload_len(), payload.len());
    assert_eq!(usize::from(view.length()), payload.len() + UdpView::LEN);
    let _ = view.verify_checksum(Sum::ZERO, Sum::of(payload));
}

fn sctp(packet: &[u8]) {
    let Ok((view, chunks)) = SctpView::parse(packet) else { return };
    let _ = (view.verification_tag(), SctpView::first_chunk_type(chunks));
    let mut unsummed = packet.to_vec();
    unsummed[8..12].fill(0);
    assert_eq!(view.is_intact(chunks), encap::sctp::checksum(&unsummed) == view.checksum());
}

fn icmp(message: &[u8]) {
    let Ok((view, body)) = IcmpView::parse(message) else { return };
    let _ = (view.echo_id(), view.echo_sequence(), view.next_hop_mtu());
    let is_intact = view.verify_checksum(Sum::of(body)).is_ok();
    assert_eq!(is_intact, Sum::of(message).is_intact());
    if let Ok(quote) = QuotedView::parse_icmp(&view, body) {
        assert!(view.kind().is_error());
        quoted(&quote, body);
    }
    let mut reply = message.to_vec();
    if IcmpMut::parse(&mut reply).is_ok_and(|mut reply| reply.make_echo_reply().is_ok()) {
        let (reply, body) = IcmpView::parse(&reply).expect("the length is the same");
        assert_eq!(reply.echo_id(), view.echo_id());
        assert!(!is_intact || reply.verify_checksum(Sum::of(body)).is_ok());
    }
}

fn icmpv6(message: &[u8]) {
    let Ok((view, body)) = Icmpv6View::parse(message) else { return };
    let _ = (view.echo_id(), view.echo_sequence(), view.next_hop_mtu());
    let is_intact = view.verify_checksum(Sum::ZERO, Sum::of(body)).is_ok();
    if let Ok(quote) = QuotedView::parse_icmpv6(&view, body) {
        quoted(&quote, body);
    }
    if let Ok(neighbour) = NeighbourView::parse(view, body) {
        let _ = (neighbour.target(), neighbour.source_link_address());
        let _ = (neighbour.target_link_address(), neighbour.is_solicitation());
    }
    if let Ok(solicitation) = RouterSolicitationView::parse(view, body) {
        let _ = solicitation.source_link_address();
    }
    if let Ok(advertisement) = RouterAdvertisementView::parse(view, body) {
        let _ = (advertisement.router_lifetime_s(), advertisement.source_link_address());
    }
    let mut reply = message.to_vec();
    if Icmpv6Mut::parse(&mut reply).is_ok_and(|mut reply| reply.make_echo_reply().is_ok()) {
        let (reply, body) = Icmpv6View::parse(&reply).expect("the length is the same");
        assert!(!is_intact || reply.verify_checksum(Sum::ZERO, Sum::of(body)).is_ok());
    }
}

fn quoted(quote: &QuotedView<'_>, body: &[u8]) {
    assert!(quote.upper_offset() <= body.len());
    let _ = (quote.source(), quote.destination(), quote.protocol(), quote.flow());
}

/// Each edit in place leaves a header whose checksum is as right, or wrong, as it was.
fn edit_ip(packet: &[u8], view: &IpView<'_>) {
    let mut copy = packet.to_vec();
    match view {
        IpView::V4(view) => {
            let was_intact = view.verify_checksum().is_ok();
            let mut edit = Ipv4Mut::parse(&mut copy).expect("a view was parsed");
            let is_alive = edit.decrement_ttl().is_ok();
            edit.set_traffic_class(TrafficClass(view.ttl()));
            edit.set_source(view.destination());
            edit.set_destination(Ipv4Addr::new(192, 0, 2, view.ttl()));
            let (edited, _) = Ipv4View::parse(&copy).expect("lengths and version are the same");
            assert_eq!(is_alive, view.ttl() > 1);
            assert_eq!(edited.ttl(), view.ttl() - u8::from(is_alive));
            assert_eq!(edited.source(), view.destination());
            assert_eq!(edited.verify_checksum().is_ok(), was_intact);
        }
        IpView::V6(view) => {
            let mut edit = Ipv6Mut::parse(&mut copy).expect("a view was parsed");
            let is_alive = edit.decrement_hop_limit().is_ok();
            edit.set_traffic_class(TrafficClass(view.hop_limit()));
            edit.set_source(view.destination());
            edit.set_destination(Ipv6Addr::LOCALHOST);
            let (edited, _) = Ipv6View::parse(&copy).expect("lengths and version are the same");
            assert_eq!(edited.hop_limit(), view.hop_limit() - u8::from(is_alive));
            assert_eq!(edited.flow_label(), view.flow_label());
            assert_eq!(edited.source(), view.destination());
        }
    }
}

/// An error that may be sent about a packet is well-formed, goes to its source, and quotes it.
fn errors_about(packet: &[u8], view: &IpView<'_>) {
    let causes = [
        ErrorCause::HopLimitExceeded,
        ErrorCause::TooBig { mtu: u32::from(view.hop_limit()) * 256 },
        ErrorCause::HeaderField { pointer: u32::from(view.traffic_class().0) },
        ErrorCause::SourceRefused,
    ];
    for cause in causes {
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let Ok(reply) = ErrorReply::new(packet, mac, cause) else { continue };
        assert_eq!(reply.destination(), view.source());
        let (source, limit): (IpAddr, usize) = match view {
            IpView::V4(_) => (Ipv4Addr::new(192, 0, 2, 1).into(), IPV4_ERROR_BYTES_MAX),
            IpView::V6(_) => (Ipv6Addr::LOCALHOST.into(), IPV6_ERROR_BYTES_MAX),
        };
        let mut error = [0; IPV6_ERROR_BYTES_MAX];
        let length = reply.write(source, &mut error).expect("there is room for the longest");
        assert!(length == reply.packet_len() && length <= limit);
        check_error(&error[..length], packet, view);
    }
}

fn check_error(error: &[u8], about: &[u8], view: &IpView<'_>) {
    let (ip, message) = IpView::parse(error).expect("an error is IP");
    let (quote, body) = match &ip {
        IpView::V4(ip) => {
            ip.verify_checksum().expect("the IPv4 checksum is right");
            let (icmp, body) = IcmpView::parse(message).expect("an error is ICMP");
            icmp.verify_checksum(Sum::of(body)).expect("the ICMP checksum is right");
            (QuotedView::parse_icmp(&icmp, body), body)
        }
        IpView::V6(ip) => {
            let (icmp, body) = Icmpv6View::parse(message).expect("an error is ICMPv6");
            let length = u32::try_from(message.len()).expect("it is short");
            let pseudo_header = ip.pseudo_header(IpProtocol::ICMPV6, length);
            icmp.verify_checksum(pseudo_header, Sum::of(body)).expect("the checksum is right");
            (QuotedView::parse_icmpv6(&icmp, body), body)
        }
    };
    assert!(about.starts_with(body));
    if let Ok(quote) = quote {
        assert_eq!((quote.source(), quote.destination()), (view.source(), view.destination()));
    }
}
