//! The queues of a port as its session has them: started, stopped, and given back.
//!
//! Rings belong to the session or to a worker. The session stops a queue and waits for the answer
//! before it changes anything that the rings rest on; the wait has a limit, and memory is not
//! touched while an answer is due.

use std::{
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    orders::{Answer, OrderError, QueueControl, QueuePair},
    ring::{RingFault, RingPosition},
};

/// How long a worker may take to give rings back: twenty times what the watchdog calls a stall.
const WORKER_WAIT_MAX: Duration = Duration::from_secs(2);

/// All queues of a port.
#[derive(Debug)]
pub(super) struct Queues(Vec<Queue>);

#[derive(Debug)]
struct Queue {
    control: QueueControl,
    /// The worker has rings: they come back in one answer.
    has_rings: bool,
    /// The worker was told to give them back.
    is_stopping: bool,
}

/// Where the rings of a queue stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Positions {
    /// Of the ring from the guest.
    pub(super) rx: RingPosition,
    /// Of the ring to the guest.
    pub(super) tx: RingPosition,
}

/// A queue that stopped of its own accord.
#[derive(Debug)]
pub(super) struct Fallen {
    /// Its number.
    pub(super) queue: usize,
    /// Where its rings stand.
    pub(super) positions: Positions,
    /// What the driver did, unless the port is being closed.
    pub(super) fault: Option<RingFault>,
}

/// Why a queue could not be stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum StopQueueError {
    #[error(
        "the worker of queue {queue} does not answer within {} s; see what keeps its cpu",
        WORKER_WAIT_MAX.as_secs()
    )]
    Late { queue: usize },
}

impl Queues {
    pub(super) fn new(controls: Vec<QueueControl>) -> Self {
        let idle = |control| Queue { control, has_rings: false, is_stopping: false };
        Self(controls.into_iter().map(idle).collect())
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn running_count(&self) -> usize {
        self.0.iter().filter(|queue| queue.has_rings).count()
    }

    /// Whether no worker has any rings.
    pub(super) fn are_idle(&self) -> bool {
        self.0.iter().all(|queue| !queue.has_rings)
    }

    pub(super) fn is_idle(&self, queue: usize) -> bool {
        self.0.get(queue).is_some_and(|queue| !queue.has_rings)
    }

    /// Readable when a queue has something to say.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|queue| queue.control.answered())
    }

    /// Hands rings to a worker.
    pub(super) fn start(&mut self, queue: usize, rings: QueuePair) -> Result<(), OrderError> {
        let Some(queue) = self.0.get_mut(queue) else { return Ok(()) };
        queue.control.start(Box::new(rings)).map_err(|(_, error)| error)?;
        (queue.has_rings, queue.is_stopping) = (true, false);
        Ok(())
    }

    /// Takes rings back from a worker, if it has some; where they stand.
    pub(super) fn stop(&mut self, queue: usize) -> Result<Option<Positions>, StopQueueError> {
        let Some(entry) = self.0.get_mut(queue) else { return Ok(None) };
        entry.order_stop();
        let deadline = Instant::now() + WORKER_WAIT_MAX;
        while entry.has_rings {
            match entry.rings_back() {
                Some((positions, _)) => return Ok(Some(positions)),
                None if Instant::now() >= deadline => {
                    return Err(StopQueueError::Late { queue });
                }
                None => wait_for(entry.control.answered(), deadline),
            }
        }
        Ok(None)
    }

    /// Tells all queues to stop, without waiting for them.
    pub(super) fn begin_to_stop(&mut self) {
        self.0.iter_mut().for_each(Queue::order_stop);
    }

    /// What queues did of their own accord, or were late to do.
    pub(super) fn take_fallen(&mut self) -> Vec<Fallen> {
        let mut fallen = Vec::new();
        for (number, queue) in self.0.iter_mut().enumerate() {
            while let Some((positions, fault)) = queue.rings_back() {
                fallen.push(Fallen { queue: number, positions, fault });
            }
        }
        fallen
    }
}

impl Queue {
    fn order_stop(&mut self) {
        if self.has_rings && !self.is_stopping {
            // A closed queue takes no orders, and gives its rings back all the same. One that is
            // busy is asked again by the next stop.
            self.is_stopping = !matches!(self.control.stop(), Err(OrderError::Busy));
        }
    }

    /// Where the rings stand that came back, and what the driver did to them. What came to nothing
    /// is passed over: a queue that stops of its own accord still answers the order to stop that
    /// was on its way to it.
    fn rings_back(&mut self) -> Option<(Positions, Option<RingFault>)> {
        loop {
            let (rings, fault) = match self.control.answer()? {
                Answer::Stopped(None) => continue,
                Answer::Stopped(Some(rings)) => (rings, None),
                Answer::Broken(rings, fault) => (rings, Some(fault)),
            };
            (self.has_rings, self.is_stopping) = (false, false);
            let QueuePair { rx, tx, .. } = *rings;
            return Some((Positions { rx: rx.position(), tx: tx.position() }, fault));
        }
    }
}

/// Waits until `descriptor` is readable, or `deadline`.
fn wait_for(descriptor: BorrowedFd<'_>, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).ok();
    // After an error, such as a signal, the caller looks and waits again.
    let _: Result<usize, Errno> =
        poll(&mut [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)], timeout.as_ref());
}
