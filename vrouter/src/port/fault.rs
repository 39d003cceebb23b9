//! Faults on demand, around any queue: what tests need to see an engine survive.

use std::{
    mem,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicUsize,
            Ordering::{Acquire, Release},
        },
    },
};

use super::{OpenedPort, PeerGone, PortQueue};
use crate::{
    burst::Burst,
    memory::FramePool,
    packet::{Offloads, Packet},
    stats::WorkerStats,
};

/// The faults of a port. The test writes; workers and the main thread read.
#[derive(Debug, Default)]
pub struct Faults {
    is_peer_gone: AtomicBool,
    is_tx_ring_full: AtomicBool,
    /// 0: all can be sent.
    unsendable_bytes_max: AtomicU32,
    frames_stuck: AtomicUsize,
}

impl Faults {
    /// The far side is gone, as far as the engine can tell.
    pub fn lose_peer(&self) {
        self.is_peer_gone.store(true, Release);
    }

    /// Transmit rings take nothing, or take packets again.
    pub fn fill_tx_ring(&self, is_full: bool) {
        self.is_tx_ring_full.store(is_full, Release);
    }

    /// Packets of up to so many bytes cannot be sent.
    pub fn refuse_up_to(&self, bytes: u32) {
        self.unsendable_bytes_max.store(bytes, Release);
    }

    /// So many frames are never let go of after the queue was closed, until told otherwise.
    pub fn hold_frames(&self, frames: usize) {
        self.frames_stuck.store(frames, Release);
    }
}

/// Puts `faults` around each queue of a port.
#[must_use]
pub fn wrap(opened: OpenedPort, faults: &Arc<Faults>) -> OpenedPort {
    let wrap_queue = |inner| -> Box<dyn PortQueue> {
        Box::new(FaultyQueue { inner, faults: Arc::clone(faults) })
    };
    let queues = opened.queues.into_iter().map(wrap_queue).collect();
    OpenedPort { queues, device: opened.device }
}

struct FaultyQueue {
    inner: Box<dyn PortQueue>,
    faults: Arc<Faults>,
}

impl PortQueue for FaultyQueue {
    fn poll(&mut self, pool: &mut FramePool, stats: &WorkerStats) {
        self.inner.poll(pool, stats);
    }

    fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> usize {
        self.inner.rx_burst(pool, burst)
    }

    fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst, stats: &WorkerStats) -> usize {
        if self.faults.is_tx_ring_full.load(Acquire) {
            return 0;
        }
        let refused = self.faults.unsendable_bytes_max.load(Acquire);
        if refused == 0 {
            return self.inner.tx_burst(pool, burst, stats);
        }
        let (kept, mut sendable): (Burst, Burst) =
            mem::take(burst).into_iter().partition(|packet| packet.total_bytes() <= refused);
        let taken = self.inner.tx_burst(pool, &mut sendable, stats);
        burst.extend(kept.into_iter().chain(sendable));
        taken
    }

    fn offloads(&self) -> Offloads {
        self.inner.offloads()
    }

    fn can_send(&self, packet: &Packet) -> bool {
        packet.total_bytes() > self.faults.unsendable_bytes_max.load(Acquire)
            && self.inner.can_send(packet)
    }

    fn flush(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> Result<(), PeerGone> {
        if self.faults.is_peer_gone.load(Acquire) {
            return Err(PeerGone);
        }
        self.inner.flush(pool, stats)
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner.wait_descriptor()
    }

    fn asks_kernel(&self) -> bool {
        self.inner.asks_kernel()
    }

    fn drain(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> usize {
        self.inner.drain(pool, stats) + self.faults.frames_stuck.load(Acquire)
    }
}
