//! A node with one engine and two vhost-user guests, and their sockets.

use std::{net::Ipv6Addr, path::PathBuf, time::Instant};

use control_api::engine::{
    ApplyHeader, ListDropsRequest, ListPortsRequest, Node as NodeObject, Object, ObjectBatch, Port,
    PortStatus, VhostUserBackend, Vrf, object::Kind, port, vhost_user_backend::Mode,
};
use rustix::process::Signal;
use tokio::sync::{Mutex, MutexGuard};
use tokio_stream::StreamExt;

use crate::daemon::{Client, Daemon, PATIENCE, Rig, object, send};

/// One test at a time: frontends poll, and take the machine's CPUs.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// A guest's name, and the last byte of its addresses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    last: u8,
}

pub(crate) const A: Guest = Guest { name: "default/a", last: 10 };
pub(crate) const B: Guest = Guest { name: "default/b", last: 11 };
const GATEWAY: [u8; 4] = [10, 244, 1, 1];
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1);

impl Guest {
    pub(crate) fn address(self) -> [u8; 4] {
        [10, 244, 1, self.last]
    }

    /// As people write it: the last part is the same digits as in IPv4.
    fn address_v6(self) -> Ipv6Addr {
        format!("fd00:10:244:1::{}", self.last).parse().unwrap()
    }

    pub(crate) fn mac(self) -> String {
        mac_words(self.address())
    }
}

/// The gateway's MAC address.
pub(crate) fn gateway_mac() -> String {
    mac_words(GATEWAY)
}

fn mac(address: [u8; 4]) -> Vec<u8> {
    [&[0x0a, 0x58][..], &address].concat()
}

fn mac_words(address: [u8; 4]) -> String {
    mac(address).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// How the guests' ports are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Who listens on the sockets.
    pub(crate) mode: Mode,
    pub(crate) queue_pairs: u32,
}

/// An engine and its guests' sockets.
pub(crate) struct Node {
    rig: Rig,
    daemon: Option<Daemon>,
    client: Client,
    shape: Shape,
    generation: u64,
    _machine: MutexGuard<'static, ()>,
}

impl Node {
    pub(crate) async fn start(shape: Shape) -> Self {
        let machine = MACHINE.lock().await;
        let rig = Rig::new();
        rig.configure("workers = 1\n[engine.packet_memory]\nframes = 16384\nhuge_pages = false\n");
        let daemon = Some(rig.start());
        let client = rig.client().await;
        let mut node = Self { rig, daemon, client, shape, generation: 0, _machine: machine };
        node.configure(&[A, B]).await;
        node
    }

    /// Where a guest's socket is.
    pub(crate) fn socket(&self, guest: Guest) -> PathBuf {
        self.rig.folder.path().join(format!("{}.sock", guest.last))
    }

    /// Puts these guests in force, and no others.
    pub(crate) async fn configure(&mut self, guests: &[Guest]) {
        self.generation += 1;
        let header = ApplyHeader { generation: self.generation, full_sync: true };
        let mut upserts = vec![
            object(Kind::Node(NodeObject {
                name: "node-a".into(),
                vtep_addresses: vec![vec![192, 0, 2, 1]],
                router_mac: mac([192, 0, 2, 1]),
                ..NodeObject::default()
            })),
            object(Kind::Vrf(Vrf {
                name: "default".into(),
                gateway_addresses: vec![GATEWAY.to_vec(), GATEWAY_V6.octets().into()],
                gateway_mac: mac(GATEWAY),
                ..Vrf::default()
            })),
        ];
        upserts.extend(guests.iter().map(|guest| self.port_object(*guest)));
        let objects = ObjectBatch { upserts, deletes: Vec::new() };
        let applied = send(&mut self.client, header, objects).await.unwrap();
        assert_eq!(applied.port_errors, []);
    }

    fn port_object(&self, guest: Guest) -> Object {
        object(Kind::Port(Port {
            name: guest.name.into(),
            role: port::Role::Guest.into(),
            addresses: vec![guest.address().into(), guest.address_v6().octets().into()],
            mac: mac(guest.address()),
            backend: Some(port::Backend::VhostUser(VhostUserBackend {
                socket_path: self.socket(guest).display().to_string(),
                mode: self.shape.mode.into(),
                queue_pairs: self.shape.queue_pairs,
                ..VhostUserBackend::default()
            })),
            ..Port::default()
        }))
    }

    pub(crate) async fn port(&mut self, guest: Guest) -> PortStatus {
        let ports = self.client.list_ports(ListPortsRequest {}).await.unwrap().into_inner();
        let ports: Vec<_> = ports.map(Result::unwrap).collect().await;
        ports.into_iter().find(|port| port.name == guest.name).unwrap()
    }

    /// Waits until a guest's port is as `is_there` wants it.
    pub(crate) async fn wait_for(
        &mut self,
        guest: Guest,
        what: &str,
        is_there: impl Fn(&PortStatus) -> bool,
    ) -> PortStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let port = self.port(guest).await;
            if is_there(&port) {
                return port;
            }
            let drops = self.drops().await;
            assert!(Instant::now() < deadline, "no {what}: {port:?}, {drops:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Waits until all of a guest's rings are worked on.
    pub(crate) async fn wait_for_rings(&mut self, guest: Guest) -> String {
        let all = self.shape.queue_pairs;
        let words = format!("{all} of {all} queue pairs");
        self.wait_for(guest, "rings", |port| port.detail.contains(&words)).await.detail
    }

    /// Packets dropped, by reason, of those received on any port.
    pub(crate) async fn drops(&mut self) -> Vec<(String, u64)> {
        let drops = self.client.list_drops(ListDropsRequest::default()).await.unwrap();
        let drops: Vec<_> = drops.into_inner().map(Result::unwrap).collect().await;
        drops.into_iter().map(|drop| (drop.reason, drop.packets)).collect()
    }

    /// Kills the engine.
    pub(crate) fn kill_engine(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.signal(Signal::KILL);
        }
    }

    /// Starts an engine in the place of one that was killed.
    pub(crate) async fn restart_engine(&mut self) {
        self.daemon = Some(self.rig.start());
        self.client = self.rig.client().await;
        self.configure(&[A, B]).await;
    }

    /// Stops the engine in order: no frame is missing, and the sockets that it made are gone.
    pub(crate) fn stop(mut self) {
        let mut daemon = self.daemon.take().unwrap();
        assert_eq!(daemon.signal(Signal::TERM).code(), Some(0));
        let stopped = daemon.wait_for_line("stopped");
        assert!(stopped.contains("frames_missing=0"), "{stopped}");
        if self.shape.mode == Mode::Server {
            assert!([A, B].iter().all(|guest| !self.socket(*guest).exists()));
        }
    }
}
