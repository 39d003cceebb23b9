//! What has to be said to a compiler that knows one state of the cluster, so that it knows another.

use std::collections::BTreeMap;

use super::Change;
use crate::cluster::Cluster;

/// The changes that lead from `old` to `new`: what is gone first, so that nobody is found at an
/// address that he has just left.
#[must_use]
pub fn changes(old: &Cluster, new: &Cluster) -> Vec<Change> {
    let gone = gone(&old.pods, &new.pods).map(Change::PodGone);
    let gone = gone.chain(self::gone(&old.policies, &new.policies).map(Change::PolicyGone));
    let gone = gone.chain(self::gone(&old.namespaces, &new.namespaces).map(Change::NamespaceGone));
    let namespaces = changed(&old.namespaces, &new.namespaces)
        .map(|(name, labels)| Change::Namespace { name: name.clone(), labels: labels.clone() });
    let pods = changed(&old.pods, &new.pods).map(|(_, pod)| Change::Pod(pod.clone()));
    let policies = changed(&old.policies, &new.policies);
    let policies = policies.map(|(_, policy)| Change::Policy(policy.clone()));
    gone.chain(namespaces).chain(pods).chain(policies).collect()
}

fn gone<'a, K: Clone + Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = K> {
    old.keys().filter(|name| !new.contains_key(name)).cloned()
}

fn changed<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    new.iter().filter(|(name, object)| old.get(name) != Some(object))
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
