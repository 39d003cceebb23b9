//! One pod of a large cluster that comes or goes, as a node's engine takes it over.

use std::time::Instant;

use control_api::engine as api;
use flowtable::ScopeVersions;
use perf::policy_load::{self, ADDRESSES};
use vrouter::config::{Batch, Config};

/// Isolated ports of the node.
pub(super) const PORTS: u32 = 250;
/// Rules of each port's policy set.
pub(super) const RULES: u32 = 4;
/// The address sets that the pod is in: one of all pods, and two smaller ones.
const SETS: [(u64, u32); 3] = [(1, 1), (2, 10), (3, 100)];
/// The pod that comes and goes.
const POD: u32 = 5000;

/// A node's configuration.
pub(super) struct ChangeBench {
    config: Config,
    scopes: ScopeVersions,
    is_there: bool,
}

impl ChangeBench {
    /// A node whose ports all let the address sets pass, each by a policy set of its own.
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut upserts = vec![object(api::object::Kind::Vrf(api::Vrf::default()))];
        upserts.extend(sets(true));
        for port in 0..PORTS {
            let id = 0x100 + u64::from(port);
            let rule = |rule: u32| api::PolicyRule {
                address_sets: vec![SETS.get(rule as usize).map_or(1, |(set, _)| *set)],
                ports: vec![api::ProtocolPorts { protocol: 6, first: rule, last: rule + port }],
                path: format!("spec.ingress[{rule}]"),
                ..api::PolicyRule::default()
            };
            let policies = vec![format!("default/policy-{port}")];
            let rules = (0..RULES).map(rule).collect();
            let set = api::PolicySet { id, policies, rules };
            upserts.push(object(api::object::Kind::PolicySet(set)));
            let [.., high, low] = port.to_be_bytes();
            upserts.push(object(api::object::Kind::Port(api::Port {
                name: format!("default/pod-{port}"),
                role: api::port::Role::Guest.into(),
                addresses: vec![vec![10, 244, high, low]],
                mac: vec![0x0a, 0x58, 10, 244, high, low],
                backend: Some(api::port::Backend::Memory(api::MemoryBackend {})),
                ingress_policy: id,
                ..api::Port::default()
            })));
        }
        let (config, scopes) = (Config::new(), ScopeVersions::new(0));
        let mut bench = Self { config, scopes, is_there: true };
        bench.apply(upserts)?;
        Ok(bench)
    }

    /// The pod comes, or goes. Returns the nanoseconds until there is a snapshot that a worker may
    /// take: parsing, checking, compiling.
    pub(super) fn change(&mut self) -> anyhow::Result<f64> {
        self.is_there = !self.is_there;
        let upserts = sets(self.is_there);
        let start = Instant::now();
        self.apply(upserts)?;
        Ok(start.elapsed().as_secs_f64() * 1e9)
    }

    fn apply(&mut self, upserts: Vec<api::Object>) -> anyhow::Result<()> {
        let mut batch = Batch::new(self.config.generation() + 1, false);
        batch.push(api::ObjectBatch { upserts, deletes: Vec::new() })?;
        self.config.apply(batch)?;
        let _ = self.config.snapshot(&self.scopes);
        Ok(())
    }
}

fn object(kind: api::object::Kind) -> api::Object {
    api::Object { kind: Some(kind) }
}

/// The address sets, with the pod or without it: control sends those that a change is in whole.
fn sets(is_there: bool) -> Vec<api::Object> {
    let members = |share: u32| {
        let of_set = move |index: &u32| index.is_multiple_of(share);
        (0..ADDRESSES).filter(of_set).filter(move |index| is_there || *index != POD)
    };
    let set = |(id, share)| policy_load::address_set(id, members(share));
    SETS.into_iter().map(set).map(|set| object(api::object::Kind::AddressSet(set))).collect()
}
