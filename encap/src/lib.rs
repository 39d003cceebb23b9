//! Bytes on the wire: header views, checksums and tunnels.
//!
//! A *view* borrows a header and is the proof that the header is whole and consistent: `parse`
//! checks once, accessors cannot fail. A `…Mut` view does the same for edits in place. A *header
//! value* (`EthernetHeader`, `ArpPacket`) turns plain fields into bytes.
//!
//! This crate is not a packet pipeline: it knows no ports, flows, routes or drop reasons. It does
//! no I/O, allocates nothing, reads no clock and does not log; being `no_std` without `alloc` is
//! the proof of it.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![cfg_attr(test, expect(clippy::arithmetic_side_effects, reason = "tests may fail by panicking"))]

#[cfg(test)]
extern crate std;

pub mod arp;
pub mod checksum;
pub mod ecn;
mod error;
pub mod ethernet;
mod field;
pub mod icmp;
pub mod icmp_error;
mod icmp_header;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
mod mac;
pub mod plain;
pub mod quote;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vlan;
pub mod vxlan;

pub use error::{BufferTooSmall, HopLimitExceeded, Layer, ParseError};
pub use mac::{MacAddress, ParseMacAddressError};
