//! One direction of a policy, broken down into terms that each become a rule of the engine.

use std::collections::{BTreeMap, BTreeSet};

use control_api::engine as api;

use super::{
    block::Block,
    expression::{Expression, Peer, PortName},
};
use crate::cluster::Protocol;

/// Which end of a connection a policy isolates.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Direction {
    /// The destination: rules name sources.
    Ingress,
    /// The source: rules name destinations.
    Egress,
}

/// The rules of one direction. Without terms they allow nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Section {
    pub(super) terms: Vec<Term>,
    /// What the terms refer to by index; each once.
    pub(super) expressions: Vec<Expression>,
    /// The names that ingress rules have for ports of the selected pods.
    pub(super) port_names: BTreeSet<PortName>,
}

/// One peer of one rule, with ports that it is allowed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    /// Where it comes from: `spec.ingress[0].from[1]`.
    pub(super) path: String,
    pub(super) peer: TermPeer,
    pub(super) ports: TermPorts,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TermPeer {
    Any,
    Block(Block),
    /// An index into the section's expressions.
    Expression(usize),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TermPorts {
    Every,
    /// Numbers, and names that each selected pod has its own numbers for.
    Listed {
        numbers: Vec<api::ProtocolPorts>,
        names: Vec<PortName>,
    },
    /// The numbers that come with the answer to the term's expression.
    OfPeers(Protocol),
}

/// The ports of a rule, parsed.
#[derive(Clone, Debug)]
pub(super) enum Ports {
    Every,
    Listed { numbers: Vec<api::ProtocolPorts>, names: Vec<PortName> },
}

impl Direction {
    /// Both of them; the position is the [`index`](Self::index).
    pub(super) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// 0 or 1, for pairs.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Ingress => 0,
            Self::Egress => 1,
        }
    }

    /// The name of the section in the object.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// The name of a rule's list of peers in the object.
    pub(super) fn peers_word(self) -> &'static str {
        match self {
            Self::Ingress => "from",
            Self::Egress => "to",
        }
    }
}

impl Term {
    /// The path of the rule that it is of.
    pub(super) fn rule_path(&self) -> &str {
        self.path.split_once(']').map_or(&self.path, |(path, _)| &self.path[..=path.len()])
    }
}

/// A section under construction.
#[derive(Debug)]
pub(super) struct SectionBuilder {
    direction: Direction,
    section: Section,
    indices: BTreeMap<Expression, usize>,
}

impl SectionBuilder {
    pub(super) fn new(direction: Direction) -> Self {
        Self { direction, section: Section::default(), indices: BTreeMap::new() }
    }

    /// Adds a rule. No peers: every peer.
    pub(super) fn push_rule(&mut self, path: &str, peers: Vec<Peer>, ports: &Ports) {
        if peers.is_empty() {
            self.push_terms(path, None, ports);
        }
        for (index, peer) in peers.into_iter().enumerate() {
            let path = format!("{path}.{}[{index}]", self.direction.peers_word());
            self.push_terms(&path, Some(peer), ports);
        }
    }

    /// How many terms there are so far.
    pub(super) fn terms_count(&self) -> usize {
        self.section.terms.len()
    }

    pub(super) fn finish(self) -> Section {
        self.section
    }

    fn push_terms(&mut self, path: &str, peer: Option<Peer>, ports: &Ports) {
        let (numbers, names) = match (ports, self.direction) {
            (Ports::Every, _) => {
                let peer = self.term_peer(peer);
                return self.push(path, peer, TermPorts::Every);
            }
            (Ports::Listed { numbers, names }, Direction::Ingress) => {
                self.section.port_names.extend(names.iter().cloned());
                let ports = TermPorts::Listed { numbers: numbers.clone(), names: names.clone() };
                let peer = self.term_peer(peer);
                return self.push(path, peer, ports);
            }
            (Ports::Listed { numbers, names }, Direction::Egress) => (numbers, names),
        };
        // Names are the destinations' own: they narrow the peer down to the pods that have them.
        // Nobody outside the cluster has any.
        for port in names {
            let peer = peer.clone().unwrap_or_else(Peer::every_pod);
            let index = self.expression(Expression { peer, port: Some(port.clone()) });
            self.push(path, TermPeer::Expression(index), TermPorts::OfPeers(port.protocol));
        }
        if !numbers.is_empty() {
            let ports = TermPorts::Listed { numbers: numbers.clone(), names: Vec::new() };
            let peer = self.term_peer(peer);
            self.push(path, peer, ports);
        }
    }

    fn push(&mut self, path: &str, peer: TermPeer, ports: TermPorts) {
        self.section.terms.push(Term { path: path.to_owned(), peer, ports });
    }

    fn term_peer(&mut self, peer: Option<Peer>) -> TermPeer {
        match peer {
            None => TermPeer::Any,
            Some(Peer::Block(block)) => TermPeer::Block(block),
            Some(peer) => TermPeer::Expression(self.expression(Expression { peer, port: None })),
        }
    }

    fn expression(&mut self, expression: Expression) -> usize {
        let next = self.section.expressions.len();
        let index = *self.indices.entry(expression.clone()).or_insert(next);
        if index == next {
            self.section.expressions.push(expression);
        }
        index
    }
}
