//! The policy of the state: address sets, policy sets, and what they are compiled to.
//!
//! Sets are large and a change is small: an address that a pod has got, in a set of ten thousand.
//! So what is here is changed in place, unlike the rest of the state, and a batch is held against
//! it first, whole: what passes [`Policies::check`] cannot fail any more. Snapshots share the
//! compiled tables; a change copies only what it changes of them (see [`crate::policy`]).

mod parse;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

pub(crate) use self::parse::PROTOCOLS_WITH_PORTS;
pub use self::parse::{SET_ADDRESSES_MAX, SET_RULES_MAX};
pub(super) use self::parse::{address_set_label, policy_set_label};
use super::{
    error::{ApplyError, FieldError, Problem},
    object::port_label,
    state::PortState,
};
use crate::{
    policy::{AddressSetObject, AddressSets, PolicyCompiler, PolicySet, PolicySetObject},
    port::PORTS_MAX,
    snapshot::{PolicyIndex, PolicyTable},
};

/// Policy sets at most: two for each port, and as many that take their places.
pub const POLICY_SETS_MAX: usize = 4 * PORTS_MAX;
/// Address sets at most: each is the answer to one question of some policy; ten questions for each
/// of a thousand policies, and room.
pub const ADDRESS_SETS_MAX: usize = 1 << 16;

/// What a batch says about policy.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "two kinds of sets, each with what goes")]
pub(super) struct PolicyChanges {
    pub(super) address_sets: BTreeMap<u64, AddressSetObject>,
    pub(super) policy_sets: BTreeMap<u64, PolicySetObject>,
    pub(super) deleted_address_sets: BTreeSet<u64>,
    pub(super) deleted_policy_sets: BTreeSet<u64>,
}

/// All sets, and which place of the snapshot's table each policy set has.
#[derive(Debug, Default)]
pub(super) struct Policies {
    addresses: AddressSets,
    sets: BTreeMap<u64, CompiledSet>,
    free: Vec<PolicyIndex>,
    table: PolicyTable,
}

#[derive(Debug)]
struct CompiledSet {
    index: PolicyIndex,
    compiler: PolicyCompiler,
}

impl PolicyChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.address_sets.is_empty()
            && self.policy_sets.is_empty()
            && self.deleted_address_sets.is_empty()
            && self.deleted_policy_sets.is_empty()
    }

    /// The first set that is both changed and deleted.
    pub(super) fn contradiction(&self) -> Option<String> {
        let mut addresses = self.deleted_address_sets.iter();
        let mut policies = self.deleted_policy_sets.iter();
        addresses
            .find(|id| self.address_sets.contains_key(id))
            .map(|id| address_set_label(*id))
            .or_else(|| {
                policies
                    .find(|id| self.policy_sets.contains_key(id))
                    .map(|id| policy_set_label(*id))
            })
    }
}

impl Policies {
    /// Turns "everything there is" into deletes of what is not named.
    pub(super) fn sweep(&self, changes: &mut PolicyChanges) {
        let addresses = self.addresses.iter().map(|(id, _)| id);
        let named = &changes.address_sets;
        changes.deleted_address_sets.extend(addresses.filter(|id| !named.contains_key(id)));
        let named = &changes.policy_sets;
        let sets = self.sets.keys().filter(|id| !named.contains_key(id));
        changes.deleted_policy_sets.extend(sets);
    }

    /// Whether everything that is named would be there after these changes, and not too much.
    pub(super) fn check<'a>(
        &self,
        changes: &PolicyChanges,
        ports: impl Iterator<Item = &'a PortState>,
    ) -> Result<(), ApplyError> {
        self.check_counts(changes)?;
        self.check_address_sets(changes)?;
        for port in ports {
            let object = &port.object;
            for (field, set) in
                [("ingress_policy", object.ingress_policy), ("egress_policy", object.egress_policy)]
            {
                let Some(set) = set.filter(|set| !self.has_policy_set(*set, changes)) else {
                    continue;
                };
                let user = port_label(&object.name);
                return Err(missing(
                    changes.deleted_policy_sets.contains(&set).then(|| policy_set_label(set)),
                    user,
                    field.to_owned(),
                    Problem::NoSuch { kind: "policy set", name: format!("{set:016x}") },
                ));
            }
        }
        Ok(())
    }

    fn check_counts(&self, changes: &PolicyChanges) -> Result<(), ApplyError> {
        let new = changes.address_sets.keys().filter(|id| !self.addresses.contains(**id));
        let gone = changes.deleted_address_sets.iter().filter(|id| self.addresses.contains(**id));
        let count = self.addresses.len() + new.count() - gone.count();
        let (maximum, kind) = (ADDRESS_SETS_MAX, "address sets");
        if count > maximum {
            return Err(FieldError::new(kind, Problem::TooMany { count, maximum }).of("batch"));
        }
        let new = changes.policy_sets.keys().filter(|id| !self.sets.contains_key(id));
        let gone = changes.deleted_policy_sets.iter().filter(|id| self.sets.contains_key(id));
        let count = self.sets.len() + new.count() - gone.count();
        let (maximum, kind) = (POLICY_SETS_MAX, "policy sets");
        if count > maximum {
            return Err(FieldError::new(kind, Problem::TooMany { count, maximum }).of("batch"));
        }
        Ok(())
    }

    /// Address sets that rules name are there.
    fn check_address_sets(&self, changes: &PolicyChanges) -> Result<(), ApplyError> {
        let has_set = |id: u64| {
            changes.address_sets.contains_key(&id)
                || (self.addresses.contains(id) && !changes.deleted_address_sets.contains(&id))
        };
        let is_changed = |id: &u64| {
            changes.policy_sets.contains_key(id) || changes.deleted_policy_sets.contains(id)
        };
        let kept = self.sets.iter().filter(|(id, _)| !is_changed(id));
        // Unless something is deleted, those that stay have what they had.
        let kept = kept.take_while(|_| !changes.deleted_address_sets.is_empty());
        let kept = kept.map(|(_, set)| &**set.compiler.compiled().object());
        for object in changes.policy_sets.values().chain(kept) {
            for (index, rule) in object.rules.iter().enumerate() {
                let Some(id) = rule.address_sets.iter().find(|id| !has_set(**id)) else { continue };
                return Err(missing(
                    changes.deleted_address_sets.contains(id).then(|| address_set_label(*id)),
                    policy_set_label(object.id),
                    format!("rules[{index}].address_sets"),
                    Problem::NoSuch { kind: "address set", name: format!("{id:016x}") },
                ));
            }
        }
        Ok(())
    }

    fn has_policy_set(&self, id: u64, changes: &PolicyChanges) -> bool {
        changes.policy_sets.contains_key(&id)
            || (self.sets.contains_key(&id) && !changes.deleted_policy_sets.contains(&id))
    }

    /// Makes the changes, which were checked. Returns the policy sets that may judge differently
    /// now.
    pub(super) fn commit(&mut self, changes: PolicyChanges) -> BTreeSet<u64> {
        let mut affected = BTreeSet::new();
        if changes.is_empty() {
            return affected;
        }
        for id in changes.deleted_policy_sets {
            if let Some(set) = self.sets.remove(&id) {
                self.free.push(set.index);
                self.table.set(set.index, None);
                affected.insert(id);
            }
        }
        let mut moved: HashMap<u64, Vec<IpAddr>> = HashMap::new();
        for (id, set) in changes.address_sets {
            moved.insert(id, self.addresses.insert_sorted(id, &set.addresses));
        }
        for id in changes.deleted_address_sets {
            moved.insert(id, self.addresses.remove(id));
        }
        moved.retain(|_, addresses| !addresses.is_empty());
        for (id, object) in changes.policy_sets {
            let before = self.sets.get(&id);
            if before.is_none_or(|set| **set.compiler.compiled().object() != object) {
                self.compile(id, object);
                affected.insert(id);
            }
        }
        for (policy, set) in &mut self.sets {
            let named = moved.iter().filter(|(id, _)| set.compiler.names(**id));
            let addresses: BTreeSet<IpAddr> =
                named.flat_map(|(_, addresses)| addresses).copied().collect();
            // What was compiled just now has them already.
            if !addresses.is_empty() && affected.insert(*policy) {
                let addresses: Vec<IpAddr> = addresses.into_iter().collect();
                set.compiler.readdress(&addresses, &self.addresses);
                self.table.set(set.index, Some(set.compiler.compiled().clone()));
            }
        }
        affected
    }

    fn compile(&mut self, id: u64, object: PolicySetObject) {
        let compiler = PolicyCompiler::new(Arc::new(object), &self.addresses);
        let index = match self.sets.get(&id) {
            Some(before) => before.index,
            None => self.free.pop().unwrap_or_else(|| self.table.next_index()),
        };
        self.table.set(index, Some(compiler.compiled().clone()));
        self.sets.insert(id, CompiledSet { index, compiler });
    }

    /// Where the policy set is in the snapshot's table.
    pub(super) fn index(&self, id: u64) -> Option<PolicyIndex> {
        self.sets.get(&id).map(|set| set.index)
    }

    /// A policy set, compiled.
    pub(super) fn get(&self, id: u64) -> Option<&PolicySet> {
        self.sets.get(&id).map(|set| set.compiler.compiled())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PolicySet> {
        self.sets.values().map(|set| set.compiler.compiled())
    }

    pub(super) fn addresses(&self) -> &AddressSets {
        &self.addresses
    }

    pub(super) fn table(&self) -> &PolicyTable {
        &self.table
    }
}

/// What is named is not there: because the batch deletes it, or anyway.
fn missing(deleted: Option<String>, user: String, field: String, problem: Problem) -> ApplyError {
    match deleted {
        Some(label) => FieldError::new("id", Problem::InUse { user }).of(label),
        None => FieldError::new(field, problem).of(user),
    }
}
