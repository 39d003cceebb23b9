//! A port as the main thread sees it: how it is opened, steered and described. Workers see its
//! queues only.

use std::{
    borrow::Cow,
    error,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use super::{PortQueue, PortRef};
use crate::memory::FramePool;

/// What a port is toward.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// The fabric: encapsulated and underlay traffic.
    Uplink,
    /// This node's own stack.
    Host,
    /// A pod or VM.
    Guest,
}

/// What carries a port's packets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Backend {
    /// An interface of the kernel.
    AfXdp(AfXdpBackend),
    /// The stack of a network namespace, behind a TAP device.
    Tap(TapBackend),
    /// A VMM or a DPDK application, behind a socket.
    VhostUser(VhostUserBackend),
    /// Rings in process, for tests.
    Memory,
}

impl Backend {
    /// The interface that the port is on, and the network namespace that it lives in (`None`: the
    /// engine's own); `None` if the port is on no interface.
    #[must_use]
    pub fn interface(&self) -> Option<(&str, Option<&Path>)> {
        match self {
            Self::AfXdp(it) => Some((&it.interface, it.netns_path.as_deref())),
            Self::Tap(it) => Some((&it.interface, it.netns_path.as_deref())),
            Self::VhostUser(_) | Self::Memory => None,
        }
    }
}

/// An interface to open, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AfXdpBackend {
    /// Our side's interface, by name.
    pub interface: String,
    /// The network namespace it lives in; `None`: the engine's own.
    pub netns_path: Option<PathBuf>,
    /// Queues to open, from 0; `None`: all that the device has. What comes in on a queue that is
    /// not open is lost, or on an uplink the kernel's.
    pub queues: Option<u16>,
    /// Which mode is asked for.
    pub mode: AfXdpMode,
    /// Frames from the far side may carry partial checksums.
    pub partial_checksums: bool,
}

/// A TAP device to open, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TapBackend {
    /// The device, by name.
    pub interface: String,
    /// The network namespace it lives in; `None`: the engine's own.
    pub netns_path: Option<PathBuf>,
    /// Queues to open; `None`: one a worker.
    pub queues: Option<u16>,
}

/// A vhost-user socket to serve, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VhostUserBackend {
    /// Where the socket is, in at most [`Self::SOCKET_PATH_BYTES_MAX`] bytes.
    pub socket_path: PathBuf,
    /// Who listens on it.
    pub mode: VhostUserMode,
    /// Queue pairs to offer; `None`: one a worker.
    pub queue_pairs: Option<u16>,
}

impl VhostUserBackend {
    /// What a `sockaddr_un` holds, less the terminating zero.
    pub const SOCKET_PATH_BYTES_MAX: usize = 107;
}

/// Who listens on a vhost-user socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VhostUserMode {
    /// The engine, which makes the socket.
    Server(SocketAccess),
    /// The frontend; the engine connects.
    Client,
}

/// Who may open a socket that the engine makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SocketAccess {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The bits of chmod(2).
    pub file_mode: u32,
}

/// Which AF_XDP mode is asked for. All but `Auto` fail where the device cannot do it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AfXdpMode {
    /// The best that the device can do.
    #[default]
    Auto,
    /// The device reads and writes packet memory.
    ZeroCopy,
    /// The kernel copies, in the driver's hook.
    Copy,
    /// The kernel copies, behind the driver: works with every device.
    Generic,
}

/// A port to open.
#[derive(Clone, Debug)]
pub struct PortRequest {
    /// The port's name.
    pub name: String,
    /// What received packets name as their ingress.
    pub port: PortRef,
    /// What it is toward.
    pub role: Role,
    /// What carries its packets.
    pub backend: Backend,
    /// The largest IP packet to carry, if not what the device says.
    pub mtu_bytes: Option<u32>,
    /// The MAC address of the far side, if it is known.
    pub mac_address: Option<[u8; 6]>,
    /// Workers there are, to share the queues between them.
    pub worker_count: u16,
}

/// Opens ports. Called on a helper thread, for opening may block for seconds.
pub trait PortOpener: Send {
    /// Opens one port. Its receive rings draw their frames from `pool`.
    ///
    /// No packet comes in before [`PortDevice::steer`] says so.
    ///
    /// # Errors
    ///
    /// Fails if the device is not there or cannot do what is asked; what was opened on the way is
    /// closed again.
    fn open(
        &mut self,
        request: &PortRequest,
        pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError>;
}

/// A port that was opened.
pub struct OpenedPort {
    /// One a device queue, in order; workers take them over.
    pub queues: Vec<Box<dyn PortQueue>>,
    /// The rest of it; stays with the main thread.
    pub device: Box<dyn PortDevice>,
}

/// An open port's device. Dropped, and thereby closed, after its last queue is drained.
pub trait PortDevice: Send {
    /// What carries the packets and in which mode: "`af_xdp` zero-copy", "`af_xdp` copy", "tap",
    /// "vhost-user", "memory".
    fn backend(&self) -> &str;

    /// Why it is not in the best mode, or what its far side does; empty if there is nothing to say.
    fn detail(&self) -> Cow<'_, str>;

    /// What has happened at the port since the last call that the operator should know, one sentence
    /// at a time and at a bounded rate.
    fn take_notice(&self, _now: Instant) -> Option<String> {
        None
    }

    /// The device's own MAC address, if it has one.
    fn mac_address(&self) -> Option<[u8; 6]>;

    /// The largest IP packet that the device carries.
    fn mtu_bytes(&self) -> u32;

    /// The kernel's interface that the port is on, if it is on one.
    fn interface(&self) -> Option<PortInterface> {
        None
    }

    /// The NUMA node that the device is attached to, if known.
    fn numa_node(&self) -> Option<u32>;

    /// Says which packets come to us from now on; the rest stay with the kernel.
    ///
    /// Called after the configuration that serves them is in force, and with [`Steering::Nothing`]
    /// before it ends.
    ///
    /// # Errors
    ///
    /// Fails if the device is gone or its steering has no more room.
    fn steer(&mut self, steering: &Steering) -> Result<(), SteerError>;

    /// Packets that the kernel dropped before we saw them, if known.
    fn kernel_rx_dropped(&self) -> Option<u64>;
}

/// An interface of the kernel that carries a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PortInterface {
    /// The kernel's number for it, in its network namespace. A later interface of the same name has
    /// another.
    pub index: u32,
    /// The largest IP packet that the port's frames hold, in bytes, whatever the interface's MTU.
    pub frame_mtu_bytes: u32,
}

/// Which packets of a device come to us.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Steering {
    /// None: before the port is in force, and before it is closed.
    #[default]
    Nothing,
    /// All: guest ports and the host port.
    Everything,
    /// Those of our tunnels, and ICMP errors about them: the uplink, which is shared with the
    /// kernel.
    Tunnels {
        /// Our own tunnel endpoints.
        addresses: Vec<IpAddr>,
        /// UDP ports on which encapsulated packets arrive.
        udp_ports: Vec<u16>,
    },
}

/// Why a port could not be opened: the backend's own error, with its next step.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {name}")]
pub struct OpenPortError {
    /// The port.
    pub name: String,
    /// What the backend says.
    #[source]
    pub source: Box<dyn error::Error + Send + Sync>,
}

/// Why packets could not be steered to a port: the backend's own error.
#[derive(Debug, thiserror::Error)]
#[error("cannot steer packets to the port")]
pub struct SteerError {
    /// What the backend says.
    #[source]
    pub source: Box<dyn error::Error + Send + Sync>,
}
