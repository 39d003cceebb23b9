//! How workers get what the main thread compiled: one publisher, a subscriber per worker.
//!
//! ```text
//! main thread                         worker, at a burst boundary
//! publish(next): swap current ──────► refresh(): version moved? take current, if
//!   keep the old one as retired       nobody holds the lock (else later)
//!   free retired ones that no worker holds any more
//! ```
//!
//! A worker never waits and never frees a snapshot: the publisher holds a reference to each until
//! it is the only one that does. Retired snapshots pile up while a worker is stuck; the watchdog
//! reports such a worker. Snapshots share their tables, so one that is kept costs what changed
//! since. The publisher must outlive its subscribers, or a worker frees the last snapshot.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// What can be published: it carries its own version, so that the two can never differ.
pub trait Versioned {
    /// Grows with each publication.
    fn version(&self) -> u64;
}

#[derive(Debug)]
struct Shared<T> {
    /// Written by the publisher after `current`; a hint that spares workers the lock.
    version: AtomicU64,
    current: Mutex<Arc<T>>,
}

/// The main thread's end.
#[derive(Debug)]
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    retired: Vec<Arc<T>>,
}

impl<T: Versioned> Publisher<T> {
    /// A publisher of `first`.
    pub fn new(first: T) -> Self {
        let shared = Shared {
            version: AtomicU64::new(first.version()),
            current: Mutex::new(Arc::new(first)),
        };
        Self { shared: Arc::new(shared), retired: Vec::new() }
    }

    /// Makes `next` current. Old snapshots that no worker holds are freed here, never on a worker.
    pub fn publish(&mut self, next: T) {
        let version = next.version();
        let next = Arc::new(next);
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        self.retired.push(std::mem::replace(&mut *current, next));
        drop(current);
        // After the swap: a worker that sees the new version finds the new snapshot.
        self.shared.version.store(version, Ordering::Release);
        self.reclaim();
    }

    /// Frees the retired snapshots that no worker holds; returns how many are still held.
    pub fn reclaim(&mut self) -> usize {
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        self.retired.len()
    }

    /// What is published now.
    #[must_use]
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.shared.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new end for a worker.
    #[must_use]
    pub fn subscribe(&self) -> Subscriber<T> {
        Subscriber { current: self.current(), shared: Arc::clone(&self.shared) }
    }
}

/// A worker's end.
#[derive(Debug)]
pub struct Subscriber<T> {
    shared: Arc<Shared<T>>,
    current: Arc<T>,
}

impl<T: Versioned> Subscriber<T> {
    /// Takes the newest snapshot if there is a newer one, and returns the version now held.
    ///
    /// Never waits: under contention the snapshot stays for another burst.
    pub fn refresh(&mut self) -> u64 {
        if self.shared.version.load(Ordering::Acquire) != self.current.version() {
            self.take_current();
        }
        self.current.version()
    }

    /// The snapshot of the last [`Self::refresh`].
    #[must_use]
    pub fn snapshot(&self) -> &T {
        &self.current
    }

    #[cold]
    fn take_current(&mut self) {
        if let Ok(current) = self.shared.current.try_lock() {
            // The old one is not freed here: the publisher holds it as retired.
            self.current = Arc::clone(&current);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread::{self, ThreadId},
    };

    use super::{Publisher, Versioned};

    struct Tracked {
        version: u64,
        freed_elsewhere: Arc<AtomicBool>,
        home: ThreadId,
    }

    impl Versioned for Tracked {
        fn version(&self) -> u64 {
            self.version
        }
    }

    impl Drop for Tracked {
        fn drop(&mut self) {
            if thread::current().id() != self.home {
                self.freed_elsewhere.store(true, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn a_subscriber_sees_versions_grow_and_frees_none() {
        let freed_elsewhere = Arc::new(AtomicBool::new(false));
        let make = |version| Tracked {
            version,
            freed_elsewhere: Arc::clone(&freed_elsewhere),
            home: thread::current().id(),
        };
        let mut publisher = Publisher::new(make(1));
        let last = 20_000;
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let mut subscriber = publisher.subscribe();
                thread::spawn(move || {
                    let mut seen = 0;
                    while seen < last {
                        let version = subscriber.refresh();
                        assert!(version >= seen, "version went back from {seen} to {version}");
                        assert_eq!(version, subscriber.snapshot().version);
                        seen = version;
                    }
                    subscriber
                })
            })
            .collect();
        for version in 2..=last {
            publisher.publish(make(version));
        }
        // The subscribers come back to this thread, as workers' do when they are joined.
        let subscribers: Vec<_> =
            workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        drop(subscribers);
        assert_eq!(publisher.reclaim(), 0);
        drop(publisher);
        assert!(!freed_elsewhere.load(Ordering::Relaxed));
    }

    #[test]
    fn a_snapshot_in_use_is_kept() {
        struct Plain(u64);
        impl Versioned for Plain {
            fn version(&self) -> u64 {
                self.0
            }
        }
        let mut publisher = Publisher::new(Plain(1));
        let mut subscriber = publisher.subscribe();
        publisher.publish(Plain(2));
        publisher.publish(Plain(3));
        assert_eq!(publisher.reclaim(), 1);
        assert_eq!(subscriber.snapshot().0, 1);
        assert_eq!(subscriber.refresh(), 3);
        assert_eq!(publisher.reclaim(), 0);
    }
}
