//! A burst: up to 64 packets that move together.

use arrayvec::ArrayVec;

use crate::packet::Packet;

/// Packets a burst holds at most: enough to amortise a stage's instruction fetch, few enough for
/// its state to stay in L1.
pub const BURST_PACKETS_MAX: usize = 64;

/// Up to [`BURST_PACKETS_MAX`] packets, in order of arrival.
pub type Burst = ArrayVec<Packet, BURST_PACKETS_MAX>;
