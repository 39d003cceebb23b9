//! What the engine should know at this moment: the cluster and the attachments, compiled.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use control_api::engine::af_xdp_backend::Mode;

use crate::{
    attachment::{Attachment, AttachmentKey, Means},
    cluster::{Cluster, Node},
    compile::{Backend, CompileError, Dataplane, GuestPort, compile, find, find_usable},
    names::NodeName,
    node_policy::NodePolicy,
    policy::PolicyProblem,
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

#[derive(Debug)]
struct Inputs {
    /// The last cluster that could be compiled for this node.
    cluster: Option<Arc<Cluster>>,
    /// The attachments whose ports are to be open.
    attachments: BTreeMap<AttachmentKey, Attachment>,
    /// Why the newest cluster is not in force.
    trouble: Option<CompileError>,
    /// What becomes of the two.
    policy: NodePolicy,
}

/// How policy stands on this node.
#[derive(Clone, Debug, Default)]
pub struct PolicyState {
    /// Policies of the cluster.
    pub policies: usize,
    /// Ports whose pods a policy isolates from what comes to them.
    pub ports_isolated_ingress: usize,
    /// Ports whose pods a policy isolates in what they begin.
    pub ports_isolated_egress: usize,
    /// What of the policies is not in force, and why.
    pub problems: Vec<PolicyProblem>,
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
        let inputs = Inputs {
            cluster: None,
            attachments: BTreeMap::new(),
            trouble: None,
            policy: NodePolicy::new(node.clone()),
        };
        Self { node, dataplane, pod_queues, engine, inputs: Mutex::new(inputs) }
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

    /// How policy stands.
    #[must_use]
    pub fn policy_state(&self) -> PolicyState {
        let Inputs { cluster, attachments, policy, .. } = &*self.lock();
        let mut state = PolicyState {
            policies: cluster.as_ref().map_or(0, |cluster| cluster.policies.len()),
            problems: policy.problems(),
            ..PolicyState::default()
        };
        for attachment in attachments.values() {
            let assignment = policy.assignment(&attachment.pod);
            state.ports_isolated_ingress += usize::from(assignment.ingress != 0);
            state.ports_isolated_egress += usize::from(assignment.egress != 0);
        }
        state
    }

    /// Puts a cluster in force.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be compiled for this node: the last one stays in force.
    pub fn set_cluster(&self, cluster: Arc<Cluster>) -> Result<Revision, CompileError> {
        let inputs = &mut *self.lock();
        inputs.trouble = find_usable(&cluster, &self.node).err();
        if let Some(trouble) = &inputs.trouble {
            return Err(trouble.clone());
        }
        inputs.cluster = Some(cluster);
        self.publish(inputs)
    }

    /// Desires the port of an attachment, with the policy of its pod.
    ///
    /// # Errors
    ///
    /// Fails, and changes nothing, if there is no cluster in force.
    pub fn open(&self, attachment: &Attachment) -> Result<Revision, CompileError> {
        let inputs = &mut *self.lock();
        inputs.attachments.insert(attachment.key.clone(), attachment.clone());
        let published = self.publish(inputs);
        if published.is_err() {
            inputs.attachments.remove(&attachment.key);
        }
        published
    }

    /// Desires the port of an attachment no more. `None` if nothing has to be sent.
    pub fn close(&self, key: &AttachmentKey) -> Option<Revision> {
        let inputs = &mut *self.lock();
        inputs.attachments.remove(key)?;
        // Without a cluster nothing was ever sent, and so nothing has to be taken back.
        self.publish(inputs).ok()
    }

    /// Wishes for what the inputs come to: everything at once, so that the engine never has a port
    /// without its policy.
    fn publish(&self, inputs: &mut Inputs) -> Result<Revision, CompileError> {
        let Inputs { cluster, attachments, policy, .. } = inputs;
        let empty = Arc::default();
        let cluster = cluster.as_ref().unwrap_or(&empty);
        find_usable(cluster, &self.node)?;
        policy.follow(cluster, attachments);
        let guest = |attachment| self.guest(attachment, policy);
        let guests: Vec<_> = attachments.values().filter_map(guest).collect();
        let objects = compile(cluster, &self.node, &self.dataplane, &guests)?;
        Ok(self.engine.publish(objects.with(policy.objects())))
    }

    /// The port of an attachment; none before it has addresses.
    fn guest(&self, attachment: &Attachment, policy: &NodePolicy) -> Option<GuestPort> {
        Some(GuestPort {
            name: attachment.port(),
            addresses: attachment.addresses.clone(),
            mac: attachment.mac?,
            mtu_bytes: attachment.mtu_bytes,
            backend: self.backend(attachment),
            description: format!("container {}", attachment.key),
            policy: policy.assignment(&attachment.pod),
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
