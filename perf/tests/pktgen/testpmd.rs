//! Against testpmd of DPDK, which sends and receives over `AF_PACKET`.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use crate::{
    PATIENCE, Pair, command, namespace::Namespace, received, row, skip_unless_namespaces, wait_for,
};

/// Leaves the test, loudly, if there is no testpmd.
macro_rules! skip_unless_testpmd {
    () => {
        if Command::new("dpdk-testpmd").arg("--version").output().is_err() {
            eprintln!("SKIPPED: needs dpdk-testpmd (package dpdk-dev)");
            return;
        }
    };
}

/// A running testpmd. It ends with this.
struct Testpmd {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Where it keeps its sockets.
    folder: PathBuf,
}

impl Testpmd {
    /// Starts it with one interface, in a namespace.
    fn start(namespace: &Namespace, interface: &str, mode: &str) -> Self {
        let prefix = namespace.name();
        let eal = "--no-huge -m 128 --no-pci --no-telemetry -l 0,1";
        let device = format!("--vdev=net_af_packet0,iface={interface},framecnt=4096");
        let options = format!("-i --forward-mode={mode} --nb-cores=1 --total-num-mbufs=16384");
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace.name()])
            // It would keep its lines for itself, written to a pipe.
            .args(["stdbuf", "-oL", "dpdk-testpmd", &format!("--file-prefix={prefix}")])
            .args(eal.split(' '))
            .args([&device, "--"])
            .args(options.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let folder = PathBuf::from("/var/run/dpdk").join(prefix);
        let mut testpmd = Self { child, input, lines, folder };
        testpmd.counter("RX-packets");
        testpmd
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
        self.input.flush().unwrap();
    }

    /// A counter of its port.
    fn counter(&mut self, name: &str) -> u64 {
        self.say("show port stats 0");
        let mut found = None;
        while found.is_none() || !self.next_line().trim_start().starts_with("####") {
            if found.is_none()
                && let Some((_, rest)) = self.next_line().split_once(&format!("{name}:"))
            {
                found = rest.split_whitespace().next().unwrap().parse().ok();
            }
        }
        found.unwrap()
    }

    fn next_line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = writeln!(self.input, "quit");
        let _ = self.input.flush();
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn testpmd_receives_every_packet_that_is_sent() {
    skip_unless_namespaces!();
    skip_unless_testpmd!();
    let pair = Pair::create();
    let mut testpmd = Testpmd::start(&pair.right, "veth1", "rxonly");
    testpmd.say("start");
    let row = row(&format!("{} --packets 3000 --rate 5000 --frame imix", pair.tx()));
    assert_eq!(row["sent"].as_u64(), Some(3000));
    wait_for("testpmd to receive", || testpmd.counter("RX-packets") >= 3000);
    let bytes = 3000 / 12 * (7 * 60 + 4 * 566 + 1514);
    assert_eq!((testpmd.counter("RX-packets"), testpmd.counter("RX-bytes")), (3000, bytes));
}

#[test]
fn every_packet_of_testpmd_is_received_and_known_to_be_foreign() {
    skip_unless_namespaces!();
    skip_unless_testpmd!();
    let pair = Pair::create();
    let mut testpmd = Testpmd::start(&pair.left, "veth0", "io");
    let mut sink = command(&format!("{} --seconds 60", pair.rx()))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(sink.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("receiving on af_xdp:veth1")));
    // So many bursts of 32.
    testpmd.say("start tx_first 25");
    wait_for("testpmd to send", || received(&pair.right, "veth1").0 >= 800);
    let sent = testpmd.counter("TX-packets");
    let interrupt = Command::new("kill").args(["-INT", &sink.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let told = lines.find(|line| line.contains("nothing arrived")).unwrap();
    sink.wait().unwrap();
    assert_eq!(sent, 800);
    assert!(told.contains("besides 800 other frames"), "{told}");
}
