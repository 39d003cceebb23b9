//! Our AF_XDP port against another implementation: `xsk-rs`, over libxdp, at the other end of a
//! veth pair.
//!
//! # Safety boundary
//!
//! `xsk-rs` wants proof that a frame is in one place at a time. Here each descriptor is either in
//! the list of free ones, in the far side's tx ring or in its fill ring, and moves between them by
//! value.

#![expect(unsafe_code, reason = "the interface of xsk-rs")]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panic")]

#[path = "../../vrouter/tests/support/namespace.rs"]
mod namespace;
#[path = "../../vrouter/tests/support/ports.rs"]
mod ports;

use std::io::Write;

use namespace::{Namespace, join};
use ports::{Memory, Port, bytes_of, packet, request, wait_for};
use vrouter::burst::Burst;
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{Interface, SocketConfig, UmemConfig},
};

const FRAMES: u32 = 256;
/// Of the frames, how many are for receiving.
const FILL_FRAMES: usize = 128;

/// The far side.
struct Peer {
    umem: Umem,
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    free: Vec<FrameDesc>,
}

impl Peer {
    /// Opens an interface of the calling thread's namespace.
    fn open(interface: &str) -> Self {
        let config = UmemConfig::default();
        let (umem, mut free) = Umem::new(config, FRAMES.try_into().unwrap(), false).unwrap();
        let interface: Interface = interface.parse().unwrap();
        // SAFETY: the UMEM has this one socket.
        let socket = unsafe { Socket::new(SocketConfig::default(), &umem, &interface, 0) };
        let (tx, rx, rings) = socket.unwrap();
        let (mut fill, completion) = rings.unwrap();
        let for_receiving = free.split_off(free.len() - FILL_FRAMES);
        // SAFETY: the frames are in no other ring.
        let filled = unsafe { fill.produce(&for_receiving) };
        assert_eq!(filled, FILL_FRAMES);
        Self { umem, tx, rx, fill, completion, free }
    }

    /// Sends a frame, if one is free.
    fn send(&mut self, bytes: &[u8]) -> bool {
        let mut done = [FrameDesc::default(); 32];
        // SAFETY: what the completion ring returns was sent by us.
        let count = unsafe { self.completion.consume(&mut done) };
        self.free.extend_from_slice(&done[..count]);
        let Some(mut frame) = self.free.pop() else { return false };
        // SAFETY: the frame is free, so nobody else looks at it.
        let mut data = unsafe { self.umem.data_mut(&mut frame) };
        let mut cursor = data.cursor();
        cursor.set_pos(0);
        cursor.write_all(bytes).unwrap();
        // SAFETY: the frame was free and is in no other ring.
        let sent = unsafe { self.tx.produce_one_and_wakeup(&frame) };
        assert_eq!(sent.unwrap(), 1);
        true
    }

    /// Receives what is there.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut frames = [FrameDesc::default(); 32];
        // SAFETY: what the rx ring returns came from the fill ring.
        let count = unsafe { self.rx.consume(&mut frames) };
        let frames = &frames[..count];
        // SAFETY: the frames are ours until they are in the fill ring again.
        let bytes = |frame: &FrameDesc| unsafe { self.umem.data(frame) }.contents().to_vec();
        let received = frames.iter().map(bytes).collect();
        // SAFETY: the frames have left the rx ring.
        let filled = unsafe { self.fill.produce(frames) };
        assert_eq!(filled, count);
        received
    }
}

fn frame(number: u32) -> Vec<u8> {
    let bytes = 60 + (number as usize * 37) % 1455;
    let mut frame = vec![0; bytes];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    for (index, byte) in frame.iter_mut().enumerate().skip(14) {
        *byte = u8::try_from((index + number as usize) % 251).unwrap();
    }
    frame
}

fn is_ours(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x88, 0xb5])
}

#[test]
fn frames_pass_between_our_port_and_xsk_rs_and_back() {
    const COUNT: u32 = 10_000;
    skip_unless_namespaces!();
    let (ours, theirs) = (Namespace::create("ours"), Namespace::create("theirs"));
    join((&ours, "port0"), (&theirs, "peer0"), 1, 1500);
    let mut memory = Memory::new(4096);
    let mut port = Port::open(&mut memory, &request(&ours, "port0", None));
    let mut peer = theirs.inside(|| Peer::open("peer0"));

    let (mut sent, mut echoed, mut received) = (0, 0, 0);
    wait_for("all frames to be back", || {
        while sent < COUNT && sent - received < 32 && peer.send(&frame(sent)) {
            sent += 1;
        }
        let mut burst = Burst::new();
        port.poll(&mut memory.pool, &mut burst);
        let mut answers = Burst::new();
        for arrived in burst {
            let bytes = bytes_of(&arrived, memory.pool.region());
            memory.pool.free_packet(arrived);
            if is_ours(&bytes) {
                assert_eq!(bytes, frame(echoed));
                echoed += 1;
                answers.push(packet(&mut memory.pool, &bytes));
            }
        }
        port.send(0, &mut memory.pool, &mut answers);
        for bytes in peer.receive().into_iter().filter(|bytes| is_ours(bytes)) {
            assert_eq!(bytes, frame(received));
            received += 1;
        }
        received == COUNT
    });
    drop(peer);
    port.poll_aside(&mut memory.pool);
    port.close(&mut memory.pool);
    memory.assert_all_frames_are_back();
}
