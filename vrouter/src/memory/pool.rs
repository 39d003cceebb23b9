//! Free frames: a stack per worker, and the depot where workers trade.
//!
//! A frame may retire in any worker's pool, so one-way traffic drains the receiving worker's pool and fills the sending
//! one's. Pools even that out in batches through a bounded lock-free depot.
//!
//! # Safety boundary
//!
//! Free frames are kept by index. [`Region::adopt`] turns an index back into a frame; it is sound because an index enters a
//! pool or the depot only by consuming its frame, and leaves it once.

use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::queue::ArrayQueue;

use super::region::{Frame, FrameIndex, NO_FRAME, Region};
use crate::packet::Packet;

/// Frames that pools trade at a time: a burst, so that one trade serves one burst.
pub const DEPOT_BATCH_FRAMES: usize = 64;

/// Frames a pool keeps at most before it gives some back: enough to refill a receive ring of 1024 once and then some.
const LOCAL_FRAMES_MAX: usize = 32 * DEPOT_BATCH_FRAMES;

/// Frames a pool may always keep: one batch to work from and one to fill up before it trades.
const LOCAL_FRAMES_MIN: usize = 2 * DEPOT_BATCH_FRAMES;

/// The share of the region that one pool may hoard: sixteen pools that do not receive leave the others half of it.
const LOCAL_SHARE: usize = 32;

type Batch = [FrameIndex; DEPOT_BATCH_FRAMES];

/// Where pools trade free frames, in batches. Lock-free, bounded by the number of frames there are.
#[derive(Debug)]
pub struct Depot {
    region: Arc<Region>,
    batches: ArrayQueue<Batch>,
    /// Fewer frames than a batch, from pools that were dropped. Workers never look here.
    leftovers: Mutex<Vec<FrameIndex>>,
}

impl Depot {
    /// A depot that holds every frame of a region that was not taken before.
    ///
    /// Frames that do not fill a batch (fewer than 64) stay unused.
    #[must_use]
    pub fn new(region: Arc<Region>) -> Arc<Self> {
        let capacity = (region.frame_count() as usize / DEPOT_BATCH_FRAMES).max(1);
        let batches = ArrayQueue::new(capacity);
        let depot = Self { batches, leftovers: Mutex::default(), region };
        for frame in depot.region.take_all() {
            depot.collect(frame.into_index());
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
        let leftovers = self.leftovers.lock().unwrap_or_else(PoisonError::into_inner);
        self.batches.len() * DEPOT_BATCH_FRAMES + leftovers.len()
    }

    /// Puts single frames together until they make a batch.
    fn collect(&self, index: FrameIndex) {
        let mut leftovers = self.leftovers.lock().unwrap_or_else(PoisonError::into_inner);
        leftovers.push(index);
        if let Ok(batch) = Batch::try_from(leftovers.as_slice()) {
            // The capacity covers every frame of the region, so the push succeeds.
            let _ = self.batches.push(batch);
            leftovers.clear();
        }
    }
}

/// One worker's free frames.
#[derive(Debug)]
pub struct FramePool {
    depot: Arc<Depot>,
    /// Never grows: it holds at most `kept_max`.
    free: Vec<FrameIndex>,
    kept_max: usize,
}

impl FramePool {
    /// An empty pool; it draws from the depot when asked for a frame.
    #[must_use]
    pub fn new(depot: Arc<Depot>) -> Self {
        let share = depot.region.frame_count() as usize / LOCAL_SHARE;
        let kept_max = share.clamp(LOCAL_FRAMES_MIN, LOCAL_FRAMES_MAX);
        Self { depot, free: Vec::with_capacity(kept_max), kept_max }
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
        if self.free.len() >= self.kept_max {
            self.give_back();
        }
        // After `give_back` there is room: the depot holds all frames there are.
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
    fn drop(&mut self) {
        for index in self.free.drain(..) {
            self.depot.collect(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        memory::{RegionConfig, SegmentLink},
        port::PortRef,
    };

    fn depot(frame_count: u32) -> Arc<Depot> {
        let config = RegionConfig { frame_count, frame_bytes: 2048, huge_pages: false };
        Depot::new(Arc::new(Region::create(&config).unwrap()))
    }

    #[test]
    fn each_frame_is_handed_out_once_until_memory_is_exhausted() {
        let depot = depot(256);
        let mut pool = FramePool::new(Arc::clone(&depot));
        let frames: Vec<Frame> = std::iter::from_fn(|| pool.allocate()).collect();
        let distinct: HashSet<_> = frames.iter().map(Frame::index).collect();
        assert_eq!((frames.len(), distinct.len(), depot.frames_free()), (256, 256, 0));
        assert!(pool.allocate().is_none());
        for frame in frames {
            pool.free(frame);
        }
        drop(pool);
        assert_eq!(depot.frames_free(), 256);
    }

    #[test]
    fn frames_that_do_not_fill_a_batch_come_back_too() {
        let depot = depot(256);
        let (mut a, mut b) =
            (FramePool::new(Arc::clone(&depot)), FramePool::new(Arc::clone(&depot)));
        let taken: Vec<Frame> = (0..100).filter_map(|_| a.allocate()).collect();
        for frame in taken {
            b.free(frame);
        }
        drop(a);
        drop(b);
        assert_eq!(depot.frames_free(), 256);
    }

    #[test]
    fn one_way_traffic_drains_no_pool() {
        let depot = depot(512);
        let mut receiver = FramePool::new(Arc::clone(&depot));
        let mut sender = FramePool::new(depot);
        for _ in 0..100_000 {
            let frame = receiver.allocate().expect("the sender's frames come back");
            sender.free(frame);
        }
    }

    #[test]
    fn a_chain_is_freed_whole() {
        let depot = depot(64);
        let mut pool = FramePool::new(Arc::clone(&depot));
        let region = Arc::clone(depot.region());
        let mut rest = NO_FRAME;
        for _ in 0..16 {
            let mut frame = pool.allocate().unwrap();
            region.set_link(&mut frame, SegmentLink { next: rest, offset: 0, len: 100 });
            rest = frame.into_index();
        }
        let mut packet = Packet::new(pool.allocate().unwrap(), 128, 100, PortRef::ENGINE);
        // SAFETY: the loop above gave the frame up.
        #[expect(unsafe_code, reason = "takes the chain's first frame back")]
        let next = unsafe { region.adopt(rest) };
        packet.chain(next, 1600);
        let mut bytes = 0;
        packet.for_each_segment(&region, |segment| bytes += segment.len());
        assert_eq!((bytes, packet.total_bytes()), (1700, 1700));
        pool.free_packet(packet);
        drop(pool);
        assert_eq!(depot.frames_free(), 64);
    }
}
