//! What has become of each configured port.
//!
//! ```text
//!              ┌───────────── retry ─────────────┐
//! Waiting ─► Opening ─► Attached ─► Closing ─► Down
//!    │          │           │          │         │
//!    └──────────┴─ removed: └──────────┴─────────┴──► forgotten, the slot is free again
//! ```

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::PortError;
use crate::{
    config::{PortObject, Role},
    port::{Backend, PortInterface, PortRef, PortRequest, Steering},
};

/// The first retry of a port that could not be opened: the kernel gives a closed queue back after
/// some 20 ms.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Later retries are twice as far apart each, up to this: an operator who mends an interface does
/// not wait for long.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The state of a port, in the operator's words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PortState {
    /// Packets come in and go out.
    Up,
    /// It could not be opened, or its far side is gone; it is tried again.
    Down,
    /// Its device is being opened.
    Opening,
    /// It is no longer configured; its frames are on their way back.
    Closing,
}

impl PortState {
    /// The word that the operator's view uses.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Opening => "opening",
            Self::Closing => "closing",
        }
    }
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What to do with a removed port.
pub(super) enum Retirement {
    /// Take it away from the workers.
    Detach,
    /// Wait: the opener or the quarantine has it.
    UnderWay,
    /// Nothing: it holds nothing.
    Done,
}

/// What happens to a port's device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Waits for that port, which has the same interface and is being closed.
    Waiting(PortRef),
    /// The opener has it.
    Opening,
    /// Workers have its queues.
    Attached,
    /// The runtime is closing it.
    Closing,
    /// Not open; to be opened again then.
    Down { retry: Instant },
}

struct Entry {
    object: Arc<PortObject>,
    phase: Phase,
    is_removed: bool,
    /// The interface that it is on, while it is attached.
    interface: Option<PortInterface>,
    /// Which packets the device was last told to give us.
    steering: Steering,
    /// Why it is not up.
    error: Option<String>,
    /// Openings that failed since it was last up.
    failures: u32,
}

/// All ports that are configured or not closed yet.
#[derive(Default)]
pub(super) struct PortTable {
    entries: HashMap<PortRef, Entry>,
}

impl PortTable {
    /// A new port; whether it can be opened right away.
    pub(super) fn insert(&mut self, port: PortRef, object: Arc<PortObject>) -> bool {
        let former = self.entries.iter().find(|(_, entry)| {
            entry.is_removed && shares_device(&entry.object.backend, &object.backend)
        });
        let phase = former.map_or(Phase::Opening, |(former, _)| Phase::Waiting(*former));
        let entry = Entry {
            object,
            phase,
            is_removed: false,
            interface: None,
            steering: Steering::Nothing,
            error: None,
            failures: 0,
        };
        self.entries.insert(port, entry);
        phase == Phase::Opening
    }

    /// A port is no longer configured.
    pub(super) fn close(&mut self, port: PortRef) {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.is_removed = true;
        }
    }

    /// What it takes to open a port; it is the opener's from here on.
    pub(super) fn request(&mut self, port: PortRef, worker_count: u16) -> Option<PortRequest> {
        let entry = self.entries.get_mut(&port)?;
        entry.phase = Phase::Opening;
        let object = &entry.object;
        Some(PortRequest {
            name: object.name.to_string(),
            port,
            role: object.role,
            backend: object.backend.clone(),
            mtu_bytes: object.mtu_bytes.map(u32::from),
            mac_address: Some(object.mac.octets()).filter(|octets| *octets != [0; 6]),
            worker_count,
        })
    }

    /// Whether the opener has the port, and it is still wanted.
    pub(super) fn is_opening(&self, port: PortRef) -> bool {
        self.wanted(port).is_some_and(|entry| entry.phase == Phase::Opening)
    }

    /// Whether the port is about to be attached or to fail.
    pub(super) fn is_on_its_way(&self, port: PortRef) -> bool {
        self.wanted(port)
            .is_some_and(|entry| matches!(entry.phase, Phase::Opening | Phase::Waiting(_)))
    }

    /// Workers have the port's queues.
    pub(super) fn attached(&mut self, port: PortRef, interface: Option<PortInterface>) {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.phase = Phase::Attached;
            entry.interface = interface;
            entry.steering = Steering::Nothing;
        }
    }

    /// The port was opened in vain, and is being closed.
    pub(super) fn quarantined(&mut self, port: PortRef) {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.phase = Phase::Closing;
        }
    }

    /// The port could not be opened; it is tried again. Returns its name.
    pub(super) fn failed(&mut self, port: PortRef, message: String, now: Instant) -> String {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.fail(message);
            entry.phase = Phase::Down { retry: now + entry.pause() };
        }
        self.name(port)
    }

    /// An attached port is of no use any more and is being closed. Returns its name.
    pub(super) fn lost(&mut self, port: PortRef, message: String) -> String {
        if let Some(entry) = self.entries.get_mut(&port) {
            entry.fail(message);
            entry.phase = Phase::Closing;
        }
        self.name(port)
    }

    /// The runtime has closed a port; whether it is still wanted, and tried again.
    pub(super) fn released(&mut self, port: PortRef, now: Instant) -> bool {
        match self.entries.get_mut(&port) {
            Some(entry) if !entry.is_removed => {
                entry.phase = Phase::Down { retry: now + entry.pause() };
                true
            }
            _ => false,
        }
    }

    /// Ports to try again now.
    pub(super) fn take_due(&self, now: Instant) -> Vec<PortRef> {
        let is_due = |entry: &Entry| {
            !entry.is_removed && matches!(entry.phase, Phase::Down { retry } if retry <= now)
        };
        self.entries.iter().filter(|(_, entry)| is_due(entry)).map(|(port, _)| *port).collect()
    }

    /// Ports that packets can be steered to.
    pub(super) fn attached_ports(&self) -> Vec<(PortRef, Role)> {
        let is_attached = |entry: &&Entry| !entry.is_removed && entry.phase == Phase::Attached;
        let entries = self.entries.iter().filter(|(_, entry)| is_attached(entry));
        entries.map(|(port, entry)| (*port, entry.object.role)).collect()
    }

    /// The attached ports on an interface of the engine's own namespace.
    pub(super) fn attached_on(&self, interface_index: u32) -> Vec<(PortRef, PortInterface)> {
        let entries = self.entries.iter().filter(|(_, entry)| {
            let is_own = matches!(entry.object.backend.interface(), Some((_, None)));
            is_own && entry.phase == Phase::Attached
        });
        entries
            .filter_map(|(port, entry)| Some((*port, entry.interface?)))
            .filter(|(_, interface)| interface.index == interface_index)
            .collect()
    }

    /// Whether the opener has any port.
    pub(super) fn is_any_opening(&self) -> bool {
        self.entries.values().any(|entry| entry.phase == Phase::Opening)
    }

    /// Whether a port's device was told this last.
    pub(super) fn is_steered(&self, port: PortRef, steering: &Steering) -> bool {
        self.entries.get(&port).is_some_and(|entry| entry.steering == *steering)
    }

    /// A port's device was told this. Returns the name of a port that came up by it.
    pub(super) fn steered(&mut self, port: PortRef, steering: Steering) -> Option<String> {
        let entry = self.entries.get_mut(&port)?;
        let was_up = entry.state() == PortState::Up;
        entry.steering = steering;
        entry.error = None;
        entry.failures = 0;
        (!was_up).then(|| entry.object.name.to_string())
    }

    /// What to do with a removed port, now that no worker knows it.
    pub(super) fn retirement(&self, port: PortRef) -> Retirement {
        match self.entries.get(&port).map(|entry| entry.phase) {
            Some(Phase::Attached) => Retirement::Detach,
            Some(Phase::Opening | Phase::Closing) => Retirement::UnderWay,
            Some(Phase::Down { .. } | Phase::Waiting(_)) | None => Retirement::Done,
        }
    }

    /// A removed port is closed; returns the ports that waited for that, which are to be opened.
    pub(super) fn forget(&mut self, port: PortRef) -> Vec<PortRef> {
        self.entries.remove(&port);
        let waits = |entry: &Entry| entry.phase == Phase::Waiting(port);
        self.entries.iter().filter(|(_, entry)| waits(entry)).map(|(port, _)| *port).collect()
    }

    /// Configured ports that are not up, and why.
    pub(super) fn errors(&self) -> Vec<PortError> {
        let mut errors: Vec<_> = self
            .entries
            .values()
            .filter(|entry| !entry.is_removed && entry.state() != PortState::Up)
            .map(|entry| PortError {
                port: entry.object.name.to_string(),
                message: entry.detail().to_owned(),
            })
            .collect();
        errors.sort_by(|a, b| a.port.cmp(&b.port));
        errors
    }

    /// A port's name; empty for one that is forgotten.
    pub(super) fn name(&self, port: PortRef) -> String {
        self.entries.get(&port).map_or_else(String::new, |entry| entry.object.name.to_string())
    }

    /// Each port with its object, its state, and why it is not up.
    pub(super) fn states(
        &self,
    ) -> impl Iterator<Item = (PortRef, &Arc<PortObject>, PortState, &str)> {
        self.entries
            .iter()
            .map(|(port, entry)| (*port, &entry.object, entry.state(), entry.detail()))
    }

    fn wanted(&self, port: PortRef) -> Option<&Entry> {
        self.entries.get(&port).filter(|entry| !entry.is_removed)
    }
}

impl Entry {
    fn state(&self) -> PortState {
        match self.phase {
            _ if self.is_removed => PortState::Closing,
            Phase::Attached if self.steering != Steering::Nothing => PortState::Up,
            Phase::Attached | Phase::Waiting(_) => PortState::Opening,
            Phase::Opening if self.failures == 0 => PortState::Opening,
            Phase::Opening | Phase::Closing | Phase::Down { .. } => PortState::Down,
        }
    }

    fn detail(&self) -> &str {
        match (&self.error, self.phase) {
            (Some(error), _) => error,
            (None, Phase::Waiting(_)) => "waits until a former port gives up the interface",
            (None, Phase::Opening) => "is being opened",
            (None, _) => "",
        }
    }

    fn fail(&mut self, message: String) {
        self.error = Some(message);
        self.failures = self.failures.saturating_add(1);
    }

    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        (RETRY_FIRST * (1 << doublings)).min(RETRY_MAX)
    }
}

/// Whether the second can be opened only once the first is closed.
fn shares_device(first: &Backend, second: &Backend) -> bool {
    match (first, second) {
        (Backend::VhostUser(first), Backend::VhostUser(second)) => {
            first.socket_path == second.socket_path
        }
        _ => first.interface().is_some_and(|interface| second.interface() == Some(interface)),
    }
}
