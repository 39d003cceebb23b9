//! The vhost-user socket of an attachment: where it lies, who may open it, and what is beside it.
//!
//! ```text
//! the pod's volume `shared-dir`, FOLDER on the node ── FOLDER/<containerID[:12]>-<ifname>
//! what the engine is told: that, or if it is too long for a socket's address
//!   RUN/<hash of the attachment> ─► FOLDER, a symbolic link, then the same name
//! ```
//!
//! The name and the volume are userspace-cni's convention. The engine makes the socket, when its
//! port is opened, with the owner and the group of the folder and for them alone; kubelet's folder
//! above the volume is closed to everybody but root. The folder is the pod's: whatever is found in
//! it is not trusted, and nothing is followed there.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::attachment::AttachmentKey;

/// The pod's volume that its sockets are in.
pub const SHARED_VOLUME: &str = "shared-dir";

/// The longest path that a socket's address holds, without its final zero (unix(7)).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Bytes of the container's id in the socket's name.
const ID_BYTES: usize = 12;

/// The socket's mode: its owner and its group.
pub const SOCKET_MODE: u32 = 0o660;

/// The version of the device-info specification that is written.
const DEVICE_INFO_VERSION: &str = "1.1.0";

/// A socket, as it is recorded.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct VhostSocket {
    /// The pod's volume, on the node.
    pub folder: PathBuf,
    /// The socket's name in it.
    pub name: String,
    /// The symbolic link to the folder, if the path is too long without.
    pub link: Option<PathBuf>,
    /// The socket's owner: that of the folder.
    pub uid: u32,
    /// The socket's group: that of the folder.
    pub gid: u32,
    /// Where the runtime wants to read what the device is, if it does.
    pub device_info: Option<PathBuf>,
}

/// Why there is no place for a socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum VhostSocketError {
    #[error(
        "{folder} is no folder: give the pod a volume named {SHARED_VOLUME} (an emptyDir or a \
         hostPath), or the network's configuration a sharedDir"
    )]
    NoFolder {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error(
        "the socket's path {path} has {} bytes and at most {SOCKET_PATH_BYTES_MAX} fit: move \
         control.socket to a folder with a shorter name", path.as_os_str().len()
    )]
    PathTooLong { path: PathBuf },

    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("there is no socket at {path}: the engine makes it; see `vrctl ports`")]
    Missing { path: PathBuf },
}

impl VhostSocket {
    /// The socket of an attachment in the pod's volume `folder`; `run_folder` is ours, for links.
    ///
    /// # Errors
    ///
    /// Fails if the folder is not there, or no path to it is short enough.
    pub fn place(
        key: &AttachmentKey,
        folder: PathBuf,
        run_folder: &Path,
        device_info: Option<PathBuf>,
    ) -> Result<Self, VhostSocketError> {
        let found = fs::symlink_metadata(&folder).and_then(|found| {
            if found.is_dir() { Ok(found) } else { Err(io::ErrorKind::NotADirectory.into()) }
        });
        let found = found
            .map_err(|source| VhostSocketError::NoFolder { folder: folder.clone(), source })?;
        let id: String = key.container_id.chars().take(ID_BYTES).collect();
        let name = format!("{id}-{}", key.ifname);
        let is_long = |path: &Path| path.as_os_str().len() > SOCKET_PATH_BYTES_MAX;
        let link = is_long(&folder.join(&name)).then(|| run_folder.join(key.host_interface()));
        let (uid, gid) = (found.uid(), found.gid());
        let socket = Self { folder, name, link, uid, gid, device_info };
        let path = socket.engine_path();
        if is_long(&path) { Err(VhostSocketError::PathTooLong { path }) } else { Ok(socket) }
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The same, short enough for a socket's address.
    #[must_use]
    pub fn engine_path(&self) -> PathBuf {
        self.link.as_ref().unwrap_or(&self.folder).join(&self.name)
    }

    /// Makes what there is to make before the engine is told: the link, and the runtime's file.
    /// What is there already is made anew.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be written.
    pub fn prepare(&self) -> Result<(), VhostSocketError> {
        if let Some(link) = &self.link {
            let failed = file_error("make the link", link);
            link.parent().map_or(Ok(()), fs::create_dir_all).map_err(&failed)?;
            remove_file(link)?;
            symlink(&self.folder, link).map_err(&failed)?;
        }
        if let Some(file) = &self.device_info {
            let failed = file_error("write the device information", file);
            // What the pod is: the engine listens, so its side is the client.
            let text = json!({
                "type": "vhost-user",
                "version": DEVICE_INFO_VERSION,
                "vhost-user": { "mode": "client", "path": self.path() },
            });
            file.parent().map_or(Ok(()), fs::create_dir_all).map_err(&failed)?;
            fs::write(file, text.to_string()).map_err(&failed)?;
        }
        Ok(())
    }

    /// Removes the socket, the link and the runtime's file. Nothing happens to what is not there.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be removed.
    pub fn remove(&self) -> Result<(), VhostSocketError> {
        // The engine has removed it, unless it was killed. What the pod has put in its place stays.
        if self.is_there() {
            remove_file(&self.path())?;
        }
        self.link.iter().chain(&self.device_info).try_for_each(|file| remove_file(file))
    }

    /// Compares what is there with what should be.
    ///
    /// # Errors
    ///
    /// Fails if the socket, the link or the runtime's file is missing.
    pub fn check(&self) -> Result<(), VhostSocketError> {
        if !self.is_there() {
            return Err(VhostSocketError::Missing { path: self.path() });
        }
        for file in self.link.iter().chain(&self.device_info) {
            fs::symlink_metadata(file).map_err(file_error("find", file))?;
        }
        Ok(())
    }

    fn is_there(&self) -> bool {
        fs::symlink_metadata(self.path()).is_ok_and(|found| found.file_type().is_socket())
    }
}

/// The links in `run_folder`; none if there is no such folder.
///
/// # Errors
///
/// Fails if the folder cannot be read.
pub fn links(run_folder: &Path) -> Result<Vec<PathBuf>, VhostSocketError> {
    let entries = match fs::read_dir(run_folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(file_error("list", run_folder))?,
    };
    let links =
        entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    Ok(links.map(|entry| entry.path()).collect())
}

/// Removes a file or a link. Nothing happens if there is none.
///
/// # Errors
///
/// Fails if it cannot be removed.
pub fn remove_file(path: &Path) -> Result<(), VhostSocketError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(file_error("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn file_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> VhostSocketError {
    move |source| VhostSocketError::File { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn key() -> AttachmentKey {
        AttachmentKey { container_id: "0123456789abcdef".repeat(4), ifname: "net1".into() }
    }

    #[test]
    fn a_socket_has_the_name_and_the_owner_that_the_pods_volume_asks_for() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let socket = VhostSocket::place(&key(), folder.path().into(), &run, None).unwrap();
        assert_eq!((socket.name.as_str(), &socket.link), ("0123456789ab-net1", &None));
        assert_eq!(socket.uid, fs::metadata(folder.path()).unwrap().uid());
        assert!(matches!(socket.check(), Err(VhostSocketError::Missing { .. })));
        socket.prepare().unwrap();
        let _listener = UnixListener::bind(socket.engine_path()).unwrap();
        socket.check().unwrap();
        socket.remove().unwrap();
        socket.remove().unwrap();
        assert!(!socket.path().exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_shortened_by_a_link() {
        let folder = tempfile::tempdir().unwrap();
        // As long as kubelet's.
        let long = folder.path().join("kubernetes.io~empty-dir".repeat(4)).join(SHARED_VOLUME);
        fs::create_dir_all(&long).unwrap();
        let run = folder.path().join("run");
        let info = folder.path().join("devinfo/net1.json");
        let socket = VhostSocket::place(&key(), long.clone(), &run, Some(info.clone())).unwrap();
        assert!(socket.engine_path().as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
        socket.prepare().unwrap();
        socket.prepare().unwrap();
        let _listener = UnixListener::bind(socket.engine_path()).unwrap();
        assert!(long.join(&socket.name).exists());
        socket.check().unwrap();
        let text: serde_json::Value = serde_json::from_slice(&fs::read(&info).unwrap()).unwrap();
        assert_eq!(text["type"], "vhost-user");
        assert_eq!(text["vhost-user"]["mode"], "client");
        assert_eq!(text["vhost-user"]["path"], socket.path().to_str().unwrap());
        assert_eq!(links(&run).unwrap(), socket.link.clone().map_or(vec![], |link| vec![link]));
        socket.remove().unwrap();
        assert!(!info.exists() && !long.join(&socket.name).exists());
        assert!(links(&run).unwrap().is_empty());
    }

    #[test]
    fn what_a_pod_put_in_the_sockets_place_is_neither_followed_nor_removed() {
        let folder = tempfile::tempdir().unwrap();
        let socket = VhostSocket::place(&key(), folder.path().into(), folder.path(), None).unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "kept").unwrap();
        symlink(&victim, socket.path()).unwrap();
        assert!(socket.check().is_err());
        socket.remove().unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    }

    #[test]
    fn what_is_no_folder_or_has_no_short_path_is_refused_with_the_next_step() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let place = |folder, run: &Path| VhostSocket::place(&key(), folder, run, None);
        let error = place(missing, folder.path()).unwrap_err().to_string();
        assert!(error.contains("volume named shared-dir"), "{error}");
        let long = folder.path().join("x".repeat(100));
        fs::create_dir(&long).unwrap();
        let error = place(long.clone(), &long).unwrap_err().to_string();
        assert!(error.contains("at most 107 fit"), "{error}");
    }
}
