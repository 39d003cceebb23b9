//! Opens a TAP device as a port: attaches to its queues, by name, in its namespace.

use std::{
    borrow::Cow,
    cell::RefCell,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Release},
    },
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
};

use super::{attach, queue::TapQueue};
use crate::{
    memory::FramePool,
    netlink::Connection,
    port::{
        Backend, OpenPortError, OpenedPort, PortDevice, PortInterface, PortOpener, PortQueue,
        PortRequest, SteerError, Steering, TapBackend,
        af_xdp::{Interface, TunKind},
        namespace,
    },
};

/// Queues that the kernel gives a TAP device at most (`MAX_TAP_QUEUES`).
const QUEUES_MAX: u16 = 256;

/// Why a TAP device could not be opened as a port.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum OpenTapError {
    #[error("this opener opens TAP ports only")]
    OtherBackend,
    #[error("cannot enter the network namespace; does its path exist?")]
    Namespace(#[from] io::Error),
    #[error("there is no interface {interface}; create it first")]
    NoInterface { interface: String },
    #[error("cannot look at interface {interface}")]
    Interface {
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "{interface} is no TAP device but {found}; remove it, and make one with \
         ip tuntap add dev {interface} mode tap multi_queue vnet_hdr"
    )]
    OtherKind { interface: String, found: String },
    #[error(
        "{interface} has one queue only, so {asked} cannot be opened; make it anew with multi_queue"
    )]
    SingleQueue { interface: String, asked: u16 },
    #[error(
        "a TAP device has {QUEUES_MAX} queues at most, so {asked} of {interface} cannot be opened"
    )]
    TooManyQueues { interface: String, asked: u16 },
    #[error(
        "another process has queues of {interface} open; end it (ls -l /proc/*/fd | grep net/tun)"
    )]
    Busy { interface: String },
    #[error("cannot open /dev/net/tun; load the module (modprobe tun), or grant the device")]
    NoDevice(#[source] io::Error),
    #[error("cannot attach to queue {queue} of {interface}; the engine needs CAP_NET_ADMIN")]
    Attach {
        interface: String,
        queue: u16,
        #[source]
        source: io::Error,
    },
    #[error("{interface} takes no virtio-net header; Linux 4.20 or later is needed")]
    Header {
        interface: String,
        #[source]
        source: io::Error,
    },
}

/// Opens TAP ports.
#[derive(Debug, Default)]
pub struct TapOpener;

impl PortOpener for TapOpener {
    fn open(
        &mut self,
        request: &PortRequest,
        _pool: &mut FramePool,
    ) -> Result<OpenedPort, OpenPortError> {
        let path: Option<&Path> = request.backend.interface().and_then(|(_, path)| path);
        let result = namespace::inside(path, || open_device(request));
        result.map_err(|source| OpenPortError {
            name: request.name.clone(),
            source: Box::new(source),
        })
    }
}

fn open_device(request: &PortRequest) -> Result<OpenedPort, OpenTapError> {
    let Backend::Tap(backend) = &request.backend else { return Err(OpenTapError::OtherBackend) };
    let interface = find(&backend.interface)?;
    let is_multi_queue = check(&interface)?;
    let queue_count = queue_count(backend, is_multi_queue, request.worker_count)?;
    let is_steered = Arc::new(AtomicBool::new(false));
    let mut queues: Vec<Box<dyn PortQueue>> = Vec::new();
    let mut takes_udp = true;
    for queue in 0..queue_count {
        let way = attach::open().map_err(OpenTapError::NoDevice)?;
        let fd = attach::attach(way, &interface.name, is_multi_queue)
            .map_err(|source| refused(&interface.name, queue, source))?;
        let offloads = attach::agree(&fd)
            .map_err(|source| OpenTapError::Header { interface: interface.name.clone(), source })?;
        takes_udp &= offloads.udp;
        queues.push(Box::new(TapQueue::new(fd, request.port, offloads, Arc::clone(&is_steered))));
    }
    // Another one of that name would be the kernel's answer to ours, if it went meanwhile.
    if find(&backend.interface)?.index != interface.index {
        return Err(OpenTapError::NoInterface { interface: interface.name });
    }
    let kernel = Connection::open()
        .map_err(|source| OpenTapError::Interface { interface: interface.name.clone(), source })?;
    let mut device = TapDevice {
        kernel: RefCell::new(kernel),
        dropped_before: 0,
        detail: if takes_udp { "" } else { "no UDP segmentation: Linux 6.2 has it" },
        interface,
        is_steered,
    };
    device.dropped_before = device.tx_dropped().unwrap_or(0);
    Ok(OpenedPort { queues, device: Box::new(device) })
}

fn find(name: &str) -> Result<Interface, OpenTapError> {
    Interface::find(name).map_err(|source| {
        let interface = name.to_owned();
        if source.kind() == io::ErrorKind::NotFound {
            OpenTapError::NoInterface { interface }
        } else {
            OpenTapError::Interface { interface, source }
        }
    })
}

/// Whether the device has many queues; an error if it is no TAP device, or somebody else's.
fn check(interface: &Interface) -> Result<bool, OpenTapError> {
    let name = || interface.name.clone();
    match interface.tun {
        None => {
            let found = format!("a {} interface", interface.driver);
            Err(OpenTapError::OtherKind { interface: name(), found })
        }
        Some(TunKind { is_tap: false, .. }) => {
            Err(OpenTapError::OtherKind { interface: name(), found: "a TUN device".into() })
        }
        Some(TunKind { queues_open: 1.., .. }) => Err(OpenTapError::Busy { interface: name() }),
        Some(kind) => Ok(kind.is_multi_queue),
    }
}

fn queue_count(
    backend: &TapBackend,
    is_multi_queue: bool,
    worker_count: u16,
) -> Result<u16, OpenTapError> {
    let interface = || backend.interface.clone();
    match backend.queues {
        Some(asked) if asked > QUEUES_MAX => {
            Err(OpenTapError::TooManyQueues { interface: interface(), asked })
        }
        Some(asked) if asked > 1 && !is_multi_queue => {
            Err(OpenTapError::SingleQueue { interface: interface(), asked })
        }
        Some(asked) => Ok(asked),
        None if is_multi_queue => Ok(worker_count.clamp(1, QUEUES_MAX)),
        None => Ok(1),
    }
}

fn refused(interface: &str, queue: u16, source: io::Error) -> OpenTapError {
    let interface = interface.to_owned();
    if source.raw_os_error() == Some(libc::EBUSY) {
        return OpenTapError::Busy { interface };
    }
    OpenTapError::Attach { interface, queue, source }
}

/// An open TAP device, as the main thread sees it.
struct TapDevice {
    interface: Interface,
    /// Read by the queues.
    is_steered: Arc<AtomicBool>,
    detail: &'static str,
    /// A connection in the device's namespace.
    kernel: RefCell<Connection>,
    /// What the device had dropped when it was opened.
    dropped_before: u64,
}

impl TapDevice {
    /// What the stack gave the device and no queue had room for.
    fn tx_dropped(&self) -> Option<u64> {
        let mut message = LinkMessage::default();
        message.header.index = self.interface.index;
        let request = RouteNetlinkMessage::GetLink(message);
        let answers = self.kernel.borrow_mut().request(request, 0).ok()?;
        answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => {
                link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::Stats64(stats) => Some(stats.tx_dropped),
                    _ => None,
                })
            }
            _ => None,
        })
    }
}

impl PortDevice for TapDevice {
    fn backend(&self) -> &'static str {
        "tap"
    }

    fn detail(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.detail)
    }

    fn mac_address(&self) -> Option<[u8; 6]> {
        self.interface.mac_address
    }

    fn mtu_bytes(&self) -> u32 {
        self.interface.mtu_bytes
    }

    fn interface(&self) -> Option<PortInterface> {
        // A packet is a chain of as many frames as it takes.
        Some(PortInterface { index: self.interface.index, frame_mtu_bytes: u32::MAX })
    }

    fn numa_node(&self) -> Option<u32> {
        None
    }

    fn steer(&mut self, steering: &Steering) -> Result<(), SteerError> {
        self.is_steered.store(*steering != Steering::Nothing, Release);
        Ok(())
    }

    fn kernel_rx_dropped(&self) -> Option<u64> {
        self.tx_dropped().map(|dropped| dropped.saturating_sub(self.dropped_before))
    }
}
