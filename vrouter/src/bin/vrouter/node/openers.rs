//! Opens ports of all kinds.

use std::{path::PathBuf, sync::Arc};

use vrouter::{
    memory::{Depot, FramePool},
    port::{
        Backend, OpenPortError, OpenedPort, PortOpener, PortRequest,
        af_xdp::AfXdpOpener,
        memory::{MemoryOpener, MemoryPortConfig},
        tap::TapOpener,
    },
};

/// Picks the opener by the port's backend.
pub(super) struct Openers {
    af_xdp: AfXdpOpener,
    memory: MemoryOpener,
    tap: TapOpener,
}

/// A kind of port that the API knows and this engine does not.
#[derive(Debug, thiserror::Error)]
#[error("this engine has no {kind} ports; configure the port with another backend")]
struct OtherKind {
    kind: &'static str,
}

impl Openers {
    /// Openers over one region of packet memory.
    pub(super) fn new(depot: &Arc<Depot>, pin_folder: Option<PathBuf>) -> Self {
        Self {
            af_xdp: AfXdpOpener::new(Arc::clone(depot.region()), pin_folder),
            memory: MemoryOpener::new(MemoryPortConfig::default(), Arc::clone(depot)),
            tap: TapOpener,
        }
    }
}

impl PortOpener for Openers {
    fn open(
        &mut self,
        request: &PortRequest,
        pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        let other = |kind| {
            Err(OpenPortError { name: request.name.clone(), source: Box::new(OtherKind { kind }) })
        };
        match &request.backend {
            Backend::AfXdp(_) => self.af_xdp.open(request, pool),
            Backend::Memory => self.memory.open(request, pool),
            Backend::Tap(_) => self.tap.open(request, pool),
            Backend::VhostUser(_) => other("vhost-user"),
        }
    }
}
