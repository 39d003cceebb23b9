//! What was told about interfaces, for ports that are being opened meanwhile.

use std::collections::{BTreeMap, BTreeSet};

/// What was told last of each interface of the engine's own namespace, by the kernel's number.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// MTUs that changed since the engine started, in bytes.
    mtus: BTreeMap<u32, u32>,
    /// Those that went while a port was being opened, which may be on one of them.
    gone: BTreeSet<u32>,
}

impl Interfaces {
    pub(super) fn set_mtu(&mut self, index: u32, mtu_bytes: u32) {
        self.mtus.insert(index, mtu_bytes);
    }

    /// An interface is gone. While no port is being opened nobody asks for it again.
    pub(super) fn gone(&mut self, index: u32, is_any_opening: bool) {
        self.mtus.remove(&index);
        if is_any_opening {
            self.gone.insert(index);
        } else {
            self.gone.clear();
        }
    }

    pub(super) fn mtu(&self, index: u32) -> Option<u32> {
        self.mtus.get(&index).copied()
    }

    pub(super) fn is_gone(&self, index: u32) -> bool {
        self.gone.contains(&index)
    }
}
