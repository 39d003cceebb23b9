//! vrctl and a real engine: every command that asks it, for people and for programs.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic, too")]

mod policy;

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    sync::OnceLock,
    time::{Duration, Instant},
};

use control_api::{
    connect::{connect_engine, handshake},
    engine::{
        ApplyHeader, ApplyRequest, MemoryBackend, Object, ObjectBatch, Port, Vrf,
        apply_request::Part, object::Kind, port,
    },
};
use serde_json::Value;
use tempfile::TempDir;

/// The machine may stall for seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// An engine with one pod; killed when it is dropped.
struct Engine {
    child: Child,
    folder: TempDir,
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Engine {
    /// With one pod and no policy.
    fn start() -> Self {
        Self::start_with(one_pod())
    }

    fn start_with(objects: Vec<Object>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(vrouter())
            .arg("--socket")
            .arg(folder.path().join("engine.sock"))
            .args(["--metrics", "", "--log", "error"])
            .spawn()
            .unwrap();
        let engine = Self { child, folder };
        engine.program(objects);
        engine
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// Waits for the engine, and gives it these objects.
    fn program(&self, objects: Vec<Object>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let deadline = Instant::now() + PATIENCE;
            let mut client = loop {
                match connect_engine(&self.socket()).await {
                    Ok(client) => break client,
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            handshake(&mut client, "test").await.unwrap();
            let parts = [
                Part::Header(ApplyHeader { generation: 1, full_sync: true }),
                Part::Objects(ObjectBatch { upserts: objects, deletes: Vec::new() }),
            ];
            let requests = parts.map(|part| ApplyRequest { part: Some(part) });
            client.apply(tokio_stream::iter(requests)).await.unwrap();
        });
    }

    fn vrctl(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vrctl"))
            .arg("--socket")
            .arg(self.socket())
            .args(["--control-socket", "/nonexistent/control.sock"])
            .args(arguments)
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.vrctl(&[arguments, &["--json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn text(&self, arguments: &[&str]) -> String {
        let output = self.vrctl(arguments);
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn one_pod() -> Vec<Object> {
    let pod = Port {
        name: "default/web".into(),
        role: port::Role::Guest.into(),
        addresses: vec![vec![10, 244, 1, 10]],
        mac: vec![0x0a, 0x58, 10, 244, 1, 10],
        backend: Some(port::Backend::Memory(MemoryBackend {})),
        ..Port::default()
    };
    let vrf = Vrf {
        name: "default".into(),
        gateway_addresses: vec![vec![10, 244, 1, 1]],
        gateway_mac: vec![0x0a, 0x58, 10, 244, 1, 1],
        ..Vrf::default()
    };
    [Kind::Vrf(vrf), Kind::Port(pod)].map(|kind| Object { kind: Some(kind) }).into()
}

/// The engine's program. Built here, since cargo builds only this package's, unless `VROUTER_BIN`
/// says where it is.
fn vrouter() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os("VROUTER_BIN") {
            return folder.into();
        }
        let own = Path::new(env!("CARGO_BIN_EXE_vrctl")).parent().unwrap();
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "vrouter", "--bin", "vrouter"])
            .args((!cfg!(debug_assertions)).then_some("--release"))
            .arg("--target-dir")
            .arg(own.parent().unwrap())
            .status()
            .unwrap();
        assert!(status.success(), "cannot build vrouter");
        own.to_owned()
    });
    folder.join("vrouter")
}

#[test]
fn every_command_answers_people_and_programs() {
    let engine = Engine::start();
    let ports = engine.json(&["ports"]);
    assert_eq!(ports[0]["port"], "default/web");
    assert_eq!(ports[0]["role"], "guest");
    assert_eq!(ports[0]["state"], "up");
    assert_eq!(ports[0]["addresses"][0], "10.244.1.10");
    let routes = engine.json(&["routes", "--get", "10.244.1.10"]);
    assert_eq!(routes[0]["next_hops"][0]["name"], "default/web");
    assert_eq!(routes[0]["origin"], "port");
    assert_eq!(engine.json(&["workers"])[0]["worker"], 0);
    assert_eq!(engine.json(&["neighbours"])[0]["address"], "10.244.1.10");
    for empty in [
        &["flows"][..],
        &["flows", "--pod", "default/web"],
        &["drops"],
        &["drops", "--trace", "--reason", "route_none"],
        &["tunnels"],
    ] {
        assert_eq!(engine.json(empty), serde_json::json!([]), "{empty:?}");
    }
    assert!(engine.json(&["drops", "--all"]).as_array().unwrap().len() > 20);
    for command in ["ports", "routes", "neighbours", "tunnels", "flows", "drops", "workers"] {
        let text = engine.text(&[command]);
        assert!(!text.contains('\u{1b}'), "no colour off a terminal");
        assert!(!text.is_empty());
    }
    assert!(engine.text(&["ports"]).contains("default/web"));
}

#[test]
fn a_watch_shows_rates_and_ends_after_its_rounds() {
    let engine = Engine::start();
    for command in ["ports", "workers", "tunnels", "drops"] {
        let watch = [command, "--watch", "0.1", "--count", "2"];
        let output = engine.vrctl(&[&watch[..], &["--json"]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.lines().count(), 2, "{command}: one document a line");
        for line in text.lines() {
            assert!(serde_json::from_str::<Value>(line).unwrap().is_array());
        }
        assert!(engine.vrctl(&watch).status.success());
    }
}

#[test]
fn status_shows_the_engine_while_control_is_away() {
    let engine = Engine::start();
    let output = engine.vrctl(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["engine"]["generation"], 1);
    assert_eq!(status["engine"]["ports"], 1);
    assert!(status["control"].is_null());
    assert!(status["control_error"].as_str().unwrap().contains("vrouter-control"));
}

#[test]
fn what_is_not_there_is_exit_code_1() {
    let engine = Engine::start();
    for (arguments, expected) in [
        (&["routes", "--get", "203.0.113.1"][..], "no route to 203.0.113.1"),
        (&["flows", "--pod", "default/none"], "there is no port default/none"),
        (&["drops", "--trace", "--reason", "none"], "there is no drop reason none"),
    ] {
        let output = engine.vrctl(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(expected), "{error}");
    }
}
