//! What a driver says about itself: its name and its queues.
//!
//! # Safety boundary
//!
//! The ethtool system call takes a pointer to a structure that starts with a command; the kernel
//! writes no more than that command's structure. It is sound because each structure here is that of
//! `linux/ethtool.h` for the command it starts with.
#![expect(unsafe_code, reason = "ethtool has no safe interface")]

use std::{ffi::c_void, io, os::fd::AsRawFd};

use rustix::net::{AddressFamily, SocketType, socket};

use super::interface::text;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// What a driver told; what it does not tell is `None`.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) driver: Option<String>,
    pub(super) rx_queues: Option<u32>,
}

/// Asks the driver of an interface of the calling thread's namespace.
pub(super) fn facts(interface: &str) -> Facts {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    let mut information = DriverInformation { command: ETHTOOL_GDRVINFO, bytes: [0; 192] };
    let rx_queues = call(interface, &mut channels)
        .ok()
        .map(|()| (channels.rx_count + channels.combined_count).max(1));
    let driver = call(interface, &mut information)
        .ok()
        .and_then(|()| text(information.bytes.first_chunk::<32>()?));
    Facts { driver, rx_queues }
}

/// Structures that an ethtool command fills in.
///
/// # Safety
///
/// The type is laid out as the structure of `linux/ethtool.h` for the command in its first field.
unsafe trait Request {}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Channels {
    command: u32,
    rx_max: u32,
    tx_max: u32,
    other_max: u32,
    combined_max: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

// SAFETY: `struct ethtool_channels`.
unsafe impl Request for Channels {}

#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct DriverInformation {
    command: u32,
    /// The driver's name in 32 bytes, then versions, addresses and sizes.
    bytes: [u8; 192],
}

// SAFETY: `struct ethtool_drvinfo`, 196 bytes.
unsafe impl Request for DriverInformation {}

fn call<T: Request>(interface: &str, request: &mut T) -> io::Result<()> {
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let pointer: *mut c_void = (&raw mut *request).cast();
    let mut argument = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: pointer.cast() },
    };
    // SAFETY: the name ends with a zero byte, and the pointer leads to the structure of its command
    // (trait `Request`).
    let result = unsafe { libc::ioctl(any.as_raw_fd(), libc::SIOCETHTOOL, &raw mut argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
