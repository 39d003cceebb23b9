//! A port's session: the thread that serves one frontend after the other.
//!
//! ```text
//!  waiting: accept or connect ──► connected: requests, answers of queues ──► rings come back
//!     ▲                                                                          │
//!     └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The thread sleeps in poll(2). It waits for workers only, and for those with a limit: one that
//! does not give rings back keeps the guest's memory mapped and the port without a frontend until
//! it does, and takes nothing else along.

#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};

use super::{
    frontend::{Frontend, Offer, Reply, RequestFault},
    orders::{clear, signal},
    queues::Queues,
    request::{Request, RequestError},
    socket::{ServedSocket, SocketPlace},
    status::Status,
    wire::{Message, Wire, WireError},
};

/// How long a client waits before it connects again.
const CONNECT_INTERVAL: Duration = Duration::from_millis(200);
/// How long a session waits in vain before it looks around.
const POLL_MAX: Duration = Duration::from_mins(1);
/// How long a session that is to end waits for the rings of closed queues, which are given back
/// before.
const END_WAIT_MAX: Duration = Duration::from_secs(1);
/// The stack of a session's thread, of which a node has hundreds.
const STACK_BYTES: usize = 256 << 10;

/// Where frontends come from.
#[derive(Debug)]
pub(super) enum Meeting {
    /// They connect to us.
    Serve(ServedSocket),
    /// We connect to them.
    Visit(SocketPlace),
}

/// What the main thread and the session share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Readable when one of the two below has changed.
    wake: OwnedFd,
    /// Written by the main thread: the port is being closed.
    is_ending: AtomicBool,
    /// Written by the main thread: packets may come in.
    is_steered: AtomicBool,
    /// Written by the session.
    pub(super) status: Status,
}

/// The main thread's end of a session; dropped, it ends the session.
#[derive(Debug)]
pub(super) struct SessionHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl SessionHandle {
    /// Starts a session's thread.
    pub(super) fn start(meeting: Meeting, queues: Queues, offer: Offer) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            is_ending: AtomicBool::new(false),
            is_steered: AtomicBool::new(false),
            status: Status::default(),
        });
        let mut session = Session { shared: Arc::clone(&shared), meeting, queues, last: None };
        session.describe_waiting();
        let thread = thread::Builder::new()
            .name("vhost-user".into())
            .stack_size(STACK_BYTES)
            .spawn(move || session.run(&offer))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What the session says.
    pub(super) fn status(&self) -> &Status {
        &self.shared.status
    }

    /// Whether packets may come in.
    pub(super) fn steer(&self, is_steered: bool) {
        self.shared.is_steered.store(is_steered, Release);
        signal(&self.shared.wake);
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Release);
        signal(&self.shared.wake);
        if let Some(thread) = self.thread.take() {
            // A session that panicked has nothing to give back.
            let _ = thread.join();
        }
    }
}

struct Session {
    shared: Arc<Shared>,
    meeting: Meeting,
    queues: Queues,
    /// Why the last connection ended.
    last: Option<String>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum EndOfConnection {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Fault(#[from] RequestFault),
    #[error("the port is being closed")]
    PortClosed,
    #[error("the session cannot wait for its descriptors: {0}")]
    Poll(Errno),
}

impl Session {
    fn run(mut self, offer: &Offer) {
        while !self.is_ending() {
            match self.meet() {
                Ok(Some(wire)) => {
                    self.converse(wire, offer);
                    self.describe_waiting();
                }
                Ok(None) => {}
                Err(error) => {
                    self.end_with(&format!("cannot take a connection: {error}"), true);
                    self.describe_waiting();
                    self.sleep(CONNECT_INTERVAL);
                }
            }
        }
    }

    fn is_ending(&self) -> bool {
        self.shared.is_ending.load(Acquire)
    }

    /// Waits for a frontend; `None` if none has come yet.
    fn meet(&self) -> io::Result<Option<Wire>> {
        let stream = match &self.meeting {
            Meeting::Serve(socket) => socket.accept()?,
            // Whatever keeps it from us may pass.
            Meeting::Visit(place) => place.connect().ok(),
        };
        if stream.is_none() {
            match &self.meeting {
                Meeting::Serve(socket) => self.wait_for(socket.listener(), POLL_MAX),
                Meeting::Visit(_) => self.sleep(CONNECT_INTERVAL),
            }
        }
        stream.map(Wire::new).transpose()
    }

    /// Serves one frontend until its connection ends and its rings are back.
    fn converse(&mut self, mut wire: Wire, offer: &Offer) {
        let mut frontend = Frontend::new(offer, self.shared.is_steered.load(Acquire));
        let end = loop {
            self.shared.status.set_detail(frontend.describe(&self.queues));
            if let Err(end) = self.serve(&mut wire, &mut frontend) {
                break end;
            }
        };
        // The frontend learns of the end first; its memory stays until the rings are back.
        drop(wire);
        let is_its_fault =
            !matches!(end, EndOfConnection::PortClosed | EndOfConnection::Wire(WireError::Closed));
        self.end_with(&end.to_string(), is_its_fault);
        self.take_rings_back();
        drop(frontend);
    }

    /// One round: what has come, and then a wait.
    fn serve(
        &mut self,
        wire: &mut Wire,
        frontend: &mut Frontend<'_>,
    ) -> Result<(), EndOfConnection> {
        while let Some(message) = wire.receive(Instant::now())? {
            self.answer(wire, frontend, message)?;
            self.shared.status.set_detail(frontend.describe(&self.queues));
            if self.is_ending() {
                return Err(EndOfConnection::PortClosed);
            }
        }
        self.wait(wire)?;
        if self.is_ending() {
            return Err(EndOfConnection::PortClosed);
        }
        clear(&self.shared.wake);
        for fallen in self.queues.take_fallen() {
            frontend.note_fallen(&fallen);
            if let Some(fault) = fallen.fault {
                self.shared.status.note(format!("queue pair {}: {fault}", fallen.queue));
            }
        }
        let is_steered = self.shared.is_steered.load(Acquire);
        frontend.steer(is_steered, &mut self.queues)?;
        Ok(())
    }

    fn answer(
        &mut self,
        wire: &mut Wire,
        frontend: &mut Frontend<'_>,
        message: Message,
    ) -> Result<(), EndOfConnection> {
        let (code, needs_reply) = (message.code, message.needs_reply);
        let outcome = match Request::parse(message) {
            Ok(request) => frontend.handle(request, &mut self.queues).map_err(Into::into),
            Err(error) => Err(EndOfConnection::from(error)),
        };
        let acknowledges = needs_reply && frontend.wants_acknowledgement();
        match &outcome {
            Ok(Reply::Body(body)) => wire.reply(code, body, None)?,
            Ok(Reply::File(body, file)) => wire.reply(code, body, Some(file.as_fd()))?,
            Ok(Reply::Done) | Err(_) if acknowledges => {
                wire.reply(code, &u64::from(outcome.is_err()).to_ne_bytes(), None)?;
            }
            Ok(Reply::Done) | Err(_) => {}
        }
        match outcome {
            Err(EndOfConnection::Fault(fault)) if !fault.is_fatal() => {
                self.shared.status.note(format!("refused: {fault}"));
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    /// Waits for the frontend, the queues or the main thread.
    fn wait(&self, wire: &Wire) -> Result<(), EndOfConnection> {
        let now = Instant::now();
        let limit = wire.deadline().map_or(POLL_MAX, |it| it.saturating_duration_since(now));
        let mut descriptors =
            vec![PollFd::new(wire, PollFlags::IN), PollFd::new(&self.shared.wake, PollFlags::IN)];
        descriptors.extend(
            self.queues.descriptors().map(|it| PollFd::from_borrowed_fd(it, PollFlags::IN)),
        );
        match poll(&mut descriptors, Timespec::try_from(limit).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(EndOfConnection::Poll(error)),
        }
    }

    /// Waits until no worker has any rings; without a limit, unless the port is being closed, for
    /// memory may not be unmapped before.
    fn take_rings_back(&mut self) {
        self.queues.begin_to_stop();
        self.queues.take_fallen();
        let began = Instant::now();
        while !self.queues.are_idle() {
            if self.is_ending() && began.elapsed() > END_WAIT_MAX {
                // Whoever has the rings keeps the memory mapped with them.
                return;
            }
            let descriptors = self.queues.descriptors();
            let mut descriptors: Vec<_> =
                descriptors.map(|it| PollFd::from_borrowed_fd(it, PollFlags::IN)).collect();
            let timeout = Timespec::try_from(END_WAIT_MAX).ok();
            let _ = poll(&mut descriptors, timeout.as_ref());
            drop(descriptors);
            self.queues.begin_to_stop();
            self.queues.take_fallen();
        }
    }

    fn end_with(&mut self, why: &str, is_notable: bool) {
        if is_notable {
            self.shared.status.note(format!("lost its frontend: {why}"));
        }
        self.last = Some(why.to_owned());
        if !self.queues.are_idle() {
            self.shared.status.set_detail(format!(
                "waits for its rings, which workers have not given back: {why}"
            ));
        }
    }

    fn describe_waiting(&mut self) {
        let state = match &self.meeting {
            Meeting::Serve(socket) => {
                format!("no frontend connected to {}", socket.path().display())
            }
            Meeting::Visit(place) => {
                format!("no frontend listens on {} yet", place.path().display())
            }
        };
        self.shared.status.set_detail(match &self.last {
            Some(last) => format!("{state}; the last connection: {last}"),
            None => state,
        });
    }

    fn sleep(&self, longest: Duration) {
        let mut descriptors = [PollFd::new(&self.shared.wake, PollFlags::IN)];
        let _ = poll(&mut descriptors, Timespec::try_from(longest).ok().as_ref());
        clear(&self.shared.wake);
    }

    fn wait_for(&self, descriptor: &impl AsFd, longest: Duration) {
        let mut descriptors =
            [PollFd::new(descriptor, PollFlags::IN), PollFd::new(&self.shared.wake, PollFlags::IN)];
        let _ = poll(&mut descriptors, Timespec::try_from(longest).ok().as_ref());
        clear(&self.shared.wake);
    }
}
