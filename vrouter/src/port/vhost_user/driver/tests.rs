use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use super::*;
use crate::{
    burst::Burst,
    memory::{Depot, FramePool, Region, RegionConfig},
    packet::Offloads,
    port::{
        PortQueue, PortRef,
        vhost_user::{orders::QueuePair, queue::VhostUserQueue, ring::Ring},
    },
    stats::WorkerStats,
};

const PORT: PortRef = PortRef { index: 1, generation: 0 };

fn shape(format: RingFormat, size: u16, usage: RingUse, event_index: bool) -> RingShape {
    let features = RingFeatures { event_index, indirect: true, mergeable: true, version_1: true };
    RingShape { format, size, usage, buffer_bytes: 256, features }
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
            slot = (slot + 1) % size;
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
        for slot in 0..32_768 {
            assert!(tx.write(slot, &slot.to_le_bytes()));
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
