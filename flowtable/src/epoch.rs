//! Epochs: when what was unlinked may be reused.
//!
//! Each worker announces the global epoch at its quiescent points, or that it is offline. The epoch
//! advances when all workers online have announced it. What is retired in epoch `e` is unreachable
//! for every worker that announced `e + 1` or later, and the epoch can be `e + 2` only when all
//! have: then it is reused (claim 3).

use crate::{
    ordering,
    sync::{AcqRel, Acquire, AtomicU32, AtomicU64, Relaxed, Release, SeqCst, fence},
};

/// Workers a table can have, readers on behalf of operators included. Nodes have at most 256
/// threads, few of them ours.
pub(crate) const PARTICIPANTS_MAX: usize = if cfg!(loom) { 3 } else { 65 };

/// The participant that reads on behalf of operators; workers come after it.
pub(crate) const OPERATOR: usize = 0;

const OFFLINE: u64 = 0;

/// One worker's announcement. The worker writes; whoever advances the epoch reads.
#[derive(Debug, Default)]
#[repr(align(64))] // A line of its own: it is written in every poll.
struct Announcement {
    epoch: AtomicU64,
    taken: AtomicU32,
}

/// The global epoch and everybody's announcement.
#[derive(Debug)]
pub(crate) struct Epochs {
    global: AtomicU64,
    /// One past the highest participant that ever joined: those beyond need not be looked at.
    joined: AtomicU32,
    announcements: Box<[Announcement]>,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        let announcements = (0..PARTICIPANTS_MAX).map(|_| Announcement::default()).collect();
        Self { global: AtomicU64::new(1), joined: AtomicU32::new(0), announcements }
    }

    /// Takes a participant's place; `false` if there is none with this number, or it is taken.
    pub(crate) fn join(&self, participant: usize) -> bool {
        let Some(place) = self.announcements.get(participant) else { return false };
        let count = u32::try_from(participant).unwrap_or(u32::MAX).saturating_add(1);
        // Before the first announcement: who frees after that must look at this place.
        self.joined.fetch_max(count, AcqRel);
        place.taken.compare_exchange(0, 1, AcqRel, Relaxed).is_ok()
    }

    /// Leaves a participant's place.
    pub(crate) fn leave(&self, participant: usize) {
        self.offline(participant);
        if let Some(place) = self.announcements.get(participant) {
            place.taken.store(0, Release);
        }
    }

    /// A quiescent point: the participant holds no reference from before. Also brings it online.
    pub(crate) fn quiesce(&self, participant: usize) {
        let Some(place) = self.announcements.get(participant) else { return };
        let global = self.global.load(Acquire);
        if place.epoch.load(Relaxed) == global {
            // Announced already: nobody waits for more, and the fence would hold up the next burst.
            return;
        }
        place.epoch.store(global, Release); // What was found before is not read after.
        if ordering::fence_online() {
            // Either whoever frees sees this announcement, or what it unlinked before is not found
            // from here on.
            fence(SeqCst);
        }
    }

    /// The participant holds no reference and will look nothing up before its next quiescent point.
    pub(crate) fn offline(&self, participant: usize) {
        if let Some(place) = self.announcements.get(participant) {
            place.epoch.store(OFFLINE, Release);
        }
    }

    /// The epoch in which something is retired that has just been unlinked.
    pub(crate) fn retire(&self) -> u64 {
        fence(SeqCst);
        self.global.load(Relaxed)
    }

    /// Advances the epoch if everybody online has announced it; returns the epoch.
    pub(crate) fn advance(&self) -> u64 {
        let global = self.global.load(Relaxed);
        fence(SeqCst);
        let joined = self.joined.load(Acquire) as usize;
        for place in self.announcements.iter().take(joined) {
            let announced = place.epoch.load(Acquire);
            if announced != OFFLINE && announced != global {
                return global;
            }
        }
        match self.global.compare_exchange(global, global.wrapping_add(1), AcqRel, Acquire) {
            Ok(_) => global.wrapping_add(1),
            Err(newer) => newer,
        }
    }

    /// Whether what was retired in epoch `retired` may be reused in epoch `global`.
    pub(crate) fn has_passed(retired: u64, global: u64) -> bool {
        global.wrapping_sub(retired) >= ordering::grace_epochs()
    }
}
