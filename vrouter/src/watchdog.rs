//! Notices workers that do not poll: descheduled, or stuck in a system call or a loop.

use std::time::Duration;

use crate::clock::Now;

/// A worker that has not polled for so long is reported: ten times the longest sleep of an idle
/// worker.
pub const STALL_MIN: Duration = Duration::from_millis(100);

/// A worker has not polled for [`STALL_MIN`], or polls again after that.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stall {
    /// Which worker.
    pub worker: usize,
    /// How long it has not polled, as far as the watchdog saw.
    pub silent: Duration,
    /// It polls again.
    pub is_over: bool,
}

/// What is known about each worker.
#[derive(Debug)]
pub(crate) struct Watchdog {
    workers: Vec<Watched>,
    last_tick: Option<Now>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    stalls: u64,
    /// How long it has been silent, while it is.
    stalled: Option<Duration>,
}

impl Watchdog {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers: vec![Watched::default(); workers], last_tick: None }
    }

    /// Compares when workers last polled with the time; reports each stall once when it begins and
    /// once when it is over.
    ///
    /// If the watchdog itself was away for long, the whole machine may have been: workers get
    /// another tick to show up.
    pub(crate) fn tick(
        &mut self,
        now: Now,
        last_polls: impl Iterator<Item = Now>,
        mut report: impl FnMut(Stall),
    ) {
        let was_away = self.last_tick.replace(now).is_none_or(|last| since(last, now) >= STALL_MIN);
        for ((worker, watched), last_poll) in self.workers.iter_mut().enumerate().zip(last_polls) {
            let silent = since(last_poll, now);
            if silent < STALL_MIN {
                if let Some(silent) = watched.stalled.take() {
                    report(Stall { worker, silent, is_over: true });
                }
            } else if let Some(stalled) = &mut watched.stalled {
                *stalled = silent;
            } else if !was_away {
                watched.stalls += 1;
                watched.stalled = Some(silent);
                report(Stall { worker, silent, is_over: false });
            }
        }
    }

    /// How often a worker stalled.
    pub(crate) fn stalls(&self, worker: usize) -> u64 {
        self.workers.get(worker).map_or(0, |watched| watched.stalls)
    }
}

fn since(earlier: Now, later: Now) -> Duration {
    Duration::from_nanos(later.nanoseconds.saturating_sub(earlier.nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { nanoseconds: ms * 1_000_000 }
    }

    fn tick(watchdog: &mut Watchdog, now_ms: u64, last_poll_ms: u64) -> Vec<(u128, bool)> {
        let mut stalls = Vec::new();
        watchdog.tick(at(now_ms), [at(last_poll_ms)].into_iter(), |stall| {
            stalls.push((stall.silent.as_millis(), stall.is_over));
        });
        stalls
    }

    #[test]
    fn a_stall_is_reported_when_it_begins_and_when_it_is_over() {
        let mut watchdog = Watchdog::new(1);
        assert_eq!(tick(&mut watchdog, 10, 9), []);
        assert_eq!(tick(&mut watchdog, 100, 9), []);
        assert_eq!(tick(&mut watchdog, 110, 9), [(101, false)]);
        assert_eq!(tick(&mut watchdog, 200, 9), []);
        assert_eq!(tick(&mut watchdog, 210, 205), [(191, true)]);
        assert_eq!(tick(&mut watchdog, 220, 215), []);
        assert_eq!(watchdog.stalls(0), 1);
    }

    #[test]
    fn workers_are_not_blamed_for_the_watchdogs_own_absence() {
        let mut watchdog = Watchdog::new(1);
        assert_eq!(tick(&mut watchdog, 10, 9), []);
        assert_eq!(tick(&mut watchdog, 5000, 9), []);
        assert_eq!(tick(&mut watchdog, 5010, 5005), []);
        assert_eq!(tick(&mut watchdog, 9000, 5005), []);
        assert_eq!(tick(&mut watchdog, 9010, 5005), [(4005, false)]);
    }
}
