//! What was there before this process, compared with what it remembers.
//!
//! Container runtimes neither repeat a DEL that was lost nor call GC: after a crash, only the
//! daemon can clean up. An attachment that is whole is adopted and its traffic goes on. One that is
//! half made, half gone, or whose container has ended is removed. Interfaces of ours that no record
//! explains are removed; everybody else's are listed and left alone.

use std::path::Path;

use crate::{
    attachment::{ALIAS_PREFIX, Attachment, HOST_INTERFACE_PREFIX, Means, Phase},
    cni::CniError,
    daemon::{Daemon, Topic},
    foreign, host_port,
    link::{self, Link},
    netns::{NetnsError, NetworkNamespace},
    store::{Store, StoreError},
    vhost_socket::{self, VhostSocket},
};

/// What a look around has led to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Outcome {
    /// Attachments that are whole.
    pub adopted: usize,
    /// Attachments that were removed.
    pub removed: usize,
    /// Interfaces without a record that were removed.
    pub leftovers: usize,
}

/// Why a node could not be cleaned up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum CleanUpError {
    #[error(transparent)]
    Detach(#[from] Box<CniError>),

    #[error(transparent)]
    HostPort(#[from] host_port::HostPortError),

    #[error(transparent)]
    Store(#[from] StoreError),

    #[error("{0}")]
    Leftover(String),
}

impl Daemon {
    /// Adopts or removes what was there before this process. Runs before the first full sync and
    /// before the first verb.
    ///
    /// # Errors
    ///
    /// Fails if the kernel or the database cannot be asked. What cannot be removed is a problem
    /// in the status, and tried again by [`Daemon::sweep`].
    pub async fn reconcile(&self) -> Result<Outcome, CniError> {
        let records = self.with_store(Store::attachments).await?;
        let mut outcome = Outcome::default();
        let mut whole = Vec::new();
        for attachment in records.into_values() {
            if attachment.phase == Phase::Ready && self.is_whole(&attachment).await? {
                // The folder of links may not have lived as long as the database.
                attachment.means.socket().map_or(Ok(()), VhostSocket::prepare)?;
                whole.push(attachment);
            }
        }
        outcome.adopted = whole.len();
        self.desired.adopt(whole);
        let swept = self.sweep().await?;
        Ok(Outcome { adopted: outcome.adopted, ..swept })
    }

    /// Removes attachments whose container has ended or whose ADD or DEL was cut off, and our
    /// interfaces that no record explains. Repeated now and then: a DEL may never come.
    ///
    /// # Errors
    ///
    /// As [`Daemon::reconcile`].
    pub async fn sweep(&self) -> Result<Outcome, CniError> {
        let mut outcome = Outcome::default();
        let mut problems = Vec::new();
        for key in self.with_store(Store::attachments).await?.into_keys() {
            // A verb that is at work on it will finish or undo it itself.
            let Some(_lock) = self.locks.try_lock(&key) else { continue };
            // Read again under the lock: what is unfinished now stays so.
            let Some(attachment) = self.record(&key).await? else { continue };
            if attachment.phase == Phase::Ready && self.is_whole(&attachment).await? {
                continue;
            }
            tracing::info!(%key, phase = ?attachment.phase, "removing what is left of it");
            match self.detach(&key).await {
                Ok(()) => outcome.removed += 1,
                Err(error) => problems.push(format!("attachment {key} cannot be removed: {error}")),
            }
        }
        for bad in self.with_store(Store::unreadable).await? {
            let Some(_lock) = self.locks.try_lock(&bad.key) else { continue };
            // While it has its interface, its container lives, and a DEL or GC is yet to come.
            let link = link::find(&self.netlink, &bad.key.host_interface()).await?;
            if link.is_some_and(|link| bad.key.owns(&link)) {
                continue;
            }
            tracing::info!(key = %bad.key, "removing its record, which cannot be read");
            self.detach(&bad.key).await?;
            outcome.removed += 1;
        }
        outcome.leftovers = self.remove_leftovers(&mut problems).await?;
        outcome.leftovers += self.remove_leftover_links().await?;
        self.look_for_foreign().await?;
        self.set_problems(Topic::Leftovers, problems);
        Ok(outcome)
    }

    /// Removes everything that control has made on this node: attachments, their interfaces, and
    /// the host port with its routes. The engine keeps what it was told last.
    ///
    /// # Errors
    ///
    /// Fails at the first that cannot be removed.
    pub async fn clean_up(&self) -> Result<Outcome, CleanUpError> {
        let mut outcome = Outcome::default();
        let unreadable = self.with_store(Store::unreadable).await?.into_iter().map(|bad| bad.key);
        let keys = self.with_store(Store::attachments).await?.into_keys();
        for key in keys.chain(unreadable) {
            self.detach(&key).await.map_err(Box::new)?;
            outcome.removed += 1;
        }
        let mut problems = Vec::new();
        outcome.leftovers = self.remove_leftovers(&mut problems).await.map_err(Box::new)?;
        host_port::remove(&self.netlink).await?;
        match problems.into_iter().next() {
            Some(problem) => Err(CleanUpError::Leftover(problem)),
            None => Ok(outcome),
        }
    }

    /// Whether what an attachment is made of is there: of a veth pair, our end, since the other one
    /// goes with the container's namespace and takes this one along; of others, the namespace and
    /// what is in it, or in the pod's volume.
    pub(crate) async fn is_whole(&self, attachment: &Attachment) -> Result<bool, CniError> {
        let netns = || match NetworkNamespace::open(Path::new(&attachment.netns)) {
            Err(NetnsError::Gone { .. } | NetnsError::Foreign { .. }) => Ok(None),
            opened => opened.map(Some),
        };
        Ok(match &attachment.means {
            Means::Veth => {
                let link = link::find(&self.netlink, &attachment.host_interface).await?;
                link.is_some_and(|link| link.is_veth())
            }
            Means::Tap => {
                let Some(netns) = netns()? else { return Ok(false) };
                let name = attachment.key.ifname.clone();
                let link =
                    netns.run(async move |handle| link::find(&handle, &name).await).await??;
                link.is_some_and(|link| link.is_tap())
            }
            Means::VhostUser(socket) => netns()?.is_some() && socket.folder.is_dir(),
        })
    }

    async fn remove_leftovers(&self, problems: &mut Vec<String>) -> Result<usize, CniError> {
        let mut removed = 0;
        for link in link::list(&self.netlink).await? {
            if !self.is_leftover(&link).await? {
                continue;
            }
            tracing::info!(interface = link.name, alias = link.alias, "removing a leftover");
            match link::remove(&self.netlink, &link.name).await {
                Ok(()) => removed += 1,
                Err(error) => problems.push(format!("{error}: {}", error.source)),
            }
        }
        Ok(removed)
    }

    /// Links to the folders of sockets that no record explains.
    async fn remove_leftover_links(&self) -> Result<usize, CniError> {
        // A record comes before its link, so the records are read after it was seen.
        let mut links = vhost_socket::links(&self.config.vhost_folder())?;
        let records = self.with_store(Store::attachments).await?;
        let unreadable = self.with_store(Store::unreadable).await?;
        links.retain(|link| {
            let is_known = |name: &str| link.file_name().is_some_and(|found| found == name);
            !records.values().any(|record| is_known(&record.host_interface))
                && !unreadable.iter().any(|bad| is_known(&bad.key.host_interface()))
        });
        links.iter().try_for_each(|link| vhost_socket::remove_file(link))?;
        Ok(links.len())
    }

    /// Ours, of this node, and without a record. A record comes before its interface, so the
    /// records are read after it was seen.
    async fn is_leftover(&self, link: &Link) -> Result<bool, CniError> {
        let tag = format!("{ALIAS_PREFIX}{}:", self.config.node_name);
        let is_ours = link.name.starts_with(HOST_INTERFACE_PREFIX)
            && !host_port::is_ours(&link.name)
            && link.alias.as_ref().is_some_and(|alias| alias.starts_with(&tag));
        if !is_ours {
            return Ok(false);
        }
        let records = self.with_store(Store::attachments).await?;
        // What a record that cannot be read is about may be in use.
        let unreadable = self.with_store(Store::unreadable).await?;
        Ok(!records.values().any(|record| record.host_interface == link.name)
            && !unreadable.iter().any(|bad| bad.key.host_interface() == link.name))
    }

    async fn look_for_foreign(&self) -> Result<(), CniError> {
        let records = self.with_store(Store::attachments).await?;
        let is_known = |name: &str| {
            name == self.config.uplink
                || host_port::is_ours(name)
                || records.values().any(|record| record.host_interface == name)
        };
        self.set_foreign(foreign::find(&self.netlink, is_known).await?);
        Ok(())
    }
}
