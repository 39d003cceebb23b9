//! Answers from manifests alone: control's compiler, the engine's judge, no node.
//!
//! A connection passes if the node of its source lets it out and the node of its destination lets
//! it in. Here both are asked, whatever nodes they are on.

use std::{collections::BTreeSet, path::Path};

use control::{
    cluster::{Cluster, Family, Pod},
    names::NodeName,
    policy::{Assignment, Compiler, Scope, changes},
};

use super::{
    ExplainFailure,
    answer::{Answer, Cause, EndView, Reason, RuleView, traffic},
    direction::Direction,
    judge::{Judge, Miss, Traffic},
    question::Question,
    world::{End, LocalPod, Owner, ResolveError, World},
};
use crate::manifests::Manifests;

/// A cluster that can be asked.
#[derive(Debug)]
pub(crate) struct Offline {
    world: World,
    compiler: Compiler,
    judge: Judge,
}

/// A rule that does not let the connection pass, and what is in the way: for people.
#[derive(Clone, Debug)]
pub(super) struct NearMiss {
    pub(super) rule: RuleView,
    pub(super) why: String,
}

impl Offline {
    /// Reads a folder of manifests and compiles the policies of all pods. `local`: the pods that are
    /// attached to `node`, which count as they are.
    ///
    /// # Errors
    ///
    /// Fails if a manifest is broken, or the engine would refuse what control compiled.
    pub(crate) fn open(
        folder: &Path,
        node: Option<&NodeName>,
        local: Option<&[LocalPod]>,
    ) -> Result<Self, ExplainFailure> {
        let manifests = Manifests::load(folder)
            .map_err(|source| ExplainFailure::Manifest { folder: folder.to_owned(), source })?;
        let world = World::new(&manifests, node, local);
        let mut compiler = Compiler::new(Scope::Cluster);
        let state = compiler.apply(changes(&Cluster::default(), world.cluster()));
        Ok(Self { world, compiler, judge: Judge::new(state)? })
    }

    /// All pods.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.world.cluster().pods.values().map(|pod| &**pod)
    }

    /// Protocols and ports at which some rule begins or ends.
    pub(crate) fn ports(&self) -> BTreeSet<(u8, u16)> {
        self.judge.ports()
    }

    /// Whether any manifest speaks of a node.
    pub(super) fn knows(&self, node: &NodeName) -> bool {
        self.world.knows(node)
    }

    /// Answers a question.
    ///
    /// # Errors
    ///
    /// Fails if an end does not exist or has no address.
    pub(crate) fn answer(&mut self, question: &Question) -> Result<Answer, ResolveError> {
        let Self { world, compiler, judge } = self;
        let [from, to] = world.resolve(question)?;
        let case = Case { world, compiler, question, from: &from, to: &to };
        let egress_reason = case.reason(judge, Direction::Egress);
        let ingress_reason = case.reason(judge, Direction::Ingress);
        let notes = case.notes(&egress_reason, &ingress_reason);
        let ends = [view(&from), view(&to)];
        Ok(Answer::new(question, ends, egress_reason, ingress_reason, notes))
    }

    /// The rules that might have allowed a direction and do not.
    pub(super) fn near_misses(
        &mut self,
        question: &Question,
        direction: Direction,
    ) -> Vec<NearMiss> {
        let Self { world, compiler, judge } = self;
        let Ok([from, to]) = world.resolve(question) else { return Vec::new() };
        let case = Case { world, compiler, question, from: &from, to: &to };
        let traffic = case.traffic(direction);
        let Some(ruling) = case.set(direction).and_then(|set| judge.judge(set, traffic)) else {
            return Vec::new();
        };
        let near_miss = |(rule, miss): (&vrouter::policy::PolicyRule, Miss)| NearMiss {
            rule: rule_view(&ruling.set, rule),
            why: match miss {
                Miss::Peer => format!("{} is none of its peers", case.peer_name(direction)),
                Miss::Except => format!("an except leaves {} out", case.peer_name(direction)),
                Miss::Port => format!(
                    "{} is one of its peers, but it allows only {}",
                    case.peer_name(direction),
                    ports(rule)
                ),
            },
        };
        judge.misses(&ruling.set, traffic).map(near_miss).collect()
    }
}

/// A question whose ends are known.
struct Case<'a> {
    world: &'a World,
    compiler: &'a Compiler,
    question: &'a Question,
    from: &'a End<'a>,
    to: &'a End<'a>,
}

impl Case<'_> {
    fn reason(&self, judge: &mut Judge, direction: Direction) -> Reason {
        let (end, word) = (self.end(direction), direction.word());
        let node = node_of(end);
        let plain = |cause, text| Reason {
            cause,
            node: node.clone(),
            policies: Vec::new(),
            rule: None,
            text,
        };
        let name = view(end).pod;
        let Some(pod) = end.owner.selectable() else {
            let (cause, text) = match (end.owner, name) {
                (Owner::Node(node), _) => {
                    (Cause::NotAPod, format!("{} is node {node}'s: no policy is", end.address))
                }
                (_, Some(name)) => (
                    Cause::HostNetwork,
                    format!("{name} uses its node's network, where no policy isolates it"),
                ),
                (_, None) => {
                    (Cause::NotAPod, format!("{} is no pod's: no policy is about it", end.address))
                }
            };
            return plain(cause, text);
        };
        if self.is_itself() {
            let text = format!("{} talks to itself, which is always allowed", pod.name);
            return plain(Cause::Itself, text);
        }
        if direction == Direction::Ingress && self.is_own_node() {
            let text =
                format!("{} is of {}'s own node, which may always", self.from.address, pod.name);
            return plain(Cause::OwnNode, text);
        }
        let ruling = self.set(direction).and_then(|set| judge.judge(set, self.traffic(direction)));
        let Some(ruling) = ruling else {
            let text = format!("no policy isolates {} for {word}", pod.name);
            return plain(Cause::NotIsolated, text);
        };
        let policies: Vec<String> = ruling.set.policies.iter().map(ToString::to_string).collect();
        let by = policies.join(", ");
        let rule = ruling.rule.and_then(|index| ruling.set.rules.get(index));
        let (cause, rule, text) = if let Some(rule) = rule {
            let rule = rule_view(&ruling.set, rule);
            let text = format!("allowed by {rule}");
            (Cause::Rule, Some(rule), text)
        } else {
            let text = format!("isolated for {word} by {by}, and no rule allows this");
            (Cause::NoRule, None, text)
        };
        Reason { cause, node, policies, rule, text }
    }

    /// Sentences about what of the manifests is not in force.
    fn notes(&self, egress: &Reason, ingress: &Reason) -> Vec<String> {
        let mut notes = Vec::new();
        for end in [self.from, self.to] {
            let Owner::Pod(Pod { name, .. }) = end.owner else { continue };
            if let Some(why) = self.world.pardon(name) {
                notes.push(format!("pod {name} is judged as if this were mended: {why}"));
            }
            if let Some(why) = self.world.refused(name) {
                notes.push(format!("pod {name} is judged without an address: {why}"));
            }
        }
        for name in egress.policies.iter().chain(&ingress.policies) {
            let problems = self.world.problems(name);
            notes.extend(problems.map(ToString::to_string));
        }
        notes
    }

    fn set(&self, direction: Direction) -> Option<u64> {
        let pod = self.end(direction).owner.selectable()?;
        let Assignment { ingress, egress } = self.compiler.assignment(&pod.name)?;
        let set = match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        };
        (set != 0).then_some(set)
    }

    fn end(&self, direction: Direction) -> &End<'_> {
        match direction {
            Direction::Ingress => self.to,
            Direction::Egress => self.from,
        }
    }

    fn peer(&self, direction: Direction) -> &End<'_> {
        match direction {
            Direction::Ingress => self.from,
            Direction::Egress => self.to,
        }
    }

    fn peer_name(&self, direction: Direction) -> String {
        let peer = self.peer(direction);
        view(peer).pod.unwrap_or_else(|| peer.address.to_string())
    }

    fn traffic(&self, direction: Direction) -> Traffic {
        let peer = self.peer(direction).address;
        let protocol = self.question.protocol.number(Family::of(peer));
        Traffic { peer, protocol, port: self.question.port }
    }

    fn is_itself(&self) -> bool {
        match (self.from.owner.selectable(), self.to.owner.selectable()) {
            (Some(from), Some(to)) => from.name == to.name,
            _ => false,
        }
    }

    /// Whether the source is the node that the destination is on.
    fn is_own_node(&self) -> bool {
        let host = self.from.host();
        let node = self.to.owner.selectable().and_then(|pod| pod.node.as_ref());
        host.is_some() && host == node
    }
}

fn view(end: &End<'_>) -> EndView {
    let pod = match end.owner {
        Owner::Pod(pod) => Some(pod.name.to_string()),
        Owner::Node(_) | Owner::Nobody => None,
    };
    EndView { pod, ip: end.address.to_string(), node: node_of(end) }
}

fn node_of(end: &End<'_>) -> Option<String> {
    let node = match end.owner {
        Owner::Pod(pod) => pod.node.as_ref(),
        Owner::Node(_) => end.host(),
        Owner::Nobody => None,
    };
    node.map(ToString::to_string)
}

fn rule_view(
    set: &vrouter::policy::PolicySetObject,
    rule: &vrouter::policy::PolicyRule,
) -> RuleView {
    RuleView::new(set.policy_of(rule), &rule.path)
}

/// The ports that a rule allows, for people.
fn ports(rule: &vrouter::policy::PolicyRule) -> String {
    let one = |range: &vrouter::policy::PortRange| {
        let protocol = match range.protocol {
            6 => "TCP",
            17 => "UDP",
            132 => "SCTP",
            _ => "?",
        };
        match (range.first, range.last) {
            (0, u16::MAX) => protocol.to_owned(),
            (first, last) if first == last => traffic(protocol, Some(first)),
            (first, last) => format!("{protocol} {first} to {last}"),
        }
    };
    rule.ports.iter().map(one).collect::<Vec<_>>().join(", ")
}
