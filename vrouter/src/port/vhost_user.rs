//! vhost-user: a VMM or a DPDK application on the far side of a socket, and its virtio rings.
//!
//! ```text
//!  frontend ── socket ── session (a thread a port) ── orders ──► VhostUserQueue ── worker
//!      │                     ▲                    ◄── answers ──      │
//!      └── guest memory ─────┴─ mapped once ──────────────────────────┘ rings: copies in and out
//! ```
//!
//! A ring belongs either to the session or to the worker. The session stops a queue before it
//! changes its memory, and unmaps nothing that a worker may still touch.

pub mod access;
mod call;
mod config_space;
pub mod driver;
mod features;
mod frontend;
pub mod inflight;
pub mod log;
pub mod mapping;
pub mod memory;
mod open;
pub mod orders;
pub mod queue;
mod queues;
mod receive;
mod request;
pub mod ring;
mod ring_state;
mod send;
mod session;
mod socket;
mod status;
mod tally;
#[cfg(test)]
mod tests;
mod truncation;
mod wire;

pub use self::{
    open::{OpenVhostUserError, VhostUserOpener},
    socket::MakeSocketError,
};
