//! A driver for tests: the other side of the rings, one word at a time, from the standard's text.
//!
//! Memory is one memfd; everything is written and read by copies, so that nothing is shared with
//! the code under test but the mapping.

use std::{collections::HashMap, fs::File, sync::Arc};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::{
    packet::Offloads,
    port::vhost_user::{
        mapping::MappedRegion,
        memory::{GuestMemory, GuestRegion},
        orders::QueuePair,
        ring::{Ring, RingFeatures, RingFormat, RingPosition, RingSetup},
    },
};

/// Where the guest has its memory, and the frontend.
pub(super) const GUEST_ADDRESS: u64 = 0x1_0000_0000;
pub(super) const USER_ADDRESS: u64 = 0x7f00_0000_0000;
/// Memory of a test's guest.
pub(super) const MEMORY_BYTES: u64 = 16 << 20;
/// One ring's areas, and where its buffers start.
pub(super) const AREA_BYTES: u64 = 1 << 20;
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// What a chain consists of: guest address and bytes.
pub(super) type Buffer = (u64, u32);

/// A guest's memory, and the file of it.
pub(super) struct TestMemory {
    pub(super) file: File,
    pub(super) memory: Arc<GuestMemory>,
}

impl TestMemory {
    pub(super) fn new() -> Self {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY_BYTES).unwrap();
        let mapped = Arc::new(MappedRegion::map(&file, 0, MEMORY_BYTES).unwrap());
        let region =
            GuestRegion { guest_address: GUEST_ADDRESS, user_address: USER_ADDRESS, mapped };
        Self { file, memory: Arc::new(GuestMemory::new(vec![region]).unwrap()) }
    }

    /// The only region.
    pub(super) fn region(&self) -> Arc<MappedRegion> {
        Arc::clone(&self.memory.regions()[0].mapped)
    }

    pub(super) fn write(&self, guest_address: u64, bytes: &[u8]) {
        let slice = self.memory.translate(guest_address, bytes.len()).unwrap();
        assert_eq!(slice.copy_from(bytes), bytes.len());
    }

    pub(super) fn read(&self, guest_address: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        self.memory.translate(guest_address, bytes).unwrap().copy_to(&mut out);
        out
    }

    pub(super) fn read_u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read(address, 2).try_into().unwrap())
    }

    pub(super) fn read_u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.read(address, 4).try_into().unwrap())
    }
}

/// A chain that the driver made available.
#[derive(Clone, Debug)]
pub(super) struct Offered {
    pub(super) buffers: Vec<Buffer>,
    /// Descriptors in the ring itself.
    slots: u16,
    /// Where the next chain of a split ring's table starts.
    descriptors: Vec<u16>,
}

/// How a ring is laid out and what was negotiated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) format: RingFormat,
    pub(super) size: u16,
    pub(super) features: RingFeatures,
}

/// The driver of one ring.
pub(super) struct Driver {
    pub(super) shape: Shape,
    /// Guest address of the ring's areas.
    pub(super) base: u64,
    /// Is it the guest's receive queue?
    is_writable: bool,
    free: Vec<u16>,
    pub(super) offered: HashMap<u16, Offered>,
    /// Next entry or descriptor to make available; the wrap counter is a packed ring's.
    next: u16,
    wrap: bool,
    used: u16,
    used_wrap: bool,
    slots_out: u16,
}

impl Driver {
    /// A driver whose areas start at `base`.
    pub(super) fn new(shape: Shape, base: u64, is_writable: bool) -> Self {
        Self {
            shape,
            base,
            is_writable,
            free: (0..shape.size).rev().collect(),
            offered: HashMap::new(),
            next: 0,
            wrap: true,
            used: 0,
            used_wrap: true,
            slots_out: 0,
        }
    }

    /// Where what the driver writes is, and what the device writes.
    pub(super) fn areas(&self) -> (u64, u64) {
        (self.base + AREA_BYTES / 2, self.base + AREA_BYTES * 3 / 4)
    }

    pub(super) fn setup(&self, memory: &TestMemory) -> RingSetup {
        let to_user = |address| address - GUEST_ADDRESS + USER_ADDRESS;
        let (driver_area, device_area) = self.areas();
        let Shape { format, size, features } = self.shape;
        RingSetup {
            memory: Arc::clone(&memory.memory),
            format,
            size,
            descriptor_area: to_user(self.base),
            driver_area: to_user(driver_area),
            device_area: to_user(device_area),
            position: RingPosition::start(format),
            is_resumed: false,
            features,
            kick: None,
            call: None,
            log: None,
            inflight: None,
        }
    }

    /// Descriptors that are free.
    pub(super) fn room(&self) -> u16 {
        self.shape.size - self.slots_out
    }

    /// Makes a chain available; returns its id. There must be room.
    pub(super) fn offer(
        &mut self,
        memory: &TestMemory,
        buffers: &[Buffer],
        table: Option<u64>,
    ) -> u16 {
        match self.shape.format {
            RingFormat::Split => self.offer_split(memory, buffers, table),
            RingFormat::Packed => self.offer_packed(memory, buffers, table),
        }
    }

    fn descriptor(&self, buffer: Buffer, mut flags: u16, word: u16, is_packed: bool) -> Vec<u8> {
        if self.is_writable && flags & INDIRECT == 0 {
            flags |= WRITE;
        }
        let (address, bytes) = buffer;
        let (first, second) = if is_packed { (word, flags) } else { (flags, word) };
        [
            &address.to_le_bytes()[..],
            &bytes.to_le_bytes(),
            &first.to_le_bytes(),
            &second.to_le_bytes(),
        ]
        .concat()
    }

    /// Writes an indirect table; what is left for the ring is one buffer.
    fn write_table(&self, memory: &TestMemory, buffers: &[Buffer], table: u64) -> Buffer {
        let is_packed = self.shape.format == RingFormat::Packed;
        for (at, buffer) in (0_u16..).zip(buffers) {
            let is_last = usize::from(at) + 1 == buffers.len();
            let flags = if is_last || is_packed { 0 } else { NEXT };
            let descriptor = self.descriptor(*buffer, flags, at + 1, is_packed);
            memory.write(table + 16 * u64::from(at), &descriptor);
        }
        (table, u32::try_from(16 * buffers.len()).unwrap())
    }

    fn offer_split(&mut self, memory: &TestMemory, buffers: &[Buffer], table: Option<u64>) -> u16 {
        let indirect = table.map(|table| [self.write_table(memory, buffers, table)]);
        let in_ring = indirect.as_ref().map_or(buffers, |it| &it[..]);
        let kind = if indirect.is_some() { INDIRECT } else { 0 };
        let descriptors: Vec<u16> = in_ring.iter().map(|_| self.free.pop().unwrap()).collect();
        for (at, buffer) in in_ring.iter().enumerate() {
            let (flags, next) = match descriptors.get(at + 1) {
                Some(next) => (NEXT | kind, *next),
                None => (kind, 0xdead),
            };
            let bytes = self.descriptor(*buffer, flags, next, false);
            memory.write(self.base + 16 * u64::from(descriptors[at]), &bytes);
        }
        let (available, _) = self.areas();
        let (id, slots) = (descriptors[0], u16::try_from(descriptors.len()).unwrap());
        let entry = u64::from(self.next % self.shape.size);
        memory.write(available + 4 + 2 * entry, &id.to_le_bytes());
        self.next = self.next.wrapping_add(1);
        memory.write(available + 2, &self.next.to_le_bytes());
        self.slots_out += slots;
        self.offered.insert(id, Offered { buffers: buffers.to_vec(), slots, descriptors });
        id
    }

    fn offer_packed(&mut self, memory: &TestMemory, buffers: &[Buffer], table: Option<u64>) -> u16 {
        let indirect = table.map(|table| [self.write_table(memory, buffers, table)]);
        let in_ring = indirect.as_ref().map_or(buffers, |it| &it[..]);
        let kind = if indirect.is_some() { INDIRECT } else { 0 };
        let id = self.free.pop().unwrap();
        let mut first = None;
        for (at, buffer) in in_ring.iter().enumerate() {
            let next = if at + 1 < in_ring.len() { NEXT } else { 0 };
            let turn = if self.wrap { 1 << 7 } else { 1 << 15 };
            let bytes = self.descriptor(*buffer, kind | next | turn, id, true);
            let place = self.base + 16 * u64::from(self.next);
            memory.write(place, &bytes[..14]);
            // The first descriptor's flags come last.
            match first {
                None => first = Some((place + 14, bytes[14..].to_vec())),
                Some(_) => memory.write(place + 14, &bytes[14..]),
            }
            self.next += 1;
            if self.next == self.shape.size {
                (self.next, self.wrap) = (0, !self.wrap);
            }
        }
        let (place, flags) = first.unwrap();
        memory.write(place, &flags);
        let slots = u16::try_from(in_ring.len()).unwrap();
        self.slots_out += slots;
        self.offered.insert(id, Offered { buffers: buffers.to_vec(), slots, descriptors: vec![] });
        id
    }

    /// The next chain that the device used: id, bytes written, and what it was.
    pub(super) fn take_used(&mut self, memory: &TestMemory) -> Option<(u16, u32, Offered)> {
        let (id, bytes) = match self.shape.format {
            RingFormat::Split => {
                let (_, used) = self.areas();
                if memory.read_u16(used + 2) == self.used {
                    return None;
                }
                let entry = used + 4 + 8 * u64::from(self.used % self.shape.size);
                self.used = self.used.wrapping_add(1);
                let id = u16::try_from(memory.read_u32(entry)).unwrap();
                (id, memory.read_u32(entry + 4))
            }
            RingFormat::Packed => {
                let place = self.base + 16 * u64::from(self.used);
                let flags = memory.read_u16(place + 14);
                let (available, used) = (flags & 1 << 7 != 0, flags & 1 << 15 != 0);
                if available != used || used != self.used_wrap {
                    return None;
                }
                let (id, bytes) = (memory.read_u16(place + 12), memory.read_u32(place + 8));
                self.used += self.offered[&id].slots;
                if self.used >= self.shape.size {
                    (self.used, self.used_wrap) = (self.used - self.shape.size, !self.used_wrap);
                }
                (id, bytes)
            }
        };
        let offered = self.offered.remove(&id).expect("the device uses what is out, once");
        self.slots_out -= offered.slots;
        match self.shape.format {
            RingFormat::Split => self.free.extend(&offered.descriptors),
            RingFormat::Packed => self.free.push(id),
        }
        Some((id, bytes, offered))
    }
}

/// The rings of two drivers, as a session would hand them over.
pub(super) fn pair(memory: &TestMemory, rx: &Driver, tx: &Driver) -> Box<QueuePair> {
    let ring = |driver: &Driver| Ring::new(driver.setup(memory)).unwrap();
    let offloads = Offloads { checksum: true, ..Offloads::NONE };
    Box::new(QueuePair { rx: ring(rx), tx: ring(tx), offloads })
}
