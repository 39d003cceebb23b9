//! Packets to which something is left to do that cannot be left to the port: before a tunnel, and
//! on a way that is too narrow for them.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::Outgoing;
use crate::{
    drops::DropReason,
    next_hop::{NextHop, NextHopIndex, TunnelHop},
    packet::{Offloads, Packet},
    parse::{Headers, IP_OFFSET},
    pipeline::Pass,
    segment::{Plan, Segmenter},
    settle::settle,
    trace::Detail,
};

impl Pass<'_> {
    /// Cuts a packet whose segments are too large for the way as well, and may be fragmented: each
    /// segment goes on as a packet of its own.
    #[cold]
    pub(super) fn forward_segments(
        &mut self,
        packet: Packet,
        headers: &Headers,
        index: NextHopIndex,
        hop: &NextHop,
        flow_hash: u64,
    ) {
        self.cut(packet, |pass, segment| {
            let frame_bytes = segment.total_bytes() as usize;
            let ip_bytes = u32::try_from(frame_bytes.saturating_sub(IP_OFFSET)).unwrap_or(u32::MAX);
            pass.forward(segment, &Headers { ip_bytes, ..*headers }, index, hop, flow_hash);
        });
    }

    /// Finishes an inner frame and puts it into a tunnel: in segments, if it is to be segmented, each
    /// with outer headers of its own.
    #[cold]
    #[inline(never)]
    pub(crate) fn put_unfinished_into_tunnel(
        &mut self,
        mut packet: Packet,
        hop: &TunnelHop,
        outgoing: &Outgoing,
    ) {
        if settle(&mut packet, Offloads::NONE, self.pool.region()) {
            return self.put_into_tunnel(packet, hop, outgoing);
        }
        self.cut(packet, |pass, segment| pass.put_into_tunnel(segment, hop, outgoing));
    }

    /// Hands each segment of a packet to `send`.
    fn cut(&mut self, packet: Packet, send: impl Fn(&mut Self, Packet)) {
        let plan = match Plan::of(&packet, self.pool.region()) {
            Ok(plan) => plan,
            Err(reason) => return self.drop_packet(packet, reason, Detail::None),
        };
        self.stats.segmented(plan.count().saturating_sub(1) as u64);
        let mut segments = Segmenter::new(packet, plan, false);
        while let Some(made) = segments.next(self.pool) {
            match made {
                Ok(segment) => send(self, segment),
                Err(ingress) => self.stats.dropped(ingress, DropReason::MemoryExhausted, 1),
            }
        }
        segments.end(self.pool);
    }
}
