//! From a `NetworkPolicy` object to a policy, each field checked once.
//!
//! A rule with a field that says nothing possible allows nothing; all else of the policy holds. Of
//! `podSelector`, what can be read selects, and so at least the pods that are meant; but the policy
//! then allows nothing, since its rules may not be for all of them. So a mistake never opens a pod
//! that the policy closes.

use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use control_api::engine as api;

use super::{
    block::Block,
    expression::{Namespaces, Peer, PortName},
    form::PolicyObject,
    problem::{Consequence, Fault, FieldFault, PolicyProblem},
    section::{Direction, Ports, Section, SectionBuilder},
    selector::Selector,
};
use crate::cluster::{self, Protocol};

/// The longest name of a port, in bytes, as Kubernetes has it (RFC 6335 section 5.1).
const PORT_NAME_BYTES_MAX: usize = 15;

/// Peers times ports of one rule at most: each peer's rule has the ports, so that a connection's
/// verdict names the peer. What is more is no rule of a person's, and would fill a policy set.
const RULE_PAIRS_MAX: usize = 1 << 16;

/// Peers, and names of ports of each, in one direction of a policy at most. Each may be an address
/// set, of which the engine takes 65,536.
const SECTION_TERMS_MAX: usize = 1 << 13;

/// A `NetworkPolicy` of which every field says something possible.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub(super) name: PolicyName,
    /// Which pods of the namespace it selects: at least those that are meant.
    pub(super) selector: Selector,
    /// What it allows, by [`Direction`]; `None`: it does not isolate in that direction.
    pub(super) sections: [Option<Section>; 2],
    problems: Vec<PolicyProblem>,
}

/// A policy's namespace and name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PolicyName {
    /// The namespace.
    pub namespace: String,
    /// The name within the namespace.
    pub name: String,
}

impl Policy {
    /// Reads an object. What it refuses is in [`problems`](Self::problems); the rest holds.
    #[must_use]
    pub fn parse(object: &NetworkPolicy) -> Self {
        Self::parse_readable(&PolicyObject::from(object))
    }

    /// Reads what could be read of an object, as [`parse`](Self::parse) does.
    #[must_use]
    pub fn parse_readable(read: &PolicyObject) -> Self {
        let object = read.object();
        let metadata = &object.metadata;
        let name = PolicyName {
            namespace: cluster::namespace(metadata),
            name: metadata.name.clone().unwrap_or_default(),
        };
        let empty = NetworkPolicySpec::default();
        let spec = object.spec.as_ref().unwrap_or(&empty);
        let mut problems = Problems { policy: name.to_string(), list: Vec::new() };
        for (fault, consequence) in &read.faults {
            problems.push(fault.clone(), *consequence);
        }

        let (selector, faults) =
            Selector::parse_rest(spec.pod_selector.as_ref(), "spec.podSelector");
        let allows_nothing = read.is_closed || !faults.is_empty();
        for fault in faults {
            problems.push(fault, Consequence::PolicyAllowsNothing);
        }
        let mut directions = directions(spec, &mut problems);
        if read.isolates_both {
            directions.extend(Direction::BOTH);
        }
        let sections = Direction::BOTH.map(|direction| {
            directions.contains(&direction).then(|| {
                let mut rules = rules(spec, direction);
                for (index, rule) in rules.iter_mut().enumerate() {
                    rule.is_closed = read.closed_rules.contains(&(direction, index));
                }
                let section = section(&name.namespace, direction, &rules, &mut problems);
                if allows_nothing { Section::default() } else { section }
            })
        });
        Self { name, selector, sections, problems: problems.list }
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &PolicyName {
        &self.name
    }

    /// What of the object is not in force, and why.
    #[must_use]
    pub fn problems(&self) -> &[PolicyProblem] {
        &self.problems
    }

    pub(super) fn section(&self, direction: Direction) -> Option<&Section> {
        self.sections[direction.index()].as_ref()
    }
}

impl std::fmt::Display for PolicyName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The problems of one policy, so far.
struct Problems {
    policy: String,
    list: Vec<PolicyProblem>,
}

impl Problems {
    fn keep<T>(&mut self, result: Result<T, FieldFault>, consequence: Consequence) -> Option<T> {
        result.map_err(|fault| self.push(fault, consequence)).ok()
    }

    fn push(&mut self, FieldFault { field, fault }: FieldFault, consequence: Consequence) {
        self.list.push(PolicyProblem { policy: self.policy.clone(), field, fault, consequence });
    }
}

/// A rule of either direction, as the object has it.
struct RawRule<'a> {
    peers: &'a [NetworkPolicyPeer],
    ports: &'a [NetworkPolicyPort],
    /// Whether it allows nothing, whatever it says.
    is_closed: bool,
}

fn rules(spec: &NetworkPolicySpec, direction: Direction) -> Vec<RawRule<'_>> {
    match direction {
        Direction::Ingress => spec
            .ingress
            .iter()
            .flatten()
            .map(|rule| RawRule {
                peers: rule.from.as_deref().unwrap_or_default(),
                ports: rule.ports.as_deref().unwrap_or_default(),
                is_closed: false,
            })
            .collect(),
        Direction::Egress => spec
            .egress
            .iter()
            .flatten()
            .map(|rule| RawRule {
                peers: rule.to.as_deref().unwrap_or_default(),
                ports: rule.ports.as_deref().unwrap_or_default(),
                is_closed: false,
            })
            .collect(),
    }
}

/// The directions in which the policy isolates. Without `policyTypes`: ingress, and egress if there
/// is a rule for it. With a type that is none: both, since either may have been meant.
fn directions(spec: &NetworkPolicySpec, problems: &mut Problems) -> Vec<Direction> {
    let listed = spec.policy_types.as_deref().unwrap_or_default();
    let mut directions = Vec::new();
    for (index, word) in listed.iter().enumerate() {
        match word.as_str() {
            "Ingress" => directions.push(Direction::Ingress),
            "Egress" => directions.push(Direction::Egress),
            _ => {
                directions.extend(Direction::BOTH);
                let fault = Fault::UnknownType { word: word.clone() };
                let fault = fault.at(format!("spec.policyTypes[{index}]"));
                problems.push(fault, Consequence::IsolatesBoth);
            }
        }
    }
    if directions.is_empty() {
        directions.push(Direction::Ingress);
        if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
            directions.push(Direction::Egress);
        }
    }
    directions
}

fn section(
    namespace: &str,
    direction: Direction,
    rules: &[RawRule<'_>],
    problems: &mut Problems,
) -> Section {
    let mut builder = SectionBuilder::new(direction);
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.{}[{index}]", direction.word());
        let mut is_whole = !rule.is_closed;
        let mut peers = Vec::new();
        for (index, peer) in rule.peers.iter().enumerate() {
            let path = format!("{path}.{}[{index}]", direction.peers_word());
            let peer = parse_peer(namespace, peer, &path);
            let peer = problems.keep(peer, Consequence::RuleAllowsNothing);
            is_whole &= peer.is_some();
            peers.extend(peer);
        }
        let (mut numbers, mut names) = (Vec::new(), Vec::new());
        for (index, port) in rule.ports.iter().enumerate() {
            let port = parse_port(port, &format!("{path}.ports[{index}]"));
            match problems.keep(port, Consequence::RuleAllowsNothing) {
                Some(Port::Numbers(range)) => numbers.push(range),
                Some(Port::Name(name)) => names.push(name),
                None => is_whole = false,
            }
        }
        names.sort();
        names.dedup();
        let every = rule.ports.is_empty();
        let ports = if every { Ports::Every } else { Ports::Listed { numbers, names } };
        let fits = check_size(rule, &ports, &builder).map_err(|fault| fault.at(&path));
        if problems.keep(fits, Consequence::RuleAllowsNothing).is_some() && is_whole {
            builder.push_rule(&path, peers, &ports);
        }
    }
    builder.finish()
}

/// Fails if a rule is too large, by itself or with those before it.
fn check_size(rule: &RawRule<'_>, ports: &Ports, builder: &SectionBuilder) -> Result<(), Fault> {
    let (peers, count) = (rule.peers.len().max(1), rule.ports.len());
    if peers.saturating_mul(count) > RULE_PAIRS_MAX {
        return Err(Fault::TooManyPairs { peers, ports: count, max: RULE_PAIRS_MAX });
    }
    let names = match ports {
        Ports::Every => 0,
        Ports::Listed { names, .. } => names.len(),
    };
    if builder.terms_count() + peers * (names + 1) > SECTION_TERMS_MAX {
        return Err(Fault::TooManyPeers { max: SECTION_TERMS_MAX });
    }
    Ok(())
}

fn parse_peer(namespace: &str, peer: &NetworkPolicyPeer, path: &str) -> Result<Peer, FieldFault> {
    let (pods, namespaces) = (peer.pod_selector.as_ref(), peer.namespace_selector.as_ref());
    if let Some(block) = &peer.ip_block {
        if pods.is_some() || namespaces.is_some() {
            return Err(Fault::BlockAndSelector.at(path));
        }
        return Block::parse(block, &format!("{path}.ipBlock")).map(Peer::Block);
    }
    if pods.is_none() && namespaces.is_none() {
        return Err(Fault::EmptyPeer.at(path));
    }
    let namespaces = match namespaces {
        None => Namespaces::Own(namespace.to_owned()),
        Some(selector) => {
            let path = format!("{path}.namespaceSelector");
            Namespaces::Matching(Selector::parse(Some(selector), &path)?)
        }
    };
    let pods = Selector::parse(pods, &format!("{path}.podSelector"))?;
    Ok(Peer::Pods { namespaces, pods })
}

/// One entry of a rule's ports.
enum Port {
    Numbers(api::ProtocolPorts),
    Name(PortName),
}

fn parse_port(port: &NetworkPolicyPort, path: &str) -> Result<Port, FieldFault> {
    let word = port.protocol.as_deref();
    let Some(protocol) = Protocol::from_word(word) else {
        let fault = Fault::UnknownProtocol { word: word.unwrap_or_default().to_owned() };
        return Err(fault.at(format!("{path}.protocol")));
    };
    let numbers = |first: u16, last: u16| {
        let (first, last) = (u32::from(first), u32::from(last));
        Ok(Port::Numbers(api::ProtocolPorts { protocol: protocol.number().into(), first, last }))
    };
    let end_path = || format!("{path}.endPort");
    match (&port.port, port.end_port) {
        (None, None) => numbers(0, u16::MAX),
        (None, Some(_)) => Err(Fault::EndWithoutPort.at(end_path())),
        (Some(IntOrString::String(_)), Some(_)) => Err(Fault::EndWithName.at(end_path())),
        (Some(IntOrString::String(name)), None) if is_port_name(name) => {
            Ok(Port::Name(PortName { protocol, name: name.clone() }))
        }
        (Some(IntOrString::String(name)), None) => {
            Err(Fault::PortName { name: name.clone() }.at(format!("{path}.port")))
        }
        (Some(IntOrString::Int(port)), end) => {
            let first = port_number(*port).map_err(|fault| fault.at(format!("{path}.port")))?;
            let Some(end) = end else { return numbers(first, first) };
            if end < i32::from(first) {
                return Err(Fault::EndBelowPort { port: first, end }.at(end_path()));
            }
            let last = port_number(end).map_err(|fault| fault.at(end_path()))?;
            numbers(first, last)
        }
    }
}

fn port_number(port: i32) -> Result<u16, Fault> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or(Fault::PortNumber { port })
}

/// The names that Kubernetes takes (RFC 6335 section 5.1, in lower case).
fn is_port_name(name: &str) -> bool {
    let is_ascii = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= PORT_NAME_BYTES_MAX
        && name.bytes().all(is_ascii)
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests;
