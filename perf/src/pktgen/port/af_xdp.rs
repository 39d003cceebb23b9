//! Ports over AF_XDP, by another implementation than the engine's: `xsk-rs`, over libxdp.
//!
//! # Safety boundary
//!
//! `xsk-rs` wants proof that a frame is in one place at a time, and that its descriptors are of the
//! UMEM that the rings are of. Descriptors come from the one UMEM of the port alone. Those of the
//! sender are in its list of free ones, in the tx ring or in the completion ring; those of the sink
//! in the fill ring, the rx ring or in its hands. They move between these by value, and the two
//! halves never exchange any.
//!
//! The two functions that silence the C libraries only store a null pointer.
#![expect(unsafe_code, reason = "the interface of xsk-rs")]

use std::{
    error::Error,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{
        BindFlags, FrameSize, Interface as InterfaceName, LibxdpFlags, QueueSize, SocketConfig,
        UmemConfig,
    },
};

use super::{
    Halves, OpenPortError, Options, PortSpecError, RxPort, TxPort, Use, interface::Interface,
    timespec,
};
use crate::pktgen::{BURST_FRAMES, FCS_BYTES};

/// Descriptors of each ring, and frames of each direction: some milliseconds at 1 Mpps.
const RING_FRAMES: u32 = 2048;
/// Bytes of a frame in packet memory: a page, the largest that the kernel takes.
const CHUNK_BYTES: u32 = 4096;
/// Queues of an interface that are received from: as many as large NICs have.
const QUEUES_MAX: u32 = 64;
/// A queue that was closed just now is busy for some 20 ms: the kernel takes it down later.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);

/// Whether packets are copied between the driver's memory and ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CopyMode {
    /// Always.
    Copy,
    /// Never: fails if the driver cannot do it.
    ZeroCopy,
}

/// An interface, or one of its queues.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AfXdpSpec {
    /// The interface's name.
    pub interface: String,
    /// Its queue. If not given, all are received from, and the first is sent on.
    pub queue: Option<u32>,
    /// The driver's choice if not given.
    pub copy: Option<CopyMode>,
}

impl AfXdpSpec {
    pub(super) fn parse(interface: String, options: &mut Options) -> Result<Self, PortSpecError> {
        let copy = match options.take("mode").as_deref() {
            None | Some("auto") => None,
            Some("copy") => Some(CopyMode::Copy),
            Some("zero-copy") => Some(CopyMode::ZeroCopy),
            Some(value) => {
                return Err(PortSpecError::BadValue { name: "mode".into(), value: value.into() });
            }
        };
        Ok(Self { interface, queue: options.number("queue")?, copy })
    }

    pub(super) fn open(&self, purpose: Use) -> Result<Halves, OpenPortError> {
        silence();
        let facts = Interface::look(&self.interface)?;
        let first = self.queue.unwrap_or(0);
        let (mut tx, rx) = self.open_queue(first, purpose)?;
        let mut queues = vec![rx];
        if self.queue.is_none() && purpose == Use::Receive {
            // The NIC spreads flows over all of its queues.
            for queue in 1..QUEUES_MAX {
                match self.open_queue(queue, purpose) {
                    Ok((_, rx)) => queues.push(rx),
                    Err(OpenPortError::Bind { source, .. })
                        if source.raw_os_error() == Some(libc::EINVAL) =>
                    {
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        // The XDP program may have made the NIC start anew.
        Interface::look(&self.interface)?;
        tx.frame_bytes_max = tx.frame_bytes_max.min(facts.mtu_bytes + 14 + FCS_BYTES);
        Ok((Box::new(tx), Box::new(AfXdpRx { queues, next: 0 })))
    }

    fn open_queue(&self, queue: u32, purpose: Use) -> Result<(AfXdpTx, RxSocket), OpenPortError> {
        let ring = QueueSize::new(RING_FRAMES).map_err(library)?;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(CHUNK_BYTES).map_err(library)?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(library)?;
        let frames = (RING_FRAMES * 2).try_into().map_err(library)?;
        let (umem, mut free) =
            Umem::new(config, frames, false).map_err(|error| self.no_memory(os_error(&error)))?;
        let (tx, rx, mut fill, completion) = self.bind(queue, purpose, &umem, ring)?;
        let for_receiving = free.split_off(free.len() / 2);
        if purpose == Use::Receive {
            // SAFETY: these descriptors are of this UMEM and in no other ring.
            unsafe { fill.produce(&for_receiving) };
        }
        let tx = AfXdpTx {
            umem: umem.clone(),
            queue: tx,
            completion,
            free,
            filled: Vec::with_capacity(BURST_FRAMES),
            underway: 0,
            frame_bytes_max: usize::try_from(config.mtu()).unwrap_or(0) + FCS_BYTES,
        };
        Ok((tx, RxSocket { umem, queue: rx, fill }))
    }

    fn bind(
        &self,
        queue: u32,
        purpose: Use,
        umem: &Umem,
        ring: QueueSize,
    ) -> Result<(TxQueue, RxQueue, FillQueue, CompQueue), OpenPortError> {
        let mut config = SocketConfig::builder();
        let copy = match self.copy {
            None => BindFlags::empty(),
            Some(CopyMode::Copy) => BindFlags::XDP_COPY,
            Some(CopyMode::ZeroCopy) => BindFlags::XDP_ZEROCOPY,
        };
        config
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP | copy);
        if purpose == Use::Send {
            // Without an XDP program the interface's stack goes on receiving.
            config.libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD);
        }
        let name: InterfaceName = self.interface.parse().map_err(library)?;
        let start = Instant::now();
        loop {
            // SAFETY: the UMEM has this one socket; its rings are used as the module says.
            match unsafe { Socket::new(config.build(), umem, &name, queue) } {
                Ok((tx, rx, Some((fill, completion)))) => return Ok((tx, rx, fill, completion)),
                Ok(_) => {
                    return Err(OpenPortError::Library { reason: "no fill ring".into() });
                }
                Err(error) => {
                    let source = os_error(&error);
                    let is_busy = source.raw_os_error() == Some(libc::EBUSY);
                    if !is_busy || start.elapsed() > BUSY_PATIENCE {
                        return Err(self.refusal(queue, source));
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    fn no_memory(&self, source: io::Error) -> OpenPortError {
        match source.kind() {
            io::ErrorKind::PermissionDenied => {
                OpenPortError::NotPermitted { interface: self.interface.clone() }
            }
            _ => OpenPortError::PacketMemory { source },
        }
    }

    fn refusal(&self, queue: u32, source: io::Error) -> OpenPortError {
        let interface = self.interface.clone();
        let hint = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => return OpenPortError::NotPermitted { interface },
            Some(libc::EBUSY) => "another program uses it; end it, or choose another queue",
            Some(libc::EINVAL) => "is there such a queue? ethtool -l shows how many there are",
            Some(libc::EOPNOTSUPP) => "its driver cannot do this mode; give mode=copy",
            _ => "see the cause",
        };
        OpenPortError::Bind { interface, queue, hint, source }
    }
}

/// The C libraries tell a terminal what concerns nobody, such as sections of a program that they
/// skip. What they fail with comes as an error number.
fn silence() {
    // SAFETY: both take no callback for "no output".
    unsafe { libxdp_sys::libxdp_set_print(None) };
    // SAFETY: as above.
    unsafe { libbpf_sys::libbpf_set_print(None) };
}

fn library(error: impl Error) -> OpenPortError {
    OpenPortError::Library { reason: error.to_string() }
}

/// What the kernel said, out of an error of the library.
fn os_error(error: &dyn Error) -> io::Error {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match cause.and_then(io::Error::raw_os_error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    }
}

struct AfXdpTx {
    umem: Umem,
    queue: TxQueue,
    completion: CompQueue,
    free: Vec<FrameDesc>,
    /// Written, but not yet in the ring; empty between calls.
    filled: Vec<FrameDesc>,
    /// In the tx ring or the kernel's hands.
    underway: usize,
    frame_bytes_max: usize,
}

impl AfXdpTx {
    /// Takes back what the kernel has done with.
    fn complete(&mut self) {
        let mut done = [FrameDesc::default(); BURST_FRAMES];
        loop {
            // SAFETY: what the completion ring returns was sent by us.
            let count = unsafe { self.completion.consume(&mut done) };
            self.free.extend(done.iter().take(count));
            self.underway = self.underway.saturating_sub(count);
            if count < done.len() {
                return;
            }
        }
    }
}

impl TxPort for AfXdpTx {
    fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    fn send(
        &mut self,
        count: usize,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> io::Result<usize> {
        self.complete();
        let count = count.min(BURST_FRAMES).min(self.free.len());
        for mut frame in self.free.drain(self.free.len() - count..) {
            // SAFETY: the frame was free, so nobody else looks at it.
            let mut data = unsafe { self.umem.data_mut(&mut frame) };
            let mut cursor = data.cursor();
            let room = cursor.buf_len();
            cursor.set_pos(room);
            let bytes = write(data.contents_mut());
            data.cursor().set_pos(bytes);
            self.filled.push(frame);
        }
        // There is room: the ring is as large as there are frames.
        // SAFETY: the frames were free and are in no other ring.
        let sent = unsafe { self.queue.produce(&self.filled) };
        self.free.extend(self.filled.drain(sent..));
        self.filled.clear();
        self.underway += sent;
        if sent > 0 && self.queue.needs_wakeup() {
            self.queue.wakeup()?;
        }
        Ok(sent)
    }

    fn flush(&mut self) -> io::Result<usize> {
        self.complete();
        if self.underway > 0 && self.queue.needs_wakeup() {
            self.queue.wakeup()?;
        }
        Ok(self.underway)
    }
}

/// One queue's receiving half.
struct RxSocket {
    umem: Umem,
    queue: RxQueue,
    fill: FillQueue,
}

impl RxSocket {
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let mut frames = [FrameDesc::default(); BURST_FRAMES];
        // SAFETY: what the rx ring returns came from the fill ring.
        let count = unsafe { self.queue.consume(&mut frames) };
        let frames = frames.get(..count).unwrap_or_default();
        for frame in frames {
            // SAFETY: the frame is ours until it is in the fill ring again.
            let data = unsafe { self.umem.data(frame) };
            take(data.contents());
        }
        // There is room: the ring is as large as there are frames.
        // SAFETY: the frames have left the rx ring.
        unsafe { self.fill.produce(frames) };
        if self.fill.needs_wakeup() {
            self.fill.wakeup(self.queue.fd_mut(), 0)?;
        }
        Ok(count)
    }
}

struct AfXdpRx {
    queues: Vec<RxSocket>,
    /// Whose turn it is.
    next: usize,
}

impl RxPort for AfXdpRx {
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        for _ in 0..self.queues.len() {
            let turn = self.next % self.queues.len();
            self.next = turn + 1;
            let Some(queue) = self.queues.get_mut(turn) else { break };
            let count = queue.receive(take)?;
            if count > 0 {
                return Ok(count);
            }
        }
        Ok(0)
    }

    fn wait(&mut self, limit: Duration) -> io::Result<()> {
        let polled = |socket: &RxSocket| {
            // SAFETY: the socket is open for as long as its queue is there.
            let fd = unsafe { BorrowedFd::borrow_raw(socket.queue.fd().as_raw_fd()) };
            PollFd::from_borrowed_fd(fd, PollFlags::IN)
        };
        let mut polled: Vec<_> = self.queues.iter().map(polled).collect();
        match poll(&mut polled, Some(&timespec(limit))) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn lost(&self) -> io::Result<u64> {
        let mut lost = 0;
        for socket in &self.queues {
            let statistics = socket.queue.fd().xdp_statistics()?;
            // An empty fill ring is in `rx_dropped`, too.
            lost += statistics.rx_dropped() + statistics.rx_ring_full();
        }
        Ok(lost)
    }
}
