use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// RFC 1071 section 4.1, word by word.
fn naive(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    // Plain noise, and runs of the extremes where carries and zeros live.
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..600),
        prop::collection::vec(prop_oneof![Just(0), Just(0xff), Just(1), Just(0xfe)], 0..600),
    ]
}

/// An even number of bytes that are not all zero.
fn words() -> impl Strategy<Value = Vec<u8>> {
    (bytes(), 1_u8..).prop_map(|(mut bytes, last)| {
        if bytes.len() % 2 == 0 {
            bytes.push(0);
        }
        bytes.push(last);
        bytes
    })
}

#[test]
fn the_example_of_rfc_1071_section_3_holds() {
    let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
    assert_eq!(sum.value(), 0xddf2);
    assert_eq!(sum.checksum(), 0x220d);
}

#[test]
fn long_runs_of_ones_do_not_lose_carries() {
    for length in [63, 64, 65, 1500, 9000, 65_535] {
        let bytes = std::vec![0xff; length];
        assert_eq!(Sum::of(&bytes).value(), naive(&bytes), "{length}");
    }
}

#[test]
fn the_example_of_rfc_1624_section_4_holds() {
    // HC = 0xdd2f, m = 0x5555, m' = 0x3285: the new checksum is 0x0000, where RFC 1141 gave 0xffff.
    assert_eq!(Delta::of_u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    assert_eq!(Sum::of_u16(0xffff).udp_checksum(), 0xffff);
    assert_eq!(Sum::of_u16(0xfffe).udp_checksum(), 1);
    assert_eq!(Delta::of_u16(0x5555, 0x3285).apply_udp(0xdd2f), 0xffff);
}

#[test]
fn a_missing_udp_checksum_stays_missing() {
    assert_eq!(Delta::of_u16(1, 2).apply_udp(0), 0);
}

#[test]
fn only_zeros_sum_to_the_positive_zero() {
    assert_eq!(Sum::of(&[0; 100]).value(), 0);
    assert_eq!(Sum::of(&[0xff; 100]).value(), 0xffff);
    // The corner where an incremental update and a full computation give different zeros: an
    // all-zero ICMP echo reply made from a request with nothing else in it.
    assert_eq!(Sum::of(&[0; 8]).checksum(), 0xffff);
    assert_eq!(Delta::of_u16(0x0800, 0).apply(!0x0800), 0x0000);
}

#[test]
fn the_carry_of_a_carry_is_not_lost() {
    for start in 0..=u16::MAX {
        let sum = Sum::of_u16(start);
        assert_eq!(sum.add_words([u16::MAX; 16]), sum.add(Sum::of_u16(u16::MAX)), "{start}");
    }
}

proptest! {
    #[test]
    fn a_sum_equals_the_naive_one(bytes in bytes()) {
        prop_assert_eq!(Sum::of(&bytes).value(), naive(&bytes));
    }

    #[test]
    fn a_checksum_equals_etherparses(bytes in bytes()) {
        let oracle = etherparse::checksum::Sum16BitWords::new().add_slice(&bytes);
        prop_assert_eq!(Sum::of(&bytes).checksum(), oracle.ones_complement().to_be());
    }

    #[test]
    fn parts_add_up_at_any_offset(
        bytes in bytes(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let sum = cuts.windows(2).fold(Sum::ZERO, |sum, pair| {
            sum.add_at(Sum::of(&bytes[pair[0]..pair[1]]), pair[0])
        });
        prop_assert_eq!(sum, Sum::of(&bytes));
    }

    #[test]
    fn bytes_with_their_checksum_are_intact(mut bytes in words()) {
        bytes.extend(Sum::of(&bytes).checksum().to_be_bytes());
        prop_assert!(Sum::of(&bytes).is_intact());
        bytes[0] ^= 0x10;
        prop_assert!(!Sum::of(&bytes).is_intact());
    }

    #[test]
    fn a_removed_part_leaves_the_rest(head in words(), tail in bytes()) {
        let whole = Sum::of(&head).add(Sum::of(&tail));
        prop_assert_eq!(whole.remove(Sum::of(&tail)), Sum::of(&head));
    }

    #[test]
    fn an_update_of_any_words_equals_a_full_computation(
        words in prop::collection::vec(prop_oneof![any::<u16>(), Just(0), Just(0xffff)], 1..40),
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), prop_oneof![any::<u16>(), Just(0), Just(0xffff)]), 1..6),
    ) {
        let full = |words: &[u16]| {
            words.iter().fold(Sum::ZERO, |sum, &word| sum.add(Sum::of_u16(word))).checksum()
        };
        let mut edited = words.clone();
        let mut delta = Delta::NONE;
        for (place, word) in edits {
            let slot = &mut edited[place.index(words.len())];
            delta = delta.and(Delta::of_u16(*slot, word));
            *slot = word;
        }
        prop_assume!(words.iter().any(|&word| word != 0) && edited.iter().any(|&word| word != 0));
        prop_assert_eq!(delta.apply(full(&words)), full(&edited));
    }

    #[test]
    fn wider_updates_equal_updates_word_by_word(old: u128, new: u128, checksum: u16) {
        let (old6, new6) = (Ipv6Addr::from_bits(old), Ipv6Addr::from_bits(new));
        let by_word = old6.segments().into_iter().zip(new6.segments())
            .fold(Delta::NONE, |delta, (old, new)| delta.and(Delta::of_u16(old, new)));
        prop_assert_eq!(Delta::of_ipv6(old6, new6).apply(checksum), by_word.apply(checksum));

        let [old_high, old_low, ..] = old6.segments();
        let [new_high, new_low, ..] = new6.segments();
        let old4 = u32::from(old_high) << 16 | u32::from(old_low);
        let new4 = u32::from(new_high) << 16 | u32::from(new_low);
        let by_word = Delta::of_u16(old_high, new_high).and(Delta::of_u16(old_low, new_low));
        prop_assert_eq!(Delta::of_u32(old4, new4).apply(checksum), by_word.apply(checksum));
        prop_assert_eq!(
            Delta::of_ipv4(old4.into(), new4.into()).apply(checksum),
            by_word.apply(checksum)
        );
    }

    #[test]
    fn pseudo_headers_equal_the_sum_of_their_bytes(
        source: u128, destination: u128, protocol: u8, length: u32,
    ) {
        let (source, destination) = (Ipv6Addr::from_bits(source), Ipv6Addr::from_bits(destination));
        let mut bytes = Vec::new();
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, 0, protocol]);
        prop_assert_eq!(
            Sum::of_ipv6_pseudo_header(source, destination, IpProtocol(protocol), length),
            Sum::of(&bytes)
        );
    }

    #[test]
    fn words_add_up_in_one_go_as_one_by_one(start: u16, words: [u16; 16]) {
        let one_by_one =
            words.iter().fold(Sum::of_u16(start), |sum, &word| sum.add(Sum::of_u16(word)));
        prop_assert_eq!(Sum::of_u16(start).add_words(words), one_by_one);
    }

    #[test]
    fn ipv4_pseudo_headers_equal_the_sum_of_their_bytes(
        source: [u8; 4], destination: [u8; 4], protocol: u8, length: u16,
    ) {
        let mut bytes = Vec::new();
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend([0, protocol]);
        bytes.extend(length.to_be_bytes());
        prop_assert_eq!(
            Sum::of_ipv4_pseudo_header(
                source.into(), destination.into(), IpProtocol(protocol), length),
            Sum::of(&bytes)
        );
    }
}
