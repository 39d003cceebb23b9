//! Opens memory ports by name, and keeps their far sides for the test to take.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{MemoryPeer, MemoryPortConfig, open};
use crate::{
    memory::{Depot, FramePool},
    port::{OpenPortError, OpenedPort, PortOpener, PortRequest},
};

/// Opens a memory port for each request, whatever its backend.
#[derive(Debug)]
pub struct MemoryOpener {
    config: MemoryPortConfig,
    depot: Arc<Depot>,
    peers: MemoryPeers,
}

impl MemoryOpener {
    /// Opens ports of this size, with frames of `depot`.
    #[must_use]
    pub fn new(config: MemoryPortConfig, depot: Arc<Depot>) -> Self {
        Self { config, depot, peers: MemoryPeers::default() }
    }

    /// Where the far sides are.
    #[must_use]
    pub fn peers(&self) -> MemoryPeers {
        self.peers.clone()
    }
}

impl PortOpener for MemoryOpener {
    fn open(
        &mut self,
        request: &PortRequest,
        _pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        let (opened, peer) = open(request.port, self.config, &self.depot).map_err(|source| {
            OpenPortError { name: request.name.clone(), source: Box::new(source) }
        })?;
        let mut peers = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A port that is opened again has a new far side; the former one goes.
        peers.insert(request.name.clone(), peer);
        Ok(opened)
    }
}

/// The far sides of ports that were opened and not taken yet, by name.
#[derive(Clone, Debug, Default)]
pub struct MemoryPeers(Arc<Mutex<HashMap<String, MemoryPeer>>>);

impl MemoryPeers {
    /// The far side of port `name`.
    #[must_use]
    pub fn take(&self, name: &str) -> Option<MemoryPeer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }
}
