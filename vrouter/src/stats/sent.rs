//! Packets that leave through a port, told to the counters of all whom they concern.

use super::WorkerStats;
use crate::port::PortRef;

/// Counts packets as sent through one port and as forwarded from those they came in on, when it is
/// dropped. Packets that came in together leave together, so that a run of them is one count.
#[derive(Debug)]
pub(crate) struct SentTally<'a> {
    stats: &'a WorkerStats,
    port: PortRef,
    packets: u64,
    bytes: u64,
    /// Where the packets of the current run came in.
    ingress: PortRef,
    run_packets: u64,
}

impl<'a> SentTally<'a> {
    /// No packet yet has left through `port`.
    pub(crate) fn new(port: PortRef, stats: &'a WorkerStats) -> Self {
        Self { stats, port, packets: 0, bytes: 0, ingress: PortRef::ENGINE, run_packets: 0 }
    }

    /// A packet of `bytes` bytes that came in on `ingress` is sent.
    pub(crate) fn add(&mut self, ingress: PortRef, bytes: u32) {
        if ingress != self.ingress {
            self.end_run();
            self.ingress = ingress;
        }
        self.run_packets = self.run_packets.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u64::from(bytes));
    }

    fn end_run(&mut self) {
        if self.run_packets > 0 {
            self.stats.forwarded(self.ingress, self.run_packets);
            self.run_packets = 0;
        }
    }
}

impl Drop for SentTally<'_> {
    fn drop(&mut self) {
        self.end_run();
        if self.packets > 0 {
            self.stats.tx(self.port, self.packets, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::stats::EngineStats;

    #[test]
    fn what_is_sent_counts_where_it_left_and_where_it_came_in() {
        let port = |index| PortRef { index, generation: 1 };
        let stats = Arc::new(WorkerStats::new());
        let mut sent = SentTally::new(port(9), &stats);
        for (ingress, bytes) in [(1, 60), (1, 70), (2, 80), (1, 90)] {
            sent.add(port(ingress), bytes);
        }
        sent.add(PortRef::ENGINE, 100);
        drop(sent);
        let engine = EngineStats::new([stats]);
        let totals = engine.port(port(9));
        assert_eq!((totals.tx_packets, totals.tx_bytes), (5, 400));
        assert_eq!(engine.port(port(1)).forwarded, 3);
        assert_eq!(engine.port(port(2)).forwarded, 1);
        assert_eq!(engine.port(PortRef::ENGINE).forwarded, 1);
    }
}
