//! Software GRO: TCP segments in a row become one packet, for a port that takes it unsegmented.
//!
//! Only within a burst, so that no packet waits for another. Frames are chained, not copied. What
//! is merged is what segmentation would have made of one packet: the headers of its parts differ
//! only in what [`crate::segment`] makes differ, so that cutting it again gives them back. PSH or
//! FIN end a packet. The rules are those of the kernel's GRO (`tcp_gro_receive`), and stricter:
//! segments with CWR, or that routers may fragment, are left alone.
//!
//! The far side will not look at the checksum of a merged packet, so each part's is verified.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use arrayvec::ArrayVec;
use encap::{
    checksum::Sum,
    ip::IpProtocol,
    plain::{PlainIpv4, PlainIpv6},
    tcp::{TcpFlags, TcpView},
};

use crate::{
    burst::Burst,
    memory::Region,
    packet::{Checksum, Gso, Offload, Offloads, Packet},
    parse::IP_OFFSET,
    stats::WorkerStats,
    transport::Transport,
};

/// Flows whose packets are put together at a time: as many as a bucket of the kernel's GRO holds.
/// An older one gives way to a ninth.
const FLOWS_MAX: usize = 8;
/// The longest IP packet: what IPv4's length says, and IPv6's within 40 bytes.
const IP_BYTES_MAX: usize = u16::MAX as usize;
/// Where the protocol lies in a frame of plain IPv4, and of IPv6.
const PROTOCOL_V4: usize = 23;
const PROTOCOL_V6: usize = 20;
/// Flags that a segment may have beside ACK, if it is the last.
const END_FLAGS: TcpFlags = TcpFlags::PSH.union(TcpFlags::FIN);

/// Merges what can be merged of `burst` for a port that takes `offloads`. Packets of one flow keep
/// their order.
#[inline(never)]
pub(crate) fn merge(burst: &mut Burst, offloads: Offloads, region: &Region, stats: &WorkerStats) {
    let mut merger = Merger {
        burst,
        offloads,
        region,
        stats,
        runs: ArrayVec::new(),
        oldest: 0,
        kept_packets: 0,
    };
    for at in 0..merger.burst.len() {
        merger.look_at(at);
    }
    merger.end();
}

struct Merger<'a> {
    burst: &'a mut Burst,
    offloads: Offloads,
    region: &'a Region,
    stats: &'a WorkerStats,
    runs: ArrayVec<Run, FLOWS_MAX>,
    /// Which run gives way to the next: the oldest, unless one that ended left its place to it.
    oldest: usize,
    /// Packets at the front of the burst that stay.
    kept_packets: usize,
}

/// A packet that others may be appended to.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Where it stands in the burst.
    place: usize,
    head: Piece,
    next_sequence: u32,
    packets: u16,
    /// By how much the IPv4 identification rises with each packet: known from the second on.
    identification_step: Option<u16>,
    /// PSH and FIN of the last one.
    end_flags: TcpFlags,
}

/// What counts of a plain TCP segment.
#[derive(Clone, Copy, Debug)]
struct Piece {
    is_ipv4: bool,
    /// Where the TCP header starts, in bytes from the Ethernet header on.
    start: usize,
    /// Ethernet, IP and TCP headers, in bytes.
    header_bytes: usize,
    payload_bytes: usize,
    ports: u32,
    sequence: u32,
    flags: TcpFlags,
    /// It has payload, and is a packet as it was on a wire.
    is_simple: bool,
}

impl Merger<'_> {
    fn look_at(&mut self, at: usize) {
        let Some(packet) = self.burst.get(at) else { return };
        let frame = packet.data(self.region);
        if is_other(frame) {
            self.keep(at);
            return;
        }
        let Some(piece) = Piece::read(packet, frame) else {
            // It may be of any flow, and none of its packets may overtake it.
            self.end_runs();
            self.keep(at);
            return;
        };
        if let Some(found) = self.runs.iter().position(|run| self.is_of_run(run, &piece, frame)) {
            if self.try_append(found, at, &piece) {
                return;
            }
            self.end_run(found);
        }
        let place = self.keep(at);
        if piece.may_lead(self.offloads) {
            self.begin_run(Run::new(place, piece));
        }
    }

    /// Another flow's run; if there are enough, in place of an older one.
    fn begin_run(&mut self, run: Run) {
        if let Err(full) = self.runs.try_push(run) {
            let oldest = self.oldest % FLOWS_MAX;
            self.oldest = oldest.wrapping_add(1);
            if let Some(place) = self.runs.get_mut(oldest) {
                seal(place, self.burst, self.region);
                *place = full.element();
            }
        }
    }

    /// Moves a packet behind those that stay; returns its place there.
    fn keep(&mut self, at: usize) -> usize {
        let place = self.kept_packets;
        if place != at {
            self.burst.swap(place, at);
        }
        self.kept_packets = place.saturating_add(1);
        place
    }

    /// Whether a segment is of the flow whose packet a run is.
    fn is_of_run(&self, run: &Run, piece: &Piece, frame: &[u8]) -> bool {
        if run.head.ports != piece.ports || run.head.is_ipv4 != piece.is_ipv4 {
            return false;
        }
        let addresses = piece.addresses();
        let head = self.burst.get(run.place).map(|packet| packet.data(self.region));
        head.is_some_and(|head| head.get(addresses.clone()) == frame.get(addresses))
    }

    /// Appends the packet at `at` to a run of its flow, if it is what follows there.
    fn try_append(&mut self, found: usize, at: usize, piece: &Piece) -> bool {
        let Some(run) = self.runs.get_mut(found) else { return false };
        let Some((front, rest)) = self.burst.split_at_mut_checked(at) else { return false };
        let (Some(head), Some(packet)) = (front.get_mut(run.place), rest.first_mut()) else {
            return false;
        };
        let step = run.step_to(piece, head.data(self.region), packet.data(self.region));
        let Some(step) = step else { return false };
        let is_sound = |packet: &Packet, piece: &Piece| piece.is_sound(packet, self.region);
        // That of the run is known from the second packet on.
        if (run.packets == 1 && !is_sound(head, &run.head)) || !is_sound(packet, piece) {
            return false;
        }
        let packet = packet.take();
        self.stats.merged(packet.ingress, 1);
        join(head, packet, piece.header_bytes, self.region);
        run.identification_step = Some(step);
        run.packets = run.packets.saturating_add(1);
        run.next_sequence = piece.end();
        run.end_flags = TcpFlags(piece.flags.0 & END_FLAGS.0);
        if run.end_flags != TcpFlags::default() || piece.payload_bytes < run.head.payload_bytes {
            self.end_run(found);
        }
        true
    }

    fn end_run(&mut self, found: usize) {
        if let Some(run) = self.runs.swap_pop(found) {
            seal(&run, self.burst, self.region);
        }
    }

    fn end_runs(&mut self) {
        for run in self.runs.drain(..) {
            seal(&run, self.burst, self.region);
        }
    }

    fn end(mut self) {
        self.end_runs();
        // What is left behind are places whose packets were taken.
        self.burst.truncate(self.kept_packets);
    }
}

impl Run {
    fn new(place: usize, head: Piece) -> Self {
        Self {
            place,
            head,
            next_sequence: head.end(),
            packets: 1,
            identification_step: None,
            end_flags: TcpFlags::default(),
        }
    }

    /// By how much the identification rises, if `piece` is what follows; its addresses and ports
    /// are known to be the flow's.
    fn step_to(&self, piece: &Piece, head: &[u8], frame: &[u8]) -> Option<u16> {
        let Self { head: first, next_sequence, .. } = self;
        let follows = piece.is_simple
            && piece.sequence == *next_sequence
            && piece.payload_bytes <= first.payload_bytes
            && piece.header_bytes == first.header_bytes
            && piece.flags.0 & !END_FLAGS.0 == first.flags.0;
        let packets = usize::from(self.packets);
        let payload_bytes = packets.saturating_mul(first.payload_bytes);
        let ip_bytes = first.header_bytes.saturating_add(payload_bytes).saturating_sub(IP_OFFSET);
        if !follows || ip_bytes.saturating_add(piece.payload_bytes) > IP_BYTES_MAX {
            return None;
        }
        let (head_start, head_tcp) =
            head.get(..first.header_bytes)?.split_at_checked(first.start)?;
        let (start, tcp) = frame.get(..first.header_bytes)?.split_at_checked(first.start)?;
        let is_like_head = are_equal(head_tcp, tcp, &TCP_LIKE)
            && head_tcp.get(TcpView::LEN_MIN..) == tcp.get(TcpView::LEN_MIN..);
        if !is_like_head {
            return None;
        }
        if !first.is_ipv4 {
            return are_equal(head_start, start, &IPV6_LIKE).then_some(0);
        }
        if !are_equal(head_start, start, &IPV4_LIKE) {
            return None;
        }
        // Each one's own, or none that counts (RFC 6864 section 4.1).
        let risen = identification(start)?.wrapping_sub(identification(head_start)?);
        let step = match self.identification_step {
            Some(step) => step,
            None => risen,
        };
        (step <= 1 && risen == step.wrapping_mul(self.packets)).then_some(step)
    }
}

/// Bytes that are the same in all segments of a packet: from and to, in the frame or TCP header.
/// Link header, version, traffic class, flags (at which the one is looked that forbids fragments),
/// TTL, protocol.
const IPV4_LIKE: [(usize, usize); 3] = [(0, 16), (20, 24), (26, 34)];
/// Link header, version, traffic class, flow label, next header, hop limit, addresses.
const IPV6_LIKE: [(usize, usize); 2] = [(0, 18), (20, 54)];
/// Ports, acknowledgement and data offset, window, urgent pointer. Flags are looked at apart.
const TCP_LIKE: [(usize, usize); 4] = [(0, 4), (8, 13), (14, 16), (18, 20)];

fn are_equal(a: &[u8], b: &[u8], ranges: &[(usize, usize)]) -> bool {
    ranges.iter().all(|&(from, to)| match (a.get(from..to), b.get(from..to)) {
        (Some(a), Some(b)) => a == b,
        _ => false,
    })
}

fn identification(frame: &[u8]) -> Option<u16> {
    frame.get(18..)?.first_chunk().copied().map(u16::from_be_bytes)
}

impl Piece {
    fn read(packet: &Packet, frame: &[u8]) -> Option<Self> {
        let bytes = packet.total_bytes() as usize;
        let (is_ipv4, start, ip_bytes, is_whole_only);
        if let Some(ip) = PlainIpv4::read(frame, bytes) {
            (is_ipv4, start) = (true, PlainIpv4::TRANSPORT_OFFSET);
            (ip_bytes, is_whole_only) = (usize::from(ip.total_length()), ip.is_dont_fragment());
        } else {
            let ip = PlainIpv6::read(frame, bytes)?;
            (is_ipv4, start) = (false, PlainIpv6::TRANSPORT_OFFSET);
            (ip_bytes, is_whole_only) = (ip.packet_length() as usize, true);
        }
        let (tcp, _) = TcpView::parse(frame.get(start..)?).ok()?;
        let header_bytes = start.saturating_add(tcp.header_len());
        let payload_bytes = IP_OFFSET.saturating_add(ip_bytes).checked_sub(header_bytes)?;
        let is_simple = is_whole_only
            && packet.offload.gso.is_none()
            && usize::from(packet.linear_bytes()) > header_bytes
            // No padding is behind it.
            && bytes == header_bytes.saturating_add(payload_bytes);
        Some(Self {
            is_ipv4,
            start,
            header_bytes,
            payload_bytes,
            ports: (u32::from(tcp.source_port()) << 16) | u32::from(tcp.destination_port()),
            sequence: tcp.sequence(),
            flags: tcp.flags(),
            is_simple,
        })
    }

    /// Whether others can be appended to it.
    fn may_lead(&self, offloads: Offloads) -> bool {
        let is_taken = if self.is_ipv4 { offloads.tcp_v4 } else { offloads.tcp_v6 };
        is_taken && self.is_simple && self.flags == TcpFlags::ACK
    }

    /// The sequence number after it.
    fn end(&self) -> u32 {
        self.sequence.wrapping_add(u32::try_from(self.payload_bytes).unwrap_or(0))
    }

    fn addresses(&self) -> std::ops::Range<usize> {
        let from = if self.is_ipv4 { PlainIpv4::ADDRESSES } else { PlainIpv6::ADDRESSES };
        from..self.start
    }

    /// Whether the checksum is right, or was left to the device by a local socket.
    fn is_sound(&self, packet: &Packet, region: &Region) -> bool {
        let frame = packet.data(region);
        let transport = Transport {
            protocol: IpProtocol::TCP,
            is_ipv4: self.is_ipv4,
            start: self.start,
            bytes: self.header_bytes.saturating_add(self.payload_bytes).saturating_sub(self.start),
            addresses: Sum::of(frame.get(self.addresses()).unwrap_or(&[])),
        };
        match packet.offload.checksum {
            Checksum::Partial => true,
            Checksum::Unknown if transport.is_unfinished(frame) => true,
            Checksum::Complete | Checksum::Unknown => transport.is_intact(packet, region),
        }
    }
}

/// Whether it is known at a glance that the frame is no TCP segment.
fn is_other(frame: &[u8]) -> bool {
    let tcp = IpProtocol::TCP.0;
    match frame.get(12..=PROTOCOL_V4) {
        Some([0x08, 0x00, 0x45, _, _, _, _, _, _, _, _, protocol]) => *protocol != tcp,
        Some([0x86, 0xdd, ..]) => frame.get(PROTOCOL_V6).is_some_and(|protocol| {
            *protocol != tcp && !encap::ipv6::is_extension(IpProtocol(*protocol))
        }),
        Some([0x08, 0x00, ..]) => false,
        _ => true,
    }
}

/// Appends the payload of a packet, which begins in its first segment.
fn join(head: &mut Packet, mut packet: Packet, header_bytes: usize, region: &Region) {
    // It was seen to be longer than that.
    let _ = packet.pull(u16::try_from(header_bytes).unwrap_or(0));
    let (first, mut rest) = packet.into_segments();
    head.append(region, first);
    while let Some(segment) = rest.pop(region) {
        head.append(region, segment);
    }
}

/// Makes the headers of a run's packet those of the whole.
fn seal(run: &Run, burst: &mut Burst, region: &Region) {
    if run.packets < 2 {
        return;
    }
    let Some(packet) = burst.get_mut(run.place) else { return };
    let segment_bytes = u16::try_from(run.head.payload_bytes).unwrap_or(u16::MAX);
    let gso =
        if run.head.is_ipv4 { Gso::TcpV4 { segment_bytes } } else { Gso::TcpV6 { segment_bytes } };
    packet.offload = Offload { checksum: Checksum::Partial, gso: Some(gso) };
    let ip_bytes = (packet.total_bytes() as usize).saturating_sub(IP_OFFSET);
    let frame = packet.data_mut(region);
    if let Some(flags) = frame.get_mut(run.head.start.saturating_add(13)) {
        *flags |= run.end_flags.0;
    }
    let ip = frame.get_mut(IP_OFFSET..run.head.start).unwrap_or(&mut []);
    if run.head.is_ipv4 {
        put(ip, 2, ip_bytes);
        put(ip, 10, 0);
        put(ip, 10, usize::from(Sum::of(ip).checksum()));
    } else {
        put(ip, 4, ip_bytes.saturating_sub(encap::ipv6::Ipv6View::LEN));
    }
}

fn put(bytes: &mut [u8], at: usize, value: usize) {
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes();
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests;
