//! The cluster as the rest of control sees it: typed, and free of contradictions.
//!
//! Objects that contradict each other (two nodes with one range, two pods with one address) cannot
//! all be in force. The older object stays: first by creation time, where there is one, then by
//! name. So every node of a cluster comes to the same answer from the same objects, in whatever
//! order it saw them. What is refused is named; the rest stays in force.
//!
//! Of a pod only the address is refused: its labels must go on isolating it. An address that two
//! pods claim is kept for the first of them, but where policies name peers by labels it is
//! nobody's: which of the two has it now, the objects do not say, and the other one's rights are
//! not to be had by it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::Arc,
};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::{
    cluster::{flannel::KernelPeer, named_port::named_ports},
    manifests::{Manifest, Place, Sourced},
    names::{NodeName, PodName},
    policy::{Consequence, Fault, Policy, PolicyName, PolicyProblem},
    port_type::PORT_TYPE_ANNOTATION,
    range::{ParseRangeError, PodRange},
    vhost_socket::SHARED_VOLUME,
};

pub mod flannel;
mod named_port;

pub use named_port::{NamedPort, Protocol};

/// The most `InternalIP` addresses of a node: what the engine's host port takes.
const NODE_ADDRESSES_MAX: usize = 16;

/// Nodes and pods that may all be in force together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The nodes by name. No two share an address or overlap in their ranges.
    pub nodes: BTreeMap<NodeName, Node>,
    /// The pods by name. No two hold one address; each address lies in its node's range. Clusters
    /// that differ in one pod share the others.
    pub pods: BTreeMap<PodName, Arc<Pod>>,
    /// The namespaces and their labels.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// The network policies: what of them says something possible.
    pub policies: BTreeMap<PolicyName, Policy>,
    /// Objects that are read but not acted upon.
    pub unenforced: Unenforced,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its `InternalIP` addresses, in the order of the object.
    pub addresses: Vec<IpAddr>,
    /// Its ranges of pod addresses: at most one of each family.
    pub ranges: Vec<PodRange>,
    /// What it takes to reach it if Linux itself forwards there, as flannel's annotations say.
    pub kernel_peer: Option<KernelPeer>,
}

/// A pod of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: PodName,
    /// The node it is bound to.
    pub node: Option<NodeName>,
    /// Its addresses: at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Those that another pod's object lists as well.
    pub contested: Vec<IpAddr>,
    /// Whether it uses its node's own network instead of a port.
    pub host_network: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The ports of its containers that have a name.
    pub named_ports: Vec<NamedPort>,
    /// What it wants to be attached by, as its annotation says; not checked.
    pub port_type: Option<String>,
    /// Where its volume for sockets is on the node, if it is a folder of the node's.
    pub shared_dir: Option<PathBuf>,
}

/// How many objects are read and kept, but not acted upon by this version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Unenforced {
    /// Service objects.
    pub services: usize,
    /// `EndpointSlice` objects.
    pub endpoint_slices: usize,
}

/// An object that is not in force, or not as a whole, and why.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{place}: {object}{}: {conflict}", if conflict.is_partial() { "" } else { " is left out" })]
pub struct Refusal {
    /// Where the object is.
    pub place: Place,
    /// The object's kind and name.
    pub object: String,
    /// What is wrong with it.
    pub conflict: Conflict,
}

/// Why an object cannot be in force.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Conflict {
    #[error("metadata.name is empty")]
    Unnamed,

    #[error("an object of that name is at {first} already; remove one of the two")]
    Duplicate { first: Place },

    #[error("{field}: `{text}` is not an IP address")]
    NotAnAddress { field: String, text: String },

    #[error("{field}: {source}")]
    Range { field: String, source: ParseRangeError },

    #[error("{field}: there are two of one family; a node and a pod have at most one of each")]
    SecondOfFamily { field: &'static str },

    #[error(
        "{field}: {range} overlaps {other_range} of node {other}; give each node a range of its own"
    )]
    RangeOverlap { field: &'static str, range: PodRange, other_range: PodRange, other: NodeName },

    #[error("{field}: {address} belongs to {other} already")]
    AddressTaken { field: &'static str, address: IpAddr, other: String },

    #[error("{field}: {address} lies in the pod range {range} of node {other}")]
    AddressInRange { field: &'static str, address: IpAddr, range: PodRange, other: NodeName },

    #[error(
        "status.podIPs: {address} is not an address for pods of node {node}, whose spec.podCIDRs \
         are {ranges}"
    )]
    OutsideRange { address: IpAddr, node: NodeName, ranges: String },

    #[error(
        "{fault}; the rest of the pod is in force, and policies that name peers by labels do not \
         mean this address, except on the node where it is attached"
    )]
    PodAddress { fault: Box<Self> },

    #[error("{field}: there are {count}, at most {max} are possible")]
    TooMany { field: &'static str, count: usize, max: usize },

    #[error("metadata.annotations[{annotation}]: {message}")]
    Annotation { annotation: &'static str, message: String },

    #[error("{field}: {fault}; {consequence}")]
    Policy { field: String, fault: Fault, consequence: Consequence },
}

impl Conflict {
    /// Whether the rest of the object is in force.
    fn is_partial(&self) -> bool {
        matches!(self, Self::Policy { .. } | Self::PodAddress { .. })
    }
}

impl Node {
    /// The first `InternalIP` of a family, if there is one.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().find(|address| Family::of(**address) == family).copied()
    }

    /// Where tunnels to this node end, and the source of its router MAC: IPv4 if there is one.
    #[must_use]
    pub fn vtep(&self) -> Option<IpAddr> {
        self.address(Family::V4).or_else(|| self.address(Family::V6))
    }

    /// Whether a pod of this node may have `address`.
    #[must_use]
    pub fn is_assignable(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.is_assignable(address))
    }
}

impl Pod {
    /// A pod of which nothing is known but its name.
    #[must_use]
    pub fn unknown(name: PodName) -> Self {
        Self {
            name,
            node: None,
            addresses: Vec::new(),
            contested: Vec::new(),
            host_network: false,
            labels: BTreeMap::new(),
            named_ports: Vec::new(),
            port_type: None,
            shared_dir: None,
        }
    }

    /// The addresses by which policies that name peers by labels mean it.
    pub fn peer_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(|address| !self.contested.contains(address))
    }
}

/// An IP version.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "the variants say it")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The word used in names of tunnels.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

impl Cluster {
    /// Takes the objects that can be in force together, and names the others.
    pub fn from_manifests<'a>(
        objects: impl IntoIterator<Item = &'a Sourced>,
    ) -> (Self, Vec<Refusal>) {
        let mut objects: Vec<&Sourced> = objects.into_iter().collect();
        objects.sort_by_cached_key(|sourced| seniority(sourced));
        let mut building = Building::default();
        // All nodes first: pods are judged by their nodes' ranges.
        for sourced in &objects {
            if let Manifest::Node(node) = &sourced.manifest {
                let object = format!("Node {}", name(&node.metadata));
                let result = building.add_node(node);
                building.refuse(&sourced.place, object, result);
            }
        }
        for sourced in &objects {
            building.add_other(sourced);
        }
        (building.cluster, building.refusals)
    }
}

/// The order in which objects claim what they need: age, then name, then place.
fn seniority(sourced: &Sourced) -> (bool, Option<String>, String, String, Place) {
    let metadata = match &sourced.manifest {
        Manifest::Node(node) => &node.metadata,
        Manifest::Namespace(namespace) => &namespace.metadata,
        Manifest::Pod(pod) => &pod.metadata,
        Manifest::Service(service) => &service.metadata,
        Manifest::EndpointSlice(slice) => &slice.metadata,
        Manifest::NetworkPolicy(policy) => &policy.object().metadata,
    };
    // In this notation, the order of texts is the order of times.
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    (created.is_none(), created, namespace(metadata), name(metadata), sourced.place.clone())
}

fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

/// The namespace of an object that has one; left out or empty, it is `default`.
#[must_use]
pub fn namespace(metadata: &ObjectMeta) -> String {
    let namespace = metadata.namespace.clone().filter(|name| !name.is_empty());
    namespace.unwrap_or_else(|| "default".to_owned())
}

/// The cluster so far, and who holds what.
#[derive(Default)]
struct Building {
    cluster: Cluster,
    refusals: Vec<Refusal>,
    places: BTreeMap<String, Place>,
    pod_addresses: BTreeMap<IpAddr, PodName>,
}

impl Building {
    fn refuse(&mut self, place: &Place, object: String, result: Result<(), Conflict>) {
        match result {
            Ok(()) => {
                self.places.insert(object, place.clone());
            }
            Err(conflict) => {
                self.refusals.push(Refusal { place: place.clone(), object, conflict });
            }
        }
    }

    fn add_other(&mut self, sourced: &Sourced) {
        match &sourced.manifest {
            Manifest::Node(_) => {}
            Manifest::Pod(pod) => {
                let pod_name = PodName::new(namespace(&pod.metadata), name(&pod.metadata));
                let object = format!("Pod {pod_name}");
                let result = self.add_pod(pod, pod_name, &sourced.place);
                self.refuse(&sourced.place, object, result);
            }
            Manifest::Namespace(namespace) => {
                let labels = namespace.metadata.labels.clone().unwrap_or_default();
                self.cluster.namespaces.insert(name(&namespace.metadata), labels);
            }
            Manifest::Service(_) => self.cluster.unenforced.services += 1,
            Manifest::EndpointSlice(_) => self.cluster.unenforced.endpoint_slices += 1,
            Manifest::NetworkPolicy(policy) => {
                self.add_policy(Policy::parse_readable(policy), sourced);
            }
        }
    }

    fn add_policy(&mut self, policy: Policy, sourced: &Sourced) {
        let object = format!("NetworkPolicy {}", policy.name());
        let result = self.check_name(&object, &policy.name().name);
        if result.is_ok() {
            for PolicyProblem { field, fault, consequence, .. } in policy.problems().iter().cloned()
            {
                let conflict = Conflict::Policy { field, fault, consequence };
                self.refuse(&sourced.place, object.clone(), Err(conflict));
            }
            self.cluster.policies.insert(policy.name().clone(), policy);
        }
        self.refuse(&sourced.place, object, result);
    }

    fn check_name(&self, object: &str, name: &str) -> Result<(), Conflict> {
        if name.is_empty() {
            return Err(Conflict::Unnamed);
        }
        match self.places.get(object) {
            Some(first) => Err(Conflict::Duplicate { first: first.clone() }),
            None => Ok(()),
        }
    }

    fn add_node(&mut self, node: &core::Node) -> Result<(), Conflict> {
        let node_name = NodeName::new(name(&node.metadata));
        self.check_name(&format!("Node {node_name}"), node_name.as_str())?;
        let addresses = internal_addresses(node)?;
        let ranges = ranges(node)?;
        let kernel_peer = KernelPeer::from_annotations(
            node.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new()),
            &addresses,
        )?;
        flannel::check_variety(&self.cluster, kernel_peer.as_ref())?;
        for other in self.cluster.nodes.values() {
            check_apart(&addresses, &ranges, other)?;
        }
        for address in &addresses {
            if let Some(range) = ranges.iter().find(|range| range.contains(*address)) {
                let (field, range, other) = ("status.addresses", *range, node_name);
                return Err(Conflict::AddressInRange { field, address: *address, range, other });
            }
        }
        let node = Node { name: node_name.clone(), addresses, ranges, kernel_peer };
        self.cluster.nodes.insert(node_name, node);
        Ok(())
    }

    fn add_pod(
        &mut self,
        pod: &core::Pod,
        pod_name: PodName,
        place: &Place,
    ) -> Result<(), Conflict> {
        let object = format!("Pod {pod_name}");
        self.check_name(&object, &pod_name.name)?;
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|spec| spec.node_name.clone()).map(NodeName::new);
        let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
        let (listed, mut faults) =
            if is_over(pod) { Default::default() } else { pod_addresses(pod) };
        let mut addresses = listed.clone();
        if !host_network {
            addresses = self.claim(addresses, &pod_name, node.as_ref(), &mut faults);
        }
        // Of two addresses of one family neither is known to be the pod's.
        let doubled = doubled_families(&listed);
        if !doubled.is_empty() {
            addresses.retain(|address| !doubled.contains(&Family::of(*address)));
            faults.push(Conflict::SecondOfFamily { field: "status.podIPs" });
        }
        for fault in faults {
            let conflict = Conflict::PodAddress { fault: Box::new(fault) };
            self.refuse(place, object.clone(), Err(conflict));
        }
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let annotations = pod.metadata.annotations.as_ref();
        let port_type = annotations.and_then(|found| found.get(PORT_TYPE_ANNOTATION)).cloned();
        let volumes = spec.and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let shared = volumes.iter().find(|volume| volume.name == SHARED_VOLUME);
        let shared_dir = shared
            .and_then(|volume| volume.host_path.as_ref())
            .map(|host_path| PathBuf::from(&host_path.path));
        let pod = Pod {
            node,
            addresses,
            host_network,
            labels,
            named_ports: named_ports(pod),
            port_type,
            shared_dir,
            ..Pod::unknown(pod_name.clone())
        };
        self.cluster.pods.insert(pod_name, Arc::new(pod));
        Ok(())
    }

    /// Answers the addresses that nobody claimed before and that the pod's node can have. Who
    /// claimed one of the others is not known by it any more.
    fn claim(
        &mut self,
        listed: Vec<IpAddr>,
        pod: &PodName,
        node: Option<&NodeName>,
        faults: &mut Vec<Conflict>,
    ) -> Vec<IpAddr> {
        let mut kept = Vec::new();
        for address in listed {
            if let Err(fault) = self.check_range(address, node) {
                faults.push(fault);
                continue;
            }
            let first = self.pod_addresses.entry(address).or_insert_with(|| pod.clone());
            if first == pod {
                kept.push(address);
                continue;
            }
            let (field, other) = ("status.podIPs", format!("pod {first}"));
            faults.push(Conflict::AddressTaken { field, address, other });
            if let Some(first) = self.cluster.pods.get_mut(first)
                && !first.contested.contains(&address)
            {
                Arc::make_mut(first).contested.push(address);
            }
        }
        kept
    }

    fn check_range(&self, address: IpAddr, node: Option<&NodeName>) -> Result<(), Conflict> {
        // A pod whose node is not known (yet) is nobody's: there is nothing to hold against it.
        match node.and_then(|node| self.cluster.nodes.get(node)) {
            Some(node) if !node.is_assignable(address) => Err(Conflict::OutsideRange {
                address,
                node: node.name.clone(),
                ranges: node.ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            }),
            _ => Ok(()),
        }
    }
}

/// Fails if a new node with `addresses` and `ranges` claims anything of `other`'s.
fn check_apart(addresses: &[IpAddr], ranges: &[PodRange], other: &Node) -> Result<(), Conflict> {
    for range in ranges {
        if let Some(taken) = other.ranges.iter().find(|taken| taken.overlaps(range)) {
            return Err(Conflict::RangeOverlap {
                field: "spec.podCIDRs",
                range: *range,
                other_range: *taken,
                other: other.name.clone(),
            });
        }
        if let Some(address) = other.addresses.iter().find(|address| range.contains(**address)) {
            let (address, other) = (*address, format!("node {}", other.name));
            return Err(Conflict::AddressTaken { field: "spec.podCIDRs", address, other });
        }
    }
    for address in addresses {
        let field = "status.addresses";
        if other.addresses.contains(address) {
            let other = format!("node {}", other.name);
            return Err(Conflict::AddressTaken { field, address: *address, other });
        }
        if let Some(range) = other.ranges.iter().find(|range| range.contains(*address)) {
            let (range, other) = (*range, other.name.clone());
            return Err(Conflict::AddressInRange { field, address: *address, range, other });
        }
    }
    Ok(())
}

fn internal_addresses(node: &core::Node) -> Result<Vec<IpAddr>, Conflict> {
    let listed = node.status.as_ref().and_then(|status| status.addresses.as_deref());
    let mut addresses = Vec::new();
    for (index, entry) in listed.unwrap_or_default().iter().enumerate() {
        if entry.type_ != "InternalIP" {
            continue;
        }
        let address = parse_address(&entry.address, || format!("status.addresses[{index}]"))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let (field, count, max) = ("status.addresses", addresses.len(), NODE_ADDRESSES_MAX);
    if count > max {
        return Err(Conflict::TooMany { field, count, max });
    }
    Ok(addresses)
}

fn ranges(node: &core::Node) -> Result<Vec<PodRange>, Conflict> {
    let Some(spec) = &node.spec else { return Ok(Vec::new()) };
    let listed: Vec<&String> = match spec.pod_cidrs.as_deref() {
        Some(listed) if !listed.is_empty() => listed.iter().collect(),
        _ => spec.pod_cidr.iter().filter(|text| !text.is_empty()).collect(),
    };
    let mut ranges = Vec::new();
    for (index, text) in listed.into_iter().enumerate() {
        let range: PodRange = text.parse().map_err(|source| Conflict::Range {
            field: format!("spec.podCIDRs[{index}]"),
            source,
        })?;
        ranges.push(range);
    }
    let gateways: Vec<_> = ranges.iter().map(PodRange::gateway).collect();
    if !doubled_families(&gateways).is_empty() {
        return Err(Conflict::SecondOfFamily { field: "spec.podCIDRs" });
    }
    Ok(ranges)
}

/// The addresses that a pod lists, and what else it lists there.
fn pod_addresses(pod: &core::Pod) -> (Vec<IpAddr>, Vec<Conflict>) {
    let (mut addresses, mut faults) = (Vec::new(), Vec::new());
    let Some(status) = &pod.status else { return (addresses, faults) };
    let listed: Vec<&str> = match status.pod_ips.as_deref() {
        Some(listed) if !listed.is_empty() => listed.iter().map(|entry| &*entry.ip).collect(),
        _ => status.pod_ip.iter().map(String::as_str).filter(|text| !text.is_empty()).collect(),
    };
    for (index, text) in listed.into_iter().enumerate() {
        match parse_address(text, || format!("status.podIPs[{index}].ip")) {
            Ok(address) => addresses.push(address),
            Err(fault) => faults.push(fault),
        }
    }
    (addresses, faults)
}

/// A pod that has ended: its addresses are free (Kubernetes reuses them, too).
fn is_over(pod: &core::Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The families of which there is more than one address.
fn doubled_families(addresses: &[IpAddr]) -> Vec<Family> {
    let count = |family| addresses.iter().filter(|it| Family::of(**it) == family).count();
    [Family::V4, Family::V6].into_iter().filter(|family| count(*family) > 1).collect()
}

fn parse_address(text: &str, field: impl Fn() -> String) -> Result<IpAddr, Conflict> {
    let not_an_address = || Conflict::NotAnAddress { field: field(), text: text.to_owned() };
    let address: IpAddr = text.parse().map_err(|_| not_an_address())?;
    let is_usable = match address {
        IpAddr::V4(v4) => v4 != Ipv4Addr::UNSPECIFIED && !v4.is_multicast() && !v4.is_broadcast(),
        IpAddr::V6(v6) => v6 != Ipv6Addr::UNSPECIFIED && !v6.is_multicast(),
    };
    if is_usable { Ok(address) } else { Err(not_an_address()) }
}

#[cfg(test)]
mod tests;
