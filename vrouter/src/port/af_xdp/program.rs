//! The XDP programs: loaded, attached to a device, and told which frames are ours.
//!
//! There are two: `redirect` gives every frame to us (guest ports, the host port), `steer` those of
//! our tunnels (an uplink that is shared with the kernel). Their sources and objects are in
//! `vrouter/bpf`. Both redirect through the map `sockets`; where that has no socket, `redirect`
//! drops and `steer` passes.

use std::{collections::HashSet, net::IpAddr, os::fd::AsFd, sync::Weak};

use aya::{
    Ebpf, EbpfError, EbpfLoader, include_bytes_aligned,
    maps::{HashMap, Map, MapData, MapError, XskMap},
    programs::{ProgramError, Xdp, XdpMode, xdp::XdpLink},
};

use super::{pin::Pin, socket::Socket};
use crate::port::Steering;

static REDIRECT_OBJECT: &[u8] =
    include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/redirect.bpf.o"));
static STEER_OBJECT: &[u8] =
    include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/steer.bpf.o"));

/// Which program a device gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ProgramKind {
    /// All frames are ours.
    Redirect,
    /// Those of our tunnels are ours.
    Steer,
}

impl ProgramKind {
    fn object(self) -> &'static [u8] {
        match self {
            Self::Redirect => REDIRECT_OBJECT,
            Self::Steer => STEER_OBJECT,
        }
    }

    /// The program's name in its object.
    fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Steer => "steer",
        }
    }
}

/// Why a program could not be loaded, attached or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ProgramFault {
    #[error("cannot load the XDP program; it needs CAP_BPF and CAP_NET_ADMIN, or root")]
    Load(#[source] Box<EbpfError>),
    #[error(
        "the XDP object has no {part}; it was not built from this source: run vrouter/bpf/build"
    )]
    Part { part: &'static str },
    #[error("cannot load the XDP program; it needs CAP_BPF and CAP_NET_ADMIN, or root")]
    Verify(#[source] Box<ProgramError>),
    #[error("cannot attach the XDP program")]
    Attach(#[source] Box<ProgramError>),
    #[error("cannot pin the XDP program, so the engine's end would detach it")]
    Pin(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot change the XDP program's maps")]
    Map(#[source] MapError),
}

/// Loads programs. Kept, for it is costly to make: the library reads all of the kernel's type
/// information for each, which our programs have no use for.
pub(super) struct Loader(EbpfLoader<'static>);

impl Loader {
    /// A loader.
    pub(super) fn new() -> Self {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        Self(loader)
    }
}

/// A program in the kernel, not attached yet, and its maps.
pub(super) struct LoadedProgram {
    ebpf: Ebpf,
    kind: ProgramKind,
}

/// The maps of a program.
pub(super) struct ProgramMaps {
    pub(super) sockets: XskMap<MapData>,
    /// Own addresses and tunnel ports; `steer` only.
    pub(super) tunnels: Option<TunnelMaps>,
}

/// The maps that say which packets are our tunnels'. Keys are in network order.
pub(super) struct TunnelMaps {
    pub(super) addresses: HashMap<MapData, [u8; 16], u8>,
    pub(super) udp_ports: HashMap<MapData, [u8; 2], u8>,
}

/// A program at work on a device. Dropped, it is detached, unless it is pinned.
pub(super) struct AttachedProgram {
    maps: ProgramMaps,
    _link: XdpLink,
    /// Whether it runs in the driver.
    pub(super) is_native: bool,
}

impl LoadedProgram {
    /// Loads a program of a kind, with empty maps: it steers nothing to us.
    pub(super) fn load(loader: &mut Loader, kind: ProgramKind) -> Result<Self, ProgramFault> {
        let result = loader.0.load(kind.object());
        let mut ebpf = result.map_err(|error| ProgramFault::Load(Box::new(error)))?;
        program_of(&mut ebpf, kind)?
            .load()
            .map_err(|error| ProgramFault::Verify(Box::new(error)))?;
        Ok(Self { ebpf, kind })
    }

    /// The program itself.
    pub(super) fn program(&mut self) -> Result<&mut Xdp, ProgramFault> {
        program_of(&mut self.ebpf, self.kind)
    }

    /// Takes the maps out.
    pub(super) fn take_maps(&mut self) -> Result<ProgramMaps, ProgramFault> {
        let sockets = self.take_map("sockets")?;
        let tunnels = match self.kind {
            ProgramKind::Redirect => None,
            ProgramKind::Steer => Some(TunnelMaps {
                addresses: self.take_map("addresses")?.try_into().map_err(ProgramFault::Map)?,
                udp_ports: self.take_map("udp_ports")?.try_into().map_err(ProgramFault::Map)?,
            }),
        };
        Ok(ProgramMaps { sockets: sockets.try_into().map_err(ProgramFault::Map)?, tunnels })
    }

    /// Attaches the program in the driver's hook, or in the generic one, and pins it there.
    ///
    /// After an error the program is as before, so that the other hook can be tried.
    pub(super) fn attach(
        &mut self,
        interface_index: u32,
        is_native: bool,
        pin: Option<&Pin>,
    ) -> Result<AttachedProgram, ProgramFault> {
        let mode = if is_native { XdpMode::Driver } else { XdpMode::Skb };
        let attach_error = |error| ProgramFault::Attach(Box::new(error));
        let program = self.program()?;
        let id = program.attach_to_if_index(interface_index, mode).map_err(attach_error)?;
        let mut link = program.take_link(id).map_err(attach_error)?;
        if let Some(pin) = pin {
            link = pin.keep(link).map_err(ProgramFault::Pin)?;
        }
        Ok(AttachedProgram::new(self.take_maps()?, link, is_native))
    }

    fn take_map(&mut self, name: &'static str) -> Result<Map, ProgramFault> {
        self.ebpf.take_map(name).ok_or(ProgramFault::Part { part: name })
    }
}

impl AttachedProgram {
    /// A program at work, with its maps and its link.
    pub(super) fn new(maps: ProgramMaps, link: XdpLink, is_native: bool) -> Self {
        Self { maps, _link: link, is_native }
    }

    /// Makes the program give us what `steering` says, through `sockets`, one a queue in order.
    ///
    /// What is steered more comes into force last, and what is steered less goes first, so that at
    /// no moment a frame comes to us that neither the old nor the new steering names.
    pub(super) fn steer(
        &mut self,
        steering: &Steering,
        sockets: &[Weak<Socket>],
    ) -> Result<(), MapError> {
        let (addresses, udp_ports) = match steering {
            Steering::Nothing => {
                self.disconnect(sockets.len())?;
                (HashSet::new(), HashSet::new())
            }
            Steering::Everything => return self.connect(sockets),
            Steering::Tunnels { addresses, udp_ports } => (
                addresses.iter().map(|address| mapped(*address)).collect(),
                udp_ports.iter().map(|port| port.to_be_bytes()).collect(),
            ),
        };
        if let Some(tunnels) = &mut self.maps.tunnels {
            synchronise(&mut tunnels.addresses, &addresses)?;
            synchronise(&mut tunnels.udp_ports, &udp_ports)?;
        }
        if *steering == Steering::Nothing { Ok(()) } else { self.connect(sockets) }
    }

    fn connect(&mut self, sockets: &[Weak<Socket>]) -> Result<(), MapError> {
        for (queue, socket) in (0..).zip(sockets) {
            if let Some(socket) = socket.upgrade() {
                self.maps.sockets.set(queue, socket.as_fd(), 0)?;
            }
        }
        Ok(())
    }

    fn disconnect(&mut self, queues: usize) -> Result<(), MapError> {
        for queue in (0..).take(queues) {
            match self.maps.sockets.unset(queue) {
                // A socket that was closed has left the map by itself.
                Err(MapError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(MapError::ElementNotFound | MapError::KeyNotFound) => {}
                result => result?,
            }
        }
        Ok(())
    }
}

fn program_of(ebpf: &mut Ebpf, kind: ProgramKind) -> Result<&mut Xdp, ProgramFault> {
    let part = ProgramFault::Part { part: kind.name() };
    let Some(program) = ebpf.program_mut(kind.name()) else { return Err(part) };
    program.try_into().map_err(|_| part)
}

/// An address as the program's maps have it: an IPv4 address as an IPv4-mapped one.
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Makes a map's keys be `wanted`.
fn synchronise<K: aya::Pod + Eq + std::hash::Hash>(
    map: &mut HashMap<MapData, K, u8>,
    wanted: &HashSet<K>,
) -> Result<(), MapError> {
    let present: HashSet<K> = map.keys().collect::<Result<_, _>>()?;
    for key in present.difference(wanted) {
        map.remove(key)?;
    }
    for key in wanted.difference(&present) {
        map.insert(key, 1, 0)?;
    }
    Ok(())
}
