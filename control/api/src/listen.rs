//! The server's side of a unix socket: who may hold it, who may open it, and what becomes of it.
//!
//! A lock file beside the socket says who serves it, so a socket that a killed process left behind
//! is told apart from one in use without asking anybody. The socket is closed to other users from
//! the moment that it has a name, so that nobody else can ever connect; and it has another name
//! until it listens, so that nobody is ever turned away.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, OpenOptionsExt},
            net::UnixListener as StdUnixListener,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use crate::DESCRIPTORS;

/// The kernel's limit for a socket's path (`sun_path` with its final zero), in bytes.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Room that the temporary name needs beyond the socket's own.
const TEMPORARY_SUFFIX: &str = ".new";

/// How many clients may wait to be accepted: the plugin runs once for each container, in parallel.
const BACKLOG: i32 = 1024;

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ListenError {
    #[error("the socket path {path} has {bytes} bytes, at most {max} fit: choose a shorter one")]
    PathTooLong { path: PathBuf, bytes: usize, max: usize },

    #[error("{path} is served by another process: stop it first, or choose another socket path")]
    InUse { path: PathBuf },

    #[error(
        "{path} exists and is no socket, so it is not ours to remove: move it away, or choose \
         another socket path"
    )]
    ForeignFile { path: PathBuf },

    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A socket that this process alone serves. Dropping it removes the file.
#[derive(Debug)]
pub struct SocketLease {
    path: PathBuf,
    /// Held for as long as the lease: the kernel lets go of the lock when the process ends,
    /// however.
    _lock: File,
}

impl SocketLease {
    /// Takes `path` for this process, with the folder if there is none yet, and listens on it.
    ///
    /// The socket has mode 0600, less what the umask takes away. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Fails if another process serves the path, if a file that is no socket is there, or if the
    /// file system refuses.
    pub fn listen(path: &Path) -> Result<(Self, UnixListenerStream), ListenError> {
        let io_error = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ListenError::Io { action, path, source }
        };
        check_length(path)?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(io_error("create the folder", folder))?;
        }
        let lock = lock(path)?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(ListenError::ForeignFile { path: path.to_owned() });
            }
            Ok(_) => fs::remove_file(path).map_err(io_error("remove the stale socket", path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error("look at", path)(source)),
        }
        let temporary = with_suffix(path, TEMPORARY_SUFFIX);
        // Under our lock: only a predecessor of ours can have left it.
        if fs::symlink_metadata(&temporary).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(&temporary).map_err(io_error("remove", &temporary))?;
        }
        let socket = bind_for_owner(&temporary).map_err(io_error("make the socket", &temporary))?;
        listen(&socket, BACKLOG)
            .map_err(|error| io_error("listen on", &temporary)(error.into()))?;
        let listener = UnixListener::from_std(StdUnixListener::from(socket))
            .map_err(io_error("watch", &temporary))?;
        fs::rename(&temporary, path).map_err(io_error("put in place", path))?;
        let lease = Self { path: path.to_owned(), _lock: lock };
        Ok((lease, UnixListenerStream::new(listener)))
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketLease {
    fn drop(&mut self) {
        // Nothing is lost if it stays: the next process finds it stale and removes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// The reflection service, for tools that discover the protocol from the server itself.
///
/// # Errors
///
/// Fails only if the descriptors that were built into this crate cannot be read.
pub fn reflection_service()
-> Result<ServerReflectionServer<impl ServerReflection>, tonic_reflection::server::Error> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
}

/// Refuses a path that the kernel would cut off or turn back.
fn check_length(path: &Path) -> Result<(), ListenError> {
    let bytes = path.as_os_str().len();
    let max = SOCKET_PATH_BYTES_MAX - TEMPORARY_SUFFIX.len();
    if bytes > max {
        return Err(ListenError::PathTooLong { path: path.to_owned(), bytes, max });
    }
    Ok(())
}

/// A socket that appears at `path` with mode 0600: the kernel gives the name in the file system the
/// mode of the socket itself, less the umask. The umask alone would do it too, but it belongs to
/// the whole process, whose other threads make files at the same time.
fn bind_for_owner(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Takes the lock beside `path`, or says that somebody has it.
fn lock(path: &Path) -> Result<File, ListenError> {
    let lock_path = with_suffix(path, ".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|source| ListenError::Io {
            action: "open the lock file",
            path: lock_path.clone(),
            source,
        })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ListenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => {
            Err(ListenError::Io { action: "lock", path: lock_path, source })
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_socket_is_closed_to_others_from_its_first_moment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let _socket = bind_for_owner(&path).unwrap();
        // Nothing has touched the file since the kernel made it.
        assert_eq!(mode(&path), 0o600);
    }

    #[tokio::test]
    async fn a_socket_is_open_to_its_owner_alone_and_gone_after_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/x.sock");
        let (lease, _stream) = SocketLease::listen(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        drop(lease);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file behind");
        SocketLease::listen(&path).unwrap();
    }

    #[tokio::test]
    async fn a_second_server_is_refused_and_the_first_keeps_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let (_lease, _stream) = SocketLease::listen(&path).unwrap();
        let error = SocketLease::listen(&path).unwrap_err();
        assert!(matches!(error, ListenError::InUse { .. }), "{error}");
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_foreign_file_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        fs::write(&path, "precious").unwrap();
        let error = SocketLease::listen(&path).unwrap_err();
        assert!(matches!(error, ListenError::ForeignFile { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_path_longer_than_the_kernel_takes_is_refused() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(SOCKET_PATH_BYTES_MAX)));
        let error = SocketLease::listen(&path).unwrap_err();
        assert!(matches!(error, ListenError::PathTooLong { .. }), "{error}");
    }
}
