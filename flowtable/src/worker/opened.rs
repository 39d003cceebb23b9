//! What a worker opened lately, in order: where connections without an answer are found when the
//! table is full.
//!
//! A flood of first packets fills a table faster than anything else. Its connections are the newest
//! of their worker, so that the next ones are found here without looking through a table of
//! established ones.

/// Connections that are remembered for each family: 64 KiB. At a million new connections a second,
/// a handshake has eight milliseconds; a table that is not full evicts nothing.
const OPENED_MAX: usize = if cfg!(loom) { 2 } else { 8192 };

/// A connection that was opened, as of then.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Opened {
    pub(super) connection: u32,
    /// The part of its generation that entries carry.
    pub(super) generation: u16,
}

/// The last connections of one family that a worker opened. What it forgets, for lack of room, is
/// the oldest.
#[derive(Debug)]
pub(super) struct OpenedRing {
    slots: Box<[Opened]>,
    /// Where the next one is noted.
    next: usize,
    len: usize,
}

impl OpenedRing {
    /// Room for as many as a table of so many connections needs.
    pub(super) fn new(connections_max: u32) -> Self {
        let len = (connections_max as usize).clamp(1, OPENED_MAX);
        Self { slots: vec![Opened::default(); len].into(), next: 0, len: 0 }
    }

    /// Notes the newest.
    pub(super) fn push(&mut self, opened: Opened) {
        if let Some(slot) = self.slots.get_mut(self.next) {
            *slot = opened;
        }
        self.next = self.next.saturating_add(1);
        if self.next >= self.slots.len() {
            self.next = 0;
        }
        self.len = self.len.saturating_add(1).min(self.slots.len());
    }

    /// Takes the oldest.
    pub(super) fn pop_oldest(&mut self) -> Option<Opened> {
        let oldest = self.newest(self.len.checked_sub(1)?);
        self.len = self.len.saturating_sub(1);
        oldest
    }

    /// One of the newest: 0 is the last that was noted.
    pub(super) fn newest(&self, back: usize) -> Option<Opened> {
        if back >= self.len {
            return None;
        }
        let behind = back.saturating_add(1);
        let at = match self.next.checked_sub(behind) {
            Some(at) => at,
            None => self.slots.len().checked_sub(behind.saturating_sub(self.next))?,
        };
        self.slots.get(at).copied()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_ring_is_a_queue_that_forgets_its_oldest(
            room in 1u32..6, steps in prop::collection::vec(any::<bool>(), 0..40)
        ) {
            let mut ring = OpenedRing::new(room);
            let mut model = VecDeque::new();
            for (connection, pushes) in (0..).zip(steps) {
                if pushes {
                    let opened = Opened { connection, generation: 1 };
                    ring.push(opened);
                    model.push_back(opened);
                    if model.len() > room as usize {
                        model.pop_front();
                    }
                } else {
                    prop_assert_eq!(ring.pop_oldest(), model.pop_front());
                }
                for back in 0..7 {
                    let expected = model.iter().rev().nth(back).copied();
                    prop_assert_eq!(ring.newest(back), expected);
                }
            }
        }
    }
}
