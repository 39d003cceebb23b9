//! Keeps the engine as control wants it: one task, one connection, the newest wish only.
//!
//! ```text
//! publish(objects) ─► wish (the newest wins) ─► connect ─► handshake ─► full sync ─► difference …
//! wait(revision)   ◄─ state ◄──────────────────── Apply is answered ◄────────────────────┘
//! ```
//!
//! Invariants: nothing is sent before the first wish, so a control process that knows nothing yet
//! takes nothing away. A new connection begins with a full sync, so both sides agree whoever
//! restarted. A batch that was answered is in force on every worker.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use control_api::{
    connect::{ConnectError, HandshakeError},
    engine::PortError,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    compile::Objects,
    sync::session::{Session, SessionError},
};

mod session;

/// The first pause after a failed connection. A restarted engine is back within it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest pause: what a person waits without wondering.
const BACKOFF_MAX: Duration = Duration::from_secs(3);

/// How often a connection at rest is asked whether the engine still lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Counts wishes; a later one contains the earlier ones.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Revision(u64);

/// How things stand between control and the engine.
#[derive(Clone, Debug, Default)]
pub struct SyncState {
    /// The connection, if there is one.
    pub engine: Option<Connection>,
    /// Why there is none, or why the last batch was not taken.
    pub trouble: Option<Trouble>,
    /// The newest wish that is in force.
    pub acknowledged: Option<Revision>,
    /// The newest wish that the engine has refused since the last one it took.
    pub refused: Option<Revision>,
    /// The generation in force on the engine, as the engine counts.
    pub generation: u64,
    /// The ports that could not be opened, and why.
    pub port_errors: BTreeMap<String, String>,
    /// How many batches were answered so far.
    pub batches: u64,
}

/// The engine at the other end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Connection {
    /// Random at each start of the engine.
    pub instance_id: u64,
    /// The engine's own version.
    pub engine_version: String,
}

/// What keeps the engine from being as wished.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Trouble {
    #[error("{}", with_causes(&**.0))]
    Connect(Arc<ConnectError>),

    #[error("{}", with_causes(&**.0))]
    Handshake(Arc<HandshakeError>),

    #[error("the engine does not take the configuration ({code}): {message}")]
    Refused { code: tonic::Code, message: String },

    #[error("the connection to the engine broke: {message}")]
    Broken { message: String },

    #[error("the engine has not answered for {seconds} s; see `vrctl workers`")]
    Silent { seconds: u64 },
}

/// Why a wish is not in force.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum WaitError {
    #[error("the engine did not take it within {seconds} s: {}", reason.as_ref().map_or_else(
        || "it is busy; see `vrctl status`".to_owned(), ToString::to_string))]
    Timeout { seconds: u64, reason: Option<Trouble> },

    #[error("the engine refused it: {0}")]
    Refused(Trouble),
}

/// The wish of the moment.
#[derive(Clone, Debug)]
struct Wish {
    revision: Revision,
    objects: Arc<Objects>,
}

/// The handle to the task that talks to the engine.
#[derive(Debug)]
pub struct EngineLink {
    wish: watch::Sender<Option<Wish>>,
    state: watch::Receiver<SyncState>,
    task: tokio::task::JoinHandle<()>,
}

impl EngineLink {
    /// Starts the task. It talks to the engine at `socket` once there is a wish.
    #[must_use]
    pub fn start(socket: PathBuf) -> Self {
        let (wish, wishes) = watch::channel(None);
        let (sender, state) = watch::channel(SyncState::default());
        let task = tokio::spawn(Keeper { socket, wishes, state: sender }.run());
        Self { wish, state, task }
    }

    /// Makes `objects` the wish: everything the engine should know.
    #[must_use = "nothing is in force before the revision is acknowledged"]
    pub fn publish(&self, objects: impl Into<Objects>) -> Revision {
        let objects = Arc::new(objects.into());
        let mut revision = Revision::default();
        self.wish.send_modify(|wish| {
            revision = Revision(wish.as_ref().map_or(0, |wish| wish.revision.0) + 1);
            *wish = Some(Wish { revision, objects });
        });
        revision
    }

    /// The newest wish, if there is one yet.
    #[must_use]
    pub fn desired(&self) -> Option<Revision> {
        self.wish.borrow().as_ref().map(|wish| wish.revision)
    }

    /// How things stand.
    #[must_use]
    pub fn state(&self) -> SyncState {
        self.state.borrow().clone()
    }

    /// Waits until the engine is connected.
    ///
    /// # Errors
    ///
    /// Fails if it is not within `limit`.
    pub async fn wait_connected(&self, limit: Duration) -> Result<(), WaitError> {
        self.wait_until(limit, |state| state.engine.is_some().then_some(Ok(()))).await
    }

    /// Waits until every worker of the engine is at or past `revision`.
    ///
    /// # Errors
    ///
    /// Fails if that has not come to pass within `limit`, or the engine refuses it.
    pub async fn wait(&self, revision: Revision, limit: Duration) -> Result<(), WaitError> {
        self.wait_until(limit, |state| {
            if state.acknowledged >= Some(revision) {
                return Some(Ok(()));
            }
            let is_refused = state.refused >= Some(revision);
            let trouble = state.trouble.clone().filter(|_| is_refused)?;
            Some(Err(WaitError::Refused(trouble)))
        })
        .await
    }

    async fn wait_until(
        &self,
        limit: Duration,
        done: impl Fn(&SyncState) -> Option<Result<(), WaitError>>,
    ) -> Result<(), WaitError> {
        let mut state = self.state.clone();
        let deadline = Instant::now() + limit;
        loop {
            if let Some(result) = done(&state.borrow_and_update()) {
                return result;
            }
            let is_over = !matches!(timeout_at(deadline, state.changed()).await, Ok(Ok(())));
            if is_over {
                let reason = state.borrow().trouble.clone();
                return Err(WaitError::Timeout { seconds: limit.as_secs(), reason });
            }
        }
    }
}

impl Drop for EngineLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task's side.
struct Keeper {
    socket: PathBuf,
    wishes: watch::Receiver<Option<Wish>>,
    state: watch::Sender<SyncState>,
}

impl Keeper {
    async fn run(mut self) {
        let mut backoff = BACKOFF_MIN;
        // The sender lives in the handle: when it is gone, there is nobody to serve.
        while self.wishes.wait_for(Option::is_some).await.is_ok() {
            let before = self.state.borrow().batches;
            let trouble = self.serve().await;
            tracing::warn!(%trouble, "out of step with the engine; trying again");
            self.state.send_modify(|state| {
                state.engine = None;
                state.trouble = Some(trouble);
            });
            let made_progress = self.state.borrow().batches > before;
            backoff = if made_progress { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
            tokio::time::sleep(backoff).await;
        }
    }

    /// Serves one connection until it fails.
    async fn serve(&mut self) -> Trouble {
        let mut session = match Session::connect(&self.socket).await {
            Ok(session) => session,
            Err(error) => return error.into_trouble(),
        };
        tracing::info!(
            instance = session.connection.instance_id,
            version = session.connection.engine_version,
            "connected to the engine"
        );
        self.state.send_modify(|state| {
            state.engine = Some(session.connection.clone());
            state.acknowledged = None;
            state.generation = session.generation;
        });
        loop {
            let Some(wish) = self.wishes.borrow_and_update().clone() else {
                return Trouble::Broken { message: "there is nothing to send".to_owned() };
            };
            match session.apply(&wish.objects).await {
                Ok(port_errors) => self.acknowledge(&wish, session.generation, port_errors),
                Err(error) => {
                    let trouble = error.into_trouble();
                    if matches!(trouble, Trouble::Refused { .. }) {
                        self.refuse(&wish, &trouble);
                    }
                    return trouble;
                }
            }
            // At rest: until there is a new wish, make sure that the engine still lives.
            loop {
                match tokio::time::timeout(HEARTBEAT, self.wishes.changed()).await {
                    Ok(Ok(())) => break,
                    Ok(Err(_)) => {
                        return Trouble::Broken { message: "control is stopping".to_owned() };
                    }
                    Err(_) => {
                        if let Err(error) = self.look_after(&mut session).await {
                            return error.into_trouble();
                        }
                    }
                }
            }
        }
    }

    /// Asks whether the engine still lives, and whether its closed ports have come up.
    async fn look_after(&self, session: &mut Session) -> Result<(), SessionError> {
        session.heartbeat().await?;
        if !self.state.borrow().port_errors.is_empty() {
            let errors = session.port_errors().await?;
            self.state.send_modify(|state| state.port_errors = by_port(errors));
        }
        Ok(())
    }

    fn refuse(&self, wish: &Wish, trouble: &Trouble) {
        self.state.send_modify(|state| {
            state.refused = Some(wish.revision);
            state.trouble = Some(trouble.clone());
        });
    }

    fn acknowledge(&self, wish: &Wish, generation: u64, port_errors: Option<Vec<PortError>>) {
        self.state.send_modify(|state| {
            state.acknowledged = Some(wish.revision);
            state.generation = generation;
            state.trouble = None;
            state.refused = None;
            // No answer: nothing had to be sent, and nothing is known to have changed.
            if let Some(port_errors) = port_errors {
                state.batches += 1;
                state.port_errors = by_port(port_errors);
            }
        });
    }
}

/// The state outlives its error, so its text has all of it: the error and what caused it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Whether a call failed for the connection's sake, not for what was asked.
fn is_broken(status: &tonic::Status) -> bool {
    use tonic::Code;
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown)
}

fn by_port(errors: Vec<PortError>) -> BTreeMap<String, String> {
    errors.into_iter().map(|error| (error.port, error.message)).collect()
}

impl SessionError {
    fn into_trouble(self) -> Trouble {
        match self {
            Self::Connect(error) => Trouble::Connect(Arc::new(error)),
            Self::Handshake(HandshakeError::Refused(status)) if is_broken(&status) => {
                Trouble::Broken { message: status.message().to_owned() }
            }
            Self::Handshake(error) => Trouble::Handshake(Arc::new(error)),
            Self::Status(status) => match status.code() {
                code @ (tonic::Code::InvalidArgument
                | tonic::Code::FailedPrecondition
                | tonic::Code::NotFound
                | tonic::Code::AlreadyExists
                | tonic::Code::ResourceExhausted) => {
                    Trouble::Refused { code, message: status.message().to_owned() }
                }
                _ => Trouble::Broken { message: status.message().to_owned() },
            },
            Self::Silent { seconds } => Trouble::Silent { seconds },
            Self::Restarted => Trouble::Broken { message: "the engine restarted".to_owned() },
        }
    }
}
