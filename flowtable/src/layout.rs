//! Where everything lies in a table's region, and the header that says so.

use crate::{
    bucket::{Bucket, SLOTS},
    connection::{Connection, DirectionState},
    entry::{CONNECTIONS_MAX, Entry},
    fragments::FragmentSet,
    key::Family,
    sync::{Acquire, AtomicU32, AtomicU64, Release},
    table::{Config, CreateTableError},
};

/// Says that a region holds a flow table.
const MAGIC: u64 = 0x7672_666c_6f77_7461; // "vrflowta"

/// Changes with every change of the layout or of the meaning of a field.
const LAYOUT_VERSION: u64 = 2;

/// The header's page. What [`Header`] does not name is reserved, and zero.
const HEADER_BYTES: usize = 4096;
pub(crate) const HEADER_WORDS: u32 = if cfg!(loom) { 24 } else { 512 };

/// Sections start at cache lines.
const ALIGNMENT_BYTES: usize = 64;

/// One part in this many more records than connections: for entries that were replaced and await
/// their reuse.
const SPARE_PART: u32 = 32;

/// Records and connections beyond that: what workers hold in their caches, and what awaits reuse in
/// a small table.
const SPARE_FIXED: u32 = if cfg!(loom) { 3 } else { 1024 };

/// The sizes and places of all sections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Layout {
    /// Connections of each family that may live at once.
    pub(crate) connections_max: [u32; 2],
    /// Connections there is room for, with the spare ones: those of IPv4 first, as many as it has
    /// records.
    pub(crate) connections: u32,
    /// Records of each family, with the spare ones. A record is a pair of entries.
    pub(crate) records: [u32; 2],
    pub(crate) buckets: u32,
    pub(crate) fragment_sets: u32,
    pub(crate) buckets_at: usize,
    pub(crate) connections_at: usize,
    pub(crate) directions_at: [usize; 2],
    pub(crate) entries_at: [usize; 2],
    pub(crate) record_links_at: [usize; 2],
    pub(crate) fragments_at: usize,
    pub(crate) bytes: usize,
}

impl Layout {
    /// Lays out a table.
    pub(crate) fn new(config: &Config) -> Result<Self, CreateTableError> {
        let connections_max = [config.ipv4_connections_max, config.ipv6_connections_max];
        let [v4, v6] = connections_max;
        let total = v4.saturating_add(v6);
        let records = connections_max.map(with_spare);
        let connections = records[0].saturating_add(records[1]);
        if total == 0 || connections > CONNECTIONS_MAX {
            return Err(CreateTableError::Connections { ipv4: v4, ipv6: v6 });
        }
        let buckets = bucket_count(total);
        let fragment_sets = config.fragments_max.div_ceil(FragmentSet::WAYS).max(1);

        let mut end = HEADER_BYTES;
        let mut place = |bytes: usize, count: u32| {
            let at = end;
            end = (at + bytes * count as usize).next_multiple_of(ALIGNMENT_BYTES);
            at
        };
        let [records4, records6] = records;
        Ok(Self {
            connections_max,
            connections,
            records,
            buckets,
            fragment_sets,
            buckets_at: place(size_of::<Bucket>(), buckets),
            connections_at: place(size_of::<Connection>(), connections),
            directions_at: [
                place(size_of::<DirectionState>(), connections),
                place(size_of::<DirectionState>(), connections),
            ],
            entries_at: [
                place(size_of::<[Entry<8>; 2]>(), records4),
                place(size_of::<[Entry<12>; 2]>(), records6),
            ],
            record_links_at: [
                place(size_of::<AtomicU32>(), records4),
                place(size_of::<AtomicU32>(), records6),
            ],
            fragments_at: place(size_of::<FragmentSet>(), fragment_sets),
            bytes: end,
        })
    }

    /// Connections of `family` that may live at once.
    pub(crate) fn connections_max(&self, family: Family) -> u32 {
        let [v4, v6] = self.connections_max;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// The connections of a family: the first one, and how many.
    pub(crate) fn connections_of(&self, family: Family) -> (u32, u32) {
        let [v4, v6] = self.records;
        match family {
            Family::V4 => (0, v4),
            Family::V6 => (v4, v6),
        }
    }

    /// The family that a connection is of.
    pub(crate) fn family_of(&self, connection: u32) -> Family {
        let [v4, _] = self.records;
        if connection < v4 { Family::V4 } else { Family::V6 }
    }
}

fn with_spare(connections: u32) -> u32 {
    if connections == 0 {
        return 0;
    }
    let spare = (connections / SPARE_PART).saturating_add(SPARE_FIXED);
    connections.saturating_add(spare)
}

/// Buckets for so many connections: at most 85 % of the slots are taken, up to where two choices
/// and one displacement find a slot for practically every key
/// (`a_table_can_be_filled_to_its_capacity` measures it).
fn bucket_count(connections: u32) -> u32 {
    let directions = u64::from(connections) * 2;
    let slots = directions * 100 / 85;
    let buckets = slots.div_ceil(u64::from(SLOTS)).max(2);
    u32::try_from(buckets).unwrap_or(u32::MAX)
}

/// What the header says: one word each, in this order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub(crate) action_bytes: u32,
    pub(crate) action_layout: u32,
    pub(crate) connections_max: [u32; 2],
    pub(crate) fragments_max: u32,
    pub(crate) hash_key: [u64; 2],
}

impl Header {
    const SIZES: [u64; 6] = [
        size_of::<Bucket>() as u64,
        size_of::<Connection>() as u64,
        size_of::<DirectionState>() as u64,
        size_of::<Entry<8>>() as u64,
        size_of::<Entry<12>>() as u64,
        size_of::<FragmentSet>() as u64,
    ];

    /// Writes the header; the magic last, so that a region that was never finished is not taken for
    /// a table.
    pub(crate) fn write(&self, words: &[AtomicU64]) {
        let values = [
            LAYOUT_VERSION,
            u64::from(self.action_bytes),
            u64::from(self.action_layout),
            u64::from(self.connections_max[0]),
            u64::from(self.connections_max[1]),
            u64::from(self.fragments_max),
            self.hash_key[0],
            self.hash_key[1],
        ];
        let body = values.into_iter().chain(Self::SIZES);
        for (word, value) in words.iter().skip(1).zip(body) {
            word.store(value, Release);
        }
        if let Some(magic) = words.first() {
            magic.store(MAGIC, Release);
        }
    }

    /// Reads the header of a region that another process, or an earlier run, has made.
    pub(crate) fn read(words: &[AtomicU64]) -> Result<Self, CreateTableError> {
        let mut values = words.iter().map(|word| word.load(Acquire));
        let mut next = || values.next().unwrap_or(0);
        if next() != MAGIC {
            return Err(CreateTableError::NotATable);
        }
        let version = next();
        if version != LAYOUT_VERSION {
            return Err(CreateTableError::LayoutVersion { version, expected: LAYOUT_VERSION });
        }
        let mut small = || u32::try_from(next()).unwrap_or(u32::MAX);
        let header = Self {
            action_bytes: small(),
            action_layout: small(),
            connections_max: [small(), small()],
            fragments_max: small(),
            hash_key: [next(), next()],
        };
        let sizes = [next(), next(), next(), next(), next(), next()];
        if sizes == Self::SIZES { Ok(header) } else { Err(CreateTableError::EntrySizes) }
    }
}
