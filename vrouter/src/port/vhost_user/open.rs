//! Opens a socket as a port.

use std::{borrow::Cow, io, path::PathBuf, time::Instant};

use super::{
    config_space::ConfigSpace,
    features,
    frontend::Offer,
    queue::VhostUserQueue,
    queues::Queues,
    session::{Meeting, SessionHandle},
    socket::{MakeSocketError, SocketPlace},
};
use crate::{
    memory::FramePool,
    port::{
        Backend, OpenPortError, OpenedPort, PortDevice, PortOpener, PortQueue, PortRequest,
        SteerError, Steering, VhostUserBackend, VhostUserMode,
    },
};

/// Queue pairs of one port at most: the messages with a ring's descriptor number it in a byte.
const QUEUE_PAIRS_MAX: u16 = 128;
/// The largest IP packet, in bytes, if the configuration does not say: as on an Ethernet.
const MTU_BYTES_DEFAULT: u16 = 1500;

/// Why a socket could not be opened as a port.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum OpenVhostUserError {
    #[error("this opener opens vhost-user ports only")]
    OtherBackend,
    #[error("{asked} queue pairs are not possible: at most {QUEUE_PAIRS_MAX}")]
    QueuePairs { asked: u16 },
    #[error(transparent)]
    Socket(#[from] MakeSocketError),
    #[error("there are no descriptors left for {path}; raise the limit of open files")]
    Descriptors {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the session of {path}; raise the limit of threads or open files")]
    Session {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Opens vhost-user ports.
#[derive(Debug, Default)]
pub struct VhostUserOpener;

impl PortOpener for VhostUserOpener {
    fn open(
        &mut self,
        request: &PortRequest,
        _pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        open(request).map_err(|source| OpenPortError {
            name: request.name.clone(),
            source: Box::new(source),
        })
    }
}

fn open(request: &PortRequest) -> Result<OpenedPort, OpenVhostUserError> {
    let Backend::VhostUser(backend) = &request.backend else {
        return Err(OpenVhostUserError::OtherBackend);
    };
    let VhostUserBackend { socket_path, mode, queue_pairs } = backend;
    let path = || socket_path.clone();
    let queue_pairs = queue_pairs.unwrap_or_else(|| request.worker_count.min(QUEUE_PAIRS_MAX));
    if !(1..=QUEUE_PAIRS_MAX).contains(&queue_pairs) {
        return Err(OpenVhostUserError::QueuePairs { asked: queue_pairs });
    }
    let mut queues: Vec<Box<dyn PortQueue>> = Vec::new();
    let mut controls = Vec::new();
    for _ in 0..queue_pairs {
        let (queue, control) = VhostUserQueue::new(request.port)
            .map_err(|source| OpenVhostUserError::Descriptors { path: path(), source })?;
        queues.push(Box::new(queue));
        controls.push(control);
    }
    let mtu_bytes = request
        .mtu_bytes
        .map_or(MTU_BYTES_DEFAULT, |mtu_bytes| u16::try_from(mtu_bytes).unwrap_or(u16::MAX));
    let mac_address = request.mac_address;
    let offer = Offer {
        features: features::offered(queue_pairs, mac_address.is_some()),
        queue_pairs,
        mtu_bytes,
        config: ConfigSpace::new(mac_address.unwrap_or_default(), queue_pairs, mtu_bytes),
    };
    let place = SocketPlace::open(socket_path)?;
    let meeting = match mode {
        VhostUserMode::Server(access) => Meeting::Serve(place.listen(access)?),
        VhostUserMode::Client => Meeting::Visit(place),
    };
    let session = SessionHandle::start(meeting, Queues::new(controls), offer)
        .map_err(|source| OpenVhostUserError::Session { path: path(), source })?;
    let device = VhostUserDevice { session, mac_address, mtu_bytes };
    Ok(OpenedPort { queues, device: Box::new(device) })
}

/// An open port, as the main thread sees it. Dropped, it ends the session and removes the socket.
#[derive(Debug)]
struct VhostUserDevice {
    session: SessionHandle,
    mac_address: Option<[u8; 6]>,
    mtu_bytes: u16,
}

impl PortDevice for VhostUserDevice {
    fn backend(&self) -> &'static str {
        "vhost-user"
    }

    fn detail(&self) -> Cow<'_, str> {
        Cow::Owned(self.session.status().detail())
    }

    fn take_notice(&self, now: Instant) -> Option<String> {
        self.session.status().take_notice(now)
    }

    fn mac_address(&self) -> Option<[u8; 6]> {
        self.mac_address
    }

    fn mtu_bytes(&self) -> u32 {
        self.mtu_bytes.into()
    }

    fn numa_node(&self) -> Option<u32> {
        None
    }

    fn steer(&mut self, steering: &Steering) -> Result<(), SteerError> {
        self.session.steer(*steering != Steering::Nothing);
        Ok(())
    }

    fn kernel_rx_dropped(&self) -> Option<u64> {
        None
    }
}
