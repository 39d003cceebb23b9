//! Packets that leave the pipeline, grouped by the port that they leave through.

use std::mem;

use arrayvec::ArrayVec;

use crate::{
    burst::{BURST_PACKETS_MAX, Burst},
    fragments::FRAGMENTS_MAX,
    packet::Packet,
    port::PORTS_MAX,
};

/// Packets beyond their port's burst that wait at most: all that a burst can become, since a packet
/// becomes no more than [`FRAGMENTS_MAX`] others.
const WAITING_PACKETS_MAX: usize = BURST_PACKETS_MAX * FRAGMENTS_MAX;

/// What is to be sent, a burst a port. Filled by the pipeline, emptied by the worker after each
/// burst that it processed.
///
/// A burst that comes in seldom fills more than one burst of a port; where packets are fragmented
/// it does, and what does not fit waits in line.
#[derive(Debug)]
pub struct Outbox {
    bursts: Box<[Burst]>,
    touched: ArrayVec<u16, PORTS_MAX>,
    /// Packets whose port's burst is full, in order. Never grows beyond [`WAITING_PACKETS_MAX`].
    waiting: Vec<(u16, Packet)>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// An empty outbox. Allocates all it will ever need.
    #[must_use]
    pub fn new() -> Self {
        let bursts = (0..PORTS_MAX).map(|_| Burst::new()).collect();
        let waiting = Vec::with_capacity(WAITING_PACKETS_MAX);
        Self { bursts, touched: ArrayVec::new(), waiting }
    }

    /// Puts a packet behind those that leave through port slot `port`.
    ///
    /// # Errors
    ///
    /// Gives the packet back if there is no such slot, or more waits than a burst can become.
    #[inline]
    pub fn push(&mut self, port: u16, packet: Packet) -> Result<(), Packet> {
        let Some(burst) = self.bursts.get_mut(usize::from(port)) else { return Err(packet) };
        if burst.is_empty() {
            // A port is listed at most once while its burst is not empty, so there is room.
            let _ = self.touched.try_push(port);
        }
        if burst.len() < BURST_PACKETS_MAX {
            burst.push(packet);
            return Ok(());
        }
        self.wait(port, packet)
    }

    #[cold]
    fn wait(&mut self, port: u16, packet: Packet) -> Result<(), Packet> {
        if self.waiting.len() == WAITING_PACKETS_MAX {
            return Err(packet);
        }
        self.waiting.push((port, packet));
        Ok(())
    }

    /// Calls `send` with each port that has packets, several times if it has more than a burst.
    /// `send` must empty the burst: what it does not send, it frees.
    pub fn drain(&mut self, mut send: impl FnMut(u16, &mut Burst)) {
        self.drain_bursts(&mut send);
        if !self.waiting.is_empty() {
            self.drain_waiting(&mut send);
        }
    }

    fn drain_bursts(&mut self, send: &mut impl FnMut(u16, &mut Burst)) {
        while let Some(port) = self.touched.pop() {
            if let Some(burst) = self.bursts.get_mut(usize::from(port)) {
                send(port, burst);
                debug_assert!(burst.is_empty(), "whoever sends a burst answers for all of it");
            }
        }
    }

    #[cold]
    fn drain_waiting(&mut self, send: &mut impl FnMut(u16, &mut Burst)) {
        let mut waiting = mem::take(&mut self.waiting);
        for (port, packet) in waiting.drain(..) {
            if self.bursts.get(usize::from(port)).is_some_and(ArrayVec::is_full) {
                self.drain_bursts(send);
            }
            let pushed = self.push(port, packet);
            debug_assert!(pushed.is_ok(), "its burst was just sent");
        }
        self.drain_bursts(send);
        // Its memory is kept for the next time.
        self.waiting = waiting;
    }
}
