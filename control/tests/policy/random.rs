//! Random clusters: few names and values, so that things meet.

use std::{collections::BTreeMap, net::IpAddr};

use control::{
    cluster::{NamedPort, Pod, Protocol},
    names::{NodeName, PodName},
    policy::PolicyName,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

use crate::world::World;

pub(crate) const NAMESPACES: [&str; 3] = ["east", "north", "west"];

/// One step in a cluster's life.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Pod(Box<Pod>),
    PodGone(PodName),
    Namespace(String, BTreeMap<String, String>),
    NamespaceGone(String),
    Policy(Box<NetworkPolicy>),
    PolicyGone(PolicyName),
}

impl World {
    /// Takes a step. An address that another pod has moves to the new one.
    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Pod(mut pod) => {
                let others = self.pods.values_mut().filter(|other| other.name != pod.name);
                for other in others {
                    other.addresses.retain(|address| !pod.addresses.contains(address));
                }
                pod.addresses.dedup();
                self.pods.insert(pod.name.clone(), *pod);
            }
            Step::PodGone(name) => drop(self.pods.remove(&name)),
            Step::Namespace(name, labels) => drop(self.namespaces.insert(name, labels)),
            Step::NamespaceGone(name) => drop(self.namespaces.remove(&name)),
            Step::Policy(policy) => {
                let metadata = policy.metadata.clone();
                let (namespace, name) = (metadata.namespace.unwrap(), metadata.name.unwrap());
                self.policies.insert(PolicyName { namespace, name }, *policy);
            }
            Step::PolicyGone(name) => drop(self.policies.remove(&name)),
        }
    }
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let steps = (vec(namespace(), 0..4), vec(pod(), 1..8), vec(policy(), 0..6));
    steps.prop_map(|(namespaces, pods, policies)| {
        let mut world = World::default();
        let steps = namespaces.into_iter().chain(pods).chain(policies);
        steps.for_each(|step| world.step(step));
        world
    })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => pod(),
        1 => pod_name().prop_map(Step::PodGone),
        2 => namespace(),
        1 => select(&NAMESPACES).prop_map(|name| Step::NamespaceGone(name.into())),
        3 => policy(),
        1 => policy_name().prop_map(Step::PolicyGone),
    ]
}

fn pod_name() -> impl Strategy<Value = PodName> {
    (select(&NAMESPACES), 0..3).prop_map(|(space, n)| PodName::new(space, format!("pod-{n}")))
}

fn policy_name() -> impl Strategy<Value = PolicyName> {
    let names = (select(&NAMESPACES), 0_u8..3);
    names.prop_map(|(namespace, n): (&str, u8)| PolicyName {
        namespace: namespace.into(),
        name: n.to_string(),
    })
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let label = (select(&["app", "tier"]), select(&["x", "y", "z"]));
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    vec(label, 0..3).prop_map(move |list| list.into_iter().map(owned).collect())
}

fn pod() -> impl Strategy<Value = Step> {
    let addresses = (option::weighted(0.9, 1_u8..20), option::weighted(0.6, 1_u8..20));
    let addresses = addresses.prop_map(|(v4, v6)| {
        let v4 = v4.map(|n| IpAddr::from([10, 0, n / 8, n]));
        let v6 = v6.map(|n| IpAddr::from([0xfd00, 0, 0, u16::from(n / 8), 0, 0, 0, u16::from(n)]));
        v4.into_iter().chain(v6).collect::<Vec<_>>()
    });
    let port = (
        select(&["http", "dns"]),
        select(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
        select(&[53_u16, 80, 81]),
    );
    let port =
        port.prop_map(|(name, protocol, number)| NamedPort { name: name.into(), protocol, number });
    let node = option::of(select(&["node-a", "node-b"]).prop_map(NodeName::new));
    let parts =
        (pod_name(), labels(), addresses, vec(port, 0..3), node, proptest::bool::weighted(0.1));
    parts.prop_map(|(name, labels, addresses, named_ports, node, host_network)| {
        Step::Pod(Box::new(Pod {
            name,
            node,
            addresses,
            host_network,
            labels,
            named_ports,
            port_type: None,
            contested: Vec::new(),
            shared_dir: None,
        }))
    })
}

fn namespace() -> impl Strategy<Value = Step> {
    // Manifests may claim another namespace's name as the label; it is nobody's to set.
    let claim = option::weighted(0.2, select(&NAMESPACES));
    let parts = (select(&NAMESPACES), labels(), claim);
    parts.prop_map(|(name, mut labels, claim)| {
        let claim = claim.map(|claim| ("kubernetes.io/metadata.name".into(), claim.into()));
        labels.extend(claim);
        Step::Namespace(name.into(), labels)
    })
}

fn policy() -> impl Strategy<Value = Step> {
    let types = select(vec![
        json!(null),
        json!([]),
        json!(["Ingress"]),
        json!(["Egress"]),
        json!(["Ingress", "Egress"]),
    ]);
    let rules = |peers: &'static str| option::of(vec(rule(peers), 0..3));
    let parts = (policy_name(), option::of(selector()), types, rules("from"), rules("to"));
    parts.prop_map(|(name, selector, types, ingress, egress)| {
        let object = json!({
            "metadata": {"namespace": name.namespace, "name": name.name},
            "spec": {
                "podSelector": selector, "policyTypes": types,
                "ingress": ingress, "egress": egress,
            },
        });
        Step::Policy(Box::new(serde_json::from_value(object).unwrap()))
    })
}

fn rule(peers: &'static str) -> impl Strategy<Value = Value> {
    (option::of(vec(peer(), 0..3)), option::of(vec(port(), 0..3)))
        .prop_map(move |(list, ports)| json!({peers: list, "ports": ports}))
}

fn peer() -> impl Strategy<Value = Value> {
    let block = select(&[
        ("10.0.0.0/8", "10.0.1.0/24"),
        ("10.0.1.0/24", "10.0.1.8/30"),
        ("0.0.0.0/0", "10.0.0.0/16"),
        ("fd00::/16", "fd00:0:0:1::/64"),
        ("::/0", "fd00::/63"),
    ]);
    let block = (block, any::<bool>()).prop_map(|((cidr, except), has_except)| {
        let except = has_except.then(|| vec![except]);
        json!({"ipBlock": {"cidr": cidr, "except": except}})
    });
    prop_oneof![
        1 => block,
        1 => selector().prop_map(|pods| json!({"podSelector": pods})),
        1 => selector().prop_map(|spaces| json!({"namespaceSelector": spaces})),
        1 => (selector(), selector()).prop_map(|(pods, spaces)| {
            json!({"podSelector": pods, "namespaceSelector": spaces})
        }),
    ]
}

fn selector() -> impl Strategy<Value = Value> {
    let key = || select(&["app", "tier", "app", "kubernetes.io/metadata.name"]);
    let values = || vec(select(&["x", "y", "z", "east", "west"]), 1..3);
    let expression = prop_oneof![
        (key(), select(&["In", "NotIn"]), values()).prop_map(|(key, operator, values)| {
            json!({"key": key, "operator": operator, "values": values})
        }),
        (key(), select(&["Exists", "DoesNotExist"]))
            .prop_map(|(key, operator)| json!({"key": key, "operator": operator})),
    ];
    (option::weighted(0.3, labels()), option::weighted(0.6, vec(expression, 0..3))).prop_map(
        |(labels, expressions)| json!({"matchLabels": labels, "matchExpressions": expressions}),
    )
}

fn port() -> impl Strategy<Value = Value> {
    let protocol = || select(&[None, Some("TCP"), Some("UDP"), Some("SCTP")]);
    let number = select(&[53, 79, 80, 81]);
    prop_oneof![
        protocol().prop_map(|protocol| json!({"protocol": protocol})),
        (protocol(), number, option::of(0..3)).prop_map(|(protocol, port, more)| {
            json!({"protocol": protocol, "port": port, "endPort": more.map(|more| port + more)})
        }),
        (protocol(), select(&["http", "dns", "nobody"]))
            .prop_map(|(protocol, name)| json!({"protocol": protocol, "port": name})),
    ]
}
