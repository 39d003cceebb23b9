//! Sessions between a worker that sends everything back, and frontends: that of crate `vhost`, and
//! one that sends whatever it likes.

mod client;
mod hostile;
mod noise;
mod traffic;
mod well_behaved;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    burst::Burst,
    memory::{Depot, FramePool, Region, RegionConfig},
    port::{
        Backend, PortDevice, PortOpener, PortQueue, PortRef, PortRequest, Role, SocketAccess,
        Steering, VhostUserBackend, VhostUserMode, vhost_user::VhostUserOpener,
    },
    stats::WorkerStats,
};

/// The machine may stall for seconds.
const PATIENCE: Duration = Duration::from_mins(1);

const MAC: [u8; 6] = [0x0a, 0x58, 10, 244, 1, 10];

/// An open port and its worker.
struct Port {
    device: Box<dyn PortDevice>,
    worker: Option<JoinHandle<Vec<Box<dyn PortQueue>>>>,
    /// Held by the worker while it looks at its queues.
    is_awake: Arc<Mutex<bool>>,
    is_stopping: Arc<AtomicBool>,
    depot: Arc<Depot>,
    folder: TempDir,
}

impl Port {
    /// A port that packets may come in on.
    fn open(queue_pairs: u16) -> Self {
        let mut port = Self::open_unsteered(queue_pairs);
        port.device.steer(&Steering::Everything).unwrap();
        port
    }

    fn open_unsteered(queue_pairs: u16) -> Self {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        Self::open_with(queue_pairs, SocketAccess { uid, gid, file_mode: 0o600 })
    }

    /// A port of one queue pair with another owner.
    fn open_for(access: SocketAccess) -> Self {
        Self::open_with(1, access)
    }

    fn open_with(queue_pairs: u16, access: SocketAccess) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let request = PortRequest {
            name: "default/a".into(),
            port: PortRef { index: 7, generation: 1 },
            role: Role::Guest,
            backend: Backend::VhostUser(VhostUserBackend {
                socket_path: folder.path().join("port.sock"),
                mode: VhostUserMode::Server(access),
                queue_pairs: Some(queue_pairs),
            }),
            mtu_bytes: Some(9000),
            mac_address: Some(MAC),
            worker_count: 1,
        };
        let config = RegionConfig { frame_count: 256, frame_bytes: 2048, huge_pages: false };
        let depot = Depot::new(Arc::new(Region::create(&config).unwrap()));
        let mut pool = FramePool::new(Arc::clone(&depot));
        let opened = VhostUserOpener.open(&request, &mut pool).unwrap();
        let is_awake = Arc::new(Mutex::new(true));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let mut queues = opened.queues;
        let (awake, stopping) = (Arc::clone(&is_awake), Arc::clone(&is_stopping));
        let work = move || {
            let stats = WorkerStats::new();
            let mut burst = Burst::new();
            while !stopping.load(SeqCst) {
                let is_awake = awake.lock().unwrap();
                for queue in queues.iter_mut().filter(|_| *is_awake) {
                    queue.rx_burst(&mut pool, &mut burst);
                    queue.tx_burst(&mut pool, &mut burst, &stats);
                    burst.drain(..).for_each(|packet| pool.free_packet(packet));
                    queue.flush(&mut pool, &stats).unwrap();
                }
                drop(is_awake);
                thread::yield_now();
            }
            for queue in &mut queues {
                assert_eq!(queue.drain(&mut pool, &stats), 0);
            }
            queues
        };
        let worker = Some(thread::spawn(work));
        Self { device: opened.device, worker, is_awake, is_stopping, depot, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("port.sock")
    }

    /// Lets everybody into the socket's folder.
    fn show_folder(&self) {
        let everybody = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.folder.path(), everybody).unwrap();
    }

    /// Makes the worker stand still, or go on; it has done so when this returns.
    fn wake_worker(&self, is_awake: bool) {
        *self.is_awake.lock().unwrap() = is_awake;
    }

    /// Waits until the port's detail contains `words`.
    fn wait_for(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let detail = self.device.detail().into_owned();
            if detail.contains(words) {
                return detail;
            }
            assert!(Instant::now() < deadline, "no \"{words}\" but \"{detail}\"");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Closes the port as the runtime does: queues first.
    fn close(mut self) {
        let frames = self.depot.region().frame_count() as usize;
        self.is_stopping.store(true, SeqCst);
        drop(self.worker.take().unwrap().join().unwrap());
        let socket = self.socket();
        assert!(socket.exists());
        drop(self.device);
        assert!(!socket.exists());
        assert_eq!(self.depot.frames_free(), frames);
    }
}
