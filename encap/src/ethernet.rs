//! Ethernet II headers.
//!
//! IEEE 802.3 length fields, LLC and SNAP are not interpreted: an [`EtherType`] below 0x0600 is
//! simply one that nobody asks for.

use core::fmt;

use crate::field::{bytes_at, put, put_u16, u16_at};
use crate::{Layer, MacAddress, ParseError};

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: Self = Self(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self(0x0806);
    /// IPv6 (RFC 2464).
    pub const IPV6: Self = Self(0x86dd);
    /// An IEEE 802.1Q tag follows.
    pub const VLAN: Self = Self(0x8100);
    /// An IEEE 802.1ad service tag follows.
    pub const SERVICE_VLAN: Self = Self(0x88a8);
}

impl fmt::Debug for EtherType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#06x}", self.0)
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// A read-only view of an Ethernet II header.
#[derive(Clone, Copy, Debug)]
pub struct EthernetView<'a>(&'a [u8; EthernetView::LEN]);

impl<'a> EthernetView<'a> {
    /// Header length in bytes.
    pub const LEN: usize = 14;

    /// Splits `frame` into a header and what it carries, padding included.
    ///
    /// # Errors
    ///
    /// Fails below [`Self::LEN`] bytes.
    #[inline]
    pub fn parse(frame: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        match frame.split_first_chunk() {
            Some((header, payload)) => Ok((Self(header), payload)),
            None => Err(truncated(frame.len())),
        }
    }

    /// Destination address.
    #[must_use]
    pub fn destination(&self) -> MacAddress {
        MacAddress::new(*bytes_at::<0, 6, _>(self.0))
    }

    /// Source address.
    #[must_use]
    pub fn source(&self) -> MacAddress {
        MacAddress::new(*bytes_at::<6, 6, _>(self.0))
    }

    /// What the frame carries.
    #[must_use]
    pub fn ether_type(&self) -> EtherType {
        EtherType(u16_at::<12, _>(self.0))
    }
}

/// An Ethernet II header that can be edited in place.
#[derive(Debug)]
pub struct EthernetMut<'a>(&'a mut [u8; EthernetView::LEN]);

impl<'a> EthernetMut<'a> {
    /// Borrows the header at the start of `frame`.
    ///
    /// # Errors
    ///
    /// Fails below [`EthernetView::LEN`] bytes.
    #[inline]
    pub fn parse(frame: &'a mut [u8]) -> Result<Self, ParseError> {
        let actual = frame.len();
        frame.first_chunk_mut().map(Self).ok_or_else(|| truncated(actual))
    }

    /// Sets the destination address.
    pub fn set_destination(&mut self, address: MacAddress) {
        put::<0, 6, _>(self.0, address.octets());
    }

    /// Sets the source address.
    pub fn set_source(&mut self, address: MacAddress) {
        put::<6, 6, _>(self.0, address.octets());
    }
}

/// The fields of an Ethernet II header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EthernetHeader {
    /// Destination address.
    pub destination: MacAddress,
    /// Source address.
    pub source: MacAddress,
    /// What the frame carries.
    pub ether_type: EtherType,
}

impl EthernetHeader {
    /// The header as it goes on the wire.
    #[must_use]
    #[inline]
    pub fn to_bytes(self) -> [u8; EthernetView::LEN] {
        let mut header = [0; EthernetView::LEN];
        put::<0, 6, _>(&mut header, self.destination.octets());
        put::<6, 6, _>(&mut header, self.source.octets());
        put_u16::<12, _>(&mut header, self.ether_type.0);
        header
    }
}

impl From<EthernetView<'_>> for EthernetHeader {
    fn from(view: EthernetView<'_>) -> Self {
        Self {
            destination: view.destination(),
            source: view.source(),
            ether_type: view.ether_type(),
        }
    }
}

#[cold]
fn truncated(actual: usize) -> ParseError {
    ParseError::Truncated { layer: Layer::Ethernet, needed: EthernetView::LEN, actual }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_round_trips(destination: [u8; 6], source: [u8; 6], ether_type: u16) {
            let header = EthernetHeader {
                destination: destination.into(),
                source: source.into(),
                ether_type: EtherType(ether_type),
            };
            let bytes = header.to_bytes();
            let (view, payload) = EthernetView::parse(&bytes).unwrap();
            prop_assert_eq!(EthernetHeader::from(view), header);
            prop_assert!(payload.is_empty());
        }

        #[test]
        fn edits_change_only_their_field(mut frame: [u8; 20], mac: [u8; 6]) {
            let before = frame;
            EthernetMut::parse(&mut frame).unwrap().set_destination(mac.into());
            prop_assert_eq!(&frame[..6], &mac);
            prop_assert_eq!(&frame[6..], &before[6..]);
            let before = frame;
            EthernetMut::parse(&mut frame).unwrap().set_source(mac.into());
            prop_assert_eq!(&frame[6..12], &mac);
            prop_assert_eq!(&frame[..6], &before[..6]);
            prop_assert_eq!(&frame[12..], &before[12..]);
        }
    }

    #[test]
    fn a_frame_truncated_anywhere_is_refused() {
        let mut frame = [0; EthernetView::LEN];
        for actual in 0..EthernetView::LEN {
            let error = ParseError::Truncated { layer: Layer::Ethernet, needed: 14, actual };
            assert_eq!(EthernetView::parse(&frame[..actual]).unwrap_err(), error);
            assert_eq!(EthernetMut::parse(&mut frame[..actual]).unwrap_err(), error);
        }
    }
}
