//! When each packet is due.
//!
//! Packet `n` is due `n` intervals after the start, so errors do not add up. A sender that comes
//! late catches up, but only over [`CATCH_UP_NS`]: what a device loses of a longer burst than that
//! would be the generator's fault. Beyond, the rest of the schedule moves, and the stall is
//! counted.

/// How much of its lag a sender makes up for: 1 ms, less than the rings of most devices take in.
pub const CATCH_UP_NS: u64 = 1_000_000;

/// The schedule of one trial.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Nanoseconds between packets; none without a limit.
    interval_ns: Option<f64>,
    /// When packet 0 would have been due, were the schedule never moved.
    start_ns: u64,
    sent: u64,
    stalls: u64,
    stalled_ns: u64,
}

impl Schedule {
    /// Begins now; without a rate everything is due at once.
    #[must_use]
    pub fn new(packets_per_second: Option<f64>, now_ns: u64) -> Self {
        Self {
            interval_ns: packets_per_second.map(|rate| 1e9 / rate),
            start_ns: now_ns,
            sent: 0,
            stalls: 0,
            stalled_ns: 0,
        }
    }

    /// Packets that are due and have not been sent.
    pub fn due(&mut self, now_ns: u64) -> u64 {
        let Some(interval) = self.interval_ns else { return u64::MAX };
        let next = self.next_ns();
        let Some(lag) = now_ns.checked_sub(next) else { return 0 };
        let patience = CATCH_UP_NS.max(nanoseconds(interval));
        if lag > patience {
            self.stalls += 1;
            self.stalled_ns += lag;
            self.start_ns += lag;
            return 1;
        }
        packets(nanoseconds_f64(lag) / interval) + 1
    }

    /// Enters that packets were sent.
    pub fn take(&mut self, packets: u64) {
        self.sent += packets;
    }

    /// When the next packet is due.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        let since = self.interval_ns.map_or(0.0, |interval| interval * nanoseconds_f64(self.sent));
        self.start_ns + nanoseconds(since)
    }

    /// How often the sender was later than it may catch up.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// By how much the schedule has moved in all.
    #[must_use]
    pub fn stalled_ns(&self) -> u64 {
        self.stalled_ns
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; saturates")]
fn nanoseconds(value: f64) -> u64 {
    value as u64
}

fn packets(value: f64) -> u64 {
    nanoseconds(value)
}

#[expect(clippy::cast_precision_loss, reason = "exact for 52 days, and 2^53 packets")]
fn nanoseconds_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sender_that_looks_often_sends_at_its_rate(
            rate in 10.0..20e6_f64, looks in prop::collection::vec(1_u64..CATCH_UP_NS / 2, 1..200),
        ) {
            let mut schedule = Schedule::new(Some(rate), 5);
            let (mut now, mut sent) = (5, 0);
            for step in looks {
                now += step;
                let due = schedule.due(now);
                schedule.take(due);
                sent += due;
            }
            let expected = nanoseconds_f64(now - 5) * rate / 1e9;
            prop_assert!((nanoseconds_f64(sent) - expected).abs() <= 1.05, "{sent}, not {expected}");
            prop_assert_eq!(schedule.stalls(), 0);
        }

        #[test]
        fn a_stall_moves_the_schedule(rate in 2000.0..20e6_f64, stall in CATCH_UP_NS * 2..1 << 40) {
            let mut schedule = Schedule::new(Some(rate), 0);
            schedule.take(1);
            prop_assert_eq!(schedule.due(stall), 1);
            prop_assert_eq!(schedule.stalls(), 1);
            prop_assert!(schedule.due(stall + CATCH_UP_NS / 2) < packets(rate / 1000.0) + 3);
        }
    }

    #[test]
    fn without_a_rate_everything_is_due() {
        let mut schedule = Schedule::new(None, 0);
        schedule.take(1 << 40);
        assert_eq!((schedule.due(0), schedule.next_ns()), (u64::MAX, 0));
    }

    #[test]
    fn at_a_low_rate_an_interval_is_no_stall() {
        let mut schedule = Schedule::new(Some(10.0), 0);
        schedule.take(1);
        assert_eq!(schedule.due(150_000_000), 1);
        assert_eq!(schedule.stalls(), 0);
    }
}
