//! Where an engine that died left off in a packed ring, from the ring alone.
//!
//! No frontend can say: what QEMU sends after it lost a backend is where the ring began. But each
//! descriptor shows in which round it was last used (`VirtIO` 1.2 section 2.8.1): up to the
//! device's position in this round, behind it in the one before. So the position is where that
//! changes.
//!
//! Of a chain of several descriptors only the first shows it; a ring that holds such chains may be
//! misjudged, unless the frontend keeps notes ([`crate::port::vhost_user::inflight`]). Drivers
//! rarely make them: what does not fit one descriptor goes into an indirect table.

use super::{AVAIL, PackedIndex, USED};

/// Whether no descriptor was ever used: the driver has made the ring anew.
pub(super) fn is_fresh(size: u16, flags: impl Fn(u16) -> u16) -> bool {
    (0..size).all(|index| flags(index) & USED == 0)
}

/// Where the device goes on.
pub(super) fn find(size: u16, flags: impl Fn(u16) -> u16) -> PackedIndex {
    let round = |index| flags(index) & USED != 0;
    let first = round(0);
    match (1..size).find(|index| round(*index) != first) {
        Some(index) => PackedIndex { index, wrap: first },
        None => PackedIndex { index: 0, wrap: !first },
    }
}

/// The descriptor at `place` if the engine died before it could show that it has used it, though it
/// shows that of the next one: the driver waits for it.
pub(super) fn held_back(
    place: PackedIndex,
    size: u16,
    flags: impl Fn(u16) -> u16,
) -> Option<PackedIndex> {
    let PackedIndex { index, wrap } = place;
    let following = index.checked_add(1).filter(|following| *following < size)?;
    (turn(flags(index)) == (wrap, !wrap) && turn(flags(following)) == (wrap, wrap)).then_some(place)
}

/// Whether a descriptor was used in the round of `place`.
pub(super) fn is_used(place: PackedIndex, flags: u16) -> bool {
    turn(flags) == (place.wrap, place.wrap)
}

fn turn(flags: u16) -> (bool, bool) {
    (flags & AVAIL != 0, flags & USED != 0)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "of numbers up to eight")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u16 = 8;

    /// A driver and a device that only count.
    struct Model {
        flags: Vec<u16>,
        driver: PackedIndex,
        device: PackedIndex,
        available: u16,
    }

    fn next(PackedIndex { index, wrap }: PackedIndex) -> PackedIndex {
        if index + 1 < SIZE {
            PackedIndex { index: index + 1, wrap }
        } else {
            PackedIndex { index: 0, wrap: !wrap }
        }
    }

    impl Model {
        fn make_available(&mut self, count: u16) {
            // Those that were used are the driver's again.
            for _ in 0..count.min(SIZE - self.available) {
                let flags = if self.driver.wrap { AVAIL } else { USED };
                self.flags[usize::from(self.driver.index)] = flags;
                self.driver = next(self.driver);
                self.available += 1;
            }
        }

        fn use_some(&mut self, count: u16) {
            for _ in 0..count.min(self.available) {
                let flags = if self.device.wrap { AVAIL | USED } else { 0 };
                self.flags[usize::from(self.device.index)] = flags;
                self.device = next(self.device);
                self.available -= 1;
            }
        }
    }

    proptest! {
        #[test]
        fn the_ring_shows_where_its_device_stood(
            steps in prop::collection::vec((0..=SIZE, 0..=SIZE), 0..50),
        ) {
            let start = PackedIndex { index: 0, wrap: true };
            let flags = vec![0; usize::from(SIZE)];
            let mut model = Model { flags, driver: start, device: start, available: 0 };
            for (made, used) in steps {
                model.make_available(made);
                model.use_some(used);
                let flags = |index| model.flags[usize::from(index)];
                prop_assert_eq!(find(SIZE, flags), model.device);
                prop_assert_eq!(held_back(model.device, SIZE, flags), None);
                if is_fresh(SIZE, flags) {
                    prop_assert_eq!(model.device, start);
                }
            }
        }
    }

    #[test]
    fn a_descriptor_that_was_held_back_is_found() {
        let available = AVAIL;
        let used = AVAIL | USED;
        let flags = [used, available, used, used, available, 0, 0, 0];
        let flags = |index| flags[usize::from(index)];
        let place = find(SIZE, flags);
        assert_eq!(place, PackedIndex { index: 1, wrap: true });
        assert_eq!(held_back(place, SIZE, flags), Some(place));
        assert!(is_used(next(place), flags(2)) && !is_used(place, flags(4)));
    }
}
