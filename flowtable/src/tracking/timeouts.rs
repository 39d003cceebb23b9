//! How long connections may be idle.

use super::{ConnectionState, ICMP, ICMPV6, SCTP, TCP, UDP};
use crate::facts::{TICKS_PER_SECOND, Ticks};

/// Idle timeouts, in [`Ticks`].
///
/// The defaults are what the RFCs ask of a NAT, since a connection's record is also its NAT
/// mapping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// TCP, established and answered: 2 hours 4 minutes (RFC 5382, REQ-5), so that a keep-alive
    /// every 2 hours holds it.
    pub tcp_established: Ticks,
    /// TCP, opening, closing, in doubt, or picked up and not yet answered: 4 minutes (RFC 5382,
    /// REQ-5). A flood of half-open connections is met by eviction, not by a shorter timeout.
    pub tcp_transitory: Ticks,
    /// TCP after a valid reset: 10 seconds, for what is still in flight.
    pub tcp_closed: Ticks,
    /// UDP that was never answered: 2 minutes, the least that RFC 4787, REQ-5 allows.
    pub udp_one_way: Ticks,
    /// UDP that goes both ways: 5 minutes, what RFC 4787, REQ-5 recommends.
    pub udp_answered: Ticks,
    /// ICMP queries: 60 seconds (RFC 5508, REQ-2).
    pub icmp: Ticks,
    /// SCTP, established: 2 hours 4 minutes, as TCP; heartbeats come every 30 seconds (RFC 9260,
    /// section 16).
    pub sctp_established: Ticks,
    /// SCTP, opening or closing: 4 minutes, as TCP.
    pub sctp_transitory: Ticks,
    /// SCTP after ABORT or SHUTDOWN COMPLETE: 10 seconds, for what is still in flight.
    pub sctp_closed: Ticks,
    /// Any other protocol: 10 minutes; nothing tells when such a connection ends.
    pub other: Ticks,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = |seconds: Ticks| seconds * TICKS_PER_SECOND;
        Self {
            tcp_established: seconds(7440),
            tcp_transitory: seconds(240),
            tcp_closed: seconds(10),
            udp_one_way: seconds(120),
            udp_answered: seconds(300),
            icmp: seconds(60),
            sctp_established: seconds(7440),
            sctp_transitory: seconds(240),
            sctp_closed: seconds(10),
            other: seconds(600),
        }
    }
}

impl Timeouts {
    /// The idle limit of a connection; `confirmed` if both sides have sent and nothing casts doubt
    /// on it.
    pub(crate) fn limit(&self, protocol: u8, state: ConnectionState, confirmed: bool) -> Ticks {
        let established = state == ConnectionState::Established && confirmed;
        let closed = state == ConnectionState::Closed;
        match protocol {
            TCP if established => self.tcp_established,
            TCP if closed => self.tcp_closed,
            TCP => self.tcp_transitory,
            SCTP if established => self.sctp_established,
            SCTP if closed => self.sctp_closed,
            SCTP => self.sctp_transitory,
            UDP if established => self.udp_answered,
            UDP => self.udp_one_way,
            ICMP | ICMPV6 => self.icmp,
            _ => self.other,
        }
    }
}
