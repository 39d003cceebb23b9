//! What the operator can see of a running engine.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Engine, PortState};
use crate::{
    config::PortObject,
    idle::IdleMode,
    memory::Region,
    placement::WorkerPlace,
    port::{PortDevice, PortRef},
    stats::{ActivityTotals, EngineStats, PortTotals, Stage, StageTotals},
    watchdog::STALL_MIN,
    worker::Process,
};

/// The time that a worker's busy share is about.
const BUSY_INTERVAL: Duration = Duration::from_secs(1);

/// A port, for the operator.
#[derive(Clone, Debug)]
pub struct PortView {
    /// Its slot and generation.
    pub port: PortRef,
    /// As configured.
    pub object: Arc<PortObject>,
    /// Whether it is up.
    pub state: PortState,
    /// Why it is not up, or what its device fell back to; empty if there is nothing to say.
    pub detail: String,
    /// What carries its packets, such as "`af_xdp` copy"; empty while it is not open.
    pub backend: String,
    /// The MAC address of its device, if it has one.
    pub device_mac: Option<[u8; 6]>,
    /// The MTU in force, in bytes, if known.
    pub mtu_bytes: Option<u16>,
    /// Queues that workers own.
    pub queues: usize,
    /// Its counters.
    pub totals: PortTotals,
    /// Packets that the kernel dropped before we saw them, if known.
    pub kernel_rx_dropped: Option<u64>,
}

/// A worker, for the operator.
#[derive(Clone, Copy, Debug)]
pub struct WorkerView {
    /// Its number.
    pub index: u16,
    /// Where it runs.
    pub place: WorkerPlace,
    /// What it does when there is nothing to do.
    pub idle: IdleMode,
    /// Queues that it owns.
    pub queues: usize,
    /// Its counters.
    pub activity: ActivityTotals,
    /// What its work on packets takes, in the order of [`crate::stats::Stage::ALL`].
    pub stages: [StageTotals; Stage::ALL.len()],
    /// Share of the last second that it spent on packets, in parts of a million.
    pub busy_ppm: u32,
    /// How long ago it last polled.
    pub silent: Duration,
    /// How often it was found not polling for 100 ms.
    pub stalls: u64,
}

impl<P: Process> Engine<P> {
    /// All ports that are configured or not closed yet, by name.
    #[must_use]
    pub fn ports(&self) -> Vec<PortView> {
        let view = |(port, object, state, error): (_, &Arc<PortObject>, _, &str)| {
            let device = self.runtime.device(port);
            let detail = match device {
                Some(device) if error.is_empty() => device.detail(),
                _ => Cow::Borrowed(error),
            };
            PortView {
                port,
                object: Arc::clone(object),
                state,
                detail: detail.into_owned(),
                backend: device.map_or("", |device| device.backend()).to_owned(),
                device_mac: device.and_then(PortDevice::mac_address),
                mtu_bytes: self.config.port_mtu(port),
                queues: self.runtime.queue_count(port),
                totals: self.runtime.stats().port(port),
                kernel_rx_dropped: device.and_then(PortDevice::kernel_rx_dropped),
            }
        };
        let mut ports: Vec<_> = self.ports.states().map(view).collect();
        ports.sort_by(|a, b| a.object.name.cmp(&b.object.name));
        ports
    }

    /// All workers, in order.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerView> {
        let now = self.runtime.now().nanoseconds;
        let placement = self.runtime.placement();
        let stats = self.runtime.stats().workers();
        let view = |((index, place), stats): ((u16, &WorkerPlace), &Arc<_>)| {
            let stats: &crate::stats::WorkerStats = stats;
            let activity = stats.activity();
            let silent = now.saturating_sub(activity.last_poll_nanoseconds);
            WorkerView {
                index,
                place: *place,
                idle: self.runtime.idle(),
                queues: placement.queue_count(index),
                activity,
                stages: stats.stages(),
                busy_ppm: self.busy.share_ppm(usize::from(index)),
                silent: Duration::from_nanos(silent),
                stalls: self.runtime.stalls(index),
            }
        };
        (0..).zip(placement.places()).zip(stats).map(view).collect()
    }

    /// All counters: per port and reason, engine-wide, the balance of packets.
    #[must_use]
    pub fn stats(&self) -> &EngineStats {
        self.runtime.stats()
    }

    /// Packet memory: how much there is, and of what pages.
    #[must_use]
    pub fn region(&self) -> &Region {
        self.depot.region()
    }

    /// Free frames in all pools. Workers tell of theirs every 256 polls.
    #[must_use]
    pub fn frames_free(&self) -> usize {
        self.runtime.frames_free()
    }

    /// What is wrong or degraded, and the next step: one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for port in self.ports.errors() {
            warnings.push(format!("port {} is not up: {}", port.port, port.message));
        }
        for worker in self.workers() {
            if worker.silent >= STALL_MIN {
                let (index, silent) = (worker.index, worker.silent);
                warnings.push(format!(
                    "worker {index} has not polled for {silent:?}; see what keeps its cpu"
                ));
            }
        }
        let free = self.frames_free();
        let total = self.region().frame_count() as usize;
        if free < total / 16 {
            warnings.push(format!("{free} of {total} frames are free; raise packet_memory.frames"));
        }
        warnings
    }

    /// What could be better and is no fault: one sentence each.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.region().is_huge() {
            notes.push("packet memory is not on huge pages; see hugepages.md".into());
        }
        notes
    }
}

/// How busy each worker was over the last whole interval.
pub(super) struct BusyShares {
    began: Instant,
    /// Busy nanoseconds at that time, and the share of the interval before it.
    workers: Vec<(u64, u32)>,
}

impl BusyShares {
    pub(super) fn new(workers: usize, now: Instant) -> Self {
        Self { began: now, workers: vec![(0, 0); workers] }
    }

    pub(super) fn tick(&mut self, now: Instant, stats: &EngineStats) {
        let elapsed = now.saturating_duration_since(self.began);
        if elapsed < BUSY_INTERVAL {
            return;
        }
        self.began = now;
        for ((before, share), worker) in self.workers.iter_mut().zip(stats.workers()) {
            let busy = worker.activity().busy_nanoseconds;
            let spent = u128::from(busy.saturating_sub(*before)) * 1_000_000;
            let ppm = spent / elapsed.as_nanos().max(1);
            *share = u32::try_from(ppm).unwrap_or(u32::MAX).min(1_000_000);
            *before = busy;
        }
    }

    fn share_ppm(&self, worker: usize) -> u32 {
        self.workers.get(worker).map_or(0, |(_, share)| *share)
    }
}
