//! `vrouter-perf flood`: first packets of ten times as many connections as the flow table holds,
//! while it holds established ones. What one costs, and what they cost the others.
#![expect(clippy::print_stdout, reason = "results go to the standard output")]

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use encap::MacAddress;
use etherparse::{PacketBuilder, SlicedPacket};
use perf::{
    bench_node::BenchNode,
    figures::{Figures, per},
    machine::{Machine, pin},
    traffic::{self, Way},
};
use serde::Serialize;
use vrouter::{burst::BURST_PACKETS_MAX, port::PortRef};

use crate::report;

/// How many times as many connections are opened as the table holds.
const FLOOD_TIMES: u32 = 10;
/// Bursts whose time is one figure: long enough for the clock, short enough that the median leaves
/// out what disturbed a few.
const BURSTS_PER_FIGURE: usize = 16;
/// Clients of the flood; each opens as many connections as it has ports.
const FIRST_FLOOD_PORT: u16 = 1024;
/// Servers' ports that are flooded in turn, so that there are enough tuples.
const FLOOD_PORTS: std::ops::Range<u16> = 1..1024;
/// Where the established connections go.
const SERVER_PORT: u16 = 2049;

/// Established connections at most: one for each of the client's ports.
const CLIENTS_MAX: u32 = 60_000;

#[derive(Args, Debug)]
pub(crate) struct FloodOptions {
    /// Connections that the flow table holds.
    #[arg(long, value_name = "N", default_value_t = 1 << 16,
          value_parser = clap::value_parser!(u32).range(1024..=1 << 20))]
    pub(crate) connections: u32,
    /// Pins the measuring thread to this CPU.
    #[arg(long, value_name = "CPU")]
    pub(crate) cpu: Option<usize>,
    /// Writes the results to a file, too; `-` is the standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What a flood did to a table.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    connections: u32,
    established: u32,
    /// First packets of the flood.
    packets: u32,
    /// Of the worker's pipeline, for one of them.
    ns_per_packet: Figures,
    /// Established connections that were not known any more at their next packet.
    established_lost: u64,
    evicted_half_open: u64,
    evicted_established: u64,
    /// Packets of the flood that found no room.
    refused: u64,
}

pub(crate) fn run(options: &FloodOptions) -> anyhow::Result<()> {
    report::check_json(options.json.as_deref()).context("cannot write the results")?;
    let machine = Machine::now();
    if let Some(cpu) = options.cpu {
        pin(cpu)?;
    }
    let connections = options.connections;
    let most = connections.min(CLIENTS_MAX);
    let rows = [
        measure("half-established", connections, (connections / 2).min(most))?,
        measure("all-established", most, most)?,
    ];
    let json = options.json.as_deref();
    if report::write_rows(&machine, &rows, json).context("cannot write the results")? {
        report::describe(&machine);
        show(&rows);
    }
    Ok(())
}

fn show(rows: &[Row]) {
    println!(
        "{:<18} {:>11} {:>11} {:>9} {:>10} {:>17} {:>5} {:>9} {:>9} {:>9}",
        "CASE",
        "CONNECTIONS",
        "ESTABLISHED",
        "PACKETS",
        "NS/PACKET",
        "[MIN-MAX]",
        "LOST",
        "HALF-OPEN",
        "EVICTED",
        "REFUSED"
    );
    for row in rows {
        let figures = row.ns_per_packet;
        println!(
            "{:<18} {:>11} {:>11} {:>9} {:>10.0} {:>17} {:>5} {:>9} {:>9} {:>9}",
            row.case,
            row.connections,
            row.established,
            row.packets,
            figures.median,
            format!("[{:.0}-{:.0}]", figures.min, figures.max),
            row.established_lost,
            row.evicted_half_open,
            row.evicted_established,
            row.refused,
        );
    }
    println!(
        "\nLOST: established connections that the flood cost. HALF-OPEN and EVICTED: connections \
         without an answer, and established ones, that gave way. REFUSED: packets without room."
    );
}

/// Establishes connections, floods, and looks what is left of them.
fn measure(case: &'static str, connections: u32, established: u32) -> anyhow::Result<Row> {
    let mut node = BenchNode::new(connections)?;
    let hosts = Hosts::of(&node)?;
    for client in (0..established).map(client_port) {
        for segment in Segment::HANDSHAKE {
            hosts.send(&mut node, &[hosts.frame(segment, client, SERVER_PORT)])?;
        }
    }
    let before = node.flow_counters();
    let packets = FLOOD_TIMES * connections;
    let figures = flood(&mut node, &hosts, packets);
    let after = node.flow_counters();
    for client in (0..established).map(client_port) {
        hosts.send(&mut node, &[hosts.frame(Segment::DATA, client, SERVER_PORT)])?;
    }
    Ok(Row {
        case,
        connections,
        established,
        packets,
        ns_per_packet: figures.context("no packet was measured")?,
        established_lost: node.flow_counters().misses - after.misses,
        evicted_half_open: after.evicted_half_open - before.evicted_half_open,
        evicted_established: after.evicted_oldest - before.evicted_oldest,
        refused: after.full - before.full,
    })
}

fn client_port(client: u32) -> u16 {
    u16::try_from(client).unwrap_or(u16::MAX).saturating_add(FIRST_FLOOD_PORT)
}

/// Sends the flood; how long a packet took.
fn flood(node: &mut BenchNode, hosts: &Hosts, packets: u32) -> Option<Figures> {
    let mut tuples = FLOOD_PORTS
        .flat_map(|server| (FIRST_FLOOD_PORT..u16::MAX).map(move |client| (client, server)));
    let mut figures = Vec::new();
    let (mut took, mut bursts) = (Duration::ZERO, 0);
    let burst_count = packets as usize / BURST_PACKETS_MAX;
    for _ in 0..burst_count {
        let frames: Vec<_> = tuples
            .by_ref()
            .take(BURST_PACKETS_MAX)
            .map(|(client, server)| hosts.frame(Segment::SYN, client, server))
            .collect();
        took += node.process(hosts.client, &frames).0;
        bursts += 1;
        if bursts == BURSTS_PER_FIGURE {
            let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            figures.push(per(nanoseconds, (bursts * BURST_PACKETS_MAX) as u64));
            (took, bursts) = (Duration::ZERO, 0);
        }
    }
    Figures::of(&figures)
}

/// A segment of a connection's beginning.
#[derive(Clone, Copy)]
struct Segment {
    is_reply: bool,
    sequence: u32,
    acknowledgement: Option<u32>,
    is_syn: bool,
    payload_bytes: usize,
}

impl Segment {
    const SYN: Self = Self {
        is_reply: false,
        sequence: 100,
        acknowledgement: None,
        is_syn: true,
        payload_bytes: 0,
    };
    const HANDSHAKE: [Self; 3] = [
        Self::SYN,
        Self { is_reply: true, sequence: 900, acknowledgement: Some(101), ..Self::SYN },
        Self { sequence: 101, acknowledgement: Some(901), is_syn: false, ..Self::SYN },
    ];
    const DATA: Self = Self {
        sequence: 101,
        acknowledgement: Some(901),
        is_syn: false,
        payload_bytes: 10,
        ..Self::SYN
    };
}

/// Two pods of a node.
struct Hosts {
    client: PortRef,
    server: PortRef,
    addresses: [[u8; 4]; 2],
    gateway: MacAddress,
}

impl Hosts {
    /// The first two pods of the node.
    fn of(node: &BenchNode) -> anyhow::Result<Self> {
        let frame = traffic::frame(Way::PodToPod, 0, 0, 64);
        let packet = SlicedPacket::from_ethernet(&frame)?;
        let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else {
            anyhow::bail!("the workload's packets are no IPv4");
        };
        let gateway = frame.first_chunk().copied().context("the workload's frames are empty")?;
        Ok(Self {
            client: node.port(&traffic::pod_name(0)),
            server: node.port(&traffic::pod_name(1)),
            addresses: [ip.header().source(), ip.header().destination()],
            gateway: MacAddress::new(gateway),
        })
    }

    fn frame(&self, segment: Segment, client: u16, server: u16) -> Vec<u8> {
        let [near, far] = self.addresses;
        let (from, to, ports) = if segment.is_reply {
            (far, near, (server, client))
        } else {
            (near, far, (client, server))
        };
        let mac = MacAddress::from_ip(from.into());
        let mut tcp = PacketBuilder::ethernet2(mac.octets(), self.gateway.octets())
            .ipv4(from, to, 64)
            .tcp(ports.0, ports.1, segment.sequence, u16::MAX);
        if segment.is_syn {
            tcp = tcp.syn();
        }
        if let Some(acknowledgement) = segment.acknowledgement {
            tcp = tcp.ack(acknowledgement);
        }
        let mut frame = Vec::new();
        let payload = [0; 64];
        // A vector takes everything.
        let _ = tcp.write(&mut frame, payload.get(..segment.payload_bytes).unwrap_or(&[]));
        frame
    }

    /// Sends a burst from whoever sends it.
    fn send(&self, node: &mut BenchNode, frames: &[Vec<u8>]) -> anyhow::Result<()> {
        let is_reply = frames.first().and_then(|frame| frame.get(26..30))
            == Some(self.addresses.last().map_or(&[][..], |address| &address[..]));
        let (_, sent) = node.process(if is_reply { self.server } else { self.client }, frames);
        ensure!(sent == frames.len(), "a packet of an established connection was dropped");
        Ok(())
    }
}
