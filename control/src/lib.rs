//! What a node's control process does: it knows the cluster, compiles it for the engine, hands out
//! pod addresses, and serves the CNI plugin. It forwards no packet.
//!
//! Reading order: [`manifests`] → [`cluster`] → [`compile`] is what the engine is told, as plain
//! functions without a runtime; so are [`policy`] and, for the pods that are here, [`node_policy`].
//! [`ipam`] and [`store`] are what the node has promised. [`sync`] brings the engine to what is
//! [`desired`]. [`cni`] → [`attach`] is what the plugin asks for, [`reconcile`] what a restart
//! makes of it. [`daemon`] holds the parts together.
#![forbid(unsafe_code)]

pub mod attach;
pub mod attachment;
pub mod cluster;
pub mod cni;
pub mod compile;
pub mod config;
pub mod daemon;
pub mod desired;
pub mod fault;
pub mod foreign;
pub mod host_port;
pub mod ipam;
pub mod last_good;
pub mod link;
pub mod locks;
pub mod mac;
pub mod manifests;
pub mod metrics;
pub mod names;
pub mod netns;
pub mod node_policy;
mod pod_list;
pub mod pod_network;
pub mod policy;
pub mod port_type;
pub mod range;
pub mod reconcile;
pub mod server;
pub mod status;
pub mod store;
pub mod sync;
pub mod tap;
pub mod vhost_socket;
pub mod watch;
