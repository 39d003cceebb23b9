//! The way out of a worker: through a queue of its own, or to the worker that owns one.

use std::sync::Arc;

use super::queues::{OwnedQueue, QueueSlot, Queues};
use crate::{
    burst::Burst,
    drops::DropReason,
    handoff::{Handoff, HandoffRings},
    memory::{FramePool, Region},
    merge::merge,
    outbox::Outbox,
    packet::Packet,
    port::{PORTS_MAX, PortQueue, PortRef},
    segment::{Plan, Segmenter},
    settle::settle,
    stats::WorkerStats,
};

/// Which way packets to a port take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Way {
    /// The port has no queue.
    #[default]
    Closed,
    /// Through our own queue, or while it is not open through that worker's, if there is one.
    Own(QueueSlot, Option<u16>),
    /// Through a queue of that worker.
    Via(u16),
}

/// Takes note of a packet that is dropped, and why; its bytes are in the region.
pub(super) trait NoteDrop: FnMut(&Packet, DropReason, &Region) {}

impl<F: FnMut(&Packet, DropReason, &Region)> NoteDrop for F {}

/// A worker's queues, and which way leads to the queues of all ports.
pub(super) struct Egress {
    pub(super) queues: Queues,
    pub(super) handoffs: HandoffRings,
    /// By port slot, with the generation of the port that the way leads to.
    ways: Box<[(u16, Way)]>,
    stats: Arc<WorkerStats>,
}

impl Egress {
    pub(super) fn new(handoffs: HandoffRings, stats: Arc<WorkerStats>) -> Self {
        let ways = vec![(0, Way::Closed); PORTS_MAX].into_boxed_slice();
        Self { queues: Queues::new(), handoffs, ways, stats }
    }

    /// Takes over a queue; gives it back if there are too many.
    pub(super) fn attach(
        &mut self,
        port: PortRef,
        queue: Box<dyn PortQueue>,
    ) -> Result<QueueSlot, Box<dyn PortQueue>> {
        let slot = self.queues.insert(port, queue)?;
        self.set_way(port, Way::Own(slot, None));
        Ok(slot)
    }

    /// Gives up a queue, and closes the way if it led there.
    pub(super) fn remove(&mut self, slot: QueueSlot) -> Option<OwnedQueue> {
        let owned = self.queues.remove(slot)?;
        let way = self.way(owned.port.index);
        if matches!(way, Some((port, Way::Own(own, _))) if (port, own) == (owned.port, slot)) {
            self.close(owned.port);
        }
        Some(owned)
    }

    /// From now on, packets to `port` go to `worker`; if we have a queue of our own, while that is
    /// not open.
    pub(super) fn send_via(&mut self, port: PortRef, worker: u16) {
        let way = match self.way(port.index) {
            Some((owner, Way::Own(slot, _))) if owner == port => Way::Own(slot, Some(worker)),
            _ => Way::Via(worker),
        };
        self.set_way(port, way);
    }

    /// From now on, packets to `port` are dropped.
    pub(super) fn close(&mut self, port: PortRef) {
        self.set_way(port, Way::Closed);
    }

    /// Sends what the pipeline wants to leave through the port in slot `index`; leaves the burst
    /// empty.
    pub(super) fn send(
        &mut self,
        index: u16,
        burst: &mut Burst,
        pool: &mut FramePool,
        note: &mut impl NoteDrop,
    ) {
        let reason = match self.way(index) {
            Some((_, Way::Own(slot, substitute)))
                if substitute.is_none() || self.queues.is_open(slot) =>
            {
                return self.transmit(slot, burst, pool, note);
            }
            Some((port, Way::Own(_, Some(worker)) | Way::Via(worker))) => {
                self.handoffs.push_burst(worker, port, burst);
                DropReason::HandoffRingFull
            }
            _ => DropReason::PortDown,
        };
        drop_rest(burst, pool, &self.stats, note, |_| reason);
    }

    /// Moves packets that wait in an incoming ring to `outbox`; whether there were any.
    pub(super) fn accept_handoffs(
        &mut self,
        ring: usize,
        packets_max: usize,
        outbox: &mut Outbox,
        pool: &mut FramePool,
        note: &mut impl NoteDrop,
    ) -> bool {
        let Self { handoffs, ways, stats, .. } = self;
        let count = handoffs.pop(ring, packets_max, |Handoff { egress, packet }| {
            let is_current = ways
                .get(usize::from(egress.index))
                .is_some_and(|(generation, _)| *generation == egress.generation);
            let refused = if is_current { outbox.push(egress.index, packet) } else { Err(packet) };
            if let Err(packet) = refused {
                stats.dropped(packet.ingress, DropReason::PortDown, 1);
                note(&packet, DropReason::PortDown, pool.region());
                pool.free_packet(packet);
            }
        });
        count > 0
    }

    /// Sends what another worker handed over; leaves the burst empty. It goes on to a third worker
    /// only if that one stands in for our own queue, and has no substitute itself.
    pub(super) fn deliver(
        &mut self,
        index: u16,
        burst: &mut Burst,
        pool: &mut FramePool,
        note: &mut impl NoteDrop,
    ) {
        if matches!(self.way(index), Some((_, Way::Own(..)))) {
            return self.send(index, burst, pool, note);
        }
        drop_rest(burst, pool, &self.stats, note, |_| DropReason::PortDown);
    }

    /// Puts packets on a transmit ring, each in a form that the port takes; the queue counts what is
    /// sent of them. Leaves the burst empty.
    fn transmit(
        &mut self,
        slot: QueueSlot,
        burst: &mut Burst,
        pool: &mut FramePool,
        note: &mut impl NoteDrop,
    ) {
        let Some(owned) = self.queues.touch(slot) else {
            return drop_rest(burst, pool, &self.stats, note, |_| DropReason::TxQueueGone);
        };
        let offloads = owned.queue.offloads();
        if offloads.has_tcp() && burst.len() > 1 {
            merge(burst, offloads, pool.region(), &self.stats);
        }
        let mut must_cut = false;
        for packet in burst.iter_mut() {
            if !packet.offload.is_nothing() {
                must_cut |= !settle(packet, offloads, pool.region());
            }
        }
        if must_cut {
            cut_and_send(owned, burst, pool, &self.stats, note);
        } else {
            send(owned, burst, pool, &self.stats, note);
        }
        self.queues.heat(slot);
    }

    fn way(&self, index: u16) -> Option<(PortRef, Way)> {
        let (generation, way) = *self.ways.get(usize::from(index))?;
        Some((PortRef { index, generation }, way))
    }

    fn set_way(&mut self, port: PortRef, way: Way) {
        if let Some(entry) = self.ways.get_mut(usize::from(port.index)) {
            *entry = (port.generation, way);
        }
    }
}

/// Puts a burst on the transmit ring, and drops what it does not take.
fn send(
    owned: &mut OwnedQueue,
    burst: &mut Burst,
    pool: &mut FramePool,
    stats: &WorkerStats,
    note: &mut impl NoteDrop,
) {
    owned.queue.tx_burst(pool, burst, stats);
    drop_rest(burst, pool, stats, note, |packet| {
        if owned.queue.can_send(packet) { DropReason::TxRingFull } else { DropReason::TxUnsendable }
    });
}

/// As [`send`], of a burst with packets that the port wants in segments. They go in as many bursts
/// as it takes, in order.
#[cold]
#[inline(never)]
fn cut_and_send(
    owned: &mut OwnedQueue,
    burst: &mut Burst,
    pool: &mut FramePool,
    stats: &WorkerStats,
    note: &mut impl NoteDrop,
) {
    let offloads = owned.queue.offloads();
    let mut out = Burst::new();
    for mut packet in burst.drain(..) {
        if settle(&mut packet, offloads, pool.region()) {
            out.push(packet);
            if out.is_full() {
                send_segments(owned, &mut out, pool, stats, note);
            }
            continue;
        }
        let plan = match Plan::of(&packet, pool.region()) {
            Ok(plan) => plan,
            Err(reason) => {
                drop_one(packet, reason, pool, stats, note);
                continue;
            }
        };
        stats.segmented(plan.count().saturating_sub(1) as u64);
        let mut segments = Segmenter::new(packet, plan, offloads.checksum);
        while let Some(made) = segments.next(pool) {
            match made {
                Ok(segment) => out.push(segment),
                Err(ingress) => stats.dropped(ingress, DropReason::MemoryExhausted, 1),
            }
            if out.is_full() {
                send_segments(owned, &mut out, pool, stats, note);
            }
        }
        segments.end(pool);
    }
    send_segments(owned, &mut out, pool, stats, note);
}

/// As [`send`], with one more try: the segments of one received burst may be more than a ring
/// holds, and some rings are emptied by a flush.
fn send_segments(
    owned: &mut OwnedQueue,
    burst: &mut Burst,
    pool: &mut FramePool,
    stats: &WorkerStats,
    note: &mut impl NoteDrop,
) {
    owned.queue.tx_burst(pool, burst, stats);
    if !burst.is_empty() {
        // Whether the peer is gone is found out by the poll's own flush.
        let _ = owned.queue.flush(pool, stats);
        send(owned, burst, pool, stats, note);
    }
}

/// Counts a burst that was just received on `port`.
pub(super) fn count_received(port: PortRef, burst: &Burst, stats: &WorkerStats) {
    let packets = burst.len() as u64;
    stats.rx(port, packets, total_bytes(burst));
    stats.burst(packets);
}

/// Frees what is left of a burst; `reason` tells what each packet died of.
fn drop_rest(
    burst: &mut Burst,
    pool: &mut FramePool,
    stats: &WorkerStats,
    note: &mut impl NoteDrop,
    reason: impl Fn(&Packet) -> DropReason,
) {
    for packet in burst.drain(..) {
        let reason = reason(&packet);
        drop_one(packet, reason, pool, stats, note);
    }
}

fn drop_one(
    packet: Packet,
    reason: DropReason,
    pool: &mut FramePool,
    stats: &WorkerStats,
    note: &mut impl NoteDrop,
) {
    stats.dropped(packet.ingress, reason, 1);
    note(&packet, reason, pool.region());
    pool.free_packet(packet);
}

fn total_bytes(burst: &Burst) -> u64 {
    burst.iter().fold(0, |sum, packet| sum.wrapping_add(u64::from(packet.total_bytes())))
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::BorrowedFd,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    use super::*;
    use crate::{
        idle::Doorbell,
        memory::{Depot, RegionConfig},
        port::PeerGone,
        stats::EngineStats,
    };

    /// Takes nothing.
    struct Nowhere;

    impl PortQueue for Nowhere {
        fn rx_burst(&mut self, _: &mut FramePool, _: &mut Burst) -> usize {
            0
        }

        fn tx_burst(&mut self, _: &mut FramePool, _: &mut Burst, _: &WorkerStats) -> usize {
            0
        }

        fn flush(&mut self, _: &mut FramePool, _: &WorkerStats) -> Result<(), PeerGone> {
            Ok(())
        }

        fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn drain(&mut self, _: &mut FramePool, _: &WorkerStats) -> usize {
            0
        }
    }

    #[test]
    fn packets_to_a_queue_that_is_gone_are_not_the_rings_fault() {
        let config = RegionConfig { frame_count: 64, huge_pages: false, ..Default::default() };
        let mut pool = FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())));
        let stats = Arc::new(WorkerStats::new());
        let bell = Arc::new(Doorbell::new().unwrap());
        let rings = HandoffRings::mesh(&[bell]).remove(0);
        let mut egress = Egress::new(rings, Arc::clone(&stats));
        let (port, ingress) =
            (PortRef { index: 1, generation: 0 }, PortRef { index: 2, generation: 0 });
        let slot = egress.attach(port, Box::new(Nowhere)).ok().unwrap();
        let mut noted = Vec::new();
        let mut send = |egress: &mut Egress| {
            let mut burst = Burst::new();
            burst.push(pool.copy_in(&[0; 60], ingress).unwrap());
            let mut note = |_: &Packet, reason, _: &Region| noted.push(reason);
            egress.send(port.index, &mut burst, &mut pool, &mut note);
            assert!(burst.is_empty());
        };
        send(&mut egress);
        // Its way still leads there.
        egress.queues.remove(slot);
        send(&mut egress);
        egress.close(port);
        send(&mut egress);
        let totals = EngineStats::new([stats]).port(ingress);
        let reasons = [DropReason::TxRingFull, DropReason::TxQueueGone, DropReason::PortDown];
        assert_eq!(noted, reasons);
        for reason in reasons {
            assert_eq!(totals.dropped_for(reason), 1, "{reason:?}");
        }
    }

    /// Takes everything, if it is open.
    struct Door(Arc<AtomicBool>);

    impl PortQueue for Door {
        fn rx_burst(&mut self, _: &mut FramePool, _: &mut Burst) -> usize {
            0
        }

        fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst, _: &WorkerStats) -> usize {
            let count = burst.len();
            burst.drain(..).for_each(|packet| pool.free_packet(packet));
            count
        }

        fn is_open(&self) -> bool {
            self.0.load(Relaxed)
        }

        fn flush(&mut self, _: &mut FramePool, _: &WorkerStats) -> Result<(), PeerGone> {
            Ok(())
        }

        fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn drain(&mut self, _: &mut FramePool, _: &WorkerStats) -> usize {
            0
        }
    }

    #[test]
    fn a_queue_that_is_not_open_is_stood_in_for() {
        let config = RegionConfig { frame_count: 64, huge_pages: false, ..Default::default() };
        let mut pool = FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())));
        let stats = Arc::new(WorkerStats::new());
        let bells = [(); 2].map(|()| Arc::new(Doorbell::new().unwrap()));
        let mut rings = HandoffRings::mesh(&bells);
        let mut first = Egress::new(rings.remove(0), Arc::clone(&stats));
        let mut second = Egress::new(rings.remove(0), stats);
        let port = PortRef { index: 1, generation: 3 };
        let is_open = Arc::new(AtomicBool::new(false));
        first.attach(port, Box::new(Door(Arc::default()))).ok().unwrap();
        second.attach(port, Box::new(Door(Arc::clone(&is_open)))).ok().unwrap();
        second.send_via(port, 0);
        let mut note = |_: &Packet, reason, _: &Region| panic!("dropped: {reason:?}");
        let mut outbox = Outbox::new();
        let mut handed_over = |pool: &mut FramePool| {
            let mut burst = Burst::new();
            burst.push(pool.copy_in(&[0; 60], PortRef::ENGINE).unwrap());
            second.send(port.index, &mut burst, pool, &mut note);
            assert!(burst.is_empty());
            let is_there = first.accept_handoffs(0, 64, &mut outbox, pool, &mut note);
            outbox.drain(|port, burst| first.deliver(port, burst, pool, &mut note));
            is_there
        };
        assert!(handed_over(&mut pool));
        is_open.store(true, Relaxed);
        assert!(!handed_over(&mut pool));
    }

    #[test]
    fn a_packet_handed_over_for_a_port_that_is_gone_is_noted() {
        let config = RegionConfig { frame_count: 64, huge_pages: false, ..Default::default() };
        let mut pool = FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())));
        let stats = Arc::new(WorkerStats::new());
        let bells = [(); 2].map(|()| Arc::new(Doorbell::new().unwrap()));
        let mut rings = HandoffRings::mesh(&bells);
        let mut to = Egress::new(rings.remove(1), Arc::clone(&stats));
        let mut from = rings.remove(0);
        let (gone, ingress) =
            (PortRef { index: 1, generation: 3 }, PortRef { index: 2, generation: 0 });
        let mut burst = Burst::new();
        burst.push(pool.copy_in(&[0; 60], ingress).unwrap());
        from.push_burst(1, gone, &mut burst);
        assert!(burst.is_empty());
        let mut noted = Vec::new();
        let mut note = |packet: &Packet, reason, _: &Region| noted.push((packet.ingress, reason));
        let mut outbox = Outbox::new();
        for ring in 0..to.handoffs.incoming_count() {
            to.accept_handoffs(ring, 64, &mut outbox, &mut pool, &mut note);
        }
        assert_eq!(noted, [(ingress, DropReason::PortDown)]);
        assert_eq!(EngineStats::new([stats]).port(ingress).dropped_for(DropReason::PortDown), 1);
    }
}
