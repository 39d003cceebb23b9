//! VXLAN over IPv4 and IPv6 (RFC 7348).
//!
//! ```text
//! offset  0          14                34 | 54     42 | 62    50 | 70
//!         | Ethernet | IPv4 20 | IPv6 40 | UDP 8  | VXLAN 8  | inner Ethernet frame …
//!         '------------------ EncapTemplate -----------------'
//! ```
//!
//! [`EncapTemplate`] writes everything in front of an inner frame; [`Outer`] and [`Decap`] take it
//! off again. A tunnel endpoint neither fragments nor reassembles (RFC 7348 section 4.3): outer
//! fragments are refused.

mod decap;
mod entropy;
mod template;

use core::fmt;

pub use decap::{Decap, DecapError, DecapSettings, Outer, OuterError};
pub use entropy::{ENTROPY_PORT_MAX, ENTROPY_PORT_MIN, entropy_port, flow_label};
pub use template::{
    EncapError, EncapPacket, EncapTemplate, MixedFamilies, OuterDf, TunnelAddresses,
    TunnelSettings, UdpChecksum,
};

use crate::field::{put, u32_at};
use crate::{Layer, ParseError};

/// UDP port assigned by IANA.
pub const PORT: u16 = 4789;
/// UDP port that Linux, and flannel with it, uses unless told otherwise.
pub const LINUX_PORT: u16 = 8472;

/// Bytes put in front of an inner Ethernet frame over IPv4.
///
/// It is also what an inner IP packet's MTU is below the underlay's: the outer Ethernet header does
/// not count there, but the inner one does.
pub const OVERHEAD_IPV4: usize = 50;
/// Bytes put in front of an inner Ethernet frame over IPv6; also the difference of the MTUs.
pub const OVERHEAD_IPV6: usize = 70;

/// The I flag: the VNI field is valid.
const VNI_VALID: u8 = 0x08;

/// A VXLAN network identifier: 24 bits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier.
    pub const MAX: u32 = 0x00ff_ffff;

    /// The identifier, if `value` fits into 24 bits.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX { Some(Self(value)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }
}

/// The number does not fit into the 24 bits of a VNI.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("VNI {value} is above the largest one, 16777215")]
pub struct VniOutOfRange {
    /// The number.
    pub value: u32,
}

impl TryFrom<u32> for Vni {
    type Error = VniOutOfRange;

    fn try_from(value: u32) -> Result<Self, Self::Error> {
        Self::new(value).ok_or(VniOutOfRange { value })
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// A read-only view of a VXLAN header (RFC 7348 section 5).
///
/// Holding one proves that eight bytes are present and the I flag is set: no accessor can fail.
#[derive(Clone, Copy, Debug)]
pub struct VxlanView<'a>(&'a [u8; VxlanView::LEN]);

impl<'a> VxlanView<'a> {
    /// Header length in bytes.
    pub const LEN: usize = 8;

    /// Splits `bytes` into a header and the inner Ethernet frame.
    ///
    /// # Errors
    ///
    /// Fails below [`Self::LEN`] bytes, and if the I flag is clear. Reserved bits are ignored.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        let Some((header, inner)) = bytes.split_first_chunk::<{ VxlanView::LEN }>() else {
            return Err(truncated(bytes.len()));
        };
        if header[0] & VNI_VALID == 0 {
            return Err(ParseError::VniFlagUnset { flags: header[0] });
        }
        Ok((Self(header), inner))
    }

    /// The network that the inner frame belongs to.
    #[must_use]
    pub fn vni(&self) -> Vni {
        Vni(u32_at::<4, _>(self.0) >> 8)
    }
}

/// A VXLAN header as it goes on the wire, reserved bits zero.
#[must_use]
pub fn header_bytes(vni: Vni) -> [u8; VxlanView::LEN] {
    let mut header = [0; VxlanView::LEN];
    header[0] = VNI_VALID;
    put::<4, 4, _>(&mut header, (vni.0 << 8).to_be_bytes());
    header
}

#[cold]
fn truncated(actual: usize) -> ParseError {
    ParseError::Truncated { layer: Layer::Vxlan, needed: VxlanView::LEN, actual }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_vni_is_24_bits() {
        assert_eq!(Vni::new(Vni::MAX).map(Vni::value), Some(0x00ff_ffff));
        assert_eq!(Vni::new(0x0100_0000), None);
        assert_eq!(Vni::try_from(0x0100_0000), Err(VniOutOfRange { value: 0x0100_0000 }));
    }

    #[test]
    fn of_all_256_flag_bytes_those_with_the_i_flag_are_accepted() {
        for flags in 0..=255_u8 {
            let bytes = [flags, 0, 0, 0, 0, 0, 7, 0, 0xab];
            match VxlanView::parse(&bytes) {
                Ok((view, inner)) => {
                    assert_eq!(flags & 8, 8);
                    assert_eq!((view.vni().value(), inner), (7, &[0xab][..]));
                }
                Err(error) => {
                    assert_eq!(flags & 8, 0);
                    assert_eq!(error, ParseError::VniFlagUnset { flags });
                }
            }
        }
    }

    #[test]
    fn a_header_truncated_anywhere_is_refused() {
        let bytes = header_bytes(Vni::new(1).unwrap());
        for actual in 0..VxlanView::LEN {
            let error = ParseError::Truncated { layer: Layer::Vxlan, needed: 8, actual };
            assert_eq!(VxlanView::parse(&bytes[..actual]).unwrap_err(), error);
        }
    }

    proptest! {
        #[test]
        fn a_header_round_trips(vni in 0..=Vni::MAX) {
            let bytes = header_bytes(Vni::new(vni).unwrap());
            prop_assert_eq!(bytes[0], 8);
            prop_assert_eq!((&bytes[1..4], bytes[7]), (&[0, 0, 0][..], 0));
            let (view, inner) = VxlanView::parse(&bytes).unwrap();
            prop_assert_eq!(view.vni().value(), vni);
            prop_assert!(inner.is_empty());
        }

        #[test]
        fn reserved_bits_are_ignored(mut bytes: [u8; 8], vni in 0..=Vni::MAX) {
            bytes[0] |= VNI_VALID;
            bytes[4..7].copy_from_slice(&vni.to_be_bytes()[1..]);
            prop_assert_eq!(VxlanView::parse(&bytes).unwrap().0.vni().value(), vni);
        }
    }
}
