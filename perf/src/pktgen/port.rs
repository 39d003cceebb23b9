//! Where frames go out and come in.
//!
//! A port is opened, used and closed by one thread, which has entered the port's network namespace
//! for good: an AF_XDP socket takes its XDP program off again when it is closed, and finds the
//! interface by a number that only its own namespace knows. A port that is both sender's and sink's
//! has two threads; both are in the namespace.

mod af_xdp;
mod interface;
mod memory;
mod tap;
mod vhost_user;

use std::{
    fmt, fs::File, io, os::fd::AsFd, path::PathBuf, str::FromStr, sync::Arc, time::Duration,
};

use rustix::{
    event::Timespec,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::clock::now_ns;
use ::vrouter::port::vhost_user::driver::ConnectError;
pub use af_xdp::{AfXdpSpec, CopyMode};
pub use memory::{Clock, MemorySpec, memory_link};
pub use vhost_user::VhostUserSpec;

/// Sends frames.
pub trait TxPort {
    /// The largest frame it takes, in bytes with FCS.
    fn frame_bytes_max(&self) -> usize;

    /// Takes up to `count` frames: calls `write` for each one, in order, which writes it to the
    /// front of the buffer and returns its bytes. Returns how many were taken.
    ///
    /// # Errors
    ///
    /// Fails if the port is gone.
    fn send(
        &mut self,
        count: usize,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> io::Result<usize>;

    /// Sees to it that what was taken leaves; returns how many frames have not yet.
    ///
    /// # Errors
    ///
    /// Fails if the port is gone.
    fn flush(&mut self) -> io::Result<usize>;
}

/// Receives frames.
pub trait RxPort {
    /// Gives a burst of received frames, without FCS, to `take`; returns how many.
    ///
    /// # Errors
    ///
    /// Fails if the port is gone.
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize>;

    /// Waits until frames are there, for `limit` at most.
    ///
    /// # Errors
    ///
    /// Fails if the port is gone.
    fn wait(&mut self, limit: Duration) -> io::Result<()>;

    /// Frames that came, and that the port lost since it was opened because nobody took them in
    /// time.
    ///
    /// # Errors
    ///
    /// Fails if the port does not tell.
    fn lost(&self) -> io::Result<u64>;
}

/// The other way to name a vhost-user port.
const VHOST_USER_CLIENT: &str = "vhost-user-client=";

/// Both ends of an open port.
pub type Halves = (Box<dyn TxPort + Send>, Box<dyn RxPort + Send>);

/// Which port to open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortSpec {
    /// What kind, and which.
    pub kind: PortKind,
    /// The network namespace it is in, if not the process's own.
    pub netns: Option<PathBuf>,
}

/// A kind of port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PortKind {
    /// An interface, or one of its queues.
    AfXdp(AfXdpSpec),
    /// A TAP interface, by its name.
    Tap(String),
    /// A vhost-user backend, by its socket.
    VhostUser(VhostUserSpec),
    /// A link in memory.
    Memory(MemorySpec),
}

/// What a port is opened for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Use {
    /// Nothing is received: other programs go on receiving.
    Send,
    /// Frames are received, and maybe sent.
    Receive,
}

impl PortSpec {
    /// Moves the calling thread into the port's network namespace.
    ///
    /// # Errors
    ///
    /// Fails if there is none of this name, or the process may not enter it.
    pub fn enter_namespace(&self) -> Result<(), OpenPortError> {
        let Some(path) = &self.netns else { return Ok(()) };
        let enter = || -> io::Result<()> {
            let file = File::open(path)?;
            Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
        };
        enter().map_err(|source| OpenPortError::Namespace { path: path.clone(), source })
    }

    /// Opens the port in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// Fails if there is no such interface or queue, if it is down, or the process may not.
    pub fn open(&self, purpose: Use) -> Result<Halves, OpenPortError> {
        match &self.kind {
            PortKind::AfXdp(spec) => spec.open(purpose),
            PortKind::Tap(interface) => tap::open(interface),
            PortKind::VhostUser(spec) => spec.open(),
            PortKind::Memory(spec) => Ok(memory_link(spec, Arc::new(now_ns))),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            PortKind::AfXdp(spec) => write!(formatter, "af_xdp:{}", spec.interface)?,
            PortKind::Tap(interface) => write!(formatter, "tap:{interface}")?,
            PortKind::VhostUser(spec) => write!(formatter, "vhost-user:{}", spec.socket_path)?,
            PortKind::Memory(_) => write!(formatter, "memory")?,
        }
        match &self.netns {
            Some(path) => write!(formatter, " in {}", path.display()),
            None => Ok(()),
        }
    }
}

impl FromStr for PortSpec {
    type Err = PortSpecError;

    fn from_str(text: &str) -> Result<Self, PortSpecError> {
        let mut parts = text.split(',');
        let port = parts.next().unwrap_or_default();
        let mut options = Options::default();
        for part in parts {
            options.enter(part)?;
        }
        let (kind, name) = port.split_once(':').unwrap_or((port, ""));
        let needs_name = || match name {
            "" => Err(PortSpecError::NoInterface(kind.to_owned())),
            name => Ok(name.to_owned()),
        };
        let netns = options.take("netns").map(|name| {
            if name.contains('/') { name.into() } else { PathBuf::from("/run/netns").join(name) }
        });
        let kind = match kind {
            _ if port.starts_with(VHOST_USER_CLIENT) => {
                let socket_path = port.strip_prefix(VHOST_USER_CLIENT).unwrap_or_default();
                PortKind::VhostUser(VhostUserSpec::parse(socket_path.to_owned(), &mut options)?)
            }
            "af_xdp" => PortKind::AfXdp(AfXdpSpec::parse(needs_name()?, &mut options)?),
            "tap" => PortKind::Tap(needs_name()?),
            "vhost-user" if !name.is_empty() => {
                PortKind::VhostUser(VhostUserSpec::parse(name.to_owned(), &mut options)?)
            }
            "memory" if name.is_empty() => PortKind::Memory(MemorySpec::parse(&mut options)?),
            _ => return Err(PortSpecError::UnknownKind(port.to_owned())),
        };
        options.finish()?;
        Ok(Self { kind, netns })
    }
}

/// Options behind a port's name: `name=value`, separated by commas.
#[derive(Debug, Default)]
struct Options(Vec<(String, String)>);

impl Options {
    fn enter(&mut self, part: &str) -> Result<(), PortSpecError> {
        match part.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => {
                self.0.push((name.to_owned(), value.to_owned()));
                Ok(())
            }
            _ => Err(PortSpecError::NotAnOption(part.to_owned())),
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    /// A number, if the option is given.
    fn number<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, PortSpecError> {
        let parse = |value: String| {
            let wrong = PortSpecError::BadValue { name: name.to_owned(), value: value.clone() };
            value.parse().map_err(|_| wrong)
        };
        self.take(name).map(parse).transpose()
    }

    /// Whatever was not taken is not known.
    fn finish(self) -> Result<(), PortSpecError> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(PortSpecError::UnknownOption(name)),
            None => Ok(()),
        }
    }
}

/// Why a text names no port.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum PortSpecError {
    #[error("{0:?} is no port; give af_xdp:INTERFACE, tap:INTERFACE, vhost-user:SOCKET or memory")]
    UnknownKind(String),
    #[error("{0} needs an interface, as in {0}:veth0")]
    NoInterface(String),
    #[error("{0:?} is no option; give NAME=VALUE")]
    NotAnOption(String),
    #[error("this kind of port has no option {0}; see vrouter-perf pktgen --help")]
    UnknownOption(String),
    #[error("{value:?} is no value for the option {name}; see vrouter-perf pktgen --help")]
    BadValue { name: String, value: String },
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum OpenPortError {
    #[error("cannot enter the network namespace {}; ip netns list shows those there are", path.display())]
    Namespace { path: PathBuf, source: io::Error },
    #[error("there is no interface {interface} here; ip link shows those there are")]
    NoSuchInterface { interface: String, source: io::Error },
    #[error("{interface} is down; run: ip link set {interface} up")]
    Down { interface: String },
    #[error("{interface} has no carrier; is the other end up?")]
    NoCarrier { interface: String },
    #[error(
        "cannot open {interface}: not permitted; run as root, or with the capabilities CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_SYS_ADMIN"
    )]
    NotPermitted { interface: String },
    #[error("cannot bind an AF_XDP socket to {interface} queue {queue}: {hint}")]
    Bind { interface: String, queue: u32, hint: &'static str, source: io::Error },
    #[error("cannot open /dev/net/tun; run: modprobe tun")]
    NoTunDevice { source: io::Error },
    #[error("cannot attach to {interface}: {hint}")]
    Attach { interface: String, hint: &'static str, source: io::Error },
    #[error("cannot use the backend of {socket_path}; does it listen there?")]
    VhostUser { socket_path: String, source: Box<ConnectError> },
    #[error("cannot register packet memory")]
    PacketMemory { source: io::Error },
    #[error("the kernel's AF_XDP library failed: {reason}")]
    Library { reason: String },
}

/// A limit as the kernel takes it.
fn timespec(limit: Duration) -> Timespec {
    Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_by_kind_interface_and_options() {
        let spec: PortSpec = "af_xdp:veth0,netns=red,queue=2,mode=copy".parse().unwrap();
        let expected =
            AfXdpSpec { interface: "veth0".into(), queue: Some(2), copy: Some(CopyMode::Copy) };
        assert_eq!(spec.kind, PortKind::AfXdp(expected));
        assert_eq!(spec.netns, Some("/run/netns/red".into()));
        assert_eq!(spec.to_string(), "af_xdp:veth0 in /run/netns/red");
        let vhost: PortSpec = "vhost-user-client=/run/a:b,ring=packed,entries=256".parse().unwrap();
        let PortKind::VhostUser(spec) = &vhost.kind else { panic!("{vhost:?}") };
        assert_eq!((&spec.socket_path[..], spec.packed, spec.entries), ("/run/a:b", true, 256));
        assert_eq!(vhost, "vhost-user:/run/a:b,ring=packed,entries=256".parse().unwrap());
        assert_eq!("memory".parse::<PortSpec>().unwrap().netns, None);
    }

    #[test]
    fn what_names_no_port_is_told() {
        for (text, expected) in [
            ("", "is no port; give af_xdp:INTERFACE"),
            ("veth0", "is no port"),
            ("af_xdp", "needs an interface, as in af_xdp:veth0"),
            ("tap:", "needs an interface, as in tap:veth0"),
            ("tap:tap0,queue=1", "has no option queue"),
            ("af_xdp:veth0,queue", "\"queue\" is no option; give NAME=VALUE"),
            ("af_xdp:veth0,queue=x", "\"x\" is no value for the option queue"),
            ("af_xdp:veth0,mode=fast", "\"fast\" is no value for the option mode"),
            ("memory,queue=1", "has no option queue"),
            ("vhost-user:/s,ring=round", "\"round\" is no value for the option ring"),
        ] {
            let error = text.parse::<PortSpec>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_told() {
        let spec: PortSpec = "af_xdp:lo,netns=vr-no-such".parse().unwrap();
        let error = spec.enter_namespace().unwrap_err().to_string();
        assert!(error.starts_with("cannot enter the network namespace /run/netns/vr-no-such"));
    }
}
