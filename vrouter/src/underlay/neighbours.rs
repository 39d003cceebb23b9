//! The next hops that the kernel keeps resolved for us.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    time::{Duration, Instant},
};

use super::{
    NeighbourKey,
    kernel::{Kernel, NeighbourEntry},
};

/// How long a next hop that no target uses any more stays managed: routes flap, nodes restart, and
/// whoever comes back finds its neighbour resolved.
pub(super) const NEIGHBOUR_UNUSED_MAX: Duration = Duration::from_secs(10);

/// Next hops, and what the kernel said about them last.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    entries: BTreeMap<NeighbourKey, NeighbourEntry>,
    /// Those that no target uses, and since when.
    unused: BTreeMap<NeighbourKey, Instant>,
    /// Who uses which has to be found out again.
    are_users_unknown: bool,
}

impl Neighbours {
    pub(super) fn iter(&self) -> impl Iterator<Item = (NeighbourKey, NeighbourEntry)> {
        self.entries.iter().map(|(key, entry)| (*key, *entry))
    }

    /// Knows a neighbour that the kernel was not asked about.
    #[cfg(test)]
    pub(super) fn know(&mut self, key: NeighbourKey, entry: NeighbourEntry) {
        self.entries.insert(key, entry);
    }

    /// Notes what the kernel says about a neighbour; whether it is one of ours, and different from
    /// before. The kernel speaks up each time that it finds a neighbour still there.
    pub(super) fn set(&mut self, key: NeighbourKey, entry: NeighbourEntry) -> bool {
        self.entries.get_mut(&key).is_some_and(|known| {
            let entry = entry.after(*known);
            mem::replace(known, entry) != entry
        })
    }

    /// The kernel has forgotten a neighbour; whether it was one of ours.
    pub(super) fn forget(&mut self, key: NeighbourKey) -> bool {
        self.unused.remove(&key);
        self.entries.remove(&key).is_some()
    }

    /// An interface is gone, and all neighbours on it.
    pub(super) fn lose_interface(&mut self, interface_index: u32) {
        self.entries.retain(|(index, _), _| *index != interface_index);
        self.unused.retain(|(index, _), _| *index != interface_index);
    }

    /// What the kernel knows about a next hop; from the first call on it keeps it resolved. The
    /// second is whether it is different from what was known, which then no event tells any more.
    pub(super) fn look_at(
        &mut self,
        kernel: &mut Kernel,
        key: NeighbourKey,
    ) -> io::Result<(NeighbourEntry, bool)> {
        let entry = match self.entries.get(&key) {
            Some(NeighbourEntry::Failed) => kernel.failed_neighbour(key)?,
            Some(entry) => return Ok((*entry, false)),
            None => kernel.manage_neighbour(key)?,
        };
        let known = self.entries.insert(key, entry);
        self.users_changed();
        Ok((entry, known.is_some_and(|known| known != entry)))
    }

    /// Makes a kernel that does not keep neighbours resolved by itself do so once more, and takes
    /// in what events missed.
    pub(super) fn remind(&mut self, kernel: &mut Kernel) -> io::Result<()> {
        for (key, entry) in &mut self.entries {
            *entry = kernel.remind_neighbour(*key)?.after(*entry);
        }
        Ok(())
    }

    /// Targets have other next hops than before.
    pub(super) fn users_changed(&mut self) {
        self.are_users_unknown = true;
    }

    /// When the next one is to be released.
    pub(super) fn next_release(&self) -> Option<Instant> {
        self.unused.values().map(|since| *since + NEIGHBOUR_UNUSED_MAX).min()
    }

    /// Stops managing next hops that have not been `used` for long enough.
    pub(super) fn release_unused(
        &mut self,
        kernel: &mut Kernel,
        used: impl FnOnce() -> BTreeSet<NeighbourKey>,
        now: Instant,
    ) {
        if self.are_users_unknown {
            self.are_users_unknown = false;
            let used = used();
            self.unused.retain(|key, _| !used.contains(key));
            for key in self.entries.keys().filter(|key| !used.contains(*key)) {
                self.unused.entry(*key).or_insert(now);
            }
        }
        let is_due = |since: &Instant| now >= *since + NEIGHBOUR_UNUSED_MAX;
        let due = self.unused.iter().filter(|(_, since)| is_due(since));
        let due: Vec<NeighbourKey> = due.map(|(key, _)| *key).collect();
        for key in due {
            self.unused.remove(&key);
            if let Some(entry) = self.entries.remove(&key) {
                kernel.release_neighbour(key, entry);
            }
        }
    }
}
