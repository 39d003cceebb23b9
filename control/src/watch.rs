//! Follows the folder of manifests and puts what it says in force.
//!
//! Changes are announced by inotify and acted upon after a moment's rest, since an editor writes a
//! file in several steps. Every few seconds the folder is read anyway: some file systems announce
//! nothing, and a folder that did not exist cannot be watched.

use std::{path::Path, sync::Arc, time::Duration};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use crate::{
    cluster::Cluster,
    compile::{CompileError, unreachable_peers},
    daemon::{Daemon, Topic},
    host_port,
    last_good::LastGood,
    manifests::{Folder, ManifestError},
};

/// How long a folder must be at rest before it is read.
const REST: Duration = Duration::from_millis(100);

/// How long a restless folder is waited for at most.
const REST_MAX: Duration = Duration::from_secs(1);

/// How often the folder is read without being told.
const RESCAN: Duration = Duration::from_secs(5);

/// How often leftovers are looked for.
const SWEEP: Duration = Duration::from_secs(30);

/// The source of the cluster, and what was read from it.
#[derive(Debug)]
pub struct Source {
    folder: Folder,
    last_good: LastGood,
    /// The folder's revision that was put in force last.
    in_force: Option<u64>,
    /// The cluster of that revision, and what of it is refused.
    cluster: Arc<Cluster>,
    refused: Vec<String>,
}

impl Source {
    /// The folder that the configuration names, with what a predecessor read from it.
    #[must_use]
    pub fn new(manifests: &Path, state_dir: &Path) -> Self {
        let last_good = LastGood::new(state_dir);
        let mut folder = Folder::new(manifests);
        last_good.restore(&mut folder);
        Self { folder, last_good, in_force: None, cluster: Arc::default(), refused: Vec::new() }
    }
}

impl Daemon {
    /// Reads the source and puts it in force, as far as it has changed.
    ///
    /// # Errors
    ///
    /// Fails if the cluster has no usable Node object for this node: what was in force stays.
    pub async fn reload(&self, source: &mut Source) -> Result<(), CompileError> {
        let errors = tokio::task::block_in_place(|| source.folder.reload());
        let is_in_sync =
            errors.iter().all(|error| matches!(error, ManifestError::UnknownKind { .. }));
        let mut problems: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let revision = source.folder.revision();
        let is_new = source.in_force != Some(revision) || self.desired.trouble().is_some();
        if is_new {
            source.last_good.save(&source.folder);
            let (cluster, refusals) = source.folder.cluster();
            source.refused = refusals.iter().map(ToString::to_string).collect();
            let unreachable = unreachable_peers(&cluster, &self.config.node_name);
            source.refused.extend(unreachable.iter().map(ToString::to_string));
            source.cluster = Arc::new(cluster);
        }
        problems.extend(source.refused.iter().cloned());
        self.set_source_state(is_in_sync, problems);
        let problem = self.measure_uplink().await.err();
        self.set_problems(Topic::Uplink, problem.iter().map(ToString::to_string).collect());
        if is_new {
            let cluster = &source.cluster;
            tracing::info!(nodes = cluster.nodes.len(), pods = cluster.pods.len(), "new cluster");
            let published = self.desired.set_cluster(Arc::clone(cluster))?;
            tracing::debug!(revision = ?published, "published");
            source.in_force = Some(revision);
        }
        self.sync_host_port().await;
        Ok(())
    }

    /// Brings the node's own way to the pods in step with the cluster in force.
    async fn sync_host_port(&self) {
        let (Some(cluster), Ok(node)) = (self.desired.cluster(), self.desired.this_node()) else {
            return;
        };
        let mtu_bytes = self.pod_mtu_bytes(&node);
        let port_type = self.config.host_port_type;
        let errors = host_port::sync(&self.netlink, &cluster, &node, mtu_bytes, port_type).await;
        self.set_problems(Topic::HostPort, errors.iter().map(ToString::to_string).collect());
    }

    /// Follows the source, and looks for leftovers now and then, for as long as the process lives.
    pub async fn follow(&self, source: Source) {
        tokio::join!(self.follow_source(source), self.sweep_now_and_then());
    }

    async fn follow_source(&self, mut source: Source) {
        let mut watch = Watch::start(source.folder.path());
        loop {
            let was_told = watch.changed().await;
            if let Err(error) = self.reload(&mut source).await {
                tracing::debug!(%error, "the last state stays in force");
            }
            if !was_told && !watch.is_alive() {
                watch = Watch::start(source.folder.path());
            }
        }
    }

    /// Keeps its own time: however restless the folder is, leftovers go.
    async fn sweep_now_and_then(&self) {
        let mut ticks = interval_at(Instant::now() + SWEEP, SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "cannot look for leftovers");
            }
        }
    }
}

/// A folder being watched, as far as it can be.
struct Watch {
    events: mpsc::Receiver<()>,
    watcher: Option<RecommendedWatcher>,
}

impl Watch {
    fn start(path: &Path) -> Self {
        // One event waiting says as much as many.
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, is_change) {
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher.and_then(|mut watcher| {
            watcher.watch(path, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::debug!(%error, "the folder cannot be watched; it is read now and then");
        }
        Self { events, watcher: watcher.ok() }
    }

    fn is_alive(&self) -> bool {
        self.watcher.is_some()
    }

    /// Waits for a change and the rest after it, or until it is time to look anyway. Tells which.
    async fn changed(&mut self) -> bool {
        let told = async {
            if self.events.recv().await.is_none() {
                // No watcher: only time passes.
                std::future::pending::<()>().await;
            }
        };
        if timeout(RESCAN, told).await.is_err() {
            return false;
        }
        let rest = async { while let Ok(Some(())) = timeout(REST, self.events.recv()).await {} };
        // Restless or not, by then it is read.
        let _ = timeout(REST_MAX, rest).await;
        true
    }
}

/// Whether an event may be of a change. Our own reading is announced too: listened to, each reading
/// would lead to the next.
fn is_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn reading_the_folder_is_no_change_and_writing_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, "").unwrap();
        let mut watch = Watch::start(folder.path());
        assert!(watch.is_alive());
        fs::read_dir(folder.path()).unwrap().for_each(drop);
        fs::read(&file).unwrap();
        // What was read is announced, if at all, long before it is time to look anyway.
        assert!(!watch.changed().await);
        fs::write(&file, "x").unwrap();
        assert!(watch.changed().await);
    }
}
