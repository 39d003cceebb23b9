//! What compiling costs at the size of a large cluster: 10,000 pods, 1,000 policies and 100
//! namespaces. Figures mean something in a release build only:
//! `cargo test --release -p control --test policy budgets -- --nocapture`.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use control::{
    cluster::{NamedPort, Pod, Protocol},
    names::{NodeName, PodName},
    policy::{Compiler, PolicyName, Scope},
};
use serde_json::{Value, json};

use crate::{in_force::InForce, world::World};

const NAMESPACES: u16 = 100;
const PODS_PER_NAMESPACE: u16 = 100;
const POLICIES_PER_NAMESPACE: u16 = 10;
const NODES: u16 = 100;
const TEAMS: u16 = 10;

const FROM_NOTHING_MAX: Duration = Duration::from_secs(1);
const ONE_POD_MAX: Duration = Duration::from_millis(1);
const MEMORY_BYTES_MAX: usize = 200 << 20;

fn labels(labels: &[(&str, String)]) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn pod(namespace: u16, number: u16) -> Pod {
    let [space, pod] = [namespace, number].map(|n| u8::try_from(n).unwrap());
    let v6 = Ipv6Addr::new(0xfd00, 10, 0, 0, 0, 0, namespace, number);
    Pod {
        name: PodName::new(format!("ns-{namespace}"), format!("pod-{number}")),
        node: Some(NodeName::new(format!("node-{}", (namespace + number) % NODES))),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 10, space, pod)), IpAddr::V6(v6)],
        host_network: false,
        labels: labels(&[
            ("app", format!("app-{}", number % 20)),
            ("tier", format!("tier-{}", number % 4)),
            (
                "pod-template-hash",
                format!("{:08x}", u32::from(namespace) << 16 | u32::from(number)),
            ),
            ("app.kubernetes.io/name", format!("name-{}", number % 20)),
            ("app.kubernetes.io/part-of", format!("ns-{namespace}")),
            ("version", format!("v{}", number % 3)),
        ]),
        named_ports: vec![NamedPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            number: 8080 + number % 3,
        }],
        port_type: None,
        shared_dir: None,
    }
}

/// Policies as people write them: most about their own namespace, some about a team's or about all,
/// each of its own wording.
fn spec(namespace: u16, number: u16) -> Value {
    let app = |n: u16| format!("app-{}", n % 20);
    let seed = namespace * POLICIES_PER_NAMESPACE + number;
    let team = json!({"matchLabels": {"team": format!("team-{}", seed % TEAMS)}});
    json!({
        "podSelector": {"matchLabels": {"app": app(number)}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"app": app(number + 1)}}},
                      {"podSelector": {"matchLabels": {"app": app(number + 2)}}}],
             "ports": [{"port": "http"}, {"port": 9090, "endPort": 9100}]},
            {"from": [{"namespaceSelector": team, "podSelector": {"matchExpressions": [
                {"key": "app", "operator": "In", "values": [app(seed), app(seed + 7)]}]}}]},
            {"from": [{"ipBlock": {"cidr": "172.16.0.0/12", "except": ["172.17.0.0/16"]}}]},
        ],
        "egress": [
            {"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {
                "app": app(seed), "tier": format!("tier-{}", seed % 4),
                "version": format!("v{}", seed % 3)}}}]},
            {"to": [{"namespaceSelector": {"matchExpressions": [
                {"key": "team", "operator": "NotIn", "values": [format!("team-{}", seed % 7)]}]}}],
             "ports": [{"port": "http"}]},
            {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]},
        ],
    })
}

fn world() -> World {
    let mut world = World::default();
    for namespace in 0..NAMESPACES {
        let name = format!("ns-{namespace}");
        let team = labels(&[("team", format!("team-{}", namespace % TEAMS))]);
        world.namespaces.insert(name.clone(), team);
        for number in 0..PODS_PER_NAMESPACE {
            let pod = pod(namespace, number);
            world.pods.insert(pod.name.clone(), pod);
        }
        for number in 0..POLICIES_PER_NAMESPACE {
            let metadata = json!({"namespace": name, "name": format!("policy-{number}")});
            let object = json!({"metadata": metadata, "spec": spec(namespace, number)});
            let policy = PolicyName { namespace: name.clone(), name: format!("policy-{number}") };
            world.policies.insert(policy, serde_json::from_value(object).unwrap());
        }
    }
    world
}

/// The memory that this process has, in bytes.
fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

/// What a pod's changes cost: to other labels, and to be made and removed.
fn measure_pods(compiler: &mut Compiler, in_force: &mut InForce, world: &World) -> Vec<Duration> {
    let mut times = Vec::new();
    for pod in world.pods.values().step_by(97) {
        let only = |pod: &Pod| World {
            pods: [(pod.name.clone(), pod.clone())].into(),
            ..World::default()
        };
        let mut relabelled = pod.clone();
        relabelled.labels.insert("app".into(), "app-3".into());
        relabelled.labels.insert("version".into(), "v9".into());
        let (before, after) = (only(pod), only(&relabelled));
        let nothing = World::default();
        for (old, new) in [(&before, &after), (&after, &nothing), (&nothing, &before)] {
            let changes = new.changes_since(old);
            let start = Instant::now();
            let update = compiler.apply(changes);
            times.push(start.elapsed());
            in_force.take(update);
        }
    }
    times.sort();
    times
}

#[test]
#[expect(clippy::print_stderr, reason = "figures, and that the test was skipped")]
fn a_large_cluster_compiles_within_the_budgets() {
    if cfg!(debug_assertions) {
        return eprintln!("SKIPPED: figures of a build without optimization say nothing");
    }
    let world = world();
    for scope in [Scope::Cluster, Scope::Node(NodeName::new("node-7"))] {
        // The changes count, too: what of them is freed on the way is the compiler's room to grow.
        let before = resident_bytes();
        let changes = world.changes_since(&World::default());
        let mut compiler = Compiler::new(scope.clone());
        let start = Instant::now();
        let update = compiler.apply(changes);
        let from_nothing = start.elapsed();
        let memory = resident_bytes().saturating_sub(before);
        let counts =
            (update.policy_sets.len(), update.address_sets.len(), update.assignments.len());
        let mut in_force = InForce::default();
        in_force.take(update);
        let times = measure_pods(&mut compiler, &mut in_force, &world);
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        eprintln!(
            "{scope:?}: {from_nothing:?} from nothing, {} MiB, a pod's change {median:?} (worst of \
             {}: {worst:?}); policy sets, address sets, pods: {counts:?}",
            memory >> 20,
            times.len(),
        );
        assert!(from_nothing <= FROM_NOTHING_MAX, "{from_nothing:?}");
        assert!(median <= ONE_POD_MAX, "{median:?}");
        assert!(memory <= MEMORY_BYTES_MAX, "{memory} bytes");
        assert_eq!(in_force, world.compile(scope));
    }
}
