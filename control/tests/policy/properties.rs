//! On random clusters: what is compiled says what the API says, and changes leave no trace.

use std::net::IpAddr;

use control::{
    names::NodeName,
    policy::{Compiler, Scope},
};
use proptest::{collection::vec, prelude::*, test_runner::TestCaseResult};

use crate::{
    in_force::InForce,
    naive::{Direction, Peer},
    random::{step, world},
    world::World,
};

/// Ports that some rule or some pod names, their neighbours, and what has no ports.
const PORTS: [(u8, u16); 9] =
    [(6, 53), (6, 79), (6, 80), (6, 82), (17, 53), (17, 80), (132, 81), (1, 0), (58, 0)];

/// Holds every verdict about the pods in scope against the naive evaluator's.
fn check(world: &World, in_force: &InForce, scope: &Scope) -> TestCaseResult {
    let outside = ["10.0.1.9", "192.0.2.1", "fd00:0:0:1::9", "2001:db8::1"];
    let outside = outside.map(|text| text.parse::<IpAddr>().unwrap());
    let pods = || world.pods.values();
    let is_pods = |address: &IpAddr| pods().any(|pod| pod.addresses.contains(address));
    let peers = pods()
        .flat_map(|pod| pod.addresses.iter().map(move |address| (*address, Some(pod))))
        .chain(outside.into_iter().filter(|address| !is_pods(address)).map(|ip| (ip, None)));
    for (address, peer) in peers {
        for pod in pods() {
            if matches!(scope, Scope::Node(node) if pod.node.as_ref() != Some(node)) {
                prop_assert!(!in_force.assignments.contains_key(&pod.name));
                continue;
            }
            for direction in [Direction::Ingress, Direction::Egress] {
                for port in PORTS {
                    let expected = world.allows(direction, pod, Peer { address, pod: peer }, port);
                    let compiled = in_force.allows(direction, &pod.name, address, port);
                    prop_assert_eq!(
                        compiled,
                        expected,
                        "{:?} of {} with {} {:?}",
                        direction,
                        pod.name,
                        address,
                        port
                    );
                }
            }
        }
    }
    Ok(())
}

fn node_a() -> Scope {
    Scope::Node(NodeName::new("node-a"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn compiled_policy_says_what_the_api_says(world in world(), is_node in any::<bool>()) {
        let scope = if is_node { node_a() } else { Scope::Cluster };
        check(&world, &world.compile(scope.clone()), &scope)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changes_lead_where_a_fresh_start_leads(
        world in world(), batches in vec(vec(step(), 1..6), 1..10), is_node in any::<bool>()
    ) {
        let scope = if is_node { node_a() } else { Scope::Cluster };
        let mut compiler = Compiler::new(scope.clone());
        let mut in_force = InForce::default();
        let mut known = World::default();
        let mut world = world;
        for batch in batches {
            in_force.take(compiler.apply(world.changes_since(&known)));
            known = world.clone();
            for step in batch {
                world.step(step);
            }
            in_force.take(compiler.apply(world.changes_since(&known)));
            prop_assert_eq!(&in_force, &world.compile(scope.clone()));
            let mut state = InForce::default();
            state.take(compiler.state());
            prop_assert_eq!(&in_force, &state);
            prop_assert!(compiler.apply([]).is_empty());
            known = world.clone();
        }
        check(&world, &in_force, &scope)?;
    }

    #[test]
    fn what_comes_and_goes_within_a_batch_leaves_no_trace(
        world in world(), steps in vec(step(), 1..12)
    ) {
        let mut compiler = Compiler::new(Scope::Cluster);
        let mut in_force = InForce::default();
        in_force.take(compiler.apply(world.changes_since(&World::default())));
        let (mut stepped, mut changes) = (world.clone(), Vec::new());
        for step in steps {
            let before = stepped.clone();
            stepped.step(step);
            changes.extend(stepped.changes_since(&before));
        }
        in_force.take(compiler.apply(changes));
        prop_assert_eq!(&in_force, &stepped.compile(Scope::Cluster));
        let everything_gone = World::default().changes_since(&stepped);
        in_force.take(compiler.apply(everything_gone));
        prop_assert_eq!(in_force, InForce::default());
    }
}
