//! Policy sets: what pods that the same policies select have in common.

use std::collections::{BTreeSet, HashMap, HashSet};

use control_api::{engine as api, policy::RULE_ITEMS_MAX};
use slab::Slab;

use super::{
    compiler::PolicyEntry,
    expression::PortName,
    identity::Identities,
    membership::Expressions,
    problem::PolicyProblem,
    room::Room,
    section::{Direction, Section, Term, TermPeer, TermPorts},
};

/// What makes two pods share a set.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct SetKey {
    pub(super) direction: Direction,
    /// The policies by index, in the order of their names.
    pub(super) policies: Vec<usize>,
    /// The numbers that the policies' names for ports have on the pods; those that have none are
    /// not listed. Sorted.
    pub(super) numbers: Vec<(PortName, Vec<u16>)>,
}

/// A set that some pod in scope has.
#[derive(Debug)]
pub(super) struct SetEntry {
    pub(super) key: SetKey,
    pub(super) id: u64,
    /// How many pods have it.
    pub(super) pods_count: usize,
    /// What was last reported of it.
    compiled: Option<api::PolicySet>,
    /// The rules that did not fit into it.
    problems: Vec<PolicyProblem>,
}

/// All policy sets.
#[derive(Debug, Default)]
pub(super) struct PolicySets {
    pub(super) entries: Slab<SetEntry>,
    indices: HashMap<SetKey, usize>,
    identities: Identities,
    /// Sets to compile again, by index.
    pub(super) touched: BTreeSet<usize>,
    /// The ids of sets that were reported and are gone.
    gone: HashSet<u64>,
}

impl PolicySets {
    /// The set for a key, if there is one.
    pub(super) fn find(&self, key: &SetKey) -> Option<usize> {
        self.indices.get(key).copied()
    }

    /// Makes a set for a key that has none. Nobody has it yet.
    pub(super) fn insert(&mut self, key: SetKey, policies: &Slab<PolicyEntry>) -> usize {
        let id = self.identities.claim(&identity_text(&key, policies));
        let entry =
            SetEntry { key: key.clone(), id, pods_count: 0, compiled: None, problems: Vec::new() };
        let index = self.entries.insert(entry);
        self.indices.insert(key, index);
        self.touched.insert(index);
        index
    }

    /// Takes a set out that nobody has.
    pub(super) fn remove(&mut self, index: usize) -> Option<SetKey> {
        let entry = self.entries.try_remove(index)?;
        self.indices.remove(&entry.key);
        self.identities.release(entry.id);
        self.touched.remove(&index);
        if entry.compiled.is_some() {
            self.gone.insert(entry.id);
        }
        Some(entry.key)
    }

    /// Compiles what was touched, and returns what differs from before: sets, and ids of the gone.
    pub(super) fn take_changes(
        &mut self,
        policies: &Slab<PolicyEntry>,
        expressions: &Expressions,
    ) -> (Vec<api::PolicySet>, Vec<u64>) {
        let mut changed = Vec::new();
        for index in std::mem::take(&mut self.touched) {
            let Some(entry) = self.entries.get_mut(index) else { continue };
            let (compiled, problems) = compile(entry, policies, expressions);
            let compiled = Some(compiled);
            entry.problems = problems;
            let was_gone = self.gone.remove(&entry.id);
            if was_gone || compiled != entry.compiled {
                changed.extend(compiled.clone());
                entry.compiled = compiled;
            }
        }
        changed.sort_unstable_by_key(|set| set.id);
        let mut removed: Vec<u64> = self.gone.drain().collect();
        removed.sort_unstable();
        (changed, removed)
    }

    /// The rules that did not fit into their sets.
    pub(super) fn problems(&self) -> impl Iterator<Item = &PolicyProblem> {
        self.entries.iter().flat_map(|(_, entry)| &entry.problems)
    }

    /// All sets, in the order of their ids.
    pub(super) fn policy_sets(&self) -> Vec<api::PolicySet> {
        let compiled = self.entries.iter().filter_map(|(_, entry)| entry.compiled.clone());
        let mut sets: Vec<_> = compiled.collect();
        sets.sort_unstable_by_key(|set| set.id);
        sets
    }
}

/// The text that a set's id is made of: not what its policies say, so that the id stays when they
/// are edited.
fn identity_text(key: &SetKey, policies: &Slab<PolicyEntry>) -> String {
    let policies = key.policies.iter().filter_map(|index| policies.get(*index));
    let names = policies.map(|entry| &entry.policy.name);
    let names = names.map(|name| format!(" {:?}/{:?}", name.namespace, name.name));
    let numbers = key.numbers.iter().map(|(name, numbers)| format!(" {name}={numbers:?}"));
    names.chain(numbers).fold(key.direction.word().to_owned(), |text, part| text + &part)
}

fn compile(
    entry: &SetEntry,
    policies: &Slab<PolicyEntry>,
    expressions: &Expressions,
) -> (api::PolicySet, Vec<PolicyProblem>) {
    let direction = entry.key.direction;
    let mut room = Room::new(entry.id);
    for policy in entry.key.policies.iter().filter_map(|index| policies.get(*index)) {
        let Some(index) = room.take_policy(&policy.policy.name) else { continue };
        let empty = Section::default();
        let section = policy.policy.section(direction).unwrap_or(&empty);
        let answers = &policy.expressions[direction.index()];
        for terms in section.terms.chunk_by(|a, b| a.rule_path() == b.rule_path()) {
            let mut rules = Vec::new();
            for term in terms {
                let compiled = Compiled { term, answers, numbers: &entry.key.numbers, expressions };
                compiled.push_rules(index, &mut rules);
            }
            let path = terms.first().map(Term::rule_path).unwrap_or_default();
            room.take_rules(&policy.policy.name, path, rules);
        }
    }
    room.finish()
}

/// A term and what it is compiled with.
struct Compiled<'a> {
    term: &'a Term,
    /// The section's expressions, by index.
    answers: &'a [usize],
    numbers: &'a [(PortName, Vec<u16>)],
    expressions: &'a Expressions,
}

impl Compiled<'_> {
    fn push_rules(&self, policy: u32, rules: &mut Vec<api::PolicyRule>) {
        let rule =
            api::PolicyRule { policy, path: self.term.path.clone(), ..api::PolicyRule::default() };
        let groups = |index: usize| {
            let answer = self.answers.get(index);
            answer.into_iter().flat_map(|answer| self.expressions.groups(*answer))
        };
        let ports = match (&self.term.ports, &self.term.peer) {
            (TermPorts::Every, _) => Vec::new(),
            (TermPorts::Listed { numbers, names }, _) => {
                let ports = self.listed(numbers, names);
                // No ports in the message would mean every port.
                if ports.is_empty() {
                    return;
                }
                ports
            }
            (TermPorts::OfPeers(protocol), TermPeer::Expression(index)) => {
                let rules_of = groups(*index).map(|(number, id)| api::PolicyRule {
                    address_sets: vec![id],
                    ports: vec![one_port(protocol.number(), number)],
                    ..rule.clone()
                });
                return rules.extend(rules_of);
            }
            // There are no such terms, and if there were, they would allow nothing.
            (TermPorts::OfPeers(_), _) => return,
        };
        let rule = match &self.term.peer {
            TermPeer::Any => api::PolicyRule { any_peer: true, ..rule },
            TermPeer::Block(block) => api::PolicyRule { blocks: vec![block.into()], ..rule },
            TermPeer::Expression(index) => {
                let address_sets = groups(*index).map(|(_, id)| id).collect();
                api::PolicyRule { address_sets, ..rule }
            }
        };
        if ports.len() <= RULE_ITEMS_MAX {
            return rules.push(api::PolicyRule { ports, ..rule });
        }
        // More than the engine takes in one: several that differ in their ports.
        let chunks = ports.chunks(RULE_ITEMS_MAX);
        rules.extend(chunks.map(|some| api::PolicyRule { ports: some.to_vec(), ..rule.clone() }));
    }

    fn listed(
        &self,
        numbers: &[api::ProtocolPorts],
        names: &[PortName],
    ) -> Vec<api::ProtocolPorts> {
        let by_name = names.iter().flat_map(|name| {
            let found = self.numbers.iter().find(|(known, _)| known == name);
            let numbers = found.map(|(_, numbers)| numbers.as_slice()).unwrap_or_default();
            numbers.iter().map(|number| one_port(name.protocol.number(), *number))
        });
        numbers.iter().copied().chain(by_name).collect()
    }
}

fn one_port(protocol: u8, number: u16) -> api::ProtocolPorts {
    let (first, last) = (u32::from(number), u32::from(number));
    api::ProtocolPorts { protocol: u32::from(protocol), first, last }
}
