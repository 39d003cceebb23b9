//! What is left to do to a packet that its port does not do: done here, once, right before it goes.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use encap::{
    ip::IpProtocol,
    tcp::{TcpFlags, TcpView},
};

use crate::{
    memory::Region,
    packet::{Checksum, Gso, Offload, Offloads, Packet},
    transport::{self, Transport},
};

/// Makes `packet` fit for a port that takes `offloads`. False, and nothing happens, if it has to be
/// cut for that: see [`crate::segment`].
#[inline(never)]
pub(crate) fn settle(packet: &mut Packet, offloads: Offloads, region: &Region) -> bool {
    let Offload { checksum, gso } = packet.offload;
    if offloads.cover(packet.offload) && (gso.is_none() || takes_flags(packet, offloads, region)) {
        return true;
    }
    if gso.is_some() {
        return false;
    }
    let frame = packet.data(region);
    match Transport::find(frame, packet.total_bytes() as usize) {
        Some(transport) => {
            let is_unknown = checksum == Checksum::Unknown;
            if is_unknown && offloads.checksum && transport.is_unfinished(frame) {
                packet.offload.checksum = Checksum::Partial;
            } else {
                transport::finish(packet, &transport, region);
            }
        }
        // Only those of whole packets are left to devices.
        None => packet.offload.checksum = Checksum::Complete,
    }
    true
}

/// Whether the port takes the TCP flags of a packet that is yet to be segmented.
fn takes_flags(packet: &Packet, offloads: Offloads, region: &Region) -> bool {
    if offloads.tcp_ecn || matches!(packet.offload.gso, Some(Gso::Udp { .. })) {
        return true;
    }
    let frame = packet.data(region);
    let transport = Transport::find(frame, packet.total_bytes() as usize);
    transport
        .filter(|transport| transport.protocol == IpProtocol::TCP)
        .and_then(|transport| TcpView::parse(frame.get(transport.start..)?).ok())
        .is_none_or(|(tcp, _)| !tcp.flags().contains(TcpFlags::CWR))
}
