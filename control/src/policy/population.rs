//! Namespaces and pods, and who is where.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use slab::Slab;

use super::selector::{Labels, Selector};
use crate::{
    cluster::{NamedPort, Pod},
    names::PodName,
    policy::update::Assignment,
};

/// The label that every namespace of a cluster has: its name.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A pod of the pod network. Those that use their node's own network are nobody here.
#[derive(Debug)]
pub(super) struct PodEntry {
    pub(super) name: PodName,
    /// An index of a [`NamespaceEntry`].
    pub(super) namespace: usize,
    /// Whether its assignment is asked for.
    pub(super) is_in_scope: bool,
    pub(super) labels: Labels,
    pub(super) addresses: Vec<IpAddr>,
    /// Sorted, each once.
    pub(super) named_ports: Vec<NamedPort>,
    /// The expressions that match it, by index; sorted.
    pub(super) memberships: Vec<usize>,
    /// Its policy sets by direction, by index.
    pub(super) sets: [Option<usize>; 2],
    /// What was last said about it.
    pub(super) reported: Option<Assignment>,
}

/// A namespace that is declared, or has pods or policies.
#[derive(Debug, Default)]
pub(super) struct NamespaceEntry {
    pub(super) name: String,
    pub(super) is_declared: bool,
    pub(super) labels: Labels,
    /// Its pods, by index.
    pub(super) pods: BTreeSet<usize>,
    /// Its policies, by name and index.
    pub(super) policies: BTreeMap<String, usize>,
    /// The expressions whose peers may be here, by index.
    pub(super) expressions: BTreeSet<usize>,
}

/// All pods and namespaces.
#[derive(Debug, Default)]
pub(super) struct Population {
    pub(super) pods: Slab<PodEntry>,
    pub(super) pods_by_name: HashMap<PodName, usize>,
    pub(super) namespaces: Slab<NamespaceEntry>,
    pub(super) namespaces_by_name: HashMap<String, usize>,
    /// Key → value → the pods that have this label, by index.
    labels: HashMap<Box<str>, HashMap<Box<str>, BTreeSet<usize>>>,
}

impl PodEntry {
    pub(super) fn new(pod: &Pod, namespace: usize, is_in_scope: bool) -> Self {
        let mut named_ports = pod.named_ports.clone();
        named_ports.sort();
        named_ports.dedup();
        Self {
            name: pod.name.clone(),
            namespace,
            is_in_scope,
            labels: Labels::from(&pod.labels),
            addresses: pod.peer_addresses().collect(),
            named_ports,
            memberships: Vec::new(),
            sets: [None; 2],
            reported: None,
        }
    }
}

impl NamespaceEntry {
    /// Whether nobody would miss it.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_declared && self.pods.is_empty() && self.policies.is_empty()
    }
}

/// A namespace's labels. The API server sees to it that each has its name as one; manifests need
/// not write it down, and cannot give a namespace another's.
pub(super) fn namespace_labels(name: &str, labels: &BTreeMap<String, String>) -> Labels {
    let mut labels = labels.clone();
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
    Labels::from(&labels)
}

impl Population {
    /// Enters a pod. The name must be new.
    pub(super) fn insert_pod(&mut self, entry: PodEntry) -> usize {
        let index = self.pods.vacant_key();
        self.index_labels(index, &entry.labels);
        if let Some(namespace) = self.namespaces.get_mut(entry.namespace) {
            namespace.pods.insert(index);
        }
        self.pods_by_name.insert(entry.name.clone(), index);
        self.pods.insert(entry)
    }

    /// Takes a pod out.
    pub(super) fn remove_pod(&mut self, index: usize) -> Option<PodEntry> {
        let entry = self.pods.try_remove(index)?;
        self.unindex_labels(index, &entry.labels);
        if let Some(namespace) = self.namespaces.get_mut(entry.namespace) {
            namespace.pods.remove(&index);
        }
        self.pods_by_name.remove(&entry.name);
        Some(entry)
    }

    /// Gives a pod other labels.
    pub(super) fn relabel_pod(&mut self, index: usize, labels: Labels) {
        let Some(entry) = self.pods.get_mut(index) else { return };
        let old = std::mem::take(&mut entry.labels);
        self.unindex_labels(index, &old);
        self.index_labels(index, &labels);
        if let Some(entry) = self.pods.get_mut(index) {
            entry.labels = labels;
        }
    }

    /// The pods that have a label with one of these values.
    pub(super) fn pods_with<'a>(
        &'a self,
        key: &str,
        values: &'a [String],
    ) -> impl Iterator<Item = &'a BTreeSet<usize>> {
        let known = self.labels.get(key);
        values.iter().filter_map(move |value| known?.get(value.as_str()))
    }

    /// The fewest pods that labels alone narrow a selector's matches down to, and more cheaply than
    /// `count_max` pods could be looked at. `None`: labels do not help.
    pub(super) fn narrowed(&self, selector: &Selector, count_max: usize) -> Option<Vec<usize>> {
        let counted = selector.anchors().map(|(key, values)| {
            (self.pods_with(key, values).map(BTreeSet::len).sum::<usize>(), key, values)
        });
        let (count, key, values) = counted.min_by_key(|(count, ..)| *count)?;
        let pods = || self.pods_with(key, values).flatten().copied().collect();
        (count < count_max).then(pods)
    }

    fn index_labels(&mut self, index: usize, labels: &Labels) {
        for (key, value) in labels.iter() {
            let values = self.labels.entry(key.into()).or_default();
            values.entry(value.into()).or_default().insert(index);
        }
    }

    fn unindex_labels(&mut self, index: usize, labels: &Labels) {
        for (key, value) in labels.iter() {
            let Some(values) = self.labels.get_mut(key) else { continue };
            if let Some(pods) = values.get_mut(value) {
                pods.remove(&index);
                if pods.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.labels.remove(key);
            }
        }
    }
}
