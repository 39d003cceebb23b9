//! The thread that owns the engine, and how the asynchronous side asks it.
//!
//! ```text
//! gRPC, metrics (tokio) ── call: a closure on the engine ──► engine thread ── tick every few ms
//!                       ◄──────────── its answer ───────────
//! ```
//!
//! The engine is not asynchronous and is owned by one thread. A call is carried out between two
//! ticks; while it runs, other calls wait in a bounded queue, and the server goes on answering its
//! connections.

use std::{
    fmt, io,
    sync::mpsc::{self, RecvTimeoutError, SyncSender, TrySendError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// Calls that wait at most: more clients than a node has, and a bound on what they can pile up.
const CALLS_WAITING_MAX: usize = 256;

type Call<E> = Box<dyn FnOnce(&mut E) + Send>;

enum Message<E> {
    Call(Call<E>),
    Stop,
}

/// Asks the engine's thread. Cheap to clone; the thread ends when it is told to, or when the last
/// one is gone.
pub(crate) struct EngineCaller<E> {
    calls: SyncSender<Message<E>>,
}

impl<E> fmt::Debug for EngineCaller<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineCaller").finish_non_exhaustive()
    }
}

impl<E> Clone for EngineCaller<E> {
    fn clone(&self) -> Self {
        Self { calls: self.calls.clone() }
    }
}

/// Why the engine did not answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{CALLS_WAITING_MAX} calls are waiting for the engine already; try again later")]
    Busy,
    #[error("the engine is stopping; connect again when it is back")]
    Stopped,
}

impl<E: Send + 'static> EngineCaller<E> {
    /// Starts the thread. `tick` is called at least every `interval`, and after each call.
    ///
    /// # Errors
    ///
    /// Fails if the system has no more threads.
    pub(crate) fn start(
        mut engine: E,
        interval: Duration,
        tick: impl Fn(&mut E) + Send + 'static,
    ) -> io::Result<(Self, JoinHandle<E>)> {
        let (calls, waiting) = mpsc::sync_channel(CALLS_WAITING_MAX);
        let run = move || {
            let mut next_tick = Instant::now();
            loop {
                let pause = next_tick.saturating_duration_since(Instant::now());
                match waiting.recv_timeout(pause) {
                    Ok(Message::Call(call)) => call(&mut engine),
                    Err(RecvTimeoutError::Timeout) => next_tick = Instant::now() + interval,
                    Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return engine,
                }
                tick(&mut engine);
            }
        };
        let thread = thread::Builder::new().name("engine".to_owned()).spawn(run)?;
        Ok((Self { calls }, thread))
    }

    /// Carries out `call` on the engine's thread and waits for its answer.
    ///
    /// # Errors
    ///
    /// Fails if too many calls wait already, or the engine stops meanwhile.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&mut E) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        let (answer, answered) = oneshot::channel();
        let call: Call<E> = Box::new(move |engine| {
            // A client that went away meanwhile needs no answer.
            let _ = answer.send(call(engine));
        });
        self.calls.try_send(Message::Call(call)).map_err(|error| match error {
            TrySendError::Full(_) => CallError::Busy,
            TrySendError::Disconnected(_) => CallError::Stopped,
        })?;
        answered.await.map_err(|_| CallError::Stopped)
    }

    /// Ends the thread after the calls that wait already. May wait for them, so it is nothing for
    /// an asynchronous task.
    pub(crate) fn stop(&self) {
        // A thread that is gone has stopped.
        let _ = self.calls.send(Message::Stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn calls_are_carried_out_in_order_and_answered() {
        let (caller, thread) = EngineCaller::start(Vec::new(), NEVER, |_| {}).unwrap();
        for value in 0..3 {
            let len = caller.call(move |values: &mut Vec<u32>| {
                values.push(value);
                values.len()
            });
            assert_eq!(len.await, Ok(value as usize + 1));
        }
        drop(caller);
        assert_eq!(thread.join().unwrap(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn a_stopped_engine_answers_nobody() {
        let (caller, thread) = EngineCaller::start((), NEVER, |()| {}).unwrap();
        let other = caller.clone();
        caller.stop();
        thread.join().unwrap();
        assert_eq!(other.call(|()| ()).await, Err(CallError::Stopped));
    }

    #[tokio::test]
    async fn the_engine_is_ticked_without_calls() {
        let (ticks, ticked) = mpsc::channel();
        let tick = move |(): &mut ()| {
            let _ = ticks.send(());
        };
        let (caller, thread) = EngineCaller::start((), Duration::from_millis(1), tick).unwrap();
        for _ in 0..3 {
            ticked.recv_timeout(Duration::from_mins(1)).unwrap();
        }
        drop(caller);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn a_full_queue_is_an_error_and_not_a_wait() {
        let (caller, _thread) = EngineCaller::start((), NEVER, |()| {}).unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (started, is_started) = mpsc::channel::<()>();
        let blocked = caller.clone();
        let first = tokio::spawn(async move {
            let hold = move |(): &mut ()| {
                let _ = started.send(());
                let _ = released.recv();
            };
            blocked.call(hold).await
        });
        tokio::task::yield_now().await;
        is_started.recv_timeout(Duration::from_mins(1)).unwrap();
        for _ in 0..CALLS_WAITING_MAX {
            caller.calls.try_send(Message::Call(Box::new(|()| ()))).unwrap();
        }
        assert_eq!(caller.call(|()| ()).await, Err(CallError::Busy));
        drop(release);
        assert_eq!(first.await.unwrap(), Ok(()));
    }
}
