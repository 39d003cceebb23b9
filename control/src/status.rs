//! The operator's view of control.

use std::collections::BTreeSet;

use control_api::node;

use crate::{
    attachment::{Attachment, Means, Phase},
    cluster::Node,
    compile::router_mac,
    daemon::Daemon,
    desired::PolicyState,
    policy::{Fault, PolicyProblem},
    range::PodRange,
    store::{Store, StoreError},
};

/// How full a range of addresses is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Usage {
    /// The range.
    pub range: PodRange,
    /// How many addresses it has for pods.
    pub capacity: u128,
    /// How many of them attachments have, or pods of another plugin.
    pub used: u128,
    /// How many are promised to pods of the manifests that are not attached.
    pub reserved: u128,
}

impl Daemon {
    /// How full this node's ranges are.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be read.
    pub async fn usage(&self) -> Result<Vec<Usage>, StoreError> {
        let plan = self.address_plan();
        let records = self.with_store(Store::attachments).await?;
        let attached = records.values().flat_map(|record| &record.addresses);
        let holders: BTreeSet<_> = attached.chain(&plan.foreign).copied().collect();
        let usage = |range: &PodRange| {
            let promised = plan.reserved.keys();
            let reserved = promised.filter(|ip| range.is_assignable(**ip) && !holders.contains(ip));
            Usage {
                range: *range,
                capacity: range.capacity(),
                used: holders.iter().filter(|ip| range.is_assignable(**ip)).count() as u128,
                reserved: reserved.count() as u128,
            }
        };
        Ok(plan.ranges.iter().map(usage).collect())
    }

    /// The status, for `vrctl status`.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be read.
    pub async fn operator_status(&self) -> Result<node::Status, StoreError> {
        let engine = self.desired.engine();
        let state = engine.state();
        let in_force = state.acknowledged.is_some() && state.acknowledged == engine.desired();
        let wanted = u64::from(!in_force && engine.desired().is_some());
        let cluster = self.desired.cluster();
        let mut problems = self.all_problems();
        let attachments = self.with_store(Store::attachments).await?;
        let unreadable = self.with_store(Store::unreadable).await?;
        problems.extend(unreadable.iter().map(|bad| bad.error.to_string()));
        let node = self.desired.this_node().ok();
        if let Some(node) = &node {
            problems.extend(attachments.values().flat_map(|record| misplaced(record, node)));
        }
        let saturate = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
        let ranges = self.usage().await?.into_iter().map(|usage| node::Range {
            cidr: usage.range.to_string(),
            addresses: saturate(usage.capacity),
            used: saturate(usage.used),
            reserved: saturate(usage.reserved),
        });
        let router_mac = node.as_ref().and_then(|node| router_mac(node).ok());
        Ok(node::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_name: self.config.node_name.to_string(),
            source: format!("manifests:{}", self.config.manifests.display()),
            source_in_sync: self.is_source_in_sync(),
            engine_connected: state.engine.is_some(),
            engine_instance_id: state.engine.map(|engine| engine.instance_id).unwrap_or_default(),
            desired_generation: state.generation + wanted,
            acknowledged_generation: state.generation,
            ranges: ranges.collect(),
            nodes: count(cluster.as_ref().map_or(0, |cluster| cluster.nodes.len())),
            pods: count(cluster.as_ref().map_or(0, |cluster| cluster.pods.len())),
            attachments: count(attachments.len()),
            problems,
            router_mac: router_mac.map(|mac| mac.to_string()).unwrap_or_default(),
            pod_mtu_bytes: node.map(|node| self.pod_mtu_bytes(&node)).unwrap_or_default(),
            policy: Some(policy_status(self.desired.policy_state())),
        })
    }

    /// All attachments, and the pods of other plugins.
    ///
    /// # Errors
    ///
    /// Fails if the database cannot be read.
    pub async fn list_attachments(&self) -> Result<Vec<node::Attachment>, StoreError> {
        let records = self.with_store(Store::attachments).await?;
        let mut listed = Vec::new();
        for record in records.values() {
            // Whether it is there is worth a look; if the kernel is silent, believe so.
            let is_missing = self.is_whole(record).await.is_ok_and(|is_whole| !is_whole);
            listed.push(describe(record, is_missing));
        }
        listed.extend(self.foreign().into_iter().map(|pod| node::Attachment {
            host_interface: pod.interface,
            addresses: pod.addresses.iter().map(ToString::to_string).collect(),
            state: "foreign".to_owned(),
            ..node::Attachment::default()
        }));
        Ok(listed)
    }

    /// What is wrong: with the source, the engine, the node.
    fn all_problems(&self) -> Vec<String> {
        let mut problems = self.problems();
        problems.extend(self.desired.trouble().map(|trouble| trouble.to_string()));
        let refused = self.desired.policy_state().problems.into_iter();
        let is_of_set =
            |fault: &Fault| matches!(fault, Fault::NoRoom { .. } | Fault::TooManyPolicies { .. });
        // What a policy says by itself is a problem of the source, with file and line.
        let no_room = refused.filter(|problem| is_of_set(&problem.fault));
        problems.extend(no_room.map(|problem| problem.to_string()));
        let state = self.desired.engine().state();
        problems.extend(state.trouble.map(|trouble| trouble.to_string()));
        problems.extend(
            state.port_errors.iter().map(|(port, message)| format!("port {port}: {message}")),
        );
        if let Some(cluster) = self.desired.cluster() {
            let unenforced = cluster.unenforced;
            for (count, kind) in
                [(unenforced.services, "Service"), (unenforced.endpoint_slices, "EndpointSlice")]
            {
                if count > 0 {
                    problems.push(format!(
                        "{count} objects of kind {kind} are read, but this version does not act \
                         upon them"
                    ));
                }
            }
        }
        problems
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn policy_status(state: PolicyState) -> node::PolicyStatus {
    let refused = |problem: PolicyProblem| node::RefusedPart {
        policy: problem.policy,
        field: problem.field,
        fault: problem.fault.to_string(),
        consequence: problem.consequence.to_string(),
        consequence_word: problem.consequence.word().to_owned(),
    };
    node::PolicyStatus {
        policies: count(state.policies),
        ingress_isolated_ports: count(state.ports_isolated_ingress),
        egress_isolated_ports: count(state.ports_isolated_egress),
        refused: state.problems.into_iter().map(refused).collect(),
    }
}

/// Addresses that we gave, and that the node's ranges have left since.
fn misplaced<'a>(record: &'a Attachment, node: &'a Node) -> impl Iterator<Item = String> + 'a {
    let given = record.addresses.iter().filter(|_| record.delegate.is_none());
    given.filter(|address| !node.is_assignable(**address)).map(|address| {
        format!(
            "pod {} has {address}, which spec.podCIDRs of node {} do not have any more: other \
             nodes cannot reach it; delete and create it",
            record.pod, node.name
        )
    })
}

fn describe(record: &Attachment, is_missing: bool) -> node::Attachment {
    let state = match record.phase {
        Phase::Ready if is_missing => "orphan",
        Phase::Ready => "ready",
        Phase::Adding => "adding",
        Phase::Deleting => "deleting",
    };
    node::Attachment {
        container_id: record.key.container_id.clone(),
        ifname: record.key.ifname.clone(),
        netns: record.netns.clone(),
        pod_namespace: record.pod.namespace.clone(),
        pod_name: record.pod.name.clone(),
        addresses: record.addresses.iter().map(ToString::to_string).collect(),
        mac: record.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        host_interface: match record.means {
            Means::Veth => record.host_interface.clone(),
            Means::Tap | Means::VhostUser(_) => String::new(),
        },
        port_type: record.means.port_type().to_string(),
        state: state.to_owned(),
    }
}
