//! Compiling policy sets: peers into classes, and keeping that up as address sets change.
//!
//! A class is the set of rules that name a peer. Every prefix at which an answer may change is in
//! the table: the blocks of the rules, what is left out of them, and each address of an address
//! set. All addresses whose longest prefix is the same are of one class.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    iter,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{PolicySet, PolicySetObject, RuleIndex, ports::PortTable};
use crate::fib::{Fib, GroupIndex, host_prefix};

/// Rules of a policy set, in order.
type Rules = Box<[u32]>;

/// Address sets by number, and which of them an address is in.
#[derive(Clone, Debug, Default)]
pub struct AddressSets {
    /// Ascending, each address once.
    sets: HashMap<u64, Arc<[IpAddr]>>,
    members: HashMap<IpAddr, BTreeSet<u64>>,
}

impl AddressSets {
    /// Puts a set in place of the one of that number. Returns the addresses that came or went.
    pub fn insert(&mut self, id: u64, addresses: BTreeSet<IpAddr>) -> Vec<IpAddr> {
        self.insert_sorted(id, &addresses.into_iter().collect())
    }

    /// As [`Self::insert`], with addresses that are ascending, each once.
    pub(crate) fn insert_sorted(&mut self, id: u64, addresses: &Arc<[IpAddr]>) -> Vec<IpAddr> {
        let before = self.sets.insert(id, Arc::clone(addresses)).unwrap_or_default();
        let mut changed = Vec::new();
        for (address, is_new) in differences(&before, addresses) {
            if is_new {
                self.members.entry(address).or_default().insert(id);
            } else {
                self.leave(address, id);
            }
            changed.push(address);
        }
        changed
    }

    /// Removes a set. Returns the addresses that were in it.
    pub fn remove(&mut self, id: u64) -> Vec<IpAddr> {
        let Some(set) = self.sets.remove(&id) else { return Vec::new() };
        set.iter().for_each(|address| self.leave(*address, id));
        set.iter().copied().collect()
    }

    /// Whether there is a set of this number.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.sets.contains_key(&id)
    }

    /// The addresses of a set, ascending; `None` if there is no such set.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&[IpAddr]> {
        self.sets.get(&id).map(AsRef::as_ref)
    }

    /// All sets, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[IpAddr])> {
        self.sets.iter().map(|(id, addresses)| (*id, &**addresses))
    }

    /// How many sets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sets.len()
    }

    /// Whether there is no set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    fn leave(&mut self, address: IpAddr, id: u64) {
        if let Some(sets) = self.members.get_mut(&address) {
            sets.remove(&id);
            if sets.is_empty() {
                self.members.remove(&address);
            }
        }
    }

    fn of(&self, address: &IpAddr) -> impl Iterator<Item = u64> + '_ {
        self.members.get(address).into_iter().flatten().copied()
    }

    fn addresses(&self, id: u64) -> impl Iterator<Item = IpAddr> + '_ {
        self.sets.get(&id).into_iter().flat_map(|set| set.iter().copied())
    }
}

/// What only one of two ascending lists has, in order, and whether that is the second.
fn differences<'a>(
    before: &'a [IpAddr],
    after: &'a [IpAddr],
) -> impl Iterator<Item = (IpAddr, bool)> + 'a {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    iter::from_fn(move || {
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some(old), Some(new)) => old.cmp(new),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return None,
            };
            match order {
                Ordering::Less => return before.next().map(|address| (*address, false)),
                Ordering::Greater => return after.next().map(|address| (*address, true)),
                Ordering::Equal => {
                    before.next();
                    after.next();
                }
            }
        }
    })
}

/// One policy set, and what it takes to compile it anew in parts. Main thread only.
#[derive(Clone, Debug)]
pub struct PolicyCompiler {
    compiled: PolicySet,
    /// Rules that name an address set.
    rules_of_set: HashMap<u64, Vec<u32>>,
    /// Rules that name blocks.
    block_rules: Vec<u32>,
    /// Rules for every peer.
    any_rules: Vec<u32>,
    /// Prefixes of blocks and of what is left out of them.
    block_prefixes: BTreeSet<IpNet>,
    classes: Classes,
}

/// Which classes there are. The first is always there.
#[derive(Clone, Debug, Default)]
struct Classes {
    by_rules: HashMap<Rules, u32>,
    /// By class: its rules, and prefixes that lead to it.
    all: Vec<(Rules, usize)>,
    /// Numbers of classes that nobody is in any more.
    free: Vec<u32>,
}

impl PolicyCompiler {
    /// Compiles a policy set.
    #[must_use]
    pub fn new(object: Arc<PolicySetObject>, sets: &AddressSets) -> Self {
        let mut rules_of_set: HashMap<u64, Vec<u32>> = HashMap::new();
        let (mut block_rules, mut any_rules) = (Vec::new(), Vec::new());
        let mut block_prefixes = BTreeSet::new();
        for (index, rule) in (0..).zip(&object.rules) {
            if rule.is_any_peer {
                any_rules.push(index);
                continue;
            }
            for set in &rule.address_sets {
                rules_of_set.entry(*set).or_default().push(index);
            }
            if !rule.blocks.is_empty() {
                block_rules.push(index);
            }
            for block in &rule.blocks {
                block_prefixes.insert(block.prefix);
                block_prefixes.extend(block.excepts.iter().copied());
            }
        }
        let mut compiler = Self {
            compiled: PolicySet { object, peers: Fib::default(), classes: Arc::default() },
            rules_of_set,
            block_rules,
            any_rules,
            block_prefixes,
            classes: Classes::default(),
        };
        let nobodys = compiler.enter_class(compiler.any_rules.iter().copied().collect());
        debug_assert_eq!(nobodys, 0, "the first class is that of all whom no rule names");
        for prefix in compiler.block_prefixes.clone() {
            compiler.place(prefix, sets);
        }
        let ids: Vec<u64> = compiler.rules_of_set.keys().copied().collect();
        for address in ids.into_iter().flat_map(|id| sets.addresses(id)) {
            compiler.place(host_prefix(address), sets);
        }
        compiler
    }

    /// What packets are judged by.
    #[must_use]
    pub fn compiled(&self) -> &PolicySet {
        &self.compiled
    }

    /// Whether a rule names this address set.
    #[must_use]
    pub fn names(&self, set: u64) -> bool {
        self.rules_of_set.contains_key(&set)
    }

    /// Takes note of addresses that came into address sets, or went.
    pub fn readdress(&mut self, changed: &[IpAddr], sets: &AddressSets) {
        for address in changed {
            self.place(host_prefix(*address), sets);
        }
    }

    /// Puts the class of a prefix, or of one address, where its peers find it.
    fn place(&mut self, prefix: IpNet, sets: &AddressSets) {
        let address = prefix.addr();
        let is_host = prefix == host_prefix(address);
        let named = sets.of(&address).filter(|_| is_host);
        let named: Vec<&Vec<u32>> = named.filter_map(|set| self.rules_of_set.get(&set)).collect();
        let has_class = !named.is_empty() || self.block_prefixes.contains(&prefix);
        let rules: BTreeSet<u32> = named
            .into_iter()
            .flatten()
            .chain(&self.any_rules)
            .chain(self.block_rules.iter().filter(|rule| self.has_block_with(**rule, &prefix)))
            .copied()
            .collect();
        let left = if has_class {
            let class = self.enter_class(rules.into_iter().collect());
            self.compiled.peers.insert(prefix, GroupIndex(class))
        } else {
            self.compiled.peers.remove(prefix)
        };
        if let Some(GroupIndex(class)) = left {
            self.leave_class(class);
        }
    }

    fn has_block_with(&self, rule: u32, prefix: &IpNet) -> bool {
        let rule = self.compiled.object.rules.get(rule as usize);
        rule.is_some_and(|rule| rule.blocks.iter().any(|block| block.contains(prefix)))
    }

    /// One prefix more leads to the class of peers whom just these rules name.
    fn enter_class(&mut self, rules: Rules) -> u32 {
        if let Some(class) = self.classes.by_rules.get(&rules) {
            if let Some((_, users)) = self.classes.all.get_mut(*class as usize) {
                *users += 1;
            }
            return *class;
        }
        let object = &self.compiled.object;
        let ports = rules.iter().filter_map(|index| {
            Some((RuleIndex(*index), &*object.rules.get(*index as usize)?.ports))
        });
        let table = Arc::new(PortTable::new(ports));
        let tables = Arc::make_mut(&mut self.compiled.classes);
        let Classes { by_rules, all, free } = &mut self.classes;
        let class = free.pop().unwrap_or_else(|| {
            all.push(Default::default());
            tables.push(Arc::default());
            u32::try_from(all.len() - 1).unwrap_or(u32::MAX)
        });
        if let Some(slot) = tables.get_mut(class as usize) {
            *slot = table;
        }
        if let Some(slot) = all.get_mut(class as usize) {
            *slot = (rules.clone(), 1);
        }
        by_rules.insert(rules, class);
        class
    }

    /// One prefix less leads to a class.
    fn leave_class(&mut self, class: u32) {
        let Classes { by_rules, all, free } = &mut self.classes;
        let Some((rules, users)) = all.get_mut(class as usize) else { return };
        *users -= 1;
        if *users == 0 {
            by_rules.remove(rules);
            free.push(class);
        }
    }
}
