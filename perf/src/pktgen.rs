//! A packet generator and a sink.
//!
//! ```text
//!   FrameSet ── Sender ──▶ TxPort ──▶ (device under test) ──▶ RxPort ──▶ Sink ── Account
//!                  ▲                                                       │
//!               Schedule             one clock for both ends               ▼
//!                                                                   Counts, latencies
//! ```
//!
//! Each frame carries a [tag](tag::Tag): the stream, a sequence number and the time it was sent.
//! The sink knows its own frames by it, whatever happened to their headers, and counts all others
//! apart. Sender and sink know no threads and read no clock: [`trial`] gives them both, tests give
//! them virtual time. *Not* here: any claim about what lies between the ports.

pub mod account;
pub mod clock;
pub mod frames;
pub mod locate;
pub mod port;
pub mod prepared;
pub mod rate;
pub mod schedule;
pub mod search;
pub mod sender;
pub mod sink;
pub mod tag;
pub mod trial;
pub mod tunnel;

/// Frames moved together: what one system call of AF_XDP sends in copy mode.
pub const BURST_FRAMES: usize = 32;

/// Bytes of the frame check sequence. It is in every frame size (RFC 2544 section 9), and in no
/// buffer: hardware adds it, veth and TAP have none.
pub const FCS_BYTES: usize = 4;
