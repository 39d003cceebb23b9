//! Peers as expressions over the cluster's pods, independent of the policy that holds them.

use std::fmt;

use super::{
    block::Block,
    population::PodEntry,
    selector::{Labels, Selector},
};
use crate::cluster::{NamedPort, Protocol};

/// Who may be at the other end.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Peer {
    /// Pods, by the labels of their namespaces and by their own.
    Pods { namespaces: Namespaces, pods: Selector },
    /// Addresses, whoever has them.
    Block(Block),
}

/// In which namespaces a peer's pods are.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Namespaces {
    /// In the one of this name: the policy's own.
    Own(String),
    /// In those with such labels.
    Matching(Selector),
}

/// A port that is asked for by name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct PortName {
    pub(super) protocol: Protocol,
    pub(super) name: String,
}

/// A set of pod addresses, as a question: what the answer depends on, and nothing else.
///
/// With a port's name, there is an answer for each number that the name has on some pod.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Expression {
    pub(super) peer: Peer,
    pub(super) port: Option<PortName>,
}

impl Peer {
    /// Every pod of the cluster.
    pub(super) fn every_pod() -> Self {
        Self::Pods {
            namespaces: Namespaces::Matching(Selector::default()),
            pods: Selector::default(),
        }
    }

    /// Whether there can be such a peer in a namespace.
    pub(super) fn may_be_in(&self, namespace: &str, labels: &Labels) -> bool {
        match self {
            Self::Pods { namespaces: Namespaces::Own(own), .. } => own == namespace,
            Self::Pods { namespaces: Namespaces::Matching(selector), .. } => {
                selector.is_match(labels)
            }
            Self::Block(_) => true,
        }
    }
}

impl PortName {
    /// Whether a pod's port bears this name.
    pub(super) fn is_name_of(&self, port: &NamedPort) -> bool {
        port.protocol == self.protocol && port.name == self.name
    }

    /// The numbers that the name has on a pod: sorted, each once. Kubernetes does not see to it
    /// that two containers of a pod do not share a name; then it is the name of both ports.
    pub(super) fn numbers(&self, ports: &[NamedPort]) -> Vec<u16> {
        // The ports are sorted, and so are those of one name.
        ports.iter().filter(|port| self.is_name_of(port)).map(|port| port.number).collect()
    }
}

impl Expression {
    /// The numbers under which a pod's addresses are in the answer: none if they are not, or there
    /// are none. Without a port's name the only number is 0.
    ///
    /// That the pod's namespace is one of the peer's is taken for granted.
    pub(super) fn numbers(&self, pod: &PodEntry) -> Vec<u16> {
        let is_peer = match &self.peer {
            Peer::Pods { pods, .. } => pods.is_match(&pod.labels),
            Peer::Block(block) => pod.addresses.iter().any(|address| block.contains(*address)),
        };
        match &self.port {
            _ if !is_peer || pod.addresses.is_empty() => Vec::new(),
            None => vec![0],
            Some(port) => port.numbers(&pod.named_ports),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods { namespaces: Namespaces::Own(name), pods } => {
                write!(f, "pods {pods} of namespace {name:?}")
            }
            Self::Pods { namespaces: Namespaces::Matching(namespaces), pods } => {
                write!(f, "pods {pods} of namespaces {namespaces}")
            }
            Self::Block(block) => write!(f, "pods in {block}"),
        }
    }
}

/// The canonical text, which ids are made of: equal for equal expressions only.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)?;
        match &self.port {
            None => Ok(()),
            Some(port) => write!(f, " with {port}"),
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.protocol.word(), self.name)
    }
}
