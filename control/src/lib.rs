//! What a node's control process does: it knows the cluster, compiles it for the engine, hands out
//! pod addresses, and serves the CNI plugin. It forwards no packet.
//!
//! Reading order: [`manifests`] → [`cluster`] → [`compile`] is what the engine is told, as plain
//! functions without a runtime.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod compile;
pub mod mac;
pub mod manifests;
pub mod names;
pub mod range;
