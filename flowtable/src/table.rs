//! The table as its users see it: made, attached to, counted, looked through.

use std::{fs::File, io, marker::PhantomData, os::fd::BorrowedFd};

use bytemuck::Pod;

use crate::{
    counters::TableCounters,
    entry::{ACTION_WORDS, CONNECTIONS_MAX},
    epoch::PARTICIPANTS_MAX,
    facts::Ticks,
    hash::FlowHash,
    key::{Family, FlowKey},
    layout::{Header, Layout},
    region::{Memory, Region},
    store::Store,
    sync::{Arc, PoisonError, Relaxed},
    tracking::Tracking,
    view::ConnectionView,
    worker::{FlowWorker, WorkerCore},
};

/// Workers a table can have.
pub const WORKERS_MAX: usize = PARTICIPANTS_MAX - 1;

/// What a table stores for each direction and never looks into: plain data of at most 32 bytes.
pub trait Action: Pod + Send + Sync {
    /// Changes whenever the meaning of an action's bytes does: a region whose layout differs cannot
    /// be attached to.
    const LAYOUT: u32;
}

/// What a table is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// IPv4 connections that may live at once; some 250 bytes each.
    pub ipv4_connections_max: u32,
    /// IPv6 connections that may live at once; some 312 bytes each.
    pub ipv6_connections_max: u32,
    /// Fragmented datagrams whose connection is remembered; 64 bytes each.
    pub fragments_max: u32,
    /// The hash's secret, from a random source; fixed only where runs must be alike.
    pub hash_key: [u64; 2],
    /// Where the region lies.
    pub memory: Memory,
    /// How connections are tracked.
    pub tracking: Tracking,
}

/// Why a table could not be made, or attached to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum CreateTableError {
    #[error(
        "{ipv4} IPv4 and {ipv6} IPv6 connections are not possible: at least 1, and \
         with 1/32 to spare at most {CONNECTIONS_MAX}"
    )]
    Connections { ipv4: u32, ipv6: u32 },
    #[error(
        "cannot map {bytes} bytes for the flow table; lower the number of \
         connections or see hugepages.md"
    )]
    Map {
        bytes: usize,
        #[source]
        source: io::Error,
    },
    #[error("the region holds no flow table, or one that was never finished; make a new one")]
    NotATable,
    #[error("the region has layout {version} but this version knows {expected}; make a new one")]
    LayoutVersion { version: u64, expected: u64 },
    #[error("the region's entries have other sizes than this version's; make a new one")]
    EntrySizes,
    #[error(
        "the region's actions have layout {layout} and {bytes} bytes, not \
         {expected_layout} and {expected_bytes}; make a new one"
    )]
    ActionLayout { layout: u32, bytes: u32, expected_layout: u32, expected_bytes: u32 },
}

/// Why there is no worker with an index.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("worker {index} exists already, or is beyond the {WORKERS_MAX} that a table can have")]
pub struct WorkerIndexError {
    /// The index asked for.
    pub index: usize,
}

/// The flow table: shared by all workers, each of which uses it through its own [`FlowWorker`].
pub struct FlowTable<A> {
    store: Arc<Store>,
    action: PhantomData<fn(A) -> A>,
}

impl<A: Action> FlowTable<A> {
    const ACTION_FITS: () = assert!(size_of::<A>() <= ACTION_WORDS * 8, "an action has 32 bytes");

    /// Makes an empty table in a new region.
    ///
    /// # Errors
    ///
    /// Fails for a number of connections that an index cannot hold, or if the memory is not there.
    pub fn create(config: &Config) -> Result<Self, CreateTableError> {
        let () = Self::ACTION_FITS;
        let layout = Layout::new(config)?;
        let map = |source| CreateTableError::Map { bytes: layout.bytes, source };
        let region = Region::create(layout.bytes, config.memory).map_err(map)?;
        let store = Store::lay(&region, layout, config.hash_key, config.tracking).map_err(map)?;
        store.rebuild();
        let header = Header {
            action_bytes: Self::action_bytes(),
            action_layout: A::LAYOUT,
            connections_max: layout.connections_max,
            fragments_max: config.fragments_max,
            hash_key: config.hash_key,
        };
        header.write(store.header.all());
        Ok(Self { store: Arc::new(store), action: PhantomData })
    }

    /// Attaches to the region of an earlier run, whose workers are gone, and keeps its connections.
    ///
    /// Buckets and free lists are rebuilt from the connections, so it does not matter in which step
    /// the earlier run ended.
    ///
    /// # Errors
    ///
    /// Fails if the file holds no region of this layout and with this kind of action.
    pub fn attach(file: File, tracking: Tracking) -> Result<Self, CreateTableError> {
        let () = Self::ACTION_FITS;
        let region =
            Region::attach(file).map_err(|source| CreateTableError::Map { bytes: 0, source })?;
        let header = Store::read_header(&region)?;
        if header.action_layout != A::LAYOUT || header.action_bytes != Self::action_bytes() {
            return Err(CreateTableError::ActionLayout {
                layout: header.action_layout,
                bytes: header.action_bytes,
                expected_layout: A::LAYOUT,
                expected_bytes: Self::action_bytes(),
            });
        }
        let [ipv4_connections_max, ipv6_connections_max] = header.connections_max;
        let layout = Layout::new(&Config {
            ipv4_connections_max,
            ipv6_connections_max,
            fragments_max: header.fragments_max,
            hash_key: header.hash_key,
            memory: Memory::Heap,
            tracking,
        })?;
        let store = Store::lay(&region, layout, header.hash_key, tracking)
            .map_err(|source| CreateTableError::Map { bytes: layout.bytes, source })?;
        store.rebuild();
        Ok(Self { store: Arc::new(store), action: PhantomData })
    }

    /// Makes a worker's access to the table. Dropping it frees the index.
    ///
    /// # Errors
    ///
    /// Fails if the index is in use, or not below [`WORKERS_MAX`].
    pub fn worker(&self, index: usize) -> Result<FlowWorker<A>, WorkerIndexError> {
        WorkerCore::new(&self.store, index).map(FlowWorker::new).ok_or(WorkerIndexError { index })
    }

    /// The hash of a key: what [`FlowWorker::lookup_burst`] and [`FlowWorker::insert_pair`] want
    /// with it.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> FlowHash {
        self.store.hash.hash(key)
    }

    /// The hash of a key that is to be looked up with others, when they are all known: asks the
    /// processor for where that lookup begins, for [`FlowWorker::lookup_prefetched_burst`].
    #[must_use]
    #[inline]
    pub fn hash_ahead(&self, key: &FlowKey) -> FlowHash {
        let hash = self.store.hash.hash(key);
        self.store.prefetch_first_bucket(hash);
        hash
    }

    /// Connections that live now, of both families.
    #[must_use]
    pub fn len(&self) -> u32 {
        let [v4, v6] = &self.store.live;
        v4.0.load(Relaxed).saturating_add(v6.0.load(Relaxed))
    }

    /// Whether no connection lives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections of a family that may live at once.
    #[must_use]
    pub fn capacity(&self, family: Family) -> u32 {
        self.store.layout.connections_max(family)
    }

    /// What happened so far, summed over all workers.
    #[must_use]
    pub fn counters(&self) -> TableCounters {
        let mut sum = TableCounters::default();
        for counters in &self.store.counters {
            counters.add_to(&mut sum);
        }
        sum
    }

    /// The region's length in bytes: all that the table holds, but for a few lines for each worker.
    #[must_use]
    pub fn region_bytes(&self) -> usize {
        self.store.region.bytes()
    }

    /// Whether the region lies on huge pages.
    #[must_use]
    pub fn is_on_huge_pages(&self) -> bool {
        self.store.region.is_huge()
    }

    /// The region's memfd, for another process to attach to; `None` on the heap.
    #[must_use]
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.store.region.file()
    }

    /// Shows every connection to `visitor`, as copies made a few at a time. For operators: it may
    /// take milliseconds, and workers do not notice it. Connections that come or go meanwhile may
    /// be missed; none is seen torn.
    pub fn for_each_connection(&self, now: Ticks, mut visitor: impl FnMut(&ConnectionView<A>)) {
        // One operator at a time: they share a participant's place.
        let _operator = self.store.operators.lock().unwrap_or_else(PoisonError::into_inner);
        crate::view::for_each(&self.store, now, |view| visitor(&view.with_actions()));
    }
}

impl<A> FlowTable<A> {
    /// What the table is made of, for tests of its parts.
    #[cfg(all(test, loom))]
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    fn action_bytes() -> u32 {
        u32::try_from(size_of::<A>()).unwrap_or(u32::MAX)
    }
}

/// An action as the words of an entry.
pub(crate) fn to_words<A: Action>(action: &A) -> [u64; 4] {
    let mut words = [0; ACTION_WORDS];
    let bytes = bytemuck::bytes_of(action);
    if let Some(to) = bytemuck::bytes_of_mut(&mut words).get_mut(..bytes.len()) {
        to.copy_from_slice(bytes);
    }
    words
}

/// The action that an entry's words hold.
#[inline]
pub(crate) fn from_words<A: Action>(words: [u64; 4]) -> A {
    let bytes = bytemuck::bytes_of(&words).get(..size_of::<A>()).unwrap_or_default();
    bytemuck::try_pod_read_unaligned(bytes).unwrap_or_else(|_| A::zeroed())
}

impl<A> std::fmt::Debug for FlowTable<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowTable").field("layout", &self.store.layout).finish_non_exhaustive()
    }
}
