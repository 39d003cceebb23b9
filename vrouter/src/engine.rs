//! The engine as its owner sees it: one object, on one thread, that takes configuration and answers
//! questions.
//!
//! ```text
//! owner ── apply, tick, stop ──► Engine ── Runtime ── workers
//!                                   ├──── Config ─► Publisher ─► workers
//!                                   └──── opener thread: opens devices, which may take seconds
//! ```
//!
//! A batch is accepted, then put in force; between the two the owner may tell how the underlay
//! reaches new tunnels' remote ends. It is in force in this order: open what is new → publish →
//! wait for all workers → steer packets to the new ports; for what goes: unsteer → publish → wait →
//! take the queues back → quarantine (see [`crate::runtime`]). The engine never calls anything of
//! its owner's and holds no runtime of its own: [`Engine::tick`] is how time passes.

mod interfaces;
mod opening;
mod ports;
mod views;

use std::{
    error, iter,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use flowtable::WorkerIndexError;

use self::{
    interfaces::Interfaces,
    opening::{OpenerThread, Outcome},
    ports::{PortTable, Retirement},
    views::BusyShares,
};
pub use self::{
    ports::PortState,
    views::{PortView, WorkerView},
};
use crate::{
    clock::{Clock, Now},
    config::{self, Batch, Config, PortChanges, PortObject, Role},
    flows::Flows,
    idle::IdleMode,
    memory::{CreateRegionError, Depot, Region, RegionConfig},
    next_hop::Adjacency,
    placement::WorkerPlace,
    port::{PortInterface, PortOpener, PortRef, Steering},
    publish::{Publisher, Subscriber},
    runtime::{Event, Runtime, RuntimeConfig, StopError, Stopped, WorkerLate},
    snapshot::Snapshot,
    watchdog::Stall,
    worker::Process,
};

/// How long a batch waits for its new ports to open; those that take longer are reported, and come
/// up later.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long a batch waits for each worker to take it over: twenty times what the watchdog calls a
/// stall.
const WORKER_WAIT_MAX: Duration = Duration::from_secs(2);

/// Between two publications that no batch waits for (next hops, ports that come up late): a hundred
/// a second at most.
const PUBLISH_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// One worker a place.
    pub workers: Vec<WorkerPlace>,
    /// What workers do when there is nothing to do.
    pub idle: IdleMode,
    /// Packet memory.
    pub region: RegionConfig,
}

/// Why an engine could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no packet memory.
    #[error(transparent)]
    Region(#[from] CreateRegionError),
    /// There are no workers.
    #[error(transparent)]
    Runtime(#[from] crate::runtime::StartError),
    /// There is no thread to open ports on.
    #[error("cannot start the thread that opens ports")]
    Opener(#[source] std::io::Error),
}

/// Why a batch is not in force, or not everywhere.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// The batch is not possible; nothing of it is in force.
    #[error(transparent)]
    Batch(#[from] config::ApplyError),
    /// The batch is published, but a worker has not taken it over yet. Apply the same again, with a
    /// greater generation.
    #[error(transparent)]
    Worker(#[from] WorkerLate),
}

/// A batch that is part of the configuration, and that no worker has seen yet: to be given to
/// [`Engine::put_in_force`].
#[derive(Debug)]
#[must_use = "its ports are neither opened nor closed until it is put in force"]
pub struct Accepted(PortChanges);

/// A batch that is in force on all workers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Applied {
    /// The batch's generation.
    pub generation: u64,
    /// The version of the snapshot that holds it.
    pub config_version: u64,
    /// Ports that are configured but not up, and why. They are tried again.
    pub port_errors: Vec<PortError>,
}

/// A port that is configured but not up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PortError {
    /// The port's name.
    pub port: String,
    /// The error and its causes.
    pub message: String,
}

/// What the operator should know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EngineEvent {
    /// Packets come in on a port, and go out.
    PortUp {
        /// The port's name.
        name: String,
    },
    /// A port could not be opened, or is gone; it is tried again.
    PortDown {
        /// The port's name.
        name: String,
        /// Why.
        message: String,
    },
    /// Something happened at a port that stays up.
    PortNotice {
        /// The port's name.
        name: String,
        /// What.
        message: String,
    },
    /// A closed port's frames are still held by the kernel or the peer.
    FramesHeld {
        /// The port's name.
        name: String,
        /// How many.
        frames: usize,
        /// How long since it was closed.
        held: Duration,
    },
    /// A worker has not polled for too long, or polls again.
    Stall(Stall),
}

/// Workers, ports and configuration of one node.
pub struct Engine<P> {
    runtime: Runtime<P>,
    config: Config,
    flows: Arc<Flows>,
    publisher: Publisher<Snapshot>,
    published: Instant,
    ports: PortTable,
    opener: OpenerThread,
    depot: Arc<Depot>,
    busy: BusyShares,
    started: Instant,
    /// What happened since the owner last asked.
    events: Vec<EngineEvent>,
    interfaces: Interfaces,
}

impl<P: Process> Engine<P> {
    /// Starts workers without ports. `opener` makes what opens them; `pipeline` makes what each
    /// worker runs.
    ///
    /// `flows` is what the pipelines share; changes of routes make flows in it stale.
    ///
    /// # Errors
    ///
    /// Fails if memory, threads or CPUs are missing.
    pub fn start(
        config: &EngineConfig,
        flows: Arc<Flows>,
        opener: impl FnOnce(&Arc<Depot>) -> Box<dyn PortOpener>,
        mut pipeline: impl FnMut(u16, Subscriber<Snapshot>) -> Result<P, WorkerIndexError>,
    ) -> Result<Self, StartError> {
        let depot = Depot::new(Arc::new(Region::create(&config.region)?));
        let opener =
            OpenerThread::start(opener(&depot), Arc::clone(&depot)).map_err(StartError::Opener)?;
        let mut desired = Config::new();
        let publisher = Publisher::new(desired.snapshot(flows.scopes()));
        let runtime_config = RuntimeConfig { workers: config.workers.clone(), idle: config.idle };
        let runtime = Runtime::start(&runtime_config, &depot, Clock::start(), |worker| {
            pipeline(worker, publisher.subscribe())
        })?;
        let now = Instant::now();
        Ok(Self {
            busy: BusyShares::new(config.workers.len(), now),
            runtime,
            config: desired,
            flows,
            publisher,
            published: now,
            ports: PortTable::default(),
            opener,
            depot,
            started: now,
            events: Vec::new(),
            interfaces: Interfaces::default(),
        })
    }

    /// Puts a batch in force; returns when every worker has passed a quiescent point at or after
    /// it.
    ///
    /// Ports that cannot be opened do not fail the batch: they stay configured, are down, and are
    /// tried again.
    ///
    /// # Errors
    ///
    /// Fails if the batch is not possible, or names the worker that did not take it over in time.
    pub fn apply(&mut self, batch: Batch) -> Result<Applied, ApplyError> {
        let accepted = self.accept(batch)?;
        Ok(self.put_in_force(accepted)?)
    }

    /// The first half of [`Self::apply`]: the batch is part of [`Self::config`]. What is told of
    /// the underlay before the second half is in the batch's first snapshot.
    ///
    /// # Errors
    ///
    /// Fails if the batch is not possible; nothing has changed then.
    pub fn accept(&mut self, batch: Batch) -> Result<Accepted, config::ApplyError> {
        self.config.apply(batch).map(Accepted)
    }

    /// The second half of [`Self::apply`]; to follow the first before the next [`Self::tick`].
    ///
    /// # Errors
    ///
    /// Names the worker that did not take the batch over in time.
    pub fn put_in_force(&mut self, accepted: Accepted) -> Result<Applied, WorkerLate> {
        let Accepted(changes) = accepted;
        for (port, _) in &changes.closed {
            // A device that is gone cannot be unsteered, and need not be.
            let _ = self.runtime.steer(*port, &Steering::Nothing);
            self.ports.close(*port);
        }
        let opened: Vec<PortRef> = changes.opened.iter().map(|(port, _)| *port).collect();
        for (port, object) in changes.opened {
            self.open(port, object);
        }
        let deadline = Instant::now() + OPEN_WAIT_MAX;
        self.wait_while(deadline, |ports| opened.iter().any(|port| ports.is_opening(*port)));
        let in_force = self.publish_and_wait();
        for (port, _) in &changes.closed {
            self.retire(*port);
        }
        in_force?;
        // Ports that have to wait until a former one has given up the same interface.
        self.wait_while(deadline, |ports| opened.iter().any(|port| ports.is_on_its_way(*port)));
        if self.config.is_changed() {
            self.publish_and_wait()?;
        }
        self.steer_ports();
        Ok(Applied {
            generation: self.config.generation(),
            config_version: self.config.last_snapshot().version,
            port_errors: self.ports.errors(),
        })
    }

    /// Lets time pass: ports come up, go down and are tried again, next hops are published, workers
    /// are watched.
    ///
    /// To be called every few milliseconds; tells `on_event` what the operator should know.
    pub fn tick(&mut self, on_event: impl FnMut(EngineEvent)) {
        let now = Instant::now();
        self.collect_events(now);
        while let Some((port, outcome)) = self.opener.opened() {
            self.install(port, outcome, now);
        }
        for port in self.ports.take_due(now) {
            self.request(port);
        }
        if self.config.is_changed() && now >= self.published + PUBLISH_INTERVAL_MIN {
            self.publish(now);
        }
        self.steer_ports();
        self.publisher.reclaim();
        self.busy.tick(now, self.runtime.stats());
        self.events.drain(..).for_each(on_event);
    }

    /// Tells how the underlay reaches a tunnel's remote end; in force with a later [`Self::tick`].
    pub fn set_adjacency(&mut self, address: IpAddr, adjacency: Adjacency) {
        self.config.set_adjacency(address, adjacency);
    }

    /// Tells that an interface of the engine's own namespace is gone. The rings of a port on it may
    /// say nothing any more; the port is closed, and looked for again.
    ///
    /// By the kernel's number, not by name: another interface may have the name by now.
    pub fn lose_interface(&mut self, interface_index: u32) {
        self.interfaces.gone(interface_index, self.ports.is_any_opening());
        for (port, _) in self.ports.attached_on(interface_index) {
            self.lose_with_interface(port);
        }
    }

    /// Tells that an interface of the engine's own namespace has another MTU; in force with a later
    /// [`Self::tick`] for the ports on it, and the tunnels behind them.
    pub fn set_interface_mtu(&mut self, interface_index: u32, mtu_bytes: u32) {
        self.interfaces.set_mtu(interface_index, mtu_bytes);
        for (port, interface) in self.ports.attached_on(interface_index) {
            self.set_port_mtu(port, mtu_bytes.min(interface.frame_mtu_bytes));
        }
    }

    /// The engine's time, which flows and workers go by.
    #[must_use]
    pub fn now(&self) -> Now {
        self.runtime.now()
    }

    /// The configuration in force: ports, routes, tunnels.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How long the engine has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Closes all ports and stops the workers.
    ///
    /// # Errors
    ///
    /// Fails if a worker does not stop in order.
    pub fn stop(self) -> Result<Stopped, StopError> {
        let Self { mut runtime, publisher, opener, .. } = self;
        for (port, opened) in opener.stop() {
            runtime.quarantine(port, opened);
        }
        let stopped = runtime.stop();
        // After the workers: the last snapshot is freed here.
        drop(publisher);
        stopped
    }

    fn open(&mut self, port: PortRef, object: Arc<PortObject>) {
        if self.ports.insert(port, object) {
            self.request(port);
        }
    }

    fn request(&mut self, port: PortRef) {
        let worker_count = u16::try_from(self.runtime.placement().places().len());
        if let Some(request) = self.ports.request(port, worker_count.unwrap_or(u16::MAX)) {
            self.opener.open(request);
        }
    }

    /// Lets openings and closings go on until `is_waiting` is false, or `deadline`.
    fn wait_while(&mut self, deadline: Instant, is_waiting: impl Fn(&PortTable) -> bool) {
        while is_waiting(&self.ports) && Instant::now() < deadline {
            if let Some((port, outcome)) = self.opener.wait() {
                self.install(port, outcome, Instant::now());
            }
            self.collect_events(Instant::now());
        }
    }

    /// A device was opened, or was not.
    fn install(&mut self, port: PortRef, outcome: Outcome, now: Instant) {
        let is_wanted = self.ports.is_opening(port);
        match outcome {
            Ok(opened) if is_wanted => {
                let interface = opened.device.interface();
                self.ports.attached(port, interface);
                self.set_port_mtu(port, opened.device.mtu_bytes());
                if let Err(late) = self.runtime.attach(port, opened) {
                    return self.lose(port, message_of(&late));
                }
                if let Some(interface) = interface {
                    self.catch_up(interface);
                }
            }
            // It was removed while it was being opened.
            Ok(opened) => {
                self.ports.quarantined(port);
                self.runtime.quarantine(port, opened);
            }
            Err(error) if is_wanted => {
                let message = message_of(&error);
                let name = self.ports.failed(port, message.clone(), now);
                self.events.push(EngineEvent::PortDown { name, message });
            }
            Err(_) => self.forget(port),
        }
    }

    /// Tells a port what happened to its interface while it was being opened.
    fn catch_up(&mut self, interface: PortInterface) {
        if let Some(mtu_bytes) = self.interfaces.mtu(interface.index) {
            self.set_interface_mtu(interface.index, mtu_bytes);
        }
        if self.interfaces.is_gone(interface.index) {
            self.lose_interface(interface.index);
        }
    }

    fn set_port_mtu(&mut self, port: PortRef, mtu_bytes: u32) {
        self.config.set_device_mtu(port, u16::try_from(mtu_bytes).unwrap_or(u16::MAX));
    }

    fn lose_with_interface(&mut self, port: PortRef) {
        self.lose(port, "its interface is gone; it is looked for again".to_owned());
        self.runtime.detach(port);
    }

    /// An attached port is of no use any more; the runtime is closing it.
    fn lose(&mut self, port: PortRef, message: String) {
        let name = self.ports.lost(port, message.clone());
        self.events.push(EngineEvent::PortDown { name, message });
    }

    fn publish(&mut self, now: Instant) {
        let snapshot = self.config.snapshot(self.flows.scopes());
        self.publisher.publish(snapshot);
        self.published = now;
    }

    fn publish_and_wait(&mut self) -> Result<(), WorkerLate> {
        let deadline = Instant::now() + WORKER_WAIT_MAX;
        let attached = self.runtime.settle(deadline);
        self.publish(Instant::now());
        let version = self.config.last_snapshot().version;
        self.runtime.wait_for_version(version, deadline)?;
        attached
    }

    /// Steers packets to ports once all workers know them, and follows changes of what the uplink
    /// is to receive.
    fn steer_ports(&mut self) {
        if !self.runtime.has_reached(self.config.last_snapshot().version) {
            return;
        }
        let tunnels = self.tunnel_steering();
        for (port, role) in self.ports.attached_ports() {
            let wanted = if role == Role::Uplink { &tunnels } else { &Steering::Everything };
            if self.ports.is_steered(port, wanted) {
                continue;
            }
            match self.runtime.steer(port, wanted) {
                Ok(()) => {
                    if let Some(name) = self.ports.steered(port, wanted.clone()) {
                        self.events.push(EngineEvent::PortUp { name });
                    }
                }
                Err(error) => {
                    self.lose(port, message_of(&error));
                    self.runtime.detach(port);
                }
            }
        }
    }

    /// What comes to us on the uplink.
    fn tunnel_steering(&self) -> Steering {
        let node = &self.config.last_snapshot().node;
        let v4 = node.vtep_v4.map(IpAddr::V4);
        let v6 = node.vtep_v6.map(IpAddr::V6);
        Steering::Tunnels {
            addresses: v4.into_iter().chain(v6).collect(),
            udp_ports: node.udp_ports.to_vec(),
        }
    }

    fn collect_events(&mut self, now: Instant) {
        let mut happened = Vec::new();
        self.runtime.tick(|event| happened.push(event));
        for event in happened {
            match event {
                Event::PeerLost(port) => {
                    self.lose(port, "the far side is gone; it is looked for again".into());
                }
                Event::Released(port) if self.ports.released(port, now) => {}
                Event::Released(port) => self.forget(port),
                Event::FramesHeld { port, frames, held } => {
                    let name = self.ports.name(port);
                    self.events.push(EngineEvent::FramesHeld { name, frames, held });
                }
                Event::Stall(stall) => self.events.push(EngineEvent::Stall(stall)),
            }
        }
        for (port, message) in self.runtime.take_notices(now) {
            let name = self.ports.name(port);
            self.events.push(EngineEvent::PortNotice { name, message });
        }
    }

    /// No worker knows a removed port any more: takes its queues back.
    fn retire(&mut self, port: PortRef) {
        match self.ports.retirement(port) {
            Retirement::Detach => self.runtime.detach(port),
            Retirement::UnderWay => {}
            Retirement::Done => self.forget(port),
        }
    }

    /// All of a removed port is back: its slot may be used again, and its interface.
    fn forget(&mut self, port: PortRef) {
        self.config.release_port(port);
        for waiting in self.ports.forget(port) {
            self.request(waiting);
        }
    }
}

/// An error and its causes in one line.
fn message_of(error: &dyn error::Error) -> String {
    let causes = iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
