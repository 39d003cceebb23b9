//! All three programs together: what pods notice when one of them is killed.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
    process::{Child, Command, Stdio},
    time::Instant,
};

use rustix::fs::{Gid, Uid, chown};
use serde_json::json;

use crate::node::{LIMIT, Node, delete_namespace, ip_json, need_namespaces, run};

const RANGES: &str = "10.244.1.0/24, 'fd00:10:244:1::/64'";

/// A node with the real engine and two pods, its own stack and they behind ports of a type.
async fn start(port_type: &str) -> (Node, [String; 2]) {
    let mut node = Node::new(RANGES);
    node.write_config(&format!("pod_port_type = '{port_type}'\nhost_port_type = '{port_type}'"));
    node.start_engine();
    node.start().await;
    node.until_in_step().await;
    let pods = ["one", "two"].map(|pod| node.add_pod(pod));
    for pod in ["one", "two"] {
        node.verb("ADD", pod).succeed().await;
    }
    (node, pods)
}

fn ping(pod: &str, address: &str, options: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{pod}")).args(["ping", "-n"]).args(options).arg(address);
    command
}

/// Waits until a ping is answered.
async fn until_answered(node: &Node, pod: &str, address: &str) {
    let started = Instant::now();
    loop {
        let answered = ping(pod, address, &["-c", "1", "-W", "1"]).stdout(Stdio::null()).status();
        if answered.unwrap().success() {
            return;
        }
        assert!(started.elapsed() < LIMIT, "{address} does not answer\n{}", node.log());
        tokio::task::yield_now().await;
    }
}

/// How many of the pings were answered, once they have all been sent.
fn answered(pings: Child) -> (u32, u32) {
    let output = String::from_utf8(pings.wait_with_output().unwrap().stdout).unwrap();
    let counts = output.lines().find(|line| line.contains("packets transmitted")).unwrap();
    let numbers: Vec<u32> =
        counts.split([' ', ',']).filter_map(|word| word.parse().ok()).take(2).collect();
    (numbers[0], numbers[1])
}

#[tokio::test(flavor = "multi_thread")]
async fn control_killed_and_restarted_loses_no_packet() {
    need_namespaces!();
    for port_type in ["veth", "tap"] {
        kill_control(port_type).await;
    }
}

async fn kill_control(port_type: &str) {
    let (mut node, [one, _two]) = start(port_type).await;
    until_answered(&node, &one, "10.244.1.3").await;
    // A late answer is no lost one: the machine stalls for seconds.
    let options = ["-c", "200", "-i", "0.02", "-W", "20"];
    let pings = ping(&one, "10.244.1.3", &options).stdout(Stdio::piped()).spawn().unwrap();
    for _ in 0..3 {
        node.kill();
        node.start().await;
        node.until_in_step().await;
    }
    assert_eq!(answered(pings), (200, 200));
    assert_eq!(node.attachments().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_is_programmed_again_and_pods_go_on() {
    need_namespaces!();
    for port_type in ["veth", "tap"] {
        kill_engine(port_type).await;
    }
}

async fn kill_engine(port_type: &str) {
    let (mut node, [one, two]) = start(port_type).await;
    let interface = |pod: &String| {
        let link = ip_json(pod, &["link", "show", "eth0"]);
        (link[0]["ifindex"].clone(), link[0]["link_index"].clone(), link[0]["address"].clone())
    };
    let before = [&one, &two].map(interface);
    node.kill_engine();
    node.until_status("noticed", |status| !status.engine_connected).await;
    node.start_engine();
    for (pod, address) in [(&one, "10.244.1.3"), (&one, "fd00:10:244:1::3"), (&two, "192.0.2.1")] {
        until_answered(&node, pod, address).await;
    }
    assert_eq!([&one, &two].map(interface), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_and_pods_reach_each_other_and_nothing_is_left_after() {
    need_namespaces!();
    let (mut node, [one, two]) = start("veth").await;
    let own = node.namespace();
    for (from, to) in [
        (&own, "10.244.1.2"),
        (&own, "fd00:10:244:1::3"),
        (&one, "2001:db8::1"),
        (&two, "192.0.2.1"),
        (&two, "fd00:10:244:1::1"),
    ] {
        until_answered(&node, from, to).await;
    }
    // An interface that vanishes in use, and a container that ends without a DEL.
    let gone = node.attachments().await[0].host_interface.clone();
    run("ip", &["-n", &own, "link", "del", &gone]);
    delete_namespace(&two);
    for pod in ["one", "two"] {
        node.verb("DEL", pod).succeed().await;
    }
    assert_eq!(node.attachments().await, []);
    assert_eq!(node.host_interfaces(), Vec::<String>::new());
    // The engine has let go of both ports and goes on.
    let three = node.add_pod("three");
    node.verb("ADD", "three").succeed().await;
    until_answered(&node, &three, "192.0.2.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_makes_the_socket_of_a_pod_and_makes_it_again() {
    need_namespaces!();
    let mut node = Node::new(RANGES);
    node.start_engine();
    node.start().await;
    node.until_in_step().await;
    let folder = node.path("shared-dir");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(Uid::from_raw(1001)), Some(Gid::from_raw(1002))).unwrap();
    node.add_pod("fast");
    let with = |verb| {
        let verb = node.verb(verb, "fast").with("portType", json!("vhost-user"));
        verb.with("sharedDir", json!(folder))
    };
    let result = with("ADD").succeed().await;
    let socket = folder.join("id-fast-eth0");
    assert_eq!(result["interfaces"][0]["socketPath"], socket.to_str().unwrap());
    let found = fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (1001, 1002, 0o660));
    UnixStream::connect(&socket).unwrap();
    with("CHECK").with("prevResult", result.clone()).succeed().await;

    node.kill_engine();
    node.until_status("noticed", |status| !status.engine_connected).await;
    node.start_engine();
    node.until_in_step().await;
    let started = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        assert!(started.elapsed() < LIMIT, "nobody listens\n{}", node.log());
        tokio::task::yield_now().await;
    }
    let verb = node.verb("CHECK", "fast").with("prevResult", result);
    verb.succeed().await;
    node.verb("DEL", "fast").succeed().await;
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    assert_eq!(node.attachments().await, []);
}
