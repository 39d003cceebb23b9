//! What has to be said to a compiler that knows one state of the cluster, so that it knows another.

use std::{collections::BTreeMap, sync::Arc};

use super::Change;
use crate::cluster::{Cluster, Pod};

/// The changes that lead from `old` to `new`: what is gone first, so that nobody is found at an
/// address that he has just left.
#[must_use]
pub fn changes(old: &Cluster, new: &Cluster) -> Vec<Change> {
    // Pods that the clusters share are not looked into: there are many.
    let is_same_pod = |old: &Arc<Pod>, new: &Arc<Pod>| Arc::ptr_eq(old, new) || old == new;
    let pods = difference(&old.pods, &new.pods, is_same_pod);
    let policies = difference(&old.policies, &new.policies, PartialEq::eq);
    let namespaces = difference(&old.namespaces, &new.namespaces, PartialEq::eq);
    let gone = pods.gone.into_iter().cloned().map(Change::PodGone);
    let gone = gone.chain(policies.gone.into_iter().cloned().map(Change::PolicyGone));
    let gone = gone.chain(namespaces.gone.into_iter().cloned().map(Change::NamespaceGone));
    let namespaces = namespaces
        .changed
        .into_iter()
        .map(|(name, labels)| Change::Namespace { name: name.clone(), labels: labels.clone() });
    let pods = pods.changed.into_iter().map(|(_, pod)| Change::Pod(Pod::clone(pod)));
    let policies = policies.changed.into_iter().map(|(_, policy)| Change::Policy(policy.clone()));
    gone.chain(namespaces).chain(pods).chain(policies).collect()
}

/// What is only in the old of two maps, and what is new or other in the new one.
struct Difference<'a, K, V> {
    gone: Vec<&'a K>,
    changed: Vec<(&'a K, &'a V)>,
}

/// One walk along both.
fn difference<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
    is_same: impl Fn(&V, &V) -> bool,
) -> Difference<'a, K, V> {
    let (mut gone, mut changed) = (Vec::new(), Vec::new());
    let mut before = old.iter().peekable();
    for (name, object) in new {
        while let Some((old, _)) = before.next_if(|(old, _)| *old < name) {
            gone.push(old);
        }
        let known = before.next_if(|(old, _)| *old == name);
        if known.is_none_or(|(_, known)| !is_same(known, object)) {
            changed.push((name, object));
        }
    }
    gone.extend(before.map(|(name, _)| name));
    Difference { gone, changed }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        names::NodeName,
        policy::{Compiler, Policy, Scope},
    };

    #[test]
    fn a_compiler_that_is_told_the_changes_knows_the_new_cluster() {
        let policy = |name: &str| {
            let object = json!({"metadata": {"namespace": "shop", "name": name}});
            let policy = Policy::parse(&serde_json::from_value(object).unwrap());
            (policy.name().clone(), policy)
        };
        let labels = BTreeMap::from([("team".to_owned(), "x".to_owned())]);
        let old = Cluster {
            policies: BTreeMap::from([policy("a"), policy("b")]),
            namespaces: BTreeMap::from([("shop".into(), labels.clone()), ("old".into(), labels)]),
            ..Cluster::default()
        };
        let new = Cluster {
            policies: BTreeMap::from([policy("b"), policy("c")]),
            namespaces: BTreeMap::from([("shop".into(), BTreeMap::new())]),
            ..Cluster::default()
        };
        let told = changes(&old, &new);
        assert!(
            matches!(
                told.as_slice(),
                [
                    Change::PolicyGone(a),
                    Change::NamespaceGone(old),
                    Change::Namespace { name: shop, .. },
                    Change::Policy(c),
                ] if a.name == "a" && old == "old" && shop == "shop" && c.name().name == "c"
            ),
            "{told:?}"
        );
        assert!(changes(&new, &new).is_empty());
        let mut compiler = Compiler::new(Scope::Node(NodeName::new("node-a")));
        compiler.apply(changes(&Cluster::default(), &old));
        assert!(compiler.apply(told).is_empty(), "there are no pods");
    }
}
