//! A client's batches, in force as a whole or not at all.
//!
//! The input is batches, one behind the other, each as protobuf and with a header of three bytes:
//! flags, and the length of the message. Whatever they hold, a refused batch changes nothing; a
//! full sync sent twice changes nothing the second time; and each snapshot leads from every route
//! to a next hop.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, ops::ControlFlow};

use control_api::engine as api;
use encap::MacAddress;
use flowtable::ScopeVersions;
use prost::Message;
use vrouter::{
    config::{Batch, Config},
    next_hop::Adjacency,
    snapshot::{PolicyIndex, Snapshot},
};

/// Batches looked at of one input.
const BATCHES_MAX: usize = 16;

/// Flags of a batch.
const FULL_SYNC: u8 = 1;
const OLD_GENERATION: u8 = 2;
const SNAPSHOT: u8 = 4;
const RESOLVE: u8 = 8;
const RELEASE_PORTS: u8 = 16;

pub(crate) fn run(mut data: &[u8]) {
    let mut config = Config::new();
    let scopes = ScopeVersions::new(0);
    for _ in 0..BATCHES_MAX {
        let Some(([flags, high, low], rest)) = data.split_first_chunk() else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (message, rest) = rest.split_at(length);
        data = rest;
        let Ok(objects) = api::ObjectBatch::decode(message) else { continue };
        apply(&mut config, &objects, *flags);
        if flags & RESOLVE != 0 {
            resolve(&mut config);
        }
        if flags & SNAPSHOT != 0 {
            let is_changed = config.is_changed();
            let before = config.last_snapshot().version;
            let snapshot = config.snapshot(&scopes);
            assert_eq!(snapshot.version, before + 1);
            assert!(!config.is_changed());
            check(&config, &snapshot);
            assert!(is_changed || snapshot.generation == config.generation());
        }
    }
}

fn apply(config: &mut Config, objects: &api::ObjectBatch, flags: u8) {
    let generation = config.generation() + u64::from(flags & OLD_GENERATION == 0);
    let is_full_sync = flags & FULL_SYNC != 0;
    let before = description(config);
    let mut batch = Batch::new(generation, is_full_sync);
    if let Err(refused) = batch.push(objects.clone()) {
        assert!(!refused.to_string().is_empty());
        return;
    }
    let changes = match config.apply(batch) {
        Ok(changes) => changes,
        Err(refused) => {
            assert!(!refused.object.is_empty() && !refused.field.is_empty(), "{refused}");
            assert_eq!(description(config), before, "refused, and yet changed: {refused}");
            return;
        }
    };
    assert_eq!(config.generation(), generation);
    assert_eq!(flags & OLD_GENERATION, 0, "an old generation was taken");
    for (port, object) in &changes.opened {
        assert!(config.port_by_name(&object.name).is_some_and(|(found, _)| found == *port));
        assert!(config.port_mtu(*port).is_some());
    }
    if flags & RELEASE_PORTS != 0 {
        changes.closed.iter().for_each(|(port, _)| config.release_port(*port));
    }
    if is_full_sync {
        let described = description(config);
        let mut batch = Batch::new(generation + 1, true);
        batch.push(objects.clone()).expect("it was parsed before");
        let again = config.apply(batch).expect("it was possible before");
        assert!(again.opened.is_empty() && again.closed.is_empty(), "{again:?}");
        assert_eq!(description(config), described);
    }
}

fn resolve(config: &mut Config) {
    let Some((port, _)) = config.ports().next() else { return };
    let remotes: Vec<IpAddr> = config.underlay_addresses().collect();
    for remote in remotes {
        let adjacency = Adjacency::Resolved {
            port,
            source_mac: MacAddress::from_ip(remote),
            destination_mac: MacAddress::from_ip(remote),
            mtu_bytes: u16::MAX,
        };
        config.set_adjacency(remote, adjacency);
        assert_eq!(config.adjacency(remote), adjacency);
    }
}

/// All that a client can see of the state.
fn description(config: &Config) -> String {
    let mut text = format!("{:?}\n", config.node());
    for (port, object) in config.ports() {
        let _ = writeln!(text, "{port:?} {object:?} {:?}", config.port_mtu(port));
    }
    for tunnel in config.tunnels() {
        let _ = writeln!(text, "{tunnel:?}");
    }
    let sets: BTreeMap<_, _> = config.address_sets().iter().collect();
    let _ = writeln!(text, "{sets:?}");
    for set in config.policy_sets() {
        let _ = writeln!(text, "{:?}", set.object());
    }
    let _ = config.routes().for_each(None, |route, origin| {
        let _ = writeln!(text, "{route:?} {origin:?}");
        ControlFlow::Continue(())
    });
    text
}

/// A port has the policy set that it names, and that judges everybody.
fn check_policy(snapshot: &Snapshot, index: Option<PolicyIndex>, id: Option<u64>) {
    assert_eq!(index.is_some(), id.is_some());
    let Some(index) = index else { return };
    let set = snapshot.policies.get(index).expect("a port's policy set is there");
    assert_eq!(Some(set.object().id), id);
    for peer in [IpAddr::from([10, 0, 0, 1]), IpAddr::from([0; 16])] {
        for port in [None, Some(0), Some(80), Some(u16::MAX)] {
            if let Some(rule) = set.judge(peer, 6, port) {
                assert!(set.rule(rule).is_some());
            }
        }
    }
}

fn check(config: &Config, snapshot: &Snapshot) {
    for (port, object) in config.ports() {
        let entry = snapshot.port(port).expect("every port is in the snapshot");
        assert_eq!(*entry.name, *object.name);
        assert_eq!(Some(entry.mtu_bytes), config.port_mtu(port));
        assert_eq!(*entry.addresses, *object.addresses);
        assert!(snapshot.vrf(entry.vrf).is_some_and(|vrf| vrf.id == object.vrf));
        check_policy(snapshot, entry.ingress_policy, object.ingress_policy);
        check_policy(snapshot, entry.egress_policy, object.egress_policy);
    }
    assert_eq!(snapshot.ports.iter().flatten().count(), config.ports().count());
    let mut routes = 0;
    for vrf in snapshot.vrfs.iter().flatten() {
        let _ = vrf.fib.for_each(|prefix, group| {
            routes += 1;
            let found = vrf.fib.lookup(prefix.network()).expect("its own route at least");
            assert!(found.length >= prefix.prefix_len());
            for hash in [0, 1 << 63, u64::MAX] {
                let index = snapshot.pick(group, hash).expect("a group has members");
                assert!(snapshot.next_hops.slot(index).is_some());
            }
            ControlFlow::Continue(())
        });
    }
    assert_eq!(routes, config.route_count());
    for tunnel in config.tunnels() {
        let remote = tunnel.object.remote;
        let vni = encap::vxlan::Vni::new(tunnel.object.vni).expect("it was checked");
        assert!(snapshot.tunnel_to(remote, vni).is_some());
        assert_eq!(config.next_hop_name(tunnel.next_hop), Some(&*tunnel.object.name));
    }
}
