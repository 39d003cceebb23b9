//! SCTP: the association's state from the chunks that each side has sent (RFC 9260, section 4).
//!
//! The states carry the names of their TCP likenesses. A direction's `end` holds the verification
//! tag that its packets must carry, which is the tag that the other side chose.

use super::{ConnectionState, InvalidReason, Sides, Tracked, Tracking, Verdict};
use crate::{connection::Transport, entry::Direction, facts::SctpFacts};

// Chunk types (RFC 9260, section 3.2).
const CHUNK_INIT: u8 = 1;
const CHUNK_INIT_ACK: u8 = 2;
const CHUNK_ABORT: u8 = 6;
const CHUNK_SHUTDOWN: u8 = 7;
const CHUNK_SHUTDOWN_ACK: u8 = 8;
const CHUNK_COOKIE_ECHO: u8 = 10;
const CHUNK_COOKIE_ACK: u8 = 11;
const CHUNK_SHUTDOWN_COMPLETE: u8 = 14;

const INIT: u16 = 1 << 0;
const INIT_ACK: u16 = 1 << 1;
const COOKIE_ECHO: u16 = 1 << 2;
const COOKIE_ACK: u16 = 1 << 3;
const SHUTDOWN: u16 = 1 << 4;
const SHUTDOWN_ACK: u16 = 1 << 5;
const ENDED: u16 = 1 << 6;
/// The tag in `end` is known.
const TAG_KNOWN: u16 = 1 << 7;
/// The first packet seen was not an INIT.
const MIDSTREAM: u16 = 1 << 8;

/// Whether a packet may start an association.
pub(super) fn admit(packet: &SctpFacts, tracking: &Tracking) -> Result<(), InvalidReason> {
    match packet.chunk_type {
        // RFC 9260, section 8.5.1 (A): a packet with INIT carries tag zero.
        CHUNK_INIT if packet.verification_tag != 0 => Err(InvalidReason::VerificationTag),
        CHUNK_INIT => Ok(()),
        CHUNK_ABORT | CHUNK_SHUTDOWN_COMPLETE => Err(InvalidReason::Midstream),
        _ if tracking.midstream_pickup => Ok(()),
        _ => Err(InvalidReason::Midstream),
    }
}

/// The association's state, from what both sides have sent.
pub(crate) fn state(forward: &Transport, reply: &Transport) -> ConnectionState {
    let either = forward.flags | reply.flags;
    if either & ENDED != 0 {
        ConnectionState::Closed
    } else if either & SHUTDOWN_ACK != 0 {
        ConnectionState::LastAck
    } else if either & SHUTDOWN != 0 {
        ConnectionState::FinWait
    } else if either & (COOKIE_ACK | MIDSTREAM) != 0 {
        ConnectionState::Established
    } else if either & (INIT_ACK | COOKIE_ECHO) != 0 {
        ConnectionState::SynReceived
    } else if either & INIT != 0 {
        ConnectionState::SynSent
    } else {
        ConnectionState::New
    }
}

/// Advances the association by one packet.
pub(super) fn advance(sides: Sides<'_>, packet: &SctpFacts, tracking: &Tracking) -> Tracked {
    let own = sides.own.transport();
    let other = sides.other.transport();
    let before = state(&own, &other); // The state does not depend on which side sent what.
    if packet.chunk_type == CHUNK_INIT {
        return initiate(sides, packet, before);
    }
    if before == ConnectionState::New && !tracking.midstream_pickup {
        return Tracked::Invalid(InvalidReason::Midstream);
    }
    if !tag_fits(&own, &other, packet) {
        return Tracked::Invalid(InvalidReason::VerificationTag);
    }
    let mut next = own;
    next.flags |= match packet.chunk_type {
        CHUNK_INIT_ACK => INIT_ACK,
        CHUNK_COOKIE_ECHO => COOKIE_ECHO,
        CHUNK_COOKIE_ACK => COOKIE_ACK,
        CHUNK_SHUTDOWN => SHUTDOWN,
        CHUNK_SHUTDOWN_ACK => SHUTDOWN_ACK,
        CHUNK_ABORT | CHUNK_SHUTDOWN_COMPLETE => ENDED,
        _ => 0,
    };
    if before == ConnectionState::New {
        next.flags |= MIDSTREAM;
    }
    if next.flags & TAG_KNOWN == 0 && !packet.tag_reflected {
        next.flags |= TAG_KNOWN;
        next.end = packet.verification_tag;
    }
    sides.own.set_transport(&next);
    if packet.chunk_type == CHUNK_INIT_ACK {
        sides.other.set_transport(&with_tag(&other, packet.initiate_tag));
    }
    let refreshes = before != ConnectionState::Closed;
    Tracked::Valid { verdict: verdict(sides), refreshes }
}

/// A packet with INIT: it starts an association, or starts one over.
fn initiate(sides: Sides<'_>, packet: &SctpFacts, before: ConnectionState) -> Tracked {
    if packet.verification_tag != 0 {
        return Tracked::Invalid(InvalidReason::VerificationTag);
    }
    let own = sides.own.transport();
    let other = sides.other.transport();
    match before {
        ConnectionState::Closed if sides.direction == Direction::Reply => Tracked::Superseded,
        ConnectionState::Closed => {
            sides.own.set_transport(&Transport { flags: INIT, ..Transport::default() });
            sides.other.set_transport(&with_tag(&Transport::default(), packet.initiate_tag));
            Tracked::Valid { verdict: Verdict::New, refreshes: true }
        }
        ConnectionState::New | ConnectionState::SynSent => {
            sides.own.set_transport(&Transport { flags: own.flags | INIT, ..own });
            sides.other.set_transport(&with_tag(&other, packet.initiate_tag));
            Tracked::Valid { verdict: verdict(sides), refreshes: true }
        }
        // A restart of the peer (RFC 9260, section 5.2.2): its tags change with the cookie, which
        // only the hosts can judge. The tags are forgotten, and the state stays.
        _ => {
            sides.own.set_transport(&Transport { flags: own.flags & !TAG_KNOWN, ..own });
            sides.other.set_transport(&Transport { flags: other.flags & !TAG_KNOWN, ..other });
            Tracked::Valid { verdict: verdict(sides), refreshes: false }
        }
    }
}

/// Whether a packet carries the tag of its direction, or may reflect the other one (RFC 9260,
/// section 8.5.1).
fn tag_fits(own: &Transport, other: &Transport, packet: &SctpFacts) -> bool {
    let side = if packet.tag_reflected { other } else { own };
    side.flags & TAG_KNOWN == 0 || side.end == packet.verification_tag
}

fn with_tag(side: &Transport, tag: u32) -> Transport {
    Transport { end: tag, flags: side.flags | TAG_KNOWN, ..*side }
}

fn verdict(sides: Sides<'_>) -> Verdict {
    if sides.direction == Direction::Reply || sides.other.has_packets() {
        Verdict::Established
    } else {
        Verdict::New
    }
}
