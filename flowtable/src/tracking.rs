//! Connection tracking: what a packet means for its connection.
//!
//! Each direction remembers what it has sent (its flags), and the connection's state is computed
//! from both. So a packet changes its own direction's state only, except where a connection starts
//! over.

pub(crate) mod sctp;
pub(crate) mod tcp;
mod timeouts;

pub use timeouts::Timeouts;

use crate::{
    connection::DirectionState,
    entry::Direction,
    facts::{PacketFacts, Ticks, TransportFacts},
    sync::AtomicU32,
};

/// IP protocol numbers that have rules of their own.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

/// How connections are tracked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tracking {
    /// How long each kind of connection may be idle.
    pub timeouts: Timeouts,
    /// Whether TCP and SCTP connections may be picked up in the middle, as after a restart or a
    /// failover. Their windows are then judged leniently, since their scale is unknown.
    pub midstream_pickup: bool,
}

impl Default for Tracking {
    fn default() -> Self {
        Self { timeouts: Timeouts::default(), midstream_pickup: true }
    }
}

/// The state of a connection. Datagram protocols have `New` (one way) and `Established` (answered)
/// only.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ConnectionState {
    /// Nothing was answered yet, and nothing is known of a handshake.
    New,
    /// A SYN, or an INIT, was seen.
    SynSent,
    /// It was answered, and the handshake is not complete.
    SynReceived,
    /// The handshake is complete, or the connection was picked up in the middle.
    Established,
    /// One side has sent FIN, or SHUTDOWN.
    FinWait,
    /// That FIN is acknowledged, and the other side may still send.
    CloseWait,
    /// Both sides have sent FIN, and neither is acknowledged.
    Closing,
    /// Both sides have sent FIN, and one is acknowledged.
    LastAck,
    /// Both are acknowledged; stray segments may still come.
    TimeWait,
    /// Reset, aborted, or shut down completely.
    Closed,
}

impl ConnectionState {
    /// The name, as operators see it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::CloseWait => "close_wait",
            Self::Closing => "closing",
            Self::LastAck => "last_ack",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
        }
    }

    /// Whether it is on its way out: evicted first.
    pub(crate) fn is_closing(self) -> bool {
        !matches!(self, Self::New | Self::SynSent | Self::SynReceived | Self::Established)
    }

    /// Whether its peer has not confirmed it: evicted second.
    pub(crate) fn is_half_open(self) -> bool {
        matches!(self, Self::New | Self::SynSent | Self::SynReceived)
    }
}

/// What a packet is to its connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Verdict {
    /// It starts the connection, or comes before the answer.
    New,
    /// It belongs to a connection that goes both ways.
    Established,
    /// It is an ICMP error about the connection.
    Related,
    /// It cannot belong to the connection as tracked; it was not counted and changed nothing.
    Invalid(InvalidReason),
}

/// Why a packet is invalid.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum InvalidReason {
    /// Flags, or a chunk, that make no sense together (SYN with FIN, none at all).
    Flags,
    /// A sequence number outside of the receiver's window.
    Sequence,
    /// An acknowledgement of what was never sent, or of what was acknowledged long ago.
    Acknowledgement,
    /// A reset whose sequence number is outside of the window (RFC 5961, section 3).
    Reset,
    /// A verification tag that is not the connection's (RFC 9260, section 8.5).
    VerificationTag,
    /// Keys of two address families in one connection.
    Family,
    /// The middle of a connection that is not known, and [`Tracking::midstream_pickup`] is off.
    Midstream,
}

impl InvalidReason {
    /// The name, as metrics show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Flags => "flags",
            Self::Sequence => "sequence",
            Self::Acknowledgement => "acknowledgement",
            Self::Reset => "reset",
            Self::VerificationTag => "verification_tag",
            Self::Family => "family",
            Self::Midstream => "midstream",
        }
    }
}

/// What a packet without states is to its connection, if the protocol has none; nothing but its own
/// direction's line is looked at.
#[inline]
pub(crate) fn datagram_commonly(
    own: &DirectionState,
    direction: Direction,
    protocol: u8,
) -> Option<Verdict> {
    if reads_both_sides(protocol) {
        return None;
    }
    let is_established = own.is_answered() || direction == Direction::Reply;
    Some(if is_established { Verdict::Established } else { Verdict::New })
}

/// Whether a packet of a protocol is judged by what the other side has sent.
#[inline]
pub(crate) fn reads_both_sides(protocol: u8) -> bool {
    matches!(protocol, TCP | SCTP)
}

/// Both directions of a connection, as seen by a packet of one of them.
#[derive(Clone, Copy)]
pub(crate) struct Sides<'a> {
    /// The packet's own direction.
    pub(crate) own: &'a DirectionState,
    /// The other one.
    pub(crate) other: &'a DirectionState,
    /// Which one it is.
    pub(crate) direction: Direction,
    /// The connection's IP protocol.
    pub(crate) protocol: u8,
}

impl Sides<'_> {
    /// Counts a packet that belongs to the connection.
    pub(crate) fn count(self, bytes: u32) {
        if self.own.count(bytes) {
            self.answer();
        }
    }

    /// After the first packet of a direction: notes in the other one's state that it has an answer.
    pub(crate) fn answer(self) {
        if !reads_both_sides(self.protocol) {
            self.other.answer();
        }
    }
}

/// What tracking makes of a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Tracked {
    /// It belongs to the connection; whether it keeps it from expiring.
    Valid { verdict: Verdict, refreshes: bool },
    /// It does not, and nothing was changed.
    Invalid(InvalidReason),
    /// It starts a connection in the other direction over one that is closed: this one must go
    /// first.
    Superseded,
}

/// Advances the connection by one packet. `late_syn` is the connection's
/// [`crate::connection::Connection::late_syn`].
pub(crate) fn advance(
    sides: Sides<'_>,
    facts: &PacketFacts,
    tracking: &Tracking,
    late_syn: &AtomicU32,
) -> Tracked {
    match &facts.transport {
        TransportFacts::Datagram => datagram(sides),
        TransportFacts::Tcp(segment) => tcp::advance(sides, segment, tracking, late_syn),
        TransportFacts::Sctp(packet) => sctp::advance(sides, packet, tracking),
        TransportFacts::IcmpError => Tracked::Valid { verdict: Verdict::Related, refreshes: false },
    }
}

/// Whether a packet may start a connection.
pub(crate) fn admit(facts: &PacketFacts, tracking: &Tracking) -> Result<(), InvalidReason> {
    match &facts.transport {
        TransportFacts::Datagram => Ok(()),
        TransportFacts::Tcp(segment) => tcp::admit(segment, tracking),
        TransportFacts::Sctp(packet) => sctp::admit(packet, tracking),
        // An ICMP error is about a connection; it never starts one.
        TransportFacts::IcmpError => Err(InvalidReason::Midstream),
    }
}

/// A connection's state, from what both directions have sent.
pub(crate) fn state(
    protocol: u8,
    forward: &DirectionState,
    reply: &DirectionState,
) -> ConnectionState {
    match protocol {
        TCP => tcp::state(&forward.transport(), &reply.transport()),
        SCTP => sctp::state(&forward.transport(), &reply.transport()),
        _ if reply.has_packets() && forward.has_packets() => ConnectionState::Established,
        _ => ConnectionState::New,
    }
}

/// How long a connection has been idle, and how long it may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Idle {
    pub(crate) state: ConnectionState,
    /// Whether both sides have sent.
    pub(crate) is_answered: bool,
    pub(crate) since: Ticks,
    pub(crate) limit: Ticks,
}

impl Idle {
    pub(crate) fn has_expired(self) -> bool {
        self.since >= self.limit
    }
}

/// Judges how idle a connection is. A last-seen time ahead of `now` (another worker's poll began
/// later) counts as now.
pub(crate) fn idle(
    protocol: u8,
    [forward, reply]: [&DirectionState; 2],
    timeouts: &Timeouts,
    now: Ticks,
) -> Idle {
    let state = state(protocol, forward, reply);
    let since = |side: &DirectionState| {
        let ticks = now.wrapping_sub(side.last_seen());
        if ticks > Ticks::MAX / 2 { 0 } else { ticks }
    };
    let answered = forward.has_packets() && reply.has_packets();
    let doubtful = protocol == TCP && tcp::is_doubtful(&forward.transport(), &reply.transport());
    Idle {
        state,
        is_answered: answered,
        since: since(forward).min(since(reply)),
        limit: timeouts.limit(protocol, state, answered && !doubtful),
    }
}

/// What a packet without states is to its connection. The other direction's line is left alone
/// unless the connection's protocol has states, and the packet is a fragment.
fn datagram(sides: Sides<'_>) -> Tracked {
    let is_established = sides.own.is_answered()
        || sides.direction == Direction::Reply
        || (reads_both_sides(sides.protocol) && sides.other.has_packets());
    let verdict = if is_established { Verdict::Established } else { Verdict::New };
    Tracked::Valid { verdict, refreshes: true }
}

#[cfg(all(test, not(loom)))]
mod tests;
