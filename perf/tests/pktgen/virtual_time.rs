//! Sender, link and sink in virtual time: what they do does not depend on the machine.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use encap::MacAddress;
use perf::pktgen::{
    account::Account,
    frames::{Addressing, FrameMix, FrameSet},
    port::{Clock, MemorySpec, memory_link},
    search::{Goals, Measured, search},
    sender::{Limit, Sender, Sent, Step},
    sink,
};

/// How far time goes from step to step.
const STEP_NS: u64 = 1000;

fn frames(flows: u32) -> FrameSet {
    let addressing = Addressing {
        source_mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
        destination_mac: MacAddress::new([2, 0, 0, 0, 0, 2]),
        source: [198, 18, 0, 1].into(),
        destination: [198, 19, 0, 1].into(),
        source_port: 1024,
        destination_port: 9,
        tunnel: None,
    };
    FrameSet::new(addressing, &FrameMix::imix(), flows).unwrap()
}

/// A trial of `seconds`, with the sink as often as the sender.
fn trial(link: &MemorySpec, packets_per_second: f64, seconds: f64) -> (Sent, Account) {
    let time = Arc::new(AtomicU64::new(1_000_000));
    let now_ns = {
        let time = Arc::clone(&time);
        move || time.load(Relaxed)
    };
    let clock: Clock = Arc::new(now_ns.clone());
    let (mut tx, mut rx) = memory_link(link, clock);
    let frames = frames(10);
    let mut account = Account::new(1, 10).unwrap();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, small")]
    let limit = Limit { packets: (packets_per_second * seconds) as u64, until_ns: u64::MAX };
    let mut sender = Sender::new(&frames, 1, Some(packets_per_second), limit, now_ns());
    while sender.step(&mut *tx, now_ns()).unwrap() != Step::Done {
        time.fetch_add(STEP_NS, Relaxed);
        while sink::poll(&mut *rx, &mut account, &now_ns).unwrap() > 0 {}
    }
    (sender.sent(), account)
}

#[test]
fn the_rate_is_exact() {
    for rate in [777.0, 10_000.0, 1_234_567.0] {
        let (sent, account) = trial(&MemorySpec::default(), rate, 0.2);
        let measured = sent.packets_per_second().unwrap();
        assert!((measured / rate - 1.0).abs() < 1e-3, "{measured}, not {rate}");
        assert_eq!((sent.stalls, sent.port_full), (0, 0));
        assert_eq!((account.counts().received, account.counts().reordered), (sent.packets, 0));
        assert_eq!(account.latencies().max(), STEP_NS);
    }
}

#[test]
fn a_search_finds_the_rate_of_a_link() {
    let link = MemorySpec { packets_per_second: 50_000, burst: 8, ..MemorySpec::default() };
    let goals = Goals { loss_ratios: vec![0.0, 0.005], load_max: Some(1e6), precision: 0.005 };
    let found = search(&goals, |load| {
        let (sent, account) = trial(&link, load.unwrap(), 0.1);
        let lost = sent.packets - account.counts().received;
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let loss_ratio = lost as f64 / sent.packets as f64;
        Ok::<_, Infallible>(Measured { offered: sent.packets_per_second().unwrap(), loss_ratio })
    });
    let found = found.unwrap();
    for (found, expected) in found.iter().zip([50_000.0, 50_000.0 / 0.995]) {
        let (rate, _) = found.throughput.unwrap();
        assert!(found.is_settled && (rate / expected - 1.0).abs() < 0.007, "{found:?}");
    }
}
