//! The engine: ports, the pipeline and the workers that run it.
//!
//! The reading order is a packet's way: [`worker`] polls a [`port`], the pipeline turns a [`burst::Burst`] of received
//! packets into packets to send, and [`outbox`] hands them to their ports. See `docs/packet-path.md`.
//!
//! Not here: anything of Kubernetes (crate `control`), bytes on the wire (crate `encap`), flows (crate `flowtable`).

pub mod burst;
pub mod clock;
pub mod config;
pub mod drops;
pub mod engine;
pub mod fib;
pub mod handoff;
pub mod idle;
pub mod memory;
mod netlink;
pub mod next_hop;
pub mod outbox;
pub mod packet;
pub mod placement;
pub mod port;
pub mod publish;
pub mod runtime;
pub mod scope;
pub mod snapshot;
pub mod stats;
pub mod underlay;
pub mod watchdog;
pub mod worker;
