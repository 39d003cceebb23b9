use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    burst::Burst,
    memory::{Depot, FramePool, Region, RegionConfig},
    packet::Offloads,
    port::{
        Backend, PortOpener, PortQueue, PortRef, PortRequest, Role, SocketAccess, Steering,
        VhostUserBackend, VhostUserMode,
        vhost_user::{VhostUserOpener, orders::QueuePair, queue::VhostUserQueue, ring::Ring},
    },
    stats::WorkerStats,
};

const PORT: PortRef = PortRef { index: 1, generation: 0 };

fn shape(format: RingFormat, size: u16, usage: RingUse, event_index: bool) -> RingShape {
    let features = RingFeatures { event_index, indirect: true, mergeable: true, version_1: true };
    RingShape { format, size, usage, buffer_bytes: 256, buffers: 0, features }
}

/// Frames through a queue that sends back what it receives, on a thread of its own; each is seen
/// once, in order, with the bytes that were sent.
fn echo(format: RingFormat, size: u16, event_index: bool) {
    const FRAMES: u64 = 30_000;
    let memory = DriverMemory::create(8 << 20, false).unwrap();
    let mut tx =
        DriverRing::new(&memory, 0, shape(format, size, RingUse::Transmit, event_index)).unwrap();
    let mut rx =
        DriverRing::new(&memory, 4 << 20, shape(format, size, RingUse::Receive, event_index))
            .unwrap();
    let (mut queue, control) = VhostUserQueue::new(PORT).unwrap();
    let ring = |driver: &DriverRing| Ring::new(driver.setup()).unwrap();
    let pair = QueuePair { rx: ring(&tx), tx: ring(&rx), offloads: Offloads::NONE };
    control.start(Box::new(pair)).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&is_done);
    let device = thread::spawn(move || {
        let config = RegionConfig { frame_count: 256, huge_pages: false, ..Default::default() };
        let region = Arc::new(Region::create(&config).unwrap());
        let mut pool = FramePool::new(Depot::new(region));
        let stats = WorkerStats::new();
        let mut burst = Burst::new();
        while !stop.load(Relaxed) {
            queue.rx_burst(&mut pool, &mut burst);
            // What the guest has no buffer for waits here.
            queue.tx_burst(&mut pool, &mut burst, &stats);
            queue.flush(&mut pool, &stats).unwrap();
            thread::yield_now();
        }
    });
    rx.offer(size);
    let (mut written, mut seen) = (0_u64, 0_u64);
    let mut slot = 0;
    while seen < FRAMES {
        tx.take_used(size, |_, _| ());
        let mut count = 0;
        while count < tx.room() && written < FRAMES {
            let frame = [written.to_le_bytes(), (!written).to_le_bytes()].concat().repeat(5);
            assert!(tx.write(slot, &frame));
            slot = (slot + 1) % u32::from(size);
            (written, count) = (written + 1, count + 1);
        }
        tx.offer(count);
        let taken = rx.take_used(size, |_, frame| {
            let mut bytes = [0; 80];
            assert_eq!((frame.copy_to(&mut bytes), frame.bytes()), (80, 80));
            let expected = [seen.to_le_bytes(), (!seen).to_le_bytes()].concat().repeat(5);
            assert_eq!(bytes, *expected);
            seen += 1;
        });
        assert_eq!(rx.offer(taken), taken);
        thread::yield_now();
    }
    is_done.store(true, Relaxed);
    device.join().unwrap();
}

#[test]
fn a_split_ring_echoes_all_frames_between_two_threads() {
    echo(RingFormat::Split, 64, false);
    echo(RingFormat::Split, 8, true);
}

#[test]
fn a_packed_ring_echoes_all_frames_between_two_threads() {
    echo(RingFormat::Packed, 64, false);
    echo(RingFormat::Packed, 7, true);
}

#[test]
fn the_largest_rings_wrap_round() {
    for format in [RingFormat::Split, RingFormat::Packed] {
        let memory = DriverMemory::create(64 << 20, false).unwrap();
        let shape =
            RingShape { buffer_bytes: 128, ..shape(format, 32_768, RingUse::Transmit, false) };
        let mut tx = DriverRing::new(&memory, 0, shape).unwrap();
        let rx = DriverRing::new(&memory, 32 << 20, RingShape { usage: RingUse::Receive, ..shape })
            .unwrap();
        let (mut queue, control) = VhostUserQueue::new(PORT).unwrap();
        let ring = |driver: &DriverRing| Ring::new(driver.setup()).unwrap();
        let pair = QueuePair { rx: ring(&tx), tx: ring(&rx), offloads: Offloads::NONE };
        control.start(Box::new(pair)).unwrap();
        let config = RegionConfig { frame_count: 256, huge_pages: false, ..Default::default() };
        let mut pool = FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())));
        let stats = WorkerStats::new();
        queue.flush(&mut pool, &stats).unwrap();
        for slot in 0..32_768_u16 {
            assert!(tx.write(slot.into(), &slot.to_le_bytes()));
        }
        let mut expected = 0_u16;
        for _ in 0..3 {
            assert_eq!(tx.offer(32_768), 32_768);
            let mut burst = Burst::new();
            while queue.rx_burst(&mut pool, &mut burst) > 0 {
                for packet in burst.drain(..) {
                    assert_eq!(packet.data(pool.region()), expected.to_le_bytes());
                    expected = (expected + 1) % 32_768;
                    pool.free_packet(packet);
                }
            }
            assert_eq!(tx.take_used(u16::MAX, |_, _| ()), 32_768);
        }
    }
}

/// More frames than slots, which take turns, through a queue that sends back what it receives, into
/// more buffers than slots.
#[test]
fn more_frames_than_slots_take_turns() {
    const FRAMES: u32 = 37;
    for format in [RingFormat::Split, RingFormat::Packed] {
        let memory = DriverMemory::create(4 << 20, false).unwrap();
        let shape = RingShape { buffers: FRAMES, ..shape(format, 16, RingUse::Transmit, false) };
        let mut tx = DriverRing::new(&memory, 0, shape).unwrap();
        let shape = RingShape { usage: RingUse::Receive, ..shape };
        let mut rx = DriverRing::new(&memory, 2 << 20, shape).unwrap();
        let (mut queue, control) = VhostUserQueue::new(PORT).unwrap();
        let ring = |driver: &DriverRing| Ring::new(driver.setup()).unwrap();
        let pair = QueuePair { rx: ring(&tx), tx: ring(&rx), offloads: Offloads::NONE };
        control.start(Box::new(pair)).unwrap();
        let config = RegionConfig { frame_count: 256, huge_pages: false, ..Default::default() };
        let mut pool = FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())));
        let (stats, mut burst) = (WorkerStats::new(), Burst::new());
        queue.flush(&mut pool, &stats).unwrap();
        for frame in 0..FRAMES {
            // Their lengths differ, too.
            assert!(tx.write(frame, &vec![frame.to_le_bytes()[0]; 40 + frame as usize]));
        }
        assert!(!tx.write(FRAMES, &[0; 60]));
        assert_eq!(rx.offer(16), 16);
        let mut seen = 0;
        for round in 0..100_u16 {
            let count = tx.offer(round % 16 + 1);
            queue.rx_burst(&mut pool, &mut burst);
            assert_eq!(queue.tx_burst(&mut pool, &mut burst, &stats), usize::from(count));
            assert_eq!(tx.take_back(u16::MAX), (count, 0));
            let taken = rx.take_used(u16::MAX, |buffer, frame| {
                let (expected, mut bytes) = (seen % FRAMES, [0; 80]);
                // It took the receiver's buffers in turn as well.
                assert_eq!(buffer, expected);
                assert_eq!(frame.copy_to(&mut bytes), 40 + expected as usize);
                assert_eq!(bytes[39], expected.to_le_bytes()[0]);
                seen += 1;
            });
            assert_eq!(taken, count);
            rx.offer(taken);
        }
        assert!(seen > 10 * FRAMES);
    }
}

fn request(socket_path: &Path) -> PortRequest {
    PortRequest {
        name: "port".into(),
        port: PORT,
        role: Role::Guest,
        backend: Backend::VhostUser(VhostUserBackend {
            socket_path: socket_path.to_owned(),
            mode: VhostUserMode::Server(SocketAccess {
                uid: rustix::process::getuid().as_raw(),
                gid: rustix::process::getgid().as_raw(),
                file_mode: 0o600,
            }),
            queue_pairs: Some(2),
        }),
        mtu_bytes: None,
        mac_address: None,
        worker_count: 2,
    }
}

/// A client and the engine's own side of a socket, with a worker that sends frames back.
fn echo_over_a_socket(format: RingFormat, queue_pairs: u16) {
    const FRAMES: u64 = 2000;
    let folder = tempfile::tempdir().unwrap();
    let socket_path = folder.path().join("port");
    let request = request(&socket_path);
    let config = RegionConfig { frame_count: 256, huge_pages: false, ..Default::default() };
    let mut pool = FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())));
    let mut opened = VhostUserOpener.open(&request, &mut pool).unwrap();
    opened.device.steer(&Steering::Everything).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&is_done);
    let mut queues = opened.queues;
    let device = thread::spawn(move || {
        let stats = WorkerStats::new();
        let mut bursts = [Burst::new(), Burst::new()];
        while !stop.load(Relaxed) {
            for (queue, burst) in queues.iter_mut().zip(&mut bursts) {
                queue.rx_burst(&mut pool, burst);
                queue.tx_burst(&mut pool, burst, &stats);
                queue.flush(&mut pool, &stats).unwrap();
            }
            thread::yield_now();
        }
        for queue in &mut queues {
            assert_eq!(queue.drain(&mut pool, &stats), 0);
        }
    });
    let config = ClientConfig {
        format,
        ring_entries: 64,
        buffer_bytes: 2048,
        tx_buffers: 64,
        rx_buffers: 64,
        queue_pairs,
        mergeable: true,
        huge_pages: false,
    };
    let mut client = Client::connect(&socket_path, config).unwrap();
    for queue in &mut client.queues {
        for slot in 0..64 {
            assert!(queue.tx.ring.write(slot, &[slot.to_le_bytes()[0]; 60]));
        }
        queue.rx.ring.offer(64);
    }
    let start = Instant::now();
    for (number, queue) in client.queues.iter_mut().enumerate() {
        let mut seen = 0;
        while seen < FRAMES {
            assert!(start.elapsed() < Duration::from_mins(1), "queue {number}: {seen} frames");
            queue.tx.ring.take_used(64, |_, _| ());
            queue.tx.ring.offer(u16::try_from((FRAMES - seen).min(8)).unwrap());
            let taken = queue.rx.ring.take_used(64, |_, frame| {
                let mut bytes = [0; 60];
                assert_eq!((frame.copy_to(&mut bytes), frame.bytes()), (60, 60));
                assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                seen += 1;
            });
            queue.rx.ring.offer(taken);
            queue.tx.kick().unwrap();
            queue.rx.kick().unwrap();
            thread::yield_now();
        }
    }
    drop(client);
    is_done.store(true, Relaxed);
    device.join().unwrap();
}

#[test]
fn a_client_moves_frames_through_the_engines_socket() {
    echo_over_a_socket(RingFormat::Split, 1);
    echo_over_a_socket(RingFormat::Packed, 1);
    echo_over_a_socket(RingFormat::Split, 2);
}
