//! A port whose far side is in the same process: tests send and receive packets through it.
//!
//! The far side, a [`MemoryPeer`], has frames of the same region: packets are moved, never copied,
//! and nothing is allocated per packet. A queue's rings are the two halves of [`Rings`]; what still
//! lies in them when one side goes is freed by the other.

mod opener;

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Release, SeqCst},
            fence,
        },
    },
};

use crossbeam::queue::ArrayQueue;
use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
};

pub use self::opener::{MemoryOpener, MemoryPeers};
use super::{OpenedPort, PeerGone, PortDevice, PortQueue, PortRef, SteerError, Steering};
use crate::{
    burst::{BURST_PACKETS_MAX, Burst},
    memory::{Depot, FramePool},
    packet::{Offloads, Packet},
    stats::{SentTally, WorkerStats},
};

/// The largest IP packet of a memory port, in bytes: what fits a frame of 2048 bytes with headroom,
/// as on an Ethernet.
const MTU_BYTES: u32 = 1500;

/// How large a memory port is.
#[derive(Clone, Copy, Debug)]
pub struct MemoryPortConfig {
    /// Queues, each with a ring in either direction.
    pub queues: u16,
    /// Packets a ring holds.
    pub ring_packets: usize,
    /// What the far side takes that is not yet fit for a wire.
    pub offloads: Offloads,
}

impl Default for MemoryPortConfig {
    fn default() -> Self {
        Self { queues: 1, ring_packets: 1024, offloads: Offloads::NONE }
    }
}

/// Opens a memory port; the second half is its far side, with frames of `depot`.
///
/// # Errors
///
/// Fails if there are no descriptors left for the queues' wake-ups.
pub fn open(
    port: PortRef,
    config: MemoryPortConfig,
    depot: &Arc<Depot>,
) -> Result<(OpenedPort, MemoryPeer), OpenMemoryPortError> {
    let shared: Arc<Shared> = Arc::default();
    let mut queues: Vec<Box<dyn PortQueue>> = Vec::new();
    let mut rings = Vec::new();
    for _ in 0..config.queues {
        let ring = Arc::new(Rings::new(config.ring_packets)?);
        rings.push(Arc::clone(&ring));
        let shared = Arc::clone(&shared);
        queues.push(Box::new(MemoryQueue { port, rings: ring, shared, offloads: config.offloads }));
    }
    let pool = FramePool::new(Arc::clone(depot));
    let device = Box::new(MemoryDevice(Arc::clone(&shared)));
    Ok((OpenedPort { queues, device }, MemoryPeer { rings, shared, pool }))
}

/// Why a memory port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an eventfd for a memory port; raise the limit of open files")]
pub struct OpenMemoryPortError(#[from] rustix::io::Errno);

/// The far side of a memory port.
#[derive(Debug)]
pub struct MemoryPeer {
    rings: Vec<Arc<Rings>>,
    shared: Arc<Shared>,
    pool: FramePool,
}

impl MemoryPeer {
    /// Sends one frame toward the engine; `false` if the ring is full or packet memory exhausted.
    pub fn send(&mut self, queue: usize, frame: &[u8]) -> bool {
        let mut burst = Burst::new();
        let Some(packet) = self.packet(frame) else { return false };
        burst.push(packet);
        let sent = self.send_burst(queue, &mut burst);
        burst.drain(..).for_each(|packet| self.pool.free_packet(packet));
        sent == 1
    }

    /// A packet that holds a copy of `frame`; `None` if packet memory is exhausted.
    pub fn packet(&mut self, frame: &[u8]) -> Option<Packet> {
        self.pool.copy_in(frame, PortRef::ENGINE)
    }

    /// Sends packets from the front of `burst` until it is empty or the ring full; returns how
    /// many.
    ///
    /// None once the engine has closed the port.
    pub fn send_burst(&mut self, queue: usize, burst: &mut Burst) -> usize {
        let Some(rings) = self.rings.get(queue) else { return 0 };
        if self.shared.closed.load(SeqCst) {
            return 0;
        }
        let room = rings.to_engine.capacity() - rings.to_engine.len();
        let count = room.min(burst.len());
        for packet in burst.drain(..count) {
            // Only this side pushes, so the room is still there.
            let _ = rings.to_engine.push(packet);
        }
        rings.signal();
        count
    }

    /// Takes the packets that the engine sent through `queue`, until `burst` is full or the ring
    /// empty; returns how many.
    pub fn receive_burst(&mut self, queue: usize, burst: &mut Burst) -> usize {
        let Some(rings) = self.rings.get(queue) else { return 0 };
        let before = burst.len();
        while burst.len() < BURST_PACKETS_MAX
            && let Some(packet) = rings.to_peer.pop()
        {
            burst.push(packet);
        }
        burst.len() - before
    }

    /// The bytes of the next frame that the engine sent through any queue.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let packet = self.rings.iter().find_map(|rings| rings.to_peer.pop())?;
        let mut bytes = Vec::new();
        packet.for_each_segment(self.pool.region(), |segment| bytes.extend_from_slice(segment));
        self.pool.free_packet(packet);
        Some(bytes)
    }

    /// The far side's frames.
    pub fn pool(&mut self) -> &mut FramePool {
        &mut self.pool
    }

    /// Whether the engine asked for packets.
    #[must_use]
    pub fn is_steered(&self) -> bool {
        self.shared.steered.load(Acquire)
    }
}

impl Drop for MemoryPeer {
    fn drop(&mut self) {
        self.shared.peer_gone.store(true, SeqCst);
        // Either the engine's `drain` comes later and finds what was sent, or it was here already
        // and will not look again.
        let is_closed = self.shared.closed.load(SeqCst);
        for rings in &self.rings {
            while is_closed && let Some(packet) = rings.to_engine.pop() {
                self.pool.free_packet(packet);
            }
            while let Some(packet) = rings.to_peer.pop() {
                self.pool.free_packet(packet);
            }
            // Wakes the worker, which finds out in `flush`.
            rings.signal();
        }
    }
}

/// What the sides of a port agree on.
#[derive(Debug, Default)]
struct Shared {
    /// Written by the main thread, read by the workers.
    steered: AtomicBool,
    /// Written by the peer, read by the workers.
    peer_gone: AtomicBool,
    /// Written by the main thread, read by the peer.
    closed: AtomicBool,
}

/// One queue's rings.
#[derive(Debug)]
struct Rings {
    to_engine: ArrayQueue<Packet>,
    to_peer: ArrayQueue<Packet>,
    /// Readable while `is_signalled`.
    event: OwnedFd,
    /// Set by the peer after a push, cleared by the worker once the ring is empty.
    is_signalled: AtomicBool,
}

impl Rings {
    fn new(packets: usize) -> Result<Self, rustix::io::Errno> {
        Ok(Self {
            to_engine: ArrayQueue::new(packets.max(1)),
            to_peer: ArrayQueue::new(packets.max(1)),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_signalled: AtomicBool::new(false),
        })
    }

    fn signal(&self) {
        fence(SeqCst); // Pairs with the one in `unsignal`.
        if !self.is_signalled.swap(true, AcqRel) {
            // Fails only if the count is at its limit, and then the descriptor is readable already.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// Makes the descriptor unreadable if there is nothing to receive.
    fn unsignal(&self) {
        if !self.to_engine.is_empty() || !self.is_signalled.load(Acquire) {
            return;
        }
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        self.is_signalled.store(false, Release);
        // Pairs with the one in `signal`: a packet pushed meanwhile is seen by one of the two.
        fence(SeqCst);
        if !self.to_engine.is_empty() {
            self.signal();
        }
    }
}

/// The engine's side of one queue.
#[derive(Debug)]
struct MemoryQueue {
    port: PortRef,
    rings: Arc<Rings>,
    shared: Arc<Shared>,
    offloads: Offloads,
}

impl PortQueue for MemoryQueue {
    fn rx_burst(&mut self, _pool: &mut FramePool, burst: &mut Burst) -> usize {
        if !self.shared.steered.load(Acquire) {
            return 0;
        }
        let before = burst.len();
        while burst.len() < BURST_PACKETS_MAX
            && let Some(mut packet) = self.rings.to_engine.pop()
        {
            packet.ingress = self.port;
            burst.push(packet);
        }
        burst.len() - before
    }

    fn tx_burst(&mut self, _pool: &mut FramePool, burst: &mut Burst, stats: &WorkerStats) -> usize {
        let mut sent = SentTally::new(self.port, stats);
        let to_peer = &self.rings.to_peer;
        let count = (to_peer.capacity() - to_peer.len()).min(burst.len());
        for packet in burst.drain(..count) {
            sent.add(packet.ingress, packet.total_bytes());
            // Only this side pushes, so the room is still there.
            let _ = to_peer.push(packet);
        }
        count
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn flush(&mut self, _pool: &mut FramePool, _stats: &WorkerStats) -> Result<(), PeerGone> {
        self.rings.unsignal();
        // After it: a peer that went while the descriptor was cleared may have found its signal
        // already given. The fences of the two see to it that it is found here then.
        if self.shared.peer_gone.load(SeqCst) {
            return Err(PeerGone);
        }
        Ok(())
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.rings.event.as_fd())
    }

    fn drain(&mut self, pool: &mut FramePool, _stats: &WorkerStats) -> usize {
        self.shared.closed.store(true, SeqCst);
        while let Some(packet) = self.rings.to_engine.pop() {
            pool.free_packet(packet);
        }
        if self.shared.peer_gone.load(SeqCst) {
            while let Some(packet) = self.rings.to_peer.pop() {
                pool.free_packet(packet);
            }
        }
        self.rings.to_peer.len()
    }
}

/// The main thread's side.
#[derive(Debug)]
struct MemoryDevice(Arc<Shared>);

impl PortDevice for MemoryDevice {
    fn backend(&self) -> &'static str {
        "memory"
    }

    fn detail(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn mac_address(&self) -> Option<[u8; 6]> {
        None
    }

    fn mtu_bytes(&self) -> u32 {
        MTU_BYTES
    }

    fn numa_node(&self) -> Option<u32> {
        None
    }

    fn steer(&mut self, steering: &Steering) -> Result<(), SteerError> {
        self.0.steered.store(*steering != Steering::Nothing, Release);
        Ok(())
    }

    fn kernel_rx_dropped(&self) -> Option<u64> {
        None
    }
}
