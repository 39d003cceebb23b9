//! Tells a driver that something was used, and never waits for it.
//!
//! The event belongs to the frontend as much as to us. One that clears `O_NONBLOCK` and fills the
//! counter makes whoever writes to it wait, and Linux has no write to an eventfd that cannot be
//! made to. But when the kernel itself signals an eventfd, it only adds to the counter, and leaves
//! it where it is full. So each event is registered with an `io_uring` of its own: an operation
//! that does nothing completes at once, and its completion is what signals.
//!
//! Where `io_uring` is forbidden (`kernel.io_uring_disabled`, a seccomp filter), events are
//! written.
//!
//! # Safety boundary
//!
//! The only unsafe code queues an operation that refers to no memory.
#![expect(unsafe_code, reason = "queues an operation of io_uring")]

use std::{
    fmt, io,
    os::fd::{AsRawFd, OwnedFd},
};

use io_uring::{IoUring, opcode};

use super::orders::signal;

/// Operations under way: one, which is over when its submission returns.
const ENTRIES: u32 = 1;

/// A driver's event.
pub(super) enum Call {
    /// The kernel signals it.
    Completion {
        /// What the event is registered with.
        ring: Box<IoUring>,
        /// The kernel had no memory for the last signal: it is still to be given.
        is_owed: bool,
    },
    /// It is written, for want of `io_uring`.
    Write(OwnedFd),
}

impl Call {
    /// Takes an event over. Allocates, and enters the kernel.
    pub(super) fn new(event: OwnedFd) -> Self {
        match register(&event) {
            // The kernel keeps the event as long as the ring lives.
            Ok(ring) => Self::Completion { ring: Box::new(ring), is_owed: false },
            Err(_) => Self::Write(event),
        }
    }

    /// Whether a signal is still to be given.
    #[inline]
    pub(super) fn is_owed(&self) -> bool {
        matches!(self, Self::Completion { is_owed: true, .. })
    }

    /// Signals. Enters the kernel, once.
    pub(super) fn signal(&mut self) {
        match self {
            Self::Completion { ring, is_owed } => *is_owed = complete(ring, *is_owed).is_err(),
            Self::Write(event) => signal(event),
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Completion { .. } => "Completion",
            Self::Write(_) => "Write",
        })
    }
}

fn register(event: &OwnedFd) -> io::Result<IoUring> {
    let ring = IoUring::new(ENTRIES)?;
    ring.submitter().register_eventfd(event.as_raw_fd())?;
    Ok(ring)
}

/// Submits an operation that completes at once, or the one that is still queued.
fn complete(ring: &mut IoUring, is_queued: bool) -> io::Result<()> {
    if !is_queued {
        let nothing = opcode::Nop::new().build();
        // SAFETY: a no-op refers to no memory. There is room: the former one is gone.
        let _ = unsafe { ring.submission().push(&nothing) };
    }
    let result = ring.submit();
    // Room for the next completion.
    ring.completion().for_each(drop);
    result.map(drop)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use rustix::{
        event::{EventfdFlags, eventfd},
        fs::{OFlags, fcntl_getfl, fcntl_setfl},
    };

    use super::*;

    /// A call, and what the frontend has of it; `None`, loudly, without `io_uring`.
    fn call() -> Option<(Call, OwnedFd)> {
        let event = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let call = Call::new(event.try_clone().unwrap());
        if matches!(call, Call::Write(_)) {
            eprintln!("SKIPPED: io_uring is not available here");
            return None;
        }
        Some((call, event))
    }

    fn count(event: &OwnedFd) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(event, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn each_signal_is_counted() {
        let Some((mut call, event)) = call() else { return };
        assert_eq!(count(&event), 0);
        for signals in 1..100 {
            (0..signals).for_each(|_| call.signal());
            assert_eq!(count(&event), signals);
        }
        // It signals wherever it was made.
        thread::spawn(move || call.signal()).join().unwrap();
        assert_eq!(count(&event), 1);
    }

    #[test]
    fn a_frontend_that_fills_the_counter_of_a_blocking_event_delays_nobody() {
        let Some((mut call, event)) = call() else { return };
        let flags = fcntl_getfl(&event).unwrap();
        fcntl_setfl(&event, flags.difference(OFlags::NONBLOCK)).unwrap();
        let full = u64::MAX - 1;
        rustix::io::write(&event, &full.to_ne_bytes()).unwrap();
        let (sender, done) = mpsc::channel();
        let worker = thread::spawn(move || {
            (0..1000).for_each(|_| call.signal());
            sender.send(()).unwrap();
        });
        done.recv_timeout(Duration::from_mins(1)).expect("a signal waits for the frontend");
        worker.join().unwrap();
        assert!(count(&event) >= full);
    }
}
