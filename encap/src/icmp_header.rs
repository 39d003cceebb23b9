//! The eight bytes that messages of ICMP (RFC 792) and ICMPv6 (RFC 4443) start with alike: type,
//! code, checksum, and four bytes whose meaning depends on the type.
//!
//! The views of the two have types of their own, since their numbers and their checksums differ;
//! what they share is written here once.

use crate::checksum::Sum;
use crate::field::u16_at;
use crate::{Layer, ParseError};

/// Header length in bytes.
pub(crate) const LEN: usize = 8;

/// The accessors of a view `Self(&[u8; 8])` whose types are `$kind`.
macro_rules! shared_accessors {
    ($kind:ident) => {
        /// Header length in bytes.
        pub const LEN: usize = crate::icmp_header::LEN;

        /// Type.
        #[must_use]
        pub fn kind(&self) -> $kind {
            $kind(self.0[0])
        }

        /// Code: which case of its type the message is about.
        #[must_use]
        pub fn code(&self) -> u8 {
            self.0[1]
        }

        /// Checksum as it stands in the message.
        #[must_use]
        pub fn checksum(&self) -> u16 {
            u16_at::<2, _>(self.0)
        }

        /// The four bytes whose meaning depends on the type.
        #[must_use]
        pub fn rest_of_header(&self) -> [u8; 4] {
            *bytes_at::<4, 4, _>(self.0)
        }

        /// Identifier of a query or its answer; `None` for other types.
        #[must_use]
        pub fn echo_id(&self) -> Option<u16> {
            self.kind().is_query().then(|| u16_at::<4, _>(self.0))
        }

        /// Sequence number of a query or its answer; `None` for other types.
        #[must_use]
        pub fn echo_sequence(&self) -> Option<u16> {
            self.kind().is_query().then(|| u16_at::<6, _>(self.0))
        }
    };
}

pub(crate) use shared_accessors;

/// Checks the checksum of a message of `layer`, given the sum of all that it covers but the header.
pub(crate) fn verify_checksum(
    header: [u8; LEN],
    others: Sum,
    layer: Layer,
) -> Result<(), ParseError> {
    let sum = Sum::of(&header).add(others);
    if sum.is_intact() {
        return Ok(());
    }
    let found = u16_at::<2, _>(&header);
    let computed = sum.remove(Sum::of_u16(found)).checksum();
    Err(ParseError::ChecksumMismatch { layer, found, computed })
}
