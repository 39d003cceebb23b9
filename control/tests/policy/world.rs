//! The objects of a cluster, and what has to be said when they change.

use std::collections::BTreeMap;

use control::{
    cluster::Pod,
    names::PodName,
    policy::{Change, Compiler, Policy, PolicyName, Scope},
};
use k8s_openapi::api::networking::v1::NetworkPolicy;

use crate::in_force::InForce;

#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) pods: BTreeMap<PodName, Pod>,
    pub(crate) policies: BTreeMap<PolicyName, NetworkPolicy>,
}

impl World {
    /// What leads from an older state of it to this one.
    pub(crate) fn changes_since(&self, old: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let gone = old.namespaces.keys().filter(|name| !self.namespaces.contains_key(*name));
        changes.extend(gone.cloned().map(Change::NamespaceGone));
        let gone = old.pods.keys().filter(|name| !self.pods.contains_key(*name));
        changes.extend(gone.cloned().map(Change::PodGone));
        let gone = old.policies.keys().filter(|name| !self.policies.contains_key(*name));
        changes.extend(gone.cloned().map(Change::PolicyGone));
        for (name, labels) in &self.namespaces {
            if old.namespaces.get(name) != Some(labels) {
                changes.push(Change::Namespace { name: name.clone(), labels: labels.clone() });
            }
        }
        let new = self.pods.iter().filter(|(name, pod)| old.pods.get(name) != Some(pod));
        changes.extend(new.map(|(_, pod)| Change::Pod(pod.clone())));
        let new =
            self.policies.iter().filter(|(name, object)| old.policies.get(name) != Some(object));
        changes.extend(new.map(|(_, object)| Change::Policy(Policy::parse(object))));
        changes
    }

    /// All of it, compiled from nothing.
    pub(crate) fn compile(&self, scope: Scope) -> InForce {
        let mut compiler = Compiler::new(scope);
        let mut in_force = InForce::default();
        in_force.take(compiler.apply(self.changes_since(&Self::default())));
        in_force
    }
}
