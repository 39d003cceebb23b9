//! What a vhost-user queue costs: cycles a packet to receive, to send, and both, with a driver in
//! the same thread whose work is not counted. No pipeline.
//!
//! `cargo bench -p perf --bench vhost_user`, or with `-- --rounds N --only split/60` a few rounds
//! of one row for callgrind, which counts the instructions of `rx_burst` and `tx_burst`. A driver
//! that writes its descriptors anew each time, as most do, pays more for a split ring than this
//! one.
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::{env, sync::Arc};

use vrouter::{
    burst::{BURST_PACKETS_MAX, Burst},
    cycles,
    memory::{Depot, FramePool, Region, RegionConfig},
    packet::Offloads,
    port::{
        PortQueue, PortRef,
        vhost_user::{
            driver::{DriverMemory, DriverRing, RingShape, RingUse},
            orders::QueuePair,
            queue::VhostUserQueue,
            ring::{Ring, RingFeatures, RingFormat},
        },
    },
    stats::WorkerStats,
};

const PORT: PortRef = PortRef { index: 1, generation: 0 };
/// As testpmd's rings in comparisons.
const RING_ENTRIES: u16 = 1024;
const BUFFER_BYTES: u32 = 2048;
const BURST: u16 = 64;
const _: () = assert!(BURST as usize == BURST_PACKETS_MAX);
const ROUNDS: usize = 20_000;

/// Cycles of one burst.
struct Sample {
    receive: u64,
    send: u64,
}

fn run(format: RingFormat, frame_bytes: usize, rounds: usize) -> Vec<Sample> {
    let features =
        RingFeatures { event_index: false, indirect: true, mergeable: true, version_1: true };
    let shape = |usage| RingShape {
        format,
        size: RING_ENTRIES,
        usage,
        buffer_bytes: BUFFER_BYTES,
        buffers: 0,
        features,
    };
    let memory = DriverMemory::create(8 << 20, false).unwrap();
    let mut tx = DriverRing::new(&memory, 0, shape(RingUse::Transmit)).unwrap();
    let mut rx = DriverRing::new(&memory, 4 << 20, shape(RingUse::Receive)).unwrap();
    let ring = |driver: &DriverRing| Ring::new(driver.setup()).unwrap();
    let (mut queue, control) = VhostUserQueue::new(PORT).unwrap();
    let pair = QueuePair { rx: ring(&tx), tx: ring(&rx), offloads: Offloads::NONE };
    control.start(Box::new(pair)).unwrap();
    let region = Region::create(&RegionConfig { frame_count: 4096, ..Default::default() });
    let mut pool = FramePool::new(Depot::new(Arc::new(region.unwrap())));
    let stats = WorkerStats::new();
    queue.flush(&mut pool, &stats).unwrap();
    for slot in 0..RING_ENTRIES {
        assert!(tx.write(slot.into(), &vec![0x5a; frame_bytes]));
    }
    rx.offer(RING_ENTRIES);
    let mut burst = Burst::new();
    let mut samples = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        assert_eq!(tx.offer(BURST), BURST);
        let start = cycles::now();
        queue.rx_burst(&mut pool, &mut burst);
        let middle = cycles::now();
        assert_eq!(queue.tx_burst(&mut pool, &mut burst, &stats), BURST_PACKETS_MAX);
        queue.flush(&mut pool, &stats).unwrap();
        let end = cycles::now();
        samples
            .push(Sample { receive: middle.wrapping_sub(start), send: end.wrapping_sub(middle) });
        assert_eq!(tx.take_used(BURST, |_, _| ()), BURST);
        assert_eq!(rx.take_used(BURST, |_, _| ()), BURST);
        rx.offer(BURST);
    }
    samples
}

#[expect(clippy::cast_precision_loss, reason = "cycles of a burst")]
fn quartile(mut values: Vec<u64>) -> f64 {
    values.sort_unstable();
    values[values.len() / 4] as f64 / BURST_PACKETS_MAX as f64
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let value = |name| arguments.iter().position(|it| it == name).map(|at| &arguments[at + 1]);
    let rounds = value("--rounds").map_or(ROUNDS, |it| it.parse().unwrap());
    println!("cycles a packet, lower quartile of {rounds} bursts of {BURST}");
    println!("ring    frame    rx     tx   both");
    for frame_bytes in [60, 128, 1500] {
        for format in [RingFormat::Split, RingFormat::Packed] {
            let name = format!("{format:?}").to_lowercase();
            if value("--only").is_some_and(|only| *only != format!("{name}/{frame_bytes}")) {
                continue;
            }
            let samples = run(format, frame_bytes, rounds);
            let of = |part: fn(&Sample) -> u64| quartile(samples.iter().map(part).collect());
            let (rx, tx) = (of(|it| it.receive), of(|it| it.send));
            let both = of(|it| it.receive + it.send);
            println!("{name:6} {frame_bytes:6} {rx:6.1} {tx:6.1} {both:6.1}");
        }
    }
}
