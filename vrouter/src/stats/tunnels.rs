//! What goes through each tunnel, by the slot of its next hop.
//!
//! Counting is one index, one comparison and two additions in one cache line: the table is the
//! worker's own, so the line stays in its cache while a tunnel is busy. In the bench `pipeline`
//! that is lost in the noise for packets into a tunnel. Out of one, the tunnel is found in a
//! cache of peers.
//!
//! A slot that gets another tunnel starts at zero: a tunnel's counters are gone with it, as its
//! metrics are.

#[cfg(test)]
mod loom_model;
mod row;

/// The atomics of the rows; the model has others.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

use self::row::TunnelCounters;
use super::{EngineStats, WorkerStats};
use crate::next_hop::{NEXT_HOPS_MAX, TunnelRef};

/// One worker's counters of all tunnels. The worker writes; the main thread reads.
#[derive(Debug)]
pub(super) struct TunnelTable {
    /// By next-hop slot: 1.1 MiB, of which a tunnel uses one cache line.
    rows: Box<[TunnelCounters]>,
}

/// Packets and bytes of one tunnel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TunnelTotals {
    /// Packets taken out of the tunnel.
    pub rx_packets: u64,
    /// Their bytes, as inner Ethernet frames.
    pub rx_bytes: u64,
    /// Packets put into the tunnel.
    pub tx_packets: u64,
    /// Their bytes, as inner Ethernet frames.
    pub tx_bytes: u64,
}

impl TunnelTable {
    pub(super) fn new() -> Self {
        Self { rows: (0..NEXT_HOPS_MAX).map(|_| TunnelCounters::default()).collect() }
    }

    /// The tunnel's counters, at zero if the slot's last user was another one.
    fn row(&self, tunnel: TunnelRef) -> Option<&TunnelCounters> {
        Some(self.rows.get(tunnel.slot.0 as usize)?.of(user(tunnel)))
    }

    fn totals(&self, tunnel: TunnelRef) -> TunnelTotals {
        let row = self.rows.get(tunnel.slot.0 as usize);
        row.and_then(|row| row.totals(user(tunnel))).unwrap_or_default()
    }
}

/// Names a user of a slot; never 0.
fn user(tunnel: TunnelRef) -> u32 {
    u32::from(tunnel.generation).wrapping_add(1)
}

impl WorkerStats {
    /// Counts packets that came out of a tunnel; `bytes` are those of their inner frames.
    pub fn tunnel_rx(&self, tunnel: TunnelRef, packets: u64, bytes: u64) {
        if let Some(row) = self.tunnels.row(tunnel) {
            row.rx(packets, bytes);
        }
    }

    /// Counts packets that were put into a tunnel; `bytes` are those of their inner frames.
    pub fn tunnel_tx(&self, tunnel: TunnelRef, packets: u64, bytes: u64) {
        if let Some(row) = self.tunnels.row(tunnel) {
            row.tx(packets, bytes);
        }
    }
}

impl EngineStats {
    /// What all workers counted of a tunnel, of this user of its slot only.
    #[must_use]
    pub fn tunnel(&self, tunnel: TunnelRef) -> TunnelTotals {
        let mut sum = TunnelTotals::default();
        for worker in self.workers() {
            let totals = worker.tunnels.totals(tunnel);
            sum.rx_packets = sum.rx_packets.wrapping_add(totals.rx_packets);
            sum.rx_bytes = sum.rx_bytes.wrapping_add(totals.rx_bytes);
            sum.tx_packets = sum.tx_packets.wrapping_add(totals.tx_packets);
            sum.tx_bytes = sum.tx_bytes.wrapping_add(totals.tx_bytes);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    };

    use super::*;
    use crate::next_hop::NextHopIndex;

    #[test]
    fn workers_are_summed_and_a_slots_next_user_starts_at_zero() {
        let workers = [Arc::new(WorkerStats::new()), Arc::new(WorkerStats::new())];
        let engine = EngineStats::new(workers.clone());
        let old = TunnelRef { slot: NextHopIndex(1500), generation: u16::MAX };
        let new = TunnelRef { generation: 0, ..old };
        workers[0].tunnel_rx(old, 1, 100);
        workers[1].tunnel_rx(old, 1, 50);
        workers[1].tunnel_tx(old, 1, 60);
        let expected = TunnelTotals { rx_packets: 2, rx_bytes: 150, tx_packets: 1, tx_bytes: 60 };
        assert_eq!(engine.tunnel(old), expected);
        assert_eq!(engine.tunnel(new), TunnelTotals::default());
        workers[0].tunnel_tx(new, 1, 70);
        let expected = TunnelTotals { tx_packets: 1, tx_bytes: 70, ..TunnelTotals::default() };
        assert_eq!(engine.tunnel(new), expected);
        let beyond = TunnelRef { slot: NextHopIndex(u32::MAX), generation: 0 };
        workers[0].tunnel_rx(beyond, 1, 1);
        assert_eq!(engine.tunnel(beyond), TunnelTotals::default());
    }

    #[test]
    fn a_reader_never_sees_one_users_counts_as_anothers() {
        const PACKETS: u64 = 3;
        const GENERATIONS: u16 = 60_000;
        // No multiple of one generation's is a multiple of the one's before or after it.
        let packet_bytes = |generation: u16| 1000 + u64::from(generation);
        let worker = Arc::new(WorkerStats::new());
        let engine = EngineStats::new([Arc::clone(&worker)]);
        let tunnel = |generation| TunnelRef { slot: NextHopIndex(1100), generation };
        let current = Arc::new(AtomicU16::new(0));
        let writer = {
            let current = Arc::clone(&current);
            std::thread::spawn(move || {
                for generation in 0..GENERATIONS {
                    current.store(generation, Relaxed);
                    for _ in 0..PACKETS {
                        worker.tunnel_rx(tunnel(generation), 1, packet_bytes(generation));
                    }
                }
            })
        };
        while !writer.is_finished() {
            let generation = current.load(Relaxed);
            let totals = engine.tunnel(tunnel(generation));
            let bytes = packet_bytes(generation);
            assert!(totals.rx_packets <= PACKETS);
            assert!(
                totals.rx_bytes <= PACKETS * bytes && totals.rx_bytes.is_multiple_of(bytes),
                "{totals:?}"
            );
        }
        writer.join().unwrap();
        let last = engine.tunnel(tunnel(GENERATIONS - 1));
        let bytes = PACKETS * packet_bytes(GENERATIONS - 1);
        assert_eq!((last.rx_packets, last.rx_bytes), (PACKETS, bytes));
    }
}
