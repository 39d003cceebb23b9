//! The other side: a driver's rings, for generators, benchmarks and tests.
//!
//! A [`DriverRing`] has one buffer a slot for good, or more buffers than slots, which take turns:
//! then descriptors are written anew for each offer, as drivers with a pool of buffers do. So a
//! generator writes its frames once and then only offers them again and again; a receiver looks at
//! what came, or merely counts it. The device must use buffers in the order in which they are
//! offered, which all backends that copy do.
//!
//! A [`Client`] sets them up with a backend over its socket. Not here: what a guest's driver has
//! besides (chains, indirect tables, offloads).

mod client;
mod packed;
mod split;
#[cfg(test)]
mod tests;

use std::{fs::File, io, sync::Arc};

use rustix::fs::{MemfdFlags, memfd_create};

pub use self::client::{Client, ClientConfig, ClientQueue, ClientRing, ConnectError};
use self::{packed::PackedDriver, split::SplitDriver};
use super::{
    access::GuestSlice,
    mapping::{MapError, MappedRegion},
    memory::{GuestMemory, GuestRegion},
    ring::{RingFeatures, RingFormat, RingPosition, RingSetup},
};

/// Where the driver's memory starts, for the device and for the protocol: any number will do.
pub const BASE_ADDRESS: u64 = 1 << 32;

/// Areas of a ring and its buffers start at multiples of this, and the first buffer's line is not
/// shared with a ring.
const ALIGNMENT_BYTES: u64 = 4096;

/// Memory of a driver, which it shares with the device.
#[derive(Debug)]
pub struct DriverMemory {
    file: File,
    memory: Arc<GuestMemory>,
}

/// Why a driver's memory or rings could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum MakeDriverError {
    #[error("cannot make {bytes} bytes of shared memory")]
    Memory {
        bytes: u64,
        #[source]
        source: io::Error,
    },
    #[error("cannot map {bytes} bytes of shared memory")]
    Map {
        bytes: u64,
        #[source]
        source: MapError,
    },
    #[error("a {format:?} ring of {size} entries from byte {offset} does not fit the memory")]
    Ring { format: RingFormat, size: u16, offset: u64 },
}

impl DriverMemory {
    /// Makes shared memory, of huge pages of 2 MiB if wanted: then `bytes` is a multiple of it.
    ///
    /// # Errors
    ///
    /// Fails if there is not enough memory.
    pub fn create(bytes: u64, huge_pages: bool) -> Result<Self, MakeDriverError> {
        let flags = if huge_pages { MemfdFlags::HUGETLB } else { MemfdFlags::empty() };
        let file = memfd_create("vhost-user-driver", flags | MemfdFlags::CLOEXEC)
            .map_err(io::Error::from)
            .map(File::from)
            .and_then(|file| file.set_len(bytes).map(|()| file))
            .map_err(|source| MakeDriverError::Memory { bytes, source })?;
        let mapped = MappedRegion::map(&file, 0, bytes)
            .map_err(|source| MakeDriverError::Map { bytes, source })?;
        let (guest_address, user_address) = (BASE_ADDRESS, BASE_ADDRESS);
        let region = GuestRegion { guest_address, user_address, mapped: Arc::new(mapped) };
        // One region overlaps none.
        let memory = GuestMemory::new(vec![region]).map_err(io::Error::other);
        let memory = memory.map_err(|source| MakeDriverError::Memory { bytes, source })?;
        Ok(Self { file, memory: Arc::new(memory) })
    }

    /// What to share with a device in another process: all of it is one region, which starts at
    /// [`BASE_ADDRESS`].
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What to share with a device in this process.
    #[must_use]
    pub fn guest_memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }
}

impl Turns {
    /// The next buffer of `count`, which `slot` gets.
    #[inline]
    fn take(&mut self, slot: u16, count: u32) -> u32 {
        let buffer = self.next;
        self.next = if buffer + 1 == count { 0 } else { buffer + 1 };
        if let Some(place) = self.of_slot.get_mut(usize::from(slot)) {
            *place = buffer;
        }
        buffer
    }
}

/// Which way a ring's frames go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RingUse {
    /// The device reads them.
    Transmit,
    /// The device writes them.
    Receive,
}

/// How a ring is laid out.
#[derive(Clone, Copy, Debug)]
pub struct RingShape {
    /// How it lies in memory.
    pub format: RingFormat,
    /// Entries.
    pub size: u16,
    /// Which way its frames go.
    pub usage: RingUse,
    /// Bytes of each buffer, header included.
    pub buffer_bytes: u32,
    /// Buffers. As many as entries, at most: each slot keeps its own; more: they take turns.
    pub buffers: u32,
    /// What was negotiated.
    pub features: RingFeatures,
}

impl RingShape {
    /// Bytes of memory that the ring and its buffers take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.buffers_offset() + u64::from(self.buffer_count()) * u64::from(self.buffer_bytes)
    }

    /// Buffers that there are: one a slot, at least.
    fn buffer_count(&self) -> u32 {
        self.buffers.max(self.size.into())
    }

    /// Bytes of each of the three areas, generously: a descriptor's for each entry.
    fn area_bytes(&self) -> u64 {
        (16 * u64::from(self.size) + 16).next_multiple_of(ALIGNMENT_BYTES)
    }

    fn buffers_offset(&self) -> u64 {
        3 * self.area_bytes()
    }
}

/// A driver's ring and its buffers.
#[derive(Debug)]
pub struct DriverRing {
    engine: Engine,
    shape: RingShape,
    /// Where the ring starts in the driver's memory.
    address: u64,
    memory: Arc<GuestMemory>,
    /// Bytes of what is in each buffer of a transmit ring, or of each buffer to receive into.
    lengths: Vec<u32>,
    /// Where buffers take turns.
    turns: Option<Turns>,
}

/// Buffers that take turns.
#[derive(Debug)]
struct Turns {
    /// The buffer of each slot.
    of_slot: Vec<u32>,
    /// The next one's turn.
    next: u32,
}

#[derive(Debug)]
enum Engine {
    Split(SplitDriver),
    Packed(PackedDriver),
}

impl DriverRing {
    /// Lays a ring out from byte `offset` of `memory` on. A transmit ring has frames of no bytes
    /// until they are written; nothing is offered yet.
    ///
    /// # Errors
    ///
    /// Fails if it does not fit, or if a split ring's size is no power of two.
    pub fn new(
        memory: &DriverMemory,
        offset: u64,
        shape: RingShape,
    ) -> Result<Self, MakeDriverError> {
        let RingShape { format, size, usage, .. } = shape;
        let error = || MakeDriverError::Ring { format, size, offset };
        let address = BASE_ADDRESS + offset.next_multiple_of(ALIGNMENT_BYTES);
        let memory = Arc::clone(memory.guest_memory());
        let bytes = usize::try_from(shape.bytes()).map_err(|_| error())?;
        let whole = memory.translate(address, bytes).ok_or_else(error)?;
        if size == 0 || format == RingFormat::Split && !size.is_power_of_two() {
            return Err(error());
        }
        // The memory may have been another ring's.
        whole.fill_with_zeros();
        let length = match usage {
            RingUse::Transmit => u32::try_from(shape.features.header_bytes()).unwrap_or(0),
            RingUse::Receive => shape.buffer_bytes,
        };
        let areas = Areas { address, area_bytes: shape.area_bytes() };
        let engine = match format {
            RingFormat::Split => SplitDriver::new(&memory, &areas, &shape).map(Engine::Split),
            RingFormat::Packed => PackedDriver::new(&memory, &areas, &shape).map(Engine::Packed),
        };
        let engine = engine.ok_or_else(error)?;
        let count = shape.buffer_count();
        let lengths = vec![length; usize::try_from(count).map_err(|_| error())?];
        let turns = (count > size.into())
            .then(|| Turns { of_slot: (0..u32::from(size)).collect(), next: 0 });
        let mut ring = Self { engine, shape, address, memory, lengths, turns };
        (0..size).for_each(|slot| ring.describe(slot, slot.into()));
        Ok(ring)
    }

    /// Where descriptors, driver area and device area are, as the protocol says it.
    #[must_use]
    pub fn areas(&self) -> [u64; 3] {
        let area_bytes = self.shape.area_bytes();
        [self.address, self.address + area_bytes, self.address + 2 * area_bytes]
    }

    /// How the ring is laid out.
    #[must_use]
    pub fn shape(&self) -> &RingShape {
        &self.shape
    }

    /// What a device in this process makes its side of.
    #[must_use]
    pub fn setup(&self) -> RingSetup {
        let [descriptor_area, driver_area, device_area] = self.areas();
        let RingShape { format, size, features, .. } = self.shape;
        RingSetup {
            memory: Arc::clone(&self.memory),
            format,
            size,
            descriptor_area,
            driver_area,
            device_area,
            position: RingPosition::start(format),
            is_resumed: false,
            features,
            kick: None,
            call: None,
            log: None,
            inflight: None,
        }
    }

    /// Writes a frame behind a plain header to a buffer that is not offered; it is sent whenever
    /// the buffer is offered. Without turns, the buffer's number is its slot. False if it does not
    /// fit.
    pub fn write(&mut self, buffer: u32, frame: &[u8]) -> bool {
        let header_bytes = self.shape.features.header_bytes();
        let bytes = header_bytes + frame.len();
        let Some((_, place)) = self.buffer(buffer).map(|it| it.split_at(header_bytes)) else {
            return false;
        };
        if place.bytes() < frame.len() {
            return false;
        }
        place.copy_from(frame);
        let Some(length) = self.lengths.get_mut(buffer as usize) else { return false };
        *length = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.turns.is_none()
            && let Ok(slot) = u16::try_from(buffer)
        {
            self.describe(slot, buffer);
        }
        true
    }

    /// Slots that are not offered, or whose buffers were used and taken back.
    #[must_use]
    #[inline]
    pub fn room(&self) -> u16 {
        match &self.engine {
            Engine::Split(ring) => ring.room(),
            Engine::Packed(ring) => ring.room(),
        }
    }

    /// Offers the next `count` buffers to the device, or as many as there is room for; returns how
    /// many.
    #[inline]
    pub fn offer(&mut self, count: u16) -> u16 {
        let Self { engine, shape, address, lengths, turns, .. } = self;
        let RingShape { size, buffer_bytes, .. } = *shape;
        let (buffers, buffer_count) = (*address + shape.buffers_offset(), shape.buffer_count());
        let place = |buffer: u32| {
            let address = buffers + u64::from(buffer) * u64::from(buffer_bytes);
            (address, lengths.get(buffer as usize).copied().unwrap_or(0))
        };
        match (engine, turns) {
            (Engine::Split(ring), None) => ring.offer(count),
            (Engine::Split(ring), Some(turns)) => {
                let (count, first) = (count.min(ring.room()), ring.next_slot());
                for slot in (0..count).map(|it| first.wrapping_add(it) & (size - 1)) {
                    let (address, bytes) = place(turns.take(slot, buffer_count));
                    ring.describe(slot, address, bytes);
                }
                ring.offer(count)
            }
            (Engine::Packed(ring), None) => ring.offer(count, |slot| place(slot.into())),
            (Engine::Packed(ring), Some(turns)) => {
                ring.offer(count, |slot| place(turns.take(slot, buffer_count)))
            }
        }
    }

    /// Takes back what the device used, `count_max` buffers at most, without a look into them;
    /// returns how many there were, and how many bytes the device says that it wrote, headers
    /// included.
    #[inline]
    pub fn take_back(&mut self, count_max: u16) -> (u16, u64) {
        let mut sum = 0_u64;
        let add = |_, bytes: u32| sum += u64::from(bytes);
        let count = match &mut self.engine {
            Engine::Split(ring) => ring.take_used(count_max, add),
            Engine::Packed(ring) => ring.take_used(count_max, add),
        };
        (count, sum)
    }

    /// Takes back what the device used, `count_max` buffers at most, and calls `see` with each
    /// one's number and what is in it behind the header; returns how many there were.
    #[inline]
    pub fn take_used(&mut self, count_max: u16, mut see: impl FnMut(u32, GuestSlice<'_>)) -> u16 {
        let Self { engine, shape, address, memory, turns, .. } = self;
        let header_bytes = shape.features.header_bytes();
        let buffers = *address + shape.buffers_offset();
        let buffer_bytes = shape.buffer_bytes;
        let see = |slot: u16, bytes: u32| {
            let buffer = match turns {
                Some(turns) => turns.of_slot.get(usize::from(slot)).copied().unwrap_or(0),
                None => slot.into(),
            };
            let place = buffers + u64::from(buffer) * u64::from(buffer_bytes);
            let bytes = bytes.min(buffer_bytes) as usize;
            if let Some(slice) = memory.translate(place, bytes) {
                see(buffer, slice.split_at(header_bytes).1);
            }
        };
        match engine {
            Engine::Split(ring) => ring.take_used(count_max, see),
            Engine::Packed(ring) => ring.take_used(count_max, see),
        }
    }

    /// Whether the device wants to be told of what was offered since the last call.
    pub fn wants_kick(&mut self) -> bool {
        match &mut self.engine {
            Engine::Split(ring) => ring.wants_kick(),
            Engine::Packed(ring) => ring.wants_kick(),
        }
    }

    /// Says whether the device should tell when it used something.
    pub fn ask_for_calls(&mut self, wanted: bool) {
        match &mut self.engine {
            Engine::Split(ring) => ring.ask_for_calls(wanted),
            Engine::Packed(ring) => ring.ask_for_calls(wanted),
        }
    }

    fn buffer(&self, buffer: u32) -> Option<GuestSlice<'_>> {
        if buffer >= self.shape.buffer_count() {
            return None;
        }
        let address = self.buffer_address(buffer);
        self.memory.translate(address, self.shape.buffer_bytes as usize)
    }

    fn buffer_address(&self, buffer: u32) -> u64 {
        let RingShape { buffer_bytes, .. } = self.shape;
        self.address + self.shape.buffers_offset() + u64::from(buffer) * u64::from(buffer_bytes)
    }

    /// Writes a split ring's descriptor; a packed one's is written with each offer.
    fn describe(&mut self, slot: u16, buffer: u32) {
        let address = self.buffer_address(buffer);
        let Some(length) = self.lengths.get(buffer as usize) else { return };
        if let Engine::Split(ring) = &self.engine {
            ring.describe(slot, address, *length);
        }
    }
}

/// Where a ring's areas are.
struct Areas {
    address: u64,
    area_bytes: u64,
}

impl Areas {
    fn descriptors(&self) -> u64 {
        self.address
    }

    fn driver(&self) -> u64 {
        self.address + self.area_bytes
    }

    fn device(&self) -> u64 {
        self.address + 2 * self.area_bytes
    }
}
