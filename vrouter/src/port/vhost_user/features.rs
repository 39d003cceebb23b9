//! What the device offers: features of a virtio network device (`VirtIO` 1.2 sections 5.1.3 and 6)
//! and of the vhost-user protocol.
//!
//! What is offered is implemented. Left out on purpose: `CTRL_VQ` and what goes through it, which
//! the frontend keeps to itself; `HOST_UFO` and `GUEST_UFO`, which cut UDP into IP fragments and
//! not into datagrams; the protocol's `RARP`, since nothing here learns from such a frame where a
//! guest is.

use vhost::vhost_user::message::VhostUserProtocolFeatures as Protocol;

/// Finishes partial checksums of the guest's packets.
pub(super) const CSUM: u64 = 1 << 0;
/// The guest finishes partial checksums.
pub(super) const GUEST_CSUM: u64 = 1 << 1;
/// The configuration space says how large a packet may be.
pub(super) const MTU: u64 = 1 << 3;
/// The configuration space holds the guest's address.
pub(super) const MAC: u64 = 1 << 5;
/// The guest takes TCP over IPv4 unsegmented.
pub(super) const GUEST_TSO4: u64 = 1 << 7;
/// The guest takes TCP over IPv6 unsegmented.
pub(super) const GUEST_TSO6: u64 = 1 << 8;
/// The guest takes unsegmented TCP that carries a congestion signal.
pub(super) const GUEST_ECN: u64 = 1 << 9;
/// The guest sends TCP over IPv4 unsegmented.
pub(super) const HOST_TSO4: u64 = 1 << 11;
/// The guest sends TCP over IPv6 unsegmented.
pub(super) const HOST_TSO6: u64 = 1 << 12;
/// The guest sends unsegmented TCP that carries a congestion signal.
pub(super) const HOST_ECN: u64 = 1 << 13;
/// A packet to the guest may lie in several of its buffers.
pub(super) const MRG_RXBUF: u64 = 1 << 15;
/// The configuration space says whether the link is up.
pub(super) const STATUS: u64 = 1 << 16;
/// The guest announces itself after a migration; the frames are ordinary ones.
pub(super) const GUEST_ANNOUNCE: u64 = 1 << 21;
/// More than one queue pair.
pub(super) const MQ: u64 = 1 << 22;
/// Writes to guest memory are logged (vhost only: the guest never sees it).
pub(super) const LOG_ALL: u64 = 1 << 26;
/// Any layout of the header and the packet in descriptors.
pub(super) const ANY_LAYOUT: u64 = 1 << 27;
/// A descriptor may lead to a table of descriptors.
pub(super) const INDIRECT_DESC: u64 = 1 << 28;
/// Notifications are asked for by index.
pub(super) const EVENT_IDX: u64 = 1 << 29;
/// The frontend speaks of protocol features (vhost-user only).
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// As in the standard, not as before it.
pub(super) const VERSION_1: u64 = 1 << 32;
/// Packed rings.
pub(super) const RING_PACKED: u64 = 1 << 34;
/// Buffers are used in the order in which they were made available.
pub(super) const IN_ORDER: u64 = 1 << 35;
/// The guest takes UDP over IPv4 unsegmented.
pub(super) const GUEST_USO4: u64 = 1 << 54;
/// The guest takes UDP over IPv6 unsegmented.
pub(super) const GUEST_USO6: u64 = 1 << 55;
/// The guest sends UDP unsegmented.
pub(super) const HOST_USO: u64 = 1 << 56;

/// What every port offers.
const ALWAYS: u64 = CSUM
    | GUEST_CSUM
    | MTU
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | STATUS
    | GUEST_ANNOUNCE
    | LOG_ALL
    | ANY_LAYOUT
    | INDIRECT_DESC
    | EVENT_IDX
    | PROTOCOL_FEATURES
    | VERSION_1
    | RING_PACKED
    | IN_ORDER
    | GUEST_USO4
    | GUEST_USO6
    | HOST_USO;

/// The protocol features of every port.
pub(super) const PROTOCOL: u64 = Protocol::MQ
    .union(Protocol::LOG_SHMFD)
    .union(Protocol::REPLY_ACK)
    .union(Protocol::MTU)
    .union(Protocol::CONFIG)
    .union(Protocol::INFLIGHT_SHMFD)
    .union(Protocol::RESET_DEVICE)
    .union(Protocol::CONFIGURE_MEM_SLOTS)
    .union(Protocol::STATUS)
    .bits();

/// What a port with so many queue pairs offers, and with an address of the guest's or without one.
pub(super) fn offered(queue_pairs: u16, has_mac: bool) -> u64 {
    let mq = if queue_pairs > 1 { MQ } else { 0 };
    ALWAYS | mq | if has_mac { MAC } else { 0 }
}

/// The negotiated features that an operator asks about, in words.
pub(super) fn describe(features: u64) -> String {
    let mut words = vec![if features & RING_PACKED == 0 { "split ring" } else { "packed ring" }];
    let named = [
        (MRG_RXBUF, "mergeable"),
        (INDIRECT_DESC, "indirect"),
        (IN_ORDER, "in order"),
        (EVENT_IDX, "event index"),
        (CSUM, "rx checksum"),
        (HOST_TSO4 | HOST_TSO6, "rx TSO"),
        (HOST_USO, "rx USO"),
        (GUEST_CSUM, "tx checksum"),
        (GUEST_TSO4 | GUEST_TSO6, "tx TSO"),
        (GUEST_USO4 | GUEST_USO6, "tx USO"),
        (LOG_ALL, "dirty log"),
    ];
    words.extend(named.iter().filter(|(bits, _)| features & bits != 0).map(|(_, word)| *word));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_negotiated_is_said_in_words() {
        assert_eq!(describe(0), "split ring");
        assert_eq!(
            describe(RING_PACKED | MRG_RXBUF | CSUM | HOST_TSO6),
            "packed ring, mergeable, rx checksum, rx TSO"
        );
    }

    #[test]
    fn several_queue_pairs_and_an_address_are_offered_where_there_are() {
        assert_eq!(offered(1, false) & (MQ | MAC), 0);
        assert_eq!(offered(2, false) & (MQ | MAC), MQ);
        assert_eq!(offered(1, true) & (MQ | MAC), MAC);
    }
}
