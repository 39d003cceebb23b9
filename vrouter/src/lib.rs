//! The engine: ports, the pipeline and the workers that run it.
//!
//! The reading order is a packet's way: [`worker`] polls a [`port`], the pipeline turns a
//! [`burst::Burst`] of received packets into packets to send, and [`outbox`] hands them to their
//! ports. See `docs/packet-path.md`.
//!
//! Not here: anything of Kubernetes (crate `control`), bytes on the wire (crate `encap`), flows
//! (crate `flowtable`).

pub mod burst;
mod chain;
pub mod check_host;
pub mod clock;
pub mod config;
pub mod cycles;
pub mod drops;
pub mod engine;
mod fast_path;
pub mod fib;
pub mod flows;
mod fragments;
pub mod handoff;
mod icmp_errors;
pub mod idle;
pub mod judge;
mod local;
mod lookup;
pub mod memory;
mod merge;
mod netlink;
pub mod next_hop;
pub mod outbox;
pub mod packet;
mod parse;
pub mod pipeline;
pub mod placement;
pub mod policy;
pub mod port;
pub mod publish;
mod rate_limit;
pub mod replay;
mod rewrite;
pub mod runtime;
pub mod scope;
mod segment;
mod settle;
mod slow_path;
pub mod snapshot;
pub mod stats;
#[cfg(test)]
mod test_frames;
pub mod topology;
pub mod trace;
mod transmit;
mod transport;
pub mod underlay;
pub mod virtio_net;
pub mod watchdog;
pub mod worker;
