//! Free frames: a stack per worker, and the depot where workers trade.
//!
//! A frame may retire in any worker's pool, so one-way traffic drains the receiving worker's pool and fills the sending
//! one's. Pools even that out in batches through a bounded lock-free depot.
//!
//! # Safety boundary
//!
//! Free frames are kept by index. [`Region::adopt`] turns an index back into a frame; it is sound because an index enters a
//! pool or the depot only by consuming its frame, and leaves it once.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::region::{Frame, FrameIndex, NO_FRAME, Region};
use crate::packet::Packet;

/// Frames that pools trade at a time: a burst, so that one trade serves one burst.
pub const DEPOT_BATCH_FRAMES: usize = 64;

/// Batches a pool keeps before it gives some back: enough to refill a receive ring of 1024 once and then some.
const LOCAL_FRAMES_MAX: usize = 32 * DEPOT_BATCH_FRAMES;

type Batch = [FrameIndex; DEPOT_BATCH_FRAMES];

/// Where pools trade free frames, in batches. Lock-free, bounded by the number of frames there are.
#[derive(Debug)]
pub struct Depot {
    region: Arc<Region>,
    batches: ArrayQueue<Batch>,
}

impl Depot {
    /// A depot that holds every frame of a region that was not taken before.
    ///
    /// Frames that do not fill a batch (fewer than 64) stay unused.
    #[must_use]
    pub fn new(region: Arc<Region>) -> Arc<Self> {
        let capacity = (region.frame_count() as usize / DEPOT_BATCH_FRAMES).max(1);
        let depot = Self { batches: ArrayQueue::new(capacity), region };
        let mut batch = [NO_FRAME; DEPOT_BATCH_FRAMES];
        let mut filled = 0;
        for frame in depot.region.take_all() {
            batch[filled] = frame.into_index();
            filled += 1;
            if filled == DEPOT_BATCH_FRAMES {
                filled = 0;
                // The capacity covers every frame of the region, so the push succeeds.
                let _ = depot.batches.push(batch);
            }
        }
        Arc::new(depot)
    }

    /// The region whose frames are traded.
    #[must_use]
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Free frames in the depot; those in pools, rings and packets are not among them.
    #[must_use]
    pub fn frames_free(&self) -> usize {
        self.batches.len() * DEPOT_BATCH_FRAMES
    }
}

/// One worker's free frames.
#[derive(Debug)]
pub struct FramePool {
    depot: Arc<Depot>,
    free: Vec<FrameIndex>,
}

impl FramePool {
    /// An empty pool; it draws from the depot when asked for a frame.
    #[must_use]
    pub fn new(depot: Arc<Depot>) -> Self {
        Self { depot, free: Vec::with_capacity(LOCAL_FRAMES_MAX) }
    }

    /// The region of the pool's frames.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.depot.region
    }

    /// Frames at hand without asking the depot.
    #[must_use]
    pub fn frames_cached(&self) -> usize {
        self.free.len()
    }

    /// Takes a free frame; `None` if packet memory is exhausted.
    #[expect(unsafe_code, reason = "the pool is an owner of frames by index")]
    pub fn allocate(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            let batch = self.depot.batches.pop()?;
            self.free.extend_from_slice(&batch);
        }
        let index = self.free.pop()?;
        // SAFETY: indices in the pool and the depot came from `into_index` and are held by nobody else.
        Some(unsafe { self.depot.region.adopt(index) })
    }

    /// Returns a frame.
    pub fn free(&mut self, frame: Frame) {
        if self.free.len() == LOCAL_FRAMES_MAX {
            self.give_back();
        }
        // After `give_back` there is room: the depot holds all frames there are. The vector never grows.
        self.free.push(frame.into_index());
    }

    /// Returns every frame of a packet.
    #[expect(unsafe_code, reason = "follows the chain of segments")]
    pub fn free_packet(&mut self, packet: Packet) {
        let mut next = packet.next_segment();
        self.free(packet.into_head());
        // A chain is no longer than the region has frames.
        for _ in 0..self.depot.region.frame_count() {
            if next == NO_FRAME {
                return;
            }
            // SAFETY: the packet owned the chain, and was consumed above.
            let frame = unsafe { self.depot.region.adopt(next) };
            next = self.depot.region.link(&frame).next;
            self.free(frame);
        }
    }

    fn give_back(&mut self) {
        let Some(rest) = self.free.len().checked_sub(DEPOT_BATCH_FRAMES) else { return };
        let mut batch = [NO_FRAME; DEPOT_BATCH_FRAMES];
        if let Some(frames) = self.free.get(rest..) {
            batch.copy_from_slice(frames);
        }
        if self.depot.batches.push(batch).is_ok() {
            self.free.truncate(rest);
        }
    }
}

impl Drop for FramePool {
    /// Gives whole batches back; what does not fill one is lost with the region, which goes when the engine goes.
    fn drop(&mut self) {
        while self.free.len() >= DEPOT_BATCH_FRAMES {
            let before = self.free.len();
            self.give_back();
            if self.free.len() == before {
                return;
            }
        }
    }
}
