//! Policies as compiled, held against the text of the API, against reference verdicts of another
//! implementation, and against budgets.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where")]

mod budgets;
mod in_force;
#[path = "../support/large_cluster.rs"]
mod large_cluster;
mod naive;
mod properties;
mod random;
mod situations;
mod vectors;
mod world;
