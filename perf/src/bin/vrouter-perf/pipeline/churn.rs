//! Changes of the configuration while packets flow, as control makes them.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use control_api::engine as api;
use perf::engine_run::{EngineRun, RunError};

/// Routes that come or go a second.
const UPDATES_PER_SECOND: u32 = 10_000;
/// Routes that one batch changes: a hundred batches a second, as many as publications there are.
const UPDATES_PER_BATCH: u32 = 100;
/// Routes that come, and then go again.
const ROUTES: u32 = 10_000;
/// Between two looks at all counters.
const SCRAPE_PERIOD: Duration = Duration::from_secs(1);
/// Batches that are caught up on at once, if the machine was busy elsewhere.
const BATCHES_AT_ONCE_MAX: u32 = 4;

/// Changes routes, and reads counters, at their rates.
#[derive(Debug, Default)]
pub(super) struct Churn {
    /// Since when it has been going on, unless it is quiet now.
    since: Option<Instant>,
    /// How long it went on before that.
    before: Duration,
    updates: u32,
    scrapes: u32,
}

impl Churn {
    /// Does what is due.
    pub(super) fn go_on(&mut self, run: &mut EngineRun) -> Result<(), RunError> {
        self.since.get_or_insert_with(Instant::now);
        for _ in 0..BATCHES_AT_ONCE_MAX {
            if self.due() < f64::from(self.updates + UPDATES_PER_BATCH) {
                break;
            }
            self.apply_batch(run)?;
        }
        if self.elapsed() >= SCRAPE_PERIOD * self.scrapes {
            run.scrape();
            self.scrapes += 1;
        }
        Ok(())
    }

    /// Nothing changes until it goes on again.
    pub(super) fn pause(&mut self) {
        if let Some(since) = self.since.take() {
            self.before += since.elapsed();
        }
    }

    /// How many updates a second there were while it went on.
    pub(super) fn updates_per_second(&self) -> f64 {
        f64::from(self.updates) / self.elapsed().as_secs_f64()
    }

    fn due(&self) -> f64 {
        self.elapsed().as_secs_f64() * f64::from(UPDATES_PER_SECOND)
    }

    fn elapsed(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn apply_batch(&mut self, run: &mut EngineRun) -> Result<(), RunError> {
        let (mut upserts, mut deletes) = (Vec::new(), Vec::new());
        for update in self.updates..self.updates + UPDATES_PER_BATCH {
            let key = route_key(update % ROUTES);
            if (update / ROUTES).is_multiple_of(2) {
                upserts.push(route(key));
            } else {
                let kind = Some(api::object_key::Kind::Route(key));
                deletes.push(api::ObjectKey { kind });
            }
        }
        self.updates += UPDATES_PER_BATCH;
        run.apply(upserts, deletes)
    }
}

/// Far pods' host routes, of either family in turn.
fn route_key(route: u32) -> api::RouteKey {
    let prefix = if route.is_multiple_of(2) {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + route);
        api::Prefix { address: address.octets().to_vec(), length: 32 }
    } else {
        let first = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0).to_bits();
        let address = Ipv6Addr::from_bits(first + u128::from(route));
        api::Prefix { address: address.octets().to_vec(), length: 128 }
    };
    api::RouteKey { vrf: 0, prefix: Some(prefix) }
}

fn route(key: api::RouteKey) -> api::Object {
    let via = Some(api::next_hop::Via::Tunnel(perf::traffic::TUNNEL.into()));
    let route = api::Route { key: Some(key), next_hops: vec![api::NextHop { via }] };
    api::Object { kind: Some(api::object::Kind::Route(route)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_distinct() {
        let mut keys: Vec<Vec<u8>> = (0..ROUTES)
            .filter_map(|route| route_key(route).prefix.map(|prefix| prefix.address))
            .collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), ROUTES as usize);
    }
}
