//! vhost-user ports with real frontends: the engine's binary between DPDK's `dpdk-testpmd`, as
//! client and as server of the socket. Skipped loudly where it is missing.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests may panic, too")]

#[expect(dead_code, reason = "the daemon's own tests use the rest")]
#[path = "../daemon/rig.rs"]
mod daemon;
mod guest;
mod negotiation;
mod node;
mod restarts;
mod testpmd;
mod traffic;
