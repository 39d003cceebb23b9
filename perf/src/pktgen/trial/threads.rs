//! The threads of sender and sink.

use std::{
    hint, io,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use super::{
    Bench, End, Plan, Progress, RxOrder, SenderReport, SinkReport, Station, TrialError, TxOrder,
};
use rustix::thread::gettid;

use crate::{
    disturbance::Watch,
    machine::{Preemptions, pin},
    pktgen::{
        account::Account,
        clock::now_ns,
        port::{RxPort, TxPort, Use},
        sender::{self, Limit, Step},
        sink,
    },
};

/// A sender that has to wait for longer than this sleeps; below, the kernel would wake it too late.
const SLEEP_MIN: Duration = Duration::from_micros(200);
/// How much earlier it has itself woken.
const WAKE_EARLY: Duration = Duration::from_micros(100);
/// So that it notices an interruption.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// How long a port may take nothing.
const FULL_LIMIT_NS: u64 = 10_000_000_000;
/// How long frames that the port took have to leave.
const FLUSH_LIMIT_NS: u64 = 1_000_000_000;
/// Between looks whether they have.
const FLUSH_PAUSE: Duration = Duration::from_micros(50);
/// After so many looks in vain a sink that is not busy waits.
const LOOKS_IN_VAIN: u32 = 64;
/// How long it waits: as long as it may take to notice the end.
const WAIT_LIMIT: Duration = Duration::from_millis(1);
/// What comes in after the end is taken in, but no more than this: others may go on sending.
const REST_BURSTS: u32 = 1024;

type RxHalf = Result<Box<dyn RxPort + Send>, TrialError>;

pub(super) fn start(plan: &Plan) -> Result<Bench, TrialError> {
    let progress = Arc::new(Progress::default());
    let is_shared = match (&plan.tx, &plan.rx) {
        (Some(tx), Some(rx)) => tx.port == rx.port,
        _ => false,
    };
    let (half_out, half_in) = channel();
    let mut bench = Bench {
        tx: None,
        rx: None,
        interrupted: Arc::clone(&plan.interrupted),
        progress: Arc::clone(&progress),
        port_name: String::new(),
        frame_bytes_max: None,
    };
    if let Some(end) = plan.tx.clone() {
        bench.port_name = end.port.to_string();
        let station = SenderThread { end, plan: plan.clone(), progress: Arc::clone(&progress) };
        let half_out = is_shared.then_some(half_out);
        let (opened, is_open) = channel();
        bench.tx = Some(spawn("pktgen-tx", move |orders, reports| {
            station.live(half_out, &opened, &orders, &reports);
        })?);
        bench.frame_bytes_max = Some(is_open.recv().map_err(|_| TrialError::Thread)??);
    }
    if let Some(end) = plan.rx.clone() {
        let station = SinkThread { end, is_busy: plan.is_busy, progress };
        let half_in = is_shared.then_some(half_in);
        let (opened, is_open) = channel();
        bench.rx = Some(spawn("pktgen-rx", move |orders, reports| {
            station.live(half_in, &opened, &orders, &reports);
        })?);
        is_open.recv().map_err(|_| TrialError::Thread)??;
    }
    Ok(bench)
}

fn spawn<Order: Send + 'static, Report: Send + 'static>(
    name: &str,
    live: impl FnOnce(Receiver<Order>, Sender<Result<Report, TrialError>>) + Send + 'static,
) -> Result<Station<Order, Report>, TrialError> {
    let (orders, orders_in) = channel();
    let (reports_out, reports) = channel();
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || live(orders_in, reports_out))
        .map_err(|_| TrialError::Thread)?;
    Ok(Station { orders, reports, thread: Some(thread) })
}

impl End {
    /// Moves the calling thread where the port is.
    fn enter(&self) -> Result<(), TrialError> {
        if let Some(cpu) = self.cpu {
            pin(cpu)?;
        }
        Ok(self.port.enter_namespace()?)
    }

    fn failed(&self, source: io::Error) -> TrialError {
        TrialError::Port { port: self.port.to_string(), source }
    }
}

struct SenderThread {
    end: End,
    plan: Plan,
    progress: Arc<Progress>,
}

impl SenderThread {
    fn live(
        self,
        half_out: Option<Sender<RxHalf>>,
        opened: &Sender<Result<usize, TrialError>>,
        orders: &Receiver<TxOrder>,
        reports: &Sender<Result<SenderReport, TrialError>>,
    ) {
        let purpose = if half_out.is_some() { Use::Receive } else { Use::Send };
        let open = || -> Result<_, TrialError> {
            self.end.enter()?;
            Ok(self.end.port.open(purpose)?)
        };
        let mut port = match open() {
            Ok((tx, rx)) => {
                let _ = half_out.map(|half_out| half_out.send(Ok(rx)));
                let _ = opened.send(Ok(tx.frame_bytes_max()));
                tx
            }
            Err(error) => {
                let _ = opened.send(Err(error));
                return;
            }
        };
        while let Ok(order) = orders.recv() {
            let _ = reports.send(self.send(&mut *port, &order));
        }
    }

    fn send(&self, port: &mut dyn TxPort, order: &TxOrder) -> Result<SenderReport, TrialError> {
        let trial = &order.trial;
        let preemptions = Preemptions::watch();
        let thread = gettid().as_raw_nonzero().get();
        let watch = self.end.cpu.map(|cpu| Watch::begin(thread, cpu));
        let start_ns = now_ns();
        let duration_ns = u64::try_from(trial.duration.as_nanos()).unwrap_or(u64::MAX);
        let limit = match (trial.packets, trial.packets_per_second) {
            (Some(packets), _) => Limit { packets, until_ns: u64::MAX },
            // A sender that was held up for a moment may finish.
            (None, Some(rate)) => Limit {
                packets: whole(trial.duration.as_secs_f64() * rate),
                until_ns: start_ns.saturating_add(duration_ns + duration_ns / 20),
            },
            (None, None) => {
                Limit { packets: u64::MAX, until_ns: start_ns.saturating_add(duration_ns) }
            }
        };
        let (stream, rate) = (trial.stream, trial.packets_per_second);
        let mut sender = sender::Sender::new(&trial.frames, stream, rate, limit, start_ns);
        let mut full_since_ns = None;
        while !self.plan.interrupted.load(Relaxed) {
            let now_ns = now_ns();
            let step = sender.step(port, now_ns).map_err(|error| self.end.failed(error))?;
            match step {
                Step::Sent => {
                    full_since_ns = None;
                    self.progress.sent.store(sender.sent().packets, Relaxed);
                }
                Step::Done => break,
                Step::PortFull => {
                    port.flush().map_err(|error| self.end.failed(error))?;
                    if now_ns - *full_since_ns.get_or_insert(now_ns) > FULL_LIMIT_NS {
                        return Err(self.end.failed(io::ErrorKind::TimedOut.into()));
                    }
                    hint::spin_loop();
                }
                Step::WaitUntil(due_ns) => {
                    port.flush().map_err(|error| self.end.failed(error))?;
                    wait_until(due_ns);
                }
            }
        }
        let stuck = self.flush(port)?;
        let disturbance = watch.map(|watch| watch.end()).unwrap_or_default();
        Ok(SenderReport {
            sent: sender.sent(),
            stuck,
            preemptions: preemptions.count(),
            is_shared: disturbance.is_shared,
            is_stolen: disturbance.is_stolen,
        })
    }

    /// Waits until everything has left; returns what has not.
    fn flush(&self, port: &mut dyn TxPort) -> Result<u64, TrialError> {
        let start_ns = now_ns();
        loop {
            let left = port.flush().map_err(|error| self.end.failed(error))? as u64;
            if left == 0 || now_ns() - start_ns > FLUSH_LIMIT_NS {
                return Ok(left);
            }
            thread::sleep(FLUSH_PAUSE);
        }
    }
}

fn wait_until(due_ns: u64) {
    let wait = Duration::from_nanos(due_ns.saturating_sub(now_ns()));
    if wait > SLEEP_MIN {
        thread::sleep(wait.saturating_sub(WAKE_EARLY).min(SLEEP_MAX));
    } else {
        while now_ns() < due_ns {
            hint::spin_loop();
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; saturates")]
fn whole(packets: f64) -> u64 {
    packets.round().max(1.0) as u64
}

struct SinkThread {
    end: End,
    is_busy: bool,
    progress: Arc<Progress>,
}

impl SinkThread {
    fn live(
        self,
        half_in: Option<Receiver<RxHalf>>,
        opened: &Sender<Result<(), TrialError>>,
        orders: &Receiver<RxOrder>,
        reports: &Sender<Result<SinkReport, TrialError>>,
    ) {
        let open = || -> RxHalf {
            self.end.enter()?;
            if let Some(half_in) = half_in {
                return half_in.recv().map_err(|_| TrialError::Thread)?;
            }
            let (_, rx) = self.end.port.open(Use::Receive)?;
            Ok(rx)
        };
        let mut port = match open() {
            Ok(port) => port,
            Err(error) => {
                let _ = opened.send(Err(error));
                return;
            }
        };
        let _ = opened.send(Ok(()));
        while let Ok(order) = orders.recv() {
            let _ = reports.send(self.receive(&mut *port, &order));
        }
    }

    fn receive(&self, port: &mut dyn RxPort, order: &RxOrder) -> Result<SinkReport, TrialError> {
        let failed = |error| self.end.failed(error);
        let mut account =
            Account::new(order.stream, order.flows).map_err(|_| TrialError::Account)?;
        let preemptions = Preemptions::watch();
        let lost_before = port.lost().map_err(failed)?;
        let _ = order.ready.send(());
        let mut in_vain = 0;
        while !order.stop.load(Relaxed) {
            if sink::poll(port, &mut account, now_ns).map_err(failed)? > 0 {
                self.progress.received.store(account.counts().received, Relaxed);
                in_vain = 0;
            } else if in_vain < LOOKS_IN_VAIN || self.is_busy {
                in_vain += 1;
                hint::spin_loop();
            } else {
                port.wait(WAIT_LIMIT).map_err(failed)?;
            }
        }
        for _ in 0..REST_BURSTS {
            if sink::poll(port, &mut account, now_ns).map_err(failed)? == 0 {
                break;
            }
        }
        let lost_by_port = port.lost().map_err(failed)? - lost_before;
        Ok(SinkReport { account, lost_by_port, preemptions: preemptions.count() })
    }
}
