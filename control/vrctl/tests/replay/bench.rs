//! A folder with manifests and captures, and the frames that go into them.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use etherparse::PacketBuilder;
use serde_json::Value;
use tempfile::TempDir;
use vrouter::port::pcap::file::{self, CaptureWriter, Captured};

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: InternalIP, address: "2001:db8::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
spec: {podCIDRs: [10.244.2.0/24, "fd00:10:244:2::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}, {type: InternalIP, address: "2001:db8::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: default}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.1.10}, {ip: "fd00:10:244:1::10"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec: {nodeName: node-a, containers: []}
status: {podIPs: [{ip: 10.244.1.11}, {ip: "fd00:10:244:1::11"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: back}
spec: {nodeName: node-b, containers: []}
status: {podIPs: [{ip: 10.244.2.10}, {ip: "fd00:10:244:2::10"}]}
"#;

pub(crate) const CLIENT: &str = "10.244.1.10";
pub(crate) const CLIENT_V6: &str = "fd00:10:244:1::10";
pub(crate) const WEB: &str = "10.244.1.11";
pub(crate) const WEB_V6: &str = "fd00:10:244:1::11";
pub(crate) const DB: &str = "10.244.2.10";
pub(crate) const DB_V6: &str = "fd00:10:244:2::10";

/// What `--ports` says about a port.
pub(crate) struct Port {
    pub(crate) mac: [u8; 6],
    pub(crate) gateway_mac: [u8; 6],
}

pub(crate) struct Bench {
    pub(crate) folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        fs::write(folder.path().join("manifests/cluster.yaml"), MANIFESTS).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `vrctl replay --node NODE …` in the folder.
    pub(crate) fn replay(&self, node: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vrctl"))
            .current_dir(self.folder.path())
            .args(["replay", "--manifests", "manifests", "--node", node])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// The same, which must succeed; its summary.
    pub(crate) fn replay_ok(&self, node: &str, arguments: &[&str]) -> Value {
        let output = self.replay(node, &[arguments, &["--json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn port(&self, node: &str, name: &str) -> Port {
        let ports = self.replay_ok(node, &["--ports"]);
        let ports = ports.as_array().unwrap();
        let port = ports.iter().find(|port| port["port"] == name).unwrap();
        Port { mac: mac(&port["mac"]), gateway_mac: mac(&port["gateway_mac"]) }
    }

    /// Writes frames with a millisecond between them.
    pub(crate) fn write(&self, name: &str, frames: &[Vec<u8>]) {
        let mut writer = CaptureWriter::create(&self.path(name)).unwrap();
        for (index, frame) in (0_u64..).zip(frames) {
            writer.write(Duration::from_millis(1000 + index), frame).unwrap();
        }
        writer.finish().unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<Captured> {
        file::read(&self.path(name)).unwrap()
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// A UDP packet that a pod sends to its gateway.
    pub(crate) fn udp(&self, node: &str, port: &str, [from, to]: [&str; 2]) -> Vec<u8> {
        let Port { mac, gateway_mac } = self.port(node, port);
        udp_frame(mac, gateway_mac, [from.parse().unwrap(), to.parse().unwrap()], b"hello")
    }
}

pub(crate) fn udp_frame(
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
    [from, to]: [IpAddr; 2],
    payload: &[u8],
) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(source_mac, destination_mac);
    let network = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("one family a packet"),
    };
    let mut frame = Vec::new();
    network.udp(40_000, 53).write(&mut frame, payload).unwrap();
    frame
}

/// All files below a folder, by name, with their content.
pub(crate) fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.strip_prefix(folder).unwrap().into(), fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

fn mac(text: &Value) -> [u8; 6] {
    let mut octets = [0; 6];
    let Some(text) = text.as_str() else { return octets };
    for (octet, digits) in octets.iter_mut().zip(text.split(':')) {
        *octet = u8::from_str_radix(digits, 16).unwrap();
    }
    octets
}
