//! The ring, mutated: it observes the other side's index without acquire order. The model must
//! catch it.

#[path = "../ring.rs"]
#[expect(clippy::duplicate_mod, reason = "the same source, mutated")]
pub(super) mod ring;

mod sync {
    pub(super) use loom::{
        cell::UnsafeCell,
        sync::atomic::{AtomicU32, Ordering},
    };

    pub(super) const PUBLISH: Ordering = Ordering::Release;
    pub(super) const OBSERVE: Ordering = Ordering::Relaxed;

    pub(super) use super::super::{read_slot, write_slot};
}
