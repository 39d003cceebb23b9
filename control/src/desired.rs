//! What the engine should know at this moment: the cluster and the attachments, compiled.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use control_api::engine::{Object, af_xdp_backend::Mode};

use crate::{
    attachment::{Attachment, AttachmentKey, Means},
    cluster::{Cluster, Node},
    compile::{Backend, CompileError, Dataplane, GuestPort, compile, find},
    names::NodeName,
    sync::{EngineLink, Revision},
    vhost_socket::SOCKET_MODE,
};

/// Queues of a pod's veth pair unless the configuration says: each costs packet memory and an
/// AF_XDP socket.
pub const VETH_QUEUES: u32 = 1;

/// The inputs of the compiler, and the link to the engine that its result goes to.
#[derive(Debug)]
pub struct Desired {
    node: NodeName,
    dataplane: Dataplane,
    pod_queues: Option<u32>,
    engine: EngineLink,
    inputs: Mutex<Inputs>,
}

#[derive(Debug, Default)]
struct Inputs {
    /// The last cluster that could be compiled for this node.
    cluster: Option<Arc<Cluster>>,
    /// The attachments whose ports are to be open.
    attachments: BTreeMap<AttachmentKey, Attachment>,
    /// Why the newest cluster is not in force.
    trouble: Option<CompileError>,
}

impl Desired {
    /// Nothing is desired yet, and nothing is sent.
    #[must_use]
    pub fn new(
        node: NodeName,
        dataplane: Dataplane,
        pod_queues: Option<u32>,
        engine: EngineLink,
    ) -> Self {
        Self { node, dataplane, pod_queues, engine, inputs: Mutex::default() }
    }

    /// The link to the engine.
    #[must_use]
    pub fn engine(&self) -> &EngineLink {
        &self.engine
    }

    /// The cluster in force.
    #[must_use]
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.lock().cluster.clone()
    }

    /// This node's object in force.
    ///
    /// # Errors
    ///
    /// Fails if there is none, and says why.
    pub fn this_node(&self) -> Result<Node, CompileError> {
        let inputs = self.lock();
        match (&inputs.cluster, &inputs.trouble) {
            (Some(cluster), _) => find(cluster, &self.node).cloned(),
            (None, Some(trouble)) => Err(trouble.clone()),
            (None, None) => find(&Cluster::default(), &self.node).cloned(),
        }
    }

    /// Why the newest cluster is not in force, if it is not.
    #[must_use]
    pub fn trouble(&self) -> Option<CompileError> {
        self.lock().trouble.clone()
    }

    /// Takes over attachments that were there before this process. They are sent with the cluster.
    pub fn adopt(&self, attachments: impl IntoIterator<Item = Attachment>) {
        let attachments = attachments.into_iter().map(|found| (found.key.clone(), found));
        self.lock().attachments.extend(attachments);
    }

    /// Puts a cluster in force.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be compiled for this node: the last one stays in force.
    pub fn set_cluster(&self, cluster: Arc<Cluster>) -> Result<Revision, CompileError> {
        let mut inputs = self.lock();
        let compiled = self.compile(&cluster, &inputs.attachments);
        inputs.trouble = compiled.as_ref().err().cloned();
        let objects = compiled?;
        inputs.cluster = Some(cluster);
        Ok(self.engine.publish(objects))
    }

    /// Desires the port of an attachment.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if there is no cluster in force.
    pub fn open(&self, attachment: &Attachment) -> Result<Revision, CompileError> {
        let mut inputs = self.lock();
        inputs.attachments.insert(attachment.key.clone(), attachment.clone());
        let published = self.publish(&inputs);
        if published.is_err() {
            inputs.attachments.remove(&attachment.key);
        }
        published
    }

    /// Desires the port of an attachment no more. `None` if nothing has to be sent.
    pub fn close(&self, key: &AttachmentKey) -> Option<Revision> {
        let mut inputs = self.lock();
        inputs.attachments.remove(key)?;
        // Without a cluster nothing was ever sent, and so nothing has to be taken back.
        self.publish(&inputs).ok()
    }

    fn publish(&self, inputs: &Inputs) -> Result<Revision, CompileError> {
        let empty = Arc::default();
        let cluster = inputs.cluster.as_ref().unwrap_or(&empty);
        let objects = self.compile(cluster, &inputs.attachments)?;
        Ok(self.engine.publish(objects))
    }

    fn compile(
        &self,
        cluster: &Cluster,
        attachments: &BTreeMap<AttachmentKey, Attachment>,
    ) -> Result<Vec<Object>, CompileError> {
        let guests: Vec<_> =
            attachments.values().filter_map(|attachment| self.guest(attachment)).collect();
        compile(cluster, &self.node, &self.dataplane, &guests)
    }

    /// The port of an attachment; none before it has addresses.
    fn guest(&self, attachment: &Attachment) -> Option<GuestPort> {
        Some(GuestPort {
            name: attachment.port(),
            addresses: attachment.addresses.clone(),
            mac: attachment.mac?,
            mtu_bytes: attachment.mtu_bytes,
            backend: self.backend(attachment),
            description: format!("container {}", attachment.key),
        })
    }

    fn backend(&self, attachment: &Attachment) -> Backend {
        match &attachment.means {
            Means::Veth => Backend::AfXdp {
                interface: attachment.host_interface.clone(),
                queues: self.pod_queues.unwrap_or(VETH_QUEUES),
                mode: Mode::Auto,
                // The pod's own stack leaves sums to its interface, which is no hardware.
                partial_checksums: true,
            },
            Means::Tap => Backend::Tap {
                interface: attachment.key.ifname.clone(),
                netns_path: attachment.netns.clone(),
                queues: self.pod_queues.unwrap_or(0),
            },
            Means::VhostUser(socket) => Backend::VhostUser {
                socket_path: socket.engine_path().display().to_string(),
                queue_pairs: self.pod_queues.unwrap_or(0),
                uid: socket.uid,
                gid: socket.gid,
                file_mode: SOCKET_MODE,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inputs> {
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
