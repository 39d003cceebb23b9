//! A guest's memory: regions of its physical addresses, each mapped once.
//!
//! Immutable: when a frontend adds or removes a region, its session makes another [`GuestMemory`]
//! of the same mappings. What an address means is checked here; reading and writing is in
//! [`super::access`].

use std::sync::Arc;

use super::{
    access::{GuestSlice, Word, Words},
    mapping::MappedRegion,
};

/// Regions of one guest at most: what vhost-user frontends may ask for
/// (`VHOST_USER_MAX_RAM_SLOTS`).
pub const REGIONS_MAX: usize = 509;

/// A mapped file and the addresses that it stands for.
#[derive(Clone, Debug)]
pub struct GuestRegion {
    /// Its first guest physical address, which descriptors use.
    pub guest_address: u64,
    /// Its first address in the frontend's process, which ring addresses use.
    pub user_address: u64,
    /// What is there.
    pub mapped: Arc<MappedRegion>,
}

/// Why regions do not make a guest's memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum MemoryError {
    #[error("{count} regions of guest memory are too many: at most {REGIONS_MAX}")]
    TooManyRegions { count: usize },
    #[error("the region at guest address {address:#x} with {bytes} bytes passes the last address")]
    Wraps { address: u64, bytes: u64 },
    #[error("the regions at guest addresses {first:#x} and {second:#x} overlap")]
    Overlap { first: u64, second: u64 },
}

/// All regions of a guest, by guest address.
#[derive(Debug)]
pub struct GuestMemory {
    regions: Vec<GuestRegion>,
}

impl GuestMemory {
    /// Memory of these regions.
    ///
    /// # Errors
    ///
    /// Fails for too many regions, and for ones that overlap or pass the end of addresses.
    pub fn new(mut regions: Vec<GuestRegion>) -> Result<Self, MemoryError> {
        if regions.len() > REGIONS_MAX {
            return Err(MemoryError::TooManyRegions { count: regions.len() });
        }
        regions.sort_by_key(|region| region.guest_address);
        for region in &regions {
            let bytes = region.mapped.bytes() as u64;
            for address in [region.guest_address, region.user_address] {
                if address.checked_add(bytes).is_none() {
                    return Err(MemoryError::Wraps { address, bytes });
                }
            }
        }
        for (first, second) in regions.iter().zip(regions.iter().skip(1)) {
            if first.guest_address + first.mapped.bytes() as u64 > second.guest_address {
                let (first, second) = (first.guest_address, second.guest_address);
                return Err(MemoryError::Overlap { first, second });
            }
        }
        Ok(Self { regions })
    }

    /// The regions, by guest address.
    #[must_use]
    pub fn regions(&self) -> &[GuestRegion] {
        &self.regions
    }

    /// Whether the guest cut one of its files under us.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.regions.iter().any(|region| region.mapped.is_truncated())
    }

    /// The bytes at a guest physical address; `None` if not all of them lie in one region.
    #[must_use]
    pub fn translate(&self, guest_address: u64, bytes: usize) -> Option<GuestSlice<'_>> {
        self.translate_near(&mut 0, guest_address, bytes)
    }

    /// As [`Self::translate`]; `hint` is the region that is looked at first, and the one that it
    /// was in afterwards.
    #[inline]
    pub(super) fn translate_near(
        &self,
        hint: &mut usize,
        guest_address: u64,
        bytes: usize,
    ) -> Option<GuestSlice<'_>> {
        if let Some(region) = self.regions.get(*hint)
            && let Some(slice) = region.slice(guest_address, bytes)
        {
            return Some(slice);
        }
        self.translate_anywhere(hint, guest_address, bytes)
    }

    #[cold]
    fn translate_anywhere(
        &self,
        hint: &mut usize,
        guest_address: u64,
        bytes: usize,
    ) -> Option<GuestSlice<'_>> {
        let region = self.region_at(guest_address)?;
        let slice = self.regions.get(region)?.slice(guest_address, bytes)?;
        *hint = region;
        Some(slice)
    }

    /// The bytes at a guest physical address, as many as lie in one region, `bytes` at most; `None`
    /// if there is none. Regions may meet, and a buffer cross from one into the next.
    #[must_use]
    pub(super) fn translate_part(
        &self,
        guest_address: u64,
        bytes: usize,
    ) -> Option<GuestSlice<'_>> {
        let region = self.regions.get(self.region_at(guest_address)?)?;
        let offset = usize::try_from(guest_address - region.guest_address).ok()?;
        let bytes = bytes.min(region.mapped.bytes().checked_sub(offset)?);
        region.mapped.slice(offset, bytes).filter(|slice| slice.bytes() > 0)
    }

    /// `count` words at an address of the frontend's process, which is how ring addresses come;
    /// `None` if they do not lie in one region, or are not aligned.
    pub(super) fn words<T: Word>(&self, user_address: u64, count: usize) -> Option<Words<T>> {
        self.regions.iter().find_map(|region| {
            let offset = user_address.checked_sub(region.user_address)?;
            Words::new(&region.mapped, usize::try_from(offset).ok()?, count)
        })
    }

    fn region_at(&self, guest_address: u64) -> Option<usize> {
        self.regions.partition_point(|region| region.guest_address <= guest_address).checked_sub(1)
    }
}

impl GuestRegion {
    #[inline]
    fn slice(&self, guest_address: u64, bytes: usize) -> Option<GuestSlice<'_>> {
        let offset = usize::try_from(guest_address.wrapping_sub(self.guest_address)).ok()?;
        self.mapped.slice(offset, bytes)
    }
}
