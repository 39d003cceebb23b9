//! The helper thread that opens ports: entering namespaces, loading programs and binding sockets
//! may take seconds.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::{
    memory::{Depot, FramePool},
    port::{OpenPortError, OpenedPort, PORTS_MAX, PortOpener, PortRef, PortRequest},
};

/// What became of a request.
pub(super) type Outcome = Result<OpenedPort, OpenPortError>;

/// How long one wait for an outcome lasts at most; the main thread has other things to look after.
const WAIT_MAX: Duration = Duration::from_millis(1);

/// The main thread's ends of the opener's channels. Each port slot has at most one request under
/// way.
pub(super) struct OpenerThread {
    requests: Sender<PortRequest>,
    outcomes: Receiver<(PortRef, Outcome)>,
    thread: JoinHandle<()>,
}

impl OpenerThread {
    /// Starts the thread; ports draw frames from `depot`.
    pub(super) fn start(mut opener: Box<dyn PortOpener>, depot: Arc<Depot>) -> io::Result<Self> {
        let (requests, incoming) = bounded::<PortRequest>(PORTS_MAX);
        let (outgoing, outcomes) = bounded(PORTS_MAX);
        let run = move || {
            for request in incoming {
                // A pool of its own for each port: what is left in it is in the depot again when
                // the port is open.
                let mut pool = FramePool::new(Arc::clone(&depot));
                let outcome = opener.open(&request, &mut pool);
                drop(pool);
                if outgoing.send((request.port, outcome)).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("opener".into()).spawn(run)?;
        Ok(Self { requests, outcomes, thread })
    }

    /// Asks for a port.
    pub(super) fn open(&self, request: PortRequest) {
        // The channel holds a request for each slot, and the thread lives as long as this end.
        let _ = self.requests.try_send(request);
    }

    /// The next outcome that is there already.
    pub(super) fn opened(&self) -> Option<(PortRef, Outcome)> {
        self.outcomes.try_recv().ok()
    }

    /// The next outcome, if one comes soon.
    pub(super) fn wait(&self) -> Option<(PortRef, Outcome)> {
        self.outcomes.recv_timeout(WAIT_MAX).ok()
    }

    /// Ends the thread; returns the ports that were opened and not taken.
    pub(super) fn stop(self) -> Vec<(PortRef, OpenedPort)> {
        let Self { requests, outcomes, thread } = self;
        drop(requests);
        let opened = outcomes.iter().filter_map(|(port, outcome)| Some((port, outcome.ok()?)));
        let opened = opened.collect();
        // An opener that panicked has nothing to give back.
        let _ = thread.join();
        opened
    }
}
