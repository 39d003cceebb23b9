//! IEEE 802.1Q tags.

use core::fmt;

use crate::ethernet::EtherType;
use crate::field::u16_at;
use crate::{Layer, ParseError};

/// A VLAN identifier: 12 bits. Zero means "priority only", 4095 is reserved.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct VlanId(u16);

impl VlanId {
    /// The largest value that fits, itself reserved.
    pub const MAX: u16 = 0x0fff;

    /// The identifier, if `value` fits into 12 bits.
    #[must_use]
    pub const fn new(value: u16) -> Option<Self> {
        if value <= Self::MAX { Some(Self(value)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for VlanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// A read-only view of what follows [`EtherType::VLAN`]: tag control information and the next type.
#[derive(Clone, Copy, Debug)]
pub struct VlanView<'a>(&'a [u8; VlanView::LEN]);

impl<'a> VlanView<'a> {
    /// Length in bytes: two of tag control information, two of the next `EtherType`.
    pub const LEN: usize = 4;

    /// Splits what follows the tag's `EtherType` into the tag and what it carries.
    ///
    /// # Errors
    ///
    /// Fails below [`Self::LEN`] bytes.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        match bytes.split_first_chunk() {
            Some((tag, payload)) => Ok((Self(tag), payload)),
            None => Err(truncated(bytes.len())),
        }
    }

    /// VLAN identifier.
    #[must_use]
    pub fn id(&self) -> VlanId {
        VlanId(u16_at::<0, _>(self.0) & VlanId::MAX)
    }

    /// Priority code point, 0–7.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.0[0] >> 5
    }

    /// Whether the frame may be dropped first under congestion (DEI).
    #[must_use]
    pub fn is_drop_eligible(&self) -> bool {
        self.0[0] & 0x10 != 0
    }

    /// What the tagged frame carries.
    #[must_use]
    pub fn ether_type(&self) -> EtherType {
        EtherType(u16_at::<2, _>(self.0))
    }
}

/// A tag as it is put between the source address and the `EtherType` of a frame.
///
/// `priority` counts with its low three bits.
#[must_use]
pub fn tag_bytes(id: VlanId, priority: u8) -> [u8; 4] {
    let [a, b] = EtherType::VLAN.0.to_be_bytes();
    let [c, d] = (id.0 | (u16::from(priority & 7) << 13)).to_be_bytes();
    [a, b, c, d]
}

#[cold]
fn truncated(actual: usize) -> ParseError {
    ParseError::Truncated { layer: Layer::Vlan, needed: VlanView::LEN, actual }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_vlan_id_is_12_bits() {
        assert_eq!(VlanId::new(4095).map(VlanId::value), Some(4095));
        assert_eq!(VlanId::new(4096), None);
    }

    #[test]
    fn a_tag_truncated_anywhere_is_refused() {
        for actual in 0..VlanView::LEN {
            assert_eq!(
                VlanView::parse(&[0; 4][..actual]).unwrap_err(),
                ParseError::Truncated { layer: Layer::Vlan, needed: 4, actual }
            );
        }
    }

    proptest! {
        #[test]
        fn a_tag_round_trips(id in 0..=VlanId::MAX, priority in 0u8..8, ether_type: u16) {
            let id = VlanId::new(id).unwrap();
            let tag = tag_bytes(id, priority);
            prop_assert_eq!(&tag[..2], [0x81, 0x00]);
            let [high, low] = ether_type.to_be_bytes();
            let bytes = [tag[2], tag[3], high, low];
            let (view, rest) = VlanView::parse(&bytes).unwrap();
            prop_assert_eq!(view.id(), id);
            prop_assert_eq!(view.priority(), priority);
            prop_assert!(!view.is_drop_eligible());
            prop_assert_eq!(view.ether_type(), EtherType(ether_type));
            prop_assert!(rest.is_empty());
        }
    }
}
