//! What happens in every other block of windows, so that one engine is measured with and without
//! it.

use control_api::engine as api;
use perf::{
    engine_run::{EngineRun, RunError},
    policy_load, traffic,
};

use super::{churn::Churn, options::PipelineCase};

/// Policies of the set that isolates both pods.
const POLICIES: u32 = 1000;
/// The set's number.
const SET: u64 = 1;

/// Something that goes on, and pauses.
#[derive(Debug)]
pub(super) enum Interlude {
    Churn(Churn),
    /// The pods are isolated; whether they are now.
    Policy {
        is_on: bool,
    },
}

impl Interlude {
    /// What a case is measured with and without.
    pub(super) fn of_case(case: PipelineCase) -> Option<Self> {
        match case {
            PipelineCase::Churn => Some(Self::Churn(Churn::default())),
            PipelineCase::Policy => Some(Self::Policy { is_on: false }),
            _ => None,
        }
    }

    /// Does what is due.
    pub(super) fn go_on(&mut self, run: &mut EngineRun) -> Result<(), RunError> {
        match self {
            Self::Churn(churn) => churn.go_on(run),
            Self::Policy { is_on: true } => Ok(()),
            Self::Policy { is_on } => {
                *is_on = true;
                run.apply(isolation(SET).collect(), Vec::new())
            }
        }
    }

    /// Nothing happens until it goes on again.
    pub(super) fn pause(&mut self, run: &mut EngineRun) -> Result<(), RunError> {
        match self {
            Self::Churn(churn) => churn.pause(),
            Self::Policy { is_on: false } => {}
            Self::Policy { is_on } => {
                *is_on = false;
                run.apply(isolation(0).collect(), Vec::new())?;
            }
        }
        Ok(())
    }

    /// How many updates a second there were, of an interlude that is about them.
    pub(super) fn updates_per_second(&self) -> Option<f64> {
        match self {
            Self::Churn(churn) => Some(churn.updates_per_second()),
            Self::Policy { .. } => None,
        }
    }
}

/// The policy sets, and two pods that are isolated by one of them in both directions, or by none.
fn isolation(set: u64) -> impl Iterator<Item = api::Object> {
    let addresses = policy_load::address_sets().into_iter().map(api::object::Kind::AddressSet);
    let mut policy = policy_load::policy_set(SET, POLICIES);
    // The last rule lets what is measured pass.
    policy.rules.push(api::PolicyRule { any_peer: true, ..api::PolicyRule::default() });
    let ports = traffic::objects(2).into_iter().filter_map(move |object| match object.kind {
        Some(api::object::Kind::Port(port)) if port.role() == api::port::Role::Guest => {
            let port = api::Port { ingress_policy: set, egress_policy: set, ..port };
            Some(api::object::Kind::Port(port))
        }
        _ => None,
    });
    let kinds = addresses.chain([api::object::Kind::PolicySet(policy)]).chain(ports);
    kinds.map(|kind| api::Object { kind: Some(kind) })
}
