//! One queue pair of a TAP device: the port queue that a worker polls.
//!
//! System calls are made in `poll`, which reads, and in `flush`, which writes; each frame is one.
//! Nothing waits here over a poll: what the device does not take in a flush is dropped.

use std::{
    io::IoSlice,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Acquire},
    },
};

use arrayvec::ArrayVec;
use rustix::io::Errno;

use super::landing::{Landed, Landing};
use crate::{
    burst::{BURST_PACKETS_MAX, Burst},
    drops::DropReason,
    memory::FramePool,
    packet::{Offloads, Packet},
    port::{PeerGone, PortQueue, PortRef},
    stats::{SentTally, WorkerStats},
    virtio_net::{VirtioNetHeader, VirtioNetView},
    worker::BURSTS_PER_POLL_MAX,
};

/// Packets that wait for the flush at most: all that a poll may bring.
const UNSENT_PACKETS_MAX: usize = BURSTS_PER_POLL_MAX * BURST_PACKETS_MAX;
/// Bytes read in one poll, until which another frame is begun: one of 64 KiB, which is sent while
/// it is in the nearest caches, and whose packet memory the next one gets; but a score of frames of
/// 1500 bytes, and all small ones that a burst holds. With 512 KiB, throughput was a quarter less.
const READ_BYTES_MAX: u32 = 32 << 10;
/// Segments of a packet that is sent: 64 KiB in segments of an MTU of 576, and one more.
const SEGMENTS_MAX: usize = 120;
/// Readings in vain in a row after which a queue keeps no frames ready.
const VAIN_READINGS_MAX: u32 = 64;
/// The shortest frame that a device takes: an Ethernet header.
const FRAME_BYTES_MIN: u32 = 14;

/// A queue pair of a TAP device.
#[derive(Debug)]
pub struct TapQueue {
    device: OwnedFd,
    port: PortRef,
    offloads: Offloads,
    /// Written by the main thread.
    is_steered: Arc<AtomicBool>,
    landing: Landing,
    received: Burst,
    /// Never grows: at most [`UNSENT_PACKETS_MAX`].
    unsent: Vec<Packet>,
    vain_readings: u32,
    is_gone: bool,
}

impl TapQueue {
    /// A queue of an attached device.
    pub(super) fn new(
        device: OwnedFd,
        port: PortRef,
        offloads: Offloads,
        is_steered: Arc<AtomicBool>,
    ) -> Self {
        Self {
            device,
            port,
            offloads,
            is_steered,
            landing: Landing::new(),
            received: Burst::new(),
            unsent: Vec::with_capacity(UNSENT_PACKETS_MAX),
            vain_readings: 0,
            is_gone: false,
        }
    }

    /// Takes a frame that was read.
    fn land(&mut self, landed: Landed, pool: &mut FramePool, stats: &WorkerStats) -> u32 {
        let dropped = |reason, bytes: u32| {
            stats.rx(self.port, 1, bytes.into());
            stats.dropped(self.port, reason, 1);
            bytes
        };
        match landed {
            Landed::Lost { bytes } => dropped(DropReason::MemoryExhausted, bytes),
            Landed::Packet(mut packet, header) => {
                let bytes = packet.total_bytes();
                match note_offload(&mut packet, &header, pool) {
                    Ok(()) => {
                        self.received.push(packet);
                        bytes
                    }
                    Err(reason) => {
                        pool.free_packet(packet);
                        dropped(reason, bytes)
                    }
                }
            }
        }
    }

    fn note_error(&mut self, error: Errno, pool: &mut FramePool) {
        match error {
            Errno::AGAIN => {
                self.vain_readings = self.vain_readings.saturating_add(1);
                if self.vain_readings == VAIN_READINGS_MAX {
                    self.landing.clear(pool);
                }
            }
            error => self.is_gone |= is_end(error),
        }
    }
}

impl PortQueue for TapQueue {
    fn poll(&mut self, pool: &mut FramePool, stats: &WorkerStats) {
        if !self.is_steered.load(Acquire) {
            return;
        }
        let mut bytes = 0_u32;
        while bytes < READ_BYTES_MAX && !self.received.is_full() {
            match self.landing.read(self.device.as_fd(), pool, self.port) {
                Ok(landed) => {
                    self.vain_readings = 0;
                    bytes = bytes.saturating_add(self.land(landed, pool, stats));
                }
                Err(error) => return self.note_error(error, pool),
            }
        }
    }

    fn rx_burst(&mut self, _pool: &mut FramePool, burst: &mut Burst) -> usize {
        let count = self.received.len().min(burst.remaining_capacity());
        burst.extend(self.received.drain(..count));
        count
    }

    fn tx_burst(&mut self, _pool: &mut FramePool, burst: &mut Burst, _: &WorkerStats) -> usize {
        let before = burst.len();
        let mut kept = Burst::new();
        for packet in burst.drain(..) {
            if self.unsent.len() < UNSENT_PACKETS_MAX && self.can_send(&packet) {
                self.unsent.push(packet);
            } else {
                kept.push(packet);
            }
        }
        *burst = kept;
        before - burst.len()
    }

    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn can_send(&self, packet: &Packet) -> bool {
        packet.total_bytes() >= FRAME_BYTES_MIN
    }

    fn flush(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> Result<(), PeerGone> {
        let mut sent = SentTally::new(self.port, stats);
        for mut packet in self.unsent.drain(..) {
            let ingress = packet.ingress;
            match write(self.device.as_fd(), &mut packet, pool) {
                Ok(()) => sent.add(ingress, packet.total_bytes()),
                Err(error) => {
                    self.is_gone |= is_end(error);
                    stats.dropped(ingress, reason_of(error), 1);
                }
            }
            pool.free_packet(packet);
        }
        drop(sent);
        if self.is_gone { Err(PeerGone) } else { Ok(()) }
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.as_fd())
    }

    fn asks_kernel(&self) -> bool {
        true
    }

    fn drain(&mut self, pool: &mut FramePool, stats: &WorkerStats) -> usize {
        for packet in self.received.drain(..) {
            stats.rx(self.port, 1, packet.total_bytes().into());
            stats.dropped(self.port, DropReason::RxPortClosed, 1);
            pool.free_packet(packet);
        }
        for packet in self.unsent.drain(..) {
            stats.dropped(packet.ingress, DropReason::TxPortClosed, 1);
            pool.free_packet(packet);
        }
        self.landing.clear(pool);
        0
    }
}

/// Notes what the header says is left to do to a packet.
fn note_offload(
    packet: &mut Packet,
    header: &[u8; VirtioNetHeader::LEN],
    pool: &FramePool,
) -> Result<(), DropReason> {
    match VirtioNetView::parse(header) {
        Some(header) if !header.is_plain() => header.header().apply(packet, pool.region()),
        _ => Ok(()),
    }
}

/// Gives one frame to the device.
fn write(device: BorrowedFd<'_>, packet: &mut Packet, pool: &FramePool) -> Result<(), Errno> {
    let header = VirtioNetHeader::of(packet, pool.region()).to_bytes();
    let mut parts: ArrayVec<IoSlice<'_>, { SEGMENTS_MAX + 1 }> = ArrayVec::new();
    parts.push(IoSlice::new(&header));
    for bytes in packet.runs(pool.region()) {
        // A packet of more pieces cannot be sent.
        parts.try_push(IoSlice::new(bytes)).map_err(|_| Errno::INVAL)?;
    }
    rustix::io::writev(device, &parts).map(drop)
}

/// Whether the device is gone for good: it was removed, or moved where we have no say.
fn is_end(error: Errno) -> bool {
    matches!(error, Errno::BADFD | Errno::BADF | Errno::NODEV | Errno::NXIO)
}

/// What a packet died of that the device did not take.
fn reason_of(error: Errno) -> DropReason {
    match error {
        // The stack's own buffers are full.
        Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => DropReason::TxRingFull,
        // The interface is down.
        Errno::IO => DropReason::PortDown,
        error if is_end(error) => DropReason::TxPortClosed,
        _ => DropReason::TxUnsendable,
    }
}
