//! What an interface says about itself.
//!
//! # Safety boundary
//!
//! Ioctls that read and write a `struct ifreq` and no more.
#![expect(unsafe_code, reason = "these ioctls have no safe interface")]

use std::{
    ffi::c_ulong,
    io,
    os::fd::{AsFd, AsRawFd},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketType, socket};

use super::OpenPortError;

/// How long an interface that is up may be without a carrier: some NICs lose it for three seconds
/// when they get an XDP program.
const CARRIER_PATIENCE: Duration = Duration::from_secs(10);

/// An interface of the calling thread's network namespace, which is up and has a
/// carrier.
#[derive(Debug)]
pub(super) struct Interface {
    /// Bytes that a packet may have.
    pub(super) mtu_bytes: usize,
}

impl Interface {
    /// Looks at an interface; waits for its carrier.
    pub(super) fn look(interface: &str) -> Result<Self, OpenPortError> {
        let missing =
            |source| OpenPortError::NoSuchInterface { interface: interface.into(), source };
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None)
            .map_err(|error| missing(error.into()))?;
        let mut request = request(interface).map_err(missing)?;
        let start = Instant::now();
        loop {
            call(&any, libc::SIOCGIFFLAGS, &mut request).map_err(missing)?;
            // SAFETY: the kernel has written the flags.
            let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
            if flags & libc::IFF_UP == 0 {
                return Err(OpenPortError::Down { interface: interface.into() });
            }
            if flags & libc::IFF_RUNNING != 0 {
                break;
            }
            if start.elapsed() > CARRIER_PATIENCE {
                return Err(OpenPortError::NoCarrier { interface: interface.into() });
            }
            thread::sleep(Duration::from_millis(10));
        }
        call(&any, libc::SIOCGIFMTU, &mut request).map_err(missing)?;
        // SAFETY: the kernel has written the MTU.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(Self { mtu_bytes: usize::try_from(mtu).unwrap_or(0) })
    }
}

/// Fails if the calling thread's network namespace has no such interface.
pub(super) fn check_that_exists(interface: &str) -> Result<(), OpenPortError> {
    let look = || {
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        call(&any, libc::SIOCGIFFLAGS, &mut request(interface)?)
    };
    look().map_err(|source| OpenPortError::NoSuchInterface { interface: interface.into(), source })
}

/// Makes an open `/dev/net/tun` the other end of a TAP interface.
pub(super) fn attach_tap(device: &impl AsFd, interface: &str) -> Result<(), OpenPortError> {
    let attach = || {
        let mut request = request(interface)?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        request.ifr_ifru.ifru_flags = flags.try_into().map_err(io::Error::other)?;
        call(device, libc::TUNSETIFF, &mut request)
    };
    attach().map_err(|source| {
        let interface = interface.to_owned();
        let hint = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => return OpenPortError::NotPermitted { interface },
            Some(libc::EBUSY) => "another program has it open; end it, or choose another",
            Some(libc::EINVAL) => "it is no TAP interface of one queue",
            _ => "see the cause",
        };
        OpenPortError::Attach { interface, hint, source }
    })
}

/// A request about an interface; fails if the name is too long for one.
fn request(interface: &str) -> io::Result<libc::ifreq> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: 0 };
    Ok(libc::ifreq { ifr_name: name, ifr_ifru })
}

/// Makes an ioctl that takes a `struct ifreq`.
fn call(file: &impl AsFd, number: c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: all requests of this module take a `struct ifreq`, which `request` is.
    let result = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number, request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_an_mtu() {
        assert!(Interface::look("lo").unwrap().mtu_bytes >= 1280);
    }

    #[test]
    fn an_interface_that_is_not_there_is_told() {
        for name in ["vr-none", "", "a-name-that-is-too-long"] {
            let error = Interface::look(name).unwrap_err().to_string();
            assert!(error.starts_with(&format!("there is no interface {name} here")), "{error}");
        }
    }
}
