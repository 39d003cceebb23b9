//! Sequences of TCP segments between two hosts: scripted ones, and random ones around the edges of
//! what the hosts would send.

use std::net::IpAddr;

use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};

use crate::rig::Node;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;

/// The port that the server listens on.
pub(crate) const SERVER_PORT: u16 = 80;

/// One segment, with all of it that connection tracking looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Segment {
    /// Whether the server sends it.
    pub(crate) is_reply: bool,
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
    pub(crate) payload_bytes: u16,
    /// The window scale option.
    pub(crate) scale: Option<u8>,
}

impl Segment {
    pub(crate) fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// One past its last sequence number.
    pub(crate) fn end(&self) -> u32 {
        let numbered = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.sequence.wrapping_add(u32::from(self.payload_bytes)).wrapping_add(numbered)
    }

    /// The frame between pods 10 (the client) and 11 of node `a`.
    pub(crate) fn frame(&self, is_ipv4: bool, client_port: u16) -> Vec<u8> {
        let (from, to) = if self.is_reply { (11, 10) } else { (10, 11) };
        let ports =
            if self.is_reply { (SERVER_PORT, client_port) } else { (client_port, SERVER_PORT) };
        let mut tcp = TcpHeader::new(ports.0, ports.1, self.sequence, self.window);
        tcp.acknowledgment_number = self.acknowledgement;
        tcp.fin = self.has(FIN);
        tcp.syn = self.has(SYN);
        tcp.rst = self.has(RST);
        tcp.psh = self.has(PSH);
        tcp.ack = self.has(ACK);
        tcp.urg = self.has(URG);
        if let Some(scale) = self.scale {
            tcp.set_options(&[TcpOptionElement::WindowScale(scale)]).unwrap();
        }
        let macs = (Node::A.pod_mac(from), Node::A.gateway_mac());
        let ethernet = PacketBuilder::ethernet2(macs.0.octets(), macs.1.octets());
        let address = |host| -> IpAddr {
            if is_ipv4 { Node::A.pod(host).into() } else { Node::A.pod6(host).into() }
        };
        let ip = match (address(from), address(to)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
            _ => unreachable!("one family"),
        };
        let mut frame = Vec::new();
        ip.tcp_header(tcp).write(&mut frame, &vec![7; usize::from(self.payload_bytes)]).unwrap();
        frame
    }
}

/// As `>` for a capture: who, flags, sequence number relative to the sender's first, and so on.
pub(crate) fn describe(segment: &Segment) -> String {
    let mut flags = String::new();
    for (bit, name) in [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (URG, 'U'), (ACK, '.')] {
        if segment.has(bit) {
            flags.push(name);
        }
    }
    let Segment { sequence, acknowledgement, window, payload_bytes, .. } = segment;
    let who = if segment.is_reply { "server" } else { "client" };
    let scale = segment.scale.map(|scale| format!(" wscale {scale}")).unwrap_or_default();
    format!(
        "{who} [{flags}] seq {sequence} ack {acknowledgement} win {window} len {payload_bytes}{scale}"
    )
}

/// Numbers that look random and are the same in every run (`SplitMix64`).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `limit`.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit)).unwrap()
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(u32::try_from(of.len()).unwrap()) as usize]
    }

    pub(crate) fn one_in(&mut self, count: u32) -> bool {
        self.below(count) == 0
    }
}

/// What one host has sent, as it would go on.
#[derive(Clone, Copy, Debug)]
struct Host {
    /// The next sequence number to send.
    next: u32,
    /// What it has received of the other one.
    received: u32,
    window: u16,
    scale: Option<u8>,
}

/// Two hosts and what they have sent so far.
pub(crate) struct Conversation {
    hosts: [Host; 2],
    pub(crate) segments: Vec<Segment>,
}

impl Conversation {
    pub(crate) fn new(first: [u32; 2], scales: [Option<u8>; 2]) -> Self {
        let host =
            |at: usize| Host { next: first[at], received: 0, window: 512, scale: scales[at] };
        Self { hosts: [host(0), host(1)], segments: Vec::new() }
    }

    fn push(&mut self, segment: Segment) -> &mut Self {
        let own = usize::from(segment.is_reply);
        let ahead = segment.end().wrapping_sub(self.hosts[own].next);
        if ahead < 1 << 31 && !segment.has(RST) {
            self.hosts[own].next = segment.end();
        }
        self.segments.push(segment);
        self
    }

    /// What a host sends next: flags and payload, all else as it should be.
    pub(crate) fn send(&mut self, is_reply: bool, flags: u8, payload_bytes: u16) -> &mut Self {
        let segment = self.proper(is_reply, flags, payload_bytes);
        if segment.has(ACK) {
            self.hosts[usize::from(is_reply)].received = segment.acknowledgement;
        }
        self.push(segment)
    }

    /// The same, changed before it is sent; the hosts go on as if that had been meant.
    pub(crate) fn send_changed(
        &mut self,
        is_reply: bool,
        flags: u8,
        payload_bytes: u16,
        change: impl FnOnce(&mut Segment),
    ) -> &mut Self {
        let mut segment = self.proper(is_reply, flags, payload_bytes);
        change(&mut segment);
        self.push(segment)
    }

    fn proper(&self, is_reply: bool, flags: u8, payload_bytes: u16) -> Segment {
        let (own, other) = (usize::from(is_reply), usize::from(!is_reply));
        let host = self.hosts[own];
        Segment {
            is_reply,
            flags,
            sequence: host.next,
            acknowledgement: if flags & ACK == 0 { 0 } else { self.hosts[other].next },
            window: host.window,
            payload_bytes,
            scale: if flags & SYN == 0 { None } else { host.scale },
        }
    }

    pub(crate) fn handshake(&mut self) -> &mut Self {
        self.send(false, SYN, 0).send(true, SYN | ACK, 0).send(false, ACK, 0)
    }

    /// How far a host may send, as the other one told it.
    fn limit(&self, own: usize) -> u32 {
        let other = self.hosts[1 - own];
        let both_scale = self.hosts.iter().all(|host| host.scale.is_some());
        let scale = if both_scale { other.scale.unwrap_or(0) } else { 0 };
        other.received.wrapping_add(u32::from(other.window) << scale)
    }
}

/// A random sequence: a beginning, and then what hosts, routers and attackers send.
pub(crate) fn random(seed: u64) -> Vec<Segment> {
    let mut numbers = Numbers(seed);
    let mut first = || numbers.pick(&[1000, 900_000_000, u32::MAX - 2000, u32::MAX, 0]);
    let first = [first(), first()];
    let scale = numbers.pick(&[None, Some(0), Some(2), Some(7), Some(14)]);
    let scales = if numbers.one_in(4) { [scale, None] } else { [scale, scale] };
    let mut conversation = Conversation::new(first, scales);
    match numbers.below(10) {
        0 => {}
        1 => drop(conversation.send(false, SYN, 0)),
        2 => drop(conversation.send(false, SYN, 0).send(true, SYN | ACK, 0)),
        3 => drop(conversation.send(false, ACK, 100)),
        4 => drop(conversation.handshake().send(false, FIN | ACK, 0)),
        5 => drop(conversation.send(false, SYN, 0).send(true, SYN, 0)),
        _ => drop(conversation.handshake()),
    }
    let length = 3 + numbers.below(22);
    for _ in 0..length {
        step(&mut conversation, &mut numbers);
    }
    conversation.segments
}

fn step(conversation: &mut Conversation, numbers: &mut Numbers) {
    let is_reply = numbers.one_in(2);
    let own = usize::from(is_reply);
    let (limit, next) = (conversation.limit(own), conversation.hosts[own].next);
    let payload = numbers.pick(&[1, 10, 500, 1300]);
    let slip = numbers.pick(&[0, 1, 2, u32::MAX, u32::MAX - 1]);
    match numbers.below(24) {
        0..=5 => drop(conversation.send(is_reply, ACK | PSH, payload)),
        6..=8 => drop(conversation.send(is_reply, ACK, 0)),
        9 => drop(conversation.send_changed(is_reply, ACK, payload, |segment| {
            segment.sequence = next.wrapping_sub(u32::from(payload)); // again
        })),
        10 => drop(conversation.send_changed(is_reply, ACK, payload, |segment| {
            segment.sequence = next.wrapping_add(u32::from(payload)); // early
        })),
        11 => drop(conversation.send_changed(is_reply, ACK, payload & 1, |segment| {
            segment.sequence = next.wrapping_sub(1); // keep-alive
        })),
        12 => drop(conversation.send_changed(is_reply, ACK, payload, |segment| {
            // Around the window's right edge, and its left one.
            segment.sequence = limit.wrapping_sub(u32::from(payload)).wrapping_add(slip);
        })),
        13 => drop(conversation.send_changed(is_reply, ACK, 0, |segment| {
            let back = limit.wrapping_sub(segment.sequence);
            segment.sequence = next.wrapping_sub(back).wrapping_add(slip);
        })),
        14 => {
            let far = numbers.pick(&[1 << 20, 1 << 30, 1 << 31, 3 << 30, 100_000]);
            conversation.send_changed(is_reply, ACK, payload, |segment| {
                segment.sequence = segment.sequence.wrapping_add(far);
            });
            conversation.hosts[own].next = next;
        }
        15 => {
            let behind = numbers.pick(&[1, 100, 65_534, 65_535, 65_536, 66_000, 66_001, 1 << 20]);
            conversation.send_changed(is_reply, ACK, 0, |segment| {
                segment.acknowledgement = segment.acknowledgement.wrapping_sub(behind);
            });
        }
        16 => {
            let ahead = numbers.pick(&[1, 2, 1300, 1 << 30]);
            conversation.send_changed(is_reply, ACK, 0, |segment| {
                segment.acknowledgement = segment.acknowledgement.wrapping_add(ahead);
            });
        }
        17 => {
            conversation.hosts[own].window = numbers.pick(&[0, 1, 512, 1024, 65_535]);
            conversation.send(is_reply, ACK, 0);
        }
        18 => drop(conversation.send(is_reply, FIN | ACK, payload & 1)),
        19 | 20 => reset(conversation, numbers, is_reply),
        21 => {
            let sequence = numbers.pick(&[
                next,
                next.wrapping_add(1),
                next.wrapping_add(100_000),
                next.wrapping_sub(100_000),
            ]);
            conversation.send_changed(is_reply, SYN, 0, |segment| segment.sequence = sequence);
        }
        22 => drop(conversation.send(is_reply, SYN | ACK, 0)),
        _ => {
            let flags = u8::try_from(numbers.below(64)).unwrap();
            conversation.send(is_reply, flags, 0);
        }
    }
}

fn reset(conversation: &mut Conversation, numbers: &mut Numbers, is_reply: bool) {
    let own = usize::from(is_reply);
    let limit = conversation.limit(own);
    let acknowledged = conversation.hosts[1 - own].received;
    let flags = numbers.pick(&[RST, RST | ACK]);
    let kind = numbers.below(7);
    conversation.send_changed(is_reply, flags, 0, |segment| {
        segment.sequence = match kind {
            0 | 1 => segment.sequence,
            2 => acknowledged,
            3 => segment.sequence.wrapping_add(10),
            4 => limit.wrapping_add(5),
            5 => acknowledged.wrapping_sub(1),
            _ => 0,
        };
    });
}
