//! The engine's behaviour, frame in, frame out: the real pipeline in a replay.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod forwarding;
mod gateway;
mod icmp_errors;
mod refusals;
mod rig;
