//! Ports over vhost-user: a driver's rings in memory that the backend on the other end of a socket
//! shares, as a DPDK application or a virtual machine has them.
//!
//! No system call a frame, and none at all while the backend polls. Without offloads.

use std::{io, path::Path, thread, time::Duration};

use vrouter::port::vhost_user::{
    driver::{Client, ClientConfig, ClientQueue, ClientRing},
    ring::RingFormat,
};

use super::{Halves, OpenPortError, Options, PortSpecError, RxPort, TxPort};
use crate::pktgen::{BURST_FRAMES, FCS_BYTES};

/// Bytes of a buffer, virtio-net header included: as large as DPDK's.
const BUFFER_BYTES: u32 = 2048;
const HEADER_BYTES: usize = 12;
/// The largest frame, without FCS.
const FRAME_BYTES_MAX: usize = BUFFER_BYTES as usize - HEADER_BYTES;
const RING_ENTRIES_DEFAULT: u16 = 1024;
/// How long a wait sleeps at once: nothing wakes it, for who is polled does not call.
const NAP: Duration = Duration::from_micros(50);

/// Which backend to connect to, and with which rings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VhostUserSpec {
    /// The socket that the backend listens on.
    pub socket_path: String,
    /// Packed rings instead of split ones.
    pub packed: bool,
    /// Entries of each ring.
    pub entries: u16,
}

impl VhostUserSpec {
    pub(super) fn parse(socket_path: String, options: &mut Options) -> Result<Self, PortSpecError> {
        let packed = match options.take("ring").as_deref() {
            None | Some("split") => false,
            Some("packed") => true,
            Some(value) => {
                let (name, value) = ("ring".to_owned(), value.to_owned());
                return Err(PortSpecError::BadValue { name, value });
            }
        };
        let entries = options.number("entries")?.unwrap_or(RING_ENTRIES_DEFAULT);
        Ok(Self { socket_path, packed, entries })
    }

    pub(super) fn open(&self) -> Result<Halves, OpenPortError> {
        let config = ClientConfig {
            format: if self.packed { RingFormat::Packed } else { RingFormat::Split },
            ring_entries: self.entries,
            buffer_bytes: BUFFER_BYTES,
            tx_buffers: self.entries.into(),
            rx_buffers: self.entries.into(),
            queue_pairs: 1,
            mergeable: true,
            huge_pages: false,
        };
        let connected = Client::connect(Path::new(&self.socket_path), config);
        let failed = |source| OpenPortError::VhostUser {
            socket_path: self.socket_path.clone(),
            source: Box::new(source),
        };
        // There is the one pair that was asked for.
        let queue = connected.map_err(failed)?.queues.pop();
        let Some(ClientQueue { tx, mut rx }) = queue else {
            return Err(OpenPortError::PacketMemory { source: io::ErrorKind::NotFound.into() });
        };
        rx.ring.offer(self.entries);
        let scratch = vec![0; FRAME_BYTES_MAX];
        let tx = VhostUserTx { tx, next: 0, scratch: scratch.clone() };
        Ok((Box::new(tx), Box::new(VhostUserRx { rx, scratch })))
    }
}

struct VhostUserTx {
    tx: ClientRing,
    /// The next slot to write.
    next: u16,
    scratch: Vec<u8>,
}

impl TxPort for VhostUserTx {
    fn frame_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX + FCS_BYTES
    }

    fn send(
        &mut self,
        count: usize,
        write: &mut dyn FnMut(&mut [u8]) -> usize,
    ) -> io::Result<usize> {
        let ring = &mut self.tx.ring;
        let size = ring.shape().size;
        ring.take_used(size, |_, _| ());
        let count = u16::try_from(count.min(BURST_FRAMES)).unwrap_or(0).min(ring.room());
        for _ in 0..count {
            let bytes = write(&mut self.scratch);
            ring.write(self.next.into(), self.scratch.get(..bytes).unwrap_or_default());
            self.next = (self.next + 1) % size;
        }
        ring.offer(count);
        Ok(count.into())
    }

    fn flush(&mut self) -> io::Result<usize> {
        let size = self.tx.ring.shape().size;
        self.tx.ring.take_used(size, |_, _| ());
        self.tx.kick()?;
        Ok(usize::from(size - self.tx.ring.room()))
    }
}

struct VhostUserRx {
    rx: ClientRing,
    scratch: Vec<u8>,
}

impl RxPort for VhostUserRx {
    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let Self { rx, scratch } = self;
        let burst = u16::try_from(BURST_FRAMES).unwrap_or(u16::MAX);
        let count = rx.ring.take_used(burst, |_, frame| {
            let bytes = frame.copy_to(scratch);
            take(scratch.get(..bytes).unwrap_or_default());
        });
        rx.ring.offer(count);
        rx.kick()?;
        Ok(count.into())
    }

    fn wait(&mut self, limit: Duration) -> io::Result<()> {
        thread::sleep(limit.min(NAP));
        Ok(())
    }

    /// The backend knows what it had no buffer for, and does not tell.
    fn lost(&self) -> io::Result<u64> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    };

    use vrouter::{
        burst::Burst,
        memory::{Depot, FramePool, Region, RegionConfig},
        port::{
            Backend, PortOpener, PortRef, PortRequest, Role, SocketAccess, Steering,
            VhostUserBackend, VhostUserMode, vhost_user::VhostUserOpener,
        },
        stats::WorkerStats,
    };

    use super::*;
    use crate::pktgen::port::{PortKind, PortSpec, Use};

    /// Opens the engine's own port, and sends back what comes in until told to stop.
    fn echo(socket_path: &Path, is_done: &Arc<AtomicBool>) -> thread::JoinHandle<()> {
        let access = SocketAccess {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            file_mode: 0o600,
        };
        let backend = VhostUserBackend {
            socket_path: socket_path.to_owned(),
            mode: VhostUserMode::Server(access),
            queue_pairs: Some(1),
        };
        let request = PortRequest {
            name: "port".into(),
            port: PortRef { index: 1, generation: 0 },
            role: Role::Guest,
            backend: Backend::VhostUser(backend),
            mtu_bytes: None,
            mac_address: None,
            worker_count: 1,
        };
        let config = RegionConfig { frame_count: 256, huge_pages: false, ..Default::default() };
        let mut pool = FramePool::new(Depot::new(Arc::new(Region::create(&config).unwrap())));
        let mut opened = VhostUserOpener.open(&request, &mut pool).unwrap();
        opened.device.steer(&Steering::Everything).unwrap();
        let is_done = Arc::clone(is_done);
        thread::spawn(move || {
            let stats = WorkerStats::new();
            let (queue, mut burst) = (&mut opened.queues[0], Burst::new());
            while !is_done.load(Relaxed) {
                queue.rx_burst(&mut pool, &mut burst);
                queue.tx_burst(&mut pool, &mut burst, &stats);
                queue.flush(&mut pool, &stats).unwrap();
                thread::yield_now();
            }
            // The socket lives as long as the device does.
            drop(opened.device);
        })
    }

    #[test]
    fn frames_go_to_a_backend_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let socket_path = folder.path().join("port");
        let is_done = Arc::new(AtomicBool::new(false));
        let backend = echo(&socket_path, &is_done);
        for ring in ["split", "packed"] {
            let text = format!("vhost-user:{},ring={ring},entries=64", socket_path.display());
            let spec: PortSpec = text.parse().unwrap();
            assert!(matches!(&spec.kind, PortKind::VhostUser(it) if it.entries == 64));
            let (mut tx, mut rx) = spec.open(Use::Receive).unwrap();
            let (mut sent, mut received) = (0_u16, 0_u16);
            while received < 1000 {
                if sent < 1000 {
                    tx.send(usize::from(1000 - sent), &mut |place| {
                        place[..60].fill(sent.to_le_bytes()[0]);
                        sent += 1;
                        60
                    })
                    .unwrap();
                }
                tx.flush().unwrap();
                rx.receive(&mut |frame| {
                    assert_eq!(frame, [received.to_le_bytes()[0]; 60]);
                    received += 1;
                })
                .unwrap();
                thread::yield_now();
            }
        }
        is_done.store(true, Relaxed);
        backend.join().unwrap();
    }
}
