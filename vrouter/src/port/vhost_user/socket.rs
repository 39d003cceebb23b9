//! The socket's place in the file system: making it, finding it, removing it.
//!
//! The folder may be a volume that a pod writes to, and the engine has every right: no link in the
//! last part of a path is followed, and what is changed is held open first. Paths as long as a
//! `sockaddr_un` are reached through the folder's descriptor.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process,
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use crate::port::{SocketAccess, VhostUserBackend};

/// Connections that wait while a frontend is connected: one that replaces it.
const BACKLOG: i32 = 1;

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum MakeSocketError {
    #[error(
        "the socket's path {path} has {bytes} bytes, more than {}; choose a shorter one",
        VhostUserBackend::SOCKET_PATH_BYTES_MAX
    )]
    PathTooLong { path: PathBuf, bytes: usize },
    #[error("{path} names no file in a folder")]
    NoName { path: PathBuf },
    #[error("cannot open the folder {folder}; create it first")]
    Folder {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is there and is no socket; remove it")]
    NoSocket { path: PathBuf },
    #[error("somebody else serves {path}; stop them, or choose another path")]
    Served { path: PathBuf },
    #[error("cannot make the socket {path}")]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A socket's path, split where links end to be followed.
#[derive(Debug)]
pub(super) struct SocketPlace {
    path: PathBuf,
    folder: OwnedFd,
    name: OsString,
}

impl SocketPlace {
    /// The place of a socket that is to be made, or found, at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, MakeSocketError> {
        let bytes = path.as_os_str().len();
        if bytes > VhostUserBackend::SOCKET_PATH_BYTES_MAX {
            return Err(MakeSocketError::PathTooLong { path: path.into(), bytes });
        }
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(MakeSocketError::NoName { path: path.into() });
        };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(|errno| {
            MakeSocketError::Folder { folder: folder.into(), source: errno.into() }
        })?;
        Ok(Self { path: path.into(), folder: opened, name: name.into() })
    }

    /// Makes the socket and listens. Nobody can connect before its owner, group and mode are set; a
    /// socket that nobody serves any more is replaced.
    pub(super) fn listen(self, access: &SocketAccess) -> Result<ServedSocket, MakeSocketError> {
        self.refuse_occupied()?;
        let temporary = OsString::from(format!(".vrouter-{}.tmp", process::id()));
        let made = self.make(&temporary, access);
        match made {
            Ok((listener, inode)) => Ok(ServedSocket { listener, inode, place: self }),
            Err(errno) => {
                // Not there, unless making it failed half-way.
                let _ = rustix::fs::unlinkat(&self.folder, &temporary, AtFlags::empty());
                Err(MakeSocketError::Make { path: self.path, source: errno.into() })
            }
        }
    }

    /// The path as it was given.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to the frontend that listens there.
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        let (_, held) = self.hold(&self.name)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(through(&held))?)?;
        Ok(socket.into())
    }

    fn refuse_occupied(&self) -> Result<(), MakeSocketError> {
        let path = || self.path.clone();
        match self.connect() {
            Ok(_) => Err(MakeSocketError::Served { path: path() }),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::CONNREFUSED) => Ok(()),
                // Its backlog is full.
                Some(Errno::AGAIN) => Err(MakeSocketError::Served { path: path() }),
                Some(Errno::NOTSOCK) => Err(MakeSocketError::NoSocket { path: path() }),
                _ => Err(MakeSocketError::Make { path: path(), source: error }),
            },
        }
    }

    /// Makes a socket as `temporary`, sets it up, and gives it its name.
    fn make(
        &self,
        temporary: &OsStr,
        access: &SocketAccess,
    ) -> Result<(UnixListener, Inode), Errno> {
        let _ = rustix::fs::unlinkat(&self.folder, temporary, AtFlags::empty());
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        // The file that bind(2) makes has the socket's mode, less the process' mask: none at first.
        rustix::fs::fchmod(&socket, Mode::empty())?;
        let mut path = through(&self.folder);
        path.push(temporary);
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let (stat, held) = self.hold(temporary)?;
        let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
        rustix::fs::chownat(&held, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
        rustix::fs::chmod(through(&held), Mode::from_bits_truncate(access.file_mode))?;
        rustix::fs::renameat(&self.folder, temporary, &self.folder, &self.name)?;
        Ok((UnixListener::from(socket), Inode::of(&stat)))
    }

    /// Holds a socket's file open, whatever becomes of its name.
    fn hold(&self, name: &OsStr) -> Result<(Stat, OwnedFd), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::openat(&self.folder, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&held)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(Errno::NOTSOCK);
        }
        Ok((stat, held))
    }
}

/// A socket that we made, and remove when it is dropped.
#[derive(Debug)]
pub(super) struct ServedSocket {
    place: SocketPlace,
    listener: UnixListener,
    inode: Inode,
}

impl ServedSocket {
    /// The next frontend that has connected, if there is one.
    pub(super) fn accept(&self) -> io::Result<Option<UnixStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// The path as it was given.
    pub(super) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Readable when a frontend has connected.
    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for ServedSocket {
    fn drop(&mut self) {
        let SocketPlace { folder, name, .. } = &self.place;
        let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        // Somebody else's has taken its name, if it is another.
        if found.is_ok_and(|stat| Inode::of(&stat) == self.inode) {
            let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
        }
    }
}

/// Names a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, number: stat.st_ino }
    }
}

/// A path to what `held` names, short and without links.
fn through(held: &impl AsFd) -> PathBuf {
    format!("/proc/self/fd/{}", held.as_fd().as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{FileTypeExt, MetadataExt, symlink},
    };

    use super::*;

    const ACCESS: SocketAccess = SocketAccess { uid: 0, gid: 0, file_mode: 0o660 };

    fn access() -> SocketAccess {
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        SocketAccess { uid, gid, ..ACCESS }
    }

    fn listen(path: &Path) -> Result<ServedSocket, MakeSocketError> {
        SocketPlace::open(path)?.listen(&access())
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port.sock");
        let served = listen(&path).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.mode() & 0o777, 0o660);
        let _frontend = UnixStream::connect(&path).unwrap();
        assert!(served.accept().unwrap().is_some());
        assert!(served.accept().unwrap().is_none());
        drop(served);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_dead_engines_socket_is_replaced_and_a_served_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port.sock");
        drop(UnixListener::bind(&path).unwrap());
        let served = listen(&path).unwrap();
        let refused = listen(&path).unwrap_err().to_string();
        assert!(refused.starts_with("somebody else serves"), "{refused}");
        assert!(UnixStream::connect(&path).is_ok());
        drop(served);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("port.sock"), folder.path().join("other"));
        fs::write(&other, "precious").unwrap();
        symlink(&other, &path).unwrap();
        assert!(listen(&path).is_err());
        assert!(SocketPlace::open(&path).unwrap().connect().is_err());
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        let refused = listen(&path).unwrap_err().to_string();
        assert!(refused.ends_with("is there and is no socket; remove it"), "{refused}");
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn somebody_elses_socket_of_the_same_name_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port.sock");
        let served = listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(served);
        assert!(path.exists());
    }

    #[test]
    fn a_path_is_as_long_as_a_socket_address_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("").as_os_str().len();
        let longest = VhostUserBackend::SOCKET_PATH_BYTES_MAX;
        let path = folder.path().join("n".repeat(longest - prefix));
        let served = listen(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        assert!(served.accept().unwrap().is_some());
        assert!(SocketPlace::open(&path).unwrap().connect().is_ok());
        let path = folder.path().join("n".repeat(longest - prefix + 1));
        let refused = listen(&path).unwrap_err().to_string();
        assert!(refused.contains("has 108 bytes, more than 107"), "{refused}");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let refused = listen(Path::new("/no/such/folder/port.sock")).unwrap_err().to_string();
        assert_eq!(refused, "cannot open the folder /no/such/folder; create it first");
    }
}
