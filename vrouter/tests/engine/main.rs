//! Scenarios of the engine around the pipeline: batches, ports that come, go and fail, and what the
//! operator sees of it.
//!
//! Workers run a stand-in that sends what guests send to the host port; the pipeline has scenarios
//! of its own, and runs in those of volume. Each scenario ends with the conservation of packets and
//! with every frame back.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test says what it measured and fails by panicking"
)]

mod batches;
mod openings;
mod policy;
mod rig;
mod traffic;
mod volume;
