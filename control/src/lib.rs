//! What a node's control process does: it knows the cluster, compiles it for the engine, hands out
//! pod addresses, and serves the CNI plugin. It forwards no packet.
//!
//! Reading order: [`manifests`] → [`cluster`] → [`compile`] is what the engine is told, as plain
//! functions without a runtime. [`ipam`] and [`store`] are what the node has promised.
//! [`sync`] brings the engine to it and keeps it there.
#![forbid(unsafe_code)]

pub mod attachment;
pub mod cluster;
pub mod compile;
pub mod config;
pub mod ipam;
pub mod link;
pub mod mac;
pub mod manifests;
pub mod names;
pub mod netns;
pub mod pod_network;
pub mod range;
pub mod store;
pub mod sync;
