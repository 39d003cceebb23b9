//! What a frontend shares: the guest's memory, the log of what we write to it, and the area for
//! what is in flight.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::vhost_user::message::{
    VhostUserInflight, VhostUserLog, VhostUserProtocolFeatures as Protocol,
};
use vm_memory::ByteValued;

use super::{
    super::{
        inflight::InflightRegion,
        log::DirtyLog,
        mapping::MappedRegion,
        memory::{GuestMemory, GuestRegion},
        request::{FileArea, InflightShape, MemoryRegion, Request},
        ring::RingFormat,
    },
    Reply, RequestFault,
};

/// Regions of one guest: what other backends take, and enough for a guest whose memory grows while
/// it runs.
const SLOTS_MAX: usize = 64;

/// Each part begins on a cache line.
const INFLIGHT_ALIGNMENT: usize = 64;

/// Memory that a frontend shares.
#[derive(Debug, Default)]
pub(super) struct Memory {
    regions: Vec<(MemoryRegion, GuestRegion)>,
    /// `None` until there are regions.
    guest: Option<Arc<GuestMemory>>,
    log: Option<Arc<DirtyLog>>,
    inflight: Option<Inflight>,
}

#[derive(Debug)]
struct Inflight {
    mapped: Arc<MappedRegion>,
    shape: InflightShape,
}

impl Memory {
    /// What a request takes to be allowed.
    pub(super) fn feature_of(request: &Request) -> Option<Protocol> {
        match request {
            Request::AddMemory { .. } | Request::RemoveMemory(_) | Request::GetMemorySlots => {
                Some(Protocol::CONFIGURE_MEM_SLOTS)
            }
            Request::SetLogBase { .. } => Some(Protocol::LOG_SHMFD),
            Request::GetInflight(_) | Request::SetInflight { .. } => Some(Protocol::INFLIGHT_SHMFD),
            _ => None,
        }
    }

    /// Whether rings have to be stopped before a request.
    pub(super) fn moves_rings(request: &Request) -> bool {
        !matches!(request, Request::GetMemorySlots | Request::SetLogFile | Request::GetInflight(_))
    }

    /// The guest's memory, if it has shared some.
    pub(super) fn guest(&self) -> Option<&Arc<GuestMemory>> {
        self.guest.as_ref()
    }

    /// The log, if the frontend has shared one.
    pub(super) fn log(&self) -> Option<&Arc<DirtyLog>> {
        self.log.as_ref()
    }

    /// A ring's part of the area for what is in flight.
    pub(super) fn inflight(&self, ring: usize, format: RingFormat) -> Option<InflightRegion> {
        let Inflight { mapped, shape } = self.inflight.as_ref()?;
        let offset = ring.checked_mul(part_bytes(format, shape.entries))?;
        (ring < usize::from(shape.rings))
            .then(|| InflightRegion { mapped: Arc::clone(mapped), offset })
    }

    /// Carries out a request about memory. No ring is running if [`Self::moves_rings`].
    pub(super) fn handle(&mut self, request: Request, rings: usize) -> Result<Reply, RequestFault> {
        match request {
            Request::SetMemoryTable(table) => self.replace(table)?,
            Request::AddMemory { region, file } => self.add(region, file)?,
            Request::RemoveMemory(region) => self.remove(region)?,
            Request::GetMemorySlots => {
                return Ok(Reply::Body((SLOTS_MAX as u64).to_ne_bytes().to_vec()));
            }
            Request::SetLogBase { log, file } => {
                self.log = Some(map_log(log, file)?);
                // QEMU takes an answer of any size, crate `vhost` one with the request's body.
                let body = VhostUserLog::new(log.bytes, log.offset);
                return Ok(Reply::Body(body.as_slice().to_vec()));
            }
            Request::GetInflight(shape) => {
                return self.make_inflight(check(shape, rings)?);
            }
            Request::SetInflight { shape, area, file } => {
                let shape = check(shape, rings)?;
                self.inflight = Some(Inflight::map(shape, area, file)?);
            }
            _ => {}
        }
        Ok(Reply::Done)
    }

    fn replace(&mut self, table: Vec<(MemoryRegion, OwnedFd)>) -> Result<(), RequestFault> {
        // The former regions go first: the frontend may have no descriptors or memory for both.
        self.guest = None;
        self.regions.clear();
        let map = |(region, file)| Ok((region, map_region(&region, file)?));
        let regions = table.into_iter().map(map).collect::<Result<_, RequestFault>>()?;
        self.assemble(regions)
    }

    fn add(&mut self, region: MemoryRegion, file: OwnedFd) -> Result<(), RequestFault> {
        if self.regions.len() >= SLOTS_MAX {
            return Err(RequestFault::TooManyRegions { slots: SLOTS_MAX });
        }
        let mut regions = self.regions.clone();
        regions.push((region, map_region(&region, file)?));
        self.assemble(regions)
    }

    fn remove(&mut self, region: MemoryRegion) -> Result<(), RequestFault> {
        let MemoryRegion { guest_address, user_address, bytes, .. } = region;
        let is_it = |(it, _): &(MemoryRegion, GuestRegion)| {
            // The offset in the file may differ (`VHOST_USER_REM_MEM_REG`).
            (it.guest_address, it.user_address, it.bytes) == (guest_address, user_address, bytes)
        };
        let Some(position) = self.regions.iter().position(is_it) else {
            return Err(RequestFault::NoSuchRegion { guest_address });
        };
        let mut regions = self.regions.clone();
        regions.remove(position);
        self.assemble(regions)
    }

    fn assemble(&mut self, regions: Vec<(MemoryRegion, GuestRegion)>) -> Result<(), RequestFault> {
        let memory = GuestMemory::new(regions.iter().map(|(_, region)| region.clone()).collect())?;
        self.guest = (!regions.is_empty()).then(|| Arc::new(memory));
        self.regions = regions;
        Ok(())
    }

    fn make_inflight(&mut self, shape: InflightShape) -> Result<Reply, RequestFault> {
        let bytes = Inflight::bytes(shape, RingFormat::Packed);
        let made = make_file(bytes).map_err(RequestFault::MakeInflight)?;
        let area = FileArea { offset: 0, bytes };
        let copy = made.try_clone().map_err(RequestFault::MakeInflight)?;
        self.inflight = Some(Inflight::map(shape, area, copy)?);
        let body = VhostUserInflight::new(bytes, 0, shape.rings, shape.entries);
        Ok(Reply::File(body.as_slice().to_vec(), made))
    }
}

impl Inflight {
    fn map(shape: InflightShape, area: FileArea, file: OwnedFd) -> Result<Self, RequestFault> {
        let InflightShape { rings, entries } = shape;
        if area.bytes < Self::bytes(shape, RingFormat::Split) {
            return Err(RequestFault::InflightShape { rings, entries });
        }
        Ok(Self {
            mapped: Arc::new(MappedRegion::map(&File::from(file), area.offset, area.bytes)?),
            shape,
        })
    }

    fn bytes(shape: InflightShape, format: RingFormat) -> u64 {
        let each = part_bytes(format, shape.entries) as u64;
        each.saturating_mul(shape.rings.into())
    }
}

/// Bytes of one ring's part of an in-flight area: as the protocol lays it out, since it may come
/// from another backend.
fn part_bytes(format: RingFormat, entries: u16) -> usize {
    let (lead, state) = match format {
        RingFormat::Split => (16, 16),
        RingFormat::Packed => (32, 32),
    };
    (lead + state * usize::from(entries)).next_multiple_of(INFLIGHT_ALIGNMENT)
}

/// An in-flight area is for as many rings as there are, at most.
fn check(shape: InflightShape, offered: usize) -> Result<InflightShape, RequestFault> {
    let InflightShape { rings, entries } = shape;
    if usize::from(rings) > offered {
        return Err(RequestFault::InflightShape { rings, entries });
    }
    Ok(shape)
}

fn map_region(region: &MemoryRegion, file: OwnedFd) -> Result<GuestRegion, RequestFault> {
    let mapped = MappedRegion::map(&File::from(file), region.file_offset, region.bytes)?;
    Ok(GuestRegion {
        guest_address: region.guest_address,
        user_address: region.user_address,
        mapped: Arc::new(mapped),
    })
}

fn map_log(area: FileArea, file: OwnedFd) -> Result<Arc<DirtyLog>, RequestFault> {
    let mapped = Arc::new(MappedRegion::map(&File::from(file), area.offset, area.bytes)?);
    let log = DirtyLog::new(&mapped).ok_or(RequestFault::Log { bytes: area.bytes })?;
    Ok(Arc::new(log))
}

fn make_file(bytes: u64) -> io::Result<OwnedFd> {
    let file = memfd_create("vrouter-inflight", MemfdFlags::CLOEXEC)?;
    ftruncate(file.as_fd(), bytes)?;
    Ok(file)
}
