//! The same questions as packets: each is the first packet of a connection, and goes from pod to
//! pod through the engines of all nodes that are on its way.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use control::{
    compile::replay::{ReplayPort, replay_objects, replay_ports},
    manifests::load_folder,
    names::{HOST_PORT, NodeName, UPLINK_PORT},
};
use control_api::engine::Object;
use etherparse::{IpNumber, PacketBuilder, SlicedPacket, TransportSlice};
use vrouter::{
    port::pcap::file::Captured,
    replay::{ReplayInput, ReplayOutput, replay},
};

/// The first packet of a connection.
#[derive(Clone, Debug)]
pub(crate) struct First {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// TCP, UDP, SCTP or ICMP.
    pub(crate) protocol: String,
    pub(crate) port: Option<u16>,
}

/// What became of a packet.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Fate {
    /// The port that it left through.
    pub(crate) delivered_to: Option<String>,
    /// Why it was dropped, and what else was said.
    pub(crate) dropped: Option<(&'static str, String)>,
}

/// A frame, and which packet it is.
type Numbered = (usize, Vec<u8>);

/// Packets are told apart by their source ports (or ICMP identifiers).
const FIRST_SOURCE_PORT: u16 = 30_000;

/// Bytes before the inner frame, by the outer family: Ethernet, IP, UDP, VXLAN.
const OUTER_BYTES: [usize; 2] = [14 + 20 + 8 + 8, 14 + 40 + 8 + 8];

/// A node whose engine is replayed.
struct Bench {
    objects: Vec<Object>,
    ports: Vec<ReplayPort>,
}

/// Sends packets through a cluster. What leaves one node for the fabric goes into the node that has
/// the destination.
pub(crate) fn send(manifests: &Path, packets: &[First]) -> Vec<Fate> {
    let (cluster, _) = load_folder(manifests);
    let bench = |name: &NodeName| Bench {
        objects: replay_objects(&cluster, name).unwrap(),
        ports: replay_ports(&cluster, name).unwrap(),
    };
    let benches: BTreeMap<_, _> =
        cluster.nodes.keys().map(|name| (name.clone(), bench(name))).collect();
    let owners = owners(&benches);
    let mut fates = vec![Fate::default(); packets.len()];

    let mut inputs: BTreeMap<&NodeName, BTreeMap<&str, Vec<Numbered>>> = BTreeMap::new();
    for (index, packet) in packets.iter().enumerate() {
        // Who is nobody's comes in as what the node's own stack forwards.
        let (node, port) = owners.get(&packet.from).copied().unwrap_or_else(|| {
            let (node, _) = owners[&packet.to];
            (node, port(&benches[node], HOST_PORT))
        });
        let frame = packet.frame(index, port);
        inputs.entry(node).or_default().entry(&port.port).or_default().push((index, frame));
    }
    let mut on_the_way: BTreeMap<&NodeName, Vec<Numbered>> = BTreeMap::new();
    for (node, inputs) in inputs {
        for (index, frame) in replay_node(&benches[node], &inputs, &mut fates) {
            let Some((node, _)) = owners.get(&packets[index].to) else { continue };
            on_the_way.entry(node).or_default().push((index, frame));
        }
    }
    for (node, frames) in on_the_way {
        let inputs = BTreeMap::from([(UPLINK_PORT, frames)]);
        let back = replay_node(&benches[node], &inputs, &mut fates);
        assert!(back.is_empty(), "nothing goes to and fro");
    }
    fates
}

/// By address: the node and the port that has it.
fn owners(benches: &BTreeMap<NodeName, Bench>) -> HashMap<IpAddr, (&NodeName, &ReplayPort)> {
    let ports = benches.iter().flat_map(|(node, bench)| {
        let ports = bench.ports.iter().filter(|port| port.port != UPLINK_PORT);
        ports.map(move |port| (node, port))
    });
    ports
        .flat_map(|(node, port)| port.addresses.iter().map(move |it| (*it, (node, port))))
        .collect()
}

fn port<'a>(bench: &'a Bench, name: &str) -> &'a ReplayPort {
    bench.ports.iter().find(|port| port.port == name).unwrap()
}

/// Replays frames by port; returns those that left for the fabric, and notes what became of the
/// others.
fn replay_node(
    bench: &Bench,
    inputs: &BTreeMap<&str, Vec<Numbered>>,
    fates: &mut [Fate],
) -> Vec<Numbered> {
    let capture = |(index, frame): &Numbered| Captured {
        timestamp: Duration::from_micros(1_000_000 + *index as u64),
        frame: frame.clone().into(),
    };
    let inputs_as_captured: Vec<_> = inputs
        .iter()
        .map(|(port, frames)| ReplayInput {
            port: (*port).to_owned(),
            frames: frames.iter().map(capture).collect(),
        })
        .collect();
    let output = replay(bench.objects.clone(), &inputs_as_captured).unwrap();
    let ReplayOutput { sent, drops, .. } = output;
    for drop in drops {
        let (index, _) = inputs[&*drop.port][drop.index];
        fates[index].dropped = Some((drop.reason.label(), drop.detail));
    }
    let mut for_the_fabric = Vec::new();
    for (port, frames) in sent {
        for Captured { frame, .. } in frames {
            if port == UPLINK_PORT {
                let outer = OUTER_BYTES[usize::from(frame[12..14] == [0x86, 0xdd])];
                let index = index_of(&frame[outer..]);
                for_the_fabric.extend(index.map(|index| (index, frame.into())));
            } else if let Some(index) = index_of(&frame) {
                fates[index].delivered_to = Some(port.clone());
            }
        }
    }
    for_the_fabric
}

/// Which packet a frame is; `None` for what the engine says itself, such as that there is no route.
fn index_of(frame: &[u8]) -> Option<usize> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let number = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.source_port(),
        Some(TransportSlice::Udp(udp)) => udp.source_port(),
        Some(TransportSlice::Icmpv4(icmp)) => identifier(icmp.slice())?,
        Some(TransportSlice::Icmpv6(icmp)) => identifier(icmp.slice())?,
        Some(TransportSlice::Igmp(_)) => panic!("nobody sent this"),
        None => {
            let payload = packet.net.as_ref().unwrap().ip_payload_ref().unwrap().payload;
            u16::from_be_bytes([payload[0], payload[1]])
        }
    };
    Some(usize::from(number - FIRST_SOURCE_PORT))
}

/// Of an echo request: the same place in both families.
fn identifier(message: &[u8]) -> Option<u16> {
    let is_request = [8, 128].contains(&message[0]);
    is_request.then(|| u16::from_be_bytes([message[4], message[5]]))
}

impl Fate {
    /// Who denies it: `egress`, `ingress`, or `-` for nobody. What goes to nobody may be dropped
    /// for another reason.
    pub(crate) fn denier(&self) -> &'static str {
        match &self.dropped {
            Some(("policy_egress_denied", _)) => "egress",
            Some(("policy_ingress_denied", _)) => "ingress",
            _ => "-",
        }
    }
}

impl First {
    fn frame(&self, index: usize, port: &ReplayPort) -> Vec<u8> {
        let number = FIRST_SOURCE_PORT + u16::try_from(index).unwrap();
        let macs = [port.mac, port.gateway_mac.unwrap()].map(|mac| octets(&mac.to_string()));
        let link = PacketBuilder::ethernet2(macs[0], macs[1]);
        let network = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
            _ => panic!("one family a packet"),
        };
        let mut frame = Vec::new();
        let to = self.port.unwrap_or_default();
        match (self.protocol.as_str(), self.from.is_ipv4()) {
            ("TCP", _) => network.tcp(number, to, 1, 1024).syn().write(&mut frame, b""),
            ("UDP", _) => network.udp(number, to).write(&mut frame, b"hello"),
            ("ICMP", true) => network.icmpv4_echo_request(number, 1).write(&mut frame, b"hello"),
            ("ICMP", false) => network.icmpv6_echo_request(number, 1).write(&mut frame, b"hello"),
            ("SCTP", _) => network.write(&mut frame, IpNumber::SCTP, &sctp_init(number, to)),
            (other, _) => panic!("{other}"),
        }
        .unwrap();
        frame
    }
}

/// An INIT in a packet (RFC 9260 sections 3.1 and 3.3.2), with its checksum.
fn sctp_init(from: u16, to: u16) -> Vec<u8> {
    let chunk = [
        &[1, 0, 0, 20][..],
        &0x1234_5678_u32.to_be_bytes(),
        &65_536_u32.to_be_bytes(),
        &[0, 1, 0, 1],
        &1_u32.to_be_bytes(),
    ]
    .concat();
    let mut packet = [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 8], &chunk].concat();
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}

/// The checksum of RFC 9260 appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 }
        })
    })
}

fn octets(mac: &str) -> [u8; 6] {
    let mut octets = [0; 6];
    for (octet, digits) in octets.iter_mut().zip(mac.split(':')) {
        *octet = u8::from_str_radix(digits, 16).unwrap();
    }
    octets
}

#[test]
fn the_checksum_of_sctp_is_crc32c() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}
