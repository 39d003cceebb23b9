//! What each generated packet carries at the start of its payload.
//!
//! ```text
//!  0        2        4              10             16      18
//!  +--------+--------+--------------+--------------+-------+----------- - -
//!  | magic  | stream |   sequence   | sent, in ns  | check | fill
//!  +--------+--------+--------------+--------------+-------+----------- - -
//! ```
//!
//! All numbers are big endian. The check makes the one's-complement sum of the *whole* payload
//! 0xffff, one's complement's zero. So it finds out damage anywhere in the payload, and the UDP
//! checksum is the same for every sequence number: only the tag is written anew from packet to
//! packet. Sequence and time have 48 bits: 78 hours of nanoseconds, after which they wrap.

use encap::checksum::Sum;

/// Bytes of a tag: with IPv4 and UDP the smallest Ethernet frame, 64 bytes, has just this room.
pub const TAG_BYTES: usize = 18;
/// What a payload of ours begins with.
const MAGIC: u16 = 0x7650;
/// Sequence numbers and times are below this.
pub const WRAP: u64 = 1 << 48;

/// What a packet says about itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tag {
    /// Which run of which generator it is of.
    pub stream: u16,
    /// Its number in the stream, from 0, below [`WRAP`].
    pub sequence: u64,
    /// When it was sent, in nanoseconds of some clock, below [`WRAP`].
    pub sent_ns: u64,
}

/// What a payload turned out to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reading {
    /// Not a generator's.
    Foreign,
    /// A generator's, but not as it was sent.
    Corrupted,
    /// Intact.
    Intact(Tag),
}

impl Tag {
    /// Writes the tag into the first bytes of a payload; `fill` is the sum of those after them.
    pub fn write(self, payload: &mut [u8; TAG_BYTES], fill: Sum) {
        let [_, _, sequence @ ..] = self.sequence.to_be_bytes();
        let [_, _, sent @ ..] = self.sent_ns.to_be_bytes();
        let [m0, m1] = MAGIC.to_be_bytes();
        let [s0, s1] = self.stream.to_be_bytes();
        let [q0, q1, q2, q3, q4, q5] = sequence;
        let [t0, t1, t2, t3, t4, t5] = sent;
        *payload = [m0, m1, s0, s1, q0, q1, q2, q3, q4, q5, t0, t1, t2, t3, t4, t5, 0, 0];
        let [c0, c1] = Sum::of(payload).add(fill).checksum().to_be_bytes();
        let [.., first, second] = payload;
        (*first, *second) = (c0, c1);
    }

    /// Reads what a payload begins with, and checks all of it.
    #[must_use]
    pub fn read(payload: &[u8]) -> Reading {
        let Some((tag, _)) = payload.split_first_chunk::<TAG_BYTES>() else {
            return Reading::Foreign;
        };
        let [m0, m1, s0, s1, q0, q1, q2, q3, q4, q5, t0, t1, t2, t3, t4, t5, ..] = *tag;
        if u16::from_be_bytes([m0, m1]) != MAGIC {
            return Reading::Foreign;
        }
        if !Sum::of(payload).is_intact() {
            return Reading::Corrupted;
        }
        Reading::Intact(Self {
            stream: u16::from_be_bytes([s0, s1]),
            sequence: u64::from_be_bytes([0, 0, q0, q1, q2, q3, q4, q5]),
            sent_ns: u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5]),
        })
    }

    /// Nanoseconds from when the packet was sent to `now_ns`, which may have more than 48 bits;
    /// `None` if it was sent in the future, so by another clock.
    #[must_use]
    pub fn age_ns(self, now_ns: u64) -> Option<u64> {
        let age = now_ns.wrapping_sub(self.sent_ns) % WRAP;
        (age < WRAP / 2).then_some(age)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(tag: Tag, fill: &[u8]) -> Vec<u8> {
        let mut payload = vec![0; TAG_BYTES];
        payload.extend_from_slice(fill);
        let (start, _) = payload.split_first_chunk_mut().unwrap();
        tag.write(start, Sum::of(fill));
        payload
    }

    prop_compose! {
        fn tags()(stream: u16, sequence in 0..WRAP, sent_ns in 0..WRAP) -> Tag {
            Tag { stream, sequence, sent_ns }
        }
    }

    proptest! {
        #[test]
        fn a_tag_reads_as_it_was_written(
            tag in tags(), fill in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert_eq!(Tag::read(&payload(tag, &fill)), Reading::Intact(tag));
        }

        #[test]
        fn the_sum_of_a_payload_is_the_same_for_every_tag(
            one in tags(), other in tags(), fill in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            prop_assert_eq!(Sum::of(&payload(one, &fill)), Sum::of(&payload(other, &fill)));
        }

        #[test]
        fn a_changed_byte_is_noticed(
            tag in tags(), fill in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(), change in 1_u8..,
        ) {
            let mut bytes = payload(tag, &fill);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            let expected = if at < 2 { Reading::Foreign } else { Reading::Corrupted };
            prop_assert_eq!(Tag::read(&bytes), expected);
        }

        #[test]
        fn noise_is_read_without_panic(noise in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Tag::read(&noise);
        }

        #[test]
        fn an_age_survives_the_wrap(sent: u64, age in 0..WRAP / 2) {
            let tag = Tag { stream: 0, sequence: 0, sent_ns: sent % WRAP };
            prop_assert_eq!(tag.age_ns(sent.wrapping_add(age)), Some(age));
        }
    }

    #[test]
    fn a_packet_from_the_future_has_no_age() {
        let tag = Tag { stream: 0, sequence: 0, sent_ns: 1000 };
        assert_eq!(tag.age_ns(999), None);
    }
}
