//! How an attachment comes to be, and how it goes: the steps of ADD and DEL, in an order that a
//! crash between any two of them leaves nothing that the next start does not find.
//!
//! ```text
//! ADD: record + address → (IPAM plugin) → pair → up → pod's end → engine's port → acknowledged
//!      → ready
//! DEL: marked → engine's port closed → pair removed → (IPAM plugin) → record + address forgotten
//! ```
//!
//! Instead of a pair it may be a TAP device in the pod, or a folder where the engine makes a
//! vhost-user socket; then there is no pod's end.

use std::{net::IpAddr, path::Path, time::Duration};

use control_api::limits;

use crate::{
    attachment::{Attachment, AttachmentKey, Means, Phase},
    cluster::Node,
    cni::{
        Caller, CniError,
        delegate::{Call, DelegateError},
    },
    compile::gateways,
    daemon::Daemon,
    desired::VETH_QUEUES,
    fault,
    link::{self, End, NetlinkError, Stack},
    mac::MacAddress,
    netns::{NetnsError, NetworkNamespace},
    pod_network::PodNetwork,
    store::{BeginError, StoreError},
    tap::{self, Tap},
};

/// How long ADD waits for a connection to the engine: longer than a restart of it takes.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// An attachment that is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// As it will be recorded; its addresses are still to be chosen.
    pub attachment: Attachment,
    /// The addresses that the runtime asks for.
    pub addresses: Vec<IpAddr>,
}

/// An attachment that is made.
#[derive(Clone, Debug)]
pub struct Attached {
    /// As it is recorded.
    pub attachment: Attachment,
    /// The gateways that have become the container's default: at most one of each family.
    pub defaults: Vec<IpAddr>,
}

impl Daemon {
    /// Makes an attachment, up to the engine's acknowledgement. Undoes all if a step fails, or the
    /// caller has gone.
    ///
    /// The caller holds the attachment's lock.
    ///
    /// # Errors
    ///
    /// Fails if it exists, no address is left, the kernel or the engine refuses, or the engine is
    /// away.
    pub(crate) async fn attach(
        &self,
        wanted: Wanted,
        caller: &Caller,
    ) -> Result<Attached, CniError> {
        let netns = NetworkNamespace::open(Path::new(&wanted.attachment.netns))?;
        if netns.is_our_own()? {
            let reason = "it is the node's own namespace, which needs no attachment".to_owned();
            return Err(CniError::Environment { variable: "CNI_NETNS", reason });
        }
        let node = self.desired.this_node()?;
        caller.wait_for(self.desired.engine().wait_connected(CONNECT_WAIT)).await??;
        let attachment = self.begin(wanted, caller).await?;
        fault::place("add-recorded");
        let key = attachment.key.clone();
        match self.build(attachment, &netns, &node, caller).await {
            Ok(attached) => Ok(attached),
            Err(error) => {
                tracing::warn!(%key, %error, "undoing the attachment");
                if let Err(undo) = self.detach(&key).await {
                    tracing::error!(%key, error = %undo, "not undone; the next start tries again");
                }
                Err(error)
            }
        }
    }

    /// Records the attachment. What is left of an unfinished one in its way is removed first.
    async fn begin(&self, mut wanted: Wanted, caller: &Caller) -> Result<Attachment, CniError> {
        let plan = self.address_plan();
        if wanted.addresses.is_empty() && wanted.attachment.delegate.is_none() {
            // What its manifest promises, even if it is another node's: better refused than other.
            let cluster = self.desired.cluster().unwrap_or_default();
            let pod = cluster.pods.get(&wanted.attachment.pod);
            wanted.addresses = pod.map(|pod| pod.addresses.clone()).unwrap_or_default();
        }
        // Twice at most: the second time, what was in the way is gone.
        for _ in 0..2 {
            let (wanted, plan) = (wanted.clone(), plan.clone());
            let begun = self
                .with_store(move |store| store.begin(wanted.attachment, &wanted.addresses, &plan))
                .await;
            let in_the_way = match begun {
                Ok(attachment) => return Ok(attachment),
                Err(BeginError::Exists(key)) if self.is_unfinished(&key).await? => key,
                Err(BeginError::PortHeld { holder, .. }) if self.is_dead(&holder).await? => {
                    let removed = async {
                        let _lock = self.locks.lock(&holder).await;
                        self.detach(&holder).await
                    };
                    caller.wait_for(removed).await??;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            // If it is cut off, the next look around goes on with it.
            caller.wait_for(self.detach(&in_the_way)).await??;
        }
        Err(BeginError::Exists(wanted.attachment.key).into())
    }

    pub(crate) async fn record(
        &self,
        key: &AttachmentKey,
    ) -> Result<Option<Attachment>, StoreError> {
        let key = key.clone();
        self.with_store(move |store| store.attachment(&key)).await
    }

    async fn is_unfinished(&self, key: &AttachmentKey) -> Result<bool, StoreError> {
        Ok(self.record(key).await?.is_some_and(|found| found.phase != Phase::Ready))
    }

    /// Whether the container of an attachment has ended without a DEL.
    async fn is_dead(&self, key: &AttachmentKey) -> Result<bool, CniError> {
        let Some(found) = self.record(key).await? else { return Ok(false) };
        let netns = NetworkNamespace::open(Path::new(&found.netns));
        // The file that it was mounted on may outlive it.
        let is_gone = matches!(netns, Err(NetnsError::Gone { .. } | NetnsError::Foreign { .. }));
        // Only a pair has an end that outlives the namespace.
        let link = link::find(&self.netlink, &found.host_interface).await?;
        Ok(is_gone && (link.is_none() || found.phase == Phase::Ready))
    }

    async fn build(
        &self,
        mut attachment: Attachment,
        netns: &NetworkNamespace,
        node: &Node,
        caller: &Caller,
    ) -> Result<Attached, CniError> {
        if attachment.delegate.is_some() {
            attachment = self.ask_delegate(attachment, caller).await?;
        }
        fault::place("add-given");
        let defaults = match &attachment.means {
            Means::Veth => {
                self.make_pair(&attachment, netns).await?;
                configure(&attachment, netns, node).await?
            }
            Means::Tap => {
                self.make_tap(&attachment, netns).await?;
                configure(&attachment, netns, node).await?
            }
            Means::VhostUser(socket) => {
                socket.prepare()?;
                // Whoever serves the socket sets its own addresses and routes, by the result.
                pod_network(&attachment, node).used_gateways().collect()
            }
        };
        fault::place("add-configured");
        let revision = self.desired.open(&attachment)?;
        fault::place("add-published");
        let in_force = self.desired.engine().wait(revision, limits::ENGINE_OPEN);
        caller.wait_for(in_force).await??;
        let port = attachment.port();
        if let Some(message) = self.desired.engine().state().port_errors.get(&port) {
            return Err(CniError::Port { port, message: message.clone() });
        }
        fault::place("add-acknowledged");
        attachment.phase = Phase::Ready;
        let key = attachment.key.clone();
        self.with_store(move |store| store.set_phase(&key, Phase::Ready)).await?;
        fault::place("add-ready");
        // Whoever goes later than this has a runtime that calls DEL.
        caller.check()?;
        Ok(Attached { attachment, defaults })
    }

    /// Asks the IPAM plugin and records what it gives.
    async fn ask_delegate(
        &self,
        mut attachment: Attachment,
        caller: &Caller,
    ) -> Result<Attachment, CniError> {
        if let Some(delegate) = &attachment.delegate {
            let call = Call { delegate, key: Some(&attachment.key), netns: &attachment.netns };
            attachment.addresses = caller.wait_for(call.add()).await??;
        }
        fault::place("add-delegated");
        let derived = MacAddress::from_preferred(&attachment.addresses);
        attachment.mac = attachment.mac.or(derived);
        let given = attachment.clone();
        self.with_store(move |store| store.give(&given)).await?;
        Ok(attachment)
    }

    /// Makes the TAP device in the pod's namespace: there it is seen by nobody else.
    async fn make_tap(
        &self,
        attachment: &Attachment,
        netns: &NetworkNamespace,
    ) -> Result<(), CniError> {
        let (name, mac) = (attachment.key.ifname.clone(), attachment.mac);
        let mtu_bytes = attachment.mtu_bytes;
        let alias = attachment.alias(self.config.node_name.as_str());
        let made = netns
            .run(async move |handle| {
                let end = End { name: &name, mac, netns_fd: None, stack: Stack::Full };
                tap::make(&handle, &Tap { end, mtu_bytes, alias: &alias }).await
            })
            .await?;
        made.map_err(|error| exists_or(error, attachment))?;
        fault::place("add-paired");
        fault::place("add-up");
        Ok(())
    }

    async fn make_pair(
        &self,
        attachment: &Attachment,
        netns: &NetworkNamespace,
    ) -> Result<(), CniError> {
        let host = End {
            name: &attachment.host_interface,
            mac: None,
            netns_fd: None,
            stack: Stack::Silent,
        };
        let pod = End {
            name: &attachment.key.ifname,
            mac: attachment.mac,
            netns_fd: Some(netns.as_raw_fd()),
            stack: Stack::Full,
        };
        // The kernel's refusal does not say which of the two names is taken.
        if link::find(&self.netlink, host.name).await?.is_some() {
            return Err(CniError::HostInterfaceExists { interface: host.name.to_owned() });
        }
        let queues = self.config.pod_queues.unwrap_or(VETH_QUEUES);
        let made = link::make_pair(&self.netlink, [&host, &pod], attachment.mtu_bytes, queues);
        made.await.map_err(|error| exists_or(error, attachment))?;
        fault::place("add-paired");
        let alias = attachment.alias(self.config.node_name.as_str());
        link::bring_up(&self.netlink, &host, &alias).await?;
        fault::place("add-up");
        Ok(())
    }

    /// Removes an attachment with everything that belongs to it. Nothing happens if there is none.
    ///
    /// The caller holds the attachment's lock.
    ///
    /// # Errors
    ///
    /// Fails if the kernel, the database or the IPAM plugin does; the record stays then, and with
    /// it the wish to remove it.
    pub(crate) async fn detach(&self, key: &AttachmentKey) -> Result<(), CniError> {
        let attachment = match self.record(key).await {
            Ok(Some(attachment)) => attachment,
            Ok(None) => return Ok(()),
            Err(error @ StoreError::Record { .. }) => {
                tracing::warn!(%key, %error, "removing what its key tells");
                return self.detach_unreadable(key).await;
            }
            Err(error) => return Err(error.into()),
        };
        let owned = key.clone();
        self.with_store(move |store| store.set_phase(&owned, Phase::Deleting)).await?;
        fault::place("del-marked");
        if let Some(revision) = self.desired.close(key) {
            let engine = self.desired.engine();
            // An engine that is away is told by the next full sync: the pod need not wait for it.
            if engine.state().engine.is_some()
                && let Err(error) = engine.wait(revision, limits::ENGINE_CLOSE).await
            {
                tracing::warn!(%key, %error, "the engine has not let go of the port yet");
            }
        }
        fault::place("del-closed");
        match &attachment.means {
            Means::Veth => self.remove_interface(key, &attachment.host_interface).await?,
            Means::Tap => remove_tap(&attachment).await?,
            Means::VhostUser(socket) => socket.remove()?,
        }
        fault::place("del-removed");
        if let Some(delegate) = &attachment.delegate {
            let call = Call { delegate, key: Some(key), netns: &attachment.netns };
            match call.run("DEL").await {
                // A plugin that is not there cannot give back anything, now or later.
                Err(error @ DelegateError::NotFound { .. }) => tracing::warn!(%key, %error),
                result => drop(result?),
            }
        }
        fault::place("del-given-back");
        let owned = key.clone();
        self.with_store(move |store| store.remove(&owned)).await?;
        fault::place("del-forgotten");
        tracing::info!(%key, port = attachment.port(), "detached");
        Ok(())
    }
}

impl Daemon {
    /// Removes an attachment's interface; one of that name that is not the attachment's stays.
    async fn remove_interface(&self, key: &AttachmentKey, name: &str) -> Result<(), CniError> {
        let Some(found) = link::find(&self.netlink, name).await? else { return Ok(()) };
        if key.owns(&found) {
            link::remove(&self.netlink, name).await?;
        } else {
            tracing::warn!(%key, interface = name, alias = found.alias, "not ours: it stays");
        }
        Ok(())
    }

    /// Removes an attachment whose record cannot be read. Its key names its interface and its
    /// addresses, but no IPAM plugin.
    async fn detach_unreadable(&self, key: &AttachmentKey) -> Result<(), CniError> {
        self.desired.close(key);
        self.remove_interface(key, &key.host_interface()).await?;
        let owned = key.clone();
        Ok(self.with_store(move |store| store.remove(&owned)).await?)
    }
}

/// Gives the pod's interface its addresses and routes; returns the gateways that are its defaults.
async fn configure(
    attachment: &Attachment,
    netns: &NetworkNamespace,
    node: &Node,
) -> Result<Vec<IpAddr>, CniError> {
    let pod = pod_network(attachment, node);
    Ok(netns.run(async move |handle| pod.configure(&handle).await).await??)
}

/// Removes an attachment's TAP device; one of that name that is not the attachment's stays, and one
/// whose namespace has ended is gone.
async fn remove_tap(attachment: &Attachment) -> Result<(), CniError> {
    let netns = match NetworkNamespace::open(Path::new(&attachment.netns)) {
        Err(NetnsError::Gone { .. } | NetnsError::Foreign { .. }) => return Ok(()),
        opened => opened?,
    };
    let key = attachment.key.clone();
    let removed = netns.run(async move |handle| match link::find(&handle, &key.ifname).await? {
        Some(found) if key.owns(&found) => link::remove(&handle, &key.ifname).await,
        _ => Ok(()),
    });
    Ok(removed.await??)
}

/// The kernel's refusal to make the pod's interface.
fn exists_or(error: NetlinkError, attachment: &Attachment) -> CniError {
    if error.is_exists() {
        CniError::InterfaceExists { ifname: attachment.key.ifname.clone() }
    } else {
        error.into()
    }
}

/// What the pod's end of an attachment is to look like.
pub(crate) fn pod_network(attachment: &Attachment, node: &Node) -> PodNetwork {
    let mac = attachment.mac.or_else(|| MacAddress::from_preferred(&attachment.addresses));
    PodNetwork {
        ifname: attachment.key.ifname.clone(),
        mac: mac.unwrap_or(MacAddress::from_octets([0; 6])),
        addresses: attachment.addresses.clone(),
        gateways: gateways(node),
    }
}
