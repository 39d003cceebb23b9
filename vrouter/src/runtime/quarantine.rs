//! Closed ports whose frames are not all back yet.
//!
//! The kernel, a guest or a test's peer may hold frames of a queue for a while after it was closed.
//! Until they let go, the frames belong to nobody else, the device stays open, and the port's slot
//! is not used again.

use std::time::{Duration, Instant};

use super::Event;
use crate::{
    memory::FramePool,
    port::{PortDevice, PortQueue, PortRef},
    stats::WorkerStats,
};

/// After this time a port whose frames are still out is reported, once in each such time: the
/// kernel's deferred teardown takes some 20 ms.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Quarantine {
    ports: Vec<QuarantinedPort>,
}

struct QuarantinedPort {
    port: PortRef,
    queues: Vec<Box<dyn PortQueue>>,
    device: Option<Box<dyn PortDevice>>,
    since: Instant,
    reports: u32,
}

impl Quarantine {
    pub(super) fn insert(
        &mut self,
        port: PortRef,
        queues: Vec<Box<dyn PortQueue>>,
        device: Option<Box<dyn PortDevice>>,
        since: Instant,
    ) {
        self.ports.push(QuarantinedPort { port, queues, device, since, reports: 0 });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Takes back what was let go of, and counts in `stats` what became of it; queues and then
    /// devices with nothing out are dropped.
    pub(super) fn tick(
        &mut self,
        pool: &mut FramePool,
        stats: &WorkerStats,
        now: Instant,
        on_event: &mut impl FnMut(Event),
    ) {
        self.ports.retain_mut(|entry| {
            let mut frames = 0;
            entry.queues.retain_mut(|queue| {
                let out = queue.drain(pool, stats);
                frames += out;
                out > 0
            });
            if entry.queues.is_empty() {
                entry.device = None;
                on_event(Event::Released(entry.port));
                return false;
            }
            let held = now.saturating_duration_since(entry.since);
            if held >= REPORT_INTERVAL * (entry.reports + 1) {
                entry.reports += 1;
                on_event(Event::FramesHeld { port: entry.port, frames, held });
            }
            true
        });
    }
}
