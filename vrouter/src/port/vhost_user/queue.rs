//! A queue pair of a vhost-user port: the port queue that a worker polls.

use std::{io, os::fd::BorrowedFd};

use super::orders::{Answer, Order, QueueControl, QueueOrders, QueuePair, channel};
use crate::{
    burst::Burst,
    memory::FramePool,
    packet::Offloads,
    port::{PeerGone, PortQueue, PortRef},
    stats::WorkerStats,
};

/// A queue pair, with rings while a session has set some up.
#[derive(Debug)]
pub struct VhostUserQueue {
    port: PortRef,
    orders: QueueOrders,
    pair: Option<QueuePair>,
}

impl VhostUserQueue {
    /// A queue without rings; what it receives comes in on `port`. The second half is its session's.
    ///
    /// # Errors
    ///
    /// Fails if there are no descriptors left for its events.
    pub fn new(port: PortRef) -> io::Result<(Self, QueueControl)> {
        let (orders, control) = channel()?;
        Ok((Self { port, orders, pair: None }, control))
    }

    fn obey(&mut self) {
        while let Some(order) = self.orders.take() {
            match order {
                Order::Start(pair) => self.pair = Some(pair),
                Order::Stop => {
                    let _ = self.orders.tell(Answer::Stopped(self.pair.take()));
                }
            }
        }
    }
}

impl PortQueue for VhostUserQueue {
    fn rx_burst(&mut self, _pool: &mut FramePool, _burst: &mut Burst) -> usize {
        0
    }

    fn tx_burst(&mut self, _: &mut FramePool, _burst: &mut Burst, _: &WorkerStats) -> usize {
        0
    }

    fn offloads(&self) -> Offloads {
        self.pair.as_ref().map_or(Offloads::NONE, |pair| pair.offloads)
    }

    fn flush(&mut self, _pool: &mut FramePool, _stats: &WorkerStats) -> Result<(), PeerGone> {
        self.obey();
        Ok(())
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.orders.wait_descriptor())
    }

    fn drain(&mut self, _pool: &mut FramePool, _stats: &WorkerStats) -> usize {
        self.orders.close();
        self.obey();
        0
    }
}
