//! One queue pair of a device: the port queue that a worker polls.
//!
//! ```text
//!            ┌── fill ◄── refill ──┐        ┌── tx ◄──── tx_burst ── burst
//!  kernel ───┤                     ├─ pool ─┤
//!            └── rx ──► rx_burst ──┘        └── completion ──► reclaim
//! ```
//!
//! What the kernel holds is in the [`Ledger`]; a received packet has left it, a sent one enters it.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, Weak},
};

use rustix::{
    io::Errno,
    net::xdp::{XdpDesc, XdpDescOptions},
};

use super::{
    assembly::{Assembly, SEGMENTS_MAX},
    ledger::Ledger,
    sent::{SentRing, TxEntry},
    socket::{KernelDone, ReleaseProbe, RingEntries, Rings, Socket},
};
use crate::{
    burst::{BURST_PACKETS_MAX, Burst},
    drops::DropReason,
    memory::{FramePool, Region, Segment},
    packet::{Checksum, Packet},
    port::{PeerGone, PortQueue, PortRef},
    stats::WorkerStats,
};

/// Below this many missing frames the fill ring is left alone: its index is worth a cache line each
/// time.
const REFILL_FRAMES_MIN: u32 = 16;
/// Frames put into the fill ring at once at most, to bound a poll; the first polls of a queue fill
/// it in steps.
const REFILL_FRAMES_MAX: u32 = 256;
/// Frames that one system call sends in copy mode at least, while there are that many
/// (`TX_BATCH_SIZE`).
const COPY_MODE_TX_BATCH: u32 = 32;
/// Free slots of the tx ring that a burst hopes for: one a packet.
const TX_SLOTS_WANTED: u32 = 64;
const _: () = assert!(TX_SLOTS_WANTED as usize == BURST_PACKETS_MAX);
/// The shortest frame that is worth sending: an Ethernet header.
const FRAME_BYTES_MIN: u32 = 14;
/// Calls of `drain` that wait for frames on their way out before the socket is closed all the same.
const DRAIN_TX_CALLS_MAX: u32 = 50;
/// Calls of `drain` in a row that find nothing received before the socket is closed: they are
/// milliseconds apart, and a receive path that was under way when the port was unsteered takes
/// less.
const DRAIN_QUIET_CALLS: u32 = 2;

/// What a queue is made from, before it is bound.
#[derive(Debug)]
pub(super) struct QueueParts {
    pub(super) socket: Socket,
    pub(super) rings: Rings,
    pub(super) entries: RingEntries,
    /// Frames to keep in the kernel's hands for receiving.
    pub(super) fill_frames: u32,
    pub(super) port: PortRef,
    pub(super) checksum: Checksum,
}

/// How a socket was bound.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Binding {
    pub(super) is_zero_copy: bool,
    /// Packets may have several segments.
    pub(super) is_multi_buffer: bool,
}

/// A queue pair of a device, over AF_XDP.
#[derive(Debug)]
pub struct AfXdpQueue {
    ledger: Ledger,
    /// Gone when the queue is closed.
    live: Option<Live>,
    /// There when the queue is closed and the kernel is done with it.
    done: Option<KernelDone>,
    probe: Option<ReleaseProbe>,
    port: PortRef,
    checksum: Checksum,
    limits: Limits,
    is_zero_copy: bool,
    fill_frames: u32,
    tx_entries: u32,
    /// Frames lent for receiving.
    rx_lent: u32,
    /// Frames lent for sending.
    tx_lent: u32,
    /// What the kernel has not taken from the tx ring yet, as far as it is counted.
    unsent: SentRing,
    assembly: Assembly,
    drain_calls: u32,
    /// Calls of `drain` in a row that found nothing received.
    quiet_drain_calls: u32,
}

/// What ties a queue to the kernel. A ring's mapping keeps the socket open as well as its
/// descriptor does, so that all of it has to go for the socket to be closed.
#[derive(Debug)]
struct Live {
    rings: Rings,
    socket: Arc<Socket>,
}

/// What a packet may look like.
#[derive(Clone, Copy, Debug)]
struct Limits {
    frame_bytes: u32,
    is_multi_buffer: bool,
}

impl AfXdpQueue {
    /// A queue that is not bound to a device yet, with its receive ring filled.
    pub(super) fn new(region: Arc<Region>, parts: QueueParts, pool: &mut FramePool) -> Self {
        let limits = Limits { frame_bytes: region.frame_bytes(), is_multi_buffer: false };
        let mut queue = Self {
            ledger: Ledger::new(region),
            live: Some(Live { rings: parts.rings, socket: Arc::new(parts.socket) }),
            done: None,
            probe: None,
            port: parts.port,
            checksum: parts.checksum,
            limits,
            is_zero_copy: false,
            fill_frames: parts.fill_frames,
            tx_entries: parts.entries.tx,
            rx_lent: 0,
            tx_lent: 0,
            unsent: SentRing::new(parts.entries.tx),
            assembly: Assembly::default(),
            drain_calls: 0,
            quiet_drain_calls: 0,
        };
        // Drivers want frames to receive into at the time of the binding.
        for _ in 0..parts.entries.fill / REFILL_FRAMES_MAX {
            queue.refill(pool);
        }
        queue
    }

    /// Notes how the socket was bound. A queue in zero copy is not released at once when its socket
    /// is closed: `probe` tells when.
    pub(super) fn bound(&mut self, binding: Binding, probe: Option<ReleaseProbe>) {
        self.is_zero_copy = binding.is_zero_copy;
        self.limits.is_multi_buffer = binding.is_multi_buffer;
        self.probe = probe;
    }

    /// The socket, for those who steer frames to it and read its counters; gone once the queue is
    /// closed.
    pub(super) fn socket(&self) -> Weak<Socket> {
        self.live.as_ref().map_or_else(Weak::new, |live| Arc::downgrade(&live.socket))
    }

    /// Frames that the kernel holds.
    #[must_use]
    pub fn frames_lent(&self) -> u32 {
        self.ledger.lent_count()
    }

    /// Takes sent frames back.
    fn reclaim(&mut self, pool: &mut FramePool) {
        let Some(Live { rings, .. }) = &mut self.live else { return };
        for _ in 0..rings.completion.available() {
            let Some(address) = rings.completion.pop() else { break };
            if let Some(frame) = self.ledger.take_back(address) {
                self.tx_lent = self.tx_lent.saturating_sub(1);
                pool.free(frame);
            }
        }
        rings.completion.release();
    }

    /// Gives the kernel frames to receive into.
    fn refill(&mut self, pool: &mut FramePool) {
        let missing = self.fill_frames.saturating_sub(self.rx_lent);
        let Some(Live { rings, .. }) = &mut self.live else { return };
        if missing < REFILL_FRAMES_MIN.min(self.fill_frames) || missing == 0 {
            return;
        }
        let missing = missing.min(REFILL_FRAMES_MAX);
        for _ in 0..missing.min(rings.fill.free_slots(missing)) {
            let Some(frame) = pool.allocate() else { break };
            let address = self.ledger.lend(frame);
            // There is a free slot, so the push succeeds; were it not so, the ledger would still
            // know the frame.
            if rings.fill.push(address) {
                self.rx_lent += 1;
            }
        }
        rings.fill.publish();
    }

    /// Calls the kernel if it asked for it.
    fn wake(&mut self) -> Result<(), PeerGone> {
        let Some(Live { rings, socket }) = &mut self.live else { return Ok(()) };
        if self.is_zero_copy && rings.fill.needs_wakeup() {
            still_there(socket.wake_rx())?;
        }
        if self.tx_lent == 0 || !rings.tx.needs_wakeup() {
            return Ok(());
        }
        let mut waiting = rings.tx.unconsumed();
        // One call sends a batch at least, or tells by no progress that the device takes no more
        // for now.
        for _ in 0..=self.tx_entries / COPY_MODE_TX_BATCH {
            if waiting == 0 {
                return Ok(());
            }
            still_there(socket.wake_tx())?;
            let left = rings.tx.unconsumed();
            if left >= waiting || self.is_zero_copy {
                return Ok(());
            }
            waiting = left;
        }
        Ok(())
    }

    /// Goes on past packets at the front that this queue cannot send: they stay in the burst, the
    /// others go.
    #[cold]
    fn send_around(&mut self, burst: &mut Burst) -> usize {
        let Self { live: Some(Live { rings, .. }), ledger, limits, tx_lent, unsent, .. } = self
        else {
            return 0;
        };
        let mut kept = Burst::new();
        let mut sent = 0;
        let mut is_full = false;
        for packet in std::mem::take(burst) {
            match limits.descriptors(&packet, ledger.region()) {
                Some(count)
                    if !is_full && count <= rings.tx.free_slots(count).min(unsent.room()) =>
                {
                    *tx_lent += send(packet, ledger, rings, unsent);
                    sent += 1;
                }
                count => {
                    is_full |= count.is_some();
                    // Both bursts hold the same number of packets.
                    kept.push(packet);
                }
            }
        }
        *burst = kept;
        sent
    }

    /// Frames under way out: the kernel took their descriptors, but has not returned them.
    fn tx_in_flight(&mut self) -> u32 {
        let unconsumed = self.live.as_mut().map_or(0, |live| live.rings.tx.unconsumed());
        self.tx_lent.saturating_sub(unconsumed)
    }

    /// Counts what the kernel has taken from the tx ring since the last call.
    fn count_sent(&mut self, stats: &WorkerStats) {
        if self.unsent.is_empty() {
            return;
        }
        let Some(Live { rings, .. }) = &mut self.live else { return };
        self.unsent.settle(rings.tx.unconsumed(), self.port, stats);
    }

    /// Drops what was received and no worker took; whether there was something.
    fn discard_received(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> bool {
        let mut burst = Burst::new();
        let mut packets = 0;
        while self.rx_burst(pool, &mut burst) > 0 {
            for packet in burst.drain(..) {
                stats.rx(self.port, 1, u64::from(packet.total_bytes()));
                pool.free_packet(packet);
                packets += 1;
            }
        }
        stats.dropped(self.port, DropReason::RxPortClosed, packets);
        packets > 0
    }

    /// Closes the socket, unless somebody reads its counters this very moment.
    fn close(&mut self, stats: &WorkerStats) {
        self.count_sent(stats);
        let Some(Live { rings, socket }) = self.live.take() else { return };
        match Arc::try_unwrap(socket) {
            Ok(socket) if self.is_zero_copy => drop((rings, socket)),
            Ok(socket) => self.done = Some(socket.close_copy_mode(rings)),
            Err(socket) => {
                self.live = Some(Live { rings, socket });
                return;
            }
        }
        self.unsent.drop_all(stats);
    }
}

/// Puts a packet into the tx ring, which must have room for all of its descriptors; returns how
/// many there are.
fn send(packet: Packet, ledger: &mut Ledger, rings: &mut Rings, unsent: &mut SentRing) -> u32 {
    let ingress = packet.ingress;
    let mut count = 0;
    ledger.lend_packet(packet, |addr, len, is_continued| {
        let options =
            if is_continued { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() };
        if rings.tx.push(XdpDesc { addr, len, options }) {
            unsent.push(TxEntry::new(ingress, len, is_continued));
            count += 1;
        }
    });
    count
}

impl Limits {
    /// Where in its frame a descriptor's bytes start, and how many there are.
    #[expect(clippy::cast_possible_truncation, reason = "both are at most a frame, 4096 bytes")]
    fn place(self, descriptor: &XdpDesc) -> (u16, u16) {
        let offset = descriptor.addr & u64::from(self.frame_bytes - 1);
        let len = descriptor.len.min(self.frame_bytes - offset as u32);
        (offset as u16, len as u16)
    }

    /// How many descriptors the packet takes; `None` if this queue cannot send it at all.
    fn descriptors(self, packet: &Packet, region: &Region) -> Option<u32> {
        let end = u32::from(packet.offset()) + u32::from(packet.linear_bytes());
        if packet.total_bytes() < FRAME_BYTES_MIN
            || packet.linear_bytes() == 0
            || end > self.frame_bytes
        {
            return None;
        }
        if packet.is_chained() { self.descriptors_of_chain(packet, region) } else { Some(1) }
    }

    #[cold]
    fn descriptors_of_chain(self, packet: &Packet, region: &Region) -> Option<u32> {
        let (mut count, mut is_sendable) = (0_u32, self.is_multi_buffer);
        packet.for_each_segment(region, |bytes| {
            count += 1;
            is_sendable &= !bytes.is_empty();
        });
        (is_sendable && count as usize <= SEGMENTS_MAX).then_some(count)
    }
}

impl PortQueue for AfXdpQueue {
    fn rx_burst(&mut self, pool: &mut FramePool, burst: &mut Burst) -> usize {
        let Self { live: Some(Live { rings, .. }), ledger, assembly, .. } = self else { return 0 };
        let before = burst.len();
        for _ in 0..rings.rx.available() {
            if burst.len() == BURST_PACKETS_MAX {
                break;
            }
            let Some(descriptor) = rings.rx.pop() else { break };
            // An address that is not out is a slip of the kernel: there is no frame to have.
            let Some(frame) = ledger.take_back(descriptor.addr) else { continue };
            self.rx_lent = self.rx_lent.saturating_sub(1);
            let (offset, len) = self.limits.place(&descriptor);
            let is_continued = descriptor.options.contains(XdpDescOptions::XDP_PKT_CONTD);
            if is_continued || assembly.is_under_way() {
                let segment = Segment { frame, offset, len };
                let packet = assembly.add(segment, is_continued, self.port, ledger.region(), pool);
                if let Some(mut packet) = packet {
                    packet.offload.checksum = self.checksum;
                    burst.push(packet);
                }
                continue;
            }
            // Made where it goes: moved right after, it would be read before it is in the cache.
            let mut packet = Packet::new(frame, offset, len, self.port);
            packet.offload.checksum = self.checksum;
            burst.push(packet);
        }
        rings.rx.release();
        burst.len() - before
    }

    fn tx_burst(&mut self, _pool: &mut FramePool, burst: &mut Burst, stats: &WorkerStats) -> usize {
        if self.unsent.room() < TX_SLOTS_WANTED {
            self.count_sent(stats);
        }
        let Self { live: Some(Live { rings, .. }), ledger, limits, tx_lent, unsent, .. } = self
        else {
            return 0;
        };
        let mut free = rings.tx.free_slots(TX_SLOTS_WANTED).min(unsent.room());
        let mut taken = 0;
        let mut is_odd = false;
        for packet in burst.iter() {
            let Some(count) = limits.descriptors(packet, ledger.region()) else {
                is_odd = true;
                break;
            };
            if count > free {
                break;
            }
            free -= count;
            taken += 1;
        }
        for packet in burst.drain(..taken) {
            *tx_lent += send(packet, ledger, rings, unsent);
        }
        if is_odd {
            taken += self.send_around(burst);
        }
        if let Some(Live { rings, .. }) = &mut self.live {
            rings.tx.publish();
        }
        taken
    }

    fn can_send(&self, packet: &Packet) -> bool {
        self.limits.descriptors(packet, self.ledger.region()).is_some()
    }

    fn flush(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> Result<(), PeerGone> {
        if self.tx_lent > 0 {
            self.reclaim(pool);
        }
        self.refill(pool);
        let result = self.wake();
        self.count_sent(stats);
        self.assembly.report(self.port, stats);
        result
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.live.as_ref().map(|live| live.socket.as_fd())
    }

    fn drain(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> usize {
        self.reclaim(pool);
        if self.live.is_some() {
            self.drain_calls += 1;
            let is_quiet = !self.discard_received(pool, stats);
            self.quiet_drain_calls = if is_quiet { self.quiet_drain_calls + 1 } else { 0 };
            let is_gone = self.wake().is_err();
            self.count_sent(stats);
            let has_waited = self.drain_calls > DRAIN_TX_CALLS_MAX;
            // Copied packets that the kernel is sending come back, sooner or later. What a NIC
            // holds of its own comes back with the queue, and what was never taken is ours.
            let is_idle = self.tx_lent == 0
                || (is_gone || has_waited) && (self.is_zero_copy || self.tx_in_flight() == 0);
            if is_idle && self.quiet_drain_calls >= DRAIN_QUIET_CALLS {
                self.close(stats);
            }
        }
        self.assembly.report(self.port, stats);
        if self.live.is_none() {
            self.assembly.discard(pool);
        }
        if self.live.is_none()
            && let Some(probe) = &mut self.probe
            // An error (no memory to pin, say) passes; the frames stay in quarantine until then.
            && let Ok(Some(done)) = probe.is_released(self.ledger.region())
        {
            self.probe = None;
            self.done = Some(done);
        }
        if let Some(done) = &self.done {
            while let Some(frame) = self.ledger.reclaim_any(done) {
                pool.free(frame);
            }
        }
        self.ledger.lent_count() as usize
    }
}

/// Only an unbound socket means that the device is gone; a device that is down or has no room may
/// recover.
fn still_there(result: Result<(), Errno>) -> Result<(), PeerGone> {
    match result {
        Err(Errno::NXIO | Errno::NODEV | Errno::BADF) => Err(PeerGone),
        _ => Ok(()),
    }
}
