//! Tests of policy for what is attached.

use control_api::engine::{PolicySet, object::Kind};
use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::*;
use crate::{
    attachment::{Means, Phase},
    manifests::load_folder,
};

const NODES: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDRs: [10.244.1.0/24]},
   status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
- {apiVersion: v1, kind: Node, metadata: {name: b}, spec: {podCIDRs: [10.244.2.0/24]},
   status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
";

/// `web` may be reached by `app: client`; whoever is in `shop` by nobody else.
const POLICIES: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: closed}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
";

fn pod(name: &str, app: &str, node: &str, address: &str) -> String {
    let status = if address.is_empty() { "{}".into() } else { format!("{{podIP: {address}}}") };
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: {name}, labels: \
         {{app: {app}}}}}, spec: {{nodeName: {node}, containers: []}}, status: {status}}}\n"
    )
}

fn cluster(parts: &[&str]) -> Arc<Cluster> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cluster.yaml"), parts.concat()).unwrap();
    let (cluster, problems) = load_folder(dir.path());
    assert!(problems.is_empty(), "{problems:?}");
    Arc::new(cluster)
}

fn attached(pods: &[(&str, &str)]) -> BTreeMap<AttachmentKey, Attachment> {
    let attachment = |(pod, address): &(&str, &str)| {
        let key = AttachmentKey { container_id: format!("id-{pod}"), ifname: "eth0".into() };
        let attachment = Attachment {
            key: key.clone(),
            phase: Phase::Ready,
            network: String::new(),
            netns: String::new(),
            pod: PodName::new("shop", *pod),
            addresses: vec![address.parse().unwrap()],
            mac: None,
            mtu_bytes: 1450,
            host_interface: key.host_interface(),
            means: Means::Veth,
            delegate: None,
        };
        (key, attachment)
    };
    pods.iter().map(attachment).collect()
}

fn follow(cluster: &Arc<Cluster>, pods: &[(&str, &str)]) -> NodePolicy {
    let mut policy = NodePolicy::new(NodeName::new("a"));
    policy.follow(cluster, &attached(pods));
    policy
}

/// The policies that isolate a pod in what comes to it.
fn isolating(policy: &NodePolicy, pod: &str) -> Vec<String> {
    let id = policy.assignment(&PodName::new("shop", pod)).ingress;
    sets(policy).find(|set| set.id == id).map(|set| set.policies.clone()).unwrap_or_default()
}

fn sets(policy: &NodePolicy) -> impl Iterator<Item = &PolicySet> {
    policy.objects().iter().filter_map(|object| match &object.kind {
        Some(Kind::PolicySet(set)) => Some(set),
        _ => None,
    })
}

/// Whoever some rule names by labels.
fn peers(policy: &NodePolicy) -> BTreeSet<IpAddr> {
    let sets = policy.objects().iter().filter_map(|object| match &object.kind {
        Some(Kind::AddressSet(set)) => Some(set),
        _ => None,
    });
    let octets = sets.flat_map(|set| set.ipv4.as_chunks::<4>().0);
    octets.map(|octets| IpAddr::from(*octets)).collect()
}

fn address(text: &str) -> BTreeSet<IpAddr> {
    [text.parse().unwrap()].into()
}

#[test]
fn a_pod_without_an_object_is_isolated_by_what_selects_every_pod_until_its_labels_come() {
    let unknown = cluster(&[NODES, POLICIES]);
    let here = attached(&[("web", "10.244.1.5")]);
    let mut policy = follow(&unknown, &[("web", "10.244.1.5")]);
    assert_eq!(isolating(&policy, "web"), ["shop/closed"]);
    assert!(sets(&policy).all(|set| set.rules.is_empty()), "nobody is let in");
    let known = cluster(&[NODES, POLICIES, &pod("web", "web", "a", "")]);
    policy.follow(&known, &here);
    assert_eq!(isolating(&policy, "web"), ["shop/closed", "shop/web"]);
}

#[test]
fn an_address_that_was_given_here_counts_though_no_object_lists_it() {
    let cluster = cluster(&[
        NODES,
        POLICIES,
        &pod("web", "web", "a", ""),
        &pod("one", "client", "a", ""),
        &pod("two", "client", "b", "10.244.2.7"),
    ]);
    let policy = follow(&cluster, &[("web", "10.244.1.5"), ("one", "10.244.1.6")]);
    assert_eq!(peers(&policy), &address("10.244.1.6") | &address("10.244.2.7"));
}

#[test]
fn an_address_that_is_attached_for_one_pod_gives_another_pod_no_rights() {
    let cluster = cluster(&[
        NODES,
        POLICIES,
        &pod("web", "web", "a", ""),
        &pod("old", "client", "a", "10.244.1.9"),
        &pod("new", "other", "a", ""),
    ]);
    let mut policy = follow(&cluster, &[("web", "10.244.1.5"), ("old", "10.244.1.9")]);
    assert_eq!(peers(&policy), address("10.244.1.9"));
    // The pod of the object is gone from here, and its address is another's now.
    policy.follow(&cluster, &attached(&[("web", "10.244.1.5"), ("new", "10.244.1.9")]));
    assert_eq!(peers(&policy), BTreeSet::new());
    // Nobody has it any more: it is promised to the pod of the object again.
    policy.follow(&cluster, &attached(&[("web", "10.244.1.5")]));
    assert_eq!(peers(&policy), address("10.244.1.9"));
}

/// Pods of node `a`, by name, label and what their objects list as addresses; one is refused.
fn conflicting(pods: &[(&str, &str, &str)]) -> Arc<Cluster> {
    let document = |(name, app, status): &(&str, &str, &str)| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{namespace: shop, name: {name}, labels: \
             {{app: {app}}}}}, spec: {{nodeName: a, containers: []}}, status: {{podIPs: \
             [{status}]}}}}\n"
        )
    };
    let documents = pods.iter().map(document).collect::<Vec<_>>().concat();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cluster.yaml"), [NODES, POLICIES, &documents].concat())
        .unwrap();
    let (cluster, problems) = load_folder(dir.path());
    assert_eq!(problems.len(), 1, "{problems:?}");
    Arc::new(cluster)
}

/// What may be wrong with the addresses of the pod `new`, and the address that it really has.
const FAULTS: [(&str, &str); 4] = [
    ("{ip: 10.244.1.9}", "10.244.1.9"),
    ("{ip: 10.9.9.9}", "10.9.9.9"),
    ("{ip: 10.244.1.10}, {ip: 10.244.1.11}", "10.244.1.11"),
    ("{ip: nonsense}", "10.244.1.12"),
];

#[test]
fn a_pod_with_an_address_that_is_refused_is_isolated_by_its_labels() {
    for (status, given) in FAULTS {
        let old = ("a-old", "db", "{ip: 10.244.1.9}");
        let cluster = conflicting(&[old, ("new", "web", status)]);
        let policy = follow(&cluster, &[("new", given)]);
        assert_eq!(isolating(&policy, "new"), ["shop/closed", "shop/web"], "{status}");
    }
}

#[test]
fn an_address_that_is_refused_is_a_peer_only_on_the_node_where_it_is_attached() {
    for (status, given) in FAULTS {
        let (web, old) = (("web", "web", ""), ("a-old", "client", "{ip: 10.244.1.9}"));
        let new = ("new", "client", status);
        let cluster = conflicting(&[web, old, new]);
        // Where only one claims it, it is that one's.
        let undisputed =
            if given == "10.244.1.9" { BTreeSet::new() } else { address("10.244.1.9") };
        let elsewhere = follow(&cluster, &[("web", "10.244.1.5")]);
        assert_eq!(peers(&elsewhere), undisputed, "{status}: nobody has another's rights");
        let here = follow(&cluster, &[("web", "10.244.1.5"), ("new", given)]);
        assert_eq!(peers(&here), &undisputed | &address(given), "{status}: the one attached");
        let first = follow(&cluster, &[("web", "10.244.1.5"), ("a-old", "10.244.1.9")]);
        assert_eq!(peers(&first), address("10.244.1.9"), "{status}: the first is attached");
    }
}

#[test]
fn sets_that_no_attached_pod_needs_are_not_there() {
    let cluster = cluster(&[
        NODES,
        POLICIES,
        &pod("web", "web", "a", "10.244.1.5"),
        &pod("one", "client", "a", "10.244.1.6"),
    ]);
    let mut policy = follow(&cluster, &[]);
    assert!(policy.objects().is_empty(), "both are of this node, and neither is attached");
    policy.follow(&cluster, &attached(&[("web", "10.244.1.5")]));
    assert_eq!(policy.objects().len(), 2);
    policy.follow(&cluster, &attached(&[]));
    assert!(policy.objects().is_empty());
    assert_eq!(policy.assignment(&PodName::new("shop", "web")), Assignment::default());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn how_it_came_about_leaves_no_trace(
        steps in vec((0_usize..4, subsequence(vec![0_usize, 1, 2, 3], 0..4)), 1..8)
    ) {
        let web = pod("web", "web", "a", "10.244.1.5");
        let (client, moved) =
            (pod("one", "client", "a", "10.244.1.6"), pod("one", "client", "b", "10.244.2.6"));
        let two = pod("two", "client", "a", "10.244.1.7");
        let clusters = [
            cluster(&[NODES, POLICIES]),
            cluster(&[NODES, POLICIES, &web, &client]),
            cluster(&[NODES, &web, &client, &two]),
            cluster(&[NODES, POLICIES, &web, &moved, &two]),
        ];
        let pods = [
            ("web", "10.244.1.5"), ("one", "10.244.1.6"), ("three", "10.244.1.7"),
            ("web", "10.244.1.8"),
        ];
        let mut policy = NodePolicy::new(NodeName::new("a"));
        for (which, here) in steps {
            let here: Vec<_> = here.into_iter().map(|index| pods[index]).collect();
            policy.follow(&clusters[which], &attached(&here));
            let fresh = follow(&clusters[which], &here);
            prop_assert_eq!(policy.objects(), fresh.objects());
            for (pod, _) in pods {
                let name = PodName::new("shop", pod);
                prop_assert_eq!(policy.assignment(&name), fresh.assignment(&name));
            }
        }
    }
}
