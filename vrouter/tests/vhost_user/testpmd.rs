//! DPDK's test application as a guest: one virtio-user port.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{self, Child, ChildStdin, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    daemon::PATIENCE,
    node::{Guest, gateway_mac},
};

const PROGRAM: &str = "dpdk-testpmd";
/// Packets that `start tx_first` sends a burst.
pub(crate) const BURST: u64 = 32;

/// Why tests with it cannot run here, if so.
pub(crate) fn why_not() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    let runs = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).output().is_ok();
    if runs { None } else { Some("needs dpdk-testpmd (package dpdk-dev)") }
}

/// Leaves the test, loudly, if it cannot run here.
#[macro_export]
macro_rules! skip_unless_testpmd {
    () => {
        if let Some(why) = $crate::testpmd::why_not() {
            eprintln!("SKIPPED: {why}");
            return;
        }
    };
}

/// What the virtio device is to be like.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of testpmd's")]
pub(crate) struct Device {
    pub(crate) is_packed: bool,
    pub(crate) is_mergeable: bool,
    pub(crate) is_in_order: bool,
    pub(crate) queue_pairs: u32,
    /// Testpmd listens on the socket.
    pub(crate) is_server: bool,
}

/// A running testpmd; killed when it is dropped.
pub(crate) struct Testpmd {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    log: String,
    /// The name of its folder.
    prefix: String,
}

/// Packets of a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Counts {
    pub(crate) rx: u64,
    pub(crate) tx: u64,
}

impl Testpmd {
    /// Starts testpmd as `guest`, to send to `peer`, with a mode of forwarding.
    pub(crate) fn start(
        device: Device,
        socket: &Path,
        guest: Guest,
        peer: Guest,
        mode: &str,
    ) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("vr-{}-{}", process::id(), STARTED.fetch_add(1, Relaxed));
        let Device { is_packed, is_mergeable, is_in_order, queue_pairs, is_server } = device;
        let bit = u8::from;
        let vdev = format!(
            "net_virtio_user0,path={},mac={},queues={queue_pairs},queue_size=1024,packed_vq={},\
             mrg_rxbuf={},in_order={},server={}",
            socket.display(),
            guest.mac(),
            bit(is_packed),
            bit(is_mergeable),
            bit(is_in_order),
            bit(is_server),
        );
        let words = |address: [u8; 4]| std::net::Ipv4Addr::from(address).to_string();
        // Which replaces itself by the program.
        let mut child = Command::new("stdbuf")
            .args(["--output=L", PROGRAM])
            .args(["--lcores", "0@(0-1),1@(0-1)", "--no-pci", "--no-huge", "-m", "256"])
            .args(["--no-telemetry", "--file-prefix", &prefix, "--vdev", &vdev, "--", "-i"])
            .arg(format!("--forward-mode={mode}"))
            .arg(format!("--eth-peer=0,{}", gateway_mac()))
            .arg(format!("--tx-ip={},{}", words(guest.address()), words(peer.address())))
            .args([format!("--rxq={queue_pairs}"), format!("--txq={queue_pairs}")])
            .args(["--txd=1024", "--rxd=1024", "--total-num-mbufs=16384"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut testpmd = Self { child, stdin, lines, log: String::new(), prefix };
        testpmd.command("show port info 0", "MAC address");
        testpmd
    }

    /// Starts forwarding.
    pub(crate) fn forward(&mut self) {
        self.command("start", "packet forwarding - ");
    }

    /// Sends so many bursts a queue, then starts forwarding.
    pub(crate) fn forward_after(&mut self, bursts: u32) {
        self.command(&format!("start tx_first {bursts}"), "packet forwarding - ");
    }

    /// Stops forwarding.
    pub(crate) fn stop(&mut self) {
        self.command("stop", "Done.");
    }

    pub(crate) fn counts(&mut self) -> Counts {
        let rx = self.command("show port stats 0", "RX-packets:");
        let tx = self.wait_for("TX-packets:");
        let number = |line: &str| line.split_whitespace().nth(1).unwrap().parse().unwrap();
        Counts { rx: number(&rx), tx: number(&tx) }
    }

    /// Waits until the counters are as `is_there` wants them.
    pub(crate) fn wait_for_counts(&mut self, is_there: impl Fn(Counts) -> bool) -> Counts {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counts = self.counts();
            if is_there(counts) {
                return counts;
            }
            assert!(Instant::now() < deadline, "{counts:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the link is up, as it is with a backend that is connected.
    pub(crate) fn wait_for_link(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.command("show port info 0", "Link status:").contains("up") {
            assert!(Instant::now() < deadline, "no link:\n{}", self.log);
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn kill(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }

    /// Types a command and waits for a line of its answer.
    fn command(&mut self, command: &str, answer: &str) -> String {
        writeln!(self.stdin, "{command}").unwrap();
        self.wait_for(answer)
    }

    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.log.push_str(&line);
                    self.log.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("no \"{text}\" ({error}) from testpmd:\n{}", self.log),
            }
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What it removes itself only when it ends in order.
        let _ = fs::remove_dir_all(Path::new("/var/run/dpdk").join(&self.prefix));
    }
}
