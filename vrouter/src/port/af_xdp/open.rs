//! Opens a device as a port: attaches the program, binds a socket a queue, in the best mode that
//! the device can do.
//!
//! ```text
//! hook:     driver (native) ─► generic                   what the device refuses, the next may;
//! binding:  zero copy, many buffers ─► zero copy ─►      each refusal is kept for the operator
//!           copy, many buffers ─► copy
//! ```
//!
//! Every device registers the whole of packet memory as a UMEM of its own; the queues of one device
//! share that UMEM.
//!
//! A NIC delivers the frames to its own MAC address only; as the tunnels' outer headers name it, no
//! promiscuous mode is needed.

use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use rustix::net::xdp::SocketAddrXdpFlags;

use super::{
    fill::{self, QUEUE_FRAMES_MIN},
    interface::Interface,
    pin::Pin,
    program::{AttachedProgram, LoadedProgram, Loader, ProgramFault, ProgramKind},
    queue::{AfXdpQueue, Binding, QueueParts},
    socket::{ReleaseProbe, RingEntries, Socket},
};
use crate::{
    memory::{FramePool, HEADROOM_BYTES, Region},
    packet::Checksum,
    port::{
        AfXdpBackend, AfXdpMode, Backend, OpenPortError, OpenedPort, PortDevice, PortInterface,
        PortOpener, PortQueue, PortRequest, Role, SteerError, Steering, namespace,
    },
    stats::WorkerStats,
};

/// Rings of an uplink: two thousand frames are 1.6 ms of small frames at 1.25 Mpps, the longest
/// pause of a busy worker.
const UPLINK_ENTRIES: RingEntries =
    RingEntries { rx: 2048, tx: 2048, fill: 2048, completion: 2048 };
/// Rings of a guest port and of the host port, of which a node has hundreds.
const GUEST_ENTRIES: RingEntries = RingEntries { rx: 1024, tx: 1024, fill: 1024, completion: 1024 };
/// Queues that the program's map of sockets has room for (`QUEUES_MAX` in `bpf/kernel.h`).
const QUEUES_MAX: u32 = 256;
/// What the kernel keeps free before the headroom of a received frame (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM_BYTES: u32 = 256;
/// How often, and how long apart, the frames of a queue that could not be opened are asked back: a
/// second in all.
const ABANDON_TRIES_MAX: u32 = 200;
const ABANDON_RETRY: Duration = Duration::from_millis(5);
/// How long a program is waited for to leave an interface, and how often it is looked at. The
/// kernel detaches it when the last descriptor of its link is closed, and a process that is being
/// spawned holds copies for a moment.
const PROGRAM_LINGERS_MAX: Duration = Duration::from_secs(2);
const PROGRAM_RETRY: Duration = Duration::from_millis(5);
/// The longest link header that a frame may have beside its IP packet: Ethernet and one 802.1Q tag.
const LINK_HEADER_BYTES: u32 = 18;

/// Why a device could not be opened as a port.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum OpenAfXdpError {
    #[error("this opener opens AF_XDP ports only")]
    OtherBackend,
    #[error("there is no interface {interface}; create it first")]
    NoInterface { interface: String },
    #[error("cannot look at interface {interface}")]
    Interface {
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter the network namespace; does its path exist?")]
    Namespace(#[from] io::Error),
    #[error("{interface} has {available} rx queues, so {asked} cannot be opened; see ethtool -L")]
    Queues { interface: String, asked: u32, available: u32 },
    #[error(
        "{interface} runs another XDP program already (id {program_id}); detach that one first"
    )]
    OtherProgram { interface: String, program_id: u32 },
    #[error("no XDP on {interface}: {refusals}")]
    Attach { interface: String, refusals: String },
    #[error(transparent)]
    Program(#[from] ProgramFault),
    #[error("cannot make an AF_XDP socket; is CONFIG_XDP_SOCKETS set?")]
    Socket(#[source] io::Error),
    #[error("cannot register packet memory for {interface}; raise the limit of locked memory")]
    Register {
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{queues} queues of {interface} need {needed} frames and one port gets {share} at most; \
         open fewer (uplink_queues, ethtool -L) or set packet_memory.frames to {frames} or more"
    )]
    PacketMemoryShare { interface: String, queues: u32, needed: u32, share: u32, frames: u32 },
    #[error(
        "packet memory is used up: queue {queue} of {interface} got {lent} frames to receive into \
         and needs {needed}; raise packet_memory.frames"
    )]
    PacketMemoryExhausted { interface: String, queue: u32, lent: u32, needed: u32 },
    #[error("cannot make the rings of {interface}")]
    Rings {
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot bind to queue {queue} of {interface}: {refusals}")]
    Bind { interface: String, queue: u32, refusals: String },
}

/// Opens AF_XDP ports over one region of packet memory.
pub struct AfXdpOpener {
    region: Arc<Region>,
    loader: Loader,
    pin_folder: Option<PathBuf>,
}

impl AfXdpOpener {
    /// An opener whose ports use `region`.
    ///
    /// `pin_folder` is where uplinks' programs outlive the engine, such as `/sys/fs/bpf/vrouter`;
    /// without one, or if it lies in no BPF file system, the end of the engine detaches them.
    #[must_use]
    pub fn new(region: Arc<Region>, pin_folder: Option<PathBuf>) -> Self {
        Self { region, loader: Loader::new(), pin_folder }
    }

    fn open_device(
        &mut self,
        request: &PortRequest,
        pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenAfXdpError> {
        let Backend::AfXdp(backend) = &request.backend else {
            return Err(OpenAfXdpError::OtherBackend);
        };
        let interface = find(&backend.interface)?;
        let queue_count = queue_count(&interface, backend)?;
        let mut refusals = Vec::new();
        let program = self.attach(&interface, request.role, backend.mode, &mut refusals)?;
        let opening = Opening { region: &self.region, request, interface: &interface };
        let is_native = program.is_native;
        let (queues, binding) =
            opening.bind_queues(backend, queue_count, is_native, &mut refusals, pool)?;
        if queue_count < interface.rx_queues {
            let rest = interface.rx_queues - queue_count;
            refusals.push(format!("{rest} of its rx queues are not served, as configured"));
        }
        let device = AfXdpDevice {
            backend: backend_name(is_native, binding),
            detail: refusals.join("; "),
            frame_mtu_bytes: frame_mtu_bytes(&self.region, binding),
            sockets: queues.iter().map(AfXdpQueue::socket).collect(),
            program,
            interface,
        };
        let queues = queues.into_iter().map(|queue| Box::new(queue) as Box<dyn PortQueue>);
        Ok(OpenedPort { queues: queues.collect(), device: Box::new(device) })
    }

    fn attach(
        &mut self,
        interface: &Interface,
        role: Role,
        mode: AfXdpMode,
        refusals: &mut Vec<String>,
    ) -> Result<AttachedProgram, OpenAfXdpError> {
        let kind = if role == Role::Uplink { ProgramKind::Steer } else { ProgramKind::Redirect };
        let mut loaded = LoadedProgram::load(&mut self.loader, kind)?;
        let pin = self.pin(interface, kind, refusals);
        if let Some(found) = pin.as_ref().and_then(|pin| pin.find(interface, &mut loaded)) {
            return Ok(found);
        }
        if let Some(program_id) = lingering_program(interface)? {
            let interface = interface.name.clone();
            return Err(OpenAfXdpError::OtherProgram { interface, program_id });
        }
        let hooks: &[bool] = match mode {
            AfXdpMode::Auto => &[true, false],
            AfXdpMode::ZeroCopy | AfXdpMode::Copy => &[true],
            AfXdpMode::Generic => &[false],
        };
        for &is_native in hooks {
            match loaded.attach(interface.index, is_native, pin.as_ref()) {
                Ok(attached) => return Ok(attached),
                Err(ProgramFault::Attach(error)) => {
                    refusals.push(refused_hook(is_native, &error));
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        let interface = interface.name.clone();
        Err(OpenAfXdpError::Attach { interface, refusals: refusals.join("; ") })
    }

    fn pin(
        &self,
        interface: &Interface,
        kind: ProgramKind,
        refusals: &mut Vec<String>,
    ) -> Option<Pin> {
        let folder = self.pin_folder.as_deref().filter(|_| kind == ProgramKind::Steer)?;
        match Pin::prepare(folder, &interface.name) {
            Ok(pin) => Some(pin),
            Err(error) => {
                refusals.push(format!(
                    "the XDP program ends with the engine: {} is no place to pin it \
                     (mount -t bpf bpf /sys/fs/bpf): {error}",
                    folder.display()
                ));
                None
            }
        }
    }
}

impl PortOpener for AfXdpOpener {
    fn open(
        &mut self,
        request: &PortRequest,
        pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        let path: Option<&Path> = request.backend.interface().and_then(|(_, path)| path);
        let result = namespace::inside(path, || self.open_device(request, pool));
        result.map_err(|source| OpenPortError {
            name: request.name.clone(),
            source: Box::new(source),
        })
    }
}

/// A device that is being opened.
struct Opening<'a> {
    region: &'a Arc<Region>,
    request: &'a PortRequest,
    interface: &'a Interface,
}

impl Opening<'_> {
    /// Binds all queues: the first in the best mode, the others in the same. After an error all
    /// frames are back.
    fn bind_queues(
        &self,
        backend: &AfXdpBackend,
        queue_count: u32,
        is_native: bool,
        refusals: &mut Vec<String>,
        pool: &mut FramePool,
    ) -> Result<(Vec<AfXdpQueue>, Binding), OpenAfXdpError> {
        let mut queues = Vec::new();
        let mut first: Option<(Weak<Socket>, Binding)> = None;
        let fill_frames = self.fill_frames(queue_count)?;
        for queue in 0..queue_count {
            let sharing = first.as_ref().and_then(|(socket, _)| socket.upgrade());
            let is_first = sharing.is_none();
            let prepared = self.prepare(backend, queue, fill_frames, is_first, pool);
            let bound = prepared.and_then(|prepared| {
                let modes = modes(backend.mode, is_native);
                self.bind(prepared, queue, modes, sharing.as_deref(), refusals, pool)
            });
            let opened = bound.and_then(|(bound, binding)| {
                let binding = first.get_or_insert((bound.socket(), binding)).1;
                self.with_binding(bound, queue, binding)
            });
            match opened {
                Ok(opened) => queues.push(opened),
                Err(error) => {
                    // The first queue closes only when nobody else has its socket.
                    drop(sharing);
                    for queue in &mut queues {
                        abandon(queue, pool);
                    }
                    return Err(error);
                }
            }
        }
        let binding = first.map_or_else(Binding::default, |(_, binding)| binding);
        Ok((queues, binding))
    }

    fn fill_frames(&self, queues: u32) -> Result<u32, OpenAfXdpError> {
        let Self { region, request, interface } = self;
        let frames = region.frame_count();
        fill::frames_of_queue(request.role, queues, request.worker_count, frames).map_err(|share| {
            OpenAfXdpError::PacketMemoryShare {
                interface: interface.name.clone(),
                queues,
                needed: share.needed,
                share: share.share,
                frames: share.region_frames,
            }
        })
    }

    fn prepare(
        &self,
        backend: &AfXdpBackend,
        queue: u32,
        fill_frames: u32,
        is_first: bool,
        pool: &mut FramePool,
    ) -> Result<AfXdpQueue, OpenAfXdpError> {
        let is_uplink = self.request.role == Role::Uplink;
        let entries = if is_uplink { UPLINK_ENTRIES } else { GUEST_ENTRIES };
        let interface = || self.interface.name.clone();
        let socket = Socket::create(Arc::clone(self.region)).map_err(OpenAfXdpError::Socket)?;
        if is_first {
            socket
                .register_region(self.region)
                .map_err(|source| OpenAfXdpError::Register { interface: interface(), source })?;
        }
        let rings = socket
            .map_rings(entries)
            .map_err(|source| OpenAfXdpError::Rings { interface: interface(), source })?;
        let checksum =
            if backend.partial_checksums { Checksum::Partial } else { Checksum::Complete };
        let port = self.request.port;
        let parts = QueueParts { socket, rings, entries, fill_frames, port, checksum };
        let mut prepared = AfXdpQueue::new(Arc::clone(self.region), parts, pool);
        let lent = prepared.frames_lent();
        if lent < QUEUE_FRAMES_MIN {
            abandon(&mut prepared, pool);
            let (interface, needed) = (interface(), QUEUE_FRAMES_MIN);
            return Err(OpenAfXdpError::PacketMemoryExhausted { interface, queue, lent, needed });
        }
        Ok(prepared)
    }

    fn bind(
        &self,
        mut prepared: AfXdpQueue,
        queue: u32,
        modes: &[Binding],
        sharing: Option<&Socket>,
        refusals: &mut Vec<String>,
        pool: &mut FramePool,
    ) -> Result<(AfXdpQueue, Binding), OpenAfXdpError> {
        let mut refused = Vec::new();
        if let Some(socket) = prepared.socket().upgrade() {
            let index = self.interface.index;
            for &mode in modes {
                let result = match sharing {
                    Some(first) => socket.bind_shared(index, queue, first),
                    None => socket.bind(index, queue, bind_flags(mode)),
                };
                match result {
                    Ok(()) => {
                        drop(socket);
                        refusals.append(&mut refused);
                        return Ok((prepared, mode));
                    }
                    Err(error) => refused.push(format!("{}: {error}", binding_name(mode))),
                }
            }
        }
        abandon(&mut prepared, pool);
        let interface = self.interface.name.clone();
        Err(OpenAfXdpError::Bind { interface, queue, refusals: refused.join("; ") })
    }

    fn with_binding(
        &self,
        mut queue: AfXdpQueue,
        number: u32,
        binding: Binding,
    ) -> Result<AfXdpQueue, OpenAfXdpError> {
        let probe = if binding.is_zero_copy {
            let region = Arc::clone(self.region);
            let probe = ReleaseProbe::create(region, self.interface.index, number);
            Some(probe.map_err(OpenAfXdpError::Socket)?)
        } else {
            None
        };
        queue.bound(binding, probe);
        Ok(queue)
    }
}

/// An open device, as the main thread sees it.
struct AfXdpDevice {
    interface: Interface,
    program: AttachedProgram,
    /// One a queue, in order.
    sockets: Vec<Weak<Socket>>,
    backend: &'static str,
    detail: String,
    frame_mtu_bytes: u32,
}

impl PortDevice for AfXdpDevice {
    fn backend(&self) -> &str {
        self.backend
    }

    fn detail(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.detail)
    }

    fn mac_address(&self) -> Option<[u8; 6]> {
        self.interface.mac_address
    }

    fn mtu_bytes(&self) -> u32 {
        self.interface.mtu_bytes.min(self.frame_mtu_bytes)
    }

    fn interface(&self) -> Option<PortInterface> {
        Some(PortInterface { index: self.interface.index, frame_mtu_bytes: self.frame_mtu_bytes })
    }

    fn numa_node(&self) -> Option<u32> {
        self.interface.numa_node
    }

    fn steer(&mut self, steering: &Steering) -> Result<(), SteerError> {
        self.program
            .steer(steering, &self.sockets)
            .map_err(|error| SteerError { source: Box::new(error) })
    }

    fn kernel_rx_dropped(&self) -> Option<u64> {
        let sockets = self.sockets.iter().filter_map(Weak::upgrade);
        sockets.map(|socket| socket.rx_dropped().ok()).sum()
    }
}

/// The program that an interface runs already. Waits a while for it to go, since that of a port
/// that was just closed may linger.
fn lingering_program(interface: &Interface) -> Result<Option<u32>, OpenAfXdpError> {
    let deadline = Instant::now() + PROGRAM_LINGERS_MAX;
    let mut program = interface.program;
    while program.is_some() && Instant::now() < deadline {
        thread::sleep(PROGRAM_RETRY);
        program = find(&interface.name)?.program;
    }
    Ok(program.map(|(id, _)| id))
}

fn find(name: &str) -> Result<Interface, OpenAfXdpError> {
    Interface::find(name).map_err(|source| {
        let interface = name.to_owned();
        if source.kind() == io::ErrorKind::NotFound {
            OpenAfXdpError::NoInterface { interface }
        } else {
            OpenAfXdpError::Interface { interface, source }
        }
    })
}

/// All queues of the device, unless so many are asked for: a frame can go to the socket of its own
/// queue only, so one without a socket loses what comes in on it.
fn queue_count(interface: &Interface, backend: &AfXdpBackend) -> Result<u32, OpenAfXdpError> {
    let available = interface.rx_queues.min(QUEUES_MAX);
    match backend.queues.map(u32::from) {
        None => Ok(available.max(1)),
        Some(asked) if (1..=available).contains(&asked) => Ok(asked),
        Some(asked) => {
            let interface = interface.name.clone();
            Err(OpenAfXdpError::Queues { interface, asked, available })
        }
    }
}

/// The bindings to try, best first.
fn modes(mode: AfXdpMode, is_native: bool) -> &'static [Binding] {
    const ALL: [Binding; 4] = [
        Binding { is_zero_copy: true, is_multi_buffer: true },
        Binding { is_zero_copy: true, is_multi_buffer: false },
        Binding { is_zero_copy: false, is_multi_buffer: true },
        Binding { is_zero_copy: false, is_multi_buffer: false },
    ];
    let (zero_copy, copy) = ALL.split_at(2);
    match mode {
        AfXdpMode::ZeroCopy => zero_copy,
        AfXdpMode::Auto if is_native => &ALL,
        AfXdpMode::Auto | AfXdpMode::Copy | AfXdpMode::Generic => copy,
    }
}

fn bind_flags(binding: Binding) -> SocketAddrXdpFlags {
    let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
    flags |= if binding.is_zero_copy {
        SocketAddrXdpFlags::XDP_ZEROCOPY
    } else {
        SocketAddrXdpFlags::XDP_COPY
    };
    if binding.is_multi_buffer {
        flags |= SocketAddrXdpFlags::XDP_USE_SG;
    }
    flags
}

fn binding_name(binding: Binding) -> &'static str {
    match (binding.is_zero_copy, binding.is_multi_buffer) {
        (true, true) => "zero copy with many buffers",
        (true, false) => "zero copy",
        (false, true) => "copy with many buffers",
        (false, false) => "copy",
    }
}

fn backend_name(is_native: bool, binding: Binding) -> &'static str {
    match (is_native, binding.is_zero_copy) {
        (true, true) => "af_xdp zero-copy",
        (true, false) => "af_xdp copy",
        (false, _) => "af_xdp generic",
    }
}

/// The largest IP packet that goes through: with one buffer a packet, what one frame holds.
fn frame_mtu_bytes(region: &Region, binding: Binding) -> u32 {
    if binding.is_multi_buffer {
        return u32::MAX;
    }
    let reserved = KERNEL_HEADROOM_BYTES + u32::from(HEADROOM_BYTES) + LINK_HEADER_BYTES;
    region.frame_bytes() - reserved
}

fn refused_hook(is_native: bool, error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let hook = if is_native { "native XDP" } else { "generic XDP" };
    let hint = if text.contains("os error 28") {
        " (the peer has more tx queues than this side rx queues: see ethtool -L)"
    } else {
        ""
    };
    format!("{hook}: {text}{hint}")
}

/// Takes the frames of a queue back that no worker will ever poll. In zero copy that takes some
/// time.
fn abandon(queue: &mut AfXdpQueue, pool: &mut FramePool) {
    // Nothing was steered to it, so there is nothing to count.
    let stats = WorkerStats::new();
    for _ in 0..ABANDON_TRIES_MAX {
        if queue.drain(pool, &stats) == 0 {
            return;
        }
        thread::sleep(ABANDON_RETRY);
    }
}
