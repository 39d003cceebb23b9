//! The engine with all its parts, as the daemon's thread owns them.
//!
//! ```text
//!              ┌───────────────── Node ─────────────────┐
//! batches ───► │ Engine ◄── ways ── Underlay ◄── netlink │
//! questions ─► │   └─ workers: Pipeline ── Flows         │
//!              └─────────────────────────────────────────┘
//! ```
//!
//! The engine knows ports, routes and tunnels; the underlay knows how the kernel reaches a tunnel's
//! remote end. Here the one is told of the other.

mod answers;
mod examples;
mod explain;
mod openers;
pub(crate) mod places;
mod queries;
mod tunnels;

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use control_api::engine::{ApplyResponse, PortError};
use flowtable::{Config, Memory};
use vrouter::{
    config::Batch,
    engine::{ApplyError, Engine, EngineConfig, EngineEvent},
    flows::Flows,
    idle::IdleMode,
    memory::RegionConfig,
    next_hop::Adjacency,
    pipeline::Pipeline,
    port::PortRef,
    trace::{DropExamples, DropTrace},
    underlay::{Change, Underlay, Way},
};

use self::openers::Openers;
pub(crate) use self::queries::QueryError;
use crate::{
    metrics::Report,
    settings::{IdleSetting, Settings},
};

/// Everything of one node.
pub(crate) struct Node {
    engine: Engine<Pipeline>,
    flows: Arc<Flows>,
    /// What each worker dropped lately.
    examples: Vec<DropExamples>,
    underlay: Option<Underlay>,
    /// Why there is no underlay, for the operator.
    underlay_error: Option<String>,
    /// What the underlay was asked to follow.
    remotes: BTreeSet<IpAddr>,
    ways: BTreeMap<IpAddr, Way>,
    /// What the engine was told last of each remote end.
    adjacencies: BTreeMap<IpAddr, Adjacency>,
    /// Random, so that a client knows another instance from this one.
    instance_id: u64,
}

impl Node {
    /// Makes packet memory and the flow table, and starts the workers.
    ///
    /// # Errors
    ///
    /// Fails if memory, threads or CPUs are missing.
    pub(crate) fn start(settings: &Settings) -> anyhow::Result<Self> {
        let flows = Flows::create(&table_config(settings)).context("cannot make the flow table")?;
        let flows = Arc::new(flows);
        let pin_folder = settings.pin_folder();
        let mut examples = Vec::new();
        let engine = Engine::start(
            &engine_config(settings)?,
            Arc::clone(&flows),
            |depot| Box::new(Openers::new(depot, pin_folder)),
            |worker, snapshots| {
                let (trace, of_worker) = DropTrace::live();
                examples.push(of_worker);
                Pipeline::new(worker, snapshots, Arc::clone(&flows), trace)
            },
        )
        .context("cannot start the engine")?;
        let (underlay, underlay_error) = match Underlay::open() {
            Ok(underlay) => (Some(underlay), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Self {
            engine,
            flows,
            examples,
            underlay,
            underlay_error,
            remotes: BTreeSet::new(),
            ways: BTreeMap::new(),
            adjacencies: BTreeMap::new(),
            instance_id: random(),
        })
    }

    /// Random at each start.
    pub(crate) fn instance_id(&self) -> u64 {
        self.instance_id
    }

    /// The generation of the last batch in force.
    pub(crate) fn generation(&self) -> u64 {
        self.engine.config().generation()
    }

    /// Puts a batch in force; returns when every worker has passed a quiescent point at or after
    /// it.
    ///
    /// The underlay is asked about new tunnels before workers see them: where the kernel knows the
    /// next hop, which is mostly a gateway in use already, not one packet finds it unresolved.
    ///
    /// # Errors
    ///
    /// Fails as [`Engine::apply`] does.
    pub(crate) fn apply(&mut self, batch: Batch) -> Result<ApplyResponse, ApplyError> {
        let accepted = self.engine.accept(batch)?;
        self.follow_remotes();
        self.tell_adjacencies();
        let applied = self.engine.put_in_force(accepted)?;
        let error = |error: vrouter::engine::PortError| PortError {
            port: error.port,
            message: error.message,
        };
        Ok(ApplyResponse {
            generation: applied.generation,
            config_version: applied.config_version,
            port_errors: applied.port_errors.into_iter().map(error).collect(),
        })
    }

    /// Lets time pass for the engine and the underlay.
    pub(crate) fn tick(&mut self) {
        self.poll_underlay();
        self.examples.iter_mut().for_each(DropExamples::poll);
        self.engine.tick(report);
    }

    /// Closes all ports and stops the workers.
    ///
    /// # Errors
    ///
    /// Fails if a worker does not stop in order, or frames stay out.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        let stopped = self.engine.stop().context("the engine did not stop in order")?;
        let balance = stopped.stats.balance();
        tracing::info!(?balance, frames_missing = stopped.frames_missing, "stopped");
        Ok(())
    }

    /// What metrics are made of.
    pub(crate) fn report(&mut self) -> Report {
        Report {
            status: self.status(),
            ports: self.ports(),
            drops: self.drops(false),
            tunnels: self.tunnels(),
            workers: self.workers(),
        }
    }

    /// Tells the underlay which addresses the tunnels lead to.
    fn follow_remotes(&mut self) {
        let remotes: BTreeSet<_> = self.engine.config().underlay_addresses().collect();
        if remotes == self.remotes {
            return;
        }
        for gone in self.remotes.difference(&remotes) {
            self.ways.remove(gone);
            self.adjacencies.remove(gone);
            self.engine.set_adjacency(*gone, Adjacency::default());
        }
        if let Some(underlay) = &mut self.underlay {
            underlay.set_targets(remotes.iter().copied());
        }
        self.remotes = remotes;
        self.poll_underlay();
    }

    /// Tells the engine what is different on the underlay.
    fn poll_underlay(&mut self) {
        let Some(underlay) = &mut self.underlay else { return };
        let changes = match underlay.poll(Instant::now()) {
            Ok(changes) => changes,
            Err(error) => {
                let message = error.to_string();
                if self.underlay_error.as_ref() != Some(&message) {
                    tracing::error!(%error, "the underlay cannot be asked; tunnels keep their ways");
                    self.underlay_error = Some(message);
                }
                return;
            }
        };
        self.underlay_error = None;
        for change in changes {
            match change {
                Change::Way { remote, way } => self.take_way(remote, way),
                Change::InterfaceGone { interface_index, .. } => {
                    self.engine.lose_interface(interface_index);
                }
                Change::Mtu { interface_index, mtu_bytes } => {
                    self.engine.set_interface_mtu(interface_index, mtu_bytes);
                }
            }
        }
    }

    fn take_way(&mut self, remote: IpAddr, way: Way) {
        match &way {
            Way::Resolved(hop) => {
                tracing::info!(%remote, via = %hop.address, interface = hop.interface, "reached");
            }
            Way::Unresolved(obstacle) => tracing::warn!(%remote, %obstacle, "not reached"),
        }
        self.ways.insert(remote, way);
        self.tell_adjacency(remote);
    }

    /// Looks for the port of each way again: a batch may bring the port after its way was found, or
    /// move it.
    fn tell_adjacencies(&mut self) {
        for remote in self.remotes.clone() {
            self.tell_adjacency(remote);
        }
    }

    /// Tells the engine how `remote` is reached, unless it knows.
    fn tell_adjacency(&mut self, remote: IpAddr) {
        let adjacency = self.adjacency(remote);
        if self.adjacencies.insert(remote, adjacency) != Some(adjacency) {
            self.engine.set_adjacency(remote, adjacency);
        }
    }

    /// How tunnels reach `remote`: its next hop must be behind one of our ports.
    fn adjacency(&self, remote: IpAddr) -> Adjacency {
        match self.ways.get(&remote) {
            Some(way) => Adjacency::from_way(way, |interface| self.port_on(interface)),
            None if self.underlay.is_some() => Adjacency::Pending,
            // Nobody will ever tell.
            None => Adjacency::Unreachable,
        }
    }

    /// The port on an interface of our own namespace.
    fn port_on(&self, interface: &str) -> Option<PortRef> {
        let mut ports = self.engine.config().ports();
        ports
            .find(|(_, object)| object.backend.interface() == Some((interface, None)))
            .map(|(port, _)| port)
    }
}

fn engine_config(settings: &Settings) -> anyhow::Result<EngineConfig> {
    Ok(EngineConfig {
        workers: places::choose(settings.workers, &settings.cpus)?,
        idle: match settings.idle {
            IdleSetting::Adaptive => IdleMode::Adaptive,
            IdleSetting::Busy => IdleMode::Busy,
        },
        region: RegionConfig {
            frame_count: settings.packet_memory.frames,
            frame_bytes: settings.packet_memory.frame_bytes,
            huge_pages: settings.packet_memory.huge_pages,
        },
    })
}

fn table_config(settings: &Settings) -> Config {
    Config {
        ipv4_connections_max: settings.flow_table.ipv4_connections,
        ipv6_connections_max: settings.flow_table.ipv6_connections,
        fragments_max: settings.flow_table.fragments,
        hash_key: [random(), random()],
        memory: Memory::Memfd { huge_pages: settings.packet_memory.huge_pages },
        tracking: settings.connections.tracking(),
    }
}

/// Different at each call and each start.
fn random() -> u64 {
    // The keys of the standard library's hash maps come from the system.
    RandomState::new().build_hasher().finish()
}

/// Tells the log what the operator should know.
fn report(event: EngineEvent) {
    match event {
        EngineEvent::PortUp { name } => tracing::info!(port = name, "up"),
        EngineEvent::PortDown { name, message } => tracing::warn!(port = name, "down: {message}"),
        EngineEvent::PortNotice { name, message } => tracing::warn!(port = name, "{message}"),
        EngineEvent::FramesHeld { name, frames, held } => {
            tracing::warn!(port = name, frames, ?held, "closed, but its frames are still held");
        }
        EngineEvent::Stall(stall) if stall.is_over => {
            tracing::info!(worker = stall.worker, silent = ?stall.silent, "polls again");
        }
        EngineEvent::Stall(stall) => {
            tracing::warn!(
                worker = stall.worker,
                silent = ?stall.silent,
                "does not poll; see what else runs on its CPU"
            );
        }
    }
}
