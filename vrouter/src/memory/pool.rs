//! Free frames: a stack per worker, and the depot where workers trade.
//!
//! A frame may retire in any worker's pool, so one-way traffic drains the receiving worker's pool
//! and fills the sending one's. Pools even that out in batches through a bounded lock-free depot.
//!
//! # Safety boundary
//!
//! Free frames are kept by index. [`Region::adopt`] turns an index back into a frame; it is sound
//! because an index enters a pool or the depot only by consuming its frame, and leaves it once.

use std::sync::{Arc, Mutex, PoisonError};

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use super::{
    chain::{Chain, Segment},
    region::{Frame, FrameIndex, HEADROOM_BYTES, NO_FRAME, Region},
};
use crate::{burst::Burst, packet::Packet, port::PortRef};

/// Frames that pools trade at a time: a burst, so that one trade serves one burst.
pub const DEPOT_BATCH_FRAMES: usize = 64;

/// Frames a pool keeps at most before it gives some back: enough to refill a receive ring of 1024
/// once and then some.
const LOCAL_FRAMES_MAX: usize = 32 * DEPOT_BATCH_FRAMES;

/// Frames a pool may always keep: one batch to work from and one to fill up before it trades.
const LOCAL_FRAMES_MIN: usize = 2 * DEPOT_BATCH_FRAMES;

/// The share of the region that one pool may hoard: sixteen pools that do not receive leave the
/// others half of it.
const LOCAL_SHARE: usize = 32;

/// Frames of a chain that are returned together: those of 64 KiB and a few more.
const CHAIN_FRAMES: usize = 48;

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
        if let Ok(mut batch) = Batch::try_from(leftovers.as_slice()) {
            // Pools take the last one first: frames that come in order leave in order.
            batch.reverse();
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
    #[inline]
    #[expect(unsafe_code, reason = "the pool is an owner of frames by index")]
    pub fn allocate(&mut self) -> Option<Frame> {
        if self.free.is_empty() {
            self.fetch();
        }
        let index = self.free.pop()?;
        // SAFETY: indices in the pool and the depot came from `into_index` and are held by nobody
        // else.
        Some(unsafe { self.depot.region.adopt(index) })
    }

    /// A packet that holds a copy of `bytes`, in as many frames as it takes; `None` if there are
    /// not enough.
    ///
    /// The first frame keeps the usual headroom; an empty slice makes an empty packet.
    pub fn copy_in(&mut self, bytes: &[u8], ingress: PortRef) -> Option<Packet> {
        let frame_bytes = self.depot.region.frame_bytes() as usize;
        let (linear, rest) = bytes.split_at(bytes.len().min(self.linear_max()));
        let Segment { frame, offset, len } = self.copy_segment(linear, HEADROOM_BYTES)?;
        let mut packet = Packet::new(frame, offset, len, ingress);
        for bytes in rest.chunks(frame_bytes) {
            let Some(segment) = self.copy_segment(bytes, 0) else {
                self.free_packet(packet);
                return None;
            };
            packet.append(&self.depot.region, segment);
        }
        Some(packet)
    }

    /// As [`Self::copy_in`], to the end of a burst, which must have room; false if there are not
    /// enough frames.
    // The packet is made where it goes: moved right after, it would be read before all its parts are
    // in the cache, and that takes longer than all the rest.
    #[inline]
    pub fn copy_to(&mut self, bytes: &[u8], ingress: PortRef, burst: &mut Burst) -> bool {
        if bytes.len() <= self.linear_max() {
            let Some(segment) = self.copy_segment(bytes, HEADROOM_BYTES) else { return false };
            let Segment { frame, offset, len } = segment;
            burst.push(Packet::new(frame, offset, len, ingress));
            return true;
        }
        self.copy_in(bytes, ingress).map(|packet| burst.push(packet)).is_some()
    }

    /// Bytes that the first frame of a packet holds.
    #[inline]
    fn linear_max(&self) -> usize {
        self.depot.region.frame_bytes() as usize - usize::from(HEADROOM_BYTES)
    }

    /// A frame that holds a copy of `bytes` from `offset` on; there must be room for them.
    #[inline]
    fn copy_segment(&mut self, bytes: &[u8], offset: u16) -> Option<Segment> {
        let mut frame = self.allocate()?;
        let start = usize::from(offset);
        let room = self.depot.region.bytes_mut(&mut frame).get_mut(start..start + bytes.len());
        let len = u16::try_from(bytes.len()).unwrap_or(0);
        if let Some(room) = room {
            copy(bytes, room);
        }
        Some(Segment { frame, offset, len })
    }

    /// Returns a frame.
    #[inline]
    pub fn free(&mut self, frame: Frame) {
        debug_assert!(frame.index() != NO_FRAME, "what was taken is freed by whoever took it");
        if self.free.len() >= self.kept_max {
            self.give_back();
        }
        // After `give_back` there is room: the depot holds all frames there are.
        self.free.push(frame.into_index());
    }

    /// Returns every frame of a packet.
    #[inline]
    pub fn free_packet(&mut self, packet: Packet) {
        let (head, rest) = packet.into_segments();
        if !rest.is_empty() {
            self.free_chain(rest);
        }
        self.free(head.frame);
    }

    /// Returns every frame of a chain, the last first: the next ones to be taken are then in the
    /// order in which they were, which for those of a large packet is that in memory.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_chain(&mut self, mut rest: Chain) {
        let mut frames: ArrayVec<Frame, CHAIN_FRAMES> = ArrayVec::new();
        // A chain has no more segments than the region has frames.
        while !rest.is_empty() {
            while !frames.is_full()
                && let Some(segment) = rest.pop(&self.depot.region)
            {
                frames.push(segment.frame);
            }
            while let Some(frame) = frames.pop() {
                self.free(frame);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn fetch(&mut self) {
        if let Some(batch) = self.depot.batches.pop() {
            self.free.extend_from_slice(&batch);
        }
    }

    #[cold]
    #[inline(never)]
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

/// Copies `bytes` to `room`, which is as long.
///
/// The shortest frames, and the ones a little longer, without a call: two copies of a fixed length
/// that overlap, from the front and from the back.
#[inline]
fn copy(bytes: &[u8], room: &mut [u8]) {
    fn both_ends<const N: usize>(bytes: &[u8], room: &mut [u8]) -> Option<()> {
        *room.first_chunk_mut::<N>()? = *bytes.first_chunk()?;
        *room.last_chunk_mut::<N>()? = *bytes.last_chunk()?;
        Some(())
    }
    let copied = match bytes.len() {
        32..=64 => both_ends::<32>(bytes, room),
        65..=128 => both_ends::<64>(bytes, room),
        _ => None,
    };
    if copied.is_none() {
        room.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::memory::RegionConfig;

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
    fn a_frame_larger_than_a_segment_is_a_chain_and_freed_whole() {
        let depot = depot(64);
        let mut pool = FramePool::new(Arc::clone(&depot));
        let region = Arc::clone(depot.region());
        for len in [0, 60, 1920, 1921, 9000, 65_549] {
            let bytes: Vec<u8> = (0_u32..len).map(|byte| byte.to_le_bytes()[0]).collect();
            let packet = pool.copy_in(&bytes, PortRef::ENGINE).unwrap();
            let mut copy = Vec::new();
            packet.for_each_segment(&region, |segment| copy.extend_from_slice(segment));
            assert_eq!((&copy, packet.total_bytes()), (&bytes, len));
            assert_eq!(packet.is_chained(), len > 1920);
            pool.free_packet(packet);
        }
        // Exhausted in the middle of a chain: what was taken for it comes back.
        let hoard: Vec<Frame> = std::iter::from_fn(|| pool.allocate()).take(40).collect();
        assert!(pool.copy_in(&vec![0; 65_549], PortRef::ENGINE).is_none());
        for frame in hoard {
            pool.free(frame);
        }
        drop(pool);
        assert_eq!(depot.frames_free(), 64);
    }

    /// How often one byte of a packet does not lie right behind the one before it.
    fn breaks(packet: &Packet, region: &Region) -> usize {
        packet.runs(region).count() - 1
    }

    #[test]
    fn the_frames_of_a_large_packet_lie_in_a_row_and_do_so_again_once_it_was_freed() {
        let depot = depot(1024);
        let mut pool = FramePool::new(Arc::clone(&depot));
        let region = Arc::clone(depot.region());
        let bytes = vec![7; 65_549];
        for _ in 0..100 {
            let packets: Vec<Packet> =
                (0..3).map(|_| pool.copy_in(&bytes, PortRef::ENGINE).unwrap()).collect();
            for packet in packets {
                assert!(breaks(&packet, &region) <= 2);
                pool.free_packet(packet);
            }
        }
    }

    proptest! {
        #[test]
        fn runs_hold_the_bytes_of_the_segments_however_frames_lie(
            order in Just((0..32).collect::<Vec<u32>>()).prop_shuffle(),
            pieces in prop::collection::vec((0_u16..=2048, 0_u16..=2048, any::<u8>()), 1..32),
            in_a_row in 0_usize..32,
        ) {
            let region = Region::create(&RegionConfig {
                frame_count: 64,
                frame_bytes: 2048,
                huge_pages: false,
            }).unwrap();
            let mut frames: Vec<Frame> = region.take_all().take(32).collect();
            frames[in_a_row..].sort_by_key(|frame| order[frame.index().0 as usize]);
            let mut packet: Option<Packet> = None;
            for (mut frame, (offset, len, byte)) in frames.into_iter().zip(&pieces) {
                // Most fill their frames.
                let offset = if byte % 4 == 0 { *offset } else { 0 };
                let len = if byte % 3 == 0 { *len } else { 2048 }.min(2048 - offset);
                region.bytes_mut(&mut frame).fill(*byte);
                match &mut packet {
                    None => packet = Some(Packet::new(frame, offset, len, PortRef::ENGINE)),
                    Some(packet) => packet.append(&region, Segment { frame, offset, len }),
                }
            }
            let packet = packet.unwrap();
            let expected = packet.segments(&region).collect::<Vec<_>>().concat();
            prop_assert_eq!(packet.runs(&region).collect::<Vec<_>>().concat(), expected);
            prop_assert!(packet.runs(&region).count() <= packet.segments(&region).count());
        }

        #[test]
        fn a_run_is_as_long_as_frames_lie_in_a_row(
            picked in prop::collection::vec(any::<bool>(), 64),
        ) {
            let config = RegionConfig { frame_count: 64, frame_bytes: 2048, huge_pages: false };
            let region = Region::create(&config).unwrap();
            let all = region.take_all().zip(&picked);
            let mut frames: Vec<Frame> =
                all.filter(|(_, is_picked)| **is_picked).map(|(frame, _)| frame).collect();
            let count = frames.len();
            let (mut rest, mut runs, mut frames_seen) = (&mut frames[..], 0, 0);
            while !rest.is_empty() {
                let (run, after) = region.split_run(rest);
                run.fill(1);
                (runs, frames_seen) = (runs + 1, frames_seen + run.len() / 2048);
                rest = after;
            }
            prop_assert_eq!(frames_seen, count);
            let begins = |at: usize| picked[at] && (at == 0 || !picked[at - 1]);
            prop_assert_eq!(runs, (0..64).filter(|at| begins(*at)).count());
        }
    }
}
