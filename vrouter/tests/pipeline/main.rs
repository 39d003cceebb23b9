//! The engine's behaviour, frame in, frame out: the real pipeline in a replay.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bench;
mod checksums;
mod fabric_source;
mod flows;
mod forwarding;
mod gateway;
mod golden;
mod icmp_errors;
mod noise;
mod offload;
mod policy;
mod refusals;
mod rig;
mod sizes;
mod tunnel_counters;
