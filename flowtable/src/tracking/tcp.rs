//! TCP: states from what each side has sent, and the windows that segments must fall into.
//!
//! The window rules are those of a firewall between the hosts, which sees what either sends but not
//! what arrives: a segment's end may not lie beyond what the receiver offered, nor its start too
//! far behind what was sent before; an acknowledgement may not be of what was never sent. Resets
//! follow RFC 5961, section 3: one with exactly the expected sequence number closes the connection,
//! one elsewhere in the window passes and only makes the connection doubtful (it then expires
//! early, unless it goes on), and one outside is invalid.

use super::{ConnectionState, InvalidReason, Sides, Tracked, Tracking, Verdict};
use crate::{
    connection::{DirectionState, Transport},
    entry::Direction,
    facts::{TcpFacts, TcpFlags},
    sync::{AtomicU32, Relaxed},
};

/// A SYN was sent.
const SYN: u16 = 1 << 0;
/// The other side's SYN was acknowledged.
const SYN_ACKNOWLEDGED: u16 = 1 << 1;
/// A FIN was sent.
const FIN: u16 = 1 << 2;
/// The other side's FIN was acknowledged.
const FIN_ACKNOWLEDGED: u16 = 1 << 3;
/// A valid reset was sent.
const RESET: u16 = 1 << 4;
/// The first segment seen was no SYN: the window scale is unknown.
const MIDSTREAM: u16 = 1 << 5;
/// Sequence numbers of this side are known.
const TRACKED: u16 = 1 << 6;
/// An acknowledgement by this side is known.
const ACKNOWLEDGING: u16 = 1 << 7;
/// The SYN carried a window scale.
const SCALE_OFFERED: u16 = 1 << 8;
/// A reset was sent that was in the window but not where it was expected.
const DOUBTFUL: u16 = 1 << 9;
/// The window is still that of a SYN, which is not scaled (RFC 7323, section 2.2).
const WINDOW_OF_SYN: u16 = 1 << 10;

/// The largest window scale (RFC 7323, section 2.3); also what is assumed of a side whose scale is
/// unknown.
const SCALE_MAX: u8 = 14;

/// The window field that is assumed at least of a side that was picked up in the middle: with the
/// largest scale, 1 MiB. It may just have closed its window, and what was on the way before is not
/// known.
const PICKED_UP_WINDOW_MIN: u16 = 64;

/// How far behind the newest data an acknowledgement may lie at least: an unscaled window, which is
/// what a side that lost its acknowledgements for a while may be behind.
const OLD_ACKNOWLEDGEMENT_BYTES: u32 = 65_535;

/// Whether a segment may start a connection.
pub(super) fn admit(segment: &TcpFacts, tracking: &Tracking) -> Result<(), InvalidReason> {
    if !flags_make_sense(segment.flags) {
        return Err(InvalidReason::Flags);
    }
    let (syn, ack) = (segment.flags.has(TcpFlags::SYN), segment.flags.has(TcpFlags::ACK));
    // A reset of a connection that nobody knows starts nothing. Nor does the answer to a SYN: it is
    // always a reply, and the SYN is sent again.
    let continues = !syn && !segment.flags.has(TcpFlags::RST);
    if (syn && !ack) || (tracking.midstream_pickup && continues) {
        Ok(())
    } else {
        Err(InvalidReason::Midstream)
    }
}

/// The connection's state, from what both sides have sent.
pub(crate) fn state(forward: &Transport, reply: &Transport) -> ConnectionState {
    let (f, r) = (forward.flags, reply.flags);
    let both = f & r;
    let either = f | r;
    if either & RESET != 0 {
        ConnectionState::Closed
    } else if both & FIN != 0 {
        if both & FIN_ACKNOWLEDGED != 0 {
            ConnectionState::TimeWait
        } else if either & FIN_ACKNOWLEDGED != 0 {
            ConnectionState::LastAck
        } else {
            ConnectionState::Closing
        }
    } else if either & FIN != 0 {
        let finishing_is_acknowledged = either & FIN_ACKNOWLEDGED != 0;
        if finishing_is_acknowledged {
            ConnectionState::CloseWait
        } else {
            ConnectionState::FinWait
        }
    } else if either & MIDSTREAM != 0 || both & SYN_ACKNOWLEDGED != 0 {
        ConnectionState::Established
    } else if both & SYN != 0 {
        ConnectionState::SynReceived
    } else if either & SYN != 0 {
        ConnectionState::SynSent
    } else {
        ConnectionState::New
    }
}

/// Whether a reset was seen that may or may not have closed the connection.
pub(super) fn is_doubtful(forward: &Transport, reply: &Transport) -> bool {
    (forward.flags | reply.flags) & DOUBTFUL != 0
}

/// What is known of both sides in the middle of a connection.
const KNOWN: u16 = TRACKED | ACKNOWLEDGING;

/// What neither side has, there.
const UNSTEADY: u16 = FIN | FIN_ACKNOWLEDGED | RESET | DOUBTFUL | WINDOW_OF_SYN;

/// Advances an established connection by a segment that neither opens nor closes it, as nearly all
/// are; `None` leaves it to [`advance`], which would come to the same.
#[inline(never)]
pub(crate) fn advance_steadily(sides: Sides<'_>, segment: &TcpFacts) -> Option<Verdict> {
    const SYN_FIN_RST: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;
    let mut own = sides.own.transport();
    let other = sides.other.transport();
    let (both, either) = (own.flags & other.flags, own.flags | other.flags);
    let is_steady = segment.flags.0 & (SYN_FIN_RST | TcpFlags::ACK.0) == TcpFlags::ACK.0
        && both & KNOWN == KNOWN
        && either & UNSTEADY == 0
        && (both & SYN_ACKNOWLEDGED) | (either & MIDSTREAM) != 0;
    if !is_steady {
        return None;
    }
    // The rules of `check_window`, with all that they may lack known.
    let (end, acknowledgement) = (segment_end(segment), segment.acknowledgement);
    let window = scaled_window_bytes(&other);
    let offered = other.acknowledged.wrapping_add(window).wrapping_add(1);
    let oldest = own.end.wrapping_sub(window);
    let oldest_acknowledgement =
        other.end.wrapping_sub(scaled_window_bytes(&own).max(OLD_ACKNOWLEDGEMENT_BYTES));
    let is_outside = is_after(end, offered) | is_after(oldest, end);
    let misacknowledges =
        is_after(acknowledgement, other.end) | is_after(oldest_acknowledgement, acknowledgement);
    if is_outside | misacknowledges {
        return None;
    }
    own.end = if is_after(end, own.end) { end } else { own.end };
    if is_after(acknowledgement, own.acknowledged) {
        own.acknowledged = acknowledgement;
    }
    own.window = own.window.max(segment.window);
    // A SYN's bit moves to where its acknowledgement is noted.
    own.flags |= (other.flags & SYN) << (SYN_ACKNOWLEDGED.trailing_zeros() - SYN.trailing_zeros());
    sides.own.set_transport(&own);
    Some(verdict(sides))
}

/// Advances the connection by one segment.
#[inline(never)]
pub(super) fn advance(
    sides: Sides<'_>,
    segment: &TcpFacts,
    tracking: &Tracking,
    late_syn: &AtomicU32,
) -> Tracked {
    if !flags_make_sense(segment.flags) {
        return Tracked::Invalid(InvalidReason::Flags);
    }
    let mut own = sides.own.transport();
    let other = sides.other.transport();
    let before = match sides.direction {
        Direction::Forward => state(&own, &other),
        Direction::Reply => state(&other, &own),
    };
    if segment.flags.has(TcpFlags::SYN) {
        return synchronise(sides, segment, before, late_syn);
    }
    if before == ConnectionState::New && !tracking.midstream_pickup {
        return Tracked::Invalid(InvalidReason::Midstream);
    }
    if before == ConnectionState::SynSent && !segment.flags.has(TcpFlags::RST) {
        return before_answer(sides, &own);
    }
    if let Err(reason) = check_window(&own, &other, segment) {
        return Tracked::Invalid(reason);
    }
    if segment.flags.has(TcpFlags::RST) {
        return reset(sides, own, &other, segment, before);
    }
    if before == ConnectionState::Closed {
        // What was in flight when the reset went by. It passes, and the connection still ends soon.
        return Tracked::Valid { verdict: Verdict::Established, refreshes: false };
    }
    note_sent(&mut own, segment);
    note_acknowledged(&mut own, &other, segment);
    own.flags &= !DOUBTFUL;
    sides.own.set_transport(&own);
    correct(sides.other, other, segment);
    Tracked::Valid { verdict: verdict(sides), refreshes: true }
}

/// A segment that is neither SYN nor reset, while a SYN waits for its answer.
fn before_answer(sides: Sides<'_>, own: &Transport) -> Tracked {
    if own.flags & SYN != 0 {
        // There is nothing yet that the opener could acknowledge.
        return Tracked::Invalid(InvalidReason::Acknowledgement);
    }
    // The other side still holds an older connection and says so (RFC 5961, section 4); the opener
    // will reset it.
    Tracked::Valid { verdict: verdict(sides), refreshes: false }
}

/// A segment with SYN.
fn synchronise(
    sides: Sides<'_>,
    segment: &TcpFacts,
    before: ConnectionState,
    late_syn: &AtomicU32,
) -> Tracked {
    let own = sides.own.transport();
    let other = sides.other.transport();
    let answers = segment.flags.has(TcpFlags::ACK);
    match before {
        ConnectionState::New | ConnectionState::SynSent | ConnectionState::SynReceived => {
            if answers {
                return answer(sides, own, &other, segment);
            }
            // The first SYN, one sent again, one of a client that gave up and tries anew, or a
            // simultaneous open. While both sides have sent theirs, only the same SYN again is
            // taken for one.
            let known = own.flags & SYN != 0 && other.flags & SYN != 0;
            if known && end_of_syn(segment) != own.end {
                return Tracked::Valid { verdict: verdict(sides), refreshes: false };
            }
            sides.own.set_transport(&started(&own, segment));
            Tracked::Valid { verdict: verdict(sides), refreshes: true }
        }
        ConnectionState::TimeWait | ConnectionState::Closed if !answers => {
            // Whatever its number: a host may also tell by time stamps that it is no old one (RFC
            // 9293, section 3.6.1; RFC 6191). If it does not take it, nothing is lost.
            if sides.direction == Direction::Reply {
                return Tracked::Superseded;
            }
            sides.other.set_transport(&Transport::default());
            sides.own.set_transport(&started(&Transport::default(), segment));
            Tracked::Valid { verdict: Verdict::New, refreshes: true }
        }
        _ if answers => answer_late_syn(sides, segment, late_syn),
        // RFC 5961, section 4: the receiver challenges it, and what follows tells. Here it changes
        // nothing yet.
        _ => {
            if sides.direction == Direction::Forward {
                late_syn.store(end_of_syn(segment), Relaxed);
            }
            Tracked::Valid { verdict: Verdict::Established, refreshes: false }
        }
    }
}

/// A SYN that acknowledges, in the middle of a connection. If it answers a SYN that came before,
/// both hosts have forgotten the connection, and open another one between the same ports.
fn answer_late_syn(sides: Sides<'_>, segment: &TcpFacts, late_syn: &AtomicU32) -> Tracked {
    let syn = late_syn.load(Relaxed);
    let answers = sides.direction == Direction::Reply && syn == segment.acknowledgement;
    if syn == 0 || !answers {
        return Tracked::Valid { verdict: Verdict::Established, refreshes: false };
    }
    late_syn.store(0, Relaxed);
    let next = answered(&Transport::default(), segment);
    // How the SYN was scaled is not known any more: only that it was, if its answer is.
    let scale = if next.flags & SCALE_OFFERED == 0 { 0 } else { SCALE_MAX };
    let flags = SYN | TRACKED | (next.flags & SCALE_OFFERED);
    let opener = Transport { end: syn, window: u16::MAX, scale, flags, ..Transport::default() };
    sides.other.set_transport(&opener);
    sides.own.set_transport(&next);
    Tracked::Valid { verdict: Verdict::Established, refreshes: true }
}

/// A SYN that acknowledges: the second step of a handshake, or of a simultaneous open.
fn answer(sides: Sides<'_>, own: Transport, other: &Transport, segment: &TcpFacts) -> Tracked {
    if other.flags & SYN == 0 || segment.acknowledgement != other.end {
        return Tracked::Invalid(InvalidReason::Acknowledgement);
    }
    if own.flags & SYN != 0 && end_of_syn(segment) != own.end {
        // Not the SYN that this side sent before: its receiver challenges it.
        return Tracked::Valid { verdict: verdict(sides), refreshes: false };
    }
    let next = answered(&own, segment);
    sides.own.set_transport(&next);
    // Scaling is in force only if both SYNs offered it (RFC 7323, section 2.2).
    if other.flags & SCALE_OFFERED != 0 && next.flags & SCALE_OFFERED == 0 {
        sides.other.set_transport(&Transport { scale: 0, ..*other });
    } else if other.flags & SCALE_OFFERED == 0 {
        sides.own.set_transport(&Transport { scale: 0, ..next });
    }
    Tracked::Valid { verdict: verdict(sides), refreshes: true }
}

/// A side that just sent a SYN that acknowledges.
fn answered(own: &Transport, segment: &TcpFacts) -> Transport {
    let mut next = started(own, segment);
    next.flags |= SYN_ACKNOWLEDGED | ACKNOWLEDGING;
    next.acknowledged = segment.acknowledgement;
    next
}

/// A side that just sent a SYN.
fn started(own: &Transport, segment: &TcpFacts) -> Transport {
    let scale = segment.window_scale.unwrap_or(0).min(SCALE_MAX);
    let offered = if segment.window_scale.is_some() { SCALE_OFFERED } else { 0 };
    Transport {
        end: end_of_syn(segment),
        window: segment.window,
        scale,
        flags: (own.flags & (SYN_ACKNOWLEDGED | ACKNOWLEDGING))
            | (SYN | TRACKED | WINDOW_OF_SYN | offered),
        ..*own
    }
}

/// A reset inside the window.
fn reset(
    sides: Sides<'_>,
    mut own: Transport,
    other: &Transport,
    segment: &TcpFacts,
    before: ConnectionState,
) -> Tracked {
    let acknowledges = segment.flags.has(TcpFlags::ACK);
    let exact = if own.flags & TRACKED == 0 {
        // The answer to a SYN: it must acknowledge it (RFC 9293, section 3.10.7.3).
        acknowledges && segment.acknowledgement == other.end
    } else {
        let expected = other.flags & ACKNOWLEDGING != 0 && segment.sequence == other.acknowledged;
        segment.sequence == own.end || expected
    };
    if before == ConnectionState::SynSent && own.flags & TRACKED == 0 && !exact {
        return Tracked::Invalid(InvalidReason::Reset);
    }
    own.flags |= if exact { RESET } else { DOUBTFUL };
    sides.own.set_transport(&own);
    Tracked::Valid {
        verdict: verdict(sides),
        refreshes: exact && before != ConnectionState::Closed,
    }
}

/// Notes what a valid segment says about its sender's data and window.
fn note_sent(own: &mut Transport, segment: &TcpFacts) {
    let finishes = segment.flags.has(TcpFlags::FIN);
    let end = segment_end(segment);
    if own.flags & TRACKED == 0 {
        own.flags |= TRACKED | MIDSTREAM;
        own.scale = SCALE_MAX;
        own.end = end;
        own.window = PICKED_UP_WINDOW_MIN;
    } else if is_after(end, own.end) {
        own.end = end;
    }
    if finishes {
        own.flags |= FIN;
    }
    if own.flags & WINDOW_OF_SYN != 0 {
        own.flags &= !WINDOW_OF_SYN;
        own.window = own.window.div_ceil(1 << own.scale.min(SCALE_MAX));
    }
    own.window = own.window.max(segment.window);
}

/// Notes what a valid segment acknowledges.
fn note_acknowledged(own: &mut Transport, other: &Transport, segment: &TcpFacts) {
    if !segment.flags.has(TcpFlags::ACK) {
        return;
    }
    let acknowledgement = segment.acknowledgement;
    if own.flags & ACKNOWLEDGING == 0 || is_after(acknowledgement, own.acknowledged) {
        own.acknowledged = acknowledgement;
        own.flags |= ACKNOWLEDGING;
    }
    if other.flags & SYN != 0 {
        own.flags |= SYN_ACKNOWLEDGED;
    }
    if other.flags & FIN != 0 && acknowledgement == other.end {
        own.flags |= FIN_ACKNOWLEDGED;
    }
}

/// Corrects what is known of the other side by what its receiver says.
fn correct(side: &DirectionState, known: Transport, segment: &TcpFacts) {
    let mut next = known;
    if segment.payload_bytes != 0 {
        // The receiver of a doubtful reset sends data: it did not accept it.
        next.flags &= !DOUBTFUL;
    }
    let acknowledges = segment.flags.has(TcpFlags::ACK) && known.flags & TRACKED != 0;
    if acknowledges && is_after(segment.acknowledgement, known.end) {
        // It was picked up in the middle, and had sent more than was seen.
        next.end = segment.acknowledgement;
    }
    if next != known {
        side.set_transport(&next);
    }
}

/// Whether a segment without SYN falls into the windows.
#[inline]
fn check_window(
    own: &Transport,
    other: &Transport,
    segment: &TcpFacts,
) -> Result<(), InvalidReason> {
    let is_reset = segment.flags.has(TcpFlags::RST);
    let outside = if is_reset { InvalidReason::Reset } else { InvalidReason::Sequence };
    let end = segment_end(segment);
    let is_acknowledged = other.flags & ACKNOWLEDGING != 0;
    if is_reset && is_acknowledged && is_after(other.acknowledged, segment.sequence) {
        return Err(outside); // Its receiver expects more than that.
    }
    if own.flags & other.flags & TRACKED != 0 {
        // Before a handshake is complete, nothing may be acknowledged yet.
        let from = if is_acknowledged { other.acknowledged } else { own.end };
        // One more than the window: a probe of a window that is closed (RFC 9293, section 3.8.6.1).
        let probe = u32::from(!is_reset);
        let offered = from.wrapping_add(window_bytes(other)).wrapping_add(probe);
        if is_after(end, offered) {
            return Err(outside);
        }
        // At least one: a keep-alive repeats the last byte (RFC 9293, section 3.8.4).
        let oldest = own.end.wrapping_sub(window_bytes(other).max(1));
        if is_after(oldest, end) {
            return Err(outside);
        }
    }
    if !segment.flags.has(TcpFlags::ACK) || other.flags & TRACKED == 0 {
        return Ok(());
    }
    let slack = picked_up_bytes(own, other, segment);
    let behind = window_bytes(own).max(OLD_ACKNOWLEDGEMENT_BYTES).max(slack);
    let oldest = other.end.wrapping_sub(behind);
    let newest = other.end.wrapping_add(slack);
    // A reset's acknowledgement may be anything old, and often is zero.
    if is_after(segment.acknowledgement, newest) && !(is_reset && own.flags & TRACKED != 0) {
        return Err(if is_reset { InvalidReason::Reset } else { InvalidReason::Acknowledgement });
    }
    if !is_reset && is_after(oldest, segment.acknowledgement) {
        return Err(InvalidReason::Acknowledgement);
    }
    Ok(())
}

/// How far an acknowledgement may lie from the newest data that was seen, where that need not be
/// the newest that was sent: a side that was picked up in the middle may have sent a whole window
/// more, and what was seen of it may have been sent again.
fn picked_up_bytes(own: &Transport, other: &Transport, segment: &TcpFacts) -> u32 {
    if (own.flags | other.flags) & MIDSTREAM == 0 {
        return 0;
    }
    u32::from(own.window.max(segment.window).max(PICKED_UP_WINDOW_MIN)) << SCALE_MAX
}

/// The largest window a side has offered, in bytes.
fn window_bytes(side: &Transport) -> u32 {
    if side.flags & WINDOW_OF_SYN == 0 { scaled_window_bytes(side) } else { side.window.into() }
}

/// The same of a side that has sent more than its SYN.
fn scaled_window_bytes(side: &Transport) -> u32 {
    u32::from(side.window) << side.scale.min(SCALE_MAX)
}

/// One past a segment's last sequence number.
fn segment_end(segment: &TcpFacts) -> u32 {
    let fin = u32::from(segment.flags.has(TcpFlags::FIN));
    segment.sequence.wrapping_add(segment.payload_bytes).wrapping_add(fin)
}

/// The same of a SYN, which counts as one, and may carry data (RFC 7413).
fn end_of_syn(segment: &TcpFacts) -> u32 {
    segment_end(segment).wrapping_add(1)
}

/// Whether sequence number `a` lies after `b` (RFC 9293, section 3.4).
fn is_after(a: u32, b: u32) -> bool {
    crate::scopes::is_newer(a, b)
}

/// Whether a combination of flags occurs in TCP: PSH, URG and the ECN bits are free.
fn flags_make_sense(flags: TcpFlags) -> bool {
    let syn = flags.has(TcpFlags::SYN);
    let fin = flags.has(TcpFlags::FIN);
    let rst = flags.has(TcpFlags::RST);
    let ack = flags.has(TcpFlags::ACK);
    match (syn, fin, rst) {
        (true, false, false) | (false, false, true) => true,
        (false, _, false) => ack,
        _ => false,
    }
}

/// What a valid segment is to its connection: new until the other side was seen.
fn verdict(sides: Sides<'_>) -> Verdict {
    if sides.other.has_packets() || sides.direction == Direction::Reply {
        Verdict::Established
    } else {
        Verdict::New
    }
}
