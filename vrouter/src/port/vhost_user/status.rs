//! What a session says about itself to the main thread: a sentence for the operator's view, and
//! what is worth a line in the log.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Between two notices of one port at least: a frontend that comes back at once and breaks the
/// rules again fills no log.
const NOTICE_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// Written by the session, read by the main thread.
#[derive(Debug, Default)]
pub(super) struct Status(Mutex<Words>);

#[derive(Debug, Default)]
struct Words {
    detail: String,
    notice: Option<String>,
    /// When a notice was last taken.
    told: Option<Instant>,
    /// Notices that another one replaced before they were told.
    untold: u32,
}

impl Status {
    /// The state of things, in one sentence.
    pub(super) fn detail(&self) -> String {
        self.lock().detail.clone()
    }

    /// Says what the state of things is now.
    pub(super) fn set_detail(&self, detail: String) {
        self.lock().detail = detail;
    }

    /// Says that something happened which the operator should know.
    pub(super) fn note(&self, notice: String) {
        let mut words = self.lock();
        if words.notice.replace(notice).is_some() {
            words.untold = words.untold.saturating_add(1);
        }
    }

    /// What happened since the last time, if it is time to tell.
    pub(super) fn take_notice(&self, now: Instant) -> Option<String> {
        // Somebody is writing: another time.
        let mut words = self.0.try_lock().ok()?;
        words.notice.as_ref()?;
        if words.told.is_some_and(|told| now < told + NOTICE_INTERVAL_MIN) {
            return None;
        }
        words.told = Some(now);
        let notice = words.notice.take();
        match mem::take(&mut words.untold) {
            0 => notice,
            more => notice.map(|notice| format!("{notice} (and {more} more before)")),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Words> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_told_at_a_bounded_rate() {
        let (status, now) = (Status::default(), Instant::now());
        assert_eq!(status.take_notice(now), None);
        status.note("first".into());
        assert_eq!(status.take_notice(now).as_deref(), Some("first"));
        for _ in 0..3 {
            status.note("again".into());
        }
        assert_eq!(status.take_notice(now), None);
        let later = now + NOTICE_INTERVAL_MIN;
        assert_eq!(status.take_notice(later).as_deref(), Some("again (and 2 more before)"));
        assert_eq!(status.take_notice(later + NOTICE_INTERVAL_MIN), None);
    }
}
