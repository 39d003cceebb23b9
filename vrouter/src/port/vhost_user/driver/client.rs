//! A frontend over a backend's socket: shares memory, says where its rings are, and then moves
//! frames.
//!
//! The protocol is the crate `vhost`'s; it blocks. The connection is closed with the client's last
//! ring, and the backend lets go of the memory.

use std::{fmt, io, os::fd::AsRawFd, path::Path};

use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend,
        message::{VhostUserHeaderFlag, VhostUserProtocolFeatures},
    },
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{
    super::features, BASE_ADDRESS, DriverMemory, DriverRing, MakeDriverError, RingShape, RingUse,
};
use crate::port::vhost_user::ring::{RingFeatures, RingFormat};

/// Memory is shared in whole huge pages.
const MEMORY_UNIT_BYTES: u64 = 2 << 20;
/// Each ring starts at a page.
const RING_UNIT_BYTES: u64 = 4096;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// How its rings lie in memory.
    pub format: RingFormat,
    /// Entries of each ring.
    pub ring_entries: u16,
    /// Bytes of each buffer, header included.
    pub buffer_bytes: u32,
    /// Buffers of each ring to the backend, and of each one from it: as [`RingShape::buffers`].
    pub tx_buffers: u32,
    /// See there.
    pub rx_buffers: u32,
    /// Queue pairs; more than one takes a backend with several.
    pub queue_pairs: u16,
    /// A frame may come in several buffers.
    pub mergeable: bool,
    /// Memory on huge pages of 2 MiB.
    pub huge_pages: bool,
}

/// A ring that a backend works on. The connection lasts as long as one of its rings does.
pub struct ClientRing {
    /// The ring.
    pub ring: DriverRing,
    kick: EventFd,
    _connection: Frontend,
}

/// One queue pair of a client; its rings may go to two threads.
#[derive(Debug)]
pub struct ClientQueue {
    /// To the backend.
    pub tx: ClientRing,
    /// From the backend.
    pub rx: ClientRing,
}

/// What a connection set up.
#[derive(Debug)]
pub struct Client {
    /// The queue pairs.
    pub queues: Vec<ClientQueue>,
    /// Features in force.
    pub features: u64,
}

/// Why a backend could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ConnectError {
    #[error("the backend lacks features {missing:#x}; it has {offered:#x}")]
    Features { missing: u64, offered: u64 },
    #[error("cannot make the driver's rings")]
    Rings(#[from] MakeDriverError),
    #[error("there are no descriptors left; raise the limit of open files")]
    Descriptors(#[source] io::Error),
    #[error("the backend did not accept to {step}")]
    Protocol {
        step: &'static str,
        #[source]
        source: vhost::Error,
    },
}

/// Names the step of a request that failed.
fn at(step: &'static str) -> impl Fn(vhost::Error) -> ConnectError {
    move |source| ConnectError::Protocol { step, source }
}

impl Client {
    /// Connects to the backend that listens on `path`, and starts all rings. Nothing is offered on
    /// them yet.
    ///
    /// # Errors
    ///
    /// Fails if nobody listens, if the backend lacks what is asked for, or if there is not enough
    /// memory.
    pub fn connect(path: &Path, config: ClientConfig) -> Result<Self, ConnectError> {
        let rings = u64::from(config.queue_pairs) * 2;
        let mut frontend = Frontend::connect(path, rings).map_err(at("connect"))?;
        let features = negotiate(&mut frontend, config)?;
        let shape = |usage| config.shape(usage);
        let ring_bytes = |usage| shape(usage).bytes().next_multiple_of(RING_UNIT_BYTES);
        let (rx_bytes, tx_bytes) = (ring_bytes(RingUse::Receive), ring_bytes(RingUse::Transmit));
        let pairs = u64::from(config.queue_pairs);
        let bytes = (pairs * (rx_bytes + tx_bytes)).next_multiple_of(MEMORY_UNIT_BYTES);
        let memory = DriverMemory::create(bytes, config.huge_pages)?;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: BASE_ADDRESS,
            memory_size: bytes,
            userspace_addr: BASE_ADDRESS,
            mmap_offset: 0,
            mmap_handle: memory.file().as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).map_err(at("share memory"))?;
        let mut queues = Vec::new();
        for pair in 0..pairs {
            let offset = pair * (rx_bytes + tx_bytes);
            let first = queues.len() * 2;
            // Rings are numbered from the guest's side: it receives on the even ones.
            let rx = DriverRing::new(&memory, offset, shape(RingUse::Receive))?;
            let tx = DriverRing::new(&memory, offset + rx_bytes, shape(RingUse::Transmit))?;
            let rx = start(&mut frontend, first, rx)?;
            queues.push(ClientQueue { rx, tx: start(&mut frontend, first + 1, tx)? });
        }
        for ring in 0..queues.len() * 2 {
            frontend.set_vring_enable(ring, true).map_err(at("enable a ring"))?;
        }
        Ok(Self { queues, features })
    }
}

impl ClientRing {
    /// Tells the backend what was offered, if it wants to be told.
    ///
    /// # Errors
    ///
    /// Fails if the event is gone.
    pub fn kick(&mut self) -> io::Result<()> {
        if self.ring.wants_kick() { self.kick.write(1) } else { Ok(()) }
    }
}

impl fmt::Debug for ClientRing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("ClientRing").field(&self.ring).finish()
    }
}

impl ClientConfig {
    fn shape(&self, usage: RingUse) -> RingShape {
        RingShape {
            format: self.format,
            size: self.ring_entries,
            usage,
            buffer_bytes: self.buffer_bytes,
            buffers: match usage {
                RingUse::Receive => self.rx_buffers,
                RingUse::Transmit => self.tx_buffers,
            },
            features: RingFeatures {
                event_index: false,
                indirect: false,
                mergeable: self.mergeable,
                version_1: true,
            },
        }
    }

    fn features(&self) -> u64 {
        let packed = if self.format == RingFormat::Packed { features::RING_PACKED } else { 0 };
        let mergeable = if self.mergeable { features::MRG_RXBUF } else { 0 };
        let several = if self.queue_pairs > 1 { features::MQ } else { 0 };
        features::VERSION_1 | features::PROTOCOL_FEATURES | packed | mergeable | several
    }
}

/// Agrees on features; returns those in force.
fn negotiate(frontend: &mut Frontend, config: ClientConfig) -> Result<u64, ConnectError> {
    frontend.set_owner().map_err(at("take us for its owner"))?;
    let offered = frontend.get_features().map_err(at("tell its features"))?;
    let wanted = config.features();
    let missing = wanted & !offered;
    if missing != 0 {
        return Err(ConnectError::Features { missing, offered });
    }
    let protocol = frontend.get_protocol_features().map_err(at("tell its protocol features"))?;
    let ours = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
    let protocol = protocol & ours;
    frontend.set_protocol_features(protocol).map_err(at("take protocol features"))?;
    if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    // The crate takes the answer to GET_QUEUE_NUM for a number of rings: a backend that has fewer
    // pairs refuses their rings.
    frontend.set_features(wanted).map_err(at("take features"))?;
    Ok(wanted)
}

/// Says all there is to say about one ring.
fn start(
    frontend: &mut Frontend,
    number: usize,
    ring: DriverRing,
) -> Result<ClientRing, ConnectError> {
    let [descriptors, driver, device] = ring.areas();
    let RingShape { format, size, .. } = *ring.shape();
    let addresses = VringConfigData {
        queue_max_size: size,
        queue_size: size,
        flags: 0,
        desc_table_addr: descriptors,
        used_ring_addr: device,
        avail_ring_addr: driver,
        log_addr: None,
    };
    let event = || EventFd::new(EFD_NONBLOCK).map_err(ConnectError::Descriptors);
    // The backend has its own copy of the call; a client polls.
    let (kick, call) = (event()?, event()?);
    // The wrap counter of a packed ring's first round; the crate has no room for the half that says
    // the same of used descriptors.
    let base = if format == RingFormat::Packed { 0x8000 } else { 0 };
    frontend.set_vring_num(number, size).map_err(at("take a ring's size"))?;
    frontend.set_vring_addr(number, &addresses).map_err(at("take a ring's addresses"))?;
    frontend.set_vring_base(number, base).map_err(at("take a ring's start"))?;
    frontend.set_vring_call(number, &call).map_err(at("take a ring's call"))?;
    frontend.set_vring_kick(number, &kick).map_err(at("take a ring's kick"))?;
    Ok(ClientRing { ring, kick, _connection: frontend.clone() })
}
