//! What compiling costs at the size of a large cluster: 10,000 pods, 1,000 policies and 100
//! namespaces. Figures mean something in a release build only:
//! `cargo test --release -p control --test policy budgets -- --nocapture`.

use std::{
    fs,
    time::{Duration, Instant},
};

use control::{
    cluster::Pod,
    names::NodeName,
    policy::{Compiler, Scope},
};

use crate::{in_force::InForce, large_cluster::LargeCluster, world::World};

const FROM_NOTHING_MAX: Duration = Duration::from_secs(1);
const ONE_POD_MAX: Duration = Duration::from_millis(1);
const MEMORY_BYTES_MAX: usize = 200 << 20;

fn world() -> World {
    let LargeCluster { namespaces, pods, policies } = LargeCluster::new();
    World { namespaces, pods, policies }
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
