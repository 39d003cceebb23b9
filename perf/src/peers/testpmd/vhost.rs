//! Testpmd on either side of a vhost-user socket: as the backend, the bare port layer of DPDK; and
//! as a driver, independent of our generator.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use super::{PACKAGE, PROGRAM, WORKER, find, until_done};
use crate::{
    cycles, huge_pages,
    peers::{LineProcess, Namespace, PeerError, background::bound, thread_preemptions},
};

/// DPDK's memory in MiB: packet memory, and what it takes for itself.
const MEMORY_MIB: u64 = 128;
/// Huge pages for that, and some that DPDK takes later.
const HUGE_PAGES: u64 = MEMORY_MIB / 2 + 32;
/// Frames of packet memory: two rings, and those under way.
const MBUFS: usize = 16_384;
/// Bursts of 32 that go round between a driver and its echo: three quarters of a ring.
const BURSTS_UNDER_WAY: u32 = 24;
/// How long a driver that has just been told to begin takes at most.
const WARM_UP: Duration = Duration::from_millis(100);

/// Testpmd that swaps MAC addresses and sends frames back to the vhost-user port that they came
/// from.
#[derive(Debug)]
pub struct VhostTestpmd {
    // Ended first.
    process: LineProcess,
    _namespace: Namespace,
    folder: TempDir,
}

impl VhostTestpmd {
    /// Its name in results.
    pub const NAME: &str = "testpmd-net_vhost";

    /// Starts it, the server of a socket; forwarding on one CPU, everything else on another. `name`
    /// tells its namespace from others'.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed, or without privileges or huge pages.
    pub fn start(name: &str, cpu: usize, other_cpu: usize) -> Result<Self, PeerError> {
        let (namespace, folder) = place(name)?;
        let socket = folder.path().join(SOCKET);
        let mut command = namespace.command("stdbuf");
        command
            .args(["--output=L", PROGRAM, "--lcores", &format!("0@{other_cpu},1@{cpu}")])
            .args(["--no-pci", "--in-memory", "--no-telemetry", "--log-level=error"])
            .args(["-m", &MEMORY_MIB.to_string()])
            .args(["--vdev", &format!("net_vhost0,iface={},queues=1", socket.display())])
            .args(["--", "--interactive", "--forward-mode=macswap", "--nb-cores=1", "--no-numa"])
            .args(["--rxd=1024", "--txd=1024", "--no-lsc-interrupt", "--disable-link-check"])
            .arg(format!("--total-num-mbufs={MBUFS}"));
        let mut process = LineProcess::start(PROGRAM, &mut bound(&command, other_cpu))?;
        until_done(&mut process)?;
        Ok(Self { process, _namespace: namespace, folder })
    }

    /// Where frontends connect.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    /// Begins to forward.
    ///
    /// # Errors
    ///
    /// Fails once it has ended.
    pub fn resume(&mut self) -> Result<(), PeerError> {
        self.process.tell("start")
    }

    /// Ends forwarding; its thread sleeps then.
    ///
    /// # Errors
    ///
    /// Fails once it has ended.
    pub fn pause(&mut self) -> Result<(), PeerError> {
        self.process.tell("stop")?;
        until_done(&mut self.process).map(drop)
    }

    /// How often its forwarding thread was taken off its CPU so far.
    #[must_use]
    pub fn preemptions(&self) -> u64 {
        thread_preemptions(self.process.id(), WORKER)
    }
}

/// Testpmd as the driver of a vhost-user port that echoes: some hundred frames go round and round.
#[derive(Debug)]
pub struct VirtioTestpmd {
    // Ended in this order.
    process: LineProcess,
    _runtime: Runtime,
    _namespace: Namespace,
    _folder: TempDir,
}

/// Where DPDK keeps what its processes share. It is removed with this.
#[derive(Debug)]
struct Runtime(PathBuf);

impl Drop for Runtime {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl VirtioTestpmd {
    /// Whether it can run here.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed.
    pub fn find() -> Result<(), PeerError> {
        find(PROGRAM).map(drop).ok_or(PeerError::NotInstalled { package: PACKAGE })
    }

    /// Starts it on one CPU, connected to the backend that listens on `socket`.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed, or without privileges or huge pages.
    pub fn start(socket: &Path, is_packed: bool, cpu: usize) -> Result<Self, PeerError> {
        let (namespace, folder) = place("virtio")?;
        let packed = u8::from(is_packed);
        let device = format!(
            "net_virtio_user0,path={},queues=1,queue_size=1024,packed_vq={packed},mrg_rxbuf=1",
            socket.display()
        );
        let pages = folder.path().join("pages");
        // Its memory is shared with the backend as files, which takes a file system of its own; the
        // namespace has its own mounts, and they end with it.
        let script = "mkdir -p \"$0\" && mount -t hugetlbfs none \"$0\" && exec \"$@\"";
        let mut command = namespace.command("sh");
        command
            .args(["-ec", script])
            .arg(&pages)
            .args(["stdbuf", "--output=L", PROGRAM, "--lcores", &format!("0@{cpu},1@{cpu}")])
            .args(["--no-pci", "--no-telemetry", "--log-level=error", "--single-file-segments"])
            .args(["-m", &MEMORY_MIB.to_string(), "--huge-dir"])
            .arg(&pages)
            .arg(format!("--file-prefix={}", namespace.name()))
            .args(["--vdev", &device])
            .args(["--", "--interactive", "--forward-mode=io", "--nb-cores=1", "--no-numa"])
            .args(["--rxd=1024", "--txd=1024", "--no-lsc-interrupt", "--disable-link-check"])
            .arg(format!("--total-num-mbufs={MBUFS}"));
        let runtime = Runtime(Path::new(RUNTIME_FOLDER).join(namespace.name()));
        let mut process = LineProcess::start(PROGRAM, &mut bound(&command, cpu))?;
        until_done(&mut process)?;
        Ok(Self { process, _runtime: runtime, _namespace: namespace, _folder: folder })
    }

    /// Lets frames go round for so long; how many came back, and in how many cycles of the
    /// time-stamp counter.
    ///
    /// # Errors
    ///
    /// Fails if they do not.
    pub fn measure(&mut self, time: Duration) -> Result<(u64, u64), PeerError> {
        self.process.tell(&format!("start tx_first {BURSTS_UNDER_WAY}"))?;
        thread::sleep(WARM_UP);
        let (start, before) = (cycles::now(), self.received()?);
        thread::sleep(time);
        let (end, after) = (cycles::now(), self.received()?);
        self.process.tell("stop")?;
        until_done(&mut self.process)?;
        match after.saturating_sub(before) {
            0 => Err(PeerError::Traffic { program: PROGRAM, received: 0, sent: 0, new: 0 }),
            packets => Ok((packets, end.wrapping_sub(start))),
        }
    }

    fn received(&mut self) -> Result<u64, PeerError> {
        self.process.tell("show port stats 0")?;
        loop {
            let line = self.process.listen()?;
            if let Some((_, rest)) = line.split_once("RX-packets:") {
                let count = rest.split_whitespace().next().and_then(|count| count.parse().ok());
                return count
                    .ok_or_else(|| PeerError::Answer { program: PROGRAM.into(), answer: line });
            }
        }
    }
}

const SOCKET: &str = "port";
/// DPDK's, for a process that may do everything.
const RUNTIME_FOLDER: &str = "/var/run/dpdk";

/// Where an instance runs, if it can.
fn place(purpose: &str) -> Result<(Namespace, TempDir), PeerError> {
    if find(PROGRAM).is_none() {
        return Err(PeerError::NotInstalled { package: PACKAGE });
    }
    huge_pages::reserve(HUGE_PAGES)?;
    let folder = tempfile::Builder::new().prefix("vrouter-perf-testpmd-").tempdir();
    let folder =
        folder.map_err(|source| PeerError::Write { path: std::env::temp_dir(), source })?;
    Ok((Namespace::new(purpose)?, folder))
}
