//! Rings between two workers: what handing a burst of 64 packets over costs.
//!
//! The engine's rings are `rtrb`'s; `crossbeam`'s `ArrayQueue` is the alternative. Both sides run
//! on the bench's thread, so that the figure is the work and not the other core's scheduling.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::queue::ArrayQueue;
use rtrb::RingBuffer;
use vrouter::{burst::BURST_PACKETS_MAX, handoff::HANDOFF_RING_PACKETS};

/// As large as a packet and the port that it is to leave through.
type Item = [u64; 5];

fn rings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handoff");
    group.throughput(Throughput::Elements(BURST_PACKETS_MAX as u64));
    group.bench_function("rtrb", |bencher| {
        let (mut producer, mut consumer) = RingBuffer::<Item>::new(HANDOFF_RING_PACKETS);
        bencher.iter(|| {
            let pushed = producer
                .write_chunk_uninit(BURST_PACKETS_MAX)
                .map(|chunk| chunk.fill_from_iter((0..).map(|number| [number; 5])));
            let popped = consumer
                .read_chunk(BURST_PACKETS_MAX)
                .map(|chunk| chunk.into_iter().fold(0, |sum, item| sum ^ black_box(item)[0]));
            black_box((pushed.is_ok(), popped.is_ok()))
        });
    });
    group.bench_function("array_queue", |bencher| {
        let queue = ArrayQueue::<Item>::new(HANDOFF_RING_PACKETS);
        bencher.iter(|| {
            for number in 0..BURST_PACKETS_MAX as u64 {
                black_box(queue.push([number; 5]).is_ok());
            }
            let mut sum = 0;
            while let Some(item) = queue.pop() {
                sum ^= black_box(item)[0];
            }
            black_box(sum)
        });
    });
    group.finish();
}

criterion_group!(benches, rings);
criterion_main!(benches);
