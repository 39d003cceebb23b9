//! The daemon itself, with a pod of the kernel's: what it says about packets that it dropped.

use std::{
    process::{Child, Command},
    time::{Duration, Instant},
};

use control_api::{
    connect::{connect_engine, handshake},
    engine::{
        AfXdpBackend, ApplyHeader, ApplyRequest, DropExample, ListDropExamplesRequest, Object,
        ObjectBatch, Port, Vrf, apply_request::Part, engine_client::EngineClient, object::Kind,
        port,
    },
};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::{namespace::Namespace, skip_unless_namespaces};

/// The machine may stall for seconds.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    fn start() -> Self {
        Self::start_by(|command| command.spawn().unwrap())
    }

    /// Starts a daemon in the namespace of a node.
    pub(crate) fn start_in(namespace: &Namespace) -> Self {
        Self::start_by(|command| namespace.inside(|| command.spawn().unwrap()))
    }

    fn start_by(spawn: impl FnOnce(&mut Command) -> Child) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("vrouter.toml");
        let socket = folder.path().join("engine.sock");
        let text = format!(
            "[engine]\nsocket = \"{}\"\nmetrics = \"\"\nbpf_folder = \"\"\n",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vrouter"));
        let child = spawn(command.arg("--config").arg(&config).args(["--log", "error"]));
        Self { child, folder }
    }

    pub(crate) async fn client(&self) -> EngineClient<Channel> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match connect_engine(&self.folder.path().join("engine.sock")).await {
                Ok(mut client) => {
                    handshake(&mut client, "test").await.unwrap();
                    return client;
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A pod at the far end of `engine0`, with a route for everything.
fn pod() -> Namespace {
    let pod = Namespace::create("drops");
    pod.ip("link add pod0 address 0a:58:0a:f4:01:0a type veth peer engine0");
    pod.ip("addr add 10.244.1.10/32 dev pod0");
    for end in ["pod0", "engine0"] {
        pod.sysctl(&format!("net.ipv6.conf.{end}.disable_ipv6"), "1");
        pod.ip(&format!("link set {end} up"));
    }
    pod.ip("route add default via 10.244.1.1 dev pod0 onlink");
    pod
}

async fn program(client: &mut EngineClient<Channel>, pod: &Namespace) {
    let port = Port {
        name: "default/web".into(),
        role: port::Role::Guest.into(),
        addresses: vec![vec![10, 244, 1, 10]],
        mac: vec![0x0a, 0x58, 10, 244, 1, 10],
        backend: Some(port::Backend::AfXdp(AfXdpBackend {
            interface: "engine0".into(),
            netns_path: pod.path().display().to_string(),
            partial_checksums: true,
            ..AfXdpBackend::default()
        })),
        ..Port::default()
    };
    let vrf = Vrf {
        name: "default".into(),
        gateway_addresses: vec![vec![10, 244, 1, 1]],
        gateway_mac: vec![0x0a, 0x58, 10, 244, 1, 1],
        ..Vrf::default()
    };
    apply(client, [Kind::Vrf(vrf), Kind::Port(port)].map(|kind| Object { kind: Some(kind) })).await;
}

/// Puts these objects in force, and no others.
pub(crate) async fn apply(client: &mut EngineClient<Channel>, objects: impl Into<Vec<Object>>) {
    let upserts = objects.into();
    let parts = [
        Part::Header(ApplyHeader { generation: 1, full_sync: true }),
        Part::Objects(ObjectBatch { upserts, deletes: Vec::new() }),
    ];
    let requests = parts.map(|part| ApplyRequest { part: Some(part) });
    let applied = client.apply(tokio_stream::iter(requests)).await.unwrap().into_inner();
    assert_eq!(applied.port_errors, []);
}

async fn examples(client: &mut EngineClient<Channel>, port: &str) -> Vec<DropExample> {
    let request = ListDropExamplesRequest {
        port: port.into(),
        reason: "route_none".into(),
        ..ListDropExamplesRequest::default()
    };
    let answer = client.list_drop_examples(request).await.unwrap();
    answer.into_inner().map(Result::unwrap).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_packet_is_shown_with_its_flow_and_first_bytes() {
    skip_unless_namespaces!();
    let pod = pod();
    let daemon = Daemon::start();
    let mut client = daemon.client().await;
    program(&mut client, &pod).await;
    let deadline = Instant::now() + PATIENCE;
    let found = loop {
        // There is no route to it.
        pod.try_run("ping -n -c 1 -W 1 -s 200 10.9.0.1");
        if let Some(example) = examples(&mut client, "default/web").await.pop() {
            break example;
        }
        assert!(Instant::now() < deadline, "no example");
    };
    assert_eq!((found.port.as_str(), found.protocol), ("default/web", 1));
    assert_eq!((found.source, found.destination), (vec![10, 244, 1, 10], vec![10, 9, 0, 1]));
    assert_eq!((found.packet_bytes, found.head.len()), (14 + 20 + 8 + 200, 128));
    assert_eq!(found.head[..6], [0x0a, 0x58, 10, 244, 1, 1]);
    assert!(found.detail.contains("10.9.0.1"), "{}", found.detail);
    assert!(found.age_ms < 60_000);
    assert!(examples(&mut client, "uplink").await.is_empty());
}
