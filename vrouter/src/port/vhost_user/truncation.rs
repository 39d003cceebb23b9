//! A file that is cut under its mapping costs its own guest the memory, and nobody else anything.
//!
//! A frontend may shrink the file that it shared. The next access beyond its new end raises SIGBUS,
//! which would end the engine. Sealing the file is no way out: hugetlbfs files and memfds made
//! without `MFD_ALLOW_SEALING` cannot be sealed, and both are usual. So the signal's handler looks
//! up the address among the mappings of guests and puts empty private memory in place of the whole
//! mapping: the access goes on and reads zeros. The mapping is marked; its queues see the mark
//! ([`strikes`]) and stop. See `docs/design/0011-guest-memory.md`.
//!
//! # Safety boundary
//!
//! The handler runs on whichever thread touched the memory, between any two instructions. It calls
//! nothing but mmap, reads and writes nothing but atomics, and replaces only ranges that a
//! [`Watch`] names, which are mapped as long as the watch is. Any other SIGBUS goes to the handler
//! that was there before.
#![expect(unsafe_code, reason = "handles a signal")]

use std::{
    mem, ptr,
    sync::{
        OnceLock,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

/// Mappings of guest memory at most, of all ports: for each of 1024 ports eight, what a frontend
/// has without memory hot-plug.
pub(super) const WATCHES_MAX: usize = 8192;

/// A slot is free while `end` is 0, being filled or emptied while `start` is 0.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    is_struck: AtomicBool,
}

static SLOTS: [Slot; WATCHES_MAX] = [const {
    Slot { start: AtomicUsize::new(0), end: AtomicUsize::new(0), is_struck: AtomicBool::new(false) }
}; WATCHES_MAX];

/// Written by the handler, read by queues.
static STRIKES: AtomicUsize = AtomicUsize::new(0);

static PREVIOUS: OnceLock<Previous> = OnceLock::new();

/// How many mappings have lost their file since the start: when it changes, a queue looks whether
/// its own is among them.
#[must_use]
#[inline]
pub(super) fn strikes() -> usize {
    STRIKES.load(Acquire)
}

/// Names a mapping to the handler.
#[derive(Debug)]
pub(super) struct Watch(usize);

impl Watch {
    /// Watches over a mapping; `None` if there are too many.
    pub(super) fn new(start: usize, bytes: usize) -> Option<Self> {
        PREVIOUS.get_or_init(install);
        let end = start.checked_add(bytes)?;
        let slot = SLOTS
            .iter()
            .position(|slot| slot.end.compare_exchange(0, end, AcqRel, Relaxed).is_ok())?;
        SLOTS[slot].is_struck.store(false, Relaxed);
        SLOTS[slot].start.store(start, Release);
        Some(Self(slot))
    }

    /// Whether the mapping lost its file.
    pub(super) fn is_struck(&self) -> bool {
        SLOTS[self.0].is_struck.load(Acquire)
    }

    /// The mapping is about to go, and nobody touches it any more.
    pub(super) fn end(&self) {
        SLOTS[self.0].start.store(0, Release);
        SLOTS[self.0].end.store(0, Release);
    }
}

/// What to do about a signal that is not ours.
struct Previous(libc::sigaction);

fn install() -> Previous {
    // SAFETY: all zero is a valid sigaction: the default action, an empty mask, no flags.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut previous: libc::sigaction = unsafe { mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
    action.sa_sigaction = handler as usize;
    // On the thread's alternative stack, as the handler that reports stack overflows wants it.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: both point to sigactions of our own; the handler keeps to what a handler may do.
    unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) };
    Previous(previous)
}

extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo.
    let details = unsafe { &*info };
    // SAFETY: for SIGBUS it has an address.
    let address = unsafe { details.si_addr() }.addr();
    if !replace_mapping_at(address) {
        pass_on(signal, info, context);
    }
}

/// Puts empty memory where the mapping around `address` is; false if it is none of ours.
fn replace_mapping_at(address: usize) -> bool {
    for slot in &SLOTS {
        let start = slot.start.load(Acquire);
        let end = slot.end.load(Acquire);
        if start == 0 || !(start..end).contains(&address) {
            continue;
        }
        // SAFETY: the range is a mapping of ours, whose watch has not ended; whoever reads and
        // writes it does so by copies and atomics, which do not care what is mapped there.
        let mapped = unsafe {
            libc::mmap(
                ptr::without_provenance_mut(start),
                end - start,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return false;
        }
        slot.is_struck.store(true, Release);
        STRIKES.fetch_add(1, Release);
        return true;
    }
    false
}

/// Does what would have been done without us.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let default = || {
        // SAFETY: the default action; the instruction is tried again, and the process ends.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    };
    let Some(Previous(previous)) = PREVIOUS.get() else { return default() };
    let has_info = previous.sa_flags & libc::SA_SIGINFO != 0;
    if !has_info || previous.sa_sigaction == libc::SIG_DFL || previous.sa_sigaction == libc::SIG_IGN
    {
        return default();
    }
    // SAFETY: with SA_SIGINFO it is a function of this shape.
    let handler = unsafe {
        mem::transmute::<usize, extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void)>(
            previous.sa_sigaction,
        )
    };
    handler(signal, info, context);
}
