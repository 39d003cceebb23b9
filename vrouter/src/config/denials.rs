//! What drops are about, with the names that the client gave things.

use super::Config;
use crate::trace::{Denial, Detail};

/// Policies that are named in one sentence at most.
const POLICIES_NAMED_MAX: usize = 4;

impl Config {
    /// What was known of a drop, for people: with the names of now.
    #[must_use]
    pub fn describe(&self, detail: &Detail) -> String {
        match detail {
            Detail::NextHop { next_hop } => {
                self.next_hop_name(*next_hop).unwrap_or_default().to_owned()
            }
            Detail::Policy(denial) => self.describe_denial(denial),
            detail => detail.to_string(),
        }
    }

    /// The policies that isolate the port that denied a connection, as they are now.
    #[must_use]
    pub fn policies_of(&self, denial: &Denial) -> &[Box<str>] {
        self.policy_set(denial.set).map_or(&[], |set| &set.object().policies)
    }

    fn describe_denial(&self, denial: &Denial) -> String {
        let name = self.last.port(denial.port).map_or("a port that is gone", |port| &port.name);
        let policies = self.policies_of(denial);
        let named = policies.get(..policies.len().min(POLICIES_NAMED_MAX)).unwrap_or(&[]);
        let mut isolators = named.join(", ");
        if isolators.is_empty() {
            isolators = format!("policy set {:016x}", denial.set);
        } else if policies.len() > named.len() {
            isolators = format!("{isolators} and {} more", policies.len() - named.len());
        }
        format!("{name} is isolated by {isolators}: no rule allows {denial}")
    }
}
