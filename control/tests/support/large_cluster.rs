//! A cluster of the size that the budgets are for: 10,000 pods, 1,000 policies and 100 namespaces
//! on 100 nodes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use control::{
    cluster::{NamedPort, Pod, Protocol},
    names::{NodeName, PodName},
    policy::PolicyName,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

const NAMESPACES: u16 = 100;
const PODS_PER_NAMESPACE: u16 = 100;
const POLICIES_PER_NAMESPACE: u16 = 10;
const NODES: u16 = 100;
const TEAMS: u16 = 10;

/// Its objects.
#[derive(Default)]
pub(crate) struct LargeCluster {
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) pods: BTreeMap<PodName, Pod>,
    pub(crate) policies: BTreeMap<PolicyName, NetworkPolicy>,
}

impl LargeCluster {
    pub(crate) fn new() -> Self {
        let mut cluster = Self::default();
        for namespace in 0..NAMESPACES {
            let name = format!("ns-{namespace}");
            let team = labels(&[("team", format!("team-{}", namespace % TEAMS))]);
            cluster.namespaces.insert(name.clone(), team);
            for number in 0..PODS_PER_NAMESPACE {
                let pod = pod(namespace, number);
                cluster.pods.insert(pod.name.clone(), pod);
            }
            for number in 0..POLICIES_PER_NAMESPACE {
                let metadata = json!({"namespace": name, "name": format!("policy-{number}")});
                let object = json!({"metadata": metadata, "spec": spec(namespace, number)});
                let policy =
                    PolicyName { namespace: name.clone(), name: format!("policy-{number}") };
                cluster.policies.insert(policy, serde_json::from_value(object).unwrap());
            }
        }
        cluster
    }
}

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
        contested: Vec::new(),
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
