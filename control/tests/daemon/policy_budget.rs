//! How long a pod's change takes from where control learns of it to the engine's acknowledgement,
//! in a large cluster. Figures mean something in a release build only:
//! `cargo test --release -p control --test daemon policy_budget -- --nocapture`.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use control::{
    attachment::{Attachment, AttachmentKey, Means, Phase},
    cluster::{Cluster, Node as ClusterNode, Pod},
    compile::{Backend, Dataplane},
    desired::Desired,
    mac::MacAddress,
    names::NodeName,
    policy::Policy,
    sync::EngineLink,
    vhost_socket::VhostSocket,
};
use control_api::engine::VxlanSettings;

use crate::{
    engine::FixtureEngine,
    large_cluster::LargeCluster,
    node::{LIMIT, Node, need_namespaces},
};

/// The pods of this node are the cluster's of that number.
const NODE: &str = "node-7";

/// How many of them are attached. Without optimization, the engine takes too long for all.
const LOCAL_PODS: usize = if cfg!(debug_assertions) { 10 } else { 100 };

/// What a change may take at the median; the machine stalls too long for a word about the worst.
const CHANGE_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 5000 } else { 10 });

/// From nothing to everything in force, compiled and sent.
const FROM_NOTHING_MAX: Duration =
    Duration::from_secs(if cfg!(debug_assertions) { 120 } else { 2 });

fn cluster() -> Cluster {
    let LargeCluster { namespaces, pods, policies } = LargeCluster::new();
    let node = |number: u8| {
        let name = NodeName::new(format!("node-{number}"));
        let node = ClusterNode {
            name: name.clone(),
            addresses: vec![IpAddr::from([192, 0, 2, number + 1])],
            ranges: vec![format!("10.200.{number}.0/24").parse().unwrap()],
            kernel_peer: None,
        };
        (name, node)
    };
    let policies = policies.values().map(Policy::parse);
    Cluster {
        nodes: (0..100).map(node).collect(),
        pods: pods.into_iter().map(|(name, pod)| (name, Arc::new(pod))).collect(),
        namespaces,
        policies: policies.map(|policy| (policy.name().clone(), policy)).collect(),
        ..Cluster::default()
    }
}

/// A pod of this node, attached by a socket, which is the cheapest port to open and close.
fn attachment(folder: &Path, pod: &Pod) -> Attachment {
    let socket = VhostSocket {
        folder: folder.to_owned(),
        name: pod.name.to_string().replace('/', "-"),
        link: None,
        uid: 0,
        gid: 0,
        device_info: None,
    };
    let key = AttachmentKey { container_id: pod.name.to_string(), ifname: "eth0".to_owned() };
    Attachment {
        phase: Phase::Ready,
        network: "vrouter".to_owned(),
        netns: String::new(),
        pod: pod.name.clone(),
        addresses: pod.addresses.clone(),
        mac: MacAddress::from_preferred(&pod.addresses),
        mtu_bytes: 1450,
        host_interface: key.host_interface(),
        key,
        means: Means::VhostUser(socket),
        delegate: None,
    }
}

/// Before each change: the engine publishes at most 100 times a second, so that one that follows
/// another at once waits for its turn. What is measured is a change that comes at rest.
const REST: Duration = Duration::from_millis(20);

/// What is measured.
struct Figures {
    from_nothing: Duration,
    /// By what changed, each sorted.
    changes: BTreeMap<&'static str, Vec<Duration>>,
}

async fn measure(desired: &Desired, sockets: &Path) -> Figures {
    let mut cluster = cluster();
    let here = NodeName::new(NODE);
    let local = cluster.pods.values().filter(|pod| pod.node.as_ref() == Some(&here));
    let local: Vec<_> = local.take(LOCAL_PODS).cloned().collect();
    assert_eq!(local.len(), LOCAL_PODS);
    desired.adopt(local.iter().map(|pod| attachment(sockets, pod)));
    let start = Instant::now();
    let revision = desired.set_cluster(Arc::new(cluster.clone())).unwrap();
    desired.engine().wait(revision, LIMIT).await.unwrap();
    let from_nothing = start.elapsed();
    let mut changes: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
    let remote: Vec<_> =
        cluster.pods.values().filter(|pod| pod.node.as_ref() != Some(&here)).step_by(331).collect();
    let names = remote.into_iter().chain(local.iter().step_by(4)).map(|pod| pod.name.clone());
    for name in names.collect::<Vec<_>>() {
        for app in ["app-3", "app-4"] {
            let pod = Arc::make_mut(cluster.pods.get_mut(&name).unwrap());
            let is_local = pod.node.as_ref() == Some(&here);
            let change = if is_local { "labels of a local pod" } else { "labels of a remote pod" };
            pod.labels.insert("app".to_owned(), app.to_owned());
            let next = Arc::new(cluster.clone());
            tokio::time::sleep(REST).await;
            let start = Instant::now();
            let revision = desired.set_cluster(next).unwrap();
            desired.engine().wait(revision, LIMIT).await.unwrap();
            changes.entry(change).or_default().push(start.elapsed());
        }
    }
    for attachment in local.iter().take(20).map(|pod| attachment(sockets, pod)) {
        tokio::time::sleep(REST).await;
        let start = Instant::now();
        let revision = desired.close(&attachment.key).unwrap();
        desired.engine().wait(revision, LIMIT).await.unwrap();
        changes.entry("a pod goes").or_default().push(start.elapsed());
        tokio::time::sleep(REST).await;
        let start = Instant::now();
        let revision = desired.open(&attachment).unwrap();
        desired.engine().wait(revision, LIMIT).await.unwrap();
        changes.entry("a pod comes").or_default().push(start.elapsed());
    }
    for times in changes.values_mut() {
        times.sort();
    }
    Figures { from_nothing, changes }
}

#[expect(clippy::print_stderr, reason = "figures")]
fn judge(what: &str, figures: &Figures) {
    eprintln!("{what}: from nothing {:?}", figures.from_nothing);
    for (change, times) in &figures.changes {
        let (least, median, worst) = (times[0], times[times.len() / 2], times[times.len() - 1]);
        eprintln!("{what}: {change}: least {least:?}, median {median:?}, worst {worst:?}");
        assert!(median <= CHANGE_MAX, "{change}: {median:?}");
    }
    assert!(figures.from_nothing <= FROM_NOTHING_MAX, "{:?}", figures.from_nothing);
}

fn desired(link: EngineLink) -> Desired {
    let dataplane = Dataplane {
        vxlan: VxlanSettings::default(),
        uplink: Backend::Memory,
        uplink_mtu_bytes: 1500,
        host: Backend::Memory,
        host_mtu_bytes: 1450,
    };
    Desired::new(NodeName::new(NODE), dataplane, Some(1), link)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_change_leaves_control_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let engine = FixtureEngine::start(&folder.path().join("e.sock"), 1);
    let desired = desired(EngineLink::start(engine.socket.clone()));
    judge("control alone", &measure(&desired, folder.path()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_change_is_in_force_in_the_engine_within_the_budget() {
    need_namespaces!();
    let mut node = Node::new("10.200.7.0/24");
    node.start_engine();
    let desired = desired(EngineLink::start(node.engine_socket()));
    let figures = measure(&desired, node.folder.path()).await;
    let state = desired.engine().state();
    assert!(state.port_errors.is_empty(), "{:?}", state.port_errors);
    judge("with the engine", &figures);
}
