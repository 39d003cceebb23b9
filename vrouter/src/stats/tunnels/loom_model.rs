//! A slot's change of users in all interleavings and memory orders that loom finds; and again with
//! each of its orderings weakened, which the model must catch.

#[path = "row.rs"]
#[expect(clippy::duplicate_mod, reason = "the same source over the atomics of loom")]
mod row;

use std::{
    cell::Cell,
    sync::{
        Arc as StdArc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use loom::{
    sync::{
        Arc,
        atomic::Ordering::{self, Acquire, Release},
    },
    thread,
};

use self::row::TunnelCounters;
use super::TunnelTotals;

/// Which ordering of the source is taken out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Weakened {
    /// The fence of this ordering.
    Fence(Ordering),
    /// The load or store of this ordering: relaxed instead.
    Access(Ordering),
}

thread_local! {
    /// Loom runs all threads of a model on the test's own.
    static WEAKENED: Cell<Option<Weakened>> = const { Cell::new(None) };
}

/// Loom's atomics, with the orderings that the source asks for unless they are weakened.
mod atomic {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

    use super::{WEAKENED, Weakened};

    #[derive(Debug, Default)]
    pub(super) struct AtomicU32(loom::sync::atomic::AtomicU32);

    impl AtomicU32 {
        pub(super) fn load(&self, ordering: Ordering) -> u32 {
            self.0.load(in_force(ordering))
        }

        pub(super) fn store(&self, value: u32, ordering: Ordering) {
            self.0.store(value, in_force(ordering));
        }
    }

    pub(super) fn fence(ordering: Ordering) {
        if WEAKENED.get() != Some(Weakened::Fence(ordering)) {
            loom::sync::atomic::fence(ordering);
        }
    }

    fn in_force(ordering: Ordering) -> Ordering {
        let is_weakened = WEAKENED.get() == Some(Weakened::Access(ordering));
        if is_weakened { Ordering::Relaxed } else { ordering }
    }
}

const FORMER: u32 = 1;
const NEXT: u32 = 2;
const FORMER_BYTES: u64 = 10;
const NEXT_BYTES: u64 = 7;

/// Whether a reader of `user` may see what is not that user's, while a slot goes from one to the
/// next.
fn mixes_users(user: u32, weakened: Option<Weakened>) -> bool {
    WEAKENED.set(weakened);
    let mixed = StdArc::new(AtomicBool::new(false));
    let found = StdArc::clone(&mixed);
    loom::model(move || {
        let row = Arc::new(TunnelCounters::default());
        row.of(FORMER).rx(1, FORMER_BYTES);
        row.of(FORMER).tx(1, FORMER_BYTES);
        let reader = {
            let row = Arc::clone(&row);
            thread::spawn(move || row.totals(user))
        };
        row.of(NEXT).rx(1, NEXT_BYTES);
        if !reader.join().unwrap().is_none_or(|totals| is_possible(user, totals)) {
            found.store(true, SeqCst);
        }
        let last = TunnelTotals { rx_packets: 1, rx_bytes: NEXT_BYTES, ..TunnelTotals::default() };
        assert_eq!(row.totals(NEXT), Some(last));
    });
    WEAKENED.set(None);
    mixed.load(SeqCst)
}

/// Whether a user had these counts at some time, or a mixture of its own.
fn is_possible(user: u32, totals: TunnelTotals) -> bool {
    let TunnelTotals { rx_packets, rx_bytes, tx_packets, tx_bytes } = totals;
    if user == FORMER {
        return (rx_packets, rx_bytes, tx_packets, tx_bytes) == (1, FORMER_BYTES, 1, FORMER_BYTES);
    }
    rx_packets <= 1 && [0, NEXT_BYTES].contains(&rx_bytes) && (tx_packets, tx_bytes) == (0, 0)
}

#[test]
fn no_reader_sees_one_users_counts_as_anothers() {
    assert!(!mixes_users(FORMER, None));
    assert!(!mixes_users(NEXT, None));
}

#[test]
fn without_either_fence_the_former_user_gets_the_next_ones_counts() {
    for ordering in [Release, Acquire] {
        assert!(mixes_users(FORMER, Some(Weakened::Fence(ordering))), "{ordering:?}");
    }
}

#[test]
fn without_release_or_acquire_the_next_user_gets_the_former_ones_counts() {
    for ordering in [Release, Acquire] {
        assert!(mixes_users(NEXT, Some(Weakened::Access(ordering))), "{ordering:?}");
    }
}
