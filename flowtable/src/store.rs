//! The table without its type of action: sections, free lists, epochs, and what one step on the
//! buckets is.

mod probe;
mod rebuild;

pub(crate) use probe::{BURST_KEYS_MAX, Candidates, Found, MISSED, NO_CANDIDATES};

use std::io;

use crate::{
    bucket::{Bucket, LockedBuckets, SLOTS, slots},
    connection::{Connection, DirectionState, Life},
    counters::WorkerCounters,
    entry::{Direction, Entries, EntryIndex, EntryView, Owner},
    epoch::{Epochs, PARTICIPANTS_MAX},
    fragments::FragmentSet,
    free_list::{FreeList, Links},
    hash::{FlowHash, KeyedHash},
    key::{Family, FlowKey},
    layout::{HEADER_WORDS, Header, Layout},
    region::{Region, Section, does_not_fit},
    sync::{Arc, AtomicU32, AtomicU64, Mutex},
    tracking::{self, Sides, Tracking},
    worker::Retired,
};

/// Live connections of one family. Written at inserts and removals by all workers.
#[derive(Debug, Default)]
#[repr(align(64))] // A line of its own: lookups read what lies beside it.
pub(crate) struct Live(pub(crate) AtomicU32);

/// Everything the workers share.
pub(crate) struct Store {
    pub(crate) region: Arc<Region>,
    pub(crate) layout: Layout,
    pub(crate) header: Section<AtomicU64>,
    pub(crate) buckets: Section<Bucket>,
    pub(crate) connections: Section<Connection>,
    pub(crate) directions: [Section<DirectionState>; 2],
    pub(crate) entries: Entries,
    pub(crate) record_links: [Section<AtomicU32>; 2],
    pub(crate) fragments: Section<FragmentSet>,
    pub(crate) hash: KeyedHash,
    pub(crate) tracking: Tracking,
    pub(crate) free_connections: [FreeList; 2],
    pub(crate) free_records: [FreeList; 2],
    pub(crate) live: [Live; 2],
    pub(crate) epochs: Epochs,
    /// Where the next expiry goes on; workers take turns.
    pub(crate) expiry_hand: AtomicU32,
    pub(crate) counters: Box<[WorkerCounters]>,
    /// What workers that are gone had retired; the next worker to come takes it over.
    pub(crate) orphans: Mutex<Vec<Retired>>,
    /// Held by whoever reads the table on behalf of an operator.
    pub(crate) operators: Mutex<()>,
}

impl Links for Section<Connection> {
    fn link(&self, index: u32) -> Option<&AtomicU32> {
        self.at(index).map(|connection| &connection.next)
    }
}

impl Links for Section<AtomicU32> {
    fn link(&self, index: u32) -> Option<&AtomicU32> {
        self.at(index)
    }
}

/// A slot of a bucket.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) bucket: u32,
    pub(crate) slot: u32,
}

impl Store {
    /// Lays a table over a region.
    pub(crate) fn lay(
        region: &Arc<Region>,
        layout: Layout,
        hash_key: [u64; 2],
        tracking: Tracking,
    ) -> io::Result<Self> {
        let too_small = does_not_fit;
        let [forward_at, reply_at] = layout.directions_at;
        let [entries4_at, entries6_at] = layout.entries_at;
        let [links4_at, links6_at] = layout.record_links_at;
        let [records4, records6] = layout.records;
        let directions = |at| region.section(at, layout.connections).ok_or_else(too_small);
        let links = |at, count| region.section(at, count).ok_or_else(too_small);
        Ok(Self {
            header: region.section(0, HEADER_WORDS).ok_or_else(too_small)?,
            buckets: region.section(layout.buckets_at, layout.buckets).ok_or_else(too_small)?,
            connections: region
                .section(layout.connections_at, layout.connections)
                .ok_or_else(too_small)?,
            directions: [directions(forward_at)?, directions(reply_at)?],
            entries: Entries {
                v4: region.section(entries4_at, records4 * 2).ok_or_else(too_small)?,
                v6: region.section(entries6_at, records6 * 2).ok_or_else(too_small)?,
            },
            record_links: [links(links4_at, records4)?, links(links6_at, records6)?],
            fragments: region
                .section(layout.fragments_at, layout.fragment_sets)
                .ok_or_else(too_small)?,
            hash: KeyedHash::new(hash_key),
            region: Arc::clone(region),
            layout,
            tracking,
            free_connections: [FreeList::default(), FreeList::default()],
            free_records: [FreeList::default(), FreeList::default()],
            live: [Live::default(), Live::default()],
            epochs: Epochs::new(),
            expiry_hand: AtomicU32::new(0),
            counters: (0..PARTICIPANTS_MAX).map(|_| WorkerCounters::default()).collect(),
            orphans: Mutex::new(Vec::new()),
            operators: Mutex::new(()),
        })
    }

    /// What the header says, once it is known that the region begins with one.
    pub(crate) fn read_header(
        region: &Arc<Region>,
    ) -> Result<Header, crate::table::CreateTableError> {
        let words: Section<AtomicU64> =
            region.section(0, HEADER_WORDS).ok_or(crate::table::CreateTableError::NotATable)?;
        Header::read(words.all())
    }

    /// The buckets where a hash may lie.
    pub(crate) fn buckets_of(&self, hash: FlowHash) -> [u32; 2] {
        [hash.first_bucket(self.layout.buckets), hash.second_bucket(self.layout.buckets)]
    }

    /// Asks for the bucket where a lookup of a hash begins.
    #[inline]
    pub(crate) fn prefetch_first_bucket(&self, hash: FlowHash) {
        self.buckets.prefetch(hash.first_bucket(self.layout.buckets));
    }

    /// Asks for both buckets where a hash may lie.
    #[inline]
    pub(crate) fn prefetch_buckets(&self, hash: FlowHash) {
        for number in self.buckets_of(hash) {
            self.buckets.prefetch(number);
        }
    }

    /// Asks for a direction's state, and for the other's if the protocol looks at it.
    #[inline]
    pub(crate) fn prefetch_states(&self, owner: Owner, direction: Direction) {
        let connection = owner.connection();
        if let Some(own) = self.directions.get(direction as usize) {
            own.prefetch(connection);
        }
        if tracking::reads_both_sides(owner.protocol())
            && let Some(other) = self.directions.get(direction.opposite() as usize)
        {
            other.prefetch(connection);
        }
    }

    /// Asks for a connection's word and the states of both directions.
    #[inline]
    pub(crate) fn prefetch_connection(&self, connection: u32) {
        self.connections.prefetch(connection);
        for side in &self.directions {
            side.prefetch(connection);
        }
    }

    /// The locks of all buckets where a pair of keys may lie; `None` if one could not be had soon.
    pub(crate) fn lock(&self, forward: FlowHash, reply: FlowHash) -> Option<LockedBuckets<'_>> {
        let ([a, b], [c, d]) = (self.buckets_of(forward), self.buckets_of(reply));
        LockedBuckets::lock(&self.buckets, [a, b, c, d])
    }

    /// The slot that leads to exactly this entry. The caller holds the locks of its buckets.
    pub(crate) fn place_of(&self, hash: FlowHash, index: EntryIndex) -> Option<Place> {
        self.buckets_of(hash).into_iter().find_map(|number| {
            let bucket = self.buckets.at(number)?;
            slots(bucket.matching(hash.tag()))
                .find(|&slot| bucket.index(slot) == index.0)
                .map(|slot| Place { bucket: number, slot })
        })
    }

    /// A free slot for a hash, other than `taken`; moves another key away if need be. The caller
    /// holds the locks.
    pub(crate) fn free_place(
        &self,
        locked: &LockedBuckets<'_>,
        hash: FlowHash,
        taken: Option<Place>,
    ) -> Option<Place> {
        let numbers = self.buckets_of(hash);
        // The first bucket as long as it has room: lookups begin there, and most end there.
        let free = numbers.into_iter().find_map(|number| {
            let bucket = self.buckets.at(number)?;
            let mut places = slots(bucket.matching(0)).map(|slot| Place { bucket: number, slot });
            places.find(|&place| Some(place) != taken)
        });
        free.or_else(|| {
            numbers.into_iter().find_map(|number| {
                (0..SLOTS)
                    .map(|slot| Place { bucket: number, slot })
                    .find(|&place| Some(place) != taken && self.move_away(locked, place))
            })
        })
    }

    /// Moves the key of a slot to its other bucket, if there is room and nobody holds it. The
    /// caller holds the slot's.
    pub(crate) fn move_away(&self, locked: &LockedBuckets<'_>, place: Place) -> bool {
        let Some(from) = self.buckets.at(place.bucket) else { return false };
        let index = EntryIndex(from.index(place.slot));
        let Some(entry) = self.entries.at(index) else { return false };
        let hash = self.hash.hash(&entry.key());
        let [first, second] = self.buckets_of(hash);
        let number = if first == place.bucket { second } else { first };
        let Some(to) = self.buckets.at(number) else { return false };
        // Not one that is held already: its free slots were looked at, or are spoken for. Nobody is
        // waited for here, so the order of locks does not matter.
        if locked.holds(number) {
            return false;
        }
        let Some(version) = to.try_lock() else { return false };
        let moved = to.free_slot().inspect(|&slot| {
            // There before it is gone from here: who looks in both misses it only if a version
            // changes (claim 7).
            to.fill(slot, hash.tag(), index.0);
            if first == place.bucket {
                from.add_stray(hash.tag());
            } else {
                to.remove_stray();
            }
            from.clear(place.slot);
        });
        to.unlock(version);
        moved.is_some()
    }

    /// Makes a slot lead to the entry of the key that has this hash. The caller holds the locks of
    /// the key's buckets.
    pub(crate) fn fill(&self, place: Place, hash: FlowHash, index: EntryIndex) {
        if let Some(stray_of) = self.stray_of(place, hash) {
            stray_of.add_stray(hash.tag());
        }
        if let Some(bucket) = self.buckets.at(place.bucket) {
            bucket.fill(place.slot, hash.tag(), index.0);
        }
    }

    /// Frees the slot of the key that has this hash. The caller holds the locks of the key's
    /// buckets.
    pub(crate) fn clear(&self, place: Place, hash: FlowHash) {
        if let Some(bucket) = self.buckets.at(place.bucket) {
            bucket.clear(place.slot);
        }
        if let Some(stray_of) = self.stray_of(place, hash) {
            stray_of.remove_stray();
        }
    }

    /// The first bucket of a key that has its place in its second one.
    fn stray_of(&self, place: Place, hash: FlowHash) -> Option<&Bucket> {
        let first = hash.first_bucket(self.layout.buckets);
        (place.bucket != first).then(|| self.buckets.at(first)).flatten()
    }

    /// The state of a packet's own direction.
    #[inline]
    pub(crate) fn own_side(&self, owner: Owner, direction: Direction) -> Option<&DirectionState> {
        self.directions.get(direction as usize)?.at(owner.connection())
    }

    /// Both directions' state, as a packet of one of them sees it.
    #[inline]
    pub(crate) fn sides(&self, owner: Owner, direction: Direction) -> Option<Sides<'_>> {
        // By index: which direction it is cannot be foreseen, so it should not be a branch.
        let connection = owner.connection();
        let own = self.directions.get(direction as usize)?.at(connection)?;
        let other = self.directions.get(direction.opposite() as usize)?.at(connection)?;
        Some(Sides { own, other, direction, protocol: owner.protocol() })
    }

    /// Both directions' state: forward, reply.
    #[inline]
    pub(crate) fn both_sides(&self, connection: u32) -> Option<[&DirectionState; 2]> {
        let [forward, reply] = &self.directions;
        Some([forward.at(connection)?, reply.at(connection)?])
    }

    /// Both entries that a life leads to.
    pub(crate) fn both_entries(&self, life: Life) -> Option<[EntryView<'_>; 2]> {
        let forward = self.entries.at(life.entry.with(Direction::Forward))?;
        let reply = self.entries.at(life.entry.with(Direction::Reply))?;
        Some([forward, reply])
    }

    /// The list of free connections of a family.
    pub(crate) fn free_connections(&self, family: Family) -> &FreeList {
        let [v4, v6] = &self.free_connections;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// The list of free records of a family, and its links.
    pub(crate) fn free_records(&self, family: Family) -> (&FreeList, &Section<AtomicU32>) {
        let [free4, free6] = &self.free_records;
        let [links4, links6] = &self.record_links;
        match family {
            Family::V4 => (free4, links4),
            Family::V6 => (free6, links6),
        }
    }

    /// How many connections of a family live.
    pub(crate) fn live(&self, family: Family) -> &AtomicU32 {
        let [v4, v6] = &self.live;
        match family {
            Family::V4 => &v4.0,
            Family::V6 => &v6.0,
        }
    }

    /// The set of fragments where a key belongs.
    pub(crate) fn fragment_set(&self, key: &FlowKey) -> Option<&FragmentSet> {
        self.fragments.at(self.hash.hash(key).first_bucket(self.layout.fragment_sets))
    }
}
