//! Opens ports of all kinds.

use std::{path::PathBuf, sync::Arc};

use vrouter::{
    memory::{Depot, FramePool},
    port::{
        Backend, OpenPortError, OpenedPort, PortOpener, PortRequest,
        af_xdp::AfXdpOpener,
        memory::{MemoryOpener, MemoryPortConfig},
        tap::TapOpener,
        vhost_user::VhostUserOpener,
    },
};

/// Picks the opener by the port's backend.
pub(super) struct Openers {
    af_xdp: AfXdpOpener,
    memory: MemoryOpener,
    tap: TapOpener,
    vhost_user: VhostUserOpener,
}

impl Openers {
    /// Openers over one region of packet memory.
    pub(super) fn new(depot: &Arc<Depot>, pin_folder: Option<PathBuf>) -> Self {
        Self {
            af_xdp: AfXdpOpener::new(Arc::clone(depot.region()), pin_folder),
            memory: MemoryOpener::new(MemoryPortConfig::default(), Arc::clone(depot)),
            tap: TapOpener,
            vhost_user: VhostUserOpener,
        }
    }
}

impl PortOpener for Openers {
    fn open(
        &mut self,
        request: &PortRequest,
        pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        match &request.backend {
            Backend::AfXdp(_) => self.af_xdp.open(request, pool),
            Backend::Memory => self.memory.open(request, pool),
            Backend::Tap(_) => self.tap.open(request, pool),
            Backend::VhostUser(_) => self.vhost_user.open(request, pool),
        }
    }
}
