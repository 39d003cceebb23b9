//! Fields of the API's messages, checked one at a time.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use control_api::engine as api;
use encap::MacAddress;
use ipnet::IpNet;

use super::{
    error::{FieldError, Problem},
    object::{NAME_BYTES_MAX, family_name},
};
use crate::port::VhostUserBackend;

/// The largest VNI: 24 bits (RFC 7348 section 5).
const VNI_MAX: u64 = 0xff_ffff;
/// What every IPv4 host accepts (RFC 791), below which a way carries nothing useful.
const MTU_BYTES_MIN: u64 = 68;
/// `IFNAMSIZ` less the terminating zero.
const INTERFACE_BYTES_MAX: usize = 15;

type Parsed<T> = Result<T, FieldError>;

pub(super) fn address(path: &str, bytes: &[u8]) -> Parsed<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(octets.into());
    }
    match <[u8; 16]>::try_from(bytes) {
        Ok(octets) => Ok(octets.into()),
        Err(_) => Err(FieldError::new(path, Problem::AddressLength { bytes: bytes.len() })),
    }
}

pub(super) fn unicast_address(path: &str, bytes: &[u8]) -> Parsed<IpAddr> {
    let address = address(path, bytes)?;
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() || is_broadcast {
        return Err(FieldError::new(path, Problem::AddressNotUnicast { address }));
    }
    Ok(address)
}

pub(super) fn one_of_each_family(
    path: &str,
    addresses: &[Vec<u8>],
) -> Parsed<(Option<Ipv4Addr>, Option<Ipv6Addr>)> {
    let (mut v4, mut v6) = (None, None);
    for (index, bytes) in addresses.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let address = unicast_address(&path, bytes)?;
        let is_second = match address {
            IpAddr::V4(address) => v4.replace(address).is_some(),
            IpAddr::V6(address) => v6.replace(address).is_some(),
        };
        if is_second {
            let problem = Problem::SecondOfFamily { family: family_name(address) };
            return Err(FieldError::new(path, problem));
        }
    }
    Ok((v4, v6))
}

pub(super) fn unicast_mac(path: &str, bytes: &[u8]) -> Parsed<MacAddress> {
    if bytes.is_empty() {
        return Err(FieldError::new(path, Problem::Missing));
    }
    let Ok(octets) = <[u8; 6]>::try_from(bytes) else {
        return Err(FieldError::new(path, Problem::MacLength { bytes: bytes.len() }));
    };
    let mac = MacAddress::new(octets);
    if !mac.is_unicast() {
        return Err(FieldError::new(path, Problem::MacNotUnicast { mac }));
    }
    Ok(mac)
}

pub(super) fn prefix(path: &str, prefix: &api::Prefix) -> Parsed<IpNet> {
    let address = address(&format!("{path}.address"), &prefix.address)?;
    let length_max = if address.is_ipv4() { 32 } else { 128 };
    let length = in_range(&format!("{path}.length"), u64::from(prefix.length), 0, length_max)?;
    let Ok(prefix) = IpNet::new(address, length) else {
        return Err(FieldError::new(path, Problem::Missing));
    };
    let network = prefix.trunc();
    if network != prefix {
        return Err(FieldError::new(path, Problem::HostBits { prefix, network }));
    }
    Ok(prefix)
}

pub(super) fn in_range<T: TryFrom<u64>>(
    path: &str,
    actual: u64,
    minimum: u64,
    maximum: u64,
) -> Parsed<T> {
    let out_of_range = || FieldError::new(path, Problem::OutOfRange { actual, minimum, maximum });
    if !(minimum..=maximum).contains(&actual) {
        return Err(out_of_range());
    }
    T::try_from(actual).map_err(|_| out_of_range())
}

pub(super) fn vni(path: &str, vni: u32) -> Parsed<u32> {
    in_range(path, u64::from(vni), 0, VNI_MAX)
}

/// 0 stands for "not set".
pub(super) fn mtu(path: &str, bytes: u32) -> Parsed<Option<u16>> {
    if bytes == 0 {
        return Ok(None);
    }
    in_range(path, u64::from(bytes), MTU_BYTES_MIN, u64::from(u16::MAX)).map(Some)
}

pub(super) fn at_most(path: &str, count: usize, maximum: usize) -> Parsed<()> {
    if count > maximum {
        return Err(FieldError::new(path, Problem::TooMany { count, maximum }));
    }
    Ok(())
}

pub(super) fn name(path: &str, name: String) -> Parsed<Box<str>> {
    bounded(path, name, NAME_BYTES_MAX)
}

pub(super) fn interface(path: &str, name: String) -> Parsed<Box<str>> {
    bounded(path, name, INTERFACE_BYTES_MAX)
}

pub(super) fn socket_path(path: &str, text: String) -> Parsed<PathBuf> {
    let text = bounded(path, text, VhostUserBackend::SOCKET_PATH_BYTES_MAX)?;
    if !Path::new(&*text).is_absolute() {
        return Err(FieldError::new(path, Problem::PathRelative { path: text.into() }));
    }
    Ok(text.into_string().into())
}

/// Empty stands for "not set".
pub(super) fn optional_path(text: String) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

/// Empty stands for "not set".
pub(super) fn optional(text: String) -> Option<Box<str>> {
    (!text.is_empty()).then(|| text.into_boxed_str())
}

fn bounded(path: &str, text: String, bytes_max: usize) -> Parsed<Box<str>> {
    if text.is_empty() {
        return Err(FieldError::new(path, Problem::Missing));
    }
    if text.len() > bytes_max {
        return Err(FieldError::new(path, Problem::TooLong { bytes: text.len(), bytes_max }));
    }
    Ok(text.into_boxed_str())
}
