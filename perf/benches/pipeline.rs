//! The whole pipeline, burst by burst: known flows, new flows, into and out of a tunnel.
//!
//! Throughput is in packets; ports are not in the time. `cargo bench -p perf --bench pipeline`
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use perf::{
    bench_node::{BenchNode, frames},
    traffic::Way,
};

const BURST: usize = 64;

/// Packets of known flows, round and round.
fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/hit");
    group.throughput(Throughput::Elements(BURST as u64));
    for way in Way::ALL {
        for flows in [64, 10_240] {
            let frames = frames(way, flows, 64);
            let mut node = BenchNode::new(1 << 16).unwrap();
            let ingress = node.ingress(way);
            for burst in frames.chunks(BURST) {
                assert_eq!(node.process(ingress, burst).1, burst.len());
            }
            group.bench_function(format!("{way:?}/{flows} flows").to_lowercase(), |bencher| {
                bencher.iter_custom(|rounds| {
                    let bursts = frames.chunks(BURST).cycle();
                    let rounds = usize::try_from(rounds).unwrap();
                    bursts.take(rounds).map(|burst| black_box(node.process(ingress, burst)).0).sum()
                });
            });
        }
    }
    group.finish();
}

/// First packets: decided, inserted for both directions, and sent. A full table evicts, as it would
/// under attack.
fn misses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipeline/miss");
    group.throughput(Throughput::Elements(BURST as u64));
    let frames = frames(Way::PodToPod, 60_000, 64);
    group.bench_function("podtopod", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut took = Duration::ZERO;
            let mut rest = rounds;
            while rest > 0 {
                let mut node = BenchNode::new(1 << 17).unwrap();
                let ingress = node.ingress(Way::PodToPod);
                for burst in frames.chunks(BURST).take(usize::try_from(rest).unwrap()) {
                    took += black_box(node.process(ingress, burst)).0;
                    rest -= 1;
                }
            }
            took
        });
    });
    group.finish();
}

criterion_group!(benches, hits, misses);
criterion_main!(benches);
