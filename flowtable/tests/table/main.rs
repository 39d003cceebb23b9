//! The flow table through its public interface.
#![cfg(not(loom))]
#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "what fails here fails its test; what is printed is what was measured"
)]

mod capacity;
mod fixture;
mod life;
mod model;
mod restart;
mod stress;
mod volume;
