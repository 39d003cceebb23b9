//! Trials: a sender and a sink, each on a thread of its own, with ports that stay open from one
//! trial to the next.
//!
//! ```text
//!   caller ──order──▶ sink's thread  (opens its port, says that it is ready)
//!     │  ──order──▶ sender's thread  (sends; reports what it sent)
//!     │  waits until as much has arrived, or the device had time enough
//!     └───stop──▶ sink's thread      (takes in the rest; reports what it received)
//! ```

mod threads;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    account::Account,
    frames::FrameSet,
    port::{OpenPortError, PortSpec},
    sender::Sent,
};
use crate::machine::PinError;

/// How long what was sent may be underway after the last packet (RFC 2544 section 23 has the tester
/// wait two seconds).
pub const LINGER: Duration = Duration::from_secs(2);
/// How often a caller is told how far a trial is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// A port and the CPU of its thread.
#[derive(Clone, Debug)]
pub struct End {
    /// The port.
    pub port: PortSpec,
    /// The thread stays on this CPU.
    pub cpu: Option<usize>,
}

/// What takes part in trials.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Where frames are sent.
    pub tx: Option<End>,
    /// Where they are received.
    pub rx: Option<End>,
    /// The sink looks for frames all the time, instead of sleeping while there are none.
    pub is_busy: bool,
    /// Set by anybody: ends a trial early.
    pub interrupted: Arc<AtomicBool>,
}

/// One trial.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What is sent; the sink takes the number of flows from it.
    pub frames: Arc<FrameSet>,
    /// Which stream it is.
    pub stream: u16,
    /// Packets a second; as fast as the port takes them if not given.
    pub packets_per_second: Option<f64>,
    /// How many packets; if not given, as many as the rate and the time allow.
    pub packets: Option<u64>,
    /// How long; without a sender, at most.
    pub duration: Duration,
}

/// What came of a trial.
#[derive(Debug)]
pub struct Outcome {
    /// What the sender did.
    pub sent: Option<SenderReport>,
    /// What the sink saw.
    pub received: Option<SinkReport>,
    /// Whether it was ended early.
    pub is_interrupted: bool,
}

/// What the sender's thread reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct SenderReport {
    /// What was sent.
    pub sent: Sent,
    /// Frames that the port took and had not sent a second later.
    pub stuck: u64,
    /// How often the thread was taken off its CPU.
    pub preemptions: u64,
    /// The thread had to wait for its CPU; only known of a pinned thread, as is the next.
    pub is_shared: bool,
    /// The hypervisor ran something else on the thread's CPU.
    pub is_stolen: bool,
}

/// What the sink's thread reports.
#[derive(Debug)]
pub struct SinkReport {
    /// What arrived.
    pub account: Account,
    /// Frames that reached the port and were lost there, since the sink came too late.
    pub lost_by_port: u64,
    /// How often the thread was taken off its CPU.
    pub preemptions: u64,
}

/// Why trials cannot begin, or go on.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum TrialError {
    #[error(transparent)]
    Open(#[from] OpenPortError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(
        "a frame of {bytes} bytes with FCS does not go through {port}, which takes {limit}; give a smaller --frame, or raise the MTU"
    )]
    FrameTooLarge { port: String, bytes: usize, limit: usize },
    #[error("the port {port} failed; is its interface still there?")]
    Port { port: String, source: io::Error },
    #[error("no memory for the account of the stream")]
    Account,
    #[error("a thread of the generator ended before its time")]
    Thread,
}

/// How far a trial is; the threads write, the caller reads.
#[derive(Debug, Default)]
struct Progress {
    sent: AtomicU64,
    received: AtomicU64,
}

/// Open ports and their threads. They end when it is dropped.
#[derive(Debug)]
pub struct Bench {
    tx: Option<Station<TxOrder, SenderReport>>,
    rx: Option<Station<RxOrder, SinkReport>>,
    interrupted: Arc<AtomicBool>,
    progress: Arc<Progress>,
    port_name: String,
    /// The largest frame that the sender's port takes.
    frame_bytes_max: Option<usize>,
}

/// A thread, and how to talk to it.
#[derive(Debug)]
struct Station<Order, Report> {
    orders: Sender<Order>,
    reports: Receiver<Result<Report, TrialError>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct TxOrder {
    trial: Trial,
}

#[derive(Debug)]
struct RxOrder {
    stream: u16,
    flows: u32,
    ready: Sender<()>,
    stop: Arc<AtomicBool>,
}

impl Bench {
    /// Opens the ports.
    ///
    /// # Errors
    ///
    /// Fails if a port cannot be opened, or a CPU is not to be had.
    pub fn start(plan: &Plan) -> Result<Self, TrialError> {
        threads::start(plan)
    }

    /// Makes a trial; `watch` is told once a second how many packets were sent and received.
    ///
    /// # Errors
    ///
    /// Fails if a frame is too large for the sender's port, or a port is gone.
    pub fn run(
        &mut self,
        trial: &Trial,
        mut watch: impl FnMut(u64, u64),
    ) -> Result<Outcome, TrialError> {
        if let Some(limit) = self.frame_bytes_max
            && trial.frames.frame_bytes_max() > limit
        {
            let bytes = trial.frames.frame_bytes_max();
            return Err(TrialError::FrameTooLarge { port: self.port_name.clone(), bytes, limit });
        }
        self.progress.sent.store(0, Relaxed);
        self.progress.received.store(0, Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        if let Some(rx) = &self.rx {
            let (ready, is_ready) = channel();
            let flows = trial.frames.flows();
            rx.order(RxOrder { stream: trial.stream, flows, ready, stop: Arc::clone(&stop) })?;
            // An error instead of readiness is in the reports.
            if is_ready.recv().is_err() {
                return Err(rx.report().err().unwrap_or(TrialError::Thread));
            }
        }
        let sent = if let Some(tx) = &self.tx {
            tx.order(TxOrder { trial: trial.clone() })?;
            let sent = tx.report_while(|| self.tell(&mut watch));
            if let Ok(report) = &sent {
                self.linger(report.sent.packets, &mut watch);
            }
            Some(sent)
        } else {
            self.receive_only(trial, &mut watch);
            None
        };
        stop.store(true, Relaxed);
        let received = self.rx.as_ref().map(Station::report).transpose()?;
        let is_interrupted = self.interrupted.load(Relaxed);
        Ok(Outcome { sent: sent.transpose()?, received, is_interrupted })
    }

    fn tell(&self, watch: &mut impl FnMut(u64, u64)) {
        watch(self.progress.sent.load(Relaxed), self.progress.received.load(Relaxed));
    }

    /// Gives the last packets time to arrive.
    fn linger(&self, sent: u64, watch: &mut impl FnMut(u64, u64)) {
        let start = Instant::now();
        let is_over = || {
            self.rx.is_none()
                || self.progress.received.load(Relaxed) >= sent
                || start.elapsed() >= LINGER
        };
        self.wait_until(is_over, watch);
    }

    fn receive_only(&self, trial: &Trial, watch: &mut impl FnMut(u64, u64)) {
        let start = Instant::now();
        let packets = trial.packets.unwrap_or(u64::MAX);
        let is_over =
            || start.elapsed() >= trial.duration || self.progress.received.load(Relaxed) >= packets;
        self.wait_until(is_over, watch);
    }

    fn wait_until(&self, is_over: impl Fn() -> bool, watch: &mut impl FnMut(u64, u64)) {
        let mut told = Instant::now();
        while !is_over() && !self.interrupted.load(Relaxed) {
            thread::sleep(Duration::from_millis(1));
            if told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                self.tell(watch);
            }
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // A thread ends when nobody can give it orders any more; the sink's first, since a port that
        // both use is opened by the sender's.
        for thread in
            [self.rx.take().and_then(Station::close), self.tx.take().and_then(Station::close)]
        {
            let _ = thread.map(JoinHandle::join);
        }
    }
}

impl<Order, Report> Station<Order, Report> {
    fn order(&self, order: Order) -> Result<(), TrialError> {
        self.orders.send(order).map_err(|_| TrialError::Thread)
    }

    fn report(&self) -> Result<Report, TrialError> {
        self.reports.recv().map_err(|_| TrialError::Thread)?
    }

    /// Waits for a report, and calls `tell` now and then.
    fn report_while(&self, mut tell: impl FnMut()) -> Result<Report, TrialError> {
        loop {
            match self.reports.recv_timeout(PROGRESS_INTERVAL) {
                Ok(report) => return report,
                Err(RecvTimeoutError::Timeout) => tell(),
                Err(RecvTimeoutError::Disconnected) => return Err(TrialError::Thread),
            }
        }
    }

    fn close(mut self) -> Option<JoinHandle<()>> {
        self.thread.take()
    }
}
