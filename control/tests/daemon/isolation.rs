//! Isolation from the first packet on: a pod whose policy denies a peer never sees a packet of that
//! peer, though it sends from before the pod's ADD until after its DEL.

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use control_api::node::Status;
use rustix::net::{AddressFamily, SocketType, eth, ipproto, socket};
use serde_json::json;

use crate::{
    node::{LIMIT, Node, delete_namespace, need_namespaces},
    probe::within,
};

const RANGES: &str = "10.244.1.0/24, 'fd00:10:244:1::/64'";

/// Whoever is in `demo` may be reached by its pods with `app: client`, and by nobody else; and what
/// they begin goes to nobody else.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: demo, name: clients}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
";

/// The pods that send. They are in another namespace than the policy's pods, but for the one that
/// it lets in.
const PODS: &str = "
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: demo, name: client-begins}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: demo, name: client, labels: {app: client}}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.1.10}, {ip: 'fd00:10:244:1::10'}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: other, name: peer, labels: {app: client}}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.1.11}, {ip: 'fd00:10:244:1::11'}]}
";

/// A pod whose labels are known.
const KNOWN: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: demo, name: known, labels: {app: web}}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.1.77}, {ip: 'fd00:10:244:1::77'}]}
";

/// The addresses that are sent to.
const TARGETS: [&str; 2] = ["10.244.1.77", "fd00:10:244:1::77"];

/// Between two packets of a sender.
const PAUSE: Duration = Duration::from_micros(500);

/// How long it goes on after the ADD, at least.
const AFTER: Duration = Duration::from_millis(300);

/// Sends to the targets until it is dropped: UDP, SCTP and echo requests, each as it were new.
struct Sender {
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sender {
    fn start(namespace: &str) -> Self {
        let targets = TARGETS.map(|target| target.parse::<IpAddr>().unwrap());
        let sockets = within(namespace, || targets.map(|target| sockets(target.is_ipv6())));
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut number = 0_u16;
            while !over.load(Ordering::Relaxed) {
                for (target, [udp, sctp, icmp]) in targets.iter().zip(&sockets) {
                    number = number.wrapping_add(1);
                    // Nobody is there at times, and the kernel tells of it at the next packet.
                    let _ = udp.send_to(b"x", SocketAddr::new(*target, number.max(1)));
                    let _ = sctp.send_to(&init(number), SocketAddr::new(*target, 0));
                    let echo = echo(target.is_ipv6(), number);
                    let _ = icmp.send_to(&echo, SocketAddr::new(*target, 0));
                }
                thread::sleep(PAUSE);
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

fn sockets(is_v6: bool) -> [UdpSocket; 3] {
    let (family, any) = if is_v6 {
        (AddressFamily::INET6, IpAddr::from([0_u16; 8]))
    } else {
        (AddressFamily::INET, IpAddr::from([0; 4]))
    };
    let icmp = if is_v6 { ipproto::ICMPV6 } else { ipproto::ICMP };
    let raw = |protocol| UdpSocket::from(socket(family, SocketType::RAW, Some(protocol)).unwrap());
    [UdpSocket::bind((any, 0)).unwrap(), raw(ipproto::SCTP), raw(icmp)]
}

/// An SCTP packet with an INIT chunk; nobody checks its sum here.
fn init(source: u16) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), 80_u16.to_be_bytes()].concat();
    bytes.extend([
        0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9,
    ]);
    bytes
}

/// An echo request. The kernel fills in the sum of ICMPv6.
fn echo(is_v6: bool, identifier: u16) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    if is_v6 {
        return vec![128, 0, 0, 0, high, low, 0, 1];
    }
    let sum = u32::from(identifier) + 0x0800 + 1;
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    [&[8, 0][..], &sum.to_be_bytes(), &[high, low, 0, 1]].concat()
}

/// Counts the packets that come into a namespace, by who sends them, on interfaces that are still
/// to come, too.
#[derive(Default)]
struct Seen {
    /// From the client that is let in.
    allowed: AtomicUsize,
    /// From the peer that is not.
    denied: AtomicUsize,
}

/// Watches until the task is dropped.
fn watch(namespace: &str) -> (Arc<Seen>, tokio::task::JoinHandle<()>) {
    let tap = within(namespace, || {
        socket(AddressFamily::PACKET, SocketType::RAW, Some(eth::ALL)).unwrap()
    });
    let tap = UdpSocket::from(tap);
    tap.set_nonblocking(true).unwrap();
    let tap = tokio::net::UdpSocket::from_std(tap).unwrap();
    let seen = Arc::new(Seen::default());
    let counted = Arc::clone(&seen);
    let task = tokio::spawn(async move {
        let mut frame = [0; 2048];
        while let Ok(len) = tap.recv(&mut frame).await {
            match source(&frame[..len]).map(|octets| octets.last().copied()) {
                Some(Some(0x10 | 10)) => counted.allowed.fetch_add(1, Ordering::Relaxed),
                Some(Some(0x11 | 11)) => counted.denied.fetch_add(1, Ordering::Relaxed),
                _ => 0,
            };
        }
    });
    (seen, task)
}

/// The source address of the IP packet in a frame.
fn source(frame: &[u8]) -> Option<&[u8]> {
    match frame.get(12..14)? {
        [0x08, 0x00] => frame.get(26..30),
        [0x86, 0xdd] => frame.get(22..38).filter(|source| source.starts_with(&[0xfd])),
        _ => None,
    }
}

/// A node with the policy, and its two senders.
async fn start() -> (Node, [Sender; 2]) {
    let mut node = Node::new(RANGES);
    node.write_manifest("demo.yaml", &format!("{POLICY}{PODS}"));
    node.start_engine();
    node.start().await;
    node.until_in_step().await;
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=other;K8S_POD_NAME=peer";
    let namespaces = ["client", "peer"].map(|pod| node.add_pod(pod));
    node.verb("ADD", "client").succeed().await;
    node.verb("ADD", "peer").args(args).succeed().await;
    let senders = namespaces.map(|namespace| Sender::start(&namespace));
    (node, senders)
}

/// Has the pod's manifest read, or forgotten.
async fn know(node: &Node, is_known: bool) {
    if is_known {
        node.write_manifest("known.yaml", KNOWN);
    } else {
        fs::remove_file(node.path("manifests").join("known.yaml")).unwrap();
    }
    let pods = 2 + u32::from(is_known);
    node.until_status("the manifest", |status| status.pods == pods).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_packet_that_policy_denies_gets_through_from_before_the_add_on() {
    need_namespaces!();
    let (mut node, senders) = start().await;
    // The labels of one are known; of the other only its namespace is, all of whose pods are
    // isolated. They get the same addresses in turn.
    for round in 0..6 {
        let (is_known, name) = [(true, "known"), (false, "unknown")][round % 2];
        know(&node, is_known).await;
        let namespace = node.add_pod(name);
        let (seen, task) = watch(&namespace);
        let ips = json!({"ips": TARGETS});
        node.verb("ADD", name).with("runtimeConfig", ips).succeed().await;
        let started = Instant::now();
        while seen.allowed.load(Ordering::Relaxed) < 100 || started.elapsed() < AFTER {
            assert!(started.elapsed() < LIMIT, "round {round}: the client does not get through");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.verb("DEL", name).succeed().await;
        assert_eq!(seen.denied.load(Ordering::Relaxed), 0, "round {round}, {name}");
        task.abort();
        delete_namespace(&namespace);
    }
    // Without the policy, the peer is seen: it has been sending all the time.
    node.write_manifest("demo.yaml", PODS);
    let lifted = |status: &Status| status.policy.as_ref().is_some_and(|it| it.policies == 1);
    node.until_status("the policy is gone", lifted).await;
    let (seen, task) = watch(&node.add_pod("unknown"));
    let ips = json!({"ips": TARGETS});
    node.verb("ADD", "unknown").with("runtimeConfig", ips).succeed().await;
    let started = Instant::now();
    while seen.denied.load(Ordering::Relaxed) == 0 {
        assert!(started.elapsed() < LIMIT, "the peer does not get through");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
    drop(senders);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_engine_and_control_let_no_denied_packet_through() {
    need_namespaces!();
    let (mut node, senders) = start().await;
    know(&node, true).await;
    let namespace = node.add_pod("known");
    let (seen, task) = watch(&namespace);
    node.verb("ADD", "known").succeed().await;
    for round in 0..3 {
        node.kill_engine();
        if round % 2 == 1 {
            node.kill();
            node.start_engine();
            node.start().await;
        } else {
            node.start_engine();
        }
        node.until_in_step().await;
        let (before, started) = (seen.allowed.load(Ordering::Relaxed), Instant::now());
        while seen.allowed.load(Ordering::Relaxed) < before + 100 {
            assert!(started.elapsed() < LIMIT, "round {round}: the client does not get through");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(seen.denied.load(Ordering::Relaxed), 0, "round {round}");
    }
    task.abort();
    drop(senders);
}
