//! The agreement between one who may sleep and those who push work for it into rings.
//!
//! The sleeper raises the flag, then looks into the rings a last time; the others push, then look
//! at the flag. A sequentially consistent fence between the two steps on either side rules out that
//! both miss each other.

use super::atomic::{
    AtomicBool,
    Ordering::{Relaxed, SeqCst},
    fence,
};

/// Raised while its owner sleeps, or is about to. The owner and all who wake it write it.
#[derive(Debug)]
pub(crate) struct SleepFlag(AtomicBool);

impl SleepFlag {
    /// A flag that is down.
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The owner is about to sleep: it looks for work after this, and sleeps only if there is none.
    pub(crate) fn raise(&self) {
        self.0.store(true, Relaxed);
        // Pairs with the fence in `take`.
        fence(SeqCst);
    }

    /// The owner is awake.
    pub(crate) fn lower(&self) {
        self.0.store(false, Relaxed);
    }

    /// Work was pushed before this: whether the caller is the one to wake the owner.
    pub(crate) fn take(&self) -> bool {
        // Pairs with the fence in `raise`: either the owner's last look sees the work, or this load
        // sees the flag.
        fence(SeqCst);
        self.0.load(Relaxed) && self.0.swap(false, Relaxed)
    }
}
