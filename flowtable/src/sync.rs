//! The only door to atomics in this crate: std's, or loom's when its tests explore all
//! interleavings.

/// For counters, which no claim rests on: loom need not explore them.
pub(crate) use std::sync::atomic::AtomicU64 as CounterU64;

/// Shared ownership needs no exploring, and loom's own `Arc` cannot be a method's receiver.
pub(crate) use std::sync::Arc;

#[cfg(not(loom))]
pub(crate) use std::{
    hint::spin_loop,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
};

#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::{
        Mutex,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{self, AcqRel, Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
};
#[cfg(loom)]
pub(crate) use std::sync::PoisonError;
