//! Other network namespaces: how a piece of work gets into one and out again.
//!
//! A thread enters the namespace, does the work on a small runtime of its own, and ends. No thread
//! ever comes back from a namespace, so none can be left in the wrong one.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use rtnetlink::Handle;
use rustix::{
    fs::{FsWord, fstatfs},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::sync::oneshot;

/// The kernel's number for the file system that namespaces' files are in (`linux/magic.h`).
const NSFS_MAGIC: FsWord = 0x6e73_6673;

/// An open network namespace. It lives at least as long as this.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    path: PathBuf,
}

/// Why a namespace could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum NetnsError {
    #[error("there is no network namespace at {path}")]
    Gone { path: PathBuf },

    #[error("{path} is no namespace: it must be one's file, as in /run/netns or /proc/PID/ns")]
    Foreign { path: PathBuf },

    #[error("cannot open the network namespace {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot enter {path}: is it a network namespace?")]
    Enter {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot work in the network namespace {path}")]
    Work {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl NetworkNamespace {
    /// Opens the namespace that a file stands for.
    ///
    /// # Errors
    ///
    /// Fails if there is no such file, it cannot be opened, or is no namespace. Whether it is one
    /// of networks shows when it is entered.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NetnsError::Gone { path: path.to_owned() },
            _ => NetnsError::Open { path: path.to_owned(), source },
        })?;
        let system = fstatfs(&file)
            .map_err(|errno| NetnsError::Open { path: path.to_owned(), source: errno.into() })?;
        if system.f_type != NSFS_MAGIC {
            return Err(NetnsError::Foreign { path: path.to_owned() });
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// Whether this is the namespace that this process is in.
    ///
    /// # Errors
    ///
    /// Fails if `/proc` is not there.
    pub fn is_our_own(&self) -> Result<bool, NetnsError> {
        let identity = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
        let own = File::open("/proc/self/ns/net").and_then(|own| identity(&own));
        let same = own.and_then(|own| Ok(own == identity(&self.file)?));
        same.map_err(|source| NetnsError::Work { path: self.path.clone(), source })
    }

    /// The descriptor, for asking the kernel to make something within.
    #[must_use]
    pub fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Does `work` within the namespace, with a netlink connection there.
    ///
    /// `/proc/sys/net` is the namespace's, too, for the thread that does the work.
    ///
    /// # Errors
    ///
    /// Fails if the namespace cannot be entered, or no thread or socket is to be had.
    pub async fn run<T, F>(&self, work: F) -> Result<T, NetnsError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(Handle) -> T + Send + 'static,
    {
        let path = self.path.clone();
        let work_error = |source| NetnsError::Work { path: self.path.clone(), source };
        let file = self.file.try_clone().map_err(work_error)?;
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new()
            .name("vr-netns".to_owned())
            .spawn(move || {
                // The caller may have given up waiting: then nobody wants the answer.
                let _ = sender.send(enter_and_run(&file, path, work));
            })
            .map_err(work_error)?;
        receiver.await.unwrap_or_else(|_| Err(work_error(io::ErrorKind::BrokenPipe.into())))
    }
}

fn enter_and_run<T, F>(file: &File, path: PathBuf, work: F) -> Result<T, NetnsError>
where
    F: AsyncFnOnce(Handle) -> T,
{
    if let Err(errno) = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)) {
        return Err(NetnsError::Enter { path, source: errno.into() });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .and_then(|runtime| {
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                Ok(work(handle).await)
            })
        })
        .map_err(|source| NetnsError::Work { path, source })
}
