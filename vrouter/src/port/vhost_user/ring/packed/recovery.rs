//! Where an engine that died left off in a packed ring, from the ring alone.
//!
//! No frontend can say: what QEMU sends after it lost a backend is where the ring began. But each
//! descriptor shows in which round it was last used (`VirtIO` 1.2 section 2.8.1): up to the
//! device's position in this round, behind it in the one before. So the position is where that
//! changes.
//!
//! Of a chain of several descriptors a driver is shown the first alone. This device shows the round
//! in the others, too, so that there is no gap; a ring that another one left with such chains may
//! be misjudged, unless the frontend keeps notes ([`crate::port::vhost_user::inflight`]).
//!
//! A burst is shown all at once, by the word of its first descriptor. Until then that one looks
//! available, and carries a mark of the device's own: it is done. Another mark is on a chain of
//! several while its other descriptors are marked; one that was left like that is done again,
//! whole.

use super::{AVAIL, BEGUN, DONE, PackedIndex, USED};

/// Whether no descriptor was ever used: the driver has made the ring anew.
///
/// Where one is marked, the others may look like that after a whole second round.
pub(super) fn is_fresh(size: u16, flags: impl Fn(u16) -> u16) -> bool {
    (0..size).all(|index| flags(index) & (USED | DONE | BEGUN) == 0)
}

/// Where the device goes on: at what is done and not shown, or was begun, if there is such a chain.
pub(super) fn find(size: u16, flags: impl Fn(u16) -> u16) -> PackedIndex {
    let marked = |mark: u16| {
        let places = (0..size).map(|index| PackedIndex { index, wrap: flags(index) & AVAIL != 0 });
        places.into_iter().find(|place| is_marked(*place, flags(place.index), mark))
    };
    if let Some(place) = marked(DONE).or_else(|| marked(BEGUN)) {
        return place;
    }
    let round = |index| flags(index) & USED != 0;
    let first = round(0);
    match (1..size).find(|index| round(*index) != first) {
        Some(index) => PackedIndex { index, wrap: first },
        None => PackedIndex { index: 0, wrap: !first },
    }
}

/// Whether the descriptor at `place` is done, and the driver still waits for it.
pub(super) fn is_done(place: PackedIndex, flags: u16) -> bool {
    is_marked(place, flags, DONE)
}

fn is_marked(PackedIndex { wrap, .. }: PackedIndex, flags: u16, mark: u16) -> bool {
    flags & mark != 0 && turn(flags) == (wrap, !wrap)
}

/// Whether a descriptor was used in the round of `place`, and the driver has not taken it yet.
pub(super) fn is_used(place: PackedIndex, flags: u16) -> bool {
    turn(flags) == (place.wrap, place.wrap)
}

/// Whether a descriptor was used in the round of `place`; the driver may have made it available
/// again.
pub(super) fn was_used(place: PackedIndex, flags: u16) -> bool {
    (flags & USED != 0) == place.wrap
}

fn turn(flags: u16) -> (bool, bool) {
    (flags & AVAIL != 0, flags & USED != 0)
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "of numbers up to eight")]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const SIZE: u16 = 8;
    const START: PackedIndex = PackedIndex { index: 0, wrap: true };

    /// A driver and a device that only count.
    struct Model {
        flags: Vec<u16>,
        driver: PackedIndex,
        device: PackedIndex,
        /// The lengths of chains that are available.
        available: VecDeque<u16>,
    }

    /// The place behind this one.
    fn after(PackedIndex { index, wrap }: PackedIndex) -> PackedIndex {
        if index + 1 < SIZE {
            PackedIndex { index: index + 1, wrap }
        } else {
            PackedIndex { index: 0, wrap: !wrap }
        }
    }

    fn flags_of(has_avail: bool, has_used: bool) -> u16 {
        let bit = |wanted, bit| if wanted { bit } else { 0 };
        bit(has_avail, AVAIL) | bit(has_used, USED)
    }

    impl Model {
        fn new() -> Self {
            let flags = vec![0; usize::from(SIZE)];
            Self { flags, driver: START, device: START, available: VecDeque::new() }
        }

        fn flags(&self) -> impl Fn(u16) -> u16 {
            |index| self.flags[usize::from(index)]
        }

        /// Those that were used are the driver's again.
        fn make_available(&mut self, slots: u16) {
            if self.available.iter().sum::<u16>() + slots > SIZE {
                return;
            }
            for _ in 0..slots {
                let PackedIndex { index, wrap } = self.driver;
                self.flags[usize::from(index)] = flags_of(wrap, !wrap);
                self.driver = after(self.driver);
            }
            self.available.push_back(slots);
        }

        /// What the device writes for the next `count` chains, one word after the other.
        fn writes(&self, count: usize) -> Vec<(u16, u16)> {
            let mut writes = Vec::new();
            let mut place = self.device;
            let used = |wrap| flags_of(wrap, wrap);
            for (chain, slots) in self.available.iter().take(count).enumerate() {
                let PackedIndex { index, wrap } = place;
                let available = flags_of(wrap, !wrap);
                if *slots > 1 {
                    writes.push((index, available | BEGUN));
                }
                for _ in 1..*slots {
                    place = after(place);
                    writes.push((place.index, used(place.wrap)));
                }
                writes.push((index, if chain == 0 { available | DONE } else { used(wrap) }));
                place = after(place);
            }
            if !writes.is_empty() {
                writes.push((self.device.index, used(self.device.wrap)));
            }
            writes
        }

        fn use_some(&mut self, count: usize) {
            for (index, flags) in self.writes(count) {
                self.flags[usize::from(index)] = flags;
            }
            for slots in self.available.drain(..count.min(self.available.len())) {
                (0..slots).for_each(|_| self.device = after(self.device));
            }
        }

        /// What a successor does; where it goes on.
        fn resume(&mut self) -> PackedIndex {
            let is_fresh = is_fresh(SIZE, self.flags());
            let mut place = if is_fresh { START } else { find(SIZE, self.flags()) };
            for _ in 0..SIZE {
                let flags = &mut self.flags[usize::from(place.index)];
                if is_done(place, *flags) {
                    *flags = flags_of(place.wrap, place.wrap);
                } else if !is_used(place, *flags) {
                    break;
                }
                place = after(place);
            }
            place
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(Vec<u16>, usize)>> {
        prop::collection::vec((prop::collection::vec(1..=3_u16, 0..5), 0..=8_usize), 0..50)
    }

    fn after_steps(steps: Vec<(Vec<u16>, usize)>) -> Model {
        let mut model = Model::new();
        for (made, used) in steps {
            for slots in made {
                model.make_available(slots);
            }
            model.use_some(used);
        }
        model
    }

    #[test]
    fn a_burst_of_a_whole_round_that_was_not_shown_is_no_fresh_ring() {
        let mut model = Model::new();
        // The last place of the first round, and all of the second one before it.
        (0..SIZE - 1).for_each(|_| model.make_available(1));
        model.use_some(usize::from(SIZE) - 1);
        (0..SIZE).for_each(|_| model.make_available(1));
        let mut writes = model.writes(usize::from(SIZE));
        writes.pop().expect("the one that shows them");
        for (index, flags) in writes {
            model.flags[usize::from(index)] = flags;
        }
        assert!((0..SIZE).all(|index| model.flags[usize::from(index)] & USED == 0));
        assert_eq!(model.resume(), PackedIndex { index: SIZE - 1, wrap: false });
    }

    proptest! {
        #[test]
        fn the_ring_shows_where_its_device_stood(steps in steps()) {
            let mut model = after_steps(steps);
            prop_assert_eq!(model.resume(), model.device);
            if is_fresh(SIZE, model.flags()) {
                prop_assert_eq!(model.device, START);
            }
        }

        #[test]
        fn whenever_it_died_its_successor_shows_what_was_done_and_does_the_rest(
            steps in steps(),
            last in prop::collection::vec(1..=3_u16, 1..9),
            used in 1..=8_usize,
        ) {
            let mut model = after_steps(steps);
            for slots in last {
                model.make_available(slots);
            }
            let before = model.device;
            let mut ends = vec![before];
            for slots in &model.available {
                let last = ends[ends.len() - 1];
                ends.push((0..*slots).fold(last, |place, _| after(place)));
            }
            let (writes, alive) = (model.writes(used), model.flags.clone());
            for died_after in 0..=writes.len() {
                model.flags.clone_from(&alive);
                for (index, flags) in &writes[..died_after] {
                    model.flags[usize::from(*index)] = *flags;
                }
                let successor = model.resume();
                let at = ends.iter().position(|end| *end == successor);
                prop_assert!(at.is_some_and(|at| at <= used), "{successor:?} in {ends:?}");
                prop_assert!(died_after < writes.len() || at == Some(used.min(ends.len() - 1)));
                // What it passed is shown to the driver, and nothing else.
                let mut place = before;
                while place != successor {
                    prop_assert!(is_used(place, model.flags[usize::from(place.index)]));
                    place = after(place);
                }
                let next = model.flags[usize::from(successor.index)];
                prop_assert!(!is_used(successor, next));
            }
        }
    }
}
