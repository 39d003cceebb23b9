//! Stage 6: packets into the outbox, grouped by the port that they leave through.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::{drops::DropReason, packet::Packet, pipeline::Pass, port::PortRef, trace::Detail};

impl Pass<'_> {
    /// Hands a finished packet to its port.
    pub(crate) fn transmit(&mut self, packet: Packet, port: PortRef) {
        if self.snapshot.port(port).is_none() {
            return self.drop_packet(packet, DropReason::PortDown, Detail::None);
        }
        if let Err(packet) = self.outbox.push(port.index, packet) {
            self.drop_packet(packet, DropReason::TxRingFull, Detail::None);
        }
    }
}
