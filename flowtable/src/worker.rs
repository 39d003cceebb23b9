//! One worker's access to the table.
//!
//! A worker owns a stock of free indices, what it has retired and may not be reused yet, its
//! counters and its place in the epochs; all else is shared. A [`FlowRef`] means something until
//! the worker's next quiescent point. After its connection ended it leads nowhere: its generation
//! tells. Kept beyond that point, it may lead to actions of its connection that were never in
//! force.

mod change;
mod expire;
mod fragment;
mod hold;
mod insert;
mod lookup;
mod opened;

use std::{collections::VecDeque, marker::PhantomData, mem};

pub use change::{Removal, Revalidation};
pub use expire::{EvictionCounts, ExpiryCounts};
pub use hold::Held;
pub use insert::{InsertOutcome, NewConnection};
pub use lookup::{Lookup, Recorded};

use self::opened::{Opened, OpenedRing};

use crate::{
    counters::WorkerCounters,
    entry::{Direction, EntryIndex, Owner},
    epoch::Epochs,
    facts::{PacketFacts, Ticks},
    fragments::FragmentKey,
    free_list::FreeCache,
    hash::FlowHash,
    key::{Family, FlowKey},
    scopes::{ConfigView, Scopes},
    store::Store,
    sync::{Arc, PoisonError},
    table::{Action, from_words, to_words},
};

/// Indices a worker can have retired at once: sixteen polls that replace or remove both of a
/// connection's indices for each packet of a burst, and more than twice the spare ones of a table,
/// so that those run out first.
const RETIRED_MAX: usize = 4096;

/// Indices that one quiescent point frees at most: two bursts' worth and more, to catch up after a
/// busy poll.
const RECLAIMS_MAX: usize = 256;

/// Whose cache lines are asked for when an index is taken: those that so many takes later will
/// need. An insert and a cache miss take about as long. Found by experiment: among a million flows
/// a pair takes 177 ns with 2, and 157 ns with 6.
const PREFETCH_AHEAD: usize = 6;

/// What leads to one direction of a connection until the worker's next quiescent point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FlowRef {
    pub(crate) entry: EntryIndex,
    pub(crate) owner: Owner,
}

impl FlowRef {
    /// The connection's number.
    #[inline]
    pub(crate) fn connection(self) -> u32 {
        self.owner.connection()
    }

    /// Which direction it leads to.
    #[must_use]
    pub fn direction(self) -> Direction {
        self.entry.direction()
    }
}

/// An index that nobody can find any more, and somebody may still hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retired {
    epoch: u64,
    what: RetiredIndex,
}

#[derive(Clone, Copy, Debug)]
enum RetiredIndex {
    Connection(u32),
    Record(EntryIndex),
}

/// A worker without the type of action.
pub(crate) struct WorkerCore {
    store: Arc<Store>,
    participant: usize,
    online: bool,
    connections: [FreeCache; 2],
    records: [FreeCache; 2],
    retired: VecDeque<Retired>,
    /// Where this worker goes on looking for something of each family to evict.
    eviction_hands: [u32; 2],
    /// What this worker opened lately, of each family.
    opened: [OpenedRing; 2],
}

impl WorkerCore {
    /// Takes the place of worker `index`.
    pub(crate) fn new(store: &Arc<Store>, index: usize) -> Option<Self> {
        let participant = index.checked_add(1)?;
        if !store.epochs.join(participant) {
            return None;
        }
        let mut retired = VecDeque::with_capacity(RETIRED_MAX);
        let mut orphans = store.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = orphans.len().min(RETIRED_MAX / 2);
        retired.extend(orphans.drain(..taken));
        drop(orphans);
        let core = Self {
            store: Arc::clone(store),
            participant,
            online: false,
            connections: [FreeCache::new(), FreeCache::new()],
            records: [FreeCache::new(), FreeCache::new()],
            retired,
            eviction_hands: [0; 2],
            opened: [Family::V4, Family::V6]
                .map(|family| OpenedRing::new(store.layout.connections_max(family))),
        };
        Some(core)
    }

    pub(crate) fn quiesce(&mut self) {
        self.store.epochs.quiesce(self.participant);
        self.online = true;
        if !self.retired.is_empty() {
            self.reclaim();
        }
    }

    fn park(&mut self) {
        self.store.epochs.offline(self.participant);
        self.online = false;
    }

    /// Comes online if need be: nothing may be looked up offline.
    #[inline]
    fn wake(&mut self) {
        if !self.online {
            self.quiesce();
        }
    }

    fn counters(&self) -> Option<&WorkerCounters> {
        self.store.counters.get(self.participant)
    }

    /// Frees what every worker has let go of.
    fn reclaim(&mut self) {
        let global = self.store.epochs.advance();
        for _ in 0..RECLAIMS_MAX {
            let Some(&retired) = self.retired.front() else { return };
            if !Epochs::has_passed(retired.epoch, global) || !self.free(retired.what) {
                return;
            }
            self.retired.pop_front();
        }
    }

    /// Whether there is room to retire a connection and its record.
    fn can_retire(&self) -> bool {
        self.retired.len().saturating_add(2) <= RETIRED_MAX
    }

    fn retire(&mut self, what: RetiredIndex) {
        let epoch = self.store.epochs.retire();
        self.retired.push_back(Retired { epoch, what });
    }

    fn free(&mut self, index: RetiredIndex) -> bool {
        match index {
            RetiredIndex::Connection(number) => {
                let family = self.store.layout.family_of(number);
                let list = self.store.free_connections(family);
                per_family(&mut self.connections, family).give(
                    list,
                    &self.store.connections,
                    number,
                )
            }
            RetiredIndex::Record(entry) => {
                let (list, links) = self.store.free_records(entry.family());
                per_family(&mut self.records, entry.family()).give(list, links, entry.record())
            }
        }
    }

    fn take_connection(&mut self, family: Family) -> Option<u32> {
        let list = self.store.free_connections(family);
        let stock = per_family(&mut self.connections, family);
        if let Some(later) = stock.peek(PREFETCH_AHEAD) {
            self.store.prefetch_connection(later);
        }
        stock.take(list, &self.store.connections)
    }

    /// A free record, as the index of its forward entry.
    fn take_record(&mut self, family: Family) -> Option<EntryIndex> {
        let (list, links) = self.store.free_records(family);
        let stock = per_family(&mut self.records, family);
        if let Some(later) = stock.peek(PREFETCH_AHEAD) {
            for direction in [Direction::Forward, Direction::Reply] {
                self.store.entries.prefetch(EntryIndex::new(family, later, direction));
            }
        }
        let record = stock.take(list, links)?;
        Some(EntryIndex::new(family, record, Direction::Forward))
    }
}

/// What is kept for a family, of a pair kept for both.
pub(crate) fn per_family<T>(both: &mut [T; 2], family: Family) -> &mut T {
    let [v4, v6] = both;
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

impl Drop for WorkerCore {
    fn drop(&mut self) {
        let store = &self.store;
        for family in [Family::V4, Family::V6] {
            let (list, links) = store.free_records(family);
            per_family(&mut self.records, family).give_all(list, links);
            let list = store.free_connections(family);
            per_family(&mut self.connections, family).give_all(list, &store.connections);
        }
        let mut orphans = store.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.extend(mem::take(&mut self.retired));
        drop(orphans);
        store.epochs.leave(self.participant);
    }
}

/// One worker's access to the table. It is not shared: `&mut self` is what makes it lock-free.
///
/// A worker calls [`Self::quiesce`] once per poll, and [`Self::park`] before it sleeps; otherwise
/// what others remove is not reused while it sleeps.
pub struct FlowWorker<A> {
    core: WorkerCore,
    action: PhantomData<fn(A) -> A>,
}

impl<A: Action> FlowWorker<A> {
    pub(crate) fn new(core: WorkerCore) -> Self {
        Self { core, action: PhantomData }
    }

    /// A quiescent point: every [`FlowRef`] from before is given up, and what all workers have let
    /// go of is freed.
    pub fn quiesce(&mut self) {
        self.core.quiesce();
    }

    /// A quiescent point before sleeping: until the next call of any other method nobody waits for
    /// this worker.
    pub fn park(&mut self) {
        self.core.park();
    }

    /// Looks up to 64 keys up, each with its hash; fills `out` in order.
    ///
    /// Takes as many as the shortest of the three slices has.
    pub fn lookup_burst(
        &mut self,
        keys: &[FlowKey],
        hashes: &[FlowHash],
        config: ConfigView<'_>,
        out: &mut [Lookup],
    ) {
        self.core.lookup_burst::<false>(keys, hashes, config, out);
    }

    /// The same for packets of a burst, whose hashes [`crate::FlowTable::hash_ahead`] has given: what
    /// happened between that and this hides the first cache misses. The processor is asked for what
    /// [`Self::record`] reads of the flows that are found, too. Tells how many were not.
    pub fn lookup_prefetched_burst(
        &mut self,
        keys: &[FlowKey],
        hashes: &[FlowHash],
        config: ConfigView<'_>,
        out: &mut [Lookup],
    ) -> u64 {
        self.core.lookup_burst::<true>(keys, hashes, config, out)
    }

    /// Records a packet of a flow: advances connection tracking, counts, and notes when it was
    /// seen.
    ///
    /// The first packet of a connection is recorded too, after it was inserted. `None` if the
    /// connection is gone (removed, expired, evicted, or closed and about to be opened from its
    /// other side): the packet is then a miss.
    pub fn record(
        &mut self,
        flow: FlowRef,
        facts: &PacketFacts,
        now: Ticks,
    ) -> Option<Recorded<A>> {
        if let Some((action, verdict)) = self.core.record_commonly(flow, facts, now) {
            return Some(Recorded { action: from_words(action.load()), verdict });
        }
        let (action, verdict) = self.core.record_rarely(flow, facts, now)?;
        Some(Recorded { action: from_words(action), verdict })
    }

    /// Asks the processor for where a key may lie: for the reply keys of a burst's new connections,
    /// before they are inserted one by one. Changes nothing.
    pub fn prefetch(&self, hash: FlowHash) {
        self.core.store.prefetch_buckets(hash);
    }

    /// Inserts a connection: both of its keys in one step, unless somebody was there first.
    pub fn insert_pair(&mut self, new: &NewConnection<'_, A>) -> InsertOutcome {
        self.core.insert_pair(&new.with_actions(new.actions.each_ref().map(to_words)))
    }

    /// The key that the connection's first packet had: what policy judges, whichever direction is
    /// found stale.
    pub fn original_key(&mut self, flow: FlowRef) -> Option<FlowKey> {
        self.core.key(flow, Direction::Forward)
    }

    /// The key of the connection's answers; under NAT not the original key reversed.
    pub fn reply_key(&mut self, flow: FlowRef) -> Option<FlowKey> {
        self.core.key(flow, Direction::Reply)
    }

    /// What to do with packets of a flow, without recording one; `None` if the flow has ended.
    pub fn action(&mut self, flow: FlowRef) -> Option<A> {
        self.core.action(flow).map(from_words)
    }

    /// Both actions of a connection, forward and reply: to keep what NAT decided when it is judged
    /// again.
    pub fn actions(&mut self, flow: FlowRef) -> Option<[A; 2]> {
        Some(self.core.actions(flow)?.map(from_words))
    }

    /// The configuration's version that a flow is known to fit; `None` if the flow has ended.
    pub fn version(&mut self, flow: FlowRef) -> Option<u32> {
        self.core.version(flow)
    }

    /// Gives a stale connection new actions, compiled under `version`. Its state, counters and keys
    /// stay.
    pub fn revalidate(
        &mut self,
        flow: FlowRef,
        actions: &[A; 2],
        version: u32,
        scopes: Scopes,
    ) -> Revalidation {
        self.core.revalidate(flow, actions.each_ref().map(to_words), version, scopes)
    }

    /// Ends a connection.
    pub fn remove(&mut self, flow: FlowRef) -> Removal {
        self.core.remove(flow)
    }

    /// Looks at the next `budget` places for connections and ends those that were idle for too
    /// long. Workers that call it take turns; together they go round the table.
    pub fn expire(&mut self, now: Ticks, budget: u32) -> ExpiryCounts {
        self.core.expire(now, budget)
    }

    /// Notes that later fragments of a datagram belong to the flow of its first one. Returns
    /// whether it could.
    pub fn fragment_insert(&mut self, key: &FragmentKey, flow: FlowRef, now: Ticks) -> bool {
        self.core.fragment_insert(key, flow, now)
    }

    /// The flow of a later fragment; `None` if its first one was not seen, or was seen too long
    /// ago.
    pub fn fragment_lookup(&mut self, key: &FragmentKey, now: Ticks) -> Option<FlowRef> {
        self.core.fragment_lookup(key, now)
    }
}

impl<A> std::fmt::Debug for FlowWorker<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowWorker")
            .field("index", &self.core.participant.saturating_sub(1))
            .field("retired", &self.core.retired.len())
            .finish_non_exhaustive()
    }
}
