//! General concurrent maps.

use std::{
    collections::HashMap,
    hash::BuildHasher,
    sync::{Arc, PoisonError, RwLock},
};

use ahash::RandomState;
use flowtable::{CreateTableError, FlowKey};

use super::{Access, BURST_KEYS, FlowMap};

/// What a key leads to: as much as our table's action.
type Verb = [u64; 4];

const VERB: Verb = [1; 4];

/// What a map does for one key.
trait Map: Send + Sync {
    const NAME: &'static str;
    fn contains(&self, key: &FlowKey) -> bool;
    fn insert(&self, key: FlowKey);
    fn remove(&self, key: &FlowKey);
    /// How many of a burst's keys are there; for maps that can save work between them.
    fn count(&self, keys: &[FlowKey]) -> usize {
        keys.iter().filter(|key| self.contains(key)).count()
    }
}

struct Shared<M>(Arc<M>);

struct User<M>(Arc<M>);

impl<M: Map + 'static> FlowMap for Shared<M> {
    fn name(&self) -> &'static str {
        M::NAME
    }

    fn access(&self) -> Box<dyn Access> {
        Box::new(User(Arc::clone(&self.0)))
    }
}

impl<M: Map> Access for User<M> {
    fn look_up(&mut self, keys: &[FlowKey]) -> usize {
        keys.chunks(BURST_KEYS).map(|keys| self.0.count(keys)).sum()
    }

    fn insert_pairs(&mut self, forward: &[FlowKey]) {
        for key in forward {
            self.0.insert(*key);
            self.0.insert(key.reversed());
        }
    }

    fn remove_pairs(&mut self, forward: &[FlowKey]) {
        for key in forward {
            self.0.remove(key);
            self.0.remove(&key.reversed());
        }
    }
}

fn shared(map: impl Map + 'static) -> Box<dyn FlowMap> {
    Box::new(Shared(Arc::new(map)))
}

/// Under a fixed key, so that runs are alike.
fn hasher() -> RandomState {
    RandomState::with_seeds(1, 2, 3, 4)
}

/// `dashmap`: shards, each behind a lock.
///
/// # Errors
///
/// Never: all that a map of its kind needs comes as it grows.
pub fn dashmap(directions: u32, _load_percent: u32) -> Result<Box<dyn FlowMap>, CreateTableError> {
    Ok(shared(dashmap::DashMap::with_capacity_and_hasher(directions as usize, hasher())))
}

impl<S: BuildHasher + Clone + Send + Sync> Map for dashmap::DashMap<FlowKey, Verb, S> {
    const NAME: &'static str = "dashmap";

    fn contains(&self, key: &FlowKey) -> bool {
        self.get(key).is_some_and(|verb| *verb == VERB)
    }

    fn insert(&self, key: FlowKey) {
        dashmap::DashMap::insert(self, key, VERB);
    }

    fn remove(&self, key: &FlowKey) {
        dashmap::DashMap::remove(self, key);
    }
}

/// `papaya`: lock-free, with deferred reclamation.
///
/// # Errors
///
/// Never: all that a map of its kind needs comes as it grows.
pub fn papaya(directions: u32, _load_percent: u32) -> Result<Box<dyn FlowMap>, CreateTableError> {
    Ok(shared(papaya::HashMap::with_capacity_and_hasher(directions as usize, hasher())))
}

impl<S: BuildHasher + Send + Sync> Map for papaya::HashMap<FlowKey, Verb, S> {
    const NAME: &'static str = "papaya";

    fn contains(&self, key: &FlowKey) -> bool {
        self.pin().get(key) == Some(&VERB)
    }

    fn insert(&self, key: FlowKey) {
        self.pin().insert(key, VERB);
    }

    fn remove(&self, key: &FlowKey) {
        self.pin().remove(key);
    }

    fn count(&self, keys: &[FlowKey]) -> usize {
        let map = self.pin();
        keys.iter().filter(|&key| map.get(key) == Some(&VERB)).count()
    }
}

/// `scc`: buckets, each behind a lock.
///
/// # Errors
///
/// Never: all that a map of its kind needs comes as it grows.
pub fn scc(directions: u32, _load_percent: u32) -> Result<Box<dyn FlowMap>, CreateTableError> {
    Ok(shared(scc::HashMap::with_capacity_and_hasher(directions as usize, hasher())))
}

impl<S: BuildHasher + Send + Sync> Map for scc::HashMap<FlowKey, Verb, S> {
    const NAME: &'static str = "scc";

    fn contains(&self, key: &FlowKey) -> bool {
        self.read_sync(key, |_, verb| *verb == VERB).unwrap_or(false)
    }

    fn insert(&self, key: FlowKey) {
        let _ = self.insert_sync(key, VERB);
    }

    fn remove(&self, key: &FlowKey) {
        self.remove_sync(key);
    }
}

/// The standard library's map behind one lock, taken once a burst.
///
/// # Errors
///
/// Never: all that a map of its kind needs comes as it grows.
pub fn rw_lock(directions: u32, _load_percent: u32) -> Result<Box<dyn FlowMap>, CreateTableError> {
    Ok(shared(Locked(RwLock::new(HashMap::with_capacity_and_hasher(
        directions as usize,
        hasher(),
    )))))
}

struct Locked(RwLock<HashMap<FlowKey, Verb, RandomState>>);

impl Map for Locked {
    const NAME: &'static str = "rwlock-hashmap";

    fn contains(&self, key: &FlowKey) -> bool {
        self.count(&[*key]) == 1
    }

    fn insert(&self, key: FlowKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, VERB);
    }

    fn remove(&self, key: &FlowKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn count(&self, keys: &[FlowKey]) -> usize {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().filter(|key| map.get(key) == Some(&VERB)).count()
    }
}
