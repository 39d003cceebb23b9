//! The compiler's state, and how it follows changes.
//!
//! A change of an object only marks what may depend on it; at the end of a batch whatever is marked
//! is worked out again, and what came out different is reported. So the cost of a change is that of
//! what it touches, and several changes of one pod cost one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use slab::Slab;

use super::{
    expression::PortName,
    membership::Expressions,
    parse::{Policy, PolicyName},
    policy_set::{PolicySets, SetKey},
    population::{NamespaceEntry, PodEntry, Population, namespace_labels},
    problem::PolicyProblem,
    section::Direction,
    selector::Labels,
    update::{Assignment, Update},
};
use crate::{
    cluster::Pod,
    names::{NodeName, PodName},
};

/// Whose policy sets are compiled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Those of the pods of one node.
    Node(NodeName),
    /// Those of all pods.
    Cluster,
}

/// A change of one object.
#[derive(Clone, Debug)]
pub enum Change {
    /// A namespace is new or has other labels.
    Namespace {
        /// Its name.
        name: String,
        /// Its labels.
        labels: BTreeMap<String, String>,
    },
    /// A namespace is gone. What is still in it has a namespace without labels.
    NamespaceGone(String),
    /// A pod is new or has changed.
    Pod(Pod),
    /// A pod is gone.
    PodGone(PodName),
    /// A policy is new or has changed.
    Policy(Policy),
    /// A policy is gone.
    PolicyGone(PolicyName),
}

/// A policy and what depends on it.
#[derive(Debug)]
pub(super) struct PolicyEntry {
    pub(super) policy: Policy,
    /// The sections' expressions while some set holds the policy, by direction.
    pub(super) expressions: [Vec<usize>; 2],
    /// The policy sets that hold it, by direction.
    sets: [BTreeSet<usize>; 2],
}

/// Compiles policies for pods, and follows changes of both.
///
/// A function of the objects that are there: how they came to be there leaves no trace.
#[derive(Debug)]
pub struct Compiler {
    scope: Scope,
    population: Population,
    policies: Slab<PolicyEntry>,
    policies_by_name: HashMap<PolicyName, usize>,
    expressions: Expressions,
    sets: PolicySets,
    /// Pods in scope whose assignment has to be looked at, by index.
    touched_pods: BTreeSet<usize>,
    /// Pods that were reported and are gone.
    gone_pods: BTreeSet<PodName>,
    /// Policies that are gone, while sets still hold them, by index.
    gone_policies: BTreeSet<usize>,
    /// Namespaces that may not be needed any more, by index.
    touched_namespaces: BTreeSet<usize>,
}

impl Compiler {
    /// A compiler that knows of nothing yet.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            population: Population::default(),
            policies: Slab::new(),
            policies_by_name: HashMap::new(),
            expressions: Expressions::default(),
            sets: PolicySets::default(),
            touched_pods: BTreeSet::new(),
            gone_pods: BTreeSet::new(),
            gone_policies: BTreeSet::new(),
            touched_namespaces: BTreeSet::new(),
        }
    }

    /// Takes changes over, in this order, and says what comes of them.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Update {
        for change in changes {
            match change {
                Change::Namespace { name, labels } => {
                    self.set_namespace(&name, namespace_labels(&name, &labels), true);
                }
                Change::NamespaceGone(name) => {
                    if self.population.namespaces_by_name.contains_key(&name) {
                        let labels = namespace_labels(&name, &BTreeMap::new());
                        self.set_namespace(&name, labels, false);
                    }
                }
                Change::Pod(pod) => self.set_pod(&pod),
                Change::PodGone(name) => self.remove_pod(&name),
                Change::Policy(policy) => self.set_policy(policy),
                Change::PolicyGone(name) => self.remove_policy(&name),
            }
        }
        self.flush()
    }

    /// All that is in force, as if it were new.
    #[must_use]
    pub fn state(&self) -> Update {
        let pods = self.population.pods.iter().map(|(_, pod)| pod);
        let reported = pods.filter(|pod| pod.reported.is_some());
        Update {
            address_sets: self.expressions.address_sets(),
            policy_sets: self.sets.policy_sets(),
            assignments: reported.map(|pod| (pod.name.clone(), pod.reported)).collect(),
            ..Update::default()
        }
    }

    /// The policy sets of a pod in scope.
    #[must_use]
    pub fn assignment(&self, pod: &PodName) -> Option<Assignment> {
        let index = self.population.pods_by_name.get(pod)?;
        self.population.pods.get(*index)?.reported
    }

    /// What of the policies is not in force, and why: first what they cannot say, then what there
    /// is no room for, each in the order of the policies' names.
    #[must_use]
    pub fn problems(&self) -> Vec<PolicyProblem> {
        let policies: BTreeMap<_, _> = self.policies_by_name.iter().collect();
        let policies = policies.into_values().filter_map(|index| self.policies.get(*index));
        let own = policies.flat_map(|entry| entry.policy.problems());
        // Several sets may have no room for the same rule.
        let sets = self.sets.problems().map(|found| ((&found.policy, &found.field), found));
        let sets: BTreeMap<_, _> = sets.collect();
        own.chain(sets.into_values()).cloned().collect()
    }

    fn set_namespace(&mut self, name: &str, labels: Labels, is_declared: bool) {
        let index = self.namespace(name);
        self.touched_namespaces.insert(index);
        let Some(entry) = self.population.namespaces.get_mut(index) else { return };
        entry.is_declared = is_declared;
        if entry.labels == labels {
            return;
        }
        entry.expressions = self.expressions.matching_namespace(name, &labels);
        entry.labels = labels;
        let NamespaceEntry { expressions, pods, .. } = entry;
        for pod in pods.iter() {
            let Some(pod) = self.population.pods.get_mut(*pod) else { continue };
            let old = pod.snapshot();
            self.expressions.follow_pod(Some(&old), Some(pod), expressions);
        }
    }

    fn set_pod(&mut self, pod: &Pod) {
        if pod.host_network {
            // Its addresses are its node's: no policy selects it, and no selector finds it.
            return self.remove_pod(&pod.name);
        }
        let is_in_scope = match &self.scope {
            Scope::Cluster => true,
            Scope::Node(node) => pod.node.as_ref() == Some(node),
        };
        let namespace = self.namespace(&pod.name.namespace);
        let mut new = PodEntry::new(pod, namespace, is_in_scope);
        let Some(index) = self.population.pods_by_name.get(&pod.name).copied() else {
            self.follow_pod(None, &mut new);
            let index = self.population.insert_pod(new);
            self.touched_pods.insert(index);
            return;
        };
        let Some(known) = self.population.pods.get(index) else { return };
        let old = known.snapshot();
        new.memberships.clone_from(&old.memberships);
        let is_scope_same = old.is_in_scope == is_in_scope;
        if new.is_same(&old) && is_scope_same {
            return;
        }
        self.follow_pod(Some(&old), &mut new);
        if new.labels != old.labels {
            self.population.relabel_pod(index, new.labels);
        }
        let Some(known) = self.population.pods.get_mut(index) else { return };
        known.is_in_scope = is_in_scope;
        known.addresses = new.addresses;
        known.named_ports = new.named_ports;
        known.memberships = new.memberships;
        self.touched_pods.insert(index);
    }

    fn follow_pod(&mut self, old: Option<&PodEntry>, new: &mut PodEntry) {
        let none = BTreeSet::new();
        let namespace = self.population.namespaces.get(new.namespace);
        let possible = namespace.map_or(&none, |namespace| &namespace.expressions);
        self.expressions.follow_pod(old, Some(new), possible);
    }

    fn remove_pod(&mut self, name: &PodName) {
        let Some(index) = self.population.pods_by_name.get(name).copied() else { return };
        let Some(old) = self.population.remove_pod(index) else { return };
        self.expressions.follow_pod(Some(&old), None, &BTreeSet::new());
        self.touched_namespaces.insert(old.namespace);
        for set in old.sets.into_iter().flatten() {
            self.drop_holder(set);
        }
        if old.reported.is_some() {
            self.gone_pods.insert(old.name);
        }
    }

    fn set_policy(&mut self, policy: Policy) {
        let namespace = self.namespace(&policy.name.namespace);
        let Some(index) = self.policies_by_name.get(&policy.name).copied() else {
            let name = policy.name.clone();
            let (expressions, sets) = Default::default();
            let index = self.policies.insert(PolicyEntry { policy, expressions, sets });
            self.policies_by_name.insert(name, index);
            return self.list_policy(namespace, index);
        };
        self.gone_policies.remove(&index);
        let is_same = self.policies.get(index).is_some_and(|known| known.policy == policy);
        if is_same {
            // It may have been gone within this batch.
            return self.list_policy(namespace, index);
        }
        self.touch_selected(namespace, index);
        let Some(entry) = self.policies.get_mut(index) else { return };
        entry.policy = policy;
        for direction in Direction::BOTH {
            self.reacquire(index, direction);
        }
        self.list_policy(namespace, index);
    }

    fn remove_policy(&mut self, name: &PolicyName) {
        let Some(index) = self.policies_by_name.get(name).copied() else { return };
        let namespace = self.namespace(&name.namespace);
        self.touch_selected(namespace, index);
        if let Some(namespace) = self.population.namespaces.get_mut(namespace) {
            namespace.policies.remove(&name.name);
        }
        self.touched_namespaces.insert(namespace);
        self.gone_policies.insert(index);
    }

    /// Makes a policy one of its namespace's.
    fn list_policy(&mut self, namespace: usize, index: usize) {
        let Some(entry) = self.policies.get(index) else { return };
        if let Some(namespace) = self.population.namespaces.get_mut(namespace) {
            namespace.policies.insert(entry.policy.name.name.clone(), index);
        }
        self.touch_selected(namespace, index);
    }

    /// Marks the pods that a policy selects, as it is now.
    fn touch_selected(&mut self, namespace: usize, policy: usize) {
        let Some(namespace) = self.population.namespaces.get(namespace) else { return };
        let Some(entry) = self.policies.get(policy) else { return };
        let selector = &entry.policy.selector;
        let pods = namespace.pods.iter().filter(|index| {
            let pod = self.population.pods.get(**index);
            pod.is_some_and(|pod| pod.is_in_scope && selector.is_match(&pod.labels))
        });
        self.touched_pods.extend(pods);
    }

    /// Uses the expressions that a policy has now instead of those it had, if any set holds it.
    fn reacquire(&mut self, index: usize, direction: Direction) {
        let Some(entry) = self.policies.get_mut(index) else { return };
        let old = std::mem::take(&mut entry.expressions[direction.index()]);
        let sets = &entry.sets[direction.index()];
        let section = entry.policy.section(direction).filter(|_| !sets.is_empty());
        let wanted = section.map(|section| section.expressions.as_slice()).unwrap_or_default();
        let (user, mut new) = ((index, direction), Vec::with_capacity(wanted.len()));
        for expression in wanted {
            new.push(self.expressions.acquire(expression, user, &mut self.population));
        }
        self.sets.touched.extend(sets);
        let kept: BTreeSet<_> = new.iter().copied().collect();
        entry.expressions[direction.index()] = new;
        for old in old.into_iter().filter(|old| !kept.contains(old)) {
            self.expressions.release(old, user, &mut self.population);
        }
    }

    /// The index of a namespace; made known if it is new.
    fn namespace(&mut self, name: &str) -> usize {
        if let Some(index) = self.population.namespaces_by_name.get(name) {
            return *index;
        }
        let labels = namespace_labels(name, &BTreeMap::new());
        let expressions = self.expressions.matching_namespace(name, &labels);
        let name = name.to_owned();
        let entry =
            NamespaceEntry { name: name.clone(), labels, expressions, ..NamespaceEntry::default() };
        let index = self.population.namespaces.insert(entry);
        self.population.namespaces_by_name.insert(name, index);
        index
    }

    /// Works out whatever is marked.
    fn flush(&mut self) -> Update {
        let pods = std::mem::take(&mut self.touched_pods);
        for pod in &pods {
            for direction in Direction::BOTH {
                self.assign(*pod, direction);
            }
        }
        self.drop_unused_sets();
        for index in std::mem::take(&mut self.gone_policies) {
            if let Some(entry) = self.policies.try_remove(index) {
                self.policies_by_name.remove(&entry.policy.name);
            }
        }
        self.drop_idle_namespaces();
        for (policy, direction) in self.expressions.take_restructured() {
            if let Some(entry) = self.policies.get(policy) {
                self.sets.touched.extend(&entry.sets[direction.index()]);
            }
        }
        let (policy_sets, removed_policy_sets) =
            self.sets.take_changes(&self.policies, &self.expressions);
        let (address_sets, removed_address_sets) = self.expressions.take_changes();
        let assignments = self.changed_assignments(&pods);
        Update { address_sets, removed_address_sets, policy_sets, removed_policy_sets, assignments }
    }

    /// Gives a pod the set that it should have.
    fn assign(&mut self, pod: usize, direction: Direction) {
        let Some(entry) = self.population.pods.get(pod) else { return };
        let key = if entry.is_in_scope { self.set_key(entry, direction) } else { None };
        let old = entry.sets[direction.index()];
        let new = key.map(|key| match self.sets.find(&key) {
            Some(set) => set,
            None => self.insert_set(key),
        });
        if old == new {
            return;
        }
        if let Some(set) = new.and_then(|set| self.sets.entries.get_mut(set)) {
            set.pods_count += 1;
        }
        if let Some(set) = old {
            self.drop_holder(set);
        }
        if let Some(entry) = self.population.pods.get_mut(pod) {
            entry.sets[direction.index()] = new;
        }
    }

    /// Whose pod's set it should be; `None`: no policy isolates the pod.
    fn set_key(&self, pod: &PodEntry, direction: Direction) -> Option<SetKey> {
        let namespace = self.population.namespaces.get(pod.namespace)?;
        let mut policies = Vec::new();
        let mut names: BTreeSet<&PortName> = BTreeSet::new();
        for index in namespace.policies.values() {
            let Some(PolicyEntry { policy, .. }) = self.policies.get(*index) else { continue };
            let Some(section) = policy.section(direction) else { continue };
            if policy.selector.is_match(&pod.labels) {
                policies.push(*index);
                names.extend(&section.port_names);
            }
        }
        let numbers = names.into_iter().map(|name| (name.clone(), name.numbers(&pod.named_ports)));
        let numbers = numbers.filter(|(_, numbers)| !numbers.is_empty()).collect();
        (!policies.is_empty()).then_some(SetKey { direction, policies, numbers })
    }

    fn insert_set(&mut self, key: SetKey) -> usize {
        let set = self.sets.insert(key.clone(), &self.policies);
        for policy in key.policies {
            let Some(entry) = self.policies.get_mut(policy) else { continue };
            let sets = &mut entry.sets[key.direction.index()];
            sets.insert(set);
            if sets.len() == 1 {
                self.reacquire(policy, key.direction);
            }
        }
        set
    }

    fn drop_holder(&mut self, set: usize) {
        if let Some(entry) = self.sets.entries.get_mut(set) {
            entry.pods_count -= 1;
            // Compiled in vain if it is taken out before.
            self.sets.touched.insert(set);
        }
    }

    fn drop_unused_sets(&mut self) {
        let is_unused =
            |index: &&usize| self.sets.entries.get(**index).is_some_and(|set| set.pods_count == 0);
        let unused: Vec<_> = self.sets.touched.iter().filter(is_unused).copied().collect();
        for set in unused {
            let Some(key) = self.sets.remove(set) else { continue };
            for policy in key.policies {
                let Some(entry) = self.policies.get_mut(policy) else { continue };
                let sets = &mut entry.sets[key.direction.index()];
                sets.remove(&set);
                if sets.is_empty() {
                    self.reacquire(policy, key.direction);
                }
            }
        }
    }

    fn drop_idle_namespaces(&mut self) {
        for index in std::mem::take(&mut self.touched_namespaces) {
            if self.population.namespaces.get(index).is_some_and(NamespaceEntry::is_idle) {
                let entry = self.population.namespaces.remove(index);
                self.population.namespaces_by_name.remove(&entry.name);
            }
        }
    }

    fn changed_assignments(
        &mut self,
        touched: &BTreeSet<usize>,
    ) -> BTreeMap<PodName, Option<Assignment>> {
        let gone = std::mem::take(&mut self.gone_pods).into_iter();
        let mut changed: BTreeMap<_, _> = gone.map(|name| (name, None)).collect();
        let id = |set: Option<usize>| {
            set.and_then(|set| self.sets.entries.get(set)).map_or(0, |set| set.id)
        };
        for pod in touched {
            let Some(pod) = self.population.pods.get_mut(*pod) else { continue };
            let [ingress, egress] = pod.sets.map(id);
            let now = pod.is_in_scope.then_some(Assignment { ingress, egress });
            if now != pod.reported {
                changed.insert(pod.name.clone(), now);
                pod.reported = now;
            }
        }
        changed
    }
}

impl PodEntry {
    /// What the pod contributes to sets, as it is now.
    fn snapshot(&self) -> Self {
        Self {
            name: self.name.clone(),
            labels: self.labels.clone(),
            addresses: self.addresses.clone(),
            named_ports: self.named_ports.clone(),
            memberships: self.memberships.clone(),
            ..*self
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.addresses == other.addresses
            && self.named_ports == other.named_ports
    }
}
