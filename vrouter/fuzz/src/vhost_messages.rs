//! Messages of vhost-user frontends, and noise in their place.
//!
//! The input is a conversation: for each message its number, what comes with it, the length of its
//! body and the body. It is sent over a real socket to a port of a session's own, whose worker
//! moves packets through whatever rings come of it. Between messages the guest writes to its
//! memory, cuts it short and kicks. Whatever it does, the next frontend is served.

use std::{
    fs::File,
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use vrouter::{
    burst::Burst,
    memory::{Depot, FramePool, Region, RegionConfig},
    port::{
        Backend, PortDevice, PortOpener, PortRef, PortRequest, Role, SocketAccess, Steering,
        VhostUserBackend, VhostUserMode, vhost_user::VhostUserOpener,
    },
    stats::WorkerStats,
};

/// Bytes of the memory that messages may share.
const MEMORY_BYTES: u64 = 1 << 16;
/// Messages of one conversation at most: what is slow is only long.
const MESSAGES_MAX: usize = 64;
/// A session that has not answered by then has hung.
const PATIENCE: Duration = Duration::from_secs(15);

/// Numbers that are no message's: the guest writes to its memory (an address of 16 bits, and
/// bytes), cuts its file to so many pages, kicks, or waits for what was said to be done.
const WRITE: u8 = 0xff;
const CUT: u8 = 0xfe;
const KICK: u8 = 0xfd;
const WAIT: u8 = 0xfc;

const GET_FEATURES: [u8; 12] = [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

/// A port that lives as long as the process, whose worker does nothing but obey.
struct Port {
    socket: PathBuf,
    memory: File,
    event: OwnedFd,
    /// With its end the session would end.
    _device: Mutex<Box<dyn PortDevice>>,
}

impl Port {
    fn shared() -> &'static Self {
        static PORT: OnceLock<Port> = OnceLock::new();
        PORT.get_or_init(Self::open)
    }

    fn open() -> Self {
        let name = format!("vrouter-vhost-messages-{}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let request = PortRequest {
            name: "default/a".into(),
            port: PortRef { index: 1, generation: 1 },
            role: Role::Guest,
            backend: Backend::VhostUser(VhostUserBackend {
                socket_path: socket.clone(),
                mode: VhostUserMode::Server(SocketAccess { uid, gid, file_mode: 0o600 }),
                queue_pairs: Some(2),
            }),
            mtu_bytes: None,
            mac_address: None,
            worker_count: 1,
        };
        let config = RegionConfig { frame_count: 256, frame_bytes: 2048, huge_pages: false };
        let depot = Depot::new(Arc::new(Region::create(&config).expect("there is memory")));
        let mut pool = FramePool::new(depot);
        let mut opened = VhostUserOpener.open(&request, &mut pool).expect("the socket is made");
        opened.device.steer(&Steering::Everything).expect("a session takes it");
        let device = Mutex::new(opened.device);
        let mut queues = opened.queues;
        thread::spawn(move || {
            let stats = WorkerStats::new();
            let mut burst = Burst::new();
            loop {
                for queue in &mut queues {
                    queue.rx_burst(&mut pool, &mut burst);
                    // Back to where it came from, whole or not.
                    queue.tx_burst(&mut pool, &mut burst, &stats);
                    burst.drain(..).for_each(|packet| pool.free_packet(packet));
                    queue.flush(&mut pool, &stats).expect("a session is always there");
                    queue.arm();
                    queue.disarm();
                }
                thread::yield_now();
            }
        });
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC).expect("there is memory");
        let memory = File::from(memory);
        memory.set_len(MEMORY_BYTES).expect("there is memory");
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let event = eventfd(0, flags).expect("there are descriptors");
        Self { socket, memory, event, _device: device }
    }

    /// What a guest does besides.
    fn act(&self, code: u8, body: &[u8], frontend: &UnixStream) {
        match code {
            WRITE => {
                let Some(([low, high], bytes)) = body.split_first_chunk() else { return };
                let offset = u64::from(u16::from_le_bytes([*low, *high]));
                let end = MEMORY_BYTES.min(offset + bytes.len() as u64);
                let bytes = &bytes[..usize::try_from(end - offset).unwrap_or(0)];
                self.memory.write_all_at(bytes, offset).expect("memory can be written");
            }
            CUT => {
                let pages = u64::from(body.first().copied().unwrap_or(0)) % 16;
                self.memory.set_len(4096 * pages).expect("a file can be cut");
            }
            KICK => _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes()),
            // Answers to what was asked before come first; any will do, and none if it is over.
            _ => _ = ask(frontend),
        }
    }

    fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(&self.socket).expect("the port listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a socket has a timeout");
        socket
    }
}

pub(crate) fn run(conversation: &[u8]) {
    let port = Port::shared();
    let frontend = port.connect();
    let mut rest = conversation;
    for _ in 0..MESSAGES_MAX {
        let Some((&[code, bits, length], behind)) = rest.split_first_chunk() else { break };
        let (body, behind) = behind.split_at(behind.len().min(length.into()));
        rest = behind;
        if code >= WAIT {
            port.act(code, body, &frontend);
            continue;
        }
        let mut message = Vec::new();
        // The lowest bit: an answer is wanted. The highest: no header.
        let flags = 1 | u32::from(bits & 1) << 3;
        if bits & 0x80 == 0 {
            let length = u32::try_from(body.len()).expect("it was a byte");
            for word in [u32::from(code), flags, length] {
                message.extend_from_slice(&word.to_ne_bytes());
            }
        }
        message.extend_from_slice(body);
        let file = if bits & 0x10 == 0 { port.memory.as_fd() } else { port.event.as_fd() };
        let files = vec![file; usize::from(bits >> 1 & 0x7)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        }
        let parts = [IoSlice::new(&message)];
        if sendmsg(&frontend, &parts, &mut control, SendFlags::NOSIGNAL).is_err() {
            break;
        }
    }
    drop(frontend);
    let next = port.connect();
    let answer = ask(&next).expect("the session answers the next frontend");
    assert_eq!(answer[..12], [1, 0, 0, 0, 5, 0, 0, 0, 8, 0, 0, 0]);
    // The next conversation finds what this one found.
    port.memory.set_len(0).expect("a file can be cut");
    port.memory.set_len(MEMORY_BYTES).expect("there is memory");
}

fn ask(mut frontend: &UnixStream) -> io::Result<[u8; 20]> {
    frontend.write_all(&GET_FEATURES)?;
    let mut answer = [0; 20];
    frontend.read_exact(&mut answer)?;
    Ok(answer)
}
