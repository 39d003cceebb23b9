//! UDP between two pods, as much of it as is asked for, none of it lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use etherparse::PacketBuilder;
use vrouter::{burst::Burst, packet::Packet, port::memory::MemoryPeer};

use crate::rig::{PATIENCE, mac};

/// Flows that the packets spread over.
const FLOWS: u16 = 256;
/// Packets under way at most: what rings hold is more, so that none of them runs over.
const UNDER_WAY_MAX: u64 = 512;
/// Where the number of a packet stands: after Ethernet, IPv4 and UDP.
const NUMBER_AT: usize = 14 + 20 + 8;

/// A frame from the pod 10.244.1.`from` to `to`, with `number` in it.
pub(crate) fn frame(from: u8, to: [u8; 4], number: u64) -> Vec<u8> {
    let source = [10, 244, 1, from];
    let builder = PacketBuilder::ethernet2(
        mac(source).try_into().unwrap(),
        mac([10, 244, 1, 1]).try_into().unwrap(),
    );
    let flow = u16::try_from(number % u64::from(FLOWS)).unwrap();
    let builder = builder.ipv4(source, to, 64).udp(40_000 + flow, 53);
    let mut frame = Vec::new();
    builder.write(&mut frame, &number.to_be_bytes()).unwrap();
    frame
}

/// The number in a frame.
pub(crate) fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[NUMBER_AT..][..8].try_into().unwrap())
}

/// Sends numbered frames from 10.244.1.2 to 10.244.1.3 until `is_over` is set or `count` are sent,
/// and checks that all of them arrive, in order. Returns how many.
pub(crate) fn send(
    from: &mut MemoryPeer,
    to: &mut MemoryPeer,
    count: u64,
    is_over: &AtomicBool,
) -> u64 {
    let frames: Vec<_> =
        (0..u64::from(FLOWS)).map(|flow| frame(2, [10, 244, 1, 3], flow)).collect();
    let (mut sent, mut received) = (0, 0);
    let mut progress = Instant::now();
    let mut burst = Burst::new();
    loop {
        let goal = if is_over.load(SeqCst) { sent } else { count };
        if received == goal {
            return sent;
        }
        while sent < goal && sent - received < UNDER_WAY_MAX && !burst.is_full() {
            let flow = usize::try_from(sent % u64::from(FLOWS)).unwrap();
            let Some(mut packet) = from.packet(&frames[flow]) else { break };
            stamp(from, &mut packet, sent);
            burst.push(packet);
            sent += 1;
        }
        from.send_burst(0, &mut burst);
        let arrived = receive(to, received);
        received += arrived;
        if arrived > 0 {
            progress = Instant::now();
        } else {
            thread::yield_now();
            assert!(progress.elapsed() < PATIENCE, "{received} of {sent} arrived");
        }
    }
}

/// Sends in a thread of its own until it is told to stop.
pub(crate) struct Traffic {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Traffic {
    pub(crate) fn start(mut from: MemoryPeer, mut to: MemoryPeer) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_over);
        let thread = thread::spawn(move || send(&mut from, &mut to, u64::MAX, &stop));
        Self { is_over, thread }
    }

    /// Returns how many packets were sent, all of which arrived.
    pub(crate) fn stop(self) -> u64 {
        self.is_over.store(true, SeqCst);
        self.thread.join().unwrap()
    }
}

/// Writes `number` into a packet; the checksum of UDP is left out, as IPv4 allows (RFC 768).
fn stamp(peer: &mut MemoryPeer, packet: &mut Packet, number: u64) {
    let data = packet.data_mut(peer.pool().region());
    data[NUMBER_AT - 2..NUMBER_AT].fill(0);
    data[NUMBER_AT..][..8].copy_from_slice(&number.to_be_bytes());
}

/// Takes what has arrived; the first of it has to be `first`.
fn receive(to: &mut MemoryPeer, first: u64) -> u64 {
    let mut burst = Burst::new();
    to.receive_burst(0, &mut burst);
    let count = burst.len() as u64;
    for (expected, packet) in (first..).zip(burst.drain(..)) {
        assert_eq!(number(packet.data(to.pool().region())), expected);
        to.pool().free_packet(packet);
    }
    count
}
