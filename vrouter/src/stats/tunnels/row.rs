//! One tunnel's counters, and how a slot's next user takes them over from the former one.
//!
//! ```text
//! worker, on the first count of another user     reader
//! user = 0                                       user is the one that is asked for? (acquire)
//! release fence                                  read the counters
//! counters = 0                                   acquire fence
//! user = next (release)                          user is still the same?
//! ```
//!
//! Two claims, which `loom_model.rs` checks: who sees `next` sees its zeros, or what it counted
//! since; and who read something of `next` while asking for the former user sees that it is gone.

use super::{
    TunnelTotals,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

/// Packets and bytes of one tunnel. The worker writes; the main thread reads.
#[derive(Debug, Default)]
#[repr(align(64))] // One cache line a tunnel.
pub(super) struct TunnelCounters {
    /// Who is counted; 0 while it is nobody.
    user: AtomicU32,
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
}

impl TunnelCounters {
    /// The counters of `user`, at zero if somebody else was counted so far.
    pub(super) fn of(&self, user: u32) -> &Self {
        if self.user.load(Relaxed) != user {
            self.start_over(user);
        }
        self
    }

    /// Counts packets that came out of the tunnel.
    pub(super) fn rx(&self, packets: u64, bytes: u64) {
        add(&self.rx_packets, packets);
        add(&self.rx_bytes, bytes);
    }

    /// Counts packets that were put into the tunnel.
    pub(super) fn tx(&self, packets: u64, bytes: u64) {
        add(&self.tx_packets, packets);
        add(&self.tx_bytes, bytes);
    }

    /// What was counted of `user`; `None` if somebody else is counted now.
    pub(super) fn totals(&self, user: u32) -> Option<TunnelTotals> {
        if self.user.load(Acquire) != user {
            return None;
        }
        let totals = TunnelTotals {
            rx_packets: self.rx_packets.load(Relaxed),
            rx_bytes: self.rx_bytes.load(Relaxed),
            tx_packets: self.tx_packets.load(Relaxed),
            tx_bytes: self.tx_bytes.load(Relaxed),
        };
        fence(Acquire);
        (self.user.load(Relaxed) == user).then_some(totals)
    }

    #[cold]
    fn start_over(&self, user: u32) {
        self.user.store(0, Relaxed);
        // Before the zeros: who reads one of them finds that the former user is gone.
        fence(Release);
        for counter in [&self.rx_packets, &self.rx_bytes, &self.tx_packets, &self.tx_bytes] {
            counter.store(0, Relaxed);
        }
        // After the zeros: who finds this user reads nothing of the former one.
        self.user.store(user, Release);
    }
}

/// One thread writes, so nothing is lost between load and store.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(more), Relaxed);
}
