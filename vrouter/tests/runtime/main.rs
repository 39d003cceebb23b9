//! Scenarios of the runtime around the pipeline: workers, hand-offs, hot plug, idling, faults.
//!
//! Packets go from port to port by a table ([`rig::Patch`]); the pipeline has scenarios of its own.
//! Each scenario ends with the conservation of packets and with every frame back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod faults;
mod handoff;
mod hot_plug;
mod idle;
mod kernel_segments;
#[path = "../support/namespace.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod namespace;
mod offload;
mod rig;
