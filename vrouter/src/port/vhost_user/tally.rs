//! Packets that die in a ring, until somebody can be told.

use arrayvec::ArrayVec;

use crate::{
    drops::DropReason, memory::FramePool, packet::Packet, port::PortRef, stats::WorkerStats,
};

/// Reasons told apart between two reports; more are counted as the last one.
const REASONS_MAX: usize = 8;

/// The first packet that a queue dropped since somebody last asked, for whoever looks at examples.
/// One frame a queue at most is kept for that.
#[derive(Debug, Default)]
pub(super) struct RefusedExample(Option<(Packet, DropReason)>);

impl RefusedExample {
    /// Keeps a packet, or frees it if there is one already.
    #[cold]
    #[inline(never)]
    pub(super) fn keep(&mut self, packet: Packet, reason: DropReason, pool: &mut FramePool) {
        if self.0.is_some() {
            pool.free_packet(packet);
        } else {
            self.0 = Some((packet, reason));
        }
    }

    pub(super) fn take(&mut self) -> Option<(Packet, DropReason)> {
        self.0.take()
    }
}

/// Packets that were received and dropped, by reason. Almost always empty.
#[derive(Debug, Default)]
pub(super) struct RefusedTally {
    counts: ArrayVec<(DropReason, u64), REASONS_MAX>,
    packets: u64,
    bytes: u64,
}

impl RefusedTally {
    /// A packet of `bytes` bytes died of `reason`.
    #[cold]
    #[inline(never)]
    pub(super) fn add(&mut self, reason: DropReason, bytes: u64) {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes);
        let is_full = self.counts.is_full();
        if let Some((_, count)) = self.counts.iter_mut().find(|(known, _)| *known == reason) {
            *count = count.wrapping_add(1);
        } else if !is_full {
            self.counts.push((reason, 1));
        } else if let Some((_, count)) = self.counts.last_mut() {
            *count = count.wrapping_add(1);
        }
    }

    /// Counts them as received on `port` and dropped, and forgets them.
    #[inline]
    pub(super) fn report(&mut self, port: PortRef, stats: &WorkerStats) {
        if self.packets > 0 {
            stats.rx(port, self.packets, self.bytes);
            self.counts.drain(..).for_each(|(reason, count)| stats.dropped(port, reason, count));
            (self.packets, self.bytes) = (0, 0);
        }
    }
}
