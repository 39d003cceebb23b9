//! A queue pair of a vhost-user port: the port queue that a worker polls.
//!
//! Without rings, while no session has set some up, it receives nothing and drops what it is to
//! send. Orders are obeyed, answers given and events written in `flush` alone. Packets are copied
//! in and out, so that a queue owns no frame but that of one example of what it dropped.

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::{io, os::fd::BorrowedFd};

use super::{
    orders::{Answer, Order, QueueControl, QueueOrders, QueuePair, channel},
    receive::Receiver,
    ring::{Ring, RingEngine, RingFault},
    send::Sender,
    tally::{RefusedExample, RefusedTally},
    truncation::strikes,
};
use crate::{
    burst::Burst,
    drops::DropReason,
    memory::FramePool,
    packet::{Offloads, Packet},
    port::{PeerGone, PortQueue, PortRef},
    stats::{SentTally, WorkerStats},
};

/// A queue pair, with rings while a session has set some up.
#[derive(Debug)]
pub struct VhostUserQueue {
    port: PortRef,
    orders: QueueOrders,
    pair: Option<Box<QueuePair>>,
    /// How the driver broke the rules of a ring, since the rings last came.
    fault: Option<RingFault>,
    /// The session had no room for it yet.
    unanswered: Option<Answer>,
    refused: RefusedTally,
    example: RefusedExample,
    /// The driver was asked for kicks.
    is_armed: bool,
    /// What the worker sleeps on was readable, and is until somebody looks at what is behind it.
    was_woken: bool,
    /// Guest mappings that had lost their files when this queue last looked.
    strikes_seen: usize,
}

impl VhostUserQueue {
    /// A queue without rings; what it receives comes in on `port`. The second half is its
    /// session's.
    ///
    /// # Errors
    ///
    /// Fails if there are no descriptors left for its events.
    pub fn new(port: PortRef) -> io::Result<(Self, QueueControl)> {
        let (orders, control) = channel()?;
        let queue = Self {
            port,
            orders,
            pair: None,
            fault: None,
            unanswered: None,
            refused: RefusedTally::default(),
            example: RefusedExample::default(),
            is_armed: false,
            was_woken: false,
            strikes_seen: strikes(),
        };
        Ok((queue, control))
    }

    #[cold]
    fn obey(&mut self) {
        self.answer();
        while self.unanswered.is_none()
            && let Some(order) = self.orders.take()
        {
            match order {
                Order::Start(mut pair) => {
                    pair.rx.disarm();
                    pair.tx.disarm();
                    // A session starts a queue that it has stopped; were it not so, it gets the
                    // former rings back.
                    let former = self.pair.replace(pair);
                    self.unanswered = former.map(|pair| Answer::Stopped(Some(pair)));
                    (self.fault, self.is_armed) = (None, false);
                }
                Order::Stop => {
                    self.unanswered = Some(Answer::Stopped(self.pair.take()));
                    self.fault = None;
                }
            }
            self.answer();
        }
    }

    fn answer(&mut self) {
        if let Some(answer) = self.unanswered.take() {
            self.unanswered = self.orders.tell(answer).err();
        }
    }

    /// Gives up rings whose driver broke the rules. The fault stays, to tell what packets die of.
    #[cold]
    fn give_up(&mut self, fault: RingFault) {
        if self.unanswered.is_none()
            && let Some(pair) = self.pair.take()
        {
            self.unanswered = Some(Answer::Broken(pair, fault));
            self.answer();
        }
    }

    /// Looks whether it was this guest's memory that lost its file.
    #[cold]
    fn look_for_truncation(&mut self, strikes: usize) {
        self.strikes_seen = strikes;
        let is_truncated = |ring: &Ring| ring.memory.is_truncated();
        if let Some(pair) = &self.pair
            && (is_truncated(&pair.rx) || is_truncated(&pair.tx))
        {
            self.fault = Some(RingFault::Truncated);
        }
    }

    /// Drops what it cannot send; returns how many packets there were.
    #[cold]
    fn refuse(&mut self, pool: &mut FramePool, burst: &mut Burst, stats: &WorkerStats) -> usize {
        let reason = match self.fault {
            Some(_) => DropReason::VhostRingBroken,
            None => DropReason::VhostDisconnected,
        };
        let count = burst.len();
        for packet in burst.drain(..) {
            stats.dropped(packet.ingress, reason, 1);
            self.example.keep(packet, reason, pool);
        }
        count
    }
}

impl PortQueue for VhostUserQueue {
    fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> usize {
        let Self { pair: Some(pair), fault: None, port, refused, example, .. } = self else {
            return 0;
        };
        let Ring { engine, memory, features, log, region_hint, .. } = &mut pair.rx;
        let before = burst.len();
        let mut receiver = Receiver {
            memory,
            features: *features,
            log: log.as_ref(),
            port: *port,
            pool,
            refused,
            example,
            region_hint,
        };
        let result = match engine {
            RingEngine::Split(ring) => receiver.receive(ring, burst),
            RingEngine::Packed(ring) => receiver.receive(ring, burst),
        };
        let count = burst.len().saturating_sub(before);
        if self.is_armed && count > 0 {
            self.is_armed = false;
            pair.rx.disarm();
        }
        if let Err(fault) = result {
            pair.rx.fault = Some(fault);
            self.fault = Some(fault);
        }
        count
    }

    fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst, stats: &WorkerStats) -> usize {
        let Self { pair: Some(pair), fault: None, port, example, .. } = self else {
            return self.refuse(pool, burst, stats);
        };
        let Ring { engine, memory, features, log, region_hint, .. } = &mut pair.tx;
        let mut sender = Sender {
            memory,
            features: *features,
            log: log.as_ref(),
            pool,
            stats,
            example,
            region_hint,
        };
        let mut sent = SentTally::new(*port, stats);
        let (taken, result) = match engine {
            RingEngine::Split(ring) => sender.send(ring, burst, &mut sent),
            RingEngine::Packed(ring) => sender.send(ring, burst, &mut sent),
        };
        drop(sent);
        if let Err(fault) = result {
            pair.tx.fault = Some(fault);
            self.fault = Some(fault);
            return taken.saturating_add(self.refuse(pool, burst, stats));
        }
        taken
    }

    fn take_refused(&mut self) -> Option<(Packet, DropReason)> {
        self.example.take()
    }

    fn is_open(&self) -> bool {
        self.pair.is_some() || self.fault.is_some()
    }

    fn offloads(&self) -> Offloads {
        self.pair.as_ref().map_or(Offloads::NONE, |pair| pair.offloads)
    }

    fn flush(&mut self, _pool: &mut FramePool, stats: &WorkerStats) -> Result<(), PeerGone> {
        if let Some(pair) = &mut self.pair {
            pair.rx.call();
            pair.tx.call();
        }
        self.refused.report(self.port, stats);
        let strikes = strikes();
        if strikes != self.strikes_seen {
            self.look_for_truncation(strikes);
        }
        if let Some(fault) = self.fault {
            self.give_up(fault);
        }
        if self.was_woken {
            self.was_woken = false;
            self.orders.quieten();
        }
        if self.orders.is_waiting() || self.unanswered.is_some() {
            self.obey();
        }
        Ok(())
    }

    fn arm(&mut self) -> bool {
        let is_ordered = self.orders.is_waiting();
        let Self { pair: Some(pair), fault: None, .. } = self else { return is_ordered };
        let has_waiting = if self.is_armed { pair.rx.has_waiting() } else { pair.rx.arm() };
        self.is_armed = true;
        is_ordered || has_waiting
    }

    fn disarm(&mut self) {
        self.was_woken = true;
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.orders.wait_descriptor())
    }

    /// There are no frames to wait for: what the guest has in its rings stays with the guest.
    fn drain(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> usize {
        if let Some((packet, _)) = self.example.take() {
            pool.free_packet(packet);
        }
        self.refused.report(self.port, stats);
        self.orders.close();
        self.obey();
        if let Some(pair) = self.pair.take() {
            self.unanswered = Some(Answer::Stopped(Some(pair)));
            self.answer();
        }
        0
    }
}
