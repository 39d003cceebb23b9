//! Ports over AF_XDP: network cards, their virtual functions, and veth pairs.
//!
//! ```text
//!  worker ── AfXdpQueue ── rings ══ socket ══ queue of the device    queue, ring, ledger, socket
//!  main   ── AfXdpOpener, PortDevice ── XDP program and its maps     open, program, pin
//! ```
//!
//! The rings and sockets are our own: they register our memory region, which no library offered.
//! What is *not* here: which frames a worker does what with, and when a port is opened, steered and
//! closed.

mod assembly;
mod ethtool;
mod fill;
mod interface;
mod ledger;
#[cfg(test)]
mod loom_model;
mod mapping;
mod open;
mod pin;
mod program;
mod queue;
mod ring;
#[cfg(test)]
mod ring_tests;
mod sent;
mod socket;
mod sync;

pub use interface::Interface;
pub(super) use interface::TunKind;
pub use open::{AfXdpOpener, OpenAfXdpError};
pub use program::ProgramFault;
pub use queue::AfXdpQueue;
