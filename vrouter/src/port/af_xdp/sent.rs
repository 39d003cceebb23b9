//! Which packets wait in a tx ring.
//!
//! The kernel takes descriptors when it likes; of a socket that is closed, or whose device went, it
//! takes no more. So a packet counts as sent when its descriptors are taken, and what came in where
//! is kept here until then: one entry a descriptor, in the ring's order.

use crate::{
    drops::DropReason,
    port::PortRef,
    stats::{SentTally, WorkerStats},
};

/// What is to be counted of a descriptor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TxEntry {
    /// Where the packet came in.
    ingress: PortRef,
    /// Bytes, below 2^31, and in the highest bit whether the packet's next descriptor follows.
    bytes_and_continued: u32,
}

const CONTINUED: u32 = 1 << 31;

impl TxEntry {
    /// A descriptor of `bytes` bytes of a packet that came in on `ingress`.
    pub(super) fn new(ingress: PortRef, bytes: u32, is_continued: bool) -> Self {
        let continued = if is_continued { CONTINUED } else { 0 };
        Self { ingress, bytes_and_continued: bytes & !CONTINUED | continued }
    }

    fn bytes(self) -> u32 {
        self.bytes_and_continued & !CONTINUED
    }

    fn is_continued(self) -> bool {
        self.bytes_and_continued & CONTINUED != 0
    }
}

/// The descriptors in a tx ring that are not counted yet, oldest first.
#[derive(Debug)]
pub(super) struct SentRing {
    /// As many as the tx ring has slots; a power of two.
    entries: Box<[TxEntry]>,
    /// The oldest entry, and the place of the next one; both run freely and wrap at 2^32.
    oldest: u32,
    next: u32,
    /// Bytes of a packet that the kernel has taken in part.
    bytes_taken: u32,
}

impl SentRing {
    /// An empty ring; `entries` is a power of two.
    pub(super) fn new(entries: u32) -> Self {
        let entries = vec![TxEntry::default(); entries as usize].into_boxed_slice();
        Self { entries, oldest: 0, next: 0, bytes_taken: 0 }
    }

    /// Nothing waits to be counted.
    pub(super) fn is_empty(&self) -> bool {
        self.oldest == self.next
    }

    /// Descriptors that there is room for: what the kernel takes leaves the tx ring at once, but
    /// this one when it is counted.
    #[expect(clippy::cast_possible_truncation, reason = "as many entries as a tx ring has slots")]
    pub(super) fn room(&self) -> u32 {
        (self.entries.len() as u32).saturating_sub(self.next.wrapping_sub(self.oldest))
    }

    /// A descriptor was put into the tx ring; there is room.
    pub(super) fn push(&mut self, entry: TxEntry) {
        if let Some(slot) = self.entries.get_mut(Self::place(self.next, self.entries.len())) {
            *slot = entry;
            self.next = self.next.wrapping_add(1);
        }
    }

    /// Counts packets as sent through `port`, until no more than `waiting` descriptors are left:
    /// those that the kernel has not taken.
    pub(super) fn settle(&mut self, waiting: u32, port: PortRef, stats: &WorkerStats) {
        let mut sent = SentTally::new(port, stats);
        let taken = self.next.wrapping_sub(self.oldest).saturating_sub(waiting);
        for _ in 0..taken {
            let Some(entry) = self.pop() else { return };
            self.bytes_taken = self.bytes_taken.wrapping_add(entry.bytes());
            if !entry.is_continued() {
                sent.add(entry.ingress, self.bytes_taken);
                self.bytes_taken = 0;
            }
        }
    }

    /// Counts what is left as dropped: the kernel will not take it.
    #[cold]
    pub(super) fn drop_all(&mut self, stats: &WorkerStats) {
        while let Some(entry) = self.pop() {
            if !entry.is_continued() {
                stats.dropped(entry.ingress, DropReason::TxPortClosed, 1);
            }
        }
        self.bytes_taken = 0;
    }

    fn pop(&mut self) -> Option<TxEntry> {
        if self.is_empty() {
            return None;
        }
        let entry = *self.entries.get(Self::place(self.oldest, self.entries.len()))?;
        self.oldest = self.oldest.wrapping_add(1);
        Some(entry)
    }

    fn place(index: u32, entries: usize) -> usize {
        index as usize & entries.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::stats::EngineStats;

    const EGRESS: PortRef = PortRef { index: 9, generation: 1 };

    fn ingress(index: u16) -> PortRef {
        PortRef { index, generation: 1 }
    }

    #[test]
    fn a_packet_is_sent_when_its_last_descriptor_is_taken() {
        let stats = Arc::new(WorkerStats::new());
        let engine = EngineStats::new([Arc::clone(&stats)]);
        let mut ring = SentRing::new(8);
        for (bytes, is_continued) in [(60, false), (2000, true), (500, false)] {
            ring.push(TxEntry::new(ingress(1), bytes, is_continued));
        }
        ring.settle(1, EGRESS, &stats);
        assert_eq!((engine.port(EGRESS).tx_packets, engine.port(EGRESS).tx_bytes), (1, 60));
        ring.settle(0, EGRESS, &stats);
        assert_eq!((engine.port(EGRESS).tx_packets, engine.port(EGRESS).tx_bytes), (2, 2560));
        assert_eq!(engine.port(ingress(1)).forwarded, 2);
    }

    #[test]
    fn what_the_kernel_never_took_is_dropped_and_not_sent() {
        let stats = Arc::new(WorkerStats::new());
        let engine = EngineStats::new([Arc::clone(&stats)]);
        let mut ring = SentRing::new(8);
        for (port, is_continued) in [(1, true), (1, false), (2, false), (1, true), (1, false)] {
            ring.push(TxEntry::new(ingress(port), 100, is_continued));
        }
        // The first packet is taken in part only.
        ring.settle(4, EGRESS, &stats);
        ring.drop_all(&stats);
        assert_eq!(engine.port(EGRESS).tx_packets, 0);
        for (port, packets) in [(1, 2), (2, 1)] {
            let totals = engine.port(ingress(port));
            assert_eq!(totals.dropped_for(DropReason::TxPortClosed), packets);
            assert_eq!(totals.forwarded, 0);
        }
    }

    proptest! {
        #[test]
        fn every_packet_is_sent_or_dropped(
            steps in prop::collection::vec((0_u32..9, 0_u32..9), 1..100),
        ) {
            let stats = Arc::new(WorkerStats::new());
            let engine = EngineStats::new([Arc::clone(&stats)]);
            let mut ring = SentRing::new(16);
            let (mut pushed, mut waiting) = (0, 0);
            for (more, taken) in steps {
                let more = more.min(16 - waiting);
                (0..more).for_each(|_| ring.push(TxEntry::new(ingress(1), 60, false)));
                pushed += u64::from(more);
                waiting = (waiting + more).saturating_sub(taken);
                ring.settle(waiting, EGRESS, &stats);
                let sent = engine.port(EGRESS).tx_packets;
                prop_assert_eq!(sent, pushed - u64::from(waiting));
            }
            ring.drop_all(&stats);
            let totals = engine.port(ingress(1));
            prop_assert_eq!(totals.forwarded + totals.dropped(), pushed);
        }
    }
}
