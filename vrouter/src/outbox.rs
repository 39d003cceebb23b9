//! Packets that leave the pipeline, grouped by the port that they leave through.

use arrayvec::ArrayVec;

use crate::{
    burst::{BURST_PACKETS_MAX, Burst},
    packet::Packet,
    port::PORTS_MAX,
};

/// One burst to send per port. Filled by the pipeline, emptied by the worker after each burst that
/// it processed.
#[derive(Debug)]
pub struct Outbox {
    bursts: Box<[Burst]>,
    touched: ArrayVec<u16, PORTS_MAX>,
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
        Self { bursts, touched: ArrayVec::new() }
    }

    /// Puts a packet into the burst of port slot `port`.
    ///
    /// # Errors
    ///
    /// Gives the packet back if the port's burst is full or there is no such slot.
    pub fn push(&mut self, port: u16, packet: Packet) -> Result<(), Packet> {
        let Some(burst) = self.bursts.get_mut(usize::from(port)) else { return Err(packet) };
        if burst.is_empty() {
            // A port is listed at most once while its burst is not empty, so there is room.
            let _ = self.touched.try_push(port);
        }
        if burst.len() == BURST_PACKETS_MAX {
            return Err(packet);
        }
        burst.push(packet);
        Ok(())
    }

    /// Calls `send` with each port that has packets. What `send` leaves in the burst, `send`
    /// answers for: it must free it.
    pub fn drain(&mut self, mut send: impl FnMut(u16, &mut Burst)) {
        while let Some(port) = self.touched.pop() {
            if let Some(burst) = self.bursts.get_mut(usize::from(port)) {
                send(port, burst);
            }
        }
    }
}
