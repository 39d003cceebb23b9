//! What a frontend asks for: a message parsed, so that what is left to judge is its meaning.
//!
//! Numbers and layouts are those of crate `vhost`; its own dispatcher is not used, since it waits
//! in the middle of a message, does not know requests that we offer (`NET_SET_MTU`, `GET_STATUS`,
//! `SET_STATUS`, `SET_LOG_FD`), and answers nothing to QEMU's `SET_VRING_ENABLE` when that comes
//! before `SET_FEATURES`. See `docs/design/0010-vhost-user-sessions.md`.

use std::os::fd::OwnedFd;

use arrayvec::ArrayVec;
use vhost::vhost_user::message::{
    FrontendReq, VhostUserConfig, VhostUserInflight, VhostUserLog, VhostUserMemory,
    VhostUserMemoryRegion, VhostUserMsgValidator, VhostUserSingleMemoryRegion, VhostUserU64,
    VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;

use super::wire::{FILES_MAX, Message};

/// In a message with a ring's descriptor: there is none.
const NO_FILE: u64 = 0x100;
/// In such a message: the ring's number.
const RING_MASK: u64 = 0xff;
/// What a body with an in-flight area has at least; the compiler pads it to a multiple of eight,
/// and frontends differ in whether they send that.
const INFLIGHT_BYTES_MIN: usize = 20;

/// A request, well-formed.
#[derive(Debug)]
pub(super) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemoryTable(Vec<(MemoryRegion, OwnedFd)>),
    SetLogBase { log: FileArea, file: OwnedFd },
    SetLogFile,
    SetRingSize { ring: u32, entries: u32 },
    SetRingAddresses(RingAddresses),
    SetRingBase { ring: u32, base: u32 },
    GetRingBase { ring: u32 },
    SetRingKick { ring: u32, file: Option<OwnedFd> },
    SetRingCall { ring: u32, file: Option<OwnedFd> },
    SetRingError { ring: u32, file: Option<OwnedFd> },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueCount,
    SetRingEnabled { ring: u32, is_enabled: bool },
    SetMtu(u64),
    GetConfig { offset: u32, bytes: u32, flags: u32 },
    SetConfig,
    GetInflight(InflightShape),
    SetInflight { shape: InflightShape, area: FileArea, file: OwnedFd },
    ResetDevice,
    GetMemorySlots,
    AddMemory { region: MemoryRegion, file: OwnedFd },
    RemoveMemory(MemoryRegion),
    SetStatus(u64),
    GetStatus,
}

/// A piece of the guest's memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct MemoryRegion {
    /// Where the guest has it.
    pub(super) guest_address: u64,
    /// Where the frontend has it: the addresses of rings are such.
    pub(super) user_address: u64,
    /// How long it is: not zero, and no address wraps around.
    pub(super) bytes: u64,
    /// Where it begins in its file.
    pub(super) file_offset: u64,
}

/// A piece of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct FileArea {
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// How large an in-flight area is to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct InflightShape {
    pub(super) rings: u16,
    pub(super) entries: u16,
}

/// Where a ring's three parts are, in the frontend's address space.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RingAddresses {
    pub(super) ring: u32,
    pub(super) descriptor_area: u64,
    /// The available ring; of a packed ring, the driver's event suppression.
    pub(super) driver_area: u64,
    /// The used ring; of a packed ring, the device's event suppression.
    pub(super) device_area: u64,
    /// The guest address under which writes to the device area are logged, if they are.
    pub(super) log: Option<u64>,
}

/// Why a message is no request.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum RequestError {
    #[error("there is no request {code}, or it was not offered")]
    Unknown { code: u32 },
    #[error("the body of {request:?} has {bytes} bytes, which is not right")]
    Size { request: FrontendReq, bytes: usize },
    #[error("the body of {request:?} has values that are not possible")]
    Values { request: FrontendReq },
    #[error("{request:?} came with {files} descriptors, which is not right")]
    Files { request: FrontendReq, files: usize },
}

impl Request {
    /// Parses a message; descriptors that it has no use for are closed.
    pub(super) fn parse(message: Message) -> Result<Self, RequestError> {
        let Message { code, body, files, .. } = message;
        let unknown = RequestError::Unknown { code };
        let request = FrontendReq::try_from(code).map_err(|()| unknown)?;
        let body = Body { request, bytes: &body };
        match request {
            FrontendReq::GET_FEATURES => body.is_empty(Self::GetFeatures),
            FrontendReq::SET_FEATURES => body.number().map(Self::SetFeatures),
            FrontendReq::SET_OWNER => body.is_empty(Self::SetOwner),
            FrontendReq::RESET_OWNER => body.is_empty(Self::ResetOwner),
            FrontendReq::SET_MEM_TABLE => body.memory_table(files),
            FrontendReq::SET_LOG_BASE => {
                let log = body.log()?;
                Ok(Self::SetLogBase { log, file: body.one_file(files)? })
            }
            FrontendReq::SET_LOG_FD => body.one_file(files).map(|_| Self::SetLogFile),
            FrontendReq::SET_VRING_NUM => {
                body.state().map(|(ring, entries)| Self::SetRingSize { ring, entries })
            }
            FrontendReq::SET_VRING_ADDR => body.addresses().map(Self::SetRingAddresses),
            FrontendReq::SET_VRING_BASE => {
                body.state().map(|(ring, base)| Self::SetRingBase { ring, base })
            }
            FrontendReq::GET_VRING_BASE => body.state().map(|(ring, _)| Self::GetRingBase { ring }),
            FrontendReq::SET_VRING_KICK => {
                body.ring_file(files).map(|(ring, file)| Self::SetRingKick { ring, file })
            }
            FrontendReq::SET_VRING_CALL => {
                body.ring_file(files).map(|(ring, file)| Self::SetRingCall { ring, file })
            }
            FrontendReq::SET_VRING_ERR => {
                body.ring_file(files).map(|(ring, file)| Self::SetRingError { ring, file })
            }
            FrontendReq::GET_PROTOCOL_FEATURES => body.is_empty(Self::GetProtocolFeatures),
            FrontendReq::SET_PROTOCOL_FEATURES => body.number().map(Self::SetProtocolFeatures),
            FrontendReq::GET_QUEUE_NUM => body.is_empty(Self::GetQueueCount),
            FrontendReq::SET_VRING_ENABLE => body.enabled(),
            FrontendReq::NET_SET_MTU => body.number().map(Self::SetMtu),
            FrontendReq::GET_CONFIG => body.config().map(|config| Self::GetConfig {
                offset: config.offset,
                bytes: config.size,
                flags: config.flags,
            }),
            FrontendReq::SET_CONFIG => body.config().map(|_| Self::SetConfig),
            FrontendReq::GET_INFLIGHT_FD => {
                body.inflight().map(|(shape, _)| Self::GetInflight(shape))
            }
            FrontendReq::SET_INFLIGHT_FD => {
                let (shape, area) = body.inflight()?;
                Ok(Self::SetInflight { shape, area, file: body.one_file(files)? })
            }
            FrontendReq::RESET_DEVICE => body.is_empty(Self::ResetDevice),
            FrontendReq::GET_MAX_MEM_SLOTS => body.is_empty(Self::GetMemorySlots),
            FrontendReq::ADD_MEM_REG => {
                let region = body.single_region()?;
                Ok(Self::AddMemory { region, file: body.one_file(files)? })
            }
            // Some frontends send a descriptor along, which is to be closed and not used.
            FrontendReq::REM_MEM_REG => body.single_region().map(Self::RemoveMemory),
            FrontendReq::SET_STATUS => body.number().map(Self::SetStatus),
            FrontendReq::GET_STATUS => body.is_empty(Self::GetStatus),
            _ => Err(unknown),
        }
    }
}

/// A message's body, and whose it is.
#[derive(Clone, Copy)]
struct Body<'a> {
    request: FrontendReq,
    bytes: &'a [u8],
}

impl Body<'_> {
    fn is_empty(self, request: Request) -> Result<Request, RequestError> {
        if self.bytes.is_empty() { Ok(request) } else { Err(self.size()) }
    }

    /// A body of exactly that type, with possible values.
    fn read<T: VhostUserMsgValidator>(self) -> Result<T, RequestError> {
        if self.bytes.len() != size_of::<T>() {
            return Err(self.size());
        }
        let value = T::read_exact_from(self.bytes).map_err(|_| self.size())?;
        if value.is_valid() { Ok(value) } else { Err(self.values()) }
    }

    fn number(self) -> Result<u64, RequestError> {
        self.read::<VhostUserU64>().map(|it| it.value)
    }

    fn state(self) -> Result<(u32, u32), RequestError> {
        self.read::<VhostUserVringState>().map(|it| (it.index, it.num))
    }

    fn enabled(self) -> Result<Request, RequestError> {
        match self.state()? {
            (ring, 0) => Ok(Request::SetRingEnabled { ring, is_enabled: false }),
            (ring, 1) => Ok(Request::SetRingEnabled { ring, is_enabled: true }),
            _ => Err(self.values()),
        }
    }

    fn addresses(self) -> Result<RingAddresses, RequestError> {
        let it = self.read::<VhostUserVringAddr>()?;
        Ok(RingAddresses {
            ring: it.index,
            descriptor_area: it.descriptor,
            driver_area: it.available,
            device_area: it.used,
            log: (it.flags != 0).then_some(it.log),
        })
    }

    fn ring_file(
        self,
        files: ArrayVec<OwnedFd, FILES_MAX>,
    ) -> Result<(u32, Option<OwnedFd>), RequestError> {
        let number = self.number()?;
        if number & !(NO_FILE | RING_MASK) != 0 {
            return Err(self.values());
        }
        let ring = u32::try_from(number & RING_MASK).unwrap_or_default();
        if number & NO_FILE == 0 {
            return Ok((ring, Some(self.one_file(files)?)));
        }
        if files.is_empty() { Ok((ring, None)) } else { Err(self.files(files.len())) }
    }

    fn log(self) -> Result<FileArea, RequestError> {
        let it = self.read::<VhostUserLog>()?;
        Ok(FileArea { offset: it.mmap_offset, bytes: it.mmap_size })
    }

    fn config(self) -> Result<VhostUserConfig, RequestError> {
        let (head, rest) =
            self.bytes.split_at_checked(size_of::<VhostUserConfig>()).ok_or(self.size())?;
        let config = Self { bytes: head, ..self }.read::<VhostUserConfig>()?;
        if usize::try_from(config.size).is_ok_and(|size| size == rest.len()) {
            Ok(config)
        } else {
            Err(self.size())
        }
    }

    fn inflight(self) -> Result<(InflightShape, FileArea), RequestError> {
        let full = size_of::<VhostUserInflight>();
        if !(INFLIGHT_BYTES_MIN..=full).contains(&self.bytes.len()) {
            return Err(self.size());
        }
        let mut it = VhostUserInflight::default();
        let (present, _) =
            it.as_mut_slice().split_at_mut_checked(self.bytes.len()).ok_or(self.size())?;
        present.copy_from_slice(self.bytes);
        if it.num_queues == 0 || it.queue_size == 0 {
            return Err(self.values());
        }
        let shape = InflightShape { rings: it.num_queues, entries: it.queue_size };
        Ok((shape, FileArea { offset: it.mmap_offset, bytes: it.mmap_size }))
    }

    fn single_region(self) -> Result<MemoryRegion, RequestError> {
        let it = self.read::<VhostUserSingleMemoryRegion>()?;
        self.region(&it)
    }

    fn memory_table(self, files: ArrayVec<OwnedFd, FILES_MAX>) -> Result<Request, RequestError> {
        let head = size_of::<VhostUserMemory>();
        let (head, regions) = self.bytes.split_at_checked(head).ok_or(self.size())?;
        let count = Self { bytes: head, ..self }.read::<VhostUserMemory>()?.num_regions;
        let each = size_of::<VhostUserMemoryRegion>();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count.checked_mul(each) != Some(regions.len()) {
            return Err(self.size());
        }
        if files.len() != count {
            return Err(self.files(files.len()));
        }
        let parse = |(bytes, file)| {
            let region = Self { bytes, ..self }.read::<VhostUserMemoryRegion>()?;
            Ok((self.region(&region)?, file))
        };
        let table: Result<_, _> = regions.chunks(each).zip(files).map(parse).collect();
        table.map(Request::SetMemoryTable)
    }

    fn region(self, it: &VhostUserMemoryRegion) -> Result<MemoryRegion, RequestError> {
        // As a part of another structure, it was not looked at before.
        if !it.is_valid() {
            return Err(self.values());
        }
        Ok(MemoryRegion {
            guest_address: it.guest_phys_addr,
            user_address: it.user_addr,
            bytes: it.memory_size,
            file_offset: it.mmap_offset,
        })
    }

    fn one_file(self, mut files: ArrayVec<OwnedFd, FILES_MAX>) -> Result<OwnedFd, RequestError> {
        let count = files.len();
        match files.pop() {
            Some(file) if count == 1 => Ok(file),
            _ => Err(self.files(count)),
        }
    }

    fn size(self) -> RequestError {
        RequestError::Size { request: self.request, bytes: self.bytes.len() }
    }

    fn values(self) -> RequestError {
        RequestError::Values { request: self.request }
    }

    fn files(self, files: usize) -> RequestError {
        RequestError::Files { request: self.request, files }
    }
}
