//! One verb at a time for each attachment; different ones run side by side.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as StdMutex, PoisonError, Weak},
};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::attachment::AttachmentKey;

/// A lock for each attachment that somebody works on.
#[derive(Debug, Default)]
pub struct Locks(StdMutex<HashMap<AttachmentKey, Weak<Mutex<()>>>>);

impl Locks {
    /// Waits for the attachment's lock.
    pub async fn lock(&self, key: &AttachmentKey) -> OwnedMutexGuard<()> {
        self.of(key).lock_owned().await
    }

    /// Takes the attachment's lock if nobody has it.
    #[must_use]
    pub fn try_lock(&self, key: &AttachmentKey) -> Option<OwnedMutexGuard<()>> {
        self.of(key).try_lock_owned().ok()
    }

    fn of(&self, key: &AttachmentKey) -> Arc<Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let known = locks.get(key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lock = Arc::new(Mutex::new(()));
            locks.insert(key.clone(), Arc::downgrade(&lock));
            lock
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_is_held_for_one_attachment_alone_and_forgotten_after() {
        let locks = Locks::default();
        let key = |id: &str| AttachmentKey { container_id: id.into(), ifname: "eth0".into() };
        let first = locks.lock(&key("a")).await;
        let _other = locks.lock(&key("b")).await;
        assert!(futures::poll!(std::pin::pin!(locks.lock(&key("a")))).is_pending());
        assert!(locks.try_lock(&key("a")).is_none());
        drop(first);
        let _again = locks.lock(&key("a")).await;
        assert_eq!(locks.0.lock().unwrap().len(), 2);
    }
}
