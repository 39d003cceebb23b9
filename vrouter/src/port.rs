//! Ports: where packets come in and go out.
//!
//! A port has queues; each queue has one owning worker, which alone polls it. Kinds: `memory` and
//! `pcap` for tests, replay and benchmarks, `af_xdp` for interfaces, `tap` for the stacks of pods
//! and of the node.

pub mod af_xdp;
mod device;
pub mod fault;
pub mod memory;
mod namespace;
pub mod pcap;
pub mod tap;
pub mod vhost_user;

use std::os::fd::BorrowedFd;

pub use device::{
    AfXdpBackend, AfXdpMode, Backend, OpenPortError, OpenedPort, PortDevice, PortInterface,
    PortOpener, PortRequest, Role, SocketAccess, SteerError, Steering, TapBackend,
    VhostUserBackend, VhostUserMode,
};

use crate::{
    burst::Burst,
    drops::DropReason,
    memory::FramePool,
    packet::{Offloads, Packet},
    stats::WorkerStats,
};

/// Ports at most: pods of a large node (500), an uplink, a host port, and as many again for
/// interfaces of tenants.
pub const PORTS_MAX: usize = 1024;

/// Names a port, or a port that was: the slot is reused, the generation tells the users apart.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct PortRef {
    /// The slot, below [`PORTS_MAX`].
    pub index: u16,
    /// Raised at each reuse of the slot.
    pub generation: u16,
}

impl PortRef {
    /// No port: what packets that the engine made itself came in on.
    pub const ENGINE: Self = Self { index: u16::MAX, generation: 0 };
}

/// One receive queue and one transmit queue, polled by the worker that owns them.
///
/// The burst methods are on the hot path: they do not block, allocate, panic or enter the kernel. A
/// queue is never shared; `&mut self` is what makes it lock-free.
///
/// The worker counts what `rx_burst` gives it. The queue counts what only it knows, in the `stats`
/// of whoever calls: packets that were sent (with a ring that the kernel empties, once the kernel
/// has taken them), and those that die in its rings.
pub trait PortQueue: Send {
    /// Fetches what has come in from whoever has to be asked for it, a bounded number of times; the
    /// next [`Self::rx_burst`] hands it out.
    ///
    /// Called before it in each visit. With [`Self::flush`], the only method that makes system
    /// calls.
    fn poll(&mut self, _pool: &mut FramePool, _stats: &WorkerStats) {}

    /// Appends received packets to `burst` until it is full or the queue is empty.
    ///
    /// Returns the number appended.
    fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> usize;

    /// Takes packets from the front of `burst`, in order, until it is empty or the ring is full.
    ///
    /// Packets that the queue cannot send at all stay; others go past them. Returns the number
    /// taken, which the queue answers for. What stays belongs to the caller, who counts it as
    /// [`crate::drops::DropReason::TxUnsendable`] or [`crate::drops::DropReason::TxRingFull`], as
    /// [`Self::can_send`] says.
    fn tx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst, stats: &WorkerStats) -> usize;

    /// What the queue takes that is not yet fit for a wire. May change from burst to burst, with
    /// what the far side asks for.
    fn offloads(&self) -> Offloads {
        Offloads::NONE
    }

    /// Whether the queue sends anything now. Of a port with several queues, all but the first may be
    /// left unused by the far side: what is to go through one of those then goes through the first.
    fn is_open(&self) -> bool {
        true
    }

    /// Whether the queue could send `packet` if its ring had room.
    fn can_send(&self, _packet: &Packet) -> bool {
        true
    }

    /// Wakes the kernel if it asked for it, refills the receive ring, reclaims sent frames, and
    /// counts what has happened in the rings.
    ///
    /// Called once per poll. With [`Self::poll`], the only method that makes system calls.
    ///
    /// # Errors
    ///
    /// Fails when the peer is gone, such as when the interface was removed.
    fn flush(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> Result<(), PeerGone>;

    /// One of the packets that the queue has dropped, and counted, since the last call, for whoever
    /// looks at examples; the caller frees it. Called now and then.
    fn take_refused(&mut self) -> Option<(Packet, DropReason)> {
        None
    }

    /// Asks the far side to make [`Self::wait_descriptor`] readable when something comes; called
    /// before the worker sleeps. True if there is something already.
    ///
    /// For far sides that are told so: while a worker polls, their wake-ups would be in vain.
    fn arm(&mut self) -> bool {
        false
    }

    /// The worker found [`Self::wait_descriptor`] readable: what made it so is to be taken away.
    fn disarm(&mut self) {}

    /// The descriptor to sleep on while the queue is idle: readable while there is something to
    /// receive (level-triggered). The same one as long as the queue lives. `None` if the queue can
    /// only be polled.
    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// Whether finding out that nothing came in takes a system call. A worker does not look into
    /// such a queue when it has been quiet for long; it looks at the wait descriptors of all of
    /// them at once.
    fn asks_kernel(&self) -> bool {
        false
    }

    /// Takes back the frames that the kernel or the peer has let go of since the queue was closed;
    /// packets that were received and not taken, or taken and not sent, count as dropped.
    ///
    /// Returns how many are still out. Called by the main thread, again and again, after the worker
    /// gave the queue up; at zero the queue is dropped.
    fn drain(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> usize;
}

/// The far side of a port is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the far side of the port is gone")]
pub struct PeerGone;
