//! Chains of descriptors: what a driver offers as one buffer.
//!
//! A chain is plain descriptors one after the other, or one that leads to an indirect table. Each
//! descriptor is read once. Nothing that a driver writes makes a walk longer than [`PARTS_MAX`].

#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use arrayvec::ArrayVec;

use super::RingFault;
use crate::{
    burst::BURST_PACKETS_MAX,
    port::vhost_user::{access::GuestSlice, memory::GuestMemory},
};

/// Chains looked at in one go: one a packet of a burst.
pub(in crate::port::vhost_user) const HEADS_MAX: usize = BURST_PACKETS_MAX;

/// Parts of one chain at most. 64 KiB in pages of 4096 bytes take 17, and drivers of guests with
/// fragmented memory some more; a chain of more parts is taken for a loop.
pub(in crate::port::vhost_user) const PARTS_MAX: usize = 256;

/// Descriptor flags (VirtIO 1.2 sections 2.7.5 and 2.8).
pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// Bytes of a descriptor, in all formats and tables.
pub(super) const DESCRIPTOR_BYTES: usize = 16;

/// The first descriptor of a chain.
#[derive(Clone, Copy, Debug)]
pub(in crate::port::vhost_user) struct Head {
    /// Guest physical address.
    pub(in crate::port::vhost_user) address: u64,
    /// Bytes there.
    pub(in crate::port::vhost_user) bytes: u32,
    /// NEXT, WRITE, INDIRECT.
    pub(super) flags: u16,
    /// Where the chain goes on in a split ring's table.
    pub(super) next: u16,
    /// The driver's name for the chain.
    pub(super) id: u16,
    /// The first descriptor's index in a packed ring.
    pub(super) index: u16,
    /// Descriptors of the chain in a packed ring.
    pub(super) slots: u16,
}

/// Which way the bytes of a ring go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::port::vhost_user) enum Direction {
    /// We read what the driver wrote.
    FromGuest,
    /// We write.
    ToGuest,
}

impl Direction {
    /// The flags of a chain that is one plain descriptor.
    #[inline]
    const fn plain_flags(self) -> u16 {
        match self {
            Self::FromGuest => 0,
            Self::ToGuest => WRITE,
        }
    }

    /// Whether a descriptor with `flags` is of this direction.
    pub(super) const fn is_way_of(self, flags: u16) -> bool {
        flags & WRITE == self.plain_flags()
    }
}

impl Head {
    /// Whether the chain is this one descriptor, in the right direction.
    #[inline]
    pub(in crate::port::vhost_user) fn is_plain(&self, direction: Direction) -> bool {
        self.flags & (NEXT | WRITE | INDIRECT) == direction.plain_flags()
    }
}

/// A piece of a chain.
#[derive(Clone, Copy, Debug)]
pub(in crate::port::vhost_user) struct Part<'a> {
    /// The bytes.
    pub(in crate::port::vhost_user) slice: GuestSlice<'a>,
    /// Where the guest has them.
    pub(in crate::port::vhost_user) address: u64,
}

/// All pieces of a chain, in order.
pub(in crate::port::vhost_user) type Parts<'a> = ArrayVec<Part<'a>, PARTS_MAX>;

/// A descriptor, as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    pub(super) address: u64,
    pub(super) bytes: u32,
    pub(super) flags: u16,
    /// Of a split ring: where the chain goes on.
    pub(super) next: u16,
}

impl Descriptor {
    /// From the two words of a split ring's descriptor.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "parts of a word are meant")]
    pub(super) const fn from_split([address, word]: [u64; 2]) -> Self {
        let (bytes, flags, next) = (word as u32, (word >> 32) as u16, (word >> 48) as u16);
        Self { address, bytes, flags, next }
    }
}

/// Adds the bytes of one descriptor to `parts`, in several parts if they cross from one region of
/// memory to the next.
pub(super) fn add_part<'a>(
    memory: &'a GuestMemory,
    direction: Direction,
    descriptor: Descriptor,
    parts: &mut Parts<'a>,
) -> Result<(), RingFault> {
    let Descriptor { address, bytes, flags, .. } = descriptor;
    if !direction.is_way_of(flags) {
        return Err(RingFault::WrongDirection);
    }
    let outside = RingFault::OutsideMemory { address, bytes };
    let (mut at, mut left) = (address, bytes as usize);
    while left > 0 {
        let slice = memory.translate_part(at, left).ok_or(outside)?;
        parts
            .try_push(Part { slice, address: at })
            .map_err(|_| RingFault::ChainTooLong { limit: PARTS_MAX })?;
        left = left.saturating_sub(slice.bytes());
        at = at.checked_add(slice.bytes() as u64).ok_or(outside)?;
    }
    Ok(())
}

/// How many descriptors an indirect table of `bytes` bytes has.
pub(super) fn indirect_count(bytes: u32) -> Result<usize, RingFault> {
    let count = bytes as usize / DESCRIPTOR_BYTES;
    if count == 0 || !(bytes as usize).is_multiple_of(DESCRIPTOR_BYTES) {
        return Err(RingFault::IndirectTable { bytes });
    }
    Ok(count)
}

/// The words of the descriptor at `index` of an indirect table, which need not be aligned.
pub(super) fn indirect_words(
    memory: &GuestMemory,
    table: u64,
    index: usize,
) -> Result<[u64; 2], RingFault> {
    let outside = RingFault::OutsideMemory { address: table, bytes: 16 };
    let offset = index.saturating_mul(DESCRIPTOR_BYTES) as u64;
    let address = table.checked_add(offset).ok_or(outside)?;
    let slice = memory.translate(address, DESCRIPTOR_BYTES).ok_or(outside)?;
    let mut bytes = [[0; 8]; 2];
    slice.copy_to(bytes.as_flattened_mut());
    Ok(bytes.map(u64::from_le_bytes))
}
