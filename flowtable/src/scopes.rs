//! Versions and scopes: what makes a compiled action stale.
//!
//! Every change of configuration has a version, and touches some scopes (a local endpoint, a remote
//! prefix, a policy set, a service). An action depends on up to four scopes; it is stale when one
//! of them was touched after the version it was compiled under. Nothing walks the table: entries
//! are judged when a packet finds them.

use crate::sync::{AtomicU32, Relaxed};

/// Scope slots: what 16 bits can name. Scopes beyond that share slots, which makes some entries
/// stale needlessly.
pub const SCOPE_SLOTS: usize = if cfg!(loom) { 8 } else { 1 << 16 };

/// Versions a touch may lie in the past before it is carried forward: half of what wrap-around
/// comparison can tell.
const TOUCH_AGE_MAX: u32 = 1 << 30;

/// Slots that each [`ScopeVersions::advance`] looks over, so that all are seen within 1,024
/// versions.
const SLOTS_PER_ADVANCE: u32 = 64;

/// Whether `version` is newer than `other`, as long as they are less than 2^31 apart.
#[must_use]
pub fn is_newer(version: u32, other: u32) -> bool {
    version.wrapping_sub(other).wrapping_sub(1) < u32::MAX / 2
}

/// A slot of [`ScopeVersions`]; zero stands for no scope and is never touched.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(transparent)]
pub struct ScopeId(pub u16);

impl ScopeId {
    /// No scope.
    pub const NONE: Self = Self(0);
}

/// The scopes a connection's actions depend on: up to four; the rest is [`ScopeId::NONE`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Scopes(pub [ScopeId; 4]);

impl Scopes {
    pub(crate) fn to_word(self) -> u64 {
        self.0.iter().fold(0, |word, scope| (word << 16) | u64::from(scope.0))
    }

    #[expect(clippy::cast_possible_truncation, reason = "takes 16 bits at a time")]
    pub(crate) fn from_word(word: u64) -> Self {
        Self([48, 32, 16, 0].map(|shift| ScopeId((word >> shift) as u16)))
    }
}

/// When each scope was last touched. The main thread writes; workers read.
#[derive(Debug)]
pub struct ScopeVersions(Box<[AtomicU32]>);

impl ScopeVersions {
    /// No scope touched after `version`.
    #[must_use]
    pub fn new(version: u32) -> Self {
        Self((0..SCOPE_SLOTS).map(|_| AtomicU32::new(version)).collect())
    }

    /// Notes that the change with this version touches `scope`.
    ///
    /// The main thread calls it before it publishes the snapshot of that version: the publication
    /// orders it before every lookup under that snapshot.
    pub fn touch(&self, scope: ScopeId, version: u32) {
        if scope != ScopeId::NONE
            && let Some(slot) = self.slot(scope)
        {
            slot.store(version, Relaxed);
        }
    }

    /// Whether `scope` was touched by a change after `version`.
    #[must_use]
    #[inline]
    pub fn touched_since(&self, scope: ScopeId, version: u32) -> bool {
        scope != ScopeId::NONE
            && self.slot(scope).is_some_and(|slot| is_newer(slot.load(Relaxed), version))
    }

    /// Keeps touches of long ago in the past when versions wrap. The main thread calls it once for
    /// every version.
    pub fn advance(&self, version: u32) {
        let slots = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        let first = version.wrapping_mul(SLOTS_PER_ADVANCE);
        for i in 0..SLOTS_PER_ADVANCE {
            let slot = first.wrapping_add(i).checked_rem(slots).unwrap_or(0);
            if let Some(slot) = self.0.get(slot as usize) {
                let touched = slot.load(Relaxed);
                if version.wrapping_sub(touched) > TOUCH_AGE_MAX {
                    slot.store(version.wrapping_sub(TOUCH_AGE_MAX), Relaxed);
                }
            }
        }
    }

    #[inline]
    fn slot(&self, scope: ScopeId) -> Option<&AtomicU32> {
        self.0.get(usize::from(scope.0))
    }
}

/// The configuration a worker looks up under: its snapshot's version, and when scopes were touched.
#[derive(Clone, Copy, Debug)]
pub struct ConfigView<'a> {
    /// The snapshot's version.
    pub version: u32,
    /// When scopes were last touched.
    pub scopes: &'a ScopeVersions,
}

impl ConfigView<'_> {
    /// Whether something that `scopes` name was touched after `version`.
    #[inline]
    pub(crate) fn touched_since(&self, scopes: Scopes, version: u32) -> bool {
        scopes.0.iter().any(|&scope| self.scopes.touched_since(scope, version))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_across_the_wrap() {
        assert!(is_newer(1, 0) && !is_newer(0, 0) && !is_newer(0, 1));
        assert!(is_newer(3, u32::MAX - 3) && !is_newer(u32::MAX - 3, 3));
    }

    #[test]
    fn a_touch_counts_for_older_versions_only() {
        let scopes = ScopeVersions::new(4);
        scopes.touch(ScopeId(9), 7);
        assert!(scopes.touched_since(ScopeId(9), 6));
        assert!(!scopes.touched_since(ScopeId(9), 7));
        assert!(!scopes.touched_since(ScopeId(8), 4));
        scopes.touch(ScopeId::NONE, 9);
        assert!(!scopes.touched_since(ScopeId::NONE, 0));
    }

    #[test]
    fn a_touch_of_long_ago_stays_in_the_past_when_versions_wrap() {
        let scopes = ScopeVersions::new(0);
        scopes.touch(ScopeId(9), 7);
        let mut version = 7u32;
        for _ in 0..9 {
            version = version.wrapping_add(1 << 29);
            for step in 0..1024 {
                scopes.advance(version.wrapping_add(step));
            }
            assert!(!scopes.touched_since(ScopeId(9), version), "at version {version}");
        }
    }
}
