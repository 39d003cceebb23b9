//! The engine's behaviour, frame in, frame out: the real pipeline in a replay.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bench;
mod checksums;
mod conntrack;
mod fabric_source;
mod flows;
mod forwarding;
mod gateway;
mod golden;
mod icmp_errors;
mod isolated;
#[path = "../support/namespace.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod namespace;
mod noise;
mod offload;
mod policy;
mod queries;
mod refusals;
mod related;
mod rig;
mod sizes;
mod tracking;
mod tunnel_counters;
