//! Packets on their way to the worker that owns the queue that they leave through.
//!
//! Each ordered pair of workers has one bounded ring with one producer and one consumer, so neither
//! ever waits: a full ring is the producer's to count (`handoff_ring_full`). The rings are those of
//! the crate `rtrb`: wait-free, nothing allocated after their making, positions of the other side
//! cached, and a whole burst moved with one store. A queue for many producers (`crossbeam`'s
//! `ArrayQueue`) would pay a compare-and-swap a packet on either side for others that are not
//! there: the bench `handoff` measures both.
//!
//! ```text
//!          to worker 0   1   2            a worker writes its row and reads its column;
//! worker 0      .        ─   ─            the bell wakes the reader if it sleeps
//! worker 1      ─        .   ─
//! worker 2      ─        ─   .
//! ```

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::{burst::Burst, idle::Doorbell, packet::Packet, port::PortRef};

/// Packets a ring holds: sixteen bursts, more than a worker receives in one poll (see
/// `worker::BURSTS_PER_POLL_MAX`), so that one poll's delay of the other worker loses nothing.
pub const HANDOFF_RING_PACKETS: usize = 1024;

/// A packet, and the port that it is to leave through.
#[derive(Debug)]
pub(crate) struct Handoff {
    /// Generation included: the slot may have a new user by the time the packet arrives.
    pub(crate) egress: PortRef,
    pub(crate) packet: Packet,
}

/// One worker's ends of the rings to and from the others.
#[derive(Debug)]
pub(crate) struct HandoffRings {
    outgoing: Box<[Option<Outgoing>]>,
    incoming: Box<[Consumer<Handoff>]>,
}

#[derive(Debug)]
struct Outgoing {
    ring: Producer<Handoff>,
    bell: Arc<Doorbell>,
    is_touched: bool,
}

impl HandoffRings {
    /// The rings between workers that sleep at these bells; one set of ends a worker, in order.
    pub(crate) fn mesh(bells: &[Arc<Doorbell>]) -> Vec<Self> {
        let mut incoming: Vec<Vec<_>> = bells.iter().map(|_| Vec::new()).collect();
        let mut outgoing: Vec<Vec<_>> = bells.iter().map(|_| Vec::new()).collect();
        for (from, row) in outgoing.iter_mut().enumerate() {
            for (to, (bell, column)) in bells.iter().zip(&mut incoming).enumerate() {
                row.push((from != to).then(|| {
                    let (ring, other_end) = RingBuffer::new(HANDOFF_RING_PACKETS);
                    column.push(other_end);
                    Outgoing { ring, bell: Arc::clone(bell), is_touched: false }
                }));
            }
        }
        outgoing
            .into_iter()
            .zip(incoming)
            .map(|(outgoing, incoming)| Self {
                outgoing: outgoing.into_boxed_slice(),
                incoming: incoming.into_boxed_slice(),
            })
            .collect()
    }

    /// Moves packets from the front of `burst` to `worker`, until the burst is empty or the ring
    /// full.
    pub(crate) fn push_burst(&mut self, worker: u16, egress: PortRef, burst: &mut Burst) {
        let Some(Some(outgoing)) = self.outgoing.get_mut(usize::from(worker)) else { return };
        let count = outgoing.ring.slots().min(burst.len());
        let Ok(chunk) = outgoing.ring.write_chunk_uninit(count) else { return };
        chunk.fill_from_iter(burst.drain(..count).map(|packet| Handoff { egress, packet }));
        outgoing.is_touched = true;
    }

    /// Wakes the workers that packets were pushed to and that sleep. A system call for each
    /// sleeper.
    pub(crate) fn ring_bells(&mut self) {
        for outgoing in self.outgoing.iter_mut().flatten() {
            if outgoing.is_touched {
                outgoing.is_touched = false;
                outgoing.bell.ring();
            }
        }
    }

    /// Rings that packets come in on.
    pub(crate) fn incoming_count(&self) -> usize {
        self.incoming.len()
    }

    /// Calls `accept` with up to `packets_max` packets that wait in ring `incoming`; returns how
    /// many there were.
    pub(crate) fn pop(
        &mut self,
        incoming: usize,
        packets_max: usize,
        accept: impl FnMut(Handoff),
    ) -> usize {
        let Some(ring) = self.incoming.get_mut(incoming) else { return 0 };
        let count = ring.slots().min(packets_max);
        let Ok(chunk) = ring.read_chunk(count) else { return 0 };
        chunk.into_iter().for_each(accept);
        count
    }

    /// Whether no packet waits to be popped.
    pub(crate) fn is_empty(&self) -> bool {
        self.incoming.iter().all(Consumer::is_empty)
    }
}
