//! Frames that are written once and then sent round and round over vhost-user, untouched.
//!
//! ```text
//!   tx ring ──► (device under test) ──► rx ring
//!      ▲ frames take turns                 │ counted, and their buffers offered again
//!      └────────── one thread ─────────────┘
//! ```
//!
//! It writes descriptors, as drivers do, and neither frames nor headers; what comes back is counted
//! and not looked at. So it costs a fraction of what a device does, and both fit one thread. Each
//! poll notes whether the device had nothing to do, or no buffer: a figure is the device's only if
//! that was rare. *Not* here: tags, order and latency, which [`super::trial`] tells.

use std::{
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use vrouter::{
    cycles,
    port::vhost_user::{
        driver::{Client, ClientConfig, ClientQueue, ClientRing, ConnectError},
        ring::RingFormat,
    },
};

use crate::figures::{Figures, per};

/// Entries of each ring, unless told otherwise: testpmd's largest default, and QEMU's largest.
pub const RING_ENTRIES: u16 = 1024;
/// Bytes from one buffer to the next: those of a DPDK application, which keeps a packet's record
/// and headroom before 2,048 bytes. A power of two would put all frames into few sets of the
/// cache.
const BUFFER_BYTES: u32 = 2048 + 256;
/// The longest frame, without frame check sequence.
pub const FRAME_BYTES_MAX: usize = 2048;
/// Frames moved together: DPDK's largest usual burst.
const BURST_FRAMES: u16 = 64;
/// How long nothing comes before all that was under way has come, or was lost.
const SETTLED: Duration = Duration::from_millis(20);
/// How long frames may take until the device has taken them all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time is read once in so many polls.
const POLLS_A_LOOK: u32 = 64;

/// Rings of one port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rings {
    /// How they lie in memory.
    pub format: RingFormat,
    /// Entries of each.
    pub entries: u16,
}

/// Why a port is not ready to send.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum PreparePortError {
    #[error("cannot use the backend of {}; does it listen there?", socket.display())]
    Connect {
        socket: PathBuf,
        #[source]
        source: Box<ConnectError>,
    },
    #[error("a frame of {bytes} bytes does not fit a buffer: at most {FRAME_BYTES_MAX}")]
    FrameTooLong { bytes: usize },
    #[error("the backend has no queue pair")]
    NoQueue,
}

/// The frontend of one vhost-user port.
#[derive(Debug)]
pub struct PreparedPort {
    tx: ClientRing,
    rx: ClientRing,
    entries: u16,
    /// Bytes that came in, headers of virtio-net included.
    bytes: u64,
}

impl PreparedPort {
    /// Connects to the backend that listens on `socket`, and writes the frames that are to be sent,
    /// if any. The backend may fill all receive buffers at once.
    ///
    /// # Errors
    ///
    /// Fails if nobody listens or the backend lacks what is needed.
    pub fn connect(
        socket: &Path,
        rings: Rings,
        frames: &[Vec<u8>],
    ) -> Result<Self, PreparePortError> {
        if let Some(frame) = frames.iter().find(|frame| frame.len() > FRAME_BYTES_MAX) {
            return Err(PreparePortError::FrameTooLong { bytes: frame.len() });
        }
        let Rings { format, entries } = rings;
        // More buffers than slots, so that descriptors are written as by a driver with a pool.
        let turns = 2 * usize::from(entries);
        let count = frames.len() * turns.div_ceil(frames.len().max(1));
        let config = ClientConfig {
            format,
            ring_entries: entries,
            buffer_bytes: BUFFER_BYTES,
            tx_buffers: u32::try_from(count).unwrap_or(u32::MAX),
            rx_buffers: 2 * u32::from(entries),
            queue_pairs: 1,
            mergeable: true,
            huge_pages: true,
        };
        let small = ClientConfig { huge_pages: false, ..config };
        let connected = Client::connect(socket, config).or_else(|error| match error {
            // There may be no huge pages left.
            ConnectError::Rings(_) => Client::connect(socket, small),
            error => Err(error),
        });
        let failed = |source| PreparePortError::Connect {
            socket: socket.to_owned(),
            source: Box::new(source),
        };
        let queue = connected.map_err(failed)?.queues.pop();
        let ClientQueue { mut tx, mut rx } = queue.ok_or(PreparePortError::NoQueue)?;
        for (buffer, frame) in (0..).zip(frames.iter().cycle().take(count)) {
            tx.ring.write(buffer, frame);
        }
        rx.ring.offer(entries);
        Ok(Self { tx, rx, entries, bytes: 0 })
    }

    /// Sends each frame so many times, in turn, and drops what comes in; returns when the device
    /// took them.
    ///
    /// # Errors
    ///
    /// Fails if the device takes none for long.
    pub fn send_each(&mut self, times: u32) -> io::Result<()> {
        let mut left = u64::from(times) * u64::from(self.tx.ring.shape().buffers);
        let start = Instant::now();
        while left > 0 || self.tx.ring.room() < self.entries {
            self.tx.ring.take_back(self.entries);
            let burst = u16::try_from(left).unwrap_or(u16::MAX).min(BURST_FRAMES);
            left -= u64::from(self.tx.ring.offer(burst));
            self.tx.kick()?;
            self.receive()?;
            if start.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Takes what came and offers its buffers again; returns how many frames there were.
    ///
    /// # Errors
    ///
    /// Fails if the event is gone.
    #[inline]
    pub fn receive(&mut self) -> io::Result<u16> {
        let (count, bytes) = self.rx.ring.take_back(self.entries);
        self.bytes += bytes;
        if count > 0 {
            self.rx.ring.offer(count);
            self.rx.kick()?;
        }
        Ok(count)
    }
}

/// What a window gave.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Cycles of the time-stamp counter between two frames that came back, of slices of the window:
    /// the median is what a disturbance changes least.
    pub cycles_per_packet: Figures,
    /// Frames that the device took, and that came back, since the load began to the end of the
    /// window and until nothing more came.
    pub sent: u64,
    /// See there.
    pub received: u64,
    /// The part of polls that found the device with nothing to do, or without a buffer.
    pub starved_ratio: f64,
}

impl Flow {
    /// The part that was lost.
    #[must_use]
    pub fn loss_ratio(&self) -> f64 {
        per(self.sent.saturating_sub(self.received), self.sent)
    }
}

/// How long a load lasts.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// Before the window: caches and connections are as they stay.
    pub warm_up: Duration,
    /// The window.
    pub window: Duration,
    /// Each part of it.
    pub slice: Duration,
}

/// Sends as fast as the device takes it, from one port to another or back to the same one.
#[derive(Debug)]
pub struct Load<'a> {
    from: &'a mut PreparedPort,
    /// `None`: they come back to where they came from.
    to: Option<&'a mut PreparedPort>,
    sent: u64,
    received: u64,
    polls: u64,
    starved: u64,
}

impl<'a> Load<'a> {
    /// A load that has not begun.
    #[must_use]
    pub fn new(from: &'a mut PreparedPort, to: Option<&'a mut PreparedPort>) -> Self {
        Self { from, to, sent: 0, received: 0, polls: 0, starved: 0 }
    }

    /// Sends all along, and tells what a window of it gave once all that was sent has come back or
    /// is lost. `None` if nothing came back.
    ///
    /// # Errors
    ///
    /// Fails if a port's event is gone, or the device has stopped to take frames.
    pub fn run(mut self, course: &Course) -> io::Result<Option<Flow>> {
        self.send_for(course.warm_up)?;
        (self.polls, self.starved) = (0, 0);
        let slices = course.window.as_nanos() / course.slice.as_nanos().max(1);
        let mut costs = Vec::new();
        for _ in 0..slices.max(1) {
            let (start, before) = (cycles::now(), self.received);
            self.send_for(course.slice)?;
            let passed = cycles::now().wrapping_sub(start);
            let count = self.received - before;
            if count > 0 {
                costs.push(per(passed, count));
            }
        }
        self.settle()?;
        let Self { sent, received, polls, starved, .. } = self;
        Ok(Figures::of(&costs).map(|cycles_per_packet| Flow {
            cycles_per_packet,
            sent,
            received,
            starved_ratio: per(starved, polls),
        }))
    }

    fn send_for(&mut self, time: Duration) -> io::Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            for _ in 0..POLLS_A_LOOK {
                self.poll()?;
            }
        }
        Ok(())
    }

    /// Sends a burst and takes what came.
    #[inline]
    fn poll(&mut self) -> io::Result<()> {
        let Self { from, to, sent, received, polls, starved } = self;
        from.tx.ring.take_back(from.entries);
        let room = from.tx.ring.room();
        // A burst at a time: an index that moves for each frame would cost the device a line each.
        let burst = BURST_FRAMES.min(from.entries);
        if room >= burst {
            *sent += u64::from(from.tx.ring.offer(burst));
            from.tx.kick()?;
        }
        let entries = from.entries;
        let to = to.as_deref_mut().unwrap_or(from);
        let count = to.receive()?;
        *received += u64::from(count);
        *polls += 1;
        *starved += u64::from(room == entries || count == to.entries);
        Ok(())
    }

    /// Takes all that is still under way.
    fn settle(&mut self) -> io::Result<()> {
        let start = Instant::now();
        let mut last = start;
        loop {
            self.from.tx.ring.take_back(self.from.entries);
            let is_taken = self.from.tx.ring.room() == self.from.entries;
            let count = self.to.as_deref_mut().unwrap_or(self.from).receive()?;
            self.received += u64::from(count);
            if count > 0 || !is_taken {
                last = Instant::now();
            }
            if is_taken && last.elapsed() > SETTLED {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::yield_now();
        }
    }
}
