//! The sleep flag with its fences taken out: the mutation that the model must catch.

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering};

    pub(super) fn fence(_: Ordering) {}
}

#[path = "../sleep_flag.rs"]
#[expect(clippy::duplicate_mod, reason = "the same source, mutated")]
pub(super) mod sleep_flag;
