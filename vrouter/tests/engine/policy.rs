//! Policy of a large cluster: a pod that comes or goes is in force at once.

use std::time::{Duration, Instant};

use control_api::engine as api;
use vrouter::drops::DropReason;

use crate::{
    rig::{Rig, object, pod},
    traffic::{Traffic, frame, number},
};

/// A debug build does the twentieth part.
const PART: u32 = if cfg!(debug_assertions) { 20 } else { 1 };
/// Pods of the cluster.
const PODS: u32 = 10_000 / PART;
/// Policy sets on the node, all of which name all address sets.
const POLICY_SETS: u64 = 240 / PART as u64;
/// Address sets: the id, and which share of the pods is in it.
const ADDRESS_SETS: [(u64, u32); 3] = [(1, 1), (2, 10), (3, 100)];
/// The first policy set's id: the one that isolates a pod of ours.
const FIRST: u64 = 0x100;
/// Of the issue: a pod's change is in force within this time.
const CHANGE_MAX: Duration = Duration::from_millis(10);
/// Pods that come and go.
const TRIES: u32 = 25;

fn address(pod: u32) -> [u8; 4] {
    (0x0a80_0000 + pod).to_be_bytes()
}

/// All address sets, with one pod more: such a change is all that control sends for it.
fn address_sets(newcomer: Option<u32>) -> Vec<api::Object> {
    let set = |(id, share): (u64, u32)| {
        let members = (0..PODS).filter(|pod| pod.is_multiple_of(share)).chain(newcomer);
        let ipv4 = members.flat_map(address).collect();
        object(api::object::Kind::AddressSet(api::AddressSet { id, ipv4, ipv6: vec![] }))
    };
    ADDRESS_SETS.into_iter().map(set).collect()
}

fn policy_set(id: u64) -> api::Object {
    let rule = |(set, _): (u64, u32)| api::PolicyRule {
        address_sets: vec![set],
        ports: vec![api::ProtocolPorts { protocol: 17, first: 53, last: 53 }],
        path: "spec.egress[0]".into(),
        ..api::PolicyRule::default()
    };
    let rules = ADDRESS_SETS.into_iter().map(rule).collect();
    let policies = vec![format!("default/{id}")];
    object(api::object::Kind::PolicySet(api::PolicySet { id, policies, rules }))
}

fn isolated_pod() -> api::Object {
    let mut pod = pod("default/c", 4);
    if let Some(api::object::Kind::Port(port)) = &mut pod.kind {
        port.egress_policy = FIRST;
    }
    pod
}

/// All pods of the cluster are reached through the node.
fn route() -> api::Object {
    let prefix = api::Prefix { address: vec![10, 128, 0, 0], length: 16 };
    object(api::object::Kind::Route(api::Route {
        key: Some(api::RouteKey { vrf: 0, prefix: Some(prefix) }),
        next_hops: vec![api::NextHop { via: Some(api::next_hop::Via::Port("host".into())) }],
    }))
}

#[test]
fn one_of_ten_thousand_pods_comes_and_goes_within_ten_milliseconds_with_traffic_running() {
    let (mut rig, [mut host, a, b]) = Rig::forwarding(2);
    let mut objects = vec![isolated_pod(), route()];
    objects.extend((FIRST..FIRST + POLICY_SETS).map(policy_set));
    objects.extend(address_sets(None));
    let begin = Instant::now();
    rig.apply(objects, &[]).unwrap();
    println!("{POLICY_SETS} policy sets of {PODS} pods in {:?}", begin.elapsed());
    let mut c = rig.peer("default/c");
    let traffic = Traffic::start(a, b);
    let mut times = Vec::new();
    for pod in PODS..PODS + TRIES {
        let packet = frame(4, address(pod), u64::from(pod));
        // It is there: packets reach it.
        let objects = address_sets(Some(pod));
        let begin = Instant::now();
        rig.apply(objects, &[]).unwrap();
        times.push(begin.elapsed());
        assert!(c.send(0, &packet));
        rig.tick_until(|_, _| host.receive().is_some_and(|it| number(&it) == u64::from(pod)));
        // It is gone: the next packet of the same flow does not.
        let objects = address_sets(None);
        let begin = Instant::now();
        rig.apply(objects, &[]).unwrap();
        times.push(begin.elapsed());
        assert!(c.send(0, &packet));
        let expected = u64::from(pod - PODS) + 1;
        rig.tick_until(|rig, _| {
            let totals = rig.port("default/c").totals;
            totals.dropped_for(DropReason::PolicyEgressDenied) == expected
        });
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let sent = traffic.stop();
    println!("a change: median {median:?}, worst {worst:?}; {sent} packets meanwhile");
    // The machine may stall; the median is the engine's own doing.
    assert!(median <= CHANGE_MAX, "{median:?}");
    assert!(sent > 0);
    drop((host, c));
    let balance = rig.finish().balance();
    assert_eq!(balance.dropped, u64::from(TRIES), "{balance:?}");
    assert_eq!(balance.received, sent + 2 * u64::from(TRIES));
}
