//! The answers to expressions: which addresses are in which set, kept up to date.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use control_api::engine as api;
use slab::Slab;

use super::{
    expression::{Expression, Peer},
    identity::Identities,
    population::{PodEntry, Population},
    section::Direction,
    selector::Labels,
};

/// A policy, by index, and the direction in which it uses an expression.
pub(super) type User = (usize, Direction);

/// An expression that some policy in force uses.
#[derive(Debug)]
pub(super) struct ExpressionEntry {
    pub(super) expression: Expression,
    /// The sets of addresses by port number; without a port's name there is one, under 0.
    groups: BTreeMap<u16, Group>,
    users: BTreeSet<User>,
}

/// A set of addresses. Sorted; an address that two pods claim at once is there twice, so that it
/// stays until both have left.
#[derive(Debug, Default)]
struct Group {
    id: u64,
    ipv4: Vec<[u8; 4]>,
    ipv6: Vec<[u8; 16]>,
}

/// All expressions in use.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    entries: Slab<ExpressionEntry>,
    indices: HashMap<Expression, usize>,
    identities: Identities,
    /// Where the set with an id is: expression and number.
    places: HashMap<u64, (usize, u16)>,
    /// The ids that were reported.
    reported: HashSet<u64>,
    /// The ids of sets that have changed since.
    touched: HashSet<u64>,
    /// Users of expressions that have other sets than before.
    restructured: BTreeSet<User>,
}

impl Expressions {
    /// Uses an expression; answers it if it is new.
    pub(super) fn acquire(
        &mut self,
        expression: &Expression,
        user: User,
        population: &mut Population,
    ) -> usize {
        let index = match self.indices.get(expression) {
            Some(index) => *index,
            None => self.build(expression, population),
        };
        if let Some(entry) = self.entries.get_mut(index) {
            entry.users.insert(user);
        }
        index
    }

    /// Uses an expression no more; forgets it with its last user.
    pub(super) fn release(&mut self, index: usize, user: User, population: &mut Population) {
        let Some(entry) = self.entries.get_mut(index) else { return };
        entry.users.remove(&user);
        if !entry.users.is_empty() {
            return;
        }
        for pod in candidates(&entry.expression, index, population) {
            if let Some(pod) = population.pods.get_mut(pod)
                && let Ok(position) = pod.memberships.binary_search(&index)
            {
                pod.memberships.remove(position);
            }
        }
        for (_, namespace) in &mut population.namespaces {
            namespace.expressions.remove(&index);
        }
        let entry = self.entries.remove(index);
        self.indices.remove(&entry.expression);
        for group in entry.groups.values() {
            self.forget_group(group.id);
        }
    }

    /// The sets of an expression: port number and id.
    pub(super) fn groups(&self, index: usize) -> impl Iterator<Item = (u16, u64)> {
        let entry = self.entries.get(index);
        entry.into_iter().flat_map(|entry| &entry.groups).map(|(number, set)| (*number, set.id))
    }

    /// The expressions whose peers may be in a namespace.
    pub(super) fn matching_namespace(&self, name: &str, labels: &Labels) -> BTreeSet<usize> {
        let entries = self.entries.iter();
        let possible = entries.filter(|(_, entry)| entry.expression.peer.may_be_in(name, labels));
        possible.map(|(index, _)| index).collect()
    }

    /// Brings the sets from what `old` was to what `new` is: two states of one pod, either of them
    /// possibly absent. `possible` are the expressions of the new one's namespace.
    pub(super) fn follow_pod(
        &mut self,
        old: Option<&PodEntry>,
        new: Option<&mut PodEntry>,
        possible: &BTreeSet<usize>,
    ) {
        let before = old.map(|pod| pod.memberships.as_slice()).unwrap_or_default();
        let mut after = Vec::new();
        for index in possible {
            let (Some(new), Some(entry)) = (new.as_deref(), self.entries.get(*index)) else {
                break;
            };
            let numbers = entry.expression.numbers(new);
            if numbers.is_empty() {
                continue;
            }
            after.push(*index);
            let stays = old.filter(|_| before.binary_search(index).is_ok());
            if let Some(old) = stays {
                let is_same =
                    old.addresses == new.addresses && entry.expression.numbers(old) == numbers;
                if is_same {
                    continue;
                }
                self.leave(*index, old);
            }
            self.join(*index, new, &numbers);
        }
        for index in before {
            if let Some(old) = old
                && after.binary_search(index).is_err()
            {
                self.leave(*index, old);
            }
        }
        if let Some(new) = new {
            new.memberships = after;
        }
    }

    /// What has changed since the last call: the sets as they are now, and the ids that are gone.
    pub(super) fn take_changes(&mut self) -> (Vec<api::AddressSet>, Vec<u64>) {
        let mut changed: Vec<u64> = self.touched.drain().collect();
        changed.sort_unstable();
        let (mut sets, mut removed) = (Vec::new(), Vec::new());
        for id in changed {
            match self.places.get(&id) {
                Some(place) => {
                    sets.extend(self.address_set(*place));
                    self.reported.insert(id);
                }
                None if self.reported.remove(&id) => removed.push(id),
                None => {}
            }
        }
        (sets, removed)
    }

    /// All sets, in the order of their ids.
    pub(super) fn address_sets(&self) -> Vec<api::AddressSet> {
        let places: BTreeMap<_, _> = self.places.iter().collect();
        places.into_values().filter_map(|place| self.address_set(*place)).collect()
    }

    /// The users of expressions that have other sets than before.
    pub(super) fn take_restructured(&mut self) -> BTreeSet<User> {
        std::mem::take(&mut self.restructured)
    }

    fn address_set(&self, (index, number): (usize, u16)) -> Option<api::AddressSet> {
        let group = self.entries.get(index)?.groups.get(&number)?;
        let (mut ipv4, mut ipv6) = (group.ipv4.clone(), group.ipv6.clone());
        ipv4.dedup();
        ipv6.dedup();
        Some(api::AddressSet { id: group.id, ipv4: ipv4.concat(), ipv6: ipv6.concat() })
    }

    fn build(&mut self, expression: &Expression, population: &mut Population) -> usize {
        let entry = ExpressionEntry {
            expression: expression.clone(),
            groups: BTreeMap::new(),
            users: BTreeSet::new(),
        };
        let index = self.entries.insert(entry);
        self.indices.insert(expression.clone(), index);
        for (_, namespace) in &mut population.namespaces {
            if expression.peer.may_be_in(&namespace.name, &namespace.labels) {
                namespace.expressions.insert(index);
            }
        }
        if expression.port.is_none() {
            self.group(index, 0);
        }
        for pod in candidates(expression, index, population) {
            let Some(pod) = population.pods.get_mut(pod) else { continue };
            let numbers = expression.numbers(pod);
            if let Err(position) = pod.memberships.binary_search(&index)
                && !numbers.is_empty()
            {
                pod.memberships.insert(position, index);
            }
            for number in numbers {
                if let Some(group) = self.group(index, number) {
                    pod.addresses_for(expression).for_each(|address| group.push(address));
                }
            }
        }
        if let Some(entry) = self.entries.get_mut(index) {
            entry.groups.values_mut().for_each(Group::sort);
        }
        index
    }

    fn join(&mut self, index: usize, pod: &PodEntry, numbers: &[u16]) {
        for number in numbers {
            self.group(index, *number);
            let Some(entry) = self.entries.get_mut(index) else { continue };
            let Some(group) = entry.groups.get_mut(number) else { continue };
            for address in pod.addresses_for(&entry.expression) {
                group.insert(address);
                self.touched.insert(group.id);
            }
        }
    }

    fn leave(&mut self, index: usize, pod: &PodEntry) {
        let Some(entry) = self.entries.get_mut(index) else { return };
        for number in entry.expression.numbers(pod) {
            let Some(group) = entry.groups.get_mut(&number) else { continue };
            for address in pod.addresses_for(&entry.expression) {
                group.remove(address);
                self.touched.insert(group.id);
            }
        }
        self.drop_empty_groups(index);
    }

    /// The set of an expression for a number: made, and made known to its users, if it is new.
    fn group(&mut self, index: usize, number: u16) -> Option<&mut Group> {
        let entry = self.entries.get_mut(index)?;
        let (identities, places) = (&mut self.identities, &mut self.places);
        let (restructured, touched) = (&mut self.restructured, &mut self.touched);
        let ExpressionEntry { expression, groups, users } = entry;
        Some(groups.entry(number).or_insert_with(|| {
            let id = identities.claim(&format!("{expression} at {number}"));
            places.insert(id, (index, number));
            touched.insert(id);
            restructured.extend(users.iter());
            Group { id, ..Group::default() }
        }))
    }

    /// A number that no pod has any more is no longer asked for.
    fn drop_empty_groups(&mut self, index: usize) {
        let Some(entry) = self.entries.get_mut(index) else { return };
        if entry.expression.port.is_none() {
            return;
        }
        let empty: Vec<_> = entry
            .groups
            .extract_if(.., |_, group| group.is_empty())
            .map(|(_, set)| set.id)
            .collect();
        if !empty.is_empty() {
            self.restructured.extend(entry.users.iter());
        }
        for id in empty {
            self.forget_group(id);
        }
    }

    fn forget_group(&mut self, id: u64) {
        self.identities.release(id);
        self.places.remove(&id);
        self.touched.insert(id);
    }
}

impl PodEntry {
    /// The addresses of a pod that an expression is about: of a block's, only those within.
    fn addresses_for(&self, expression: &Expression) -> impl Iterator<Item = IpAddr> {
        let block = match &expression.peer {
            Peer::Block(block) => Some(block),
            Peer::Pods { .. } => None,
        };
        let addresses = self.addresses.iter().copied();
        addresses.filter(move |address| block.is_none_or(|block| block.contains(*address)))
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        self.ipv4.is_empty() && self.ipv6.is_empty()
    }

    /// Adds an address out of order: [`sort`](Self::sort) must follow.
    fn push(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.ipv4.push(address.octets()),
            IpAddr::V6(address) => self.ipv6.push(address.octets()),
        }
    }

    fn sort(&mut self) {
        self.ipv4.sort_unstable();
        self.ipv6.sort_unstable();
    }

    fn insert(&mut self, address: IpAddr) {
        fn insert<T: Ord>(set: &mut Vec<T>, address: T) {
            let position = set.partition_point(|known| *known < address);
            set.insert(position, address);
        }
        match address {
            IpAddr::V4(address) => insert(&mut self.ipv4, address.octets()),
            IpAddr::V6(address) => insert(&mut self.ipv6, address.octets()),
        }
    }

    fn remove(&mut self, address: IpAddr) {
        fn remove<T: Ord>(set: &mut Vec<T>, address: &T) {
            if let Ok(position) = set.binary_search(address) {
                set.remove(position);
            }
        }
        match address {
            IpAddr::V4(address) => remove(&mut self.ipv4, &address.octets()),
            IpAddr::V6(address) => remove(&mut self.ipv6, &address.octets()),
        }
    }
}

/// The pods that an expression could match: those of its namespaces, or, if they are fewer, those
/// of its namespaces that have a label it asks for.
fn candidates(expression: &Expression, index: usize, population: &Population) -> Vec<usize> {
    let namespaces = population.namespaces.iter().map(|(_, namespace)| namespace);
    let namespaces = namespaces.filter(|namespace| namespace.expressions.contains(&index));
    let count = namespaces.clone().map(|namespace| namespace.pods.len()).sum();
    let narrowed = match &expression.peer {
        Peer::Pods { pods, .. } => population.narrowed(pods, count),
        Peer::Block(_) => None,
    };
    let is_near = |pod: &usize| {
        let namespace = population.pods.get(*pod).map(|pod| pod.namespace);
        let namespace = namespace.and_then(|namespace| population.namespaces.get(namespace));
        namespace.is_some_and(|namespace| namespace.expressions.contains(&index))
    };
    match narrowed {
        Some(pods) => pods.into_iter().filter(is_near).collect(),
        None => namespaces.flat_map(|namespace| &namespace.pods).copied().collect(),
    }
}
