//! The control process as a whole: the engine's protocol against a fixture of its far side, and the
//! daemon and the plugin as real processes in real network namespaces, with the fixture and with
//! the real engine.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where")]

mod check;
mod cni;
mod delegate;
mod engine;
mod examples;
mod host;
mod isolation;
#[path = "../support/large_cluster.rs"]
mod large_cluster;
mod node;
mod pod_list;
mod policy;
mod policy_budget;
mod port_types;
mod probe;
mod restart;
mod sync;
mod traffic;
