//! A frontend that says what a test wants, right or wrong.

use std::{
    fs::File,
    io::{IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, ftruncate, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures as Protocol};

use super::{PATIENCE, Port};
use crate::port::vhost_user::features;

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 8;

/// Bytes of the memory that a client shares.
pub(super) const MEMORY_BYTES: u64 = 1 << 20;
/// Where the guest has it.
pub(super) const GUEST_ADDRESS: u64 = 0x1_0000_0000;
/// Where the frontend has it.
pub(super) const USER_ADDRESS: u64 = 0x7f00_0000_0000;
/// Entries of its rings.
const ENTRIES: u32 = 64;

/// A connection to a port.
pub(super) struct Client {
    pub(super) socket: UnixStream,
}

impl Client {
    pub(super) fn connect(port: &Port) -> Self {
        let socket = UnixStream::connect(port.socket()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket }
    }

    /// Sends a message; `false` if the connection is closed.
    pub(super) fn send(&self, code: u32, flags: u32, body: &[u8], files: &[BorrowedFd]) -> bool {
        let size = u32::try_from(body.len()).unwrap();
        let mut bytes: Vec<u8> =
            [code, VERSION | flags, size].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(body);
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(files)));
        }
        let parts = [IoSlice::new(&bytes)];
        sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL).is_ok()
    }

    /// Sends a request and returns the body of its answer; `None` if the connection is closed.
    pub(super) fn ask(&mut self, request: FrontendReq, body: &[u8]) -> Option<Vec<u8>> {
        self.send(request.into(), 0, body, &[]);
        self.answer()
    }

    /// Sends a request that is to be acknowledged; `None` if the connection is closed.
    pub(super) fn tell(
        &mut self,
        request: FrontendReq,
        body: &[u8],
        files: &[BorrowedFd],
    ) -> Option<u64> {
        self.send(request.into(), NEED_REPLY, body, files);
        self.answer().map(|body| u64::from_ne_bytes(body.try_into().unwrap()))
    }

    pub(super) fn answer(&mut self) -> Option<Vec<u8>> {
        let mut header = [0; 12];
        self.socket.read_exact(&mut header).ok()?;
        let mut body = vec![0; usize::try_from(word(&header, 8)).unwrap()];
        self.socket.read_exact(&mut body).unwrap();
        Some(body)
    }

    /// Waits until the connection is closed.
    pub(super) fn expect_end(mut self) {
        assert_eq!(self.socket.read(&mut [0; 64]).unwrap_or(0), 0);
    }

    /// Negotiates protocol features and features.
    pub(super) fn negotiate(&mut self, more: u64) {
        let protocol = Protocol::REPLY_ACK | Protocol::CONFIGURE_MEM_SLOTS | Protocol::MQ;
        self.send(
            FrontendReq::SET_PROTOCOL_FEATURES.into(),
            0,
            &protocol.bits().to_ne_bytes(),
            &[],
        );
        let features = features::PROTOCOL_FEATURES | features::VERSION_1 | more;
        assert_eq!(self.tell(FrontendReq::SET_FEATURES, &features.to_ne_bytes(), &[]), Some(0));
    }

    /// Shares one region of memory.
    pub(super) fn share(&mut self) -> Option<u64> {
        let memory = memory();
        self.tell(FrontendReq::SET_MEM_TABLE, &table(&[region()]), &[memory.as_fd()])
    }

    /// Sets up a ring and enables it.
    pub(super) fn set_up(&mut self, ring: u32) {
        let file = event();
        let base = USER_ADDRESS + u64::from(ring) * 0x1_0000;
        let state = |number| words(&[ring, number]);
        assert_eq!(self.tell(FrontendReq::SET_VRING_NUM, &state(ENTRIES), &[]), Some(0));
        assert_eq!(self.tell(FrontendReq::SET_VRING_BASE, &state(0), &[]), Some(0));
        let addresses = addresses(ring, base, base + 0x8000, base + 0x4000);
        assert_eq!(self.tell(FrontendReq::SET_VRING_ADDR, &addresses, &[]), Some(0));
        let number = u64::from(ring).to_ne_bytes();
        let files = [file.as_fd()];
        for request in
            [FrontendReq::SET_VRING_CALL, FrontendReq::SET_VRING_ERR, FrontendReq::SET_VRING_KICK]
        {
            assert_eq!(self.tell(request, &number, &files), Some(0));
        }
        assert_eq!(self.tell(FrontendReq::SET_VRING_ENABLE, &state(1), &[]), Some(0));
    }

    /// All that it takes for one queue pair.
    pub(super) fn set_up_all(&mut self, more: u64) {
        self.negotiate(more);
        assert_eq!(self.share(), Some(0));
        self.set_up(0);
        self.set_up(1);
    }
}

/// The one region that a client shares: where the guest has it, how long it is, where the frontend
/// has it, where it begins in its file.
pub(super) fn region() -> [u64; 4] {
    [GUEST_ADDRESS, MEMORY_BYTES, USER_ADDRESS, 0]
}

/// The body of a table of memory.
pub(super) fn table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut body = words(&[u32::try_from(regions.len()).unwrap(), 0]);
    body.extend(regions.iter().flatten().flat_map(|number| number.to_ne_bytes()));
    body
}

/// The body with a ring's addresses.
pub(super) fn addresses(ring: u32, descriptors: u64, device: u64, driver: u64) -> Vec<u8> {
    let mut body = words(&[ring, 0]);
    body.extend([descriptors, device, driver, 0].iter().flat_map(|it| it.to_ne_bytes()));
    body
}

pub(super) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub(super) fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

pub(super) fn memory() -> OwnedFd {
    let memory = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&memory, MEMORY_BYTES).unwrap();
    memory
}

pub(super) fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

pub(super) fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}
