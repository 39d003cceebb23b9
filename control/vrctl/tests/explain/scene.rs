//! A folder with a cluster in it, and questions about it.

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A cluster as manifests.
pub(crate) struct Scene {
    pub(crate) folder: TempDir,
}

impl Scene {
    /// Writes the objects to `manifests/cluster.json`.
    pub(crate) fn new(objects: &[Value]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let scene = Self { folder };
        scene.write("manifests/cluster.json", &list.to_string());
        scene
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// Runs `vrctl explain --manifests manifests …` in the folder.
    pub(crate) fn explain(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vrctl"))
            .current_dir(self.folder.path())
            .args(["explain", "--manifests", "manifests"])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// The text for people; the command must succeed.
    pub(crate) fn text(&self, arguments: &[&str]) -> String {
        let output = self.explain(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The answer to one question; the command must succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// The answers to many questions, and the exit code.
    pub(crate) fn answers(&self, probes: &[Value]) -> (Vec<Value>, Option<i32>) {
        self.write("probes.json", &Value::from(probes).to_string());
        let output = self.explain(&["--probes", "probes.json", "--json"]);
        let answers = serde_json::from_slice(&output.stdout);
        (
            answers.unwrap_or_else(|error| panic!("{error}: {}", stderr(&output))),
            output.status.code(),
        )
    }

    /// The answers to many questions that all have one.
    pub(crate) fn all(&self, probes: &[Value]) -> Vec<Value> {
        let (answers, code) = self.answers(probes);
        assert_eq!(code, Some(0), "{answers:?}");
        assert_eq!(answers.len(), probes.len());
        answers
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A node with a range of each family: `node-1` has 10.244.1.0/24 and `fd00:10:244:1::/64`.
pub(crate) fn node(number: u8) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")},
        "spec": {"podCIDRs": [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": format!("192.0.2.{number}")},
            {"type": "InternalIP", "address": format!("2001:db8::{number}")}]}})
}

/// A pod of a node of [`node`]'s, with addresses that end in `last`, and a label.
pub(crate) fn pod(name: &str, node: u8, last: u8, labels: &Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": format!("node-{node}"), "containers": []},
        "status": {"podIPs": [{"ip": format!("10.244.{node}.{last}")},
                              {"ip": format!("fd00:10:244:{node}::{last}")}]}})
}

pub(crate) fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

pub(crate) fn policy(name: &str, spec: &Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// `a/b` or an address, as a probe has it.
pub(crate) fn end(text: &str) -> Value {
    if text.contains('/') { json!({"pod": text}) } else { json!({"ip": text}) }
}

pub(crate) fn probe(from: &str, to: &str, protocol: &str, port: u16) -> Value {
    json!({"from": end(from), "to": end(to), "protocol": protocol, "port": port})
}
