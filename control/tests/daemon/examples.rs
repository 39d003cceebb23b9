//! The policies of `docs/examples`, each with real connections between pods on two nodes, over both
//! families, while it is applied, and after it is removed.

use std::{fs, net::IpAddr, path::Path};

use crate::{
    node::{Node, need_namespaces},
    probe::{Kind, Probe, Servers, assert_all, connect, is_echoed},
};

/// The pods of `docs/examples/cluster.yaml`: the node's place, namespace, name, last part of the
/// addresses.
const PODS: [(usize, &str, &str, &str); 5] = [
    (0, "dev", "web", "10"),
    (1, "dev", "client", "10"),
    (0, "prod", "api", "20"),
    (1, "prod", "db", "20"),
    (1, "kube-system", "dns", "53"),
];

/// What is tried between each two pods.
const KINDS: [Kind; 8] = [
    Kind::Ping,
    Kind::Tcp(53),
    Kind::Tcp(80),
    Kind::Tcp(443),
    Kind::Tcp(8080),
    Kind::Udp(53),
    Kind::Udp(8080),
    Kind::Sctp(80),
];

/// Whether `to` may be reached from `from`, both as "namespace/name".
type Expected = fn(from: &str, to: &str, kind: Kind) -> bool;

fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// Two nodes with the cluster of the examples, its pods attached and serving.
struct Cluster {
    nodes: [Node; 2],
    /// The pods' namespaces, in the order of [`PODS`].
    pods: Vec<String>,
    servers: Vec<Servers>,
}

impl Cluster {
    async fn start() -> Self {
        let mut nodes = Node::pair();
        for node in &mut nodes {
            node.write_manifest("cluster.yaml", &example("cluster.yaml"));
            node.start_engine();
        }
        for node in &mut nodes {
            node.start().await;
            node.until_in_step().await;
        }
        let mut cluster = Self { nodes, pods: Vec::new(), servers: Vec::new() };
        for (place, namespace, name, _) in PODS {
            let node = &mut cluster.nodes[place];
            let netns = node.add_pod(name);
            let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
            node.verb("ADD", name).args(&args).succeed().await;
            cluster.servers.push(Servers::start(&netns));
            cluster.pods.push(netns);
        }
        cluster
    }

    /// Puts policies in force on both nodes, in place of those that were.
    async fn apply(&self, policies: &[&str]) {
        let text = policies.join("---\n");
        for node in &self.nodes {
            node.write_manifest("policies.yaml", &text);
        }
        let count = u32::try_from(policies.len()).unwrap();
        for node in &self.nodes {
            let is_known = |policies: u32| policies == count;
            node.until_status("the policies are read", |status| {
                status.policy.as_ref().is_some_and(|policy| is_known(policy.policies))
                    && status.problems.is_empty()
            })
            .await;
            node.until_in_step().await;
        }
    }

    async fn expect(&self, what: &str, expected: Expected) {
        let mut probes = Vec::new();
        for (index, from) in PODS.iter().enumerate() {
            for to in PODS.iter().filter(|to| *to != from) {
                let [from_name, to_name] = [from, to].map(|pod| format!("{}/{}", pod.1, pod.2));
                probes.extend(addresses(to).into_iter().flat_map(|address| {
                    let probe = |kind| Probe {
                        ends: format!("{from_name} → {to_name}"),
                        from: self.pods[index].clone(),
                        to: address,
                        kind,
                        is_allowed: expected(&from_name, &to_name, kind),
                    };
                    KINDS.map(probe)
                }));
            }
        }
        // A node reaches its own pods, and a pod itself, whatever the policies.
        for (index, pod) in PODS.iter().enumerate() {
            let own = [self.nodes[pod.0].namespace(), self.pods[index].clone()];
            for (from, address) in own.iter().flat_map(|own| addresses(pod).map(|ip| (own, ip))) {
                probes.extend([Kind::Ping, Kind::Tcp(8080)].map(|kind| Probe {
                    ends: format!("the node or pod itself → {}/{}", pod.1, pod.2),
                    from: from.clone(),
                    to: address,
                    kind,
                    is_allowed: true,
                }));
            }
        }
        assert_all(what, probes).await;
    }

    /// Applies policies, expects something of them, removes them, and expects everything again.
    async fn apply_and_lift(&self, what: &str, policies: &[&str], expected: Expected) {
        self.apply(policies).await;
        self.expect(what, expected).await;
        self.apply(&[]).await;
        self.expect(&format!("{what}, lifted"), |_, _, _| true).await;
    }
}

fn addresses((place, _, _, last): &(usize, &str, &str, &str)) -> [IpAddr; 2] {
    let node = place + 1;
    [format!("10.244.{node}.{last}"), format!("fd00:10:244:{node}::{last}")]
        .map(|address| address.parse().unwrap())
}

fn is_in(pod: &str, namespace: &str) -> bool {
    pod.split('/').next() == Some(namespace)
}

#[tokio::test(flavor = "multi_thread")]
async fn deny_ingress_and_allow_all() {
    need_namespaces!();
    let cluster = Cluster::start().await;
    cluster.expect("no policy", |_, _, _| true).await;
    let deny = example("deny-ingress.yaml");
    cluster.apply_and_lift("deny-ingress", &[&deny], |_, to, _| !is_in(to, "dev")).await;
    // Policies add up: whoever allows all lifts what another denies.
    let allow = example("allow-all.yaml");
    cluster.apply_and_lift("both", &[&deny, &allow], |_, _, _| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn web_ports_from_a_block_except_one_address_and_then_fewer() {
    need_namespaces!();
    let cluster = Cluster::start().await;
    let ports = example("web-ports.yaml");
    cluster.apply(&[&ports]).await;
    let expected: Expected = |from, to, kind| {
        to != "dev/web" || (from != "dev/client" && matches!(kind, Kind::Tcp(80 | 443)))
    };
    cluster.expect("web-ports", expected).await;
    // Changed while it is in force.
    let port = "        - {protocol: TCP, port: 443}\n";
    assert!(ports.contains(port));
    let other = ports.replace(port, "").replace("name: web-ports", "name: web-port");
    let (before, after) = (example("deny-egress.yaml"), other);
    cluster.apply(&[&before, &after]).await;
    cluster
        .expect("web-ports without 443, and deny-egress", |from, to, kind| {
            let is_let_in = from != "dev/client" && kind == Kind::Tcp(80);
            !is_in(from, "prod") && (to != "dev/web" || is_let_in)
        })
        .await;
    cluster.apply(&[]).await;
    cluster.expect("lifted", |_, _, _| true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deny_egress_and_one_namespace() {
    need_namespaces!();
    let cluster = Cluster::start().await;
    let egress = example("deny-egress.yaml");
    cluster.apply_and_lift("deny-egress", &[&egress], |from, _, _| !is_in(from, "prod")).await;
    let from_dev = example("one-namespace.yaml");
    let expected: Expected = |from, to, _| !is_in(to, "prod") || is_in(from, "dev");
    cluster.apply_and_lift("one-namespace", &[&from_dev], expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_only() {
    need_namespaces!();
    let cluster = Cluster::start().await;
    let expected: Expected = |from, to, kind| {
        !is_in(from, "dev")
            || (to == "kube-system/dns" && matches!(kind, Kind::Tcp(53) | Kind::Udp(53)))
    };
    cluster.apply_and_lift("dns-only", &[&example("dns-only.yaml")], expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_is_cut_by_a_policy_and_goes_on_when_it_is_lifted() {
    need_namespaces!();
    let cluster = Cluster::start().await;
    let client = &cluster.pods[1];
    for address in addresses(&PODS[0]) {
        let mut denied = connect(client, (address, 80).into()).await.unwrap();
        let mut allowed =
            connect(&cluster.pods[0], (addresses(&PODS[1])[0], 80).into()).await.unwrap();
        assert!(is_echoed(&mut denied).await && is_echoed(&mut allowed).await);
        let deny = example("deny-ingress.yaml")
            .replace("podSelector: {}", "podSelector: {matchLabels: {app: web}}");
        cluster.apply(&[&deny]).await;
        assert!(!is_echoed(&mut denied).await, "its next packet is judged anew");
        // Of the other one, the pod's own connection, only the answers come in.
        assert!(is_echoed(&mut allowed).await);
        cluster.apply(&[]).await;
        let started = std::time::Instant::now();
        while !is_echoed(&mut denied).await {
            assert!(started.elapsed() < crate::node::LIMIT, "it does not go on");
        }
    }
}
