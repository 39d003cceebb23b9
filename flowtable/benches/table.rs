//! What one worker pays for a lookup, a recorded packet, and an insert: random keys, bursts of 64.
#![expect(clippy::unwrap_used, reason = "what fails here ends the benchmark")]

use std::{
    hint::black_box,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flowtable::{
    Action, Config, ConfigView, FlowHash, FlowKey, FlowRef, FlowTable, FlowWorker, InsertOutcome,
    Lookup, Memory, NewConnection, PacketFacts, ScopeVersions, Scopes, Tracking, TransportFacts,
};

const BURST: usize = 64;
const DATAGRAM: PacketFacts = PacketFacts { bytes: 64, transport: TransportFacts::Datagram };

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Verb([u64; 4]);

impl Action for Verb {
    const LAYOUT: u32 = 1;
}

fn table(connections: u32) -> FlowTable<Verb> {
    FlowTable::create(&Config {
        ipv4_connections_max: connections,
        ipv6_connections_max: 0,
        fragments_max: 1024,
        hash_key: [0x1234_5678, 0x9abc_def0],
        memory: Memory::Memfd { huge_pages: true },
        tracking: Tracking::default(),
    })
    .unwrap()
}

/// Key number `i`: the numbers are spread, so that no two neighbours look alike.
fn key(i: u32) -> FlowKey {
    let spread = i.wrapping_mul(0x9e37_79b1);
    let [upper, lower, ..] = spread.to_be_bytes();
    let source = Ipv4Addr::from_bits(0x0a00_0000 | (spread & 0xff_ffff));
    let port = u16::from_be_bytes([upper, lower]);
    FlowKey::v4(1, 17, (source, port), (Ipv4Addr::new(10, 200, 0, 1), 53))
}

fn insert(table: &FlowTable<Verb>, worker: &mut FlowWorker<Verb>, forward: FlowKey) -> FlowRef {
    let reply = forward.reversed();
    let outcome = worker.insert_pair(&NewConnection {
        forward,
        reply,
        forward_hash: table.hash(&forward),
        reply_hash: table.hash(&reply),
        actions: [Verb([1; 4]), Verb([2; 4])],
        version: 1,
        scopes: Scopes::default(),
        facts: &DATAGRAM,
        now: 0,
    });
    match outcome {
        InsertOutcome::Inserted(flow) | InsertOutcome::Adopted(flow) => Some(flow),
        _ => None,
    }
    .unwrap()
}

/// A table with so many connections, half of what it can hold in directions: 42 % of the slots
/// taken.
fn filled(connections: u32) -> (FlowTable<Verb>, FlowWorker<Verb>) {
    let table = table(connections * 2);
    let mut worker = table.worker(0).unwrap();
    for i in 0..connections {
        insert(&table, &mut worker, key(i));
    }
    worker.quiesce();
    (table, worker)
}

/// The keys of a long run of random packets.
fn packets(connections: u32, offset: u32) -> Vec<FlowKey> {
    let mut state = 88_172_645_463_325_252_u64;
    (0..1 << 18)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let i = u32::try_from(state % u64::from(connections)).unwrap_or(0);
            let key = key(offset + i);
            if state & (1 << 40) == 0 { key } else { key.reversed() }
        })
        .collect()
}

fn lookups(c: &mut Criterion) {
    for connections in [1u32 << 15, 1 << 19] {
        let (table, mut worker) = filled(connections);
        let scopes = ScopeVersions::new(0);
        let config = ConfigView { version: 1, scopes: &scopes };
        let mut group = c.benchmark_group(format!("{} flows", 2 * connections));
        group.throughput(Throughput::Elements(BURST as u64)).sample_size(30);
        for (name, offset, records) in
            [("hit", 0, false), ("hit and record", 0, true), ("miss", connections, false)]
        {
            let keys = packets(connections, offset);
            let mut bursts = keys.chunks_exact(BURST).cycle();
            group.bench_function(name, |b| {
                b.iter(|| {
                    let keys = bursts.next().unwrap_or(&[]);
                    let mut hashes = [FlowHash::default(); BURST];
                    for (hash, key) in hashes.iter_mut().zip(keys) {
                        *hash = if records { table.hash_ahead(key) } else { table.hash(key) };
                    }
                    let mut found = [Lookup::Miss; BURST];
                    if records {
                        worker.lookup_prefetched_burst(keys, &hashes, config, &mut found);
                        for found in &found {
                            if let Lookup::Hit(flow) = *found {
                                black_box(worker.record(flow, &DATAGRAM, 7));
                            }
                        }
                    } else {
                        worker.lookup_burst(keys, &hashes, config, &mut found);
                    }
                    black_box(found)
                });
            });
        }
        group.finish();
    }
}

fn inserts(c: &mut Criterion) {
    let connections = 1 << 19;
    let (table, mut worker) = filled(connections);
    let mut next = connections;
    let mut group = c.benchmark_group("pair");
    group.throughput(Throughput::Elements(1)).sample_size(30);
    group.bench_function("insert, half full", |b| {
        b.iter_custom(|count| {
            let mut spent = Duration::ZERO;
            let mut left = count;
            while left > 0 {
                let burst = left.min(BURST as u64);
                let mut flows = Vec::with_capacity(BURST);
                let start = Instant::now();
                for _ in 0..burst {
                    next = if next == u32::MAX { connections } else { next + 1 };
                    flows.push(insert(&table, &mut worker, key(next)));
                }
                spent += start.elapsed();
                for flow in flows {
                    worker.remove(flow);
                }
                for _ in 0..3 {
                    worker.quiesce();
                }
                left -= burst;
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, lookups, inserts);
criterion_main!(benches);
