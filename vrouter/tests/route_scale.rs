//! A table of a million routes: how long it takes to load, and to change.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what it measured and fails by panicking"
)]

use std::time::{Duration, Instant};

use control_api::engine as api;
use flowtable::ScopeVersions;
use vrouter::{
    config::{Batch, Config},
    publish::Publisher,
};

const ROUTES: u32 = 1_000_000;

/// Distinct prefixes: half of them /24 all over the address space, the rest /32 and /30 close
/// together.
fn route(index: u32) -> api::Object {
    let (address, length) = match index % 4 {
        0 => (0x0a00_0000 | (index & 0x00ff_ffff), 32),
        1 => (0x0b00_0000 | ((index & 0x003f_ffff) << 2), 30),
        _ => (0x1000_0000_u32.wrapping_add(index << 8), 24),
    };
    let prefix = api::Prefix { address: address.to_be_bytes().into(), length };
    let next_hop = api::next_hop::Via::Discard(api::next_hop::Discard::Blackhole.into());
    api::Object {
        kind: Some(api::object::Kind::Route(api::Route {
            key: Some(api::RouteKey { vrf: 0, prefix: Some(prefix) }),
            next_hops: vec![api::NextHop { via: Some(next_hop) }],
        })),
    }
}

fn apply(config: &mut Config, upserts: Vec<api::Object>) {
    let mut batch = Batch::new(config.generation() + 1, false);
    batch.push(api::ObjectBatch { upserts, deletes: vec![] }).unwrap();
    config.apply(batch).unwrap();
}

#[test]
fn one_more_route_among_a_million_is_published_in_ten_milliseconds() {
    let scopes = ScopeVersions::new(0);
    let mut config = Config::new();
    let vrf = api::Vrf { name: "default".into(), ..api::Vrf::default() };
    apply(&mut config, vec![api::Object { kind: Some(api::object::Kind::Vrf(vrf)) }]);
    let mut publisher = Publisher::new(config.snapshot(&scopes));
    let mut subscriber = publisher.subscribe();

    let objects = (0..ROUTES).map(route).collect();
    let start = Instant::now();
    apply(&mut config, objects);
    publisher.publish(config.snapshot(&scopes));
    let loaded = start.elapsed();
    assert_eq!(config.route_count(), ROUTES as usize);
    let fib = &subscriber.snapshot().vrfs[0].as_ref().unwrap().fib;
    assert!(fib.is_empty(), "the old snapshot stays as it was");
    subscriber.refresh();
    let fib = &subscriber.snapshot().vrfs[0].as_ref().unwrap().fib;
    let bytes_per_route = fib.memory_bytes() / fib.len();

    // The machine may stall: the best of some changes tells what one costs.
    let mut best = Duration::MAX;
    for index in 0..20 {
        let object = route(ROUTES + index);
        let start = Instant::now();
        apply(&mut config, vec![object]);
        publisher.publish(config.snapshot(&scopes));
        subscriber.refresh();
        best = best.min(start.elapsed());
    }
    println!("loaded in {loaded:?}, {bytes_per_route} bytes a route, one more in {best:?}");
    assert!(best < Duration::from_millis(10), "one more route took {best:?}");
    assert_eq!(config.route_count(), ROUTES as usize + 20);
}
