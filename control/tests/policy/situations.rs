//! Situations by name: what is shared, what a change touches, and what must never be inherited.

use std::net::IpAddr;

use control::{
    cluster::{NamedPort, Pod, Protocol},
    names::{NodeName, PodName},
    policy::{Change, Compiler, Policy, Scope, Update},
};
use serde_json::{Value, json};

use crate::{in_force::InForce, naive::Direction::Ingress};

const TCP_80: (u8, u16) = (6, 80);

fn pod(name: &str, address: &str, labels: &[(&str, &str)]) -> Pod {
    let (namespace, name) = name.split_once('/').unwrap();
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Pod {
        name: PodName::new(namespace, name),
        node: Some(NodeName::new("node-a")),
        addresses: vec![address.parse().unwrap()],
        host_network: false,
        labels: labels.iter().map(owned).collect(),
        named_ports: Vec::new(),
        port_type: None,
        contested: Vec::new(),
        shared_dir: None,
    }
}

fn with_port(mut pod: Pod, name: &str, number: u16) -> Pod {
    pod.named_ports.push(NamedPort { name: name.into(), protocol: Protocol::Tcp, number });
    pod
}

fn policy(name: &str, spec: &Value) -> Change {
    let (namespace, name) = name.split_once('/').unwrap();
    let object = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
    Change::Policy(Policy::parse(&serde_json::from_value(object).unwrap()))
}

fn app(app: &str) -> Value {
    json!({"matchLabels": {"app": app}})
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A compiler, and what it has said so far.
struct Live {
    compiler: Compiler,
    in_force: InForce,
}

impl Live {
    fn new(scope: Scope, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut live = Self { compiler: Compiler::new(scope), in_force: InForce::default() };
        live.apply(changes);
        live
    }

    fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Update {
        let update = self.compiler.apply(changes);
        self.in_force.take(update.clone());
        update
    }

    fn lets_in(&self, pod: &str, peer: &str, port: (u8, u16)) -> bool {
        let (namespace, name) = pod.split_once('/').unwrap();
        self.in_force.allows(Ingress, &PodName::new(namespace, name), ip(peer), port)
    }
}

/// `shop/web` and `shop/spare` let in `app=client`, by two policies that ask alike.
fn shop() -> Vec<Change> {
    let from = json!([{"podSelector": app("client")}]);
    vec![
        Change::Pod(pod("shop/web", "10.0.0.1", &[("app", "web")])),
        Change::Pod(pod("shop/spare", "10.0.0.2", &[("app", "web")])),
        Change::Pod(pod("shop/client", "10.0.0.3", &[("app", "client")])),
        Change::Pod(pod("shop/other", "10.0.0.4", &[("app", "other")])),
        Change::Pod(pod("yard/client", "10.0.0.5", &[("app", "client")])),
        policy(
            "shop/plain",
            &json!({"podSelector": app("web"),
                "ingress": [{"from": from, "ports": [{"port": 80}]}]}),
        ),
        policy(
            "shop/secure",
            &json!({"podSelector": app("web"),
                "ingress": [{"from": from, "ports": [{"port": 443}]}]}),
        ),
    ]
}

#[test]
fn pods_selected_alike_share_a_set_and_rules_that_ask_alike_share_addresses() {
    let live = Live::new(Scope::Cluster, shop());
    assert_eq!(live.in_force.policy_sets.len(), 1);
    assert_eq!(live.in_force.address_sets.len(), 1);
    let set = live.in_force.policy_sets.values().next().unwrap();
    assert_eq!(set.policies, ["shop/plain", "shop/secure"]);
    let sources: Vec<_> = set
        .rules
        .iter()
        .map(|rule| (rule.policy, rule.path.as_str(), rule.ports[0].first))
        .collect();
    assert_eq!(sources, [(0, "spec.ingress[0].from[0]", 80), (1, "spec.ingress[0].from[0]", 443)]);
    assert!(live.lets_in("shop/web", "10.0.0.3", TCP_80));
    assert!(!live.lets_in("shop/web", "10.0.0.5", TCP_80), "another namespace's client");
}

#[test]
fn a_change_reports_only_what_it_affects() {
    let mut live = Live::new(Scope::Cluster, shop());
    let peer = live.apply([Change::Pod(pod("shop/other", "10.0.0.4", &[("app", "client")]))]);
    assert_eq!((peer.address_sets.len(), peer.policy_sets.len()), (1, 0));
    assert!(peer.assignments.is_empty(), "nothing isolates it, before and after");
    let stranger = live.apply([Change::Pod(pod("yard/client", "10.0.0.5", &[("app", "x")]))]);
    assert!(stranger.is_empty(), "{stranger:?}");
    let selected = live.apply([Change::Pod(pod("shop/spare", "10.0.0.2", &[("app", "x")]))]);
    assert_eq!(selected.assignments.len(), 1);
    assert!(selected.address_sets.is_empty() && selected.policy_sets.is_empty());
    let same = shop().into_iter().filter(|change| matches!(change, Change::Policy(_)));
    assert!(live.apply(same).is_empty());
}

#[test]
fn ids_outlive_the_compiler_and_edits_of_a_policy() {
    let mut changes = shop();
    let mut live = Live::new(Scope::Cluster, changes.clone());
    changes.reverse();
    assert_eq!(Live::new(Scope::Cluster, changes).in_force, live.in_force);
    let id = *live.in_force.policy_sets.keys().next().unwrap();
    let edited = live.apply([policy("shop/plain", &json!({"podSelector": app("web")}))]);
    assert_eq!(edited.policy_sets[0].id, id);
    assert!(edited.assignments.is_empty(), "pods keep the set, and the set has other rules");
    assert!(!live.lets_in("shop/web", "10.0.0.3", TCP_80));
}

#[test]
fn a_reused_address_inherits_nothing() {
    let mut live = Live::new(Scope::Cluster, shop());
    live.apply([
        Change::PodGone(PodName::new("shop", "client")),
        Change::Pod(pod("shop/other", "10.0.0.3", &[("app", "other")])),
    ]);
    assert!(!live.lets_in("shop/web", "10.0.0.3", TCP_80));
    // The other order: the new pod is heard of before the old one's end.
    live.apply([Change::Pod(pod("shop/client", "10.0.0.9", &[("app", "client")]))]);
    live.apply([Change::Pod(pod("shop/late", "10.0.0.9", &[("app", "other")]))]);
    live.apply([Change::PodGone(PodName::new("shop", "client"))]);
    assert!(!live.lets_in("shop/web", "10.0.0.9", TCP_80));
}

#[test]
fn an_address_that_two_peers_claim_stays_until_both_have_left() {
    let mut live = Live::new(Scope::Cluster, shop());
    live.apply([Change::Pod(pod("shop/twin", "10.0.0.3", &[("app", "client")]))]);
    live.apply([Change::PodGone(PodName::new("shop", "client"))]);
    assert!(live.lets_in("shop/web", "10.0.0.3", TCP_80));
    live.apply([Change::PodGone(PodName::new("shop", "twin"))]);
    assert!(!live.lets_in("shop/web", "10.0.0.3", TCP_80));
}

#[test]
fn a_node_gets_the_sets_of_its_own_pods_only() {
    let mut changes = shop();
    let mut elsewhere = pod("yard/web", "10.0.1.1", &[("app", "web")]);
    elsewhere.node = Some(NodeName::new("node-b"));
    changes.push(Change::Pod(elsewhere.clone()));
    changes.push(policy("yard/any", &json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]})));
    let mut live = Live::new(Scope::Node(NodeName::new("node-b")), changes);
    assert_eq!(live.in_force.assignments.len(), 1);
    let set = live.in_force.policy_sets.values().next().unwrap();
    assert_eq!(
        (set.policies.as_slice(), live.in_force.address_sets.len()),
        (&["yard/any".into()][..], 1)
    );
    assert!(live.lets_in("yard/web", "10.0.0.4", TCP_80));
    elsewhere.node = None;
    live.apply([Change::Pod(elsewhere)]);
    assert_eq!(live.in_force, InForce::default());
}

#[test]
fn a_named_port_is_each_destinations_own() {
    let mut live = Live::new(
        Scope::Cluster,
        [
            Change::Pod(pod("shop/client", "10.0.0.1", &[])),
            Change::Pod(with_port(pod("shop/old", "10.0.0.2", &[]), "http", 8080)),
            Change::Pod(with_port(pod("shop/new", "10.0.0.3", &[]), "http", 9090)),
            policy(
                "shop/out",
                &json!({"policyTypes": ["Egress"], "egress": [
                    {"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}]}),
            ),
        ],
    );
    let rules = |live: &Live| {
        let sets = live.in_force.policy_sets.values();
        sets.flat_map(|set| &set.rules).map(|rule| rule.ports[0].first).collect::<Vec<_>>()
    };
    assert_eq!(rules(&live), [8080, 9090]);
    assert_eq!(live.in_force.address_sets.len(), 2);
    live.apply([Change::Pod(with_port(pod("shop/old", "10.0.0.2", &[]), "http", 9090))]);
    assert_eq!(rules(&live), [9090]);
    assert_eq!(live.in_force.address_sets.values().next().unwrap().ipv4.len(), 8);
}

#[test]
fn a_pod_of_the_nodes_network_is_neither_isolated_nor_a_peer() {
    let mut web = pod("shop/web", "192.0.2.1", &[("app", "web")]);
    let mut client = pod("shop/client", "192.0.2.1", &[("app", "client")]);
    (web.host_network, client.host_network) = (true, true);
    let mut live = Live::new(Scope::Cluster, shop());
    let before = live.in_force.assignments.len();
    live.apply([Change::Pod(web), Change::Pod(client)]);
    assert_eq!(live.in_force.assignments.len(), before - 2);
    assert!(!live.lets_in("shop/spare", "192.0.2.1", TCP_80));
}

#[test]
fn an_invalid_policy_isolates_and_its_bad_rule_allows_nothing() {
    let mut live = Live::new(Scope::Cluster, shop());
    live.apply([
        Change::PolicyGone(control::policy::PolicyName {
            namespace: "shop".into(),
            name: "secure".into(),
        }),
        policy(
            "shop/plain",
            &json!({"podSelector": app("web"), "ingress": [
                {"from": [{"podSelector": app("client")}, {"ipBlock": {"cidr": "10.0.0.0"}}]},
                {"from": [{"podSelector": app("other")}]}]}),
        ),
    ]);
    assert!(!live.lets_in("shop/web", "10.0.0.3", TCP_80), "the refused rule");
    assert!(live.lets_in("shop/web", "10.0.0.4", TCP_80), "the other one");
    assert!(!live.lets_in("shop/web", "203.0.113.1", TCP_80), "isolated all the same");
    let [problem] = &live.compiler.problems()[..] else { panic!() };
    assert_eq!(problem.field, "spec.ingress[0].from[1].ipBlock.cidr");
}

#[test]
fn an_operator_that_is_none_in_the_selector_opens_nobody() {
    let mut live = Live::new(Scope::Cluster, shop());
    live.apply([
        Change::PolicyGone(control::policy::PolicyName {
            namespace: "shop".into(),
            name: "secure".into(),
        }),
        policy(
            "shop/plain",
            &json!({
                "podSelector": {"matchExpressions": [
                    {"key": "app", "operator": "Is", "values": ["web"]}]},
                "ingress": [{"from": [{"podSelector": app("client")}]}],
            }),
        ),
    ]);
    assert!(!live.lets_in("shop/web", "203.0.113.1", TCP_80), "isolated all the same");
    assert!(!live.lets_in("shop/web", "10.0.0.3", TCP_80), "its rules may not be for this pod");
}
