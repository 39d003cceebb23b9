//! The log of written pages, for live migration (`VHOST_F_LOG_ALL`).
//!
//! One bit a page of 4096 bytes of guest physical addresses, in memory that the frontend shares. A
//! ring that has a log marks what it writes; one that has none pays a branch.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::Release},
};

use super::{access::Words, mapping::MappedRegion};

/// Bytes that one bit stands for, by the protocol (`VHOST_LOG_PAGE`).
const PAGE_BYTES: u64 = 4096;

/// Where written pages are marked. The workers set bits, the frontend reads and clears them.
#[derive(Debug)]
pub struct DirtyLog {
    bits: Words<AtomicU8>,
    pages: u64,
}

impl DirtyLog {
    /// A log in memory that the frontend shared.
    #[must_use]
    pub fn new(region: &Arc<MappedRegion>) -> Option<Self> {
        let bytes = region.bytes();
        let pages = (bytes as u64).checked_mul(8)?;
        Some(Self { bits: Words::new(region, 0, bytes)?, pages })
    }

    /// Marks the pages of `bytes` bytes from a guest physical address on. Pages beyond the log are
    /// not marked: the frontend said that it does not want to know of them.
    pub fn mark(&self, guest_address: u64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let first = guest_address / PAGE_BYTES;
        let last = (guest_address.saturating_add(bytes - 1) / PAGE_BYTES).min(self.pages - 1);
        for page in first..=last {
            let index = usize::try_from(page / 8).unwrap_or(usize::MAX);
            let byte: &AtomicU8 = self.bits.at(index);
            // Release: whoever clears the bit sees what was written before it was set.
            byte.fetch_or(1 << (page % 8), Release);
        }
    }
}

/// A log, and where in it a ring's own words lie.
#[derive(Clone, Debug)]
pub struct RingLog {
    /// The log.
    pub log: Arc<DirtyLog>,
    /// The guest physical address of the words that we write: the used ring of a split ring, the
    /// descriptors of a packed one (`log_guest_addr`). `None` if they are not to be logged.
    pub ring_address: Option<u64>,
}

impl RingLog {
    /// Marks words of the ring that were written.
    pub(super) fn mark_ring(&self, offset: u64, bytes: u64) {
        if let Some(address) = self.ring_address {
            self.log.mark(address.saturating_add(offset), bytes);
        }
    }
}
