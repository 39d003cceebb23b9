//! Ports over TAP devices: the stacks of pods with ordinary sockets, and of the node itself.
//!
//! ```text
//!  stack ─► TAP ─► queue of the device ── readv  ─► TapQueue ─► rx_burst      queue
//!  stack ◄─ TAP ◄─ queue of the device ◄─ writev ── TapQueue ◄─ tx_burst
//! ```
//!
//! The device is there before the port, and stays when the port is closed: a port attaches to its
//! queues by the device's name, in its namespace. Each frame has a virtio-net header before it (see
//! [`crate::virtio_net`]), so that checksums are left to whoever can do without them, and up to
//! 64 KiB of TCP or UDP travel as one packet. What is *not* here: who makes the device and gives it
//! its addresses.

mod attach;
mod landing;
mod open;
mod queue;

pub use open::{OpenTapError, TapOpener};
pub use queue::TapQueue;
