//! What a session and the worker of a queue say to each other.
//!
//! ```text
//!  session ── start with these rings | stop ──► worker
//!          ◄── the rings back, where they stand ──
//! ```
//!
//! Both ways are bounded and lock-free: a worker never waits for a session. A session that stops a
//! queue waits for the answer; the queue's event wakes a worker that sleeps. The rings belong to
//! exactly one of the two at any moment.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
};

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use super::ring::{Ring, RingFault};
use crate::packet::Offloads;

/// Orders and answers under way at most: a start, a stop, and as many again for a worker that is
/// slow.
const ORDERS_MAX: usize = 4;

/// What the queue's epoll calls its events; nobody reads it.
const ANY_KEY: u64 = 0;

/// The rings of one queue, both ways.
#[derive(Debug)]
pub struct QueuePair {
    /// From the guest: its transmit queue.
    pub rx: Ring,
    /// To the guest: its receive queue.
    pub tx: Ring,
    /// What the guest takes unfinished, as negotiated (`VIRTIO_NET_F_GUEST_*`).
    pub offloads: Offloads,
}

/// What a session tells a queue to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Move packets through these rings.
    Start(Box<QueuePair>),
    /// Give the rings back.
    Stop,
}

/// What a queue tells its session.
#[derive(Debug)]
pub enum Answer {
    /// Nothing moves through the queue any more; the rings, if it had some.
    Stopped(Option<Box<QueuePair>>),
    /// A driver broke the rules of a ring: the queue stopped of its own accord.
    Broken(Box<QueuePair>, RingFault),
}

/// The queue does not take the order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum OrderError {
    #[error("the port is closed")]
    Closed,
    #[error("the queue's worker has not done yet what it was told before")]
    Busy,
}

/// The session's end of a queue.
#[derive(Debug)]
pub struct QueueControl {
    shared: Arc<Shared>,
}

/// The queue's end.
#[derive(Debug)]
pub(super) struct QueueOrders {
    shared: Arc<Shared>,
}

/// What both ends have.
#[derive(Debug)]
struct Shared {
    /// Written by the session, read by the worker.
    orders: ArrayQueue<Order>,
    /// Written by the worker, read by the session.
    answers: ArrayQueue<Answer>,
    /// Readable while the worker has not looked at an order.
    ordered: OwnedFd,
    /// Readable while the session has not looked at an answer.
    answered: OwnedFd,
    /// Readable for `ordered` and for kicks: what a worker sleeps on.
    wait: OwnedFd,
    /// Written by the queue when its port is closed.
    is_closed: AtomicBool,
}

/// Two ends that belong together.
pub(super) fn channel() -> io::Result<(QueueOrders, QueueControl)> {
    let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let (ordered, answered) = (event()?, event()?);
    let wait = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let key = epoll::EventData::new_u64(ANY_KEY);
    epoll::add(&wait, &ordered, key, epoll::EventFlags::IN)?;
    let shared = Arc::new(Shared {
        orders: ArrayQueue::new(ORDERS_MAX),
        answers: ArrayQueue::new(ORDERS_MAX),
        ordered,
        answered,
        wait,
        is_closed: AtomicBool::new(false),
    });
    Ok((QueueOrders { shared: Arc::clone(&shared) }, QueueControl { shared }))
}

impl QueueControl {
    /// Hands rings to the queue, which moves packets through them from now on.
    ///
    /// # Errors
    ///
    /// Gives them back if the queue is closed, or has not done yet what it was told before.
    pub fn start(&self, pair: Box<QueuePair>) -> Result<(), (Box<QueuePair>, OrderError)> {
        if let Err(error) = self.check() {
            return Err((pair, error));
        }
        if let Some(kick) = pair.rx.kick() {
            // Edge-triggered: one look at the events makes it quiet, without reading the counter.
            let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
            let key = epoll::EventData::new_u64(ANY_KEY);
            // It fails only for a descriptor that cannot be waited for: a worker's longest sleep
            // then bounds how late a packet is.
            let _ = epoll::add(&self.shared.wait, kick, key, events);
        }
        // There is room, and nobody else writes.
        let _ = self.shared.orders.push(Order::Start(pair));
        signal(&self.shared.ordered);
        Ok(())
    }

    /// Asks for the rings back. An [`Answer::Stopped`] comes when the worker is next awake, also if
    /// there are none.
    ///
    /// # Errors
    ///
    /// Fails if the queue is closed, or has not done yet what it was told before.
    pub fn stop(&self) -> Result<(), OrderError> {
        self.check()?;
        let _ = self.shared.orders.push(Order::Stop);
        signal(&self.shared.ordered);
        Ok(())
    }

    /// What the queue has to say, oldest first. Clears [`Self::answered`] once there is nothing
    /// more.
    #[must_use]
    pub fn answer(&self) -> Option<Answer> {
        let answer = self.shared.answers.pop().or_else(|| {
            clear(&self.shared.answered);
            // One that came before the clearing would be overlooked else.
            self.shared.answers.pop()
        })?;
        if let Answer::Stopped(Some(pair)) | Answer::Broken(pair, _) = &answer
            && let Some(kick) = pair.rx.kick()
        {
            let _ = epoll::delete(&self.shared.wait, kick);
        }
        Some(answer)
    }

    /// Readable while there is an answer.
    #[must_use]
    pub fn answered(&self) -> BorrowedFd<'_> {
        self.shared.answered.as_fd()
    }

    /// Whether the port is closed: the rings are in the last answer, if there were some, and no
    /// order is obeyed any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed.load(Acquire)
    }

    fn check(&self) -> Result<(), OrderError> {
        if self.is_closed() {
            return Err(OrderError::Closed);
        }
        if self.shared.orders.is_full() {
            return Err(OrderError::Busy);
        }
        Ok(())
    }
}

impl Drop for QueueControl {
    /// Rings of a session that is gone would keep its guest's memory.
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

impl QueueOrders {
    /// The next order.
    pub(super) fn take(&self) -> Option<Order> {
        self.shared.orders.pop()
    }

    /// Whether there is an order.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        !self.shared.orders.is_empty()
    }

    /// Tells the session. Enters the kernel.
    pub(super) fn tell(&self, answer: Answer) -> Result<(), Answer> {
        self.shared.answers.push(answer)?;
        signal(&self.shared.answered);
        Ok(())
    }

    /// What a worker sleeps on.
    pub(super) fn wait_descriptor(&self) -> BorrowedFd<'_> {
        self.shared.wait.as_fd()
    }

    /// Makes what a worker sleeps on quiet until the next kick or order. Enters the kernel.
    pub(super) fn quieten(&self) {
        clear(&self.shared.ordered);
        let mut events = ArrayVec::<epoll::Event, 2>::new();
        let nothing =
            epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        events.extend([nothing; 2]);
        let _ = epoll::wait(&self.shared.wait, &mut events[..], Some(&Timespec::default()));
    }

    /// No order is obeyed from now on.
    pub(super) fn close(&self) {
        self.shared.is_closed.store(true, Release);
    }
}

/// Makes an event readable.
pub(super) fn signal(event: &OwnedFd) {
    // It fails only if the count is at its limit, and then the descriptor is readable already.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

pub(super) fn clear(event: &OwnedFd) {
    // It fails only if the count is zero.
    let _ = rustix::io::read(event, &mut [0; 8]);
}
