//! Slots of a bounded table: who has which, and how often each changed users.

use std::collections::VecDeque;

/// Hands out the slots of a table of `limit`. A freed slot is the last to be used again.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    limit: usize,
    /// By slot: raised when it is freed.
    generations: Vec<u16>,
    free: VecDeque<usize>,
}

impl Slots {
    /// All slots are free but the first `reserved`.
    pub(super) fn new(limit: usize, reserved: usize) -> Self {
        Self { limit, generations: vec![0; reserved], free: VecDeque::new() }
    }

    /// Takes a slot: its index and generation. `None` if all are taken.
    pub(super) fn take(&mut self) -> Option<(usize, u16)> {
        let index = if self.generations.len() < self.limit {
            self.generations.push(0);
            self.generations.len() - 1
        } else {
            self.free.pop_front()?
        };
        Some((index, self.generation(index)))
    }

    /// Frees a slot.
    pub(super) fn free(&mut self, index: usize) {
        if let Some(generation) = self.generations.get_mut(index) {
            *generation = generation.wrapping_add(1);
            self.free.push_back(index);
        }
    }

    /// One more than the highest slot that was ever taken.
    pub(super) fn count(&self) -> usize {
        self.generations.len()
    }

    /// The generation of a slot's present or next user.
    pub(super) fn generation(&self, index: usize) -> u16 {
        self.generations.get(index).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn a_slot_is_reused_last_and_with_another_generation() {
        let mut slots = Slots::new(3, 1);
        assert_eq!(slots.take(), Some((1, 0)));
        slots.free(1);
        assert_eq!(slots.take(), Some((2, 0)));
        assert_eq!(slots.take(), Some((1, 1)));
        assert_eq!(slots.take(), None);
    }
}
