//! A virtual machine with two NICs on our sockets: Linux's virtio driver, QEMU's frontend. Runs in
//! the lab of `../shared/lab/lab.sh` (or `LAB`), under emulation: function only.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use control_api::engine::vhost_user_backend::Mode;
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::node::{A, B, Node, Shape};

/// Emulation takes some ten seconds to boot on an idle machine, and the machine may be busy.
const PATIENCE: Duration = Duration::from_mins(8);

/// What runs in the guest: the NICs in a network namespace each, so that packets between them pass
/// through the engine. It is run anew at each boot, and finds in the folder what it did before.
const SCRIPT: &str = r#"
set -eu
say() { echo "$*" >>"$folder/said"; }
trap 'say "failed: line $LINENO"; sync' ERR
set -E
add() { # NAME MAC LAST
    local device
    device=$(basename "$(dirname "$(grep -l "$2" /sys/class/net/*/address)")")
    ip netns add "$1"
    ip link set "$device" netns "$1" name eth0
    ip netns exec "$1" sysctl -qw net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.eth0.disable_ipv6=0
    ip -n "$1" address add "10.244.1.$3/32" dev eth0
    ip -n "$1" address add "fd00:10:244:1::$3/128" dev eth0 nodad
    ip -n "$1" link set lo up
    ip -n "$1" link set eth0 up
    ip -n "$1" route add 10.244.1.1 dev eth0
    ip -n "$1" route add default via 10.244.1.1
    ip -n "$1" route add fd00:10:244:1::1 dev eth0
    ip -n "$1" route add default via fd00:10:244:1::1
}
in_a() { ip netns exec a "$@"; }
in_b() { ip netns exec b "$@"; }
ping_b() {
    in_a ping -q -c 3 -W 20 10.244.1.11 >/dev/null
    in_a ping -q -c 3 -W 20 fd00:10:244:1::11 >/dev/null
}
sum() { sed -n "/\"sum_$1\"/,/}/s/.*\"bytes\":[^0-9]*\([0-9]*\).*/\1/p" "$folder/iperf.json"; }
transfer() { # MEGABYTES SERVER_ADDRESS: what is under way when the last byte is sent is not counted as received
    in_a iperf3 --client "$2" --bytes "$1M" --json >"$folder/iperf.json" || { cat "$folder/iperf.json" >>"$folder/said"; false; }
    [ "$(sum received)" -ge $(($1 * 600000)) ] && say "transferred $(($(sum sent) / 1048576)) MiB"
}
offloads() { for ns in a b; do ip netns exec $ns ethtool -K eth0 "$@"; done; }
await() { until [ -e "$folder/$1" ]; do sleep 0.1; done; }

add a "$mac_a" 10
add b "$mac_b" 11
in_b iperf3 --server --daemon --logfile /dev/null
ping_b; say "pinged"
if [ -e "$folder/rebooting" ]; then
    transfer 20 10.244.1.11
    say "back"
    exit 0
fi
transfer 100 10.244.1.11
transfer 20 fd00:10:244:1::11
offloads tso off; transfer 20 10.244.1.11
offloads tso on tx-udp-segmentation off gso off; transfer 20 10.244.1.11
offloads tx off; transfer 20 fd00:10:244:1::11
offloads rx off 2>/dev/null || true; transfer 20 10.244.1.11
offloads rx on tx on tso on gso on 2>/dev/null || true
say "awaits a restart"
ip netns exec a ping -q -i 0.2 10.244.1.11 >"$folder/ping" & pinging=$!
await restarted
ping_b; transfer 20 10.244.1.11
kill -INT $pinging; wait $pinging || true
say "restarted: $(grep transmitted "$folder/ping")"
touch "$folder/rebooting"; sync
echo b >/proc/sysrq-trigger
sleep 60
"#;

/// The lab, if it is here.
fn lab() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/lab/lab.sh");
    let path = std::env::var_os("LAB").map_or(beside, PathBuf::from);
    path.is_file().then_some(path)
}

/// A running virtual machine; killed when it is dropped.
struct Machine {
    lab: Child,
    folder: TempDir,
}

impl Machine {
    /// Boots; `device` is what both NICs have for options.
    fn boot(lab: &Path, node: &Node, device: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments = vec![
            "-action reboot=reset".to_owned(),
            "-object memory-backend-memfd,id=guest,size=1024M,share=on".to_owned(),
            "-machine memory-backend=guest".to_owned(),
        ];
        for (index, guest) in [A, B].into_iter().enumerate() {
            let (socket, mac) = (node.socket(guest), guest.mac());
            arguments.push(format!(
                "-chardev socket,id=c{index},path={},reconnect-ms=200 \
                 -netdev vhost-user,id=n{index},chardev=c{index} \
                 -device virtio-net-pci,netdev=n{index},mac={mac},{device}",
                socket.display()
            ));
        }
        let script = format!(
            "folder={} mac_a={} mac_b={}\n{SCRIPT}",
            folder.path().display(),
            A.mac(),
            B.mac()
        );
        let lab = Command::new("bash")
            .arg(lab)
            .args(["--nic", "none", "--mem", "1024", "--cpus", "2", "--modules", "virtio_net"])
            .args(["--timeout", &PATIENCE.as_secs().to_string()])
            .arg("--console")
            .arg(folder.path().join("console"))
            .args(["--device", &arguments.join(" "), "--share"])
            .arg(folder.path())
            .args(["--", "bash", "-c", &format!("modprobe virtio_net; {script}")])
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(fs::File::create(folder.path().join("output")).unwrap())
            .stderr(fs::File::create(folder.path().join("errors")).unwrap())
            .spawn()
            .unwrap();
        Self { lab, folder }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap_or_default()
    }

    /// Waits until the guest has said `words`, `count` times.
    async fn wait_for(&mut self, words: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.said().matches(words).count() < count {
            let is_over = self.lab.try_wait().unwrap();
            let file = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            assert!(
                Instant::now() < deadline && is_over.is_none() && !self.said().contains("failed"),
                "no \"{words}\" ({is_over:?}):\n{}\n{}\n{}\n{}",
                self.said(),
                file("output"),
                file("errors"),
                file("console"),
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn tell(&self, word: &str) {
        fs::write(self.folder.path().join(word), "").unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The lab and its emulator.
        let _ = kill_process_group(Pid::from_child(&self.lab), Signal::KILL);
        let _ = self.lab.wait();
    }
}

/// Boots, pings, moves bytes with and without offloads, outlives an engine that is killed,
/// reboots, and is gone.
async fn live(device: &str, ring: &str) {
    let Some(lab) = lab() else {
        eprintln!("SKIPPED: there is no lab at ../shared/lab/lab.sh, or named by LAB");
        return;
    };
    let mut node = Node::start(Shape { mode: Mode::Server, queue_pairs: 1 }).await;
    let mut machine = Machine::boot(&lab, &node, device);
    machine.wait_for("pinged", 1).await;
    for guest in [A, B] {
        let detail = node.wait_for_rings(guest).await;
        assert!(detail.starts_with(ring) && detail.contains("rx TSO, "), "{detail}");
    }
    machine.wait_for("transferred 100 MiB", 1).await;
    machine.wait_for("transferred 20 MiB", 5).await;
    machine.wait_for("awaits a restart", 1).await;
    node.kill_engine();
    node.restart_engine().await;
    for guest in [A, B] {
        node.wait_for_rings(guest).await;
    }
    machine.tell("restarted");
    machine.wait_for("restarted: ", 1).await;
    machine.wait_for("back", 1).await;
    drop(machine);
    for guest in [A, B] {
        node.wait_for(guest, "end", |port| port.detail.starts_with("no frontend connected")).await;
    }
    node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_lives_on_split_rings() {
    live("packed=off", "split ring").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_machine_lives_on_packed_rings() {
    live("packed=on", "packed ring").await;
}
