//! What happened in the table, counted per worker.

use crate::sync::{CounterU64, Relaxed};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// How often things happened since the table was made, summed over all workers.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct TableCounters { $($(#[doc = $doc])+ pub $name: u64,)+ }

        /// One worker's counters. The worker writes; whoever reports reads.
        #[derive(Debug, Default)]
        #[repr(align(64))] // Cache lines of their own: no other worker writes here.
        pub(crate) struct WorkerCounters { $(pub(crate) $name: Counter,)+ }

        impl WorkerCounters {
            /// Adds this worker's counters to a sum.
            pub(crate) fn add_to(&self, sum: &mut TableCounters) {
                $(sum.$name = sum.$name.wrapping_add(self.$name.0.load(Relaxed));)+
            }
        }
    };
}

counters! {
    /// Lookups that found a current entry.
    hits,
    /// Of these, entries that were older than the configuration and none of whose scopes had been
    /// touched.
    restamped,
    /// Lookups that found an entry with a touched scope.
    stale,
    /// Lookups that found nothing.
    misses,
    /// Connections inserted.
    inserted,
    /// Inserts that found the connection already there, inserted by another worker or in the other
    /// direction.
    adopted,
    /// Inserts whose reply key belongs to another connection.
    reply_collisions,
    /// Inserts that found no room, nor anything to evict.
    full,
    /// Inserts, revalidations and removals given up because another worker held a bucket for too
    /// long.
    contended,
    /// Entries replaced after a change of configuration.
    revalidated,
    /// Connections that ended by idle timeout.
    expired,
    /// Connections removed by their user.
    removed,
    /// Connections on their way out that were evicted.
    evicted_closing,
    /// Connections without an answer that were evicted.
    evicted_half_open,
    /// Established connections that were evicted, the longest idle of those looked at.
    evicted_oldest,
    /// Packets found invalid by connection tracking.
    invalid,
    /// Fragments noted.
    fragments_inserted,
    /// Fragments found.
    fragments_found,
    /// Fragments looked up in vain.
    fragments_unknown,
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub(crate) struct Counter(CounterU64);

impl Counter {
    /// Adds `count`. A single writer needs no read-modify-write.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }
}
