//! The queues of a TAP device, by the kernel's `/dev/net/tun`.
//!
//! # Safety boundary
//!
//! The ioctls of `linux/if_tun.h` take a number, or a pointer to a number or to an interface's name
//! and flags. Sound because each call here passes what its command reads, alive for the call.
#![expect(unsafe_code, reason = "TAP devices have no safe interface")]

use std::{
    ffi::c_int,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use crate::{packet::Offloads, virtio_net::VirtioNetHeader};

/// Where the kernel lets TAP devices be opened.
const DEVICE: &str = "/dev/net/tun";

/// What we take unfinished from the stack: checksums, and TCP with or without congestion marks.
const TCP_OFFLOADS: u32 =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// UDP, too: since Linux 6.2.
const UDP_OFFLOADS: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Opens the way to TAP devices, those of the calling thread's network namespace.
pub(super) fn open() -> io::Result<File> {
    // Asking for what is not there has an answer at once.
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)
}

/// Ties an open way to a queue of the device.
///
/// The kernel makes a device of that name if there is none, which goes with its last descriptor.
pub(super) fn attach(file: File, interface: &str, is_multi_queue: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if is_multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let ifru_flags = i16::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags } };
    // SAFETY: the name ends with a zero byte, and the kernel reads and writes one `ifreq`.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    succeeded(result)?;
    Ok(file.into())
}

/// Agrees with the device on the header before each frame, and on what either side leaves to the
/// other; returns what the device takes.
pub(super) fn agree(queue: &OwnedFd) -> io::Result<Offloads> {
    set(queue, libc::TUNSETVNETHDRSZ, c_int::try_from(VirtioNetHeader::LEN).unwrap_or(0))?;
    // VirtIO 1.x is little-endian on every machine.
    set(queue, libc::TUNSETVNETLE, 1)?;
    let udp = offload(queue, TCP_OFFLOADS | UDP_OFFLOADS).is_ok();
    if !udp {
        offload(queue, TCP_OFFLOADS)?;
    }
    Ok(Offloads { udp, ..Offloads::ALL })
}

fn set(queue: &OwnedFd, command: libc::Ioctl, value: c_int) -> io::Result<()> {
    // SAFETY: both commands that come here read one int.
    succeeded(unsafe { libc::ioctl(queue.as_raw_fd(), command, &raw const value) })
}

fn offload(queue: &OwnedFd, flags: u32) -> io::Result<()> {
    let flags = libc::c_ulong::from(flags);
    // SAFETY: the command takes its flags by value.
    succeeded(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD, flags) })
}

fn succeeded(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
