//! The bare port layer: a vhost-user port whose frames go back with their MAC addresses exchanged,
//! on one busy thread, without a pipeline.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, anyhow};
use perf::machine;
use tempfile::TempDir;
use vrouter::{
    burst::Burst,
    memory::{Depot, FramePool, Region, RegionConfig},
    packet::Packet,
    port::{
        Backend, OpenedPort, PeerGone, PortDevice, PortOpener, PortQueue, PortRef, PortRequest,
        Role, SocketAccess, Steering, VhostUserBackend, VhostUserMode, vhost_user::VhostUserOpener,
    },
    stats::WorkerStats,
};

/// Frames of packet memory: bursts, many times.
const FRAMES: u32 = 4096;
const PORT: PortRef = PortRef { index: 1, generation: 0 };
/// Bytes of both MAC addresses.
const MAC_PAIR_BYTES: usize = 12;

/// A running echo.
pub(super) struct Echo {
    thread: Option<JoinHandle<Result<(), PeerGone>>>,
    is_done: Arc<AtomicBool>,
    pub(super) socket: PathBuf,
    // The socket lives as long as the device does.
    device: Box<dyn PortDevice>,
    _folder: TempDir,
}

impl Echo {
    /// Starts it on a CPU.
    pub(super) fn start(cpu: usize) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vrouter-perf-vhost-").tempdir()?;
        let socket = folder.path().join("port");
        let access = SocketAccess {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            file_mode: 0o600,
        };
        let request = PortRequest {
            name: "port".into(),
            port: PORT,
            role: Role::Guest,
            backend: Backend::VhostUser(VhostUserBackend {
                socket_path: socket.clone(),
                mode: VhostUserMode::Server(access),
                queue_pairs: Some(1),
            }),
            mtu_bytes: None,
            mac_address: None,
            worker_count: 1,
        };
        let region = RegionConfig { frame_count: FRAMES, ..RegionConfig::default() };
        let depot = Depot::new(Arc::new(Region::create(&region)?));
        let mut pool = FramePool::new(Arc::clone(&depot));
        let OpenedPort { queues, mut device } = VhostUserOpener.open(&request, &mut pool)?;
        device.steer(&Steering::Everything)?;
        let queue = queues.into_iter().next().context("the port has no queue")?;
        let is_done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_done);
        let thread = thread::Builder::new().name("echo".into()).spawn(move || {
            machine::move_to(cpu);
            echo(queue, &mut FramePool::new(depot), &stop)
        })?;
        Ok(Self { thread: Some(thread), is_done, socket, device, _folder: folder })
    }

    /// Ends it.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        self.is_done.store(true, Relaxed);
        let thread = self.thread.take().context("it has ended before")?;
        let result = thread.join().map_err(|_| anyhow!("the echo's thread ended in disorder"))?;
        drop(self.device);
        Ok(result?)
    }
}

fn echo(
    mut queue: Box<dyn PortQueue>,
    pool: &mut FramePool,
    is_done: &AtomicBool,
) -> Result<(), PeerGone> {
    let (stats, mut burst) = (WorkerStats::new(), Burst::new());
    while !is_done.load(Relaxed) {
        queue.poll(pool, &stats);
        queue.rx_burst(pool, &mut burst);
        for packet in &mut burst {
            exchange_macs(packet, pool);
        }
        queue.tx_burst(pool, &mut burst, &stats);
        // What the driver has no buffer for is lost, as in a worker.
        for packet in burst.drain(..) {
            pool.free_packet(packet);
        }
        queue.flush(pool, &stats)?;
    }
    queue.drain(pool, &stats);
    Ok(())
}

#[inline]
fn exchange_macs(packet: &mut Packet, pool: &FramePool) {
    if let Some(macs) = packet.data_mut(pool.region()).first_chunk_mut::<MAC_PAIR_BYTES>() {
        macs.rotate_left(MAC_PAIR_BYTES / 2);
    }
}
