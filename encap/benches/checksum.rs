//! One's-complement sums by length, and the incremental update that replaces them.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use encap::checksum::{Delta, Sum};

fn sums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for bytes in [20_usize, 64, 1500, 9000] {
        let data: Vec<u8> = (0..bytes).map(|index| (index % 251).to_le_bytes()[0]).collect();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_with_input(BenchmarkId::new("sum", bytes), &data, |bencher, data| {
            bencher.iter(|| Sum::of(black_box(data)));
        });
        // Odd address: what a payload behind an odd segment costs.
        group.bench_with_input(BenchmarkId::new("sum_unaligned", bytes), &data, |bencher, data| {
            let data = data.get(1..).unwrap_or_default();
            bencher.iter(|| Sum::of(black_box(data)));
        });
    }
    group.finish();
}

fn updates(criterion: &mut Criterion) {
    let delta = Delta::of_u16(0x1234, 0x5678);
    criterion.bench_function("checksum/update", |bencher| {
        bencher.iter(|| black_box(delta).apply(black_box(0xabcd)));
    });
}

criterion_group!(benches, sums, updates);
criterion_main!(benches);
