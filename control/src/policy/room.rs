//! A policy set under construction, within what the engine takes.
//!
//! Policies are taken in the order of their names, and a rule as a whole or not at all: so what is
//! left out depends on the objects alone. A rule that is left out allows nothing, and is named.

use control_api::{
    engine as api,
    policy::{NAME_BYTES_MAX, SET_BYTES_MAX, SET_POLICIES_MAX, SET_PREFIXES_MAX, SET_RULES_MAX},
};
use prost::Message as _;

use super::{
    parse::PolicyName,
    problem::{Consequence, Fault, PolicyProblem},
};

/// Bytes of a field's number and length at most, for a field below 256 MiB.
const FIELD_HEAD_BYTES_MAX: usize = 5;

/// A set so far, and what has been used of its room.
#[derive(Debug)]
pub(super) struct Room {
    set: api::PolicySet,
    prefixes: usize,
    bytes: usize,
    problems: Vec<PolicyProblem>,
}

impl Room {
    /// A set without policies.
    pub(super) fn new(id: u64) -> Self {
        let set = api::PolicySet { id, ..api::PolicySet::default() };
        Self { set, prefixes: 0, bytes: 0, problems: Vec::new() }
    }

    /// Enters a policy, and returns its position. `None`: there are too many, and it allows nothing.
    pub(super) fn take_policy(&mut self, name: &PolicyName) -> Option<u32> {
        let index = self.set.policies.len();
        if index == SET_POLICIES_MAX {
            let fault = Fault::TooManyPolicies { max: SET_POLICIES_MAX };
            self.push(name, "spec.podSelector", fault, Consequence::PolicyAllowsNothing);
            return None;
        }
        // No API server lets a name be as long; a manifest may have it.
        let mut text = name.to_string();
        text.truncate(text.floor_char_boundary(NAME_BYTES_MAX));
        self.set.policies.push(text);
        u32::try_from(index).ok()
    }

    /// Enters what a rule of the policy is compiled to, if there is room for all of it.
    pub(super) fn take_rules(
        &mut self,
        policy: &PolicyName,
        path: &str,
        rules: Vec<api::PolicyRule>,
    ) {
        let blocks = rules.iter().flat_map(|rule| &rule.blocks);
        let prefixes = self.prefixes + blocks.map(|block| 1 + block.excepts.len()).sum::<usize>();
        let bytes = rules.iter().map(|rule| FIELD_HEAD_BYTES_MAX + rule.encoded_len());
        let bytes = self.bytes + bytes.sum::<usize>();
        if self.set.rules.len() + rules.len() > SET_RULES_MAX
            || prefixes > SET_PREFIXES_MAX
            || bytes > SET_BYTES_MAX
        {
            let fault = Fault::NoRoom {
                rules_max: SET_RULES_MAX,
                prefixes_max: SET_PREFIXES_MAX,
                bytes_max: SET_BYTES_MAX,
            };
            return self.push(policy, path, fault, Consequence::RuleAllowsNothing);
        }
        (self.prefixes, self.bytes) = (prefixes, bytes);
        self.set.rules.extend(rules);
    }

    /// The set, and what is not in it.
    pub(super) fn finish(self) -> (api::PolicySet, Vec<PolicyProblem>) {
        (self.set, self.problems)
    }

    fn push(&mut self, policy: &PolicyName, field: &str, fault: Fault, consequence: Consequence) {
        let (policy, field) = (policy.to_string(), field.to_owned());
        self.problems.push(PolicyProblem { policy, field, fault, consequence });
    }
}
