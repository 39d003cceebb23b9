//! The workers and their ports, as the main thread runs them.
//!
//! A port's life, as far as workers see it:
//!
//! ```text
//! attach ─► workers own its queues ─► detach (or the peer is gone) ─► queues come back
//!           steer: packets come in                                        │
//!                                       released ◄─ drained ◄─ quarantine ┘
//! ```
//!
//! Nothing here waits for a worker but [`Runtime::settle`] and [`Runtime::wait_for_version`], which
//! have deadlines. Not here: which ports there are to be, and their configuration
//! ([`crate::engine`]).

mod quarantine;
mod wait;

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use flowtable::WorkerIndexError;

use self::quarantine::Quarantine;
pub use self::wait::WorkerLate;
use crate::{
    clock::{Clock, Now},
    drops::DropReason,
    handoff::HandoffRings,
    idle::{Bed, Doorbell, IdleMode},
    memory::{Depot, FramePool},
    placement::{Placement, WorkerPlace},
    port::{OpenedPort, PortDevice, PortQueue, PortRef, SteerError, Steering},
    stats::{EngineStats, WorkerStats},
    watchdog::{Stall, Watchdog},
    worker::{
        Process, Worker, WorkerParts, WorkerRemains,
        command::{self, Command, CommandSender, Reply},
    },
};

/// Workers at most: every one costs the others a hand-off ring, and 64 fill the CPUs of any node
/// that shares with pods.
pub const WORKERS_MAX: usize = 64;

/// How long stopping waits for workers and for what the kernel still holds of their queues.
const STOP_WAIT_MAX: Duration = Duration::from_secs(10);

/// The number of a command that is yet to be sent: no worker is ever past it.
const NOT_SENT: u64 = u64::MAX;

/// How many workers to run, where, and how they idle.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// One worker a place, at most [`WORKERS_MAX`].
    pub workers: Vec<WorkerPlace>,
    /// What they do when there is nothing to do.
    pub idle: IdleMode,
}

/// Why the workers could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum StartError {
    #[error("{count} workers are not possible: at least 1, at most {WORKERS_MAX}")]
    WorkerCount { count: usize },
    #[error(transparent)]
    Flows(#[from] WorkerIndexError),
    #[error("worker {worker} has no place to sleep; raise the limit of open files")]
    Descriptors {
        worker: usize,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the thread of worker {worker}")]
    Thread {
        worker: usize,
        #[source]
        source: io::Error,
    },
    #[error("worker {worker} cannot be pinned to cpu {cpu}; see which ones this process may use")]
    Pin { worker: usize, cpu: usize },
}

/// What happened since the last [`Runtime::tick`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    /// A port's far side is gone; the port is being closed.
    PeerLost(PortRef),
    /// A port is closed for good: all its frames are back and its device is dropped.
    Released(PortRef),
    /// A closed port's frames are still held by the kernel or the peer.
    FramesHeld {
        /// The port.
        port: PortRef,
        /// How many.
        frames: usize,
        /// How long since it was closed.
        held: Duration,
    },
    /// A worker has not polled for too long, or polls again.
    Stall(Stall),
}

/// The threads of all workers, and the ports that are attached to them.
pub struct Runtime<P> {
    workers: Vec<WorkerHandle<P>>,
    ports: HashMap<PortRef, AttachedPort>,
    placement: Placement,
    quarantine: Quarantine,
    watchdog: Watchdog,
    stats: EngineStats,
    /// What was in the rings of closed queues.
    closing_stats: Arc<WorkerStats>,
    depot: Arc<Depot>,
    pool: FramePool,
    clock: Clock,
    idle: IdleMode,
}

struct WorkerHandle<P> {
    commands: CommandSender,
    thread: JoinHandle<WorkerRemains<P>>,
    stats: Arc<WorkerStats>,
}

struct AttachedPort {
    device: Box<dyn PortDevice>,
    /// Which worker owns each queue.
    owners: Vec<u16>,
    /// Queues that came back.
    returned: Vec<Box<dyn PortQueue>>,
    /// Set when the port is being closed: for each worker the number of its last command about the
    /// port.
    closing: Option<Vec<u64>>,
}

impl<P: Process> Runtime<P> {
    /// Starts the workers; `pipeline` makes what each of them runs.
    ///
    /// # Errors
    ///
    /// Fails if there are none or too many, or if the system has no threads, descriptors or CPUs
    /// for them.
    pub fn start(
        config: &RuntimeConfig,
        depot: &Arc<Depot>,
        clock: Clock,
        mut pipeline: impl FnMut(u16) -> Result<P, WorkerIndexError>,
    ) -> Result<Self, StartError> {
        let count = config.workers.len();
        if count == 0 || count > WORKERS_MAX {
            return Err(StartError::WorkerCount { count });
        }
        let bells = (0..count)
            .map(|worker| {
                let bell = Doorbell::new();
                bell.map(Arc::new).map_err(|source| StartError::Descriptors { worker, source })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut workers = Vec::with_capacity(count);
        for ((index, place), (bell, handoffs)) in
            (0_u16..).zip(&config.workers).zip(bells.iter().zip(HandoffRings::mesh(&bells)))
        {
            let worker = usize::from(index);
            let bed = Bed::new(Arc::clone(bell))
                .map_err(|source| StartError::Descriptors { worker, source })?;
            let (sender, receiver) = command::channel(Arc::clone(bell));
            let stats = Arc::new(WorkerStats::new());
            let parts = WorkerParts {
                pipeline: pipeline(index)?,
                pool: FramePool::new(Arc::clone(depot)),
                handoffs,
                commands: receiver,
                bed,
                idle: config.idle,
                clock,
                stats: Arc::clone(&stats),
            };
            let thread = spawn(worker, *place, parts)?;
            workers.push(WorkerHandle { commands: sender, thread, stats });
        }
        let closing_stats = Arc::new(WorkerStats::new());
        let stats = EngineStats::new(workers.iter().map(|worker| Arc::clone(&worker.stats)))
            .with_closing(&closing_stats);
        Ok(Self {
            ports: HashMap::new(),
            placement: Placement::new(config.workers.clone()),
            quarantine: Quarantine::default(),
            watchdog: Watchdog::new(count),
            pool: FramePool::new(Arc::clone(depot)),
            depot: Arc::clone(depot),
            stats,
            closing_stats,
            workers,
            clock,
            idle: config.idle,
        })
    }

    /// Gives the queues of a port to workers. No packet comes in before [`Self::steer`]; what is
    /// sent to the port goes out as soon as [`Self::settle`] says that all workers know it.
    ///
    /// # Errors
    ///
    /// Fails if a worker takes no commands; the port is being closed then.
    pub fn attach(&mut self, port: PortRef, opened: OpenedPort) -> Result<(), WorkerLate> {
        let OpenedPort { queues, device } = opened;
        let owners = self.placement.assign(queues.len(), device.numa_node());
        let returned = Vec::with_capacity(queues.len());
        let attached = AttachedPort { device, owners: owners.clone(), returned, closing: None };
        self.ports.insert(port, attached);
        let mut result = Ok(());
        for (owner, queue) in owners.iter().zip(queues) {
            let sent = self.send(*owner, Command::Attach { port, queue });
            if let Err((late, Command::Attach { queue, .. })) = sent {
                self.take_back(*owner, port, queue);
                result = Err(late);
            }
        }
        for worker in 0..self.worker_count() {
            // Whoever has a queue is told who stands in for it while it is not open.
            let number = if owners.contains(&worker) { 0 } else { usize::from(worker) };
            let Some(owner) = owners.get(number % owners.len().max(1)) else { break };
            if *owner == worker {
                continue;
            }
            let command = Command::SendVia { port, worker: *owner };
            if let Err((late, _)) = self.send(worker, command) {
                result = Err(late);
            }
        }
        if result.is_err() {
            self.detach(port);
        }
        result
    }

    /// Says which packets come in on a port from now on.
    ///
    /// # Errors
    ///
    /// Fails with what the device says. Nothing happens for a port that is not attached.
    pub fn steer(&mut self, port: PortRef, steering: &Steering) -> Result<(), SteerError> {
        match self.ports.get_mut(&port) {
            Some(attached) if attached.closing.is_none() => attached.device.steer(steering),
            _ => Ok(()),
        }
    }

    /// Takes a port away from the workers. Later [`Self::tick`]s collect its queues and frames, up
    /// to [`Event::Released`].
    pub fn detach(&mut self, port: PortRef) {
        let Some(attached) = self.ports.get_mut(&port) else { return };
        if attached.closing.is_some() {
            return;
        }
        // A device that is gone cannot be unsteered, and need not be.
        let _ = attached.device.steer(&Steering::Nothing);
        attached.closing = Some(Vec::new());
        let mut numbers = Vec::with_capacity(self.workers.len());
        for worker in 0..self.worker_count() {
            // A worker that takes no command keeps its queue, and the port stays in its list:
            // `tick` tries again.
            numbers.push(self.send(worker, Command::Detach { port }).unwrap_or(NOT_SENT));
        }
        if let Some(attached) = self.ports.get_mut(&port) {
            attached.closing = Some(numbers);
        }
    }

    /// Takes over a port that was opened but is not wanted any more: its frames come back as those
    /// of a detached one.
    pub fn quarantine(&mut self, port: PortRef, opened: OpenedPort) {
        let OpenedPort { queues, device } = opened;
        self.quarantine.insert(port, queues, Some(device), Instant::now());
    }

    /// Whether a port is attached and not being closed.
    #[must_use]
    pub fn is_attached(&self, port: PortRef) -> bool {
        self.ports.get(&port).is_some_and(|attached| attached.closing.is_none())
    }

    /// Waits until all workers have carried out what they were told.
    ///
    /// # Errors
    ///
    /// Fails with the worker that has not at `deadline`.
    pub fn settle(&self, deadline: Instant) -> Result<(), WorkerLate> {
        for (index, worker) in self.workers.iter().enumerate() {
            let number = worker.commands.sent();
            let is_done = || worker.commands.is_done(number);
            if !wait::until(deadline, is_done, || worker.commands.wake()) {
                return Err(self.late(index, WorkerLate::commands));
            }
        }
        Ok(())
    }

    /// Waits until all workers have passed a quiescent point at configuration version `version` or
    /// a later one.
    ///
    /// # Errors
    ///
    /// Fails with the worker that has not at `deadline`.
    pub fn wait_for_version(&self, version: u64, deadline: Instant) -> Result<(), WorkerLate> {
        self.workers.iter().for_each(|worker| worker.commands.wake());
        for (index, worker) in self.workers.iter().enumerate() {
            let is_there = || worker.stats.config_version() >= version;
            if !wait::until(deadline, is_there, || worker.commands.wake()) {
                return Err(self.late(index, |place| WorkerLate::version(place, version)));
            }
        }
        Ok(())
    }

    /// Whether all workers have passed a quiescent point at configuration version `version` or a
    /// later one.
    #[must_use]
    pub fn has_reached(&self, version: u64) -> bool {
        self.workers.iter().all(|worker| worker.stats.config_version() >= version)
    }

    /// Collects what workers gave back, frees what quarantined ports let go of, and looks after the
    /// workers.
    ///
    /// To be called every few milliseconds; tells `on_event` what happened.
    pub fn tick(&mut self, mut on_event: impl FnMut(Event)) {
        for lost in self.collect() {
            self.detach(lost);
            on_event(Event::PeerLost(lost));
        }
        self.quarantine_closed();
        self.quarantine.tick(&mut self.pool, &self.closing_stats, Instant::now(), &mut on_event);
        let now = self.clock.now();
        let polls = self.workers.iter().map(|worker| worker.stats.last_poll());
        self.watchdog.tick(now, polls, |stall| on_event(Event::Stall(stall)));
    }

    /// Closes all ports, stops the workers and waits for the frames that are out.
    ///
    /// # Errors
    ///
    /// Fails if a worker panicked or does not stop, or if frames stay out; what could be stopped
    /// is.
    pub fn stop(mut self) -> Result<Stopped, StopError> {
        let deadline = Instant::now() + STOP_WAIT_MAX;
        for port in self.ports.keys().copied().collect::<Vec<_>>() {
            self.detach(port);
        }
        wait::until(
            deadline,
            || {
                self.tick(drop);
                self.ports.is_empty() && self.quarantine.is_empty()
            },
            || (),
        );
        self.settle(deadline)?;
        for worker in 0..self.worker_count() {
            self.send(worker, Command::Stop).map_err(|(late, _)| late)?;
        }
        self.settle(deadline)?;
        self.join(deadline)
    }

    fn join(self, deadline: Instant) -> Result<Stopped, StopError> {
        let Self { workers, mut quarantine, mut pool, depot, stats, closing_stats, .. } = self;
        let mut remains = Vec::with_capacity(workers.len());
        for (worker, handle) in workers.into_iter().enumerate() {
            let left = handle.thread.join().map_err(|_| StopError::Panicked { worker })?;
            remains.push((left, handle.stats));
        }
        for (left, stats) in remains {
            let WorkerRemains { pipeline, pool: worker_pool, mut handoffs, queues } = left;
            for ring in 0..handoffs.incoming_count() {
                handoffs.pop(ring, usize::MAX, |handoff| {
                    stats.dropped(handoff.packet.ingress, DropReason::PortDown, 1);
                    pool.free_packet(handoff.packet);
                });
            }
            for (port, queue) in queues {
                quarantine.insert(port, vec![queue], None, Instant::now());
            }
            drop((pipeline, worker_pool));
        }
        let is_drained = || {
            quarantine.tick(&mut pool, &closing_stats, Instant::now(), &mut drop);
            quarantine.is_empty()
        };
        wait::until(deadline, is_drained, || ());
        drop(pool);
        let frames_missing =
            (depot.region().frame_count() as usize).saturating_sub(depot.frames_free());
        Ok(Stopped { stats, frames_missing })
    }

    /// The counters of all workers.
    #[must_use]
    pub fn stats(&self) -> &EngineStats {
        &self.stats
    }

    /// Which worker runs where, and how many queues it owns.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What workers do when there is nothing to do.
    #[must_use]
    pub fn idle(&self) -> IdleMode {
        self.idle
    }

    /// How often a worker was found not polling.
    #[must_use]
    pub fn stalls(&self, worker: u16) -> u64 {
        self.watchdog.stalls(usize::from(worker))
    }

    /// The engine's time.
    #[must_use]
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// An attached port's device.
    #[must_use]
    pub fn device(&self, port: PortRef) -> Option<&dyn PortDevice> {
        self.ports.get(&port).map(|attached| &*attached.device)
    }

    /// What has happened at ports that the operator should know, since the last call.
    #[must_use]
    pub fn take_notices(&self, now: Instant) -> Vec<(PortRef, String)> {
        let notice = |(port, attached): (&PortRef, &AttachedPort)| {
            attached.device.take_notice(now).map(|notice| (*port, notice))
        };
        self.ports.iter().filter_map(notice).collect()
    }

    /// Queues of a port that workers own.
    #[must_use]
    pub fn queue_count(&self, port: PortRef) -> usize {
        self.ports.get(&port).map_or(0, |attached| attached.owners.len() - attached.returned.len())
    }

    /// Free frames in all pools and the depot.
    #[must_use]
    pub fn frames_free(&self) -> usize {
        let cached = |worker: &WorkerHandle<P>| worker.stats.activity().frames_cached;
        let workers: u64 = self.workers.iter().map(cached).sum();
        self.depot.frames_free()
            + self.pool.frames_cached()
            + usize::try_from(workers).unwrap_or(usize::MAX)
    }

    fn worker_count(&self) -> u16 {
        u16::try_from(self.workers.len()).unwrap_or(u16::MAX)
    }

    fn send(&mut self, worker: u16, command: Command) -> Result<u64, (WorkerLate, Command)> {
        let index = usize::from(worker);
        let late = self.late(index, WorkerLate::commands);
        let Some(handle) = self.workers.get_mut(index) else { return Err((late, command)) };
        match handle.commands.send(command) {
            Ok(()) => Ok(handle.commands.sent()),
            Err(command) => Err((late, command)),
        }
    }

    fn late(&self, worker: usize, error: impl FnOnce(&wait::Late) -> WorkerLate) -> WorkerLate {
        let place = self.placement.places().get(worker).copied().unwrap_or_default();
        let last_poll = self.workers.get(worker).map_or(Now::default(), |w| w.stats.last_poll());
        let silent = self.clock.now().nanoseconds.saturating_sub(last_poll.nanoseconds);
        error(&wait::Late { worker, cpu: place.cpu, silent: Duration::from_nanos(silent) })
    }

    /// Sorts what workers gave back; returns the ports whose peers turned out to be gone.
    fn collect(&mut self) -> Vec<PortRef> {
        let mut lost = Vec::new();
        for worker in 0..self.worker_count() {
            while let Some(reply) =
                self.workers.get_mut(usize::from(worker)).and_then(|w| w.commands.reply())
            {
                match reply {
                    Reply::Returned { port, queue } => self.take_back(worker, port, queue),
                    Reply::Lost { port, queue } => {
                        self.take_back(worker, port, queue);
                        if self.is_attached(port) && !lost.contains(&port) {
                            lost.push(port);
                        }
                    }
                }
            }
        }
        lost
    }

    fn take_back(&mut self, worker: u16, port: PortRef, queue: Box<dyn PortQueue>) {
        self.placement.release(worker);
        match self.ports.get_mut(&port) {
            Some(attached) => attached.returned.push(queue),
            None => self.quarantine.insert(port, vec![queue], None, Instant::now()),
        }
    }

    /// Moves ports that all workers have given up to the quarantine.
    fn quarantine_closed(&mut self) {
        let mut retries = Vec::new();
        for (port, attached) in &mut self.ports {
            let Some(numbers) = &mut attached.closing else { continue };
            for (number, worker) in numbers.iter_mut().zip(&mut self.workers) {
                if *number == NOT_SENT
                    && worker.commands.send(Command::Detach { port: *port }).is_ok()
                {
                    *number = worker.commands.sent();
                }
            }
            let is_done = numbers
                .iter()
                .zip(&self.workers)
                .all(|(number, worker)| worker.commands.is_done(*number));
            // Replies to commands that are done are in the rings, but perhaps not collected yet.
            if is_done && attached.returned.len() == attached.owners.len() {
                retries.push(*port);
            }
        }
        for port in retries {
            if let Some(AttachedPort { device, returned, .. }) = self.ports.remove(&port) {
                self.quarantine.insert(port, returned, Some(device), Instant::now());
            }
        }
    }
}

/// What is left when all workers have stopped.
#[derive(Debug)]
pub struct Stopped {
    /// The final counters.
    pub stats: EngineStats,
    /// Frames that did not come back: in packets of peers, or lost.
    pub frames_missing: usize,
}

/// Why the workers could not be stopped in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum StopError {
    #[error(transparent)]
    Late(#[from] WorkerLate),
    #[error("worker {worker} panicked; its queues and frames are lost, report this")]
    Panicked { worker: usize },
}

fn spawn<P: Process>(
    worker: usize,
    place: WorkerPlace,
    parts: WorkerParts<P>,
) -> Result<JoinHandle<WorkerRemains<P>>, StartError> {
    let (pinned, is_pinned) = crossbeam::channel::bounded(1);
    let thread = thread::Builder::new()
        .name(format!("worker-{worker}"))
        .spawn(move || {
            let id = place.cpu.map(|id| core_affinity::CoreId { id });
            let _ = pinned.send(id.is_none_or(core_affinity::set_for_current));
            Worker::new(parts).run()
        })
        .map_err(|source| StartError::Thread { worker, source })?;
    match (is_pinned.recv(), place.cpu) {
        (Ok(true), _) | (_, None) => Ok(thread),
        (_, Some(cpu)) => Err(StartError::Pin { worker, cpu }),
    }
}
