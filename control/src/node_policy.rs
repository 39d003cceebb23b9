//! Policy for the pods that are attached to this node: what the cluster says, corrected by what is
//! really there.
//!
//! The cluster knows pods by their objects; this node knows who is attached, and by which
//! addresses. Where the two differ, what is attached counts:
//! * Addresses that a pod was given here are its own, whether or not its object lists them.
//! * An address that is attached here belongs to the pod it is attached for, and to nobody else:
//!   an object that still claims it for another pod gives that pod no rights, and the pod that has
//!   it now none of the other's. Nor is it contested any more, as it is for every other node.
//! * A pod that no object names (yet) has no labels. So policies that select every pod of its
//!   namespace isolate it, as do those that ask for a label's absence; once its object comes, its
//!   labels decide. A container without a pod is in the namespace `container`.
//! * Pods that are not attached here need no policy set here, even if their objects name this node.
//!
//! Invariant: what comes out is a function of the cluster and the attachments of the last call, in
//! whatever order they came to be so.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    attachment::{Attachment, AttachmentKey},
    cluster::{Cluster, Pod},
    compile::Objects,
    names::{NodeName, PodName},
    policy::{Assignment, Change, Compiler, PolicyProblem, Scope, changes},
};

/// Compiles policy for this node, one change at a time.
#[derive(Debug)]
pub struct NodePolicy {
    node: NodeName,
    compiler: Compiler,
    /// As of the last call.
    cluster: Arc<Cluster>,
    /// The pods that are not as their objects say, as of the last call.
    corrected: BTreeMap<PodName, Pod>,
    /// The sets in force.
    objects: Objects,
}

impl NodePolicy {
    /// Policy for a node without pods, in a cluster that is not known yet.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        Self {
            compiler: Compiler::new(Scope::Node(node.clone())),
            node,
            cluster: Arc::default(),
            corrected: BTreeMap::new(),
            objects: Objects::default(),
        }
    }

    /// Follows the cluster and the attachments to what they are now.
    pub fn follow(
        &mut self,
        cluster: &Arc<Cluster>,
        attachments: &BTreeMap<AttachmentKey, Attachment>,
    ) {
        let corrected = self.correct(cluster, attachments);
        let mut told = if Arc::ptr_eq(&self.cluster, cluster) {
            Vec::new()
        } else {
            changes(&self.cluster, cluster)
        };
        let names: BTreeSet<_> = self.corrected.keys().chain(corrected.keys()).collect();
        told.retain(|change| match change {
            Change::Pod(Pod { name, .. }) | Change::PodGone(name) => !names.contains(name),
            _ => true,
        });
        for change in &mut told {
            if let Change::Pod(pod) = change {
                self.put_out_of_scope(pod);
            }
        }
        told.extend(names.into_iter().filter_map(|name| {
            let (old, new) = (self.corrected.get(name), corrected.get(name));
            if old.is_some() && old == new {
                return None;
            }
            let new = new.cloned().or_else(|| {
                let mut pod = cluster.pods.get(name).map(|pod| Pod::clone(pod))?;
                self.put_out_of_scope(&mut pod);
                Some(pod)
            });
            Some(new.map_or_else(|| Change::PodGone(name.clone()), Change::Pod))
        }));
        self.corrected = corrected;
        self.cluster = Arc::clone(cluster);
        let update = self.compiler.apply(told);
        update.objects().for_each(|object| self.objects.insert(object));
        for id in update.removed_address_sets {
            self.objects.remove_address_set(id);
        }
        for id in update.removed_policy_sets {
            self.objects.remove_policy_set(id);
        }
    }

    /// What judges the connections of a pod that is attached.
    #[must_use]
    pub fn assignment(&self, pod: &PodName) -> Assignment {
        self.compiler.assignment(pod).unwrap_or_default()
    }

    /// The sets that the pods that are attached need.
    #[must_use]
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What of the policies is not in force, and why.
    #[must_use]
    pub fn problems(&self) -> Vec<PolicyProblem> {
        self.compiler.problems()
    }

    /// The pods that are not as their objects say: those that are attached, and those that claim
    /// what others have.
    fn correct(
        &self,
        cluster: &Cluster,
        attachments: &BTreeMap<AttachmentKey, Attachment>,
    ) -> BTreeMap<PodName, Pod> {
        let mut holders: HashMap<IpAddr, &PodName> = HashMap::new();
        for attachment in attachments.values() {
            holders.extend(attachment.addresses.iter().map(|ip| (*ip, &attachment.pod)));
        }
        let is_anothers =
            |ip: &IpAddr, pod: &PodName| holders.get(ip).is_some_and(|holder| *holder != pod);
        let mut corrected = BTreeMap::new();
        let claimants = cluster.pods.values().filter(|pod| !pod.host_network);
        for pod in claimants.filter(|pod| !holders.is_empty() && !pod.addresses.is_empty()) {
            if pod.addresses.iter().any(|ip| is_anothers(ip, &pod.name)) {
                let mut pod = Pod::clone(pod);
                pod.addresses.retain(|ip| !is_anothers(ip, &pod.name));
                self.put_out_of_scope(&mut pod);
                corrected.insert(pod.name.clone(), pod);
            }
        }
        for attachment in attachments.values() {
            let name = &attachment.pod;
            let pod = corrected.entry(name.clone()).or_insert_with(|| {
                let declared = cluster.pods.get(name).filter(|pod| !pod.host_network);
                declared.map_or_else(|| Pod::unknown(name.clone()), |pod| Pod::clone(pod))
            });
            pod.node = Some(self.node.clone());
            pod.contested.retain(|ip| !attachment.addresses.contains(ip));
            for address in &attachment.addresses {
                if !pod.addresses.contains(address) {
                    pod.addresses.push(*address);
                }
            }
        }
        corrected
    }

    fn put_out_of_scope(&self, pod: &mut Pod) {
        pod.node.take_if(|node| *node == self.node);
    }
}

#[cfg(test)]
mod tests;
