//! Buffers under way, noted in memory that outlives the engine
//! (`VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD`).
//!
//! The frontend keeps the region over a restart of the engine and gives it back. Since chains are
//! completed in order and within the burst that took them, what a successor needs is the position
//! up to which they were published. Of a split ring the used ring has it too, of a packed one only
//! this region does.

use std::sync::Arc;

use super::mapping::MappedRegion;

/// One queue's part of the inflight region.
#[derive(Clone, Debug)]
pub struct InflightRegion {
    /// The region.
    pub mapped: Arc<MappedRegion>,
    /// Where the queue's part starts in it.
    pub offset: usize,
}
