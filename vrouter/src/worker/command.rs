//! What the main thread tells a worker, and what the worker gives back: two rings with one producer
//! and one consumer each.

use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Release},
    },
};

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use super::queues::QUEUES_MAX;
use crate::{
    idle::Doorbell,
    port::{PORTS_MAX, PortQueue, PortRef},
};

/// Commands under way to one worker: all ports may come and go at once.
const COMMANDS_MAX: usize = 4 * PORTS_MAX;

/// Replies under way from one worker: it can give back every queue that it owns or was sent.
const REPLIES_MAX: usize = QUEUES_MAX + COMMANDS_MAX;

/// What a worker is told.
pub(crate) enum Command {
    /// Own this queue.
    Attach { port: PortRef, queue: Box<dyn PortQueue> },
    /// Packets to this port go through a queue of that worker; of a worker that has a queue of its
    /// own, while that is not open.
    SendVia { port: PortRef, worker: u16 },
    /// Give all queues of this port back, and send nothing there any more.
    Detach { port: PortRef },
    /// Return from the thread.
    Stop,
}

/// What a worker gives back.
pub(crate) enum Reply {
    /// As told.
    Returned { port: PortRef, queue: Box<dyn PortQueue> },
    /// Its far side is gone.
    Lost { port: PortRef, queue: Box<dyn PortQueue> },
}

/// The rings between the main thread and a worker that sleeps at `bell`.
pub(crate) fn channel(bell: Arc<Doorbell>) -> (CommandSender, CommandReceiver) {
    let (commands, incoming) = RingBuffer::new(COMMANDS_MAX);
    let (outgoing, replies) = RingBuffer::new(REPLIES_MAX);
    let done = Arc::new(AtomicU64::new(0));
    let sender = CommandSender { commands, replies, bell, sent: 0, done: Arc::clone(&done) };
    (sender, CommandReceiver { commands: incoming, replies: outgoing, done })
}

/// The main thread's ends.
pub(crate) struct CommandSender {
    commands: Producer<Command>,
    replies: Consumer<Reply>,
    bell: Arc<Doorbell>,
    sent: u64,
    done: Arc<AtomicU64>,
}

impl CommandSender {
    /// Sends a command; gives it back if the ring is full.
    pub(crate) fn send(&mut self, command: Command) -> Result<(), Command> {
        self.commands.push(command).map_err(|PushError::Full(command)| command)?;
        self.sent = self.sent.wrapping_add(1);
        self.bell.ring();
        Ok(())
    }

    /// What the worker gave back, one at a time.
    pub(crate) fn reply(&mut self) -> Option<Reply> {
        self.replies.pop().ok()
    }

    /// The number of the last command sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the worker has carried out command number `number` and all before it; its replies to
    /// them are in the ring.
    pub(crate) fn is_done(&self, number: u64) -> bool {
        self.done.load(Acquire) >= number
    }

    /// Wakes the worker if it sleeps.
    pub(crate) fn wake(&self) {
        self.bell.ring();
    }
}

/// The worker's ends.
pub(crate) struct CommandReceiver {
    commands: Consumer<Command>,
    replies: Producer<Reply>,
    /// Written by the worker, read by the main thread.
    done: Arc<AtomicU64>,
}

impl CommandReceiver {
    pub(super) fn pop(&mut self) -> Option<Command> {
        self.commands.pop().ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// The command popped last is carried out.
    pub(super) fn done(&self) {
        // Release: who sees the number sees the replies.
        self.done.store(self.done.load(Acquire).wrapping_add(1), Release);
    }

    /// Gives something back; returns it if the ring is full.
    pub(super) fn reply(&mut self, reply: Reply) -> Result<(), Reply> {
        self.replies.push(reply).map_err(|PushError::Full(reply)| reply)
    }
}
