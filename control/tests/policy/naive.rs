//! An evaluator written straight from the API's field comments, over the objects themselves: no
//! sets, no indices, no sharing of code with the compiler.

use std::{collections::BTreeMap, net::IpAddr};

use control::cluster::Pod;
use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use crate::world::World;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

/// The other end: an address, and the pod that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) address: IpAddr,
    pub(crate) pod: Option<&'a Pod>,
}

impl World {
    /// Whether the policies allow `pod` a connection with `peer` to a port.
    pub(crate) fn allows(
        &self,
        direction: Direction,
        pod: &Pod,
        peer: Peer<'_>,
        port: (u8, u16),
    ) -> bool {
        if pod.host_network {
            return true;
        }
        // "Traffic is allowed to a pod if there are no NetworkPolicies selecting the pod …"
        let mut selecting = self.policies.iter().filter(|(name, policy)| {
            name.namespace == pod.name.namespace
                && affects(policy, direction)
                && selects(policy.spec.as_ref().unwrap().pod_selector.as_ref(), &pod.labels)
        });
        let policies: Vec<_> = selecting.by_ref().collect();
        // "… OR if the traffic matches at least one rule across all of the NetworkPolicy objects
        // whose podSelector matches the pod."
        policies.is_empty()
            || policies.iter().any(|(_, policy)| {
                rules(policy, direction).iter().any(|(peers, ports)| {
                    let port_owner = match direction {
                        Direction::Ingress => Some(pod),
                        Direction::Egress => peer.pod.filter(|pod| !pod.host_network),
                    };
                    let is_peer = peers.is_empty()
                        || peers.iter().any(|one| self.is_peer(&pod.name.namespace, one, peer));
                    let is_port =
                        ports.is_empty() || ports.iter().any(|one| is_port(one, port_owner, port));
                    is_peer && is_port
                })
            })
    }

    fn is_peer(&self, own_namespace: &str, expected: &NetworkPolicyPeer, peer: Peer<'_>) -> bool {
        if let Some(block) = &expected.ip_block {
            let contains =
                |text: &String| text.parse::<ipnet::IpNet>().unwrap().contains(&peer.address);
            return contains(&block.cidr) && !block.except.iter().flatten().any(contains);
        }
        let Some(pod) = peer.pod.filter(|pod| !pod.host_network) else { return false };
        let namespace = &pod.name.namespace;
        let is_namespace = match &expected.namespace_selector {
            None => namespace == own_namespace,
            Some(selector) => {
                let mut labels = self.namespaces.get(namespace).cloned().unwrap_or_default();
                let name = "kubernetes.io/metadata.name".to_owned();
                labels.insert(name, namespace.clone());
                selects(Some(selector), &labels)
            }
        };
        is_namespace && selects(expected.pod_selector.as_ref(), &pod.labels)
    }
}

/// "If this field is not specified, it will default based on the existence of ingress or egress
/// rules; policies that contain an egress section are assumed to affect egress, and all policies
/// are assumed to affect ingress."
fn affects(policy: &NetworkPolicy, direction: Direction) -> bool {
    let spec = policy.spec.as_ref().unwrap();
    match (spec.policy_types.as_deref().unwrap_or_default(), direction) {
        ([], Direction::Ingress) => true,
        ([], Direction::Egress) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        (listed, Direction::Ingress) => listed.iter().any(|word| word == "Ingress"),
        (listed, Direction::Egress) => listed.iter().any(|word| word == "Egress"),
    }
}

type Rule = (Vec<NetworkPolicyPeer>, Vec<NetworkPolicyPort>);

fn rules(policy: &NetworkPolicy, direction: Direction) -> Vec<Rule> {
    let spec = policy.spec.clone().unwrap();
    let both =
        |peers: Option<_>, ports: Option<_>| (peers.unwrap_or_default(), ports.unwrap_or_default());
    match direction {
        Direction::Ingress => {
            let rules = spec.ingress.into_iter().flatten();
            rules.map(|rule| both(rule.from, rule.ports)).collect()
        }
        Direction::Egress => {
            let rules = spec.egress.into_iter().flatten();
            rules.map(|rule| both(rule.to, rule.ports)).collect()
        }
    }
}

/// "An empty label selector matches all objects."
fn selects(selector: Option<&LabelSelector>, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = selector else { return true };
    let mut match_labels = selector.match_labels.iter().flatten();
    match_labels.all(|(key, value)| labels.get(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let is_listed = || {
                let mut listed = expression.values.iter().flatten();
                listed.any(|one| Some(one) == value)
            };
            match expression.operator.as_str() {
                "In" => is_listed(),
                "NotIn" => !is_listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("{other} is not an operator"),
            }
        })
}

fn is_port(expected: &NetworkPolicyPort, owner: Option<&Pod>, (protocol, port): (u8, u16)) -> bool {
    let word = match protocol {
        6 => "TCP",
        17 => "UDP",
        132 => "SCTP",
        _ => return false,
    };
    // "If not specified, this field defaults to TCP."
    if expected.protocol.as_deref().unwrap_or("TCP") != word {
        return false;
    }
    match (&expected.port, expected.end_port) {
        // "If this field is not provided, this matches all port names and numbers."
        (None, _) => true,
        (Some(IntOrString::Int(first)), None) => i32::from(port) == *first,
        (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&port.into()),
        (Some(IntOrString::String(name)), _) => owner.is_some_and(|pod| {
            pod.named_ports.iter().any(|known| {
                (&known.name, known.protocol.word(), known.number) == (name, word, port)
            })
        }),
    }
}
