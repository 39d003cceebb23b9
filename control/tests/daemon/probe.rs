//! Real connections between network namespaces: servers in pods, and clients that say whether they
//! got through.
//!
//! A socket belongs to the namespace it was made in, whoever uses it later: it is made by a thread
//! that enters the namespace and ends, and served by the test's runtime.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{AddressFamily, SocketType, ipproto, socket},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::node::LIMIT;

/// TCP ports that each server listens on.
pub(crate) const TCP_PORTS: [u16; 4] = [53, 80, 443, 8080];

/// The UDP ports.
pub(crate) const UDP_PORTS: [u16; 2] = [53, 8080];

/// How long a denied attempt is watched: a lost first packet would have been sent again by then.
const DENIED: Duration = Duration::from_millis(1500);

/// How long one attempt of several may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// What a client tries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Ping,
    Tcp(u16),
    Udp(u16),
    /// An INIT chunk and its answer, made by hand: the kernel may have no SCTP.
    Sctp(u16),
}

/// Makes sockets within a namespace.
pub(crate) fn within<T: Send>(namespace: &str, make: impl FnOnce() -> T + Send) -> T {
    let netns = File::open(format!("/run/netns/{namespace}")).unwrap();
    let work = || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        make()
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// Servers in a namespace. They end with this.
pub(crate) struct Servers(#[expect(dead_code, reason = "held, not used")] JoinSet<()>);

impl Servers {
    /// Listens on every port, for both families.
    pub(crate) fn start(namespace: &str) -> Self {
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        let (tcp, udp, sctp) = within(namespace, || {
            (
                TCP_PORTS.map(|port| TcpListener::bind((any, port)).unwrap()),
                UDP_PORTS.map(|port| UdpSocket::bind((any, port)).unwrap()),
                [true, false].map(|is_v6| raw_sctp(is_v6).unwrap()),
            )
        });
        let mut tasks = JoinSet::new();
        for listener in tcp {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tasks.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(echo(stream));
                }
            });
        }
        for socket in udp {
            let socket = from_std(socket);
            tasks.spawn(async move {
                let mut bytes = [0; 64];
                while let Ok((len, from)) = socket.recv_from(&mut bytes).await {
                    let _ = socket.send_to(&bytes[..len], from).await;
                }
            });
        }
        for (socket, is_v6) in sctp.into_iter().zip([true, false]) {
            tasks.spawn(answer_sctp(from_std(socket), is_v6));
        }
        Self(tasks)
    }
}

/// Says every byte again.
async fn echo(mut stream: TcpStream) {
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
}

async fn answer_sctp(socket: tokio::net::UdpSocket, is_v6: bool) {
    let mut bytes = [0; 256];
    while let Ok((len, from)) = socket.recv_from(&mut bytes).await {
        let Some(init) = SctpInit::parse(&bytes[..len], is_v6) else { continue };
        if init.chunk == SctpInit::INIT {
            let (source, destination) = (init.destination, init.source);
            let answer = SctpInit { chunk: SctpInit::ACK, source, destination };
            let _ = socket.send_to(&answer.bytes(), SocketAddr::new(from.ip(), 0)).await;
        }
    }
}

/// An SCTP packet with one INIT or INIT ACK chunk (RFC 9260 sections 3.3.2 and 3.3.3).
struct SctpInit {
    chunk: u8,
    source: u16,
    destination: u16,
}

impl SctpInit {
    const INIT: u8 = 1;
    const ACK: u8 = 2;

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        // An INIT goes out with tag 0; both sides choose the same one here.
        let tag: u32 = if self.chunk == Self::INIT { 0 } else { 7 };
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.chunk, 0, 0, 20]);
        bytes.extend(7_u32.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9]);
        let sum = crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&sum);
        bytes
    }

    /// What a raw socket receives: over IPv4, with the IP header.
    fn parse(bytes: &[u8], is_v6: bool) -> Option<Self> {
        let header = if is_v6 { 0 } else { usize::from(bytes.first()? & 15) * 4 };
        let port = |at: usize| Some(u16::from_be_bytes(*bytes.get(header + at..)?.first_chunk()?));
        let chunk = *bytes.get(header + 12)?;
        Some(Self { chunk, source: port(0)?, destination: port(2)? })
    }
}

/// The checksum of SCTP (RFC 9260 appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

fn raw_sctp(is_v6: bool) -> io::Result<UdpSocket> {
    let family = if is_v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    Ok(UdpSocket::from(socket(family, SocketType::RAW, Some(ipproto::SCTP))?))
}

fn from_std(socket: UdpSocket) -> tokio::net::UdpSocket {
    socket.set_nonblocking(true).unwrap();
    tokio::net::UdpSocket::from_std(socket).unwrap()
}

/// Tries once, from a namespace.
async fn attempt(from: &str, to: IpAddr, kind: Kind) -> bool {
    match kind {
        Kind::Ping => ping(from, to).await,
        Kind::Tcp(port) => match connect(from, SocketAddr::new(to, port)).await {
            Some(mut stream) => is_echoed(&mut stream).await,
            None => false,
        },
        Kind::Udp(port) => udp(from, SocketAddr::new(to, port)).await,
        Kind::Sctp(port) => sctp(from, to, port).await,
    }
}

/// Opens a TCP connection, if it can be opened.
pub(crate) async fn connect(from: &str, to: SocketAddr) -> Option<TcpStream> {
    let make = || if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = within(from, make).unwrap();
    timeout(ATTEMPT, socket.connect(to)).await.ok()?.ok()
}

/// Whether what is sent comes back.
pub(crate) async fn is_echoed(stream: &mut TcpStream) -> bool {
    let echoed = async {
        stream.write_all(b"hello").await?;
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await
    };
    matches!(timeout(ATTEMPT, echoed).await, Ok(Ok(_)))
}

async fn udp(from: &str, to: SocketAddr) -> bool {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from_std(within(from, || UdpSocket::bind((any, 0))).unwrap());
    let echoed = async {
        socket.send_to(b"hello", to).await?;
        let mut bytes = [0; 64];
        socket.recv_from(&mut bytes).await
    };
    matches!(timeout(ATTEMPT, echoed).await, Ok(Ok((5, _))))
}

async fn ping(from: &str, to: IpAddr) -> bool {
    let mut command = tokio::process::Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{from}"));
    command.args(["ping", "-n", "-c", "1", "-W", "2"]).arg(to.to_string());
    command.stdout(Stdio::null()).status().await.unwrap().success()
}

async fn sctp(from: &str, to: IpAddr, port: u16) -> bool {
    // Each attempt is an association of its own.
    static SOURCE: AtomicU16 = AtomicU16::new(10_000);
    let init = SctpInit {
        chunk: SctpInit::INIT,
        source: SOURCE.fetch_add(1, Ordering::Relaxed),
        destination: port,
    };
    let socket = from_std(within(from, || raw_sctp(to.is_ipv6())).unwrap());
    let answered = async {
        socket.send_to(&init.bytes(), SocketAddr::new(to, 0)).await.unwrap();
        let mut bytes = [0; 256];
        loop {
            let (len, _) = socket.recv_from(&mut bytes).await.unwrap();
            let answer = SctpInit::parse(&bytes[..len], to.is_ipv6());
            let is_ours = |answer: SctpInit| {
                answer.chunk == SctpInit::ACK && answer.destination == init.source
            };
            if answer.is_some_and(is_ours) {
                return;
            }
        }
    };
    timeout(ATTEMPT, answered).await.is_ok()
}

/// What is tried, and what should come of it.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    /// For people: the ends' names.
    pub(crate) ends: String,
    /// The namespace it is tried from.
    pub(crate) from: String,
    pub(crate) to: IpAddr,
    pub(crate) kind: Kind,
    pub(crate) is_allowed: bool,
}

impl Probe {
    /// What is allowed is tried until it succeeds; what is denied must fail for a while.
    async fn holds(&self) -> bool {
        let started = Instant::now();
        if !self.is_allowed {
            let tried = timeout(DENIED, attempt(&self.from, self.to, self.kind));
            return !matches!(tried.await, Ok(true));
        }
        while !attempt(&self.from, self.to, self.kind).await {
            if started.elapsed() > LIMIT {
                return false;
            }
        }
        true
    }
}

/// Tries all, and ends the test if any came out other than it should. `what` says in what state.
pub(crate) async fn assert_all(what: &str, probes: Vec<Probe>) {
    // Each takes a socket or a process for a moment: not all at once.
    let turns = Arc::new(tokio::sync::Semaphore::new(128));
    let mut tasks = JoinSet::new();
    for probe in probes {
        let turns = Arc::clone(&turns);
        tasks.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            (!probe.holds().await).then_some(probe)
        });
    }
    let wrong: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let lines = wrong.iter().map(|probe| {
        let should = if probe.is_allowed { "is denied" } else { "gets through" };
        format!("{} {:?} to {} {should}", probe.ends, probe.kind, probe.to)
    });
    let lines: Vec<_> = lines.collect();
    assert!(lines.is_empty(), "{what}:\n{}", lines.join("\n"));
}
