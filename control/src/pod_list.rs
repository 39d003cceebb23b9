//! The cluster's pods as the operator's tools see them: who has which address, and where.

use std::net::IpAddr;

use control_api::node;

use crate::{cluster::Pod, daemon::Daemon};

impl Daemon {
    /// The pods of the cluster in force, by name. Pods without an object are not among them: they
    /// are attachments.
    #[must_use]
    pub fn list_pods(&self) -> Vec<node::Pod> {
        self.desired
            .cluster()
            .map_or_else(Vec::new, |cluster| cluster.pods.values().map(|pod| view(pod)).collect())
    }
}

fn view(pod: &Pod) -> node::Pod {
    let octets = |address: &IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    node::Pod {
        namespace: pod.name.namespace.clone(),
        name: pod.name.name.clone(),
        node: pod.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        addresses: pod.addresses.iter().map(octets).collect(),
        host_network: pod.host_network,
    }
}
