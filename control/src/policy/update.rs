//! What the compiler says: what is in force, or how that has changed.

use std::collections::BTreeMap;

use control_api::engine::{self as api, object::Kind};

use crate::names::PodName;

/// The policy sets of a pod; 0: it is not isolated in that direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Assignment {
    /// Judges connections to it.
    pub ingress: u64,
    /// Judges connections from it.
    pub egress: u64,
}

/// What has changed. All of it belongs together: a part of it may allow what nobody wants allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// New and changed address sets, in the order of their ids.
    pub address_sets: Vec<api::AddressSet>,
    /// The ids of those that are gone.
    pub removed_address_sets: Vec<u64>,
    /// New and changed policy sets, in the order of their ids.
    pub policy_sets: Vec<api::PolicySet>,
    /// The ids of those that are gone.
    pub removed_policy_sets: Vec<u64>,
    /// New and changed assignments of pods; `None`: the pod is gone.
    pub assignments: BTreeMap<PodName, Option<Assignment>>,
}

impl Update {
    /// The new and changed sets as objects of the engine.
    pub fn objects(&self) -> impl Iterator<Item = api::Object> {
        let addresses = self.address_sets.iter().cloned().map(Kind::AddressSet);
        let policies = self.policy_sets.iter().cloned().map(Kind::PolicySet);
        addresses.chain(policies).map(|kind| api::Object { kind: Some(kind) })
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
