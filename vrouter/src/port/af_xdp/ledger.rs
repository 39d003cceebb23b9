//! Which frames a queue has lent to the kernel.
//!
//! The kernel names frames by address. Of each address that it hands back, the ledger says whether
//! that frame was out, so that no slip of the far side can give one frame two owners; and when a
//! socket is closed, the ledger knows what is still out, in whichever corner of the kernel it was.
//!
//! # Safety boundary
//!
//! [`Region::adopt`] wants proof that whoever held a frame gave it up. The proof is a set bit: set
//! by [`Ledger::lend`], which takes the frame, and cleared once. That the kernel is really done
//! with a frame that it returned is its part of the ring protocol.
#![expect(unsafe_code, reason = "adopts the frames that the kernel returns")]

use std::sync::Arc;

use super::socket::KernelDone;
use crate::{
    memory::{Frame, FrameIndex, Region, Segment},
    packet::Packet,
};

/// The frames of one region that one queue has lent out.
#[derive(Debug)]
pub(super) struct Ledger {
    region: Arc<Region>,
    /// One bit a frame.
    lent: Box<[u64]>,
    lent_count: u32,
    frame_bytes_shift: u32,
}

impl Ledger {
    /// An empty ledger.
    pub(super) fn new(region: Arc<Region>) -> Self {
        let words = (region.frame_count() as usize).div_ceil(64);
        let frame_bytes_shift = region.frame_bytes().trailing_zeros();
        Self { region, lent: vec![0; words].into_boxed_slice(), lent_count: 0, frame_bytes_shift }
    }

    /// The region of the frames.
    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Frames that are out.
    pub(super) fn lent_count(&self) -> u32 {
        self.lent_count
    }

    /// Lends a frame; returns where in the UMEM it starts.
    pub(super) fn lend(&mut self, frame: Frame) -> u64 {
        let FrameIndex(index) = frame.into_index();
        if let Some(word) = self.lent.get_mut(index as usize / 64) {
            *word |= 1 << (index % 64);
            self.lent_count += 1;
        }
        u64::from(index) << self.frame_bytes_shift
    }

    /// Lends all frames of a packet; tells `visit` for each segment where in the UMEM its bytes
    /// start, how many there are, and whether another one follows.
    pub(super) fn lend_packet(&mut self, packet: Packet, mut visit: impl FnMut(u64, u32, bool)) {
        let (mut segment, mut rest) = packet.into_segments();
        loop {
            let next = rest.pop(&self.region);
            let Segment { frame, offset, len } = segment;
            let start = self.lend(frame);
            visit(start + u64::from(offset), u32::from(len), next.is_some());
            match next {
                Some(next) => segment = next,
                None => return,
            }
        }
    }

    /// Takes back the frame that `address` lies in; `None` if it is not out.
    pub(super) fn take_back(&mut self, address: u64) -> Option<Frame> {
        let index = u32::try_from(address >> self.frame_bytes_shift).ok()?;
        let word = self.lent.get_mut(index as usize / 64)?;
        let bit = 1 << (index % 64);
        if *word & bit == 0 {
            return None;
        }
        *word &= !bit;
        self.lent_count -= 1;
        // SAFETY: the bit said that this very frame was lent and not yet returned; now it is
        // cleared.
        Some(unsafe { self.region.adopt(FrameIndex(index)) })
    }

    /// Takes back a frame that is still out, any; `done` proves that the kernel has let go of all
    /// of them.
    pub(super) fn reclaim_any(&mut self, _done: &KernelDone) -> Option<Frame> {
        if self.lent_count == 0 {
            return None;
        }
        let word_index = self.lent.iter().position(|word| *word != 0)?;
        let bit = self.lent.get(word_index)?.trailing_zeros();
        let index = (word_index as u64) * 64 + u64::from(bit);
        self.take_back(index << self.frame_bytes_shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Depot, FramePool, RegionConfig};

    fn pool_and_ledger() -> (FramePool, Ledger) {
        let config = RegionConfig { frame_count: 128, frame_bytes: 2048, huge_pages: false };
        let region = Arc::new(Region::create(&config).unwrap());
        (FramePool::new(Depot::new(Arc::clone(&region))), Ledger::new(region))
    }

    #[test]
    fn a_lent_frame_comes_back_once() {
        let (mut pool, mut ledger) = pool_and_ledger();
        let frame = pool.allocate().unwrap();
        let index = frame.index();
        let address = ledger.lend(frame);
        assert_eq!(address, u64::from(index.0) * 2048);
        assert_eq!(ledger.lent_count(), 1);
        let back = ledger.take_back(address + 384).unwrap();
        assert_eq!(back.index(), index);
        assert!(ledger.take_back(address).is_none());
        pool.free(back);
    }

    #[test]
    fn an_address_outside_the_region_is_refused() {
        let (_pool, mut ledger) = pool_and_ledger();
        assert!(ledger.take_back(u64::MAX).is_none());
        assert!(ledger.take_back(128 * 2048).is_none());
    }

    #[test]
    fn all_that_is_out_can_be_reclaimed() {
        let (mut pool, mut ledger) = pool_and_ledger();
        for _ in 0..100 {
            let frame = pool.allocate().unwrap();
            ledger.lend(frame);
        }
        let mut count = 0;
        let done = KernelDone::without_a_kernel();
        while let Some(frame) = ledger.reclaim_any(&done) {
            pool.free(frame);
            count += 1;
        }
        assert_eq!((count, ledger.lent_count()), (100, 0));
    }
}
