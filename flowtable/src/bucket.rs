//! Buckets: one cache line of tags, indices and a version.
//!
//! ```text
//!  0            16                                48        52       56           64
//!  | 8 x 16 tag | 8 x 32-bit index of an entry    | version | strays | their tags |
//! ```
//!
//! Readers compare all tags at once and follow the indices of those that match. Writers hold the
//! lock, which is the version's lowest bit; the version changes whenever a key moved or went, so
//! that a reader who missed can tell. Strays are keys whose first bucket this is, and that lie in
//! their second one: counted, and for each a bit that its tag names. A reader whose tag's bit is
//! not there need not look at the second bucket. Bits go when the last stray does.

use crate::{
    ordering,
    region::Section,
    sync::{Acquire, AtomicU32, AtomicU64, Relaxed, Release, spin_loop},
    tags,
};

/// Slots in a bucket: as many tags and indices as fill a cache line together with the version.
pub(crate) const SLOTS: u32 = 8;

/// How often a writer looks at a bucket that another one holds before it gives up: about 4
/// microseconds.
///
/// A holder is done in some hundred nanoseconds unless it was descheduled; waiting longer would be
/// waiting for it.
const SPINS_MAX: u32 = if cfg!(loom) { 2 } else { 256 };

const LOCKED: u32 = 1;

/// What a free slot holds in place of an index: no entry lies there. A reader that sees a new tag
/// before its index is led nowhere, not to an entry that it has not been shown.
pub(crate) const NO_ENTRY: u32 = u32::MAX;

/// Eight slots, each a tag and the index of an entry, or free.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Bucket {
    tags: [AtomicU64; 2],
    indices: [AtomicU32; 8],
    version: AtomicU32,
    strays: AtomicU32,
    stray_tags: AtomicU64,
}

const _: () = assert!(size_of::<Bucket>() == 64 || cfg!(loom));

impl Bucket {
    /// The slots whose tag is `tag`, as a mask: bit 0 is slot 0. With tag zero: the free slots.
    #[inline]
    pub(crate) fn matching(&self, tag: u16) -> u32 {
        let [low, high] = &self.tags;
        // Relaxed: the index that belongs to a tag is loaded with acquire, and a tag without it
        // leads nowhere.
        tags::matching(low.load(Relaxed), high.load(Relaxed), tag)
    }

    /// The entry that a slot leads to. Whoever got it from here sees the entry's words (claim 1).
    #[inline]
    pub(crate) fn index(&self, slot: u32) -> u32 {
        let [first, ..] = &self.indices;
        self.indices.get(slot as usize % self.indices.len()).unwrap_or(first).load(Acquire)
    }

    /// A free slot. The caller holds the lock.
    pub(crate) fn free_slot(&self) -> Option<u32> {
        slots(self.matching(0)).next()
    }

    /// Fills a slot. The caller holds the lock.
    pub(crate) fn fill(&self, slot: u32, tag: u16, index: u32) {
        self.set_index(slot, index);
        self.set_tag(slot, tag);
    }

    /// Frees a slot. The caller holds the lock.
    pub(crate) fn clear(&self, slot: u32) {
        self.set_tag(slot, 0);
        self.set_index(slot, NO_ENTRY);
    }

    /// Makes a slot lead to another entry of the same key. The caller holds the lock.
    pub(crate) fn set_index(&self, slot: u32, entry: u32) {
        if let Some(index) = self.indices.get(slot as usize) {
            index.store(entry, ordering::publish_index());
        }
    }

    /// The version: odd while somebody holds the lock.
    #[inline]
    pub(crate) fn version(&self) -> u32 {
        self.version.load(Acquire)
    }

    /// Whether a key with this tag whose first bucket this is may lie in its second one.
    #[inline]
    pub(crate) fn may_have_stray(&self, tag: u16) -> bool {
        self.stray_tags.load(Relaxed) & stray_bit(tag) != 0
    }

    /// Notes that a key with this tag lies in its second bucket. The caller holds the locks of both.
    pub(crate) fn add_stray(&self, tag: u16) {
        self.strays.store(self.strays.load(Relaxed).wrapping_add(1), Relaxed);
        self.set_stray_tags(self.stray_tags.load(Relaxed) | stray_bit(tag));
    }

    /// Notes that one key fewer lies in its second bucket. The caller holds the locks of both.
    pub(crate) fn remove_stray(&self) {
        let strays = self.strays.load(Relaxed).wrapping_sub(1);
        self.strays.store(strays, Relaxed);
        if strays == 0 {
            self.set_stray_tags(0);
        }
    }

    /// Unlocks and empties a bucket, when a region is rebuilt.
    pub(crate) fn reset(&self) {
        for tags in &self.tags {
            tags.store(0, Relaxed);
        }
        for index in &self.indices {
            index.store(NO_ENTRY, Relaxed);
        }
        self.version.store(0, Relaxed);
        self.strays.store(0, Relaxed);
        self.stray_tags.store(0, Relaxed);
    }

    /// Takes the lock if it is free; returns the version to unlock with.
    pub(crate) fn try_lock(&self) -> Option<u32> {
        let version = self.version.fetch_or(LOCKED, ordering::lock_bucket());
        (version & LOCKED == 0).then_some(version)
    }

    /// Gives the lock back under a new version. The caller holds the lock, and got `version` with
    /// it.
    pub(crate) fn unlock(&self, version: u32) {
        self.version.store(version.wrapping_add(2), ordering::unlock_bucket());
    }

    fn lock(&self) -> Option<u32> {
        for _ in 0..SPINS_MAX {
            if let Some(version) = self.try_lock() {
                return Some(version);
            }
            spin_loop();
        }
        None
    }

    fn set_stray_tags(&self, bits: u64) {
        self.stray_tags.store(bits, ordering::publish_strays());
    }

    fn set_tag(&self, slot: u32, tag: u16) {
        let shift = (slot & 3).wrapping_mul(16);
        if let Some(tags) = self.tags.get((slot >> 2) as usize) {
            // Only the lock's holder writes, so load and store need not be one step.
            let others = tags.load(Relaxed) & !(0xffff << shift);
            // Release: a reader that sees a slot emptied by a move also sees the version made odd
            // before (claim 7).
            tags.store(others | (u64::from(tag) << shift), Release);
        }
    }
}

/// The bit that stands for a stray with this tag.
#[inline]
fn stray_bit(tag: u16) -> u64 {
    1 << (tag % 64)
}

/// The locks of up to four buckets, taken in ascending order so that two holders cannot wait for
/// each other.
pub(crate) struct LockedBuckets<'a> {
    buckets: &'a Section<Bucket>,
    /// Number of each bucket held, and the version to unlock it with.
    held: [(u32, u32); 4],
    count: usize,
}

impl<'a> LockedBuckets<'a> {
    /// Takes the locks of four buckets, some of which may be the same; `None` if one could not be
    /// had soon.
    pub(crate) fn lock(buckets: &'a Section<Bucket>, numbers: [u32; 4]) -> Option<Self> {
        let mut locked = Self { buckets, held: [(0, 0); 4], count: 0 };
        let mut previous = None;
        for number in ascending(numbers) {
            if previous != Some(number) {
                // Giving up drops `locked`, which gives back what it has.
                let version = buckets.at(number)?.lock()?;
                *locked.held.get_mut(locked.count)? = (number, version);
                locked.count = locked.count.wrapping_add(1);
                previous = Some(number);
            }
        }
        Some(locked)
    }

    /// Whether this bucket is among those held.
    pub(crate) fn holds(&self, bucket: u32) -> bool {
        self.held.iter().take(self.count).any(|&(number, _)| number == bucket)
    }
}

impl Drop for LockedBuckets<'_> {
    fn drop(&mut self) {
        for &(number, version) in self.held.iter().take(self.count) {
            if let Some(bucket) = self.buckets.at(number) {
                bucket.unlock(version);
            }
        }
    }
}

/// Four numbers in ascending order: by comparing pairs, then the lesser and the greater ones, then
/// what is left in the middle.
fn ascending([a, b, c, d]: [u32; 4]) -> [u32; 4] {
    let ((a, b), (c, d)) = ((a.min(b), a.max(b)), (c.min(d), c.max(d)));
    let ((a, c), (b, d)) = ((a.min(c), a.max(c)), (b.min(d), b.max(d)));
    [a, b.min(c), b.max(c), d]
}

/// The numbers of the bits set in a mask of slots.
#[inline]
pub(crate) fn slots(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let slot = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (slot < SLOTS).then_some(slot)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_filled_slot_is_found_by_its_tag_and_a_cleared_one_is_free() {
        let bucket = Bucket::default();
        assert_eq!(bucket.matching(0), 0xff);
        for slot in 0..SLOTS {
            bucket.fill(slot, 7, slot + 100);
        }
        assert_eq!((bucket.matching(7), bucket.free_slot()), (0xff, None));
        bucket.clear(5);
        assert_eq!((bucket.matching(7), bucket.free_slot()), (0xdf, Some(5)));
        assert_eq!(slots(bucket.matching(7)).map(|s| bucket.index(s)).sum::<u32>(), 723);
    }

    #[test]
    fn four_numbers_are_put_in_order() {
        for code in 0..256u32 {
            let numbers = [0, 2, 4, 6].map(|shift| (code >> shift) & 3);
            let mut sorted = numbers;
            sorted.sort_unstable();
            assert_eq!(ascending(numbers), sorted);
        }
    }

    #[test]
    fn strays_are_known_by_their_tags_until_the_last_one_is_gone() {
        let bucket = Bucket::default();
        assert!(!bucket.may_have_stray(7));
        bucket.add_stray(7);
        bucket.add_stray(66);
        assert!([7, 66, 2].iter().all(|&tag| bucket.may_have_stray(tag)));
        assert!(!bucket.may_have_stray(3));
        bucket.remove_stray();
        assert!(bucket.may_have_stray(7) && bucket.may_have_stray(66));
        bucket.remove_stray();
        assert!(!bucket.may_have_stray(7) && !bucket.may_have_stray(66));
    }
}
