//! Connections of each protocol, packet by packet.

use proptest::prelude::*;

use super::{
    ConnectionState::{self, *},
    *,
};
use crate::connection::Transport;
use crate::facts::{SctpFacts, TcpFacts, TcpFlags};
use crate::sync::AtomicU32;

const FIN: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);
const SYN: TcpFlags = TcpFlags::SYN;
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;

/// Sequence numbers near the wrap, so that every comparison crosses it.
const CLIENT: u32 = u32::MAX - 100;
const SERVER: u32 = u32::MAX - 50;

/// Both sides of a connection, tracked as the table does.
#[derive(Default)]
struct Pair {
    sides: [DirectionState; 2],
    late_syn: AtomicU32,
    tracking: Tracking,
}

impl Pair {
    fn sides(&self, direction: Direction, protocol: u8) -> Sides<'_> {
        let [forward, reply] = &self.sides;
        let (own, other) = match direction {
            Direction::Forward => (forward, reply),
            Direction::Reply => (reply, forward),
        };
        Sides { own, other, direction, protocol }
    }

    fn track(&self, direction: Direction, transport: TransportFacts) -> Tracked {
        let protocol = match transport {
            TransportFacts::Tcp(_) => TCP,
            TransportFacts::Sctp(_) => SCTP,
            TransportFacts::Datagram | TransportFacts::IcmpError => UDP,
        };
        let sides = self.sides(direction, protocol);
        let facts = PacketFacts { bytes: 60, transport };
        let tracked = advance(sides, &facts, &self.tracking, &self.late_syn);
        if matches!(tracked, Tracked::Valid { .. }) {
            sides.count(60);
        }
        tracked
    }

    fn tcp(&self, direction: Direction, segment: TcpFacts) -> Tracked {
        self.track(direction, TransportFacts::Tcp(segment))
    }

    fn client(&self, flags: TcpFlags, sequence: u32, acknowledgement: u32) -> Tracked {
        self.tcp(Direction::Forward, segment(flags, sequence, acknowledgement, 0))
    }

    fn server(&self, flags: TcpFlags, sequence: u32, acknowledgement: u32) -> Tracked {
        self.tcp(Direction::Reply, segment(flags, sequence, acknowledgement, 0))
    }

    fn state(&self) -> ConnectionState {
        let [forward, reply] = &self.sides;
        state(TCP, forward, reply)
    }

    fn limit(&self) -> Ticks {
        idle(TCP, [&self.sides[0], &self.sides[1]], &self.tracking.timeouts, 0).limit
    }

    /// A connection whose handshake is complete; the next byte of each side is one past its initial
    /// number.
    fn established() -> Self {
        let pair = Self::default();
        assert_valid(pair.client(SYN, CLIENT, 0));
        assert_valid(pair.server(SYN_ACK, SERVER, CLIENT.wrapping_add(1)));
        assert_valid(pair.client(ACK, CLIENT.wrapping_add(1), SERVER.wrapping_add(1)));
        assert_eq!(pair.state(), Established);
        pair
    }
}

fn segment(flags: TcpFlags, sequence: u32, acknowledgement: u32, payload_bytes: u32) -> TcpFacts {
    let window_scale = flags.has(TcpFlags::SYN).then_some(7);
    TcpFacts { flags, sequence, acknowledgement, window: 512, payload_bytes, window_scale }
}

fn assert_valid(tracked: Tracked) {
    assert!(matches!(tracked, Tracked::Valid { .. }), "{tracked:?}");
}

#[test]
fn a_handshake_passes_through_its_states() {
    let pair = Pair::default();
    assert_eq!(
        pair.client(SYN, CLIENT, 0),
        Tracked::Valid { verdict: Verdict::New, refreshes: true }
    );
    assert_eq!((pair.state(), pair.limit()), (SynSent, 24_000));
    assert_valid(pair.server(SYN_ACK, SERVER, CLIENT.wrapping_add(1)));
    assert_eq!(pair.state(), SynReceived);
    assert_valid(pair.client(ACK, CLIENT.wrapping_add(1), SERVER.wrapping_add(1)));
    assert_eq!((pair.state(), pair.limit()), (Established, 744_000));
}

#[test]
fn a_connection_closes_side_by_side() {
    let pair = Pair::established();
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    assert_valid(pair.client(FIN, c, s));
    assert_eq!((pair.state(), pair.limit()), (FinWait, 24_000));
    assert_valid(pair.server(ACK, s, c.wrapping_add(1)));
    assert_eq!(pair.state(), CloseWait);
    assert_valid(pair.tcp(Direction::Reply, segment(ACK, s, c.wrapping_add(1), 100)));
    assert_eq!(pair.state(), CloseWait);
    let s = s.wrapping_add(100);
    assert_valid(pair.server(FIN, s, c.wrapping_add(1)));
    assert_eq!(pair.state(), LastAck);
    assert_valid(pair.client(ACK, c.wrapping_add(1), s.wrapping_add(1)));
    assert_eq!(pair.state(), TimeWait);
}

#[test]
fn a_simultaneous_close_passes_through_closing() {
    let pair = Pair::established();
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    assert_valid(pair.client(FIN, c, s));
    assert_valid(pair.server(FIN, s, c));
    assert_eq!(pair.state(), Closing);
    assert_valid(pair.client(ACK, c.wrapping_add(1), s.wrapping_add(1)));
    assert_eq!(pair.state(), LastAck);
    assert_valid(pair.server(ACK, s.wrapping_add(1), c.wrapping_add(1)));
    assert_eq!(pair.state(), TimeWait);
}

#[test]
fn a_simultaneous_open_ends_established() {
    let pair = Pair::default();
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    assert_valid(pair.client(SYN, CLIENT, 0));
    assert_valid(pair.server(SYN, SERVER, 0));
    assert_eq!(pair.state(), SynReceived);
    assert_valid(pair.client(SYN_ACK, CLIENT, s));
    assert_valid(pair.server(SYN_ACK, SERVER, c));
    assert_eq!(pair.state(), Established);
    assert_valid(pair.tcp(Direction::Forward, segment(ACK, c, s, 400)));
    assert_valid(pair.server(ACK, s, c.wrapping_add(400)));
    assert_eq!(pair.state(), Established);
}

#[test]
fn a_reset_closes_only_where_it_is_expected() {
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    let pair = Pair::established();
    // Outside of the 64 KiB window: invalid, and nothing changes (RFC 5961, section 3.2).
    for sequence in [s.wrapping_add(1 << 17), s.wrapping_sub(1 << 17)] {
        assert_eq!(pair.server(RST, sequence, 0), Tracked::Invalid(InvalidReason::Reset));
    }
    assert_eq!((pair.state(), pair.limit()), (Established, 744_000));
    // Inside, but not where it is expected: it passes, and the connection is in doubt.
    assert_valid(pair.server(RST, s.wrapping_add(10), 0));
    assert_eq!((pair.state(), pair.limit()), (Established, 24_000));
    // The receiver goes on sending data: it did not take it.
    assert_valid(pair.tcp(Direction::Forward, segment(ACK, c, s, 10)));
    assert_eq!((pair.state(), pair.limit()), (Established, 744_000));
    // Exactly where it is expected.
    assert_valid(pair.server(RST, s, 0));
    assert_eq!((pair.state(), pair.limit()), (Closed, 1_000));
    assert_eq!(
        pair.client(ACK, c.wrapping_add(10), s),
        Tracked::Valid { verdict: Verdict::Established, refreshes: false }
    );
    assert_eq!(pair.state(), Closed);
}

#[test]
fn a_reset_at_the_acknowledged_byte_closes_when_data_was_lost_on_the_way() {
    let pair = Pair::established();
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    assert_valid(pair.tcp(Direction::Reply, segment(ACK, s, c, 1000)));
    assert_valid(pair.server(RST, s, 0));
    assert_eq!(pair.state(), Closed);
}

#[test]
fn a_refusal_must_acknowledge_the_syn() {
    let pair = Pair::default();
    assert_valid(pair.client(SYN, CLIENT, 0));
    let reset = RST.with(ACK);
    assert_eq!(pair.server(reset, 0, CLIENT), Tracked::Invalid(InvalidReason::Reset));
    assert_eq!(pair.server(RST, 0, 0), Tracked::Invalid(InvalidReason::Reset));
    assert_eq!(pair.state(), SynSent);
    assert_valid(pair.server(reset, 0, CLIENT.wrapping_add(1)));
    assert_eq!(pair.state(), Closed);
}

#[test]
fn a_segment_outside_of_the_window_is_invalid_and_one_at_its_edge_is_not() {
    let pair = Pair::established();
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    let window = 512 << 7; // Of a segment after the handshake, scaled.
    assert_valid(pair.server(ACK, s, c));
    let data = |sequence| pair.tcp(Direction::Forward, segment(ACK, sequence, s, 100));
    let beyond = c.wrapping_add(window).wrapping_sub(98);
    assert_eq!(data(beyond), Tracked::Invalid(InvalidReason::Sequence));
    assert_valid(data(beyond.wrapping_sub(1)));
    let end = c.wrapping_add(window).wrapping_add(1);
    let old = end.wrapping_sub(window).wrapping_sub(100);
    assert_valid(data(old));
    assert_eq!(data(old.wrapping_sub(1)), Tracked::Invalid(InvalidReason::Sequence));
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_invalid() {
    let pair = Pair::established();
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    assert_eq!(
        pair.client(ACK, c, s.wrapping_add(1)),
        Tracked::Invalid(InvalidReason::Acknowledgement)
    );
    assert_eq!(
        pair.client(ACK, c, s.wrapping_sub(1 << 18)),
        Tracked::Invalid(InvalidReason::Acknowledgement)
    );
    assert_valid(pair.client(ACK, c, s));
}

#[test]
fn a_window_probe_and_a_keep_alive_are_valid() {
    let pair = Pair::established();
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    assert_valid(pair.tcp(Direction::Forward, segment(ACK, c.wrapping_sub(1), s, 0)));
    let closed = TcpFacts { window: 0, ..segment(ACK, s, c, 0) };
    assert_valid(pair.tcp(Direction::Reply, closed));
    assert_valid(pair.tcp(Direction::Forward, segment(ACK, c, s, 1)));
}

#[test]
fn scaling_holds_only_if_both_sides_offer_it() {
    let pair = Pair::default();
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    assert_valid(pair.client(SYN, CLIENT, 0));
    let plain = TcpFacts { window_scale: None, ..segment(SYN_ACK, SERVER, c, 0) };
    assert_valid(pair.tcp(Direction::Reply, plain));
    assert_valid(pair.client(ACK, c, s));
    // The client's 512 is bytes now, not 512 << 7.
    let data = |sequence| pair.tcp(Direction::Reply, segment(ACK, sequence, c, 100));
    assert_eq!(data(s.wrapping_add(600)), Tracked::Invalid(InvalidReason::Sequence));
    assert_valid(data(s.wrapping_add(412)));
}

#[test]
fn a_syn_reopens_what_is_closed_and_what_is_in_time_wait() {
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    let pair = Pair::established();
    assert_valid(pair.server(RST, s, 0));
    assert_eq!(pair.client(SYN, 5, 0), Tracked::Valid { verdict: Verdict::New, refreshes: true });
    assert_eq!(pair.state(), SynSent);

    let pair = Pair::established();
    assert_valid(pair.client(FIN, c, s));
    assert_valid(pair.server(FIN, s, c.wrapping_add(1)));
    assert_valid(pair.client(ACK, c.wrapping_add(1), s.wrapping_add(1)));
    assert_eq!(pair.state(), TimeWait);
    assert_valid(pair.client(SYN, c.wrapping_sub(9), 0));
    assert_eq!(pair.state(), SynSent);
}

#[test]
fn a_syn_from_the_other_side_of_a_closed_connection_supersedes_it() {
    let pair = Pair::established();
    assert_valid(pair.server(RST, SERVER.wrapping_add(1), 0));
    assert_eq!(pair.server(SYN, 5, 0), Tracked::Superseded);
}

#[test]
fn a_syn_changes_nothing_in_an_established_connection() {
    let pair = Pair::established();
    assert_eq!(
        pair.client(SYN, 5, 0),
        Tracked::Valid { verdict: Verdict::Established, refreshes: false }
    );
    assert_eq!(pair.state(), Established);
    // The server challenges it (RFC 5961, section 4), and the rebooted client's reset then closes
    // the connection.
    assert_valid(pair.server(ACK, SERVER.wrapping_add(1), CLIENT.wrapping_add(1)));
    assert_valid(pair.client(RST, CLIENT.wrapping_add(1), 0));
    assert_eq!(pair.state(), Closed);
}

#[test]
fn a_connection_that_both_hosts_forgot_gives_way_to_another_between_the_same_ports() {
    for scale in [Some(7), None] {
        let pair = Pair::established();
        let answer = |acknowledgement| TcpFacts {
            window_scale: scale,
            ..segment(SYN_ACK, 5_000_000, acknowledgement, 0)
        };
        // An answer to no SYN changes nothing, nor does one to another SYN.
        assert_valid(pair.tcp(Direction::Reply, answer(0)));
        assert_valid(pair.client(SYN, 9_000_000, 0));
        assert_valid(pair.tcp(Direction::Reply, answer(9_000_000)));
        assert_eq!(pair.state(), Established);
        assert_valid(pair.tcp(Direction::Reply, answer(9_000_001)));
        assert_eq!(pair.state(), SynReceived);
        assert_valid(pair.client(ACK, 9_000_001, 5_000_001));
        assert_eq!(pair.state(), Established);
        assert_valid(pair.tcp(Direction::Forward, segment(ACK, 9_000_001, 5_000_001, 100)));
        assert_valid(pair.tcp(Direction::Reply, segment(ACK, 5_000_001, 9_000_101, 100)));
        // What is left of the old one.
        let old = segment(ACK, SERVER.wrapping_add(1), 0, 100);
        assert!(matches!(pair.tcp(Direction::Reply, old), Tracked::Invalid(_)));
    }
    // The other side may not open one: policy has judged this direction.
    let pair = Pair::established();
    assert_valid(pair.server(SYN, 9_000_000, 0));
    assert_valid(pair.client(SYN_ACK, 5_000_000, 9_000_001));
    assert_eq!(pair.state(), Established);
    assert!(matches!(pair.server(ACK, 9_000_001, 5_000_001), Tracked::Invalid(_)));
}

#[test]
fn a_client_that_tries_anew_is_followed() {
    let pair = Pair::default();
    assert_valid(pair.client(SYN, CLIENT, 0));
    assert_valid(pair.client(SYN, 700, 0));
    assert_eq!(
        pair.server(SYN_ACK, SERVER, CLIENT.wrapping_add(1)),
        Tracked::Invalid(InvalidReason::Acknowledgement)
    );
    assert_valid(pair.server(SYN_ACK, SERVER, 701));
    assert_valid(pair.client(ACK, 701, SERVER.wrapping_add(1)));
    assert_eq!(pair.state(), Established);
}

#[test]
fn a_connection_is_picked_up_in_the_middle_if_that_is_allowed() {
    let facts = |flags| PacketFacts {
        bytes: 60,
        transport: TransportFacts::Tcp(segment(flags, CLIENT, SERVER, 100)),
    };
    let lenient = Tracking::default();
    let strict = Tracking { midstream_pickup: false, ..lenient };
    assert_eq!(admit(&facts(ACK), &strict), Err(InvalidReason::Midstream));
    assert_eq!(admit(&facts(SYN), &strict), Ok(()));
    assert_eq!(admit(&facts(ACK), &lenient), Ok(()));
    assert_eq!(admit(&facts(RST), &lenient), Err(InvalidReason::Midstream));
    // The answer to a SYN that nobody saw: the SYN will be sent again.
    assert_eq!(admit(&facts(SYN_ACK), &lenient), Err(InvalidReason::Midstream));

    let pair = Pair::default();
    assert_valid(pair.tcp(Direction::Forward, segment(ACK, CLIENT, SERVER, 100)));
    // Not answered yet: it does not live as long as one that is.
    assert_eq!((pair.state(), pair.limit()), (Established, 24_000));
    let far = SERVER.wrapping_add(3_000_000);
    assert_valid(pair.tcp(Direction::Reply, segment(ACK, far, CLIENT.wrapping_add(100), 1000)));
    assert_eq!((pair.state(), pair.limit()), (Established, 744_000));
    assert_valid(pair.client(FIN, CLIENT.wrapping_add(100), far.wrapping_add(1000)));
    assert_eq!(pair.state(), FinWait);
}

#[test]
fn what_was_picked_up_may_have_sent_a_window_more_than_was_seen() {
    let pair = Pair::default();
    let data = |sequence| pair.tcp(Direction::Forward, segment(ACK, sequence, SERVER, 100));
    let acknowledge = |ack| pair.tcp(Direction::Reply, segment(ACK, SERVER, ack, 0));
    // Seen is what was sent again; the receiver acknowledges all that it has.
    assert_valid(data(CLIENT));
    let window = 512 << 14;
    let end = CLIENT.wrapping_add(100);
    assert_eq!(
        acknowledge(end.wrapping_add(window).wrapping_add(1)),
        Tracked::Invalid(InvalidReason::Acknowledgement)
    );
    assert_valid(acknowledge(end.wrapping_add(window)));
    assert_valid(data(end.wrapping_add(window)));
    // Its window is as large as the largest scale makes it, not larger.
    let beyond = end.wrapping_add(2 * window).wrapping_add(2);
    assert_eq!(data(beyond), Tracked::Invalid(InvalidReason::Sequence));
    assert_eq!(pair.state(), Established);
}

#[test]
fn before_a_syn_is_answered_nothing_but_its_answer_moves_the_connection() {
    let pair = Pair::default();
    assert_valid(pair.client(SYN, CLIENT, 0));
    let c = CLIENT.wrapping_add(1);
    assert_eq!(pair.client(ACK, c, SERVER), Tracked::Invalid(InvalidReason::Acknowledgement));
    assert_eq!(pair.client(SYN_ACK, CLIENT, SERVER), {
        Tracked::Invalid(InvalidReason::Acknowledgement)
    });
    // What the server still holds of an older connection passes, whatever it acknowledges.
    for acknowledgement in [7, c] {
        assert_valid(pair.server(ACK, 99, acknowledgement));
        assert_eq!(pair.state(), SynSent);
    }
    assert_valid(pair.server(SYN_ACK, SERVER, c));
    assert_eq!(pair.state(), SynReceived);
    // Not the client's SYN again: another one.
    assert_valid(pair.client(SYN_ACK, 77, SERVER.wrapping_add(1)));
    assert_eq!(pair.state(), SynReceived);
}

#[test]
fn the_window_of_a_syn_is_not_scaled() {
    for scale in [Some(14), None] {
        let pair = Pair::default();
        let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
        assert_valid(pair.client(SYN, CLIENT, 0));
        let answer = TcpFacts { window_scale: scale, ..segment(SYN_ACK, SERVER, c, 0) };
        assert_valid(pair.tcp(Direction::Reply, answer));
        let data = |sequence| pair.tcp(Direction::Reply, segment(ACK, sequence, c, 500));
        // To a client that has not acknowledged anything yet, after its SYN with data (RFC 7413).
        assert_valid(data(s));
        assert_eq!(data(s.wrapping_add(514)), Tracked::Invalid(InvalidReason::Sequence));
    }
}

#[test]
fn a_reset_before_what_was_acknowledged_is_invalid() {
    let pair = Pair::established();
    let (c, s) = (CLIENT.wrapping_add(1), SERVER.wrapping_add(1));
    assert_valid(pair.tcp(Direction::Reply, segment(ACK, s, c, 1000)));
    assert_valid(pair.client(ACK, c, s.wrapping_add(1000)));
    assert_eq!(pair.server(RST, s.wrapping_add(999), 0), Tracked::Invalid(InvalidReason::Reset));
    assert_eq!((pair.state(), pair.limit()), (Established, 744_000));
}

#[test]
fn flags_that_make_no_sense_together_are_invalid() {
    let bad = [
        TcpFlags(0),
        TcpFlags::FIN,
        SYN.with(TcpFlags::FIN),
        SYN.with(RST),
        FIN.with(RST),
        TcpFlags::URG.with(TcpFlags::PSH),
        TcpFlags(0x3f),
    ];
    for flags in bad {
        let pair = Pair::established();
        assert_eq!(pair.client(flags, CLIENT, SERVER), Tracked::Invalid(InvalidReason::Flags));
        let transport = TransportFacts::Tcp(segment(flags, 0, 0, 0));
        let facts = PacketFacts { bytes: 60, transport };
        assert_eq!(admit(&facts, &Tracking::default()), Err(InvalidReason::Flags));
    }
}

#[test]
fn datagrams_are_new_until_they_are_answered() {
    let pair = Pair::default();
    let datagram = |direction| pair.track(direction, TransportFacts::Datagram);
    let [forward, reply] = &pair.sides;
    let limit = |protocol| idle(protocol, [forward, reply], &pair.tracking.timeouts, 0).limit;
    let valid = |verdict| Tracked::Valid { verdict, refreshes: true };
    assert_eq!(datagram(Direction::Forward), valid(Verdict::New));
    assert_eq!(datagram(Direction::Forward), valid(Verdict::New));
    assert_eq!((state(UDP, forward, reply), limit(UDP), limit(ICMP)), (New, 12_000, 6_000));
    assert_eq!(datagram(Direction::Reply), valid(Verdict::Established));
    assert_eq!(datagram(Direction::Forward), valid(Verdict::Established));
    assert_eq!(
        (state(UDP, forward, reply), limit(UDP), limit(ICMPV6)),
        (Established, 30_000, 6_000)
    );
    assert_eq!(limit(47), 60_000);
}

#[test]
fn an_icmp_error_is_related_and_keeps_nothing_alive() {
    let pair = Pair::established();
    assert_eq!(
        pair.track(Direction::Reply, TransportFacts::IcmpError),
        Tracked::Valid { verdict: Verdict::Related, refreshes: false }
    );
    assert_eq!(pair.state(), Established);
}

#[test]
fn idle_time_counts_from_the_later_direction_and_not_into_the_future() {
    let [forward, reply] = [DirectionState::default(), DirectionState::default()];
    forward.see(u32::MAX - 5);
    reply.see(10);
    let since = |now| idle(UDP, [&forward, &reply], &Timeouts::default(), now).since;
    assert_eq!((since(12), since(10), since(9)), (2, 0, 0));
}

fn sctp(chunk_type: u8, verification_tag: u32, initiate_tag: u32) -> TransportFacts {
    let tag_reflected = false;
    TransportFacts::Sctp(SctpFacts { chunk_type, verification_tag, initiate_tag, tag_reflected })
}

fn association() -> Pair {
    use Direction::{Forward, Reply};
    let pair = Pair::default();
    assert_valid(pair.track(Forward, sctp(1, 0, 0xaaaa)));
    assert_eq!(sctp_state(&pair), SynSent);
    assert_valid(pair.track(Reply, sctp(2, 0xaaaa, 0xbbbb)));
    assert_eq!(sctp_state(&pair), SynReceived);
    assert_valid(pair.track(Forward, sctp(10, 0xbbbb, 0)));
    assert_valid(pair.track(Reply, sctp(11, 0xaaaa, 0)));
    assert_eq!(sctp_state(&pair), Established);
    pair
}

fn sctp_state(pair: &Pair) -> ConnectionState {
    let [forward, reply] = &pair.sides;
    state(SCTP, forward, reply)
}

#[test]
fn an_sctp_association_opens_and_shuts_down() {
    use Direction::{Forward, Reply};
    let pair = association();
    assert_valid(pair.track(Forward, sctp(0, 0xbbbb, 0)));
    assert_valid(pair.track(Reply, sctp(7, 0xaaaa, 0)));
    assert_eq!(sctp_state(&pair), FinWait);
    assert_valid(pair.track(Forward, sctp(8, 0xbbbb, 0)));
    assert_eq!(sctp_state(&pair), LastAck);
    assert_valid(pair.track(Reply, sctp(14, 0xaaaa, 0)));
    assert_eq!(sctp_state(&pair), Closed);
    assert_valid(pair.track(Forward, sctp(1, 0, 0xcccc)));
    assert_eq!(sctp_state(&pair), SynSent);
}

#[test]
fn an_sctp_packet_with_a_foreign_tag_is_invalid_and_ends_nothing() {
    use Direction::{Forward, Reply};
    let pair = association();
    let foreign = Tracked::Invalid(InvalidReason::VerificationTag);
    assert_eq!(pair.track(Reply, sctp(6, 0xdead, 0)), foreign);
    assert_eq!(pair.track(Forward, sctp(6, 0xaaaa, 0)), foreign);
    assert_eq!(sctp_state(&pair), Established);
    // An ABORT may reflect the tag of what it answers (RFC 9260, section 8.5.1 (B)).
    let reflected = TransportFacts::Sctp(SctpFacts {
        chunk_type: 6,
        verification_tag: 0xaaaa,
        initiate_tag: 0,
        tag_reflected: true,
    });
    assert_valid(pair.track(Forward, reflected));
    assert_eq!(sctp_state(&pair), Closed);
}

#[test]
fn an_sctp_association_starts_with_an_init_unless_it_may_be_picked_up() {
    let facts = |transport| PacketFacts { bytes: 60, transport };
    let strict = Tracking { midstream_pickup: false, ..Tracking::default() };
    assert_eq!(admit(&facts(sctp(1, 0, 9)), &strict), Ok(()));
    assert_eq!(admit(&facts(sctp(1, 7, 9)), &strict), Err(InvalidReason::VerificationTag));
    assert_eq!(admit(&facts(sctp(0, 7, 0)), &strict), Err(InvalidReason::Midstream));
    assert_eq!(admit(&facts(sctp(0, 7, 0)), &Tracking::default()), Ok(()));
    assert_eq!(admit(&facts(sctp(6, 7, 0)), &Tracking::default()), Err(InvalidReason::Midstream));
}

/// A sequence number within reach of others, across the wrap.
fn near() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..100_000, any::<u32>()].prop_map(|offset| CLIENT.wrapping_add(offset))
}

/// What a side may have sent: often only what one has in the middle of a connection.
fn flags() -> impl Strategy<Value = u16> {
    prop_oneof![4 => Just(0xc3u16), 1 => Just(0xe0u16), 1 => 0u16..0x400]
}

proptest! {
    /// Two hosts that keep to TCP, with loss between the tracker and the receiver, never send
    /// anything invalid.
    #[test]
    fn a_transfer_with_losses_is_valid_throughout(
        steps in
            prop::collection::vec((any::<bool>(), 0u32..1400, prop::bool::weighted(0.2)), 1..200)
    ) {
        let pair = Pair::established();
        // The window of its SYN is not scaled; from its next segment on it is.
        assert_valid(pair.server(ACK, SERVER.wrapping_add(1), CLIENT.wrapping_add(1)));
        let window = 512 << 7;
        // For each side: next to send, what the other has received of it, and has acknowledged.
        let mut sent = [CLIENT.wrapping_add(1), SERVER.wrapping_add(1)];
        let mut received = sent;
        let mut acknowledged = sent;
        for (server_sends, bytes, lost) in steps {
            let (own, other) = if server_sends { (1, 0) } else { (0, 1) };
            let direction = if server_sends { Direction::Reply } else { Direction::Forward };
            let outstanding = sent[own].wrapping_sub(acknowledged[own]);
            // Within the window, else go back to what is missing.
            let full = outstanding + bytes > window;
            let sequence = if full { acknowledged[own] } else { sent[own] };
            let data = segment(ACK, sequence, received[other], bytes);
            let tracked = pair.tcp(direction, data);
            prop_assert!(matches!(tracked, Tracked::Valid { .. }), "{:?} for {:?}", tracked, data);
            acknowledged[other] = received[other];
            let end = sequence.wrapping_add(bytes);
            if end.wrapping_sub(sent[own]) < 1 << 31 {
                sent[own] = end;
            }
            let news = end.wrapping_sub(received[own]);
            if !lost && received[own].wrapping_sub(sequence) <= bytes && news < 1 << 31 {
                received[own] = end;
            }
            prop_assert_eq!(pair.state(), Established);
        }
    }

    /// Most segments take a shorter way, and it leads where the long one does.
    #[test]
    fn the_steady_way_comes_to_the_same_as_the_long_one(
        sides in prop::array::uniform2((near(), near(), any::<u16>(), 0u8..15, flags())),
        packets in prop::array::uniform2(0u8..2),
        segment in (near(), near(), any::<u16>(), 0u32..3000, prop_oneof![Just(0x10u8), any::<u8>()]),
        direction in prop_oneof![Just(Direction::Forward), Just(Direction::Reply)],
    ) {
        let pair = || {
            let pair = Pair::default();
            for ((side, values), packets) in pair.sides.iter().zip(sides).zip(packets) {
                let (end, acknowledged, window, scale, flags) = values;
                side.set_transport(&Transport { end, acknowledged, window, scale, flags });
                if packets == 1 {
                    side.count(1);
                }
            }
            pair
        };
        let (sequence, acknowledgement, window, payload_bytes, flags) = segment;
        let segment = TcpFacts {
            flags: TcpFlags(flags), sequence, acknowledgement, window, payload_bytes,
            window_scale: None,
        };
        let (short, long) = (pair(), pair());
        if let Some(verdict) = tcp::advance_steadily(short.sides(direction, TCP), &segment) {
            let sides = long.sides(direction, TCP);
            let same = tcp::advance(sides, &segment, &long.tracking, &long.late_syn);
            prop_assert_eq!(Tracked::Valid { verdict, refreshes: true }, same);
            let transports = |pair: &Pair| pair.sides.each_ref().map(DirectionState::transport);
            prop_assert_eq!(transports(&short), transports(&long));
        }
    }

    /// Whatever arrives, tracking does not panic, and only a reset with an expected number closes.
    #[test]
    fn noise_closes_no_connection(
        noise in prop::collection::vec(
            (any::<bool>(), any::<u8>(), any::<u32>(), any::<u32>(), 0u32..2000), 1..50
        )
    ) {
        let pair = Pair::established();
        for (reply, flags, sequence, acknowledgement, bytes) in noise {
            let direction = if reply { Direction::Reply } else { Direction::Forward };
            let own = &pair.sides[usize::from(reply)].transport();
            let other = &pair.sides[usize::from(!reply)].transport();
            let facts = segment(TcpFlags(flags), sequence, acknowledgement, bytes);
            let before = pair.state();
            pair.tcp(direction, facts);
            if before != Closed && pair.state() == Closed {
                prop_assert!(facts.flags.has(RST));
                prop_assert!(sequence == own.end || sequence == other.acknowledged);
            }
        }
    }
}
