//! How the main thread waits for workers: never without a deadline.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Looks before the first pause: a worker that polls answers within some microseconds.
const EAGER_LOOKS: u32 = 100;

/// Between two looks, once eager looking did not help.
const PAUSE: Duration = Duration::from_micros(200);

/// A worker that did not do in time what it was to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum WorkerLate {
    #[error(
        "worker {worker} ({place}) has not carried out its commands in time; it last polled \
         {silent:?} ago, see what keeps its cpu"
    )]
    Commands { worker: usize, place: String, silent: Duration },
    #[error(
        "worker {worker} ({place}) has not reached configuration version {version} in time; it \
         last polled {silent:?} ago, see what keeps its cpu"
    )]
    Version { worker: usize, place: String, version: u64, silent: Duration },
}

/// Who is late.
pub(super) struct Late {
    pub(super) worker: usize,
    pub(super) cpu: Option<usize>,
    pub(super) silent: Duration,
}

impl Late {
    fn place(&self) -> String {
        self.cpu.map_or_else(|| "on no cpu of its own".into(), |cpu| format!("on cpu {cpu}"))
    }
}

impl WorkerLate {
    pub(super) fn commands(late: &Late) -> Self {
        Self::Commands { worker: late.worker, place: late.place(), silent: late.silent }
    }

    pub(super) fn version(late: &Late, version: u64) -> Self {
        Self::Version { worker: late.worker, place: late.place(), version, silent: late.silent }
    }
}

/// Waits until `is_done`, calling `nudge` between looks; `false` at the deadline.
pub(super) fn until(
    deadline: Instant,
    mut is_done: impl FnMut() -> bool,
    nudge: impl Fn(),
) -> bool {
    for look in 0_u32.. {
        if is_done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        if look < EAGER_LOOKS {
            thread::yield_now();
        } else {
            nudge();
            thread::sleep(PAUSE);
        }
    }
    false
}
