//! SCTP common headers (RFC 9260) and their CRC-32C.

use crate::field::{bytes_at, u16_at, u32_at};
use crate::{Layer, ParseError};

/// A read-only view of the SCTP common header.
#[derive(Clone, Copy, Debug)]
pub struct SctpView<'a>(&'a [u8; SctpView::LEN]);

impl<'a> SctpView<'a> {
    /// Header length in bytes.
    pub const LEN: usize = 12;

    /// Splits `packet` into the common header and the chunks.
    ///
    /// # Errors
    ///
    /// Fails below [`Self::LEN`] bytes.
    #[inline]
    pub fn parse(packet: &'a [u8]) -> Result<(Self, &'a [u8]), ParseError> {
        match packet.split_first_chunk() {
            Some((header, chunks)) => Ok((Self(header), chunks)),
            None => Err(ParseError::Truncated {
                layer: Layer::Sctp,
                needed: Self::LEN,
                actual: packet.len(),
            }),
        }
    }

    /// Source port.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        u16_at::<0, _>(self.0)
    }

    /// Destination port.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        u16_at::<2, _>(self.0)
    }

    /// Verification tag; zero in a packet that carries INIT.
    #[must_use]
    pub fn verification_tag(&self) -> u32 {
        u32_at::<4, _>(self.0)
    }

    /// CRC-32C as it stands in the packet, least significant byte first (RFC 9260 appendix A).
    #[must_use]
    pub fn checksum(&self) -> u32 {
        u32::from_le_bytes(*bytes_at::<8, 4, _>(self.0))
    }

    /// Whether the CRC-32C matches header and `chunks`.
    ///
    /// Bytewise, about 2 cycles a byte and more: for tests and the slow path.
    #[must_use]
    pub fn is_intact(&self, chunks: &[u8]) -> bool {
        let crc = crc32c(!0, bytes_at::<0, 8, _>(self.0));
        !crc32c(crc32c(crc, &[0; 4]), chunks) == self.checksum()
    }

    /// The type of the first chunk, where there is one.
    #[must_use]
    pub fn first_chunk_type(chunks: &[u8]) -> Option<ChunkType> {
        chunks.first().map(|kind| ChunkType(*kind))
    }
}

/// The type of an SCTP chunk (RFC 9260 section 3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChunkType(pub u8);

impl ChunkType {
    /// Payload.
    pub const DATA: Self = Self(0);
    /// First packet of an association.
    pub const INIT: Self = Self(1);
    /// Its answer.
    pub const INIT_ACK: Self = Self(2);
    /// Selective acknowledgement.
    pub const SACK: Self = Self(3);
    /// Heartbeat.
    pub const HEARTBEAT: Self = Self(4);
    /// Its answer.
    pub const HEARTBEAT_ACK: Self = Self(5);
    /// The association ends at once.
    pub const ABORT: Self = Self(6);
    /// The association is to end.
    pub const SHUTDOWN: Self = Self(7);
    /// Its answer.
    pub const SHUTDOWN_ACK: Self = Self(8);
    /// Third packet of an association.
    pub const COOKIE_ECHO: Self = Self(10);
    /// Fourth packet of an association.
    pub const COOKIE_ACK: Self = Self(11);
    /// Last packet of an association.
    pub const SHUTDOWN_COMPLETE: Self = Self(14);
}

/// CRC-32C of a whole SCTP packet whose checksum field is zero, as the number to store with
/// `to_le_bytes`.
#[must_use]
pub fn checksum(packet: &[u8]) -> u32 {
    Crc32c::EMPTY.with(packet).checksum()
}

/// The CRC-32C of a packet that lies in several pieces: add them in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// Of no byte yet.
    pub const EMPTY: Self = Self(!0);

    /// With the next piece.
    #[must_use]
    pub fn with(self, piece: &[u8]) -> Self {
        Self(crc32c(self.0, piece))
    }

    /// As [`checksum`] gives it.
    #[must_use]
    pub fn checksum(self) -> u32 {
        !self.0
    }
}

/// Castagnoli's polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// One table step a byte.
static TABLE: [u32; 256] = table();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "evaluated by the compiler, where a panic is a compile error"
)]
const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        let [low, ..] = (crc ^ u32::from(*byte)).to_le_bytes();
        // A byte indexes 256 entries: always present.
        TABLE.get(usize::from(low)).copied().unwrap_or(0) ^ (crc >> 8)
    })
}

#[cfg(test)]
mod tests;
