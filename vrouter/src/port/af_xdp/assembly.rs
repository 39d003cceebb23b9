//! Packets of several segments, put together from descriptors.

use arrayvec::ArrayVec;

use crate::{
    drops::DropReason,
    memory::{FramePool, Region, Segment},
    packet::Packet,
    port::PortRef,
    stats::WorkerStats,
};

/// Segments of one packet: the kernel takes and gives 17 fragments beside the first part
/// (`MAX_SKB_FRAGS`).
pub(super) const SEGMENTS_MAX: usize = 18;

/// The segments of a packet whose last one is yet to come. The kernel publishes a packet as a
/// whole, but a burst may be full at any point.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    segments: ArrayVec<Segment, SEGMENTS_MAX>,
    /// Bytes so far of a packet with too many segments: the rest of it is thrown away.
    oversized_bytes: Option<u64>,
    /// Packets with too many segments that are complete and not counted yet.
    refused_packets: u64,
    refused_bytes: u64,
}

impl Assembly {
    /// The next segment belongs to a packet that has begun.
    pub(super) fn is_under_way(&self) -> bool {
        !self.segments.is_empty() || self.oversized_bytes.is_some()
    }

    /// Adds a segment; returns the packet if it was the last.
    #[cold]
    pub(super) fn add(
        &mut self,
        segment: Segment,
        is_continued: bool,
        port: PortRef,
        region: &Region,
        pool: &mut FramePool,
    ) -> Option<Packet> {
        let bytes = u64::from(segment.len);
        if let Some(before) = self.oversized_bytes {
            pool.free(segment.frame);
            self.oversized_bytes = Some(before.wrapping_add(bytes));
        } else if let Err(refused) = self.segments.try_push(segment) {
            let before: u64 = self.segments.iter().map(|segment| u64::from(segment.len)).sum();
            self.oversized_bytes = Some(before.wrapping_add(bytes));
            pool.free(refused.element().frame);
            self.discard(pool);
        }
        if is_continued {
            return None;
        }
        if let Some(bytes) = self.oversized_bytes.take() {
            self.refused_packets = self.refused_packets.wrapping_add(1);
            self.refused_bytes = self.refused_bytes.wrapping_add(bytes);
            return None;
        }
        self.link_up(port, region)
    }

    /// Counts packets with too many segments, which were received on `port` and dropped.
    pub(super) fn report(&mut self, port: PortRef, stats: &WorkerStats) {
        if self.refused_packets > 0 {
            stats.rx(port, self.refused_packets, self.refused_bytes);
            stats.dropped(port, DropReason::RxOversized, self.refused_packets);
            (self.refused_packets, self.refused_bytes) = (0, 0);
        }
    }

    /// Frees the segments of a packet that will not be completed.
    pub(super) fn discard(&mut self, pool: &mut FramePool) {
        for segment in self.segments.drain(..) {
            pool.free(segment.frame);
        }
    }

    /// Makes a packet of the segments.
    fn link_up(&mut self, port: PortRef, region: &Region) -> Option<Packet> {
        let mut segments = self.segments.drain(..);
        let Segment { frame, offset, len } = segments.next()?;
        let mut packet = Packet::new(frame, offset, len, port);
        segments.for_each(|segment| packet.append(region, segment));
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        memory::{Depot, RegionConfig},
        stats::EngineStats,
    };

    const PORT: PortRef = PortRef { index: 3, generation: 1 };
    const SEGMENT_BYTES: u16 = 100;

    /// Packets of so many segments each; what came of them, and whether all frames are back.
    fn receive(packets: &[usize]) -> (Vec<u32>, EngineStats, bool) {
        let config = RegionConfig { frame_count: 128, frame_bytes: 2048, huge_pages: false };
        let depot = Depot::new(Arc::new(Region::create(&config).unwrap()));
        let mut pool = FramePool::new(Arc::clone(&depot));
        let stats = Arc::new(WorkerStats::new());
        let mut assembly = Assembly::default();
        let mut sizes = Vec::new();
        for &segments in packets {
            for number in 1..=segments {
                let frame = pool.allocate().unwrap();
                let segment = Segment { frame, offset: 0, len: SEGMENT_BYTES };
                let is_continued = number < segments;
                let region = depot.region();
                let packet = assembly.add(segment, is_continued, PORT, region, &mut pool);
                if let Some(packet) = packet {
                    sizes.push(packet.total_bytes());
                    pool.free_packet(packet);
                }
            }
            assembly.report(PORT, &stats);
        }
        assert!(!assembly.is_under_way());
        let is_back = pool.frames_cached() + depot.frames_free() == 128;
        (sizes, EngineStats::new([stats]), is_back)
    }

    #[test]
    fn a_packet_of_too_many_segments_is_received_and_dropped_as_oversized() {
        let (sizes, stats, is_back) = receive(&[2, 19, 18, 25]);
        assert_eq!(sizes, [200, 1800]);
        assert!(is_back);
        let totals = stats.port(PORT);
        assert_eq!((totals.rx_packets, totals.rx_bytes), (2, 1900 + 2500));
        assert_eq!(totals.dropped_for(DropReason::RxOversized), 2);
        assert_eq!(totals.under_way(), 0);
    }

    proptest! {
        #[test]
        fn each_packet_is_handed_over_or_counted_and_no_frame_is_lost(
            packets in prop::collection::vec(1_usize..40, 0..20),
        ) {
            let (sizes, stats, is_back) = receive(&packets);
            prop_assert!(is_back);
            let oversized = packets.iter().filter(|segments| **segments > SEGMENTS_MAX).count();
            prop_assert_eq!(sizes.len() + oversized, packets.len());
            let dropped = stats.port(PORT).dropped_for(DropReason::RxOversized);
            prop_assert_eq!(dropped, oversized as u64);
        }
    }
}
