//! What hosts do, and what others try, one story each. Both trackers must tell each the same way.

use super::segments::{ACK, Conversation, FIN, PSH, RST, SYN, Segment};

type Story = fn(&mut Conversation);

/// Each story, with what it is called.
const STORIES: &[(&str, Story)] = &[
    ("a connection with data both ways, closed by the client", |it| {
        it.handshake().send(false, ACK | PSH, 500).send(true, ACK | PSH, 1300);
        it.send(false, ACK, 0).send(false, FIN | ACK, 0).send(true, ACK, 0);
        it.send(true, FIN | ACK, 0).send(false, ACK, 0);
    }),
    ("a half-closed connection whose server goes on sending", |it| {
        it.handshake().send(false, FIN | ACK, 0).send(true, ACK, 0);
        for _ in 0..5 {
            it.send(true, ACK | PSH, 1000).send(false, ACK, 0);
        }
        it.send(true, FIN | ACK, 0).send(false, ACK, 0);
    }),
    ("a simultaneous open", |it| {
        it.send(false, SYN, 0).send(true, SYN, 0);
        it.send_changed(false, SYN | ACK, 0, back_by_one);
        it.send_changed(true, SYN | ACK, 0, back_by_one);
        it.send(false, ACK, 0).send(true, ACK | PSH, 10).send(false, ACK, 0);
    }),
    ("handshake segments that are sent again", |it| {
        it.send(false, SYN, 0).send_changed(false, SYN, 0, back_by_one);
        it.send(true, SYN | ACK, 0).send_changed(true, SYN | ACK, 0, back_by_one);
        it.send(false, ACK, 0).send(false, ACK | PSH, 100).send(true, ACK, 0);
    }),
    ("segments lost, sent again and out of order", |it| {
        it.handshake().send(true, ACK, 0);
        for _ in 0..4 {
            it.send(false, ACK | PSH, 100);
        }
        it.send_changed(false, ACK | PSH, 100, |one| one.sequence -= 400);
        it.send(true, ACK, 0);
        it.send_changed(false, ACK | PSH, 100, |one| one.sequence += 100);
        it.send_changed(false, ACK | PSH, 100, |one| one.sequence -= 200);
        it.send(true, ACK, 0);
    }),
    ("keep-alives, with a byte and without", |it| {
        it.handshake().send(true, ACK, 0).send(false, ACK | PSH, 10).send(true, ACK, 0);
        it.send_changed(false, ACK, 0, |one| one.sequence -= 1).send(true, ACK, 0);
        it.send_changed(false, ACK, 1, |one| one.sequence -= 1).send(true, ACK, 0);
    }),
    ("a window that closes, is probed, and opens again", |it| {
        it.handshake().send(false, ACK | PSH, 400);
        it.send_changed(true, ACK, 0, |one| one.window = 0);
        it.send_changed(false, ACK, 0, |one| one.sequence -= 1);
        it.send_changed(true, ACK, 0, |one| one.window = 0);
        it.send(true, ACK, 0).send(false, ACK | PSH, 400).send(true, ACK, 0);
    }),
    ("a forged reset outside of the window", |it| {
        it.handshake().send(false, ACK | PSH, 10).send(true, ACK, 0);
        it.send_changed(true, RST, 0, |one| one.sequence = one.sequence.wrapping_add(1 << 20));
        it.send_changed(true, RST, 0, |one| one.sequence = one.sequence.wrapping_sub(1 << 20));
        it.send(true, ACK | PSH, 10).send(false, ACK, 0);
    }),
    ("a forged reset in the window", |it| {
        it.handshake().send(false, ACK | PSH, 10).send(true, ACK, 0).send(false, ACK, 0);
        it.send_changed(true, RST, 0, |one| one.sequence += 10);
        it.send(false, ACK, 0).send(true, ACK | PSH, 10).send(false, ACK, 0);
    }),
    ("a reset where it is expected", |it| {
        it.handshake().send(false, ACK | PSH, 10).send(true, RST | ACK, 0);
    }),
    ("a closed port", |it| {
        it.send(false, SYN, 0).send_changed(true, RST | ACK, 0, |one| one.sequence = 0);
    }),
    ("a client that crashed and opens again, and is challenged (RFC 5961)", |it| {
        it.handshake().send(false, ACK | PSH, 10).send(true, ACK | PSH, 10).send(false, ACK, 0);
        let known = it.segments.last().copied().unwrap();
        it.send_changed(false, SYN, 0, |one| one.sequence = 3_000_000);
        it.send_changed(true, ACK, 0, |one| one.acknowledgement = known.sequence);
        it.send_changed(false, RST, 0, |one| one.sequence = known.sequence);
    }),
    ("ports that are used again after TIME-WAIT", |it| {
        it.handshake().send(true, FIN | ACK, 0).send(false, FIN | ACK, 0).send(true, ACK, 0);
        it.send(false, ACK, 0);
        it.send_changed(false, SYN, 0, |one| one.sequence += 100_000);
        it.send(true, SYN | ACK, 0).send(false, ACK, 0).send(false, ACK | PSH, 10);
    }),
    ("ports that are used again after a reset", |it| {
        it.handshake().send(true, ACK, 0).send(false, RST, 0);
        it.send_changed(false, SYN, 0, |one| one.sequence += 100_000);
        it.send(true, SYN | ACK, 0).send(false, ACK, 0).send(false, ACK | PSH, 10);
    }),
    ("a connection that is met in the middle", |it| {
        it.send(false, ACK | PSH, 100).send(true, ACK, 0).send(true, ACK | PSH, 1300);
        it.send(false, ACK, 0).send(false, FIN | ACK, 0).send(true, ACK, 0);
        it.send(true, FIN | ACK, 0).send(false, ACK, 0);
    }),
    ("a connection that is met with the server speaking", |it| {
        it.send(true, ACK | PSH, 100).send(false, ACK, 0).send(true, ACK | PSH, 1300);
        it.send(false, ACK, 0);
    }),
    ("segments of no connection", |it| {
        it.send(true, SYN | ACK, 0).send(true, RST, 0).send(true, RST | ACK, 0);
    }),
    ("flags that nobody sends together", |it| {
        it.handshake();
        for flags in [0, FIN, SYN | FIN, SYN | RST, FIN | RST, PSH, SYN | FIN | ACK] {
            it.send(false, flags, 0);
        }
    }),
];

/// The same SYN again.
fn back_by_one(segment: &mut Segment) {
    segment.sequence = segment.sequence.wrapping_sub(1);
}

/// All stories, with and without window scale.
pub(crate) fn all() -> Vec<(&'static str, Vec<Segment>)> {
    let mut all = Vec::new();
    for scales in [[Some(7), Some(7)], [None, None], [Some(7), None], [Some(0), Some(14)]] {
        for (name, story) in STORIES {
            let mut conversation = Conversation::new([1_000_000, 4_000_000_000], scales);
            story(&mut conversation);
            all.push((*name, conversation.segments));
        }
    }
    all
}
