use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

const STREAM: u16 = 7;

fn tag(sequence: u64) -> Reading {
    Reading::Intact(Tag { stream: STREAM, sequence, sent_ns: 0 })
}

fn account(flows: u32, arrivals: &[u64]) -> Counts {
    let mut account = Account::new(STREAM, flows).unwrap();
    for &sequence in arrivals {
        account.enter(tag(sequence), 64, 10);
    }
    account.counts()
}

#[test]
fn the_late_packet_is_reordered_not_those_that_overtook_it() {
    // RFC 4737 section 3.3: 4 arrives behind 5 to 8.
    let counts = account(1, &[0, 1, 2, 3, 5, 6, 7, 8, 4, 9]);
    assert_eq!((counts.received, counts.reordered, counts.duplicated), (10, 1, 0));
}

#[test]
fn a_gap_is_no_reordering() {
    let counts = account(1, &[0, 1, 5, 6]);
    assert_eq!((counts.received, counts.reordered), (4, 0));
}

#[test]
fn a_copy_is_counted_as_a_duplicate_and_not_as_reordered() {
    let counts = account(1, &[0, 1, 2, 1, 1, 3]);
    assert_eq!((counts.received, counts.reordered, counts.duplicated), (4, 0, 2));
}

#[test]
fn flows_that_overtake_each_other_are_in_order() {
    let counts = account(2, &[1, 3, 5, 0, 2, 4]);
    assert_eq!((counts.received, counts.reordered), (6, 0));
    assert_eq!(account(1, &[1, 3, 5, 0, 2, 4]).reordered, 3);
}

#[test]
fn a_packet_from_before_the_window_is_late() {
    let counts = account(1, &[0, WINDOW_PACKETS + 64, 1, 200]);
    assert_eq!((counts.received, counts.late, counts.reordered), (3, 1, 1));
}

#[test]
fn other_streams_noise_and_damage_are_counted_apart() {
    let mut account = Account::new(STREAM, 1).unwrap();
    account.enter(Reading::Intact(Tag { stream: 8, sequence: 0, sent_ns: 0 }), 64, 0);
    account.enter(Reading::Foreign, 64, 0);
    account.enter(Reading::Corrupted, 64, 0);
    let expected = Counts { other_streams: 1, foreign: 1, corrupted: 1, ..Counts::default() };
    assert_eq!(account.counts(), expected);
}

#[test]
fn latencies_are_what_has_passed_since_sending() {
    let mut account = Account::new(STREAM, 1).unwrap();
    for sequence in 0..100 {
        let sent = Reading::Intact(Tag { stream: STREAM, sequence, sent_ns: 1000 });
        account.enter(sent, 64, 1000 + (sequence + 1) * 1000);
    }
    assert_eq!(account.latencies().len(), 100);
    assert!(account.latencies().value_at_quantile(0.5).abs_diff(50_000) < 100);
    account.enter(Reading::Intact(Tag { stream: STREAM, sequence: 100, sent_ns: 5000 }), 64, 10);
    assert_eq!((account.counts().untimed, account.latencies().len()), (1, 100));
}

/// What arrives: steps of up to 200 numbers forwards and back, over several windows.
fn arrivals() -> impl Strategy<Value = Vec<u64>> {
    let step = prop_oneof![
        8 => (-100_i64..200).prop_map(|step| step),
        1 => (0..i64::try_from(WINDOW_PACKETS).unwrap() * 2).prop_map(|step| step),
    ];
    prop::collection::vec(step, 0..300).prop_map(|steps| {
        let mut at = 0_i64;
        steps
            .into_iter()
            .map(|step| {
                at = (at + step).max(0);
                u64::try_from(at).unwrap()
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn counts_are_those_of_a_model_that_remembers_everything(
        arrivals in arrivals(), flows in 1_u32..5,
    ) {
        let counts = account(flows, &arrivals);
        let mut seen = HashSet::new();
        let mut expected = vec![0; flows as usize];
        let mut end = WINDOW_PACKETS;
        let mut model = Counts::default();
        for sequence in arrivals {
            end = end.max((sequence / 64 + 1) * 64);
            if sequence < end - WINDOW_PACKETS {
                model.late += 1;
            } else if !seen.insert(sequence) {
                model.duplicated += 1;
            } else {
                model.received += 1;
                model.bytes += 64;
                let expected = &mut expected[usize::try_from(sequence).unwrap() % flows as usize];
                if sequence < *expected {
                    model.reordered += 1;
                }
                *expected = (*expected).max(sequence + 1);
            }
        }
        prop_assert_eq!(counts, model);
    }
}
