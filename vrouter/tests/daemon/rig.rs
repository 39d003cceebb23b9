//! A daemon of a test's own.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use control_api::{
    connect::{connect_engine, handshake},
    engine::{
        ApplyHeader, ApplyRequest, ApplyResponse, MemoryBackend, Node, Object, ObjectBatch, Port,
        Prefix, Route, RouteKey, Tunnel, Vrf, apply_request::Part, engine_client::EngineClient,
        next_hop, object::Kind, port,
    },
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};

pub(crate) type Client = EngineClient<Channel>;

/// The machine may stall for seconds.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A folder with a configuration, and the daemons that run on it.
pub(crate) struct Rig {
    pub(crate) folder: TempDir,
}

/// A running daemon; killed when it is dropped.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    lines: Receiver<String>,
    /// What it logged so far.
    pub(crate) log: String,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let rig = Self { folder: tempfile::tempdir().unwrap() };
        rig.configure("");
        rig
    }

    /// Writes the configuration, with more keys of `[engine]`.
    pub(crate) fn configure(&self, more: &str) {
        let socket = self.socket();
        let socket = socket.display();
        let text = format!(
            "[engine]\nsocket = \"{socket}\"\nmetrics = \"127.0.0.1:0\"\nbpf_folder = \"\"\n{more}\n\
             [control]\nnothing_of_ours = true\n"
        );
        fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("vrouter.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vrouter"));
        command.arg("--config").arg(self.config()).env_remove("NOTIFY_SOCKET");
        command
    }

    /// Starts a daemon and waits until its socket answers.
    pub(crate) fn start(&self) -> Daemon {
        let mut daemon = self.spawn();
        daemon.wait_for_line("ready");
        daemon
    }

    /// Starts a daemon.
    pub(crate) fn spawn(&self) -> Daemon {
        let mut child = self.command().stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        Daemon { child, lines, log: String::new() }
    }

    /// Runs a daemon that is to give up by itself.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// A client that has shaken hands.
    pub(crate) async fn client(&self) -> Client {
        let mut client = connect_engine(&self.socket()).await.unwrap();
        handshake(&mut client, "test").await.unwrap();
        client
    }
}

impl Daemon {
    /// Reads its log up to a line with `text`.
    pub(crate) fn wait_for_line(&mut self, text: &str) -> String {
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
                Err(error) => panic!("no \"{text}\" ({error}) in the log:\n{}", self.log),
            }
        }
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn signal(&mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        self.wait()
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a batch.
pub(crate) async fn apply(
    client: &mut Client,
    generation: u64,
    upserts: Vec<Object>,
) -> Result<ApplyResponse, Status> {
    let header = ApplyHeader { generation, full_sync: false };
    send(client, header, ObjectBatch { upserts, deletes: Vec::new() }).await
}

pub(crate) async fn send(
    client: &mut Client,
    header: ApplyHeader,
    objects: ObjectBatch,
) -> Result<ApplyResponse, Status> {
    let parts = [Part::Header(header), Part::Objects(objects)];
    let requests = parts.map(|part| ApplyRequest { part: Some(part) });
    Ok(client.apply(tokio_stream::iter(requests)).await?.into_inner())
}

pub(crate) fn object(kind: Kind) -> Object {
    Object { kind: Some(kind) }
}

pub(crate) fn guest(name: &str, address: [u8; 4]) -> Object {
    object(Kind::Port(Port {
        name: name.into(),
        role: port::Role::Guest.into(),
        addresses: vec![address.into()],
        mac: vec![0x0a, 0x58, address[0], address[1], address[2], address[3]],
        backend: Some(port::Backend::Memory(MemoryBackend {})),
        description: "a test's".into(),
        ..Port::default()
    }))
}

pub(crate) fn route(address: [u8; 4], length: u32, via: next_hop::Via) -> Object {
    let prefix = Prefix { address: address.into(), length };
    object(Kind::Route(Route {
        key: Some(RouteKey { vrf: 0, prefix: Some(prefix) }),
        next_hops: vec![control_api::engine::NextHop { via: Some(via) }],
    }))
}

/// A node with two guests, a tunnel and a route through it.
pub(crate) fn small_node() -> Vec<Object> {
    let node = Node {
        name: "node-a".into(),
        vtep_addresses: vec![vec![192, 0, 2, 1]],
        router_mac: vec![0x0a, 0x58, 192, 0, 2, 1],
        uplink_port: "uplink".into(),
        ..Node::default()
    };
    let vrf = Vrf {
        name: "default".into(),
        vnis: vec![1],
        gateway_addresses: vec![vec![10, 244, 1, 1]],
        gateway_mac: vec![0x0a, 0x58, 10, 244, 1, 1],
        ..Vrf::default()
    };
    let uplink = Port {
        name: "uplink".into(),
        role: port::Role::Uplink.into(),
        backend: Some(port::Backend::Memory(MemoryBackend {})),
        ..Port::default()
    };
    let tunnel = Tunnel {
        name: "node-b/ipv4".into(),
        // No machine is there (RFC 5737).
        remote: vec![192, 0, 2, 2],
        vni: 1,
        remote_router_mac: vec![0x0a, 0x58, 192, 0, 2, 2],
        ..Tunnel::default()
    };
    let mut objects: Vec<_> =
        [Kind::Node(node), Kind::Vrf(vrf), Kind::Port(uplink), Kind::Tunnel(tunnel)]
            .map(object)
            .into();
    objects.push(guest("default/client", [10, 244, 1, 10]));
    objects.push(guest("default/web", [10, 244, 1, 11]));
    objects.push(route([10, 244, 2, 0], 24, next_hop::Via::Tunnel("node-b/ipv4".into())));
    objects
}
