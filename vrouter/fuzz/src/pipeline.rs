//! Frames through the whole pipeline, and changes of the configuration between them.
//!
//! The input is frames and the ports that they come in on, one behind the other, with a header of
//! three bytes each:
//!
//! ```text
//! flags   bits 0–1  port              4  mend checksums
//!         2         worker            5  mend MAC addresses
//!         3         one burst with    6–7  time that passes
//!                   the frame before       before the burst
//! length  16 bits; from 0xfff0 on: a change of the configuration, and no frame
//! ```
//!
//! Node `a` of the tests forwards them. Nothing panics; the packet balance holds after each burst;
//! no packet memory is lost; and what leaves towards the other node from a pod has that pod's own
//! source address.

use std::net::IpAddr;

use control_api::engine as api;
use encap::{
    MacAddress,
    checksum::Sum,
    ethernet::EthernetView,
    ip::{IpProtocol, IpView},
    ipv4::Ipv4View,
    vxlan::{DecapSettings, Outer},
};
use vrouter::burst::BURST_PACKETS_MAX;

use crate::{
    bench::{Bench, Outcome},
    rig::{Node, objects, objects_over, route},
};

/// Frames looked at of one input.
const FRAMES_MAX: usize = 256;

/// Connections of each family: so few that inputs can fill the table.
const CONNECTIONS_MAX: u32 = 16;

const PORTS: [&str; 4] = ["default/pod10", "default/pod11", "host", "uplink"];

/// Flags of a frame.
const SECOND_WORKER: u8 = 1 << 2;
const SAME_BURST: u8 = 1 << 3;
const MEND_CHECKSUMS: u8 = 1 << 4;
const MEND_MACS: u8 = 1 << 5;

/// Lengths from here on are changes of the configuration.
const CHANGES: u16 = 0xfff0;

/// Time that passes before a frame, in nanoseconds, by its flags.
const PAUSES: [u64; 4] = [0, 10_000_000, 1_000_000_000, 60_000_000_000];

/// The longest frame that the uplink sends: its MTU, and Ethernet.
const UPLINK_FRAME_BYTES_MAX: usize = 1500 + EthernetView::LEN;

pub(crate) fn run(mut data: &[u8]) {
    let mut bench = Bench::with(objects(Node::A), CONNECTIONS_MAX);
    let frames_free = bench.frames_free();
    let mut burst: (u8, Vec<Vec<u8>>) = (0, Vec::new());
    for _ in 0..FRAMES_MAX {
        let Some(([flags, high, low], rest)) = data.split_first_chunk() else { break };
        let length = u16::from_be_bytes([*high, *low]);
        if length >= CHANGES {
            send(&mut bench, &mut burst);
            change(&mut bench, length - CHANGES);
            data = rest;
            continue;
        }
        let (frame, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        // A burst has one port and one worker.
        let is_same = flags & SAME_BURST != 0 && flags % 8 == burst.0 % 8;
        if !is_same || burst.1.len() == BURST_PACKETS_MAX {
            send(&mut bench, &mut burst);
            bench.now.nanoseconds += PAUSES[usize::from(flags >> 6)];
        }
        burst.0 = *flags;
        burst.1.push(mended(frame, *flags));
    }
    send(&mut bench, &mut burst);
    assert_eq!(bench.frames_free(), frames_free, "packet memory was lost");
}

fn send(bench: &mut Bench, burst: &mut (u8, Vec<Vec<u8>>)) {
    let (flags, frames) = burst;
    if !frames.is_empty() {
        let port = PORTS[usize::from(*flags & 3)];
        let worker = usize::from(*flags & SECOND_WORKER != 0);
        // The bench checks the packet balance.
        let outcome = bench.send_burst(worker, port, frames);
        check(port, &outcome);
    }
    frames.clear();
}

fn check(ingress: &str, outcome: &Outcome) {
    let own = match ingress {
        "default/pod10" => 10,
        "default/pod11" => 11,
        _ => return,
    };
    for (port, frame) in &outcome.sent {
        if port != "uplink" {
            continue;
        }
        assert!(frame.len() <= UPLINK_FRAME_BYTES_MAX, "{} bytes on the uplink", frame.len());
        let inner = inner_source(&frame[EthernetView::LEN..]);
        let own = [IpAddr::from(Node::A.pod(own)), Node::A.pod6(own).into()];
        assert!(own.contains(&inner), "{ingress} sent from {inner}");
    }
}

/// The source address inside a tunnel's packet.
fn inner_source(packet: &[u8]) -> IpAddr {
    let outer = Outer::parse(packet, packet.len()).expect("pods' packets leave in the tunnel");
    let decap = outer.decap(DecapSettings::default(), |_| unreachable!("it is in one piece"));
    let inner = &packet[decap.expect("the peer accepts it").inner_offset()..];
    let (ip, _) = IpView::parse(&inner[EthernetView::LEN..]).expect("only IP is forwarded");
    ip.source()
}

fn change(bench: &mut Bench, what: u16) {
    match what & 7 {
        0 => bench.apply(objects(Node::A), vec![]),
        1 => {
            bench.apply(objects_over(Node::A, true), vec![]);
            bench.resolve(Node::B.mac());
        }
        2 => bench.resolve(MacAddress::new([2, 0, 0, 0, 0, 9])),
        // Node b's pods behind the host, which is not where their flows went.
        3 => {
            let host = api::next_hop::Via::Port("host".into());
            bench.apply(vec![route(Node::B.pod(0), 24, host)], vec![]);
        }
        4 => {
            let discard = api::next_hop::Discard::Unreachable.into();
            let via = api::next_hop::Via::Discard(discard);
            bench.apply(vec![route(Node::B.pod(10), 32, via)], vec![]);
        }
        // The second worker keeps the older snapshot for a while.
        5 => {
            bench.apply_unpublished(objects(Node::A), vec![]);
            bench.publish_to(&[0]);
        }
        _ => bench.publish(),
    }
}

/// The frame with what its flags ask for put right, so that mutations get past the checks.
fn mended(frame: &[u8], flags: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if flags & MEND_MACS != 0
        && let Some(macs) = frame.first_chunk_mut::<12>()
    {
        let (to, from) = match PORTS[usize::from(flags & 3)] {
            "default/pod10" => (Node::A.gateway_mac(), Node::A.pod_mac(10)),
            "default/pod11" => (Node::A.gateway_mac(), Node::A.pod_mac(11)),
            "host" => (Node::A.gateway_mac(), Node::A.mac()),
            _ => (Node::A.mac(), Node::B.mac()),
        };
        macs[..6].copy_from_slice(&to.octets());
        macs[6..].copy_from_slice(&from.octets());
    }
    if flags & MEND_CHECKSUMS != 0
        && let Some(packet) = frame.get_mut(EthernetView::LEN..)
    {
        mend_ip(packet, 1);
    }
    frame
}

/// Mends the checksums of a packet, and before those the ones of packets in up to `depth` tunnels.
fn mend_ip(packet: &mut [u8], depth: u8) {
    let Some((at, end, protocol, pseudo_header)) = transport(packet) else { return };
    if let Some(header) = packet.get_mut(..at)
        && header[0] >> 4 == 4
    {
        header[10..12].fill(0);
        let checksum = Sum::of(header).checksum();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    let Some(segment) = packet.get_mut(at..end) else { return };
    // UDP and VXLAN headers, then an inner Ethernet header.
    if protocol == IpProtocol::UDP
        && depth > 0
        && let Some(inner) = segment.get_mut(8 + 8 + EthernetView::LEN..)
    {
        mend_ip(inner, depth - 1);
    }
    let (place, pseudo_header) = match protocol {
        IpProtocol::TCP => (16, pseudo_header),
        IpProtocol::UDP => (6, pseudo_header),
        IpProtocol::ICMP => (2, Sum::ZERO),
        IpProtocol::ICMPV6 => (2, pseudo_header),
        _ => return,
    };
    let Some(field) = segment.get_mut(place..place + 2) else { return };
    field.fill(0);
    let checksum = pseudo_header.add(Sum::of(segment)).udp_checksum();
    segment[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Where the transport header starts and ends, what it is, and the sum of its pseudo header.
fn transport(packet: &[u8]) -> Option<(usize, usize, IpProtocol, Sum)> {
    let (ip, payload) = IpView::parse(packet).ok()?;
    let upper = ip.upper_layer(payload).ok()?;
    if upper.fragment.is_some() {
        return None;
    }
    let length = u16::try_from(upper.bytes.len()).ok()?;
    let (headers, sum) = match ip {
        IpView::V4(ip) => (ip.header_len(), ip.pseudo_header()),
        IpView::V6(ip) => (
            40 + payload.len() - upper.bytes.len(),
            ip.pseudo_header(upper.protocol, length.into()),
        ),
    };
    debug_assert!(headers >= Ipv4View::LEN_MIN);
    Some((headers, headers + upper.bytes.len(), upper.protocol, sum))
}
