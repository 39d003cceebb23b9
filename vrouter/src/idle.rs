//! What a worker does when there is nothing to do.
//!
//! An adaptive worker spins through [`EMPTY_POLLS_BEFORE_SLEEP`] polls, then sleeps on the
//! descriptors of its queues and on its bell, which other workers and the main thread ring. A busy
//! worker never sleeps.
//!
//! No wake-up is lost: descriptors are level-triggered, and for rings in memory a `SleepFlag` makes
//! sure that either the sleeper sees the item or the one who pushed it sees the sleeper.

mod doorbell;
#[cfg(test)]
mod loom_model;
mod sleep_flag;

use std::{
    io,
    sync::{Arc, atomic},
    time::Duration,
};

use arrayvec::ArrayVec;
pub(crate) use doorbell::Doorbell;
use rustix::{
    event::{Timespec, epoll},
    fd::OwnedFd,
};

use crate::port::PortQueue;

/// How many polls in a row find nothing before a worker sleeps: a kernel that sends 32 frames a
/// kick (copy mode) needs 64 of them to empty a transmit ring of 2048, and an answer that is on its
/// way (some 10 µs) still finds the worker awake.
pub const EMPTY_POLLS_BEFORE_SLEEP: u32 = 128;

/// The longest sleep: bounds how late housekeeping is, well below what the watchdog takes for a
/// stall.
const SLEEP_MAX: Duration = Duration::from_millis(10);

/// The longest sleep while some queue has no descriptor to wake us.
const SLEEP_MAX_POLLED: Duration = Duration::from_millis(1);

/// Queues that one wake-up names; beyond that, all are looked at.
const WOKEN_MAX: usize = 16;

/// What the bell is called among the queues.
const BELL_KEY: u64 = u64::MAX;

/// What a worker does when its queues are empty.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IdleMode {
    /// Spins for a moment, then sleeps until there is something to do.
    #[default]
    Adaptive,
    /// Polls without end.
    Busy,
}

impl IdleMode {
    /// The word that the configuration and the operator's view use.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Adaptive => "adaptive",
            Self::Busy => "busy",
        }
    }
}

/// Where a worker sleeps.
#[derive(Debug)]
pub(crate) struct Bed {
    epoll: OwnedFd,
    bell: Arc<Doorbell>,
    /// Queues that have no descriptor.
    polled_queues: usize,
}

/// Why a worker woke up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Wake {
    /// There is something to do: in these queues, or in what the bell announces.
    Called(ArrayVec<u16, WOKEN_MAX>),
    /// There is something to do, in more queues than can be named.
    CalledByMany,
    /// Nothing happened for as long as a sleep may last.
    TimedOut,
}

impl Bed {
    /// A place to sleep where `bell` can be heard.
    pub(crate) fn new(bell: Arc<Doorbell>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let key = epoll::EventData::new_u64(BELL_KEY);
        epoll::add(&epoll, bell.descriptor(), key, epoll::EventFlags::IN)?;
        Ok(Self { epoll, bell, polled_queues: 0 })
    }

    /// Wakes up for this queue from now on, and calls it `key`.
    pub(crate) fn watch(&mut self, queue: &dyn PortQueue, key: u16) {
        let added = queue.wait_descriptor().is_some_and(|descriptor| {
            let key = epoll::EventData::new_u64(key.into());
            epoll::add(&self.epoll, descriptor, key, epoll::EventFlags::IN).is_ok()
        });
        if !added {
            self.polled_queues += 1;
        }
    }

    /// Wakes up for this queue no more.
    pub(crate) fn forget(&mut self, queue: &dyn PortQueue) {
        let removed = queue
            .wait_descriptor()
            .is_some_and(|descriptor| epoll::delete(&self.epoll, descriptor).is_ok());
        if !removed {
            self.polled_queues = self.polled_queues.saturating_sub(1);
        }
    }

    /// The queues that have something to receive, or some of them if there are many: others are
    /// named next time. Does not sleep.
    pub(crate) fn look(&self) -> ArrayVec<u16, WOKEN_MAX> {
        let (events, count) = self.wait(Duration::ZERO);
        // After an error, such as a signal, there is a next time.
        let keys = events.iter().take(count.unwrap_or(0)).map(|event| event.data.u64());
        keys.filter_map(|key| u16::try_from(key).ok()).collect()
    }

    /// Sleeps until something is to do, unless `has_work` says that there is already.
    ///
    /// `has_work` looks into what the bell announces: it is asked after the bell was told to ring.
    pub(crate) fn sleep(&self, has_work: impl FnOnce() -> bool) -> Wake {
        self.bell.arm();
        if has_work() {
            self.bell.disarm();
            return Wake::Called(ArrayVec::new());
        }
        let longest = if self.polled_queues == 0 { SLEEP_MAX } else { SLEEP_MAX_POLLED };
        let (events, woken) = self.wait(longest);
        self.bell.disarm();
        match woken {
            Ok(0) => Wake::TimedOut,
            Ok(count) if count < WOKEN_MAX => {
                let keys = events.iter().take(count).map(|event| event.data.u64());
                Wake::Called(keys.filter_map(|key| u16::try_from(key).ok()).collect())
            }
            // Also after an error, such as a signal: a look around is no harm.
            _ => Wake::CalledByMany,
        }
    }

    /// What is ready within `longest`: the first so many events.
    fn wait(&self, longest: Duration) -> ([epoll::Event; WOKEN_MAX], rustix::io::Result<usize>) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
        let nothing = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(BELL_KEY),
        };
        let mut events = [nothing; WOKEN_MAX];
        let count = epoll::wait(&self.epoll, &mut events[..], Some(&timeout));
        (events, count)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rtrb::RingBuffer;

    use super::*;

    #[test]
    fn no_wake_up_is_lost_between_a_ring_and_a_sleeper() {
        const ITEMS: u32 = 50_000;
        let bell = Arc::new(Doorbell::new().unwrap());
        let bed = Bed::new(Arc::clone(&bell)).unwrap();
        let (mut producer, mut consumer) = RingBuffer::<u32>::new(1);
        let worker = thread::spawn(move || {
            let mut timeouts = 0;
            for expected in 0..ITEMS {
                while consumer.is_empty() {
                    let wake = bed.sleep(|| !consumer.is_empty());
                    // Asleep to the end of the time with an item in the ring: the wake-up was lost.
                    timeouts += u32::from(wake == Wake::TimedOut && !consumer.is_empty());
                }
                assert_eq!(consumer.pop(), Ok(expected));
            }
            timeouts
        });
        for item in 0..ITEMS {
            while producer.push(item).is_err() {
                thread::yield_now();
            }
            bell.ring();
        }
        // On a machine that stalls, an item may come at the very end of a sleep: a lost wake-up
        // would be the rule instead.
        assert!(worker.join().unwrap() < ITEMS / 1000);
    }

    #[test]
    fn a_ring_before_the_sleep_wakes_at_once() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let bed = Bed::new(Arc::clone(&bell)).unwrap();
        assert_eq!(bed.sleep(|| true), Wake::Called(ArrayVec::new()));
        let ringer = Arc::clone(&bell);
        assert_eq!(
            bed.sleep(|| {
                ringer.ring();
                false
            }),
            Wake::Called(ArrayVec::new())
        );
        assert_eq!(bed.sleep(|| false), Wake::TimedOut);
    }
}
