//! Wakes a worker that sleeps; costs one load if it does not.

use std::io;

use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::sleep_flag::SleepFlag;

/// One worker's bell. The worker arms it; other workers and the main thread ring it.
#[derive(Debug)]
pub(crate) struct Doorbell {
    flag: SleepFlag,
    event: OwnedFd,
}

impl Doorbell {
    /// A bell that is not armed.
    pub(crate) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { flag: SleepFlag::new(), event })
    }

    /// Readable once the bell was rung while armed.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// From here on, a ring makes the descriptor readable.
    pub(super) fn arm(&self) {
        self.flag.raise();
    }

    /// The worker is awake: rings cost nothing again.
    pub(super) fn disarm(&self) {
        self.flag.lower();
        // Empty (EAGAIN) unless somebody rang.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    /// Wakes the worker if it sleeps. To be called after the work was made visible.
    pub(crate) fn ring(&self) {
        if self.flag.take() {
            // Fails only if the count is at its limit, and then the descriptor is readable already.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}
