//! A connected frontend: what it has negotiated and set up, and the requests that change that.
//!
//! A request that changes what rings rest on stops them first and starts them again afterwards, at
//! the place where they stood. What a request says is checked here as far as it can be before a
//! ring is made of it; a frontend that breaks the rules loses its connection.

mod memory;

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::OFlags;
use vhost::vhost_user::message::{
    VhostUserConfig, VhostUserProtocolFeatures as Protocol, VhostUserVringState,
};
use vm_memory::ByteValued;

use self::memory::Memory;
use super::{
    config_space::ConfigSpace,
    features,
    mapping::MapError,
    memory::MemoryError,
    orders::{OrderError, QueuePair, signal},
    queues::{Fallen, Queues, StopQueueError},
    request::{Request, RingAddresses},
    ring::{RING_ENTRIES_MAX, RingFormat},
    ring_state::{MakeRingError, RingState, Surroundings, format},
};
use crate::packet::Offloads;

/// What a port offers to whoever connects.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) features: u64,
    pub(super) queue_pairs: u16,
    pub(super) mtu_bytes: u16,
    pub(super) config: ConfigSpace,
}

/// One connection's state.
#[derive(Debug)]
pub(super) struct Frontend<'a> {
    offer: &'a Offer,
    /// Packets may come in.
    is_steered: bool,
    /// `None` until the frontend has acknowledged some.
    features: Option<u64>,
    protocol_features: u64,
    /// Two a queue pair: to the guest, from the guest.
    rings: Vec<RingState>,
    memory: Memory,
    /// The virtio device status, which the frontend writes and reads back.
    device_status: u8,
    fault: Option<String>,
}

/// What a request is answered with, beside its success.
#[derive(Debug)]
pub(super) enum Reply {
    /// Nothing but that, if the frontend wants to know.
    Done,
    /// This body.
    Body(Vec<u8>),
    /// This body, and a descriptor.
    File(Vec<u8>, OwnedFd),
}

/// Why a request cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestFault {
    #[error("the frontend acknowledged features {features:#x}, of which not all were offered")]
    Features { features: u64 },
    #[error("the frontend asks for protocol features {features:#x}, of which not all were offered")]
    ProtocolFeatures { features: u64 },
    #[error("there is no ring {ring}: {rings} were offered")]
    NoSuchRing { ring: u32, rings: usize },
    #[error("ring {ring} came with a descriptor that is no eventfd")]
    NoEvent { ring: u32 },
    #[error("a ring of {entries} entries is not possible: at most {RING_ENTRIES_MAX}")]
    RingSize { entries: u32 },
    #[error("ring position {base:#x} is not possible")]
    RingBase { base: u32 },
    #[error("queue pair {queue}: {source}")]
    Ring { queue: usize, source: MakeRingError },
    #[error("queue pair {queue}: {source}")]
    Order { queue: usize, source: OrderError },
    #[error(transparent)]
    Stop(#[from] StopQueueError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("more than {slots} regions of memory")]
    TooManyRegions { slots: usize },
    #[error("there is no region of memory at guest address {guest_address:#x} to remove")]
    NoSuchRegion { guest_address: u64 },
    #[error("a log of {bytes} bytes is not possible")]
    Log { bytes: u64 },
    #[error("an in-flight area for {rings} rings of {entries} entries is not possible")]
    InflightShape { rings: u16, entries: u16 },
    #[error("cannot make an in-flight area")]
    MakeInflight(#[source] std::io::Error),
    #[error("a request of protocol feature {0:?}, which the frontend did not ask for")]
    NotNegotiated(Protocol),
    #[error("an MTU of {asked} bytes is more than the port's {most}")]
    Mtu { asked: u64, most: u16 },
    #[error("the configuration space cannot be written")]
    ReadOnlyConfig,
}

impl RequestFault {
    /// Whether the connection cannot go on.
    pub(super) fn is_fatal(&self) -> bool {
        !matches!(self, Self::Mtu { .. } | Self::ReadOnlyConfig | Self::NoSuchRegion { .. })
    }
}

impl<'a> Frontend<'a> {
    /// A frontend that has said nothing yet.
    pub(super) fn new(offer: &'a Offer, is_steered: bool) -> Self {
        let rings = 2 * usize::from(offer.queue_pairs);
        Self {
            offer,
            is_steered,
            features: None,
            protocol_features: 0,
            rings: (0..rings).map(|_| RingState::default()).collect(),
            memory: Memory::default(),
            device_status: 0,
            fault: None,
        }
    }

    /// Whether the frontend is to be told how a request went that has no answer of its own.
    pub(super) fn wants_acknowledgement(&self) -> bool {
        self.has(Protocol::REPLY_ACK)
    }

    /// What was negotiated, or what the frontend has yet to do.
    pub(super) fn describe(&self, queues: &Queues) -> String {
        if let Some(fault) = &self.fault {
            return fault.clone();
        }
        match (self.features, queues.running_count()) {
            (Some(features), running) if running > 0 => {
                let (all, words) = (self.offer.queue_pairs, features::describe(features));
                format!("{words}, {running} of {all} queue pairs")
            }
            _ => "a frontend is connected and has not started its rings".into(),
        }
    }

    /// Carries out a request.
    pub(super) fn handle(
        &mut self,
        request: Request,
        queues: &mut Queues,
    ) -> Result<Reply, RequestFault> {
        let outcome = self.carry_out(request, queues);
        // Also after a request that was refused, for which rings may have been stopped.
        if outcome.as_ref().err().is_none_or(|fault| !fault.is_fatal()) {
            self.start_ready(queues)?;
        }
        outcome
    }

    /// Says whether packets may come in; until then no ring is worked on.
    pub(super) fn steer(
        &mut self,
        is_steered: bool,
        queues: &mut Queues,
    ) -> Result<(), RequestFault> {
        if self.is_steered == is_steered {
            return Ok(());
        }
        self.is_steered = is_steered;
        if is_steered { self.start_ready(queues) } else { self.pause(queues) }
    }

    /// A queue stopped of its own accord.
    pub(super) fn note_fallen(&mut self, fallen: &Fallen) {
        let Fallen { queue, positions, fault } = fallen;
        let (tx, rx) = (2 * queue, 2 * queue + 1);
        for (ring, position) in [(tx, positions.tx), (rx, positions.rx)] {
            let Some(state) = self.rings.get_mut(ring) else { continue };
            (state.base, state.is_resumed) = (Some(position.to_base()), true);
            state.is_started = false;
            if fault.is_some()
                && let Some(error) = &state.error
            {
                signal(error);
            }
        }
        if let Some(fault) = fault {
            self.fault = Some(format!(
                "queue pair {queue} is stopped until the guest resets its device: {fault}"
            ));
        }
    }

    fn carry_out(&mut self, request: Request, queues: &mut Queues) -> Result<Reply, RequestFault> {
        match request {
            Request::GetFeatures => return Ok(number(self.offer.features)),
            Request::SetFeatures(features) => self.set_features(features, queues)?,
            Request::GetProtocolFeatures => return Ok(number(features::PROTOCOL)),
            Request::SetProtocolFeatures(features) => self.set_protocol_features(features)?,
            Request::GetQueueCount => return Ok(number(self.offer.queue_pairs.into())),
            Request::SetOwner => {}
            Request::ResetOwner => self.stop_rings(queues)?,
            Request::SetMtu(mtu_bytes) => self.check_mtu(mtu_bytes)?,
            Request::GetConfig { offset, bytes, flags } => {
                return Ok(self.read_config(offset, bytes, flags));
            }
            Request::SetConfig => return Err(RequestFault::ReadOnlyConfig),
            Request::ResetDevice => {
                self.need(Protocol::RESET_DEVICE)?;
                self.stop_rings(queues)?;
                self.rings.iter_mut().for_each(|ring| ring.is_enabled = None);
            }
            Request::SetStatus(status) => self.set_status(status, queues)?,
            Request::GetStatus => return Ok(number(self.device_status.into())),
            Request::SetMemoryTable(_)
            | Request::AddMemory { .. }
            | Request::RemoveMemory(_)
            | Request::GetMemorySlots
            | Request::SetLogBase { .. }
            | Request::SetLogFile
            | Request::GetInflight(_)
            | Request::SetInflight { .. } => return self.change_memory(request, queues),
            Request::GetRingBase { ring } => return self.stop_ring(ring, queues),
            Request::SetRingSize { .. }
            | Request::SetRingAddresses(_)
            | Request::SetRingBase { .. }
            | Request::SetRingKick { .. }
            | Request::SetRingCall { .. }
            | Request::SetRingError { .. }
            | Request::SetRingEnabled { .. } => self.change_ring(request, queues)?,
        }
        Ok(Reply::Done)
    }

    fn set_features(&mut self, features: u64, queues: &mut Queues) -> Result<(), RequestFault> {
        if features & !self.offer.features != 0 {
            return Err(RequestFault::Features { features });
        }
        if self.features != Some(features) {
            self.pause(queues)?;
            self.features = Some(features);
        }
        Ok(())
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<(), RequestFault> {
        if features & !features::PROTOCOL != 0 {
            return Err(RequestFault::ProtocolFeatures { features });
        }
        self.protocol_features = features;
        Ok(())
    }

    /// The frontend tells the guest of an MTU, which is to be one that the port carries.
    fn check_mtu(&self, mtu_bytes: u64) -> Result<(), RequestFault> {
        let most = self.offer.mtu_bytes;
        if mtu_bytes > most.into() {
            return Err(RequestFault::Mtu { asked: mtu_bytes, most });
        }
        Ok(())
    }

    fn set_status(&mut self, status: u64, queues: &mut Queues) -> Result<(), RequestFault> {
        // A byte in the device; frontends send it as a longer number.
        self.device_status = u8::try_from(status & 0xff).unwrap_or_default();
        if self.device_status == 0 {
            self.stop_rings(queues)?;
        }
        Ok(())
    }

    /// The part of the configuration space that was asked for; an answer of no bytes says that it
    /// does not have so much.
    fn read_config(&self, offset: u32, bytes: u32, flags: u32) -> Reply {
        let found = self.offer.config.read(offset, bytes).unwrap_or_default();
        let size = u32::try_from(found.len()).unwrap_or_default();
        let mut body = VhostUserConfig { offset, size, flags }.as_slice().to_vec();
        body.extend_from_slice(found);
        Reply::Body(body)
    }

    fn change_memory(
        &mut self,
        request: Request,
        queues: &mut Queues,
    ) -> Result<Reply, RequestFault> {
        if let Some(feature) = Memory::feature_of(&request) {
            self.need(feature)?;
        }
        if Memory::moves_rings(&request) {
            self.pause(queues)?;
        }
        self.memory.handle(request, self.rings.len())
    }

    fn change_ring(&mut self, request: Request, queues: &mut Queues) -> Result<(), RequestFault> {
        match request {
            Request::SetRingSize { ring, entries } => {
                let entries = u16::try_from(entries)
                    .ok()
                    .filter(|entries| (1..=RING_ENTRIES_MAX).contains(entries))
                    .ok_or(RequestFault::RingSize { entries })?;
                self.stopped_ring(ring, queues)?.entries = entries;
            }
            Request::SetRingAddresses(addresses) => {
                let RingAddresses { ring, .. } = addresses;
                self.stopped_ring(ring, queues)?.addresses = Some(addresses);
            }
            Request::SetRingBase { ring, base } => {
                let is_packed = self.features.map(format) == Some(RingFormat::Packed);
                if !is_packed && base > u16::MAX.into() {
                    return Err(RequestFault::RingBase { base });
                }
                let state = self.stopped_ring(ring, queues)?;
                (state.base, state.is_resumed) = (Some(base), false);
            }
            Request::SetRingKick { ring, file } => {
                let file = event(ring, file)?;
                let state = self.stopped_ring(ring, queues)?;
                state.kick = file;
                state.is_started = true;
                self.fault = None;
            }
            Request::SetRingCall { ring, file } => {
                self.stopped_ring(ring, queues)?.call = event(ring, file)?;
            }
            Request::SetRingError { ring, file } => self.ring(ring)?.error = event(ring, file)?,
            Request::SetRingEnabled { ring, is_enabled } => {
                let is_same = self.ring(ring)?.is_enabled == Some(is_enabled);
                let state =
                    if is_same { self.ring(ring)? } else { self.stopped_ring(ring, queues)? };
                state.is_enabled = Some(is_enabled);
            }
            _ => {}
        }
        Ok(())
    }

    /// Stops a ring for good and says where it stands.
    fn stop_ring(&mut self, ring: u32, queues: &mut Queues) -> Result<Reply, RequestFault> {
        let state = self.stopped_ring(ring, queues)?;
        state.is_started = false;
        let base = state.base.unwrap_or_default();
        Ok(Reply::Body(VhostUserVringState { index: ring, num: base }.as_slice().to_vec()))
    }

    /// A ring that no worker has.
    fn stopped_ring(
        &mut self,
        ring: u32,
        queues: &mut Queues,
    ) -> Result<&mut RingState, RequestFault> {
        self.ring(ring)?;
        self.pause_queue(usize::try_from(ring / 2).unwrap_or(usize::MAX), queues)?;
        self.ring(ring)
    }

    fn ring(&mut self, ring: u32) -> Result<&mut RingState, RequestFault> {
        let rings = self.rings.len();
        let index = usize::try_from(ring).unwrap_or(usize::MAX);
        self.rings.get_mut(index).ok_or(RequestFault::NoSuchRing { ring, rings })
    }

    /// Stops all rings for good.
    fn stop_rings(&mut self, queues: &mut Queues) -> Result<(), RequestFault> {
        self.pause(queues)?;
        self.rings.iter_mut().for_each(|ring| ring.is_started = false);
        Ok(())
    }

    /// Takes all rings back, to be started again by [`Self::start_ready`].
    fn pause(&mut self, queues: &mut Queues) -> Result<(), RequestFault> {
        // All at once first: then the waits overlap.
        queues.begin_to_stop();
        (0..queues.count()).try_for_each(|queue| self.pause_queue(queue, queues))
    }

    fn pause_queue(&mut self, queue: usize, queues: &mut Queues) -> Result<(), RequestFault> {
        if let Some(positions) = queues.stop(queue)? {
            for (ring, position) in [(2 * queue, positions.tx), (2 * queue + 1, positions.rx)] {
                if let Some(state) = self.rings.get_mut(ring) {
                    (state.base, state.is_resumed) = (Some(position.to_base()), true);
                }
            }
        }
        Ok(())
    }

    /// Hands every queue to its worker that is set up and not running.
    fn start_ready(&mut self, queues: &mut Queues) -> Result<(), RequestFault> {
        let (Some(features), Some(memory)) = (self.features, self.memory.guest()) else {
            return Ok(());
        };
        if !self.is_steered {
            return Ok(());
        }
        let log = self.memory.log().filter(|_| features & features::LOG_ALL != 0);
        let around = Surroundings { features, memory, log };
        for (queue, rings) in self.rings.chunks_exact(2).enumerate() {
            let [tx, rx] = rings else { continue };
            if !queues.is_idle(queue) || !tx.is_ready(features) || !rx.is_ready(features) {
                continue;
            }
            let failed = |source| RequestFault::Ring { queue, source };
            let tx = tx
                .make(&around, self.memory.inflight(2 * queue, format(features)))
                .map_err(failed)?;
            let rx = rx
                .make(&around, self.memory.inflight(2 * queue + 1, format(features)))
                .map_err(failed)?;
            let (Some(tx), Some(rx)) = (tx, rx) else { continue };
            let pair = QueuePair { rx, tx, offloads: offloads(features) };
            queues.start(queue, pair).map_err(|source| RequestFault::Order { queue, source })?;
        }
        Ok(())
    }

    fn has(&self, feature: Protocol) -> bool {
        self.protocol_features & feature.bits() != 0
    }

    fn need(&self, feature: Protocol) -> Result<(), RequestFault> {
        if self.has(feature) { Ok(()) } else { Err(RequestFault::NotNegotiated(feature)) }
    }
}

/// What the guest takes unfinished.
fn offloads(features: u64) -> Offloads {
    let has = |bits| features & bits == bits;
    // Segmentation rests on checksums (VirtIO 1.2 section 5.1.3.1).
    let checksum = has(features::GUEST_CSUM);
    Offloads {
        checksum,
        tcp_v4: checksum && has(features::GUEST_TSO4),
        tcp_v6: checksum && has(features::GUEST_TSO6),
        tcp_ecn: checksum && has(features::GUEST_ECN),
        udp: checksum && has(features::GUEST_USO4 | features::GUEST_USO6),
    }
}

/// A descriptor for events that workers may wait for and write to without waiting for whoever gave
/// it to us: a pipe would let them wait when it is full, and a file of a guest's file system
/// always.
fn event(ring: u32, file: Option<OwnedFd>) -> Result<Option<OwnedFd>, RequestFault> {
    let Some(file) = file else { return Ok(None) };
    let no_event = |_| RequestFault::NoEvent { ring };
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let target = rustix::fs::readlink(link, Vec::new()).map_err(no_event)?;
    if target.as_bytes() != b"anon_inode:[eventfd]" {
        return Err(RequestFault::NoEvent { ring });
    }
    let flags = rustix::fs::fcntl_getfl(&file).map_err(no_event)?;
    rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(no_event)?;
    Ok(Some(file))
}

fn number(value: u64) -> Reply {
    Reply::Body(value.to_ne_bytes().to_vec())
}
