//! The parts of the running control process, and how they are put together.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use rtnetlink::Handle;

use crate::{
    cluster::Node,
    compile::{Backend, Dataplane, overhead_bytes},
    config::Config,
    desired::Desired,
    foreign::ForeignPod,
    host_port,
    ipam::AddressPlan,
    link::{self, NetlinkError},
    locks::Locks,
    metrics::Metrics,
    store::{Store, StoreError},
    sync::EngineLink,
};

/// Everything that a verb, a change of the cluster or the operator's question needs.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) config: Config,
    /// As it was measured last. Each ADD and each look at the source write, everybody reads.
    uplink_mtu_bytes: AtomicU32,
    pub(crate) netlink: Handle,
    pub(crate) store: Arc<Store>,
    pub(crate) desired: Desired,
    pub(crate) locks: Locks,
    pub(crate) metrics: Metrics,
    /// What is wrong, by topic. Each topic has one writer; the status and the metrics read.
    problems: Mutex<BTreeMap<Topic, Vec<String>>>,
    /// Whether all files could be read the last time. The watcher writes, the status reads.
    is_source_in_sync: AtomicBool,
    /// The pods of other plugins. The reconciler writes, IPAM and the status read.
    foreign: Mutex<Vec<ForeignPod>>,
}

/// What a problem is about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Topic {
    /// The cluster's objects.
    Source,
    /// The uplink.
    Uplink,
    /// The node's own way to its pods.
    HostPort,
    /// What was there at the start, or should not be there.
    Leftovers,
}

/// Why control cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum StartError {
    #[error("there is no interface {interface}: set control.uplink to the one toward the nodes")]
    NoUplink { interface: String },

    #[error("the uplink {interface} has an MTU of {mtu_bytes}: pods would get less than 1280")]
    UplinkMtu { interface: String, mtu_bytes: u32 },

    #[error("cannot talk to the kernel")]
    Netlink(#[source] std::io::Error),

    #[error(transparent)]
    Kernel(#[from] NetlinkError),

    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Daemon {
    /// Opens what there is to open. Nothing is sent to the engine, nothing changed in the kernel.
    ///
    /// # Errors
    ///
    /// Fails if the database, the kernel or the uplink is not as it must be.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let netlink = connect_netlink()?;
        let uplink_mtu_bytes = uplink_mtu_bytes(&netlink, &config.uplink).await?;
        let store = Arc::new(Store::open(&config.state_dir)?);
        let engine = EngineLink::start(config.engine_socket.clone());
        let dataplane = dataplane(&config);
        let desired = Desired::new(config.node_name.clone(), dataplane, config.pod_queues, engine);
        Ok(Self {
            config,
            uplink_mtu_bytes: uplink_mtu_bytes.into(),
            netlink,
            store,
            desired,
            locks: Locks::default(),
            metrics: Metrics::default(),
            problems: Mutex::default(),
            is_source_in_sync: AtomicBool::new(false),
            foreign: Mutex::default(),
        })
    }

    /// The MTU of a new pod's interface, in bytes: measured, unless the configuration says.
    #[must_use]
    pub fn pod_mtu_bytes(&self, node: &Node) -> u32 {
        // It orders nothing: it is a number that somebody has read from the kernel.
        let uplink = self.uplink_mtu_bytes.load(Ordering::Relaxed);
        self.config.pod_mtu_bytes.unwrap_or(uplink.saturating_sub(overhead_bytes(node)))
    }

    /// Measures the uplink's MTU anew. If it cannot be used, the last one that could stays.
    ///
    /// # Errors
    ///
    /// Fails if the uplink has gone, or its MTU is too small now.
    pub(crate) async fn measure_uplink(&self) -> Result<(), StartError> {
        let measured = uplink_mtu_bytes(&self.netlink, &self.config.uplink).await?;
        let before = self.uplink_mtu_bytes.swap(measured, Ordering::Relaxed);
        if before != measured {
            tracing::info!(before, measured, "the uplink has another MTU: new pods follow it");
        }
        Ok(())
    }

    /// What the addresses of this node are for.
    #[must_use]
    pub fn address_plan(&self) -> AddressPlan {
        let cluster = self.desired.cluster().unwrap_or_default();
        let mut plan = AddressPlan::new(&cluster, &self.config.node_name);
        plan.foreign = self.foreign().into_iter().flat_map(|pod| pod.addresses).collect();
        plan
    }

    /// Runs a piece of work on the database, which may wait for the disk.
    pub(crate) async fn with_store<T: Send + 'static, E: From<StoreError> + Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|_| Err(StoreError::Interrupted.into()))
    }

    /// What is wrong, as sentences for the operator.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        problems.values().flatten().cloned().collect()
    }

    pub(crate) fn set_problems(&self, topic: Topic, problems: Vec<String>) {
        let mut all = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.remove(&topic).unwrap_or_default();
        for problem in problems.iter().filter(|problem| !before.contains(problem)) {
            tracing::warn!("{problem}");
        }
        all.insert(topic, problems);
    }

    pub(crate) fn set_source_state(&self, is_in_sync: bool, problems: Vec<String>) {
        self.is_source_in_sync.store(is_in_sync, Ordering::Relaxed);
        self.set_problems(Topic::Source, problems);
    }

    /// Whether all of the source could be read the last time.
    #[must_use]
    pub fn is_source_in_sync(&self) -> bool {
        // It orders nothing: who reads it does not read what it is about.
        self.is_source_in_sync.load(Ordering::Relaxed)
    }

    /// The pods that another plugin made.
    #[must_use]
    pub fn foreign(&self) -> Vec<ForeignPod> {
        self.foreign.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_foreign(&self, pods: Vec<ForeignPod>) {
        *self.foreign.lock().unwrap_or_else(PoisonError::into_inner) = pods;
    }

    /// The engine's socket.
    #[must_use]
    pub fn engine_socket(&self) -> &Path {
        &self.config.engine_socket
    }
}

/// Room for the smallest IPv6 packet (RFC 8200 section 5) in the larger encapsulation.
const MTU_BYTES_MIN: u32 = 1280 + crate::compile::IPV6_OVERHEAD_BYTES;

/// A netlink connection in the namespace of the calling thread, served by the runtime.
pub(crate) fn connect_netlink() -> Result<Handle, StartError> {
    let (connection, netlink, _) = rtnetlink::new_connection().map_err(StartError::Netlink)?;
    tokio::spawn(connection);
    Ok(netlink)
}

async fn uplink_mtu_bytes(netlink: &Handle, uplink: &str) -> Result<u32, StartError> {
    let interface = uplink.to_owned();
    match link::find(netlink, uplink).await? {
        None => Err(StartError::NoUplink { interface }),
        Some(link) if link.mtu_bytes < MTU_BYTES_MIN => {
            Err(StartError::UplinkMtu { interface, mtu_bytes: link.mtu_bytes })
        }
        Some(link) => Ok(link.mtu_bytes),
    }
}

fn dataplane(config: &Config) -> Dataplane {
    Dataplane {
        vxlan: config.vxlan.clone(),
        uplink: Backend::AfXdp {
            interface: config.uplink.clone(),
            queues: config.uplink_queues,
            mode: config.uplink_mode,
            // What comes from a wire has whole checksums, right or wrong.
            partial_checksums: false,
        },
        uplink_mtu_bytes: 0,
        host: host_port::backend(config.host_port_type),
        host_mtu_bytes: 0,
    }
}
