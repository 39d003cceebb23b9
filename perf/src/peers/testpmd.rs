//! DPDK's `testpmd` that swaps MAC addresses: the floor. From a file that comes in round and round
//! to a port that takes all, as little as can be done with a packet.

mod fwd_stats;
mod vhost;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

pub use fwd_stats::FwdStats;
pub use vhost::{VhostTestpmd, VirtioTestpmd};

use super::{
    LineProcess, Namespace, PeerError, Window, background::bound, run, thread_preemptions,
};
use crate::huge_pages;

const PROGRAM: &str = "dpdk-testpmd";
const PACKAGE: &str = "dpdk-dev";
/// DPDK's memory in MiB: packet memory, and the file's frames.
const MEMORY_MIB: u64 = 128;
/// Huge pages for that, and some that DPDK takes later.
const HUGE_PAGES: u64 = MEMORY_MIB / 2 + 32;
/// Frames of packet memory: the file's, and those under way.
const MBUFS: usize = 32_768;
/// Its name for the thread that forwards: the second of two, counted from zero.
const WORKER: &str = "rte-worker-1";
/// What it says when a command is done, and when it is ready for the first.
const DONE: &str = "Done";

/// A running testpmd, which forwards only while it is measured.
#[derive(Debug)]
pub struct Testpmd {
    // Ended first.
    process: LineProcess,
    _namespace: Namespace,
}

impl Testpmd {
    /// Its name in results.
    pub const NAME: &str = "testpmd-macswap";

    /// Starts it with what comes in; forwarding on one CPU, everything else on another.
    ///
    /// # Errors
    ///
    /// Fails if it is not installed, or without privileges or huge pages.
    pub fn start(frames: &Path, cpu: usize, other_cpu: usize) -> Result<Self, PeerError> {
        if find(PROGRAM).is_none() {
            return Err(PeerError::NotInstalled { package: PACKAGE });
        }
        huge_pages::reserve(HUGE_PAGES)?;
        let namespace = Namespace::new("testpmd")?;
        // Line by line, also where nobody looks at a terminal.
        let mut command = namespace.command("stdbuf");
        command
            .args(["--output=L", PROGRAM, "--lcores", &format!("0@{other_cpu},1@{cpu}")])
            .args(["--no-pci", "--in-memory", "--no-telemetry", "--log-level=error"])
            .args(["-m", &MEMORY_MIB.to_string()])
            .args(["--vdev", &format!("net_pcap0,rx_pcap={},infinite_rx=1", frames.display())])
            .args(["--vdev", "net_null0,no-rx=1"])
            .args(["--", "--interactive", "--forward-mode=macswap", "--nb-cores=1", "--no-numa"])
            .args(["--record-core-cycles", "--rxd=1024", "--txd=1024", "--no-lsc-interrupt"])
            .arg(format!("--total-num-mbufs={MBUFS}"));
        let mut process = LineProcess::start(PROGRAM, &mut bound(&command, other_cpu))?;
        until_done(&mut process)?;
        Ok(Self { process, _namespace: namespace })
    }

    /// Lets it forward for so long, and tells what it did.
    ///
    /// # Errors
    ///
    /// Fails if it did not forward all.
    pub fn measure(&mut self, time: Duration) -> Result<Window, PeerError> {
        let before = thread_preemptions(self.process.id(), WORKER);
        self.process.tell("start")?;
        thread::sleep(time);
        self.process.tell("stop")?;
        let text = until_done(&mut self.process)?;
        let preemptions = thread_preemptions(self.process.id(), WORKER).saturating_sub(before);
        let Some(stats) = FwdStats::parse(&text) else {
            return Err(PeerError::Answer { program: PROGRAM.into(), answer: text });
        };
        let FwdStats { received, sent, cycles } = stats;
        if sent != received {
            return Err(PeerError::Traffic { program: Self::NAME, received, sent, new: 0 });
        }
        Ok(Window { packets: received, cycles, preemptions })
    }
}

/// All it says until a command is done.
fn until_done(process: &mut LineProcess) -> Result<String, PeerError> {
    let mut text = String::new();
    loop {
        let line = process.listen()?;
        text.push_str(&line);
        text.push('\n');
        if line.trim_end_matches('.') == DONE {
            return Ok(text);
        }
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = run(Command::new("which").arg(program)).ok()?;
    Some(PathBuf::from(path.trim()))
}
