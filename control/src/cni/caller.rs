//! The plugin that waits for the answer to a verb, as the work on that verb sees it.
//!
//! A plugin that is killed, or gives up, ends its connection. An ADD is then worth nothing: the
//! runtime was told that it failed, or nobody was told anything.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// Held while somebody would hear the answer, and dropped with the connection.
#[derive(Debug)]
pub(crate) struct Presence(
    #[expect(dead_code, reason = "its end is the message")] watch::Sender<()>,
);

/// Whether the plugin still waits, and there is time left.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    presence: watch::Receiver<()>,
    deadline: Instant,
    limit: Duration,
}

/// Why a verb was abandoned.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum AbandonError {
    #[error("the plugin was stopped, or gave up, before the answer")]
    HungUp,

    #[error(
        "not done within {seconds} s: the log of vrouter-control says what it waited for; see \
         `vrctl status`"
    )]
    TimeUp { seconds: u64 },
}

impl Caller {
    /// A caller who waits for `limit` at most, unless the other half is dropped before.
    pub(crate) fn new(limit: Duration) -> (Presence, Self) {
        let (sender, presence) = watch::channel(());
        (Presence(sender), Self { presence, deadline: Instant::now() + limit, limit })
    }

    /// Does `work` as long as it is waited for. Work that is cut off stays half done.
    ///
    /// # Errors
    ///
    /// Fails once nobody waits any more, or the time is up.
    pub(crate) async fn wait_for<T>(
        &self,
        work: impl Future<Output = T>,
    ) -> Result<T, AbandonError> {
        let mut presence = self.presence.clone();
        // Nothing is ever sent: it ends with an error when the other half is dropped.
        let hung_up = async { while presence.changed().await.is_ok() {} };
        let until_hung_up = async {
            tokio::select! {
                biased;
                done = work => Ok(done),
                () = hung_up => Err(AbandonError::HungUp),
            }
        };
        timeout_at(self.deadline, until_hung_up).await.unwrap_or_else(|_| Err(self.time_up()))
    }

    /// Whether the work is still worth going on with.
    ///
    /// # Errors
    ///
    /// As [`Caller::wait_for`].
    pub(crate) fn check(&self) -> Result<(), AbandonError> {
        if self.presence.has_changed().is_err() {
            return Err(AbandonError::HungUp);
        }
        if Instant::now() >= self.deadline { Err(self.time_up()) } else { Ok(()) }
    }

    fn time_up(&self) -> AbandonError {
        AbandonError::TimeUp { seconds: self.limit.as_secs() }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn work_is_cut_off_when_the_caller_goes() {
        let (presence, caller) = Caller::new(Duration::from_mins(1));
        assert_eq!(caller.wait_for(ready(7)).await, Ok(7));
        assert_eq!(caller.check(), Ok(()));
        let (waited, ()) = tokio::join!(caller.wait_for(pending::<()>()), async { drop(presence) });
        assert_eq!(waited, Err(AbandonError::HungUp));
        assert_eq!(caller.check(), Err(AbandonError::HungUp));
    }

    #[tokio::test]
    async fn work_is_cut_off_when_the_time_is_up() {
        let (_presence, caller) = Caller::new(Duration::ZERO);
        let time_up = AbandonError::TimeUp { seconds: 0 };
        assert_eq!(caller.wait_for(pending::<()>()).await, Err(time_up));
        assert_eq!(caller.check(), Err(time_up));
        assert_eq!(caller.wait_for(ready(7)).await, Ok(7), "what is done is done");
    }
}
