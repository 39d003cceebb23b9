//! Packet memory: one contiguous region of frames, and who owns which frame.
//!
//! A frame has one owner at every moment: a ring, a packet or a pool. Ownership is a [`Frame`],
//! which can be moved but not copied; bytes are never moved with it.
//!
//! ```text
//! region (one memfd, huge pages when there are some)
//! ┌────────┬──────────────────┬─────────┬─────────┬──  ──┬─────────┐
//! │ header │ links, one/frame │ frame 0 │ frame 1 │  ··  │ frame n │
//! └────────┴──────────────────┴─────────┴─────────┴──  ──┴─────────┘
//!                             ▲ every AF_XDP device registers from here on as its UMEM
//! ```

mod chain;
mod pool;
mod region;

pub use chain::{Chain, Segment};
pub use pool::{DEPOT_BATCH_FRAMES, Depot, FramePool};
pub use region::{
    CreateRegionError, Frame, FrameIndex, HEADROOM_BYTES, NO_FRAME, Region, RegionConfig,
};
