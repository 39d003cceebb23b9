//! Who is who in a cluster that manifests describe.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use control::{
    cluster::{Cluster, Family, Pod},
    names::{NodeName, PodName},
    policy::{Policy, PolicyName, PolicyProblem},
};

use super::{
    question::{EndName, Question},
    stand_in::{Pardons, pardon},
};
use crate::manifests::Manifests;

/// Names of pods that an error lists: enough to see a slip of the pen.
const LISTED_PODS_MAX: usize = 10;

/// A cluster, with the ways from addresses to whom they belong.
#[derive(Debug)]
pub(super) struct World {
    cluster: Cluster,
    pods_by_address: HashMap<IpAddr, PodName>,
    nodes_by_address: HashMap<IpAddr, NodeName>,
    /// Pods that are judged by addresses that control does not take for theirs, and why it does not.
    pardons: Pardons,
    /// Pods of which addresses are left out, or all, and why.
    refused: Pardons,
}

/// One end of a connection: who it is, and the address that it uses.
#[derive(Clone, Debug)]
pub(super) struct End<'a> {
    pub(super) address: IpAddr,
    pub(super) owner: Owner<'a>,
}

/// A pod that is attached to this node, whatever its manifest says.
#[derive(Clone, Debug)]
pub(crate) struct LocalPod {
    pub(crate) name: PodName,
    pub(crate) node: Option<NodeName>,
    pub(crate) addresses: Vec<IpAddr>,
}

/// To whom an address belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owner<'a> {
    /// A pod, which may use its node's network.
    Pod(&'a Pod),
    /// A node.
    Node(&'a NodeName),
    /// Nobody in the cluster.
    Nobody,
}

/// Why a question has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ResolveError {
    #[error("there is no pod {pod} in the manifests; {known}")]
    NoSuchPod { pod: PodName, known: String },
    #[error("pod {pod} has no address that counts: {reason}")]
    Refused { pod: PodName, reason: String },
    #[error(
        "pod {pod} has no address: it is not running yet, or has ended; nothing reaches it, and \
         status.podIPs says nothing else"
    )]
    NoAddress { pod: PodName },
    #[error("{from} and {to} have no family in common, so nothing passes between them")]
    NoCommonFamily { from: EndName, to: EndName },
}

impl World {
    /// The cluster of a folder of manifests.
    ///
    /// Pods that are on no node yet are taken to be on `node`, if one is given. With `local` it is
    /// the cluster as that node has it.
    pub(super) fn new(
        manifests: &Manifests,
        node: Option<&NodeName>,
        local: Option<&[LocalPod]>,
    ) -> Self {
        let (mut cluster, pardons, refused) = match local {
            Some(_) => (manifests.cluster.clone(), Pardons::new(), Pardons::new()),
            None => pardon(manifests),
        };
        attach(&mut cluster, local.unwrap_or_default());
        if let Some(node) = node {
            for pod in cluster.pods.values_mut().filter(|pod| pod.node.is_none()) {
                Arc::make_mut(pod).node = Some(node.clone());
            }
        }
        let own = cluster.pods.values().filter(|pod| !pod.host_network);
        let own = own.flat_map(|pod| pod.addresses.iter().map(|it| (*it, pod.name.clone())));
        let pods_by_address = own.collect();
        let of_nodes = cluster.nodes.values();
        let of_nodes = of_nodes.flat_map(|node| node.addresses.iter().map(|it| (*it, &node.name)));
        let nodes_by_address = of_nodes.map(|(address, name)| (address, name.clone())).collect();
        Self { cluster, pods_by_address, nodes_by_address, pardons, refused }
    }

    /// The cluster itself.
    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether any manifest speaks of a node.
    pub(super) fn knows(&self, node: &NodeName) -> bool {
        self.cluster.nodes.contains_key(node)
    }

    /// Both ends of a question, with addresses of one family.
    ///
    /// # Errors
    ///
    /// Fails if an end does not exist, or the ends have no family in common.
    pub(super) fn resolve(&self, question: &Question) -> Result<[End<'_>; 2], ResolveError> {
        let names = [&question.from, &question.to];
        let [from, to] = names.map(|name| self.candidates(name, question.family.is_some()));
        let (from, to) = (from?, to?);
        let find = |family| Some((from.of(family)?, to.of(family)?));
        let no_common = || ResolveError::NoCommonFamily {
            from: question.from.clone(),
            to: question.to.clone(),
        };
        let found = question.families().into_iter().find_map(find);
        let (from_address, to_address) = found.ok_or_else(no_common)?;
        Ok([
            End { address: from_address, owner: from.owner },
            End { address: to_address, owner: to.owner },
        ])
    }

    /// What of a policy is not in force.
    pub(super) fn problems(&self, policy: &str) -> impl Iterator<Item = &PolicyProblem> {
        let name = policy.split_once('/').map(|(namespace, name)| PolicyName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
        let policy = name.and_then(|name| self.cluster.policies.get(&name));
        policy.into_iter().flat_map(Policy::problems)
    }

    /// Why a pod is judged by an address that control does not take for its own.
    pub(super) fn pardon(&self, pod: &PodName) -> Option<&str> {
        self.pardons.get(pod).map(String::as_str)
    }

    /// Why a pod is judged without one of its addresses.
    pub(super) fn refused(&self, pod: &PodName) -> Option<&str> {
        self.refused.get(pod).map(String::as_str)
    }

    /// Who is meant, and the addresses that it may use. An address stands for the pod that has it;
    /// the pod's other one is meant only if a family is asked for.
    fn candidates(
        &self,
        name: &EndName,
        is_family_given: bool,
    ) -> Result<Candidates<'_>, ResolveError> {
        let address = match name {
            EndName::Pod(name) => {
                let pod = self.pod(name)?;
                let addresses = self.addresses_of(pod);
                let is_anywhere = !addresses.is_empty();
                return is_anywhere
                    .then_some(Candidates { owner: Owner::Pod(pod), addresses })
                    .ok_or_else(|| self.no_address(name));
            }
            EndName::Address(address) => *address,
        };
        let pod = self.pods_by_address.get(&address).and_then(|name| self.cluster.pods.get(name));
        Ok(match (pod, self.nodes_by_address.get(&address)) {
            (Some(pod), _) => {
                let addresses = if is_family_given { pod.addresses.clone() } else { vec![address] };
                Candidates { owner: Owner::Pod(pod), addresses }
            }
            (None, Some(node)) => Candidates { owner: Owner::Node(node), addresses: vec![address] },
            (None, None) => Candidates { owner: Owner::Nobody, addresses: vec![address] },
        })
    }

    fn pod(&self, name: &PodName) -> Result<&Pod, ResolveError> {
        if let Some(pod) = self.cluster.pods.get(name) {
            return Ok(pod);
        }
        if let Some(reason) = self.refused.get(name) {
            return Err(ResolveError::Refused { pod: name.clone(), reason: reason.clone() });
        }
        Err(ResolveError::NoSuchPod { pod: name.clone(), known: self.known_pods(name) })
    }

    /// A pod on its node's network has the node's addresses, also where its status says none.
    fn addresses_of(&self, pod: &Pod) -> Vec<IpAddr> {
        let node = pod.node.as_ref().and_then(|node| self.cluster.nodes.get(node));
        match node {
            Some(node) if pod.host_network && pod.addresses.is_empty() => node.addresses.clone(),
            _ => pod.addresses.clone(),
        }
    }

    fn no_address(&self, pod: &PodName) -> ResolveError {
        let pod = pod.clone();
        match self.refused.get(&pod).cloned() {
            Some(reason) => ResolveError::Refused { pod, reason },
            None => ResolveError::NoAddress { pod },
        }
    }

    fn known_pods(&self, missing: &PodName) -> String {
        let namespace = &missing.namespace;
        let pods = self.cluster.pods.keys().filter(|pod| pod.namespace == *namespace);
        let mut names: Vec<_> = pods.map(|pod| pod.name.as_str()).collect();
        let more = names.len().saturating_sub(LISTED_PODS_MAX);
        names.truncate(LISTED_PODS_MAX);
        match (names.is_empty(), more) {
            (true, _) => format!("namespace {namespace} has none at all"),
            (false, 0) => format!("those of namespace {namespace} are {}", names.join(", ")),
            (false, more) => {
                format!("those of namespace {namespace} are {} and {more} more", names.join(", "))
            }
        }
    }
}

/// Corrects pods by what is attached, as control does on that node: a pod has what it is attached
/// by, and nobody else has that.
fn attach(cluster: &mut Cluster, local: &[LocalPod]) {
    let mut holders: HashMap<IpAddr, &PodName> = HashMap::new();
    for found in local {
        holders.extend(found.addresses.iter().map(|address| (*address, &found.name)));
    }
    let is_anothers =
        |ip: &IpAddr, pod: &PodName| holders.get(ip).is_some_and(|holder| *holder != pod);
    for pod in cluster.pods.values_mut().filter(|pod| !pod.host_network) {
        if pod.addresses.iter().any(|ip| is_anothers(ip, &pod.name)) {
            let pod = Arc::make_mut(pod);
            pod.addresses.retain(|ip| !is_anothers(ip, &pod.name));
        }
    }
    for LocalPod { name, node, addresses } in local {
        let pod = cluster.pods.entry(name.clone());
        let pod = Arc::make_mut(pod.or_insert_with(|| Arc::new(Pod::unknown(name.clone()))));
        if pod.host_network {
            *pod = Pod::unknown(name.clone());
        }
        pod.node = node.clone().or(pod.node.take());
        pod.contested.retain(|ip| !addresses.contains(ip));
        let known: Vec<_> = pod.addresses.clone();
        pod.addresses.extend(addresses.iter().filter(|ip| !known.contains(ip)));
    }
}

/// An end that may have an address of each family.
struct Candidates<'a> {
    owner: Owner<'a>,
    addresses: Vec<IpAddr>,
}

impl Candidates<'_> {
    fn of(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

impl<'a> End<'a> {
    /// The node whose own network this is: that of a pod on it, or of the node itself.
    pub(super) fn host(&self) -> Option<&'a NodeName> {
        match self.owner {
            Owner::Node(node) => Some(node),
            Owner::Pod(pod) if pod.host_network => pod.node.as_ref(),
            _ => None,
        }
    }
}

impl<'a> Owner<'a> {
    /// The pod, if it is one with a port of its own: one that policies can select.
    pub(super) fn selectable(self) -> Option<&'a Pod> {
        match self {
            Self::Pod(pod) if !pod.host_network => Some(pod),
            _ => None,
        }
    }
}
