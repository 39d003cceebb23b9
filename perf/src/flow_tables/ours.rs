//! The engine's flow table.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};
use std::thread;

use flowtable::{
    Action, Config, ConfigView, CreateTableError, FlowHash, FlowKey, FlowRef, FlowTable,
    FlowWorker, InsertOutcome, Lookup, Memory, NewConnection, PacketFacts, Removal, ScopeVersions,
    Scopes, Tracking, TransportFacts,
};

use super::{Access, BURST_KEYS, FlowMap};

const DATAGRAM: PacketFacts = PacketFacts { bytes: 64, transport: TransportFacts::Datagram };
/// Full to its capacity in connections, this share of the slots in buckets is taken.
const SLOTS_TAKEN_PERCENT: u32 = 85;

/// As large as the engine's.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Verb([u64; 4]);

impl Action for Verb {
    const LAYOUT: u32 = 1;
}

struct Ours {
    table: Arc<FlowTable<Verb>>,
    users: AtomicUsize,
}

struct User {
    table: Arc<FlowTable<Verb>>,
    worker: FlowWorker<Verb>,
    scopes: ScopeVersions,
}

/// The engine's flow table, on huge pages if there are any.
///
/// # Errors
///
/// Fails where there is no memory for it.
pub fn ours(directions: u32, load_percent: u32) -> Result<Box<dyn FlowMap>, CreateTableError> {
    let connections = u64::from(directions) * u64::from(SLOTS_TAKEN_PERCENT)
        / u64::from(load_percent.clamp(1, SLOTS_TAKEN_PERCENT))
        / 2;
    let table = FlowTable::create(&Config {
        ipv4_connections_max: u32::try_from(connections).unwrap_or(u32::MAX),
        ipv6_connections_max: 0,
        fragments_max: 1024,
        hash_key: [0x1234_5678, 0x9abc_def0],
        memory: Memory::Memfd { huge_pages: true },
        tracking: Tracking::default(),
    })?;
    Ok(Box::new(Ours { table: Arc::new(table), users: AtomicUsize::new(0) }))
}

impl FlowMap for Ours {
    fn name(&self) -> &'static str {
        "vrouter"
    }

    #[expect(clippy::expect_used, reason = "there are as many workers as threads")]
    fn access(&self) -> Box<dyn Access> {
        let worker = self.table.worker(self.users.fetch_add(1, Relaxed)).expect("a worker's place");
        Box::new(User { table: Arc::clone(&self.table), worker, scopes: ScopeVersions::new(0) })
    }

    fn bytes_outside_heap(&self) -> usize {
        self.table.region_bytes()
    }

    fn is_on_huge_pages(&self) -> Option<bool> {
        Some(self.table.is_on_huge_pages())
    }
}

impl User {
    fn hashes(&self, keys: &[FlowKey]) -> [FlowHash; BURST_KEYS] {
        let mut hashes = [FlowHash::default(); BURST_KEYS];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = self.table.hash(key);
        }
        hashes
    }

    fn find(&mut self, keys: &[FlowKey]) -> [Lookup; BURST_KEYS] {
        let hashes = self.hashes(keys);
        let mut found = [Lookup::Miss; BURST_KEYS];
        let config = ConfigView { version: 1, scopes: &self.scopes };
        let hashes = hashes.get(..keys.len()).unwrap_or(&hashes);
        self.worker.lookup_burst(keys, hashes, config, &mut found);
        found
    }

    /// Removes a connection, however long the other thread keeps what was removed before from being
    /// reused: a worker that was descheduled does.
    fn remove(&mut self, flow: FlowRef) {
        while self.worker.remove(flow) == Removal::Deferred {
            self.worker.quiesce();
            thread::yield_now();
        }
    }
}

impl Access for User {
    fn look_up(&mut self, keys: &[FlowKey]) -> usize {
        let mut hits = 0;
        for keys in keys.chunks(BURST_KEYS) {
            let found = self.find(keys);
            hits += found.iter().filter(|found| matches!(found, Lookup::Hit(_))).count();
            self.worker.quiesce();
        }
        hits
    }

    #[expect(clippy::panic, reason = "a table that takes nothing is not what is measured")]
    fn insert_pairs(&mut self, forward: &[FlowKey]) {
        for burst in forward.chunks(BURST_KEYS) {
            let replies: Vec<FlowKey> = burst.iter().map(FlowKey::reversed).collect();
            let hashes = [self.hashes(burst), self.hashes(&replies)];
            for hash in hashes.iter().flatten() {
                self.worker.prefetch(*hash);
            }
            let [forward_hashes, reply_hashes] = hashes;
            let hashes = forward_hashes.into_iter().zip(reply_hashes);
            for ((forward, reply), (forward_hash, reply_hash)) in
                burst.iter().zip(replies).zip(hashes)
            {
                let outcome = self.worker.insert_pair(&NewConnection {
                    forward: *forward,
                    reply,
                    forward_hash,
                    reply_hash,
                    actions: [Verb([1; 4]), Verb([2; 4])],
                    version: 1,
                    scopes: Scopes::default(),
                    facts: &DATAGRAM,
                    now: 0,
                });
                match outcome {
                    InsertOutcome::Inserted(_) | InsertOutcome::Adopted(_) => {}
                    other => panic!("{forward:?} was not entered: {other:?}"),
                }
            }
            self.worker.quiesce();
        }
    }

    fn remove_pairs(&mut self, forward: &[FlowKey]) {
        for keys in forward.chunks(BURST_KEYS) {
            for found in self.find(keys) {
                if let Lookup::Hit(flow) | Lookup::Stale(flow) = found {
                    self.remove(flow);
                }
            }
            self.worker.quiesce();
        }
    }
}
