//! One virtio ring, seen from the device: what a session makes, and a worker works.
//!
//! ```text
//!  peek ──► heads of chains ──► parts (slices of guest memory) ──► copy ──► complete ──► publish
//! ```
//!
//! Both formats do the same for the queue: [`split`] (VirtIO 1.2 section 2.7) and [`packed`] (2.8).
//! Chains are completed in the order in which the driver made them available (so that
//! `VIRTIO_F_IN_ORDER` costs nothing), and at once: there is one position for both ends. A driver
//! that breaks the rules is caught by a [`RingFault`], and its ring then stands still.

pub(super) mod chain;
mod packed;
mod split;

use std::{os::fd::OwnedFd, sync::Arc};

use arrayvec::ArrayVec;

pub(super) use self::{
    chain::{Direction, HEADS_MAX, Head, Part, Parts},
    packed::PackedRing,
    split::SplitRing,
};
use super::{call::Call, inflight::InflightRegion, log::RingLog, memory::GuestMemory};

/// Entries of a ring at most (VirtIO 1.2 sections 2.7 and 2.8.10.1).
pub const RING_ENTRIES_MAX: u16 = 32_768;

/// How a ring lies in memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RingFormat {
    /// Descriptors, available ring and used ring apart (VirtIO 1.2 section 2.7).
    Split,
    /// One ring of descriptors (VirtIO 1.2 section 2.8; `VIRTIO_F_RING_PACKED`).
    Packed,
}

/// An index into a packed ring, and the wrap counter that goes with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PackedIndex {
    /// The descriptor.
    pub index: u16,
    /// 1 in the first round.
    pub wrap: bool,
}

/// Where the device goes on in a ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RingPosition {
    /// The next entry of the available ring, and of the used ring. Runs freely.
    Split(u16),
    /// The next descriptor, to be made available and to be used.
    Packed(PackedIndex),
}

impl RingPosition {
    /// The start of a ring that was never used.
    #[must_use]
    pub const fn start(format: RingFormat) -> Self {
        match format {
            RingFormat::Split => Self::Split(0),
            RingFormat::Packed => Self::Packed(PackedIndex { index: 0, wrap: true }),
        }
    }

    /// From the number of `VHOST_USER_SET_VRING_BASE`: for a packed ring 15 bits of index and one
    /// of wrap counter for what is available (low half), and again for what is used (high half).
    /// What is used counts: all between the two is yet to be done. DPDK leaves the high half empty
    /// and means the same place by it.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "halves of a word are meant")]
    pub const fn from_base(format: RingFormat, base: u32) -> Self {
        match format {
            RingFormat::Split => Self::Split(base as u16),
            RingFormat::Packed => {
                let high = (base >> 16) as u16;
                let used = if high == 0 { base as u16 } else { high };
                Self::Packed(PackedIndex { index: used & 0x7fff, wrap: used & 0x8000 != 0 })
            }
        }
    }

    /// The number for the answer to `VHOST_USER_GET_VRING_BASE`.
    #[must_use]
    pub const fn to_base(self) -> u32 {
        match self {
            Self::Split(next) => next as u32,
            Self::Packed(PackedIndex { index, wrap }) => {
                let half = index as u32 | if wrap { 0x8000 } else { 0 };
                half | half << 16
            }
        }
    }
}

/// What was negotiated, as far as rings are concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a feature bit of its own")]
pub struct RingFeatures {
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_index: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// `VIRTIO_NET_F_MRG_RXBUF`: a frame may go into several of the guest's buffers.
    pub mergeable: bool,
    /// `VIRTIO_F_VERSION_1`. The virtio-net header has 12 bytes with it or with mergeable buffers,
    /// else 10 (VirtIO 1.2 section 5.1.6).
    pub version_1: bool,
}

impl RingFeatures {
    /// Bytes of the virtio-net header before each frame.
    #[must_use]
    #[inline]
    pub const fn header_bytes(self) -> usize {
        if self.version_1 || self.mergeable { 12 } else { 10 }
    }
}

/// All that makes a ring.
#[derive(Debug)]
pub struct RingSetup {
    /// What descriptors' addresses mean.
    pub memory: Arc<GuestMemory>,
    /// How it lies in memory.
    pub format: RingFormat,
    /// Entries: up to [`RING_ENTRIES_MAX`]; of a split ring a power of two.
    pub size: u16,
    /// Where the descriptors are, in the frontend's addresses.
    pub descriptor_area: u64,
    /// Where the driver writes, in the frontend's addresses: the available ring; the driver's event
    /// suppression.
    pub driver_area: u64,
    /// Where we write, in the frontend's addresses: the used ring; the device's event suppression.
    pub device_area: u64,
    /// Where to go on.
    pub position: RingPosition,
    /// The position is where this engine gave the ring back, and not what the frontend believes.
    pub is_resumed: bool,
    /// What was negotiated.
    pub features: RingFeatures,
    /// Where the driver tells that it made something available; `None` if it never tells.
    pub kick: Option<OwnedFd>,
    /// Where to tell the driver that something was used; `None` if it polls.
    pub call: Option<OwnedFd>,
    /// Where to mark what is written.
    pub log: Option<RingLog>,
    /// Where to note what is under way.
    pub inflight: Option<InflightRegion>,
}

/// Why a ring could not be made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum RingError {
    #[error(
        "a {format:?} ring of {size} entries is not possible: at most {RING_ENTRIES_MAX}, of a \
         split ring a power of two"
    )]
    Size { format: RingFormat, size: u16 },
    #[error("the ring's {area} at {address:#x} is not aligned, or not inside the guest's memory")]
    Area { area: &'static str, address: u64 },
    #[error("position {position:?} is not in a {format:?} ring of {size} entries")]
    Position { position: RingPosition, format: RingFormat, size: u16 },
}

/// How a driver broke the rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum RingFault {
    #[error("the driver made {count} chains available in a ring of {size} entries")]
    AvailableIndex { count: u16, size: u16 },
    #[error("descriptor {index} is not in a ring of {size} entries")]
    DescriptorIndex { index: u16, size: u16 },
    #[error("a chain of descriptors has no end within {limit} of them")]
    ChainTooLong { limit: usize },
    #[error("an indirect table of {bytes} bytes is not possible")]
    IndirectTable { bytes: u32 },
    #[error("an indirect descriptor where none may be")]
    IndirectMisplaced,
    #[error("{bytes} bytes at guest address {address:#x} are not in the guest's memory")]
    OutsideMemory { address: u64, bytes: u32 },
    #[error("a buffer is writable where it should be readable, or the other way round")]
    WrongDirection,
    #[error("the guest cut the file of its memory short")]
    Truncated,
}

/// A virtio ring that a session set up. Whoever owns it is the only one to touch it.
#[derive(Debug)]
pub struct Ring {
    pub(super) engine: RingEngine,
    pub(super) memory: Arc<GuestMemory>,
    pub(super) features: RingFeatures,
    pub(super) log: Option<RingLog>,
    pub(super) fault: Option<RingFault>,
    /// The region of guest memory where the last buffer lay.
    pub(super) region_hint: usize,
    kick: Option<OwnedFd>,
    call: Option<Call>,
    /// A predecessor may have died before it could tell the driver.
    may_be_untold: bool,
}

/// The format's own part.
#[derive(Debug)]
pub(super) enum RingEngine {
    Split(SplitRing),
    Packed(PackedRing),
}

impl Ring {
    /// Checks what the frontend said and makes the ring of it. Asks the driver for no kicks.
    ///
    /// # Errors
    ///
    /// Fails for a size that the format cannot have, for areas that are not in guest memory, and
    /// for a position outside the ring.
    pub fn new(setup: RingSetup) -> Result<Self, RingError> {
        let engine = match setup.format {
            RingFormat::Split => RingEngine::Split(SplitRing::new(&setup)?),
            RingFormat::Packed => RingEngine::Packed(PackedRing::new(&setup)?),
        };
        let RingSetup { memory, features, kick, call, log, is_resumed, .. } = setup;
        let (call, may_be_untold) = (call.map(Call::new), !is_resumed);
        let (fault, region_hint) = (None, 0);
        Ok(Self { engine, memory, features, log, fault, region_hint, kick, call, may_be_untold })
    }

    /// Where the next owner would go on: the answer to `VHOST_USER_GET_VRING_BASE`.
    #[must_use]
    pub fn position(&self) -> RingPosition {
        match &self.engine {
            RingEngine::Split(ring) => ring.position(),
            RingEngine::Packed(ring) => ring.position(),
        }
    }

    /// How the driver broke the rules, if it did: then the ring stands still.
    #[must_use]
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    /// Where the driver tells that it made something available.
    #[must_use]
    pub fn kick(&self) -> Option<&OwnedFd> {
        self.kick.as_ref()
    }

    /// Exchanges where the driver tells that it made something available.
    pub fn set_kick(&mut self, kick: Option<OwnedFd>) {
        self.kick = kick;
    }

    /// Exchanges where to tell the driver that something was used.
    pub fn set_call(&mut self, call: Option<OwnedFd>) {
        self.call = call.map(Call::new);
    }

    /// Exchanges where to mark what is written.
    pub fn set_log(&mut self, log: Option<RingLog>) {
        self.log = log;
    }

    /// Asks the driver for kicks; whether something waits already.
    pub(super) fn arm(&mut self) -> bool {
        match &mut self.engine {
            RingEngine::Split(ring) => arm(ring),
            RingEngine::Packed(ring) => arm(ring),
        }
    }

    /// Whether something waits.
    pub(super) fn has_waiting(&self) -> bool {
        match &self.engine {
            RingEngine::Split(ring) => ring.has_waiting(),
            RingEngine::Packed(ring) => ring.has_waiting(),
        }
    }

    /// Asks the driver for no more kicks.
    pub(super) fn disarm(&mut self) {
        match &mut self.engine {
            RingEngine::Split(ring) => ring.ask_for_kicks(false),
            RingEngine::Packed(ring) => ring.ask_for_kicks(false),
        }
    }

    /// Tells the driver what was used, if it wants to be told. Enters the kernel.
    pub(super) fn call(&mut self) {
        let is_wanted = match &mut self.engine {
            RingEngine::Split(ring) => ring.wants_call(),
            RingEngine::Packed(ring) => ring.wants_call(),
        };
        let is_wanted = is_wanted || std::mem::take(&mut self.may_be_untold);
        if let Some(call) = &mut self.call
            && (is_wanted || call.is_owed())
        {
            call.signal();
        }
    }
}

fn arm(ring: &mut impl DeviceRing) -> bool {
    ring.ask_for_kicks(true);
    ring.has_waiting()
}

/// Chains that were looked at in one go.
pub(super) type Heads = ArrayVec<Head, HEADS_MAX>;

/// What both formats do. Statically dispatched: the format is looked at once a burst.
pub(super) trait DeviceRing {
    /// Whether a chain waits behind the cursor.
    fn has_waiting(&self) -> bool;

    /// Reads the heads of chains that wait, `heads_max` at most, and moves the cursor behind them.
    ///
    /// On a fault, `heads` holds those before it.
    fn peek(&mut self, heads: &mut Heads, heads_max: usize) -> Result<(), RingFault>;

    /// Appends the pieces of a chain. On a fault, `parts` holds those before it.
    fn parts<'a>(
        &self,
        head: &Head,
        direction: Direction,
        features: RingFeatures,
        memory: &'a GuestMemory,
        parts: &mut Parts<'a>,
    ) -> Result<(), RingFault>;

    /// Hands the oldest chain that is not completed, whose head this is, back to the driver with
    /// the next [`Self::publish`].
    fn complete(&mut self, head: &Head, bytes_written: u32, log: Option<&RingLog>);

    /// Puts the cursor back to the oldest chain that is not completed.
    fn rewind(&mut self);

    /// Shows the driver all that was completed.
    fn publish(&mut self, log: Option<&RingLog>);

    /// Whether the driver wants to be told of what was published since the last call.
    fn wants_call(&mut self) -> bool;

    /// Says whether the driver should kick when it makes something available.
    fn ask_for_kicks(&mut self, wanted: bool);
}

/// Whether an index passed `event` on its way from `old` to `new` (VirtIO 1.2 section 2.7.10): all
/// run freely.
pub(super) fn is_event_passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
