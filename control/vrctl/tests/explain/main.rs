//! `vrctl explain` from the outside: manifests and questions in, verdicts and reasons out.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic, too")]

mod bad_input;
mod bounds;
mod contract;
mod examples;
mod packets;
mod scene;
mod situations;
mod speed;
mod vectors;
