//! The embedded source of the cluster: a folder of YAML files with Kubernetes objects.
//!
//! Read are the files of the folder itself, in the order of their names: `*.yaml`, `*.yml` and
//! `*.json`, but neither those whose name begins with a dot nor sub-folders. A file may hold
//! several documents and lists (`kind: List`, `kind: NodeList`, …). Nodes, Namespaces, Pods and
//! `NetworkPolicy`s are acted upon; Services and `EndpointSlice`s are read and kept, and the status
//! says that nothing acts upon them yet.
//!
//! What a policy's `spec` says wrongly is the policy's own fault, and changes no other object.
//!
//! Invariant: a file that cannot be read as a whole changes nothing. Its last good state stays in
//! force, and the problem is named with file, line and field until it is mended or removed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::{
    cluster::{Cluster, Refusal},
    manifests::document::parse_file,
    policy::PolicyObject,
};

mod document;

/// The largest file that is read, in bytes: a thousand nodes with ten thousand pods are half of it.
pub const FILE_BYTES_MAX: u64 = 32 << 20;

/// The most files that are read: beyond, somebody has named the wrong folder.
pub const FILES_MAX: usize = 10_000;

/// File systems tell times of writing apart by 2 s at the worst.
const STAMP_REST: Duration = Duration::from_secs(2);

/// One Kubernetes object of a kind that a node network cares about.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are named after their kinds")]
pub enum Manifest {
    Node(Box<Node>),
    Namespace(Box<Namespace>),
    Pod(Box<Pod>),
    Service(Box<Service>),
    EndpointSlice(Box<EndpointSlice>),
    NetworkPolicy(Box<PolicyObject>),
}

/// An object and where it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced {
    /// Where its document begins.
    pub place: Place,
    /// The object itself.
    pub manifest: Manifest,
}

/// A line of a file.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The file's path.
    pub file: Arc<Path>,
    /// The line, counted from 1.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What is wrong with the manifests: with a file's text, or with what an object says.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum Problem {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Why a folder, a file or a document could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages document the variants")]
pub enum ManifestError {
    #[error(
        "cannot read the manifests folder {folder} ({reason}): create it, or set \
         control.manifests; what was read before stays in force"
    )]
    Folder { folder: PathBuf, reason: io::ErrorKind },

    #[error("{folder} has more than {max} files: is control.manifests the folder you mean?")]
    TooManyFiles { folder: PathBuf, max: usize },

    #[error("cannot read {file} ({reason}); its last good state stays in force")]
    File { file: PathBuf, reason: io::ErrorKind },

    #[error("{file} has {bytes} bytes, at most {max} are read: split it")]
    FileTooLarge { file: PathBuf, bytes: u64, max: u64 },

    #[error("{place}: {message}; mend the YAML, the file's last good state stays in force")]
    Syntax { place: Place, message: String },

    #[error(
        "{place}: {object}: field {field}: {message}; mend it, the file's last good state stays \
         in force"
    )]
    Field { place: Place, object: String, field: String, message: String },

    #[error(
        "{place}: {object}: apiVersion `{api_version}` is not read, and it is left out; write \
         networking.k8s.io/v1"
    )]
    PolicyVersion { place: Place, object: String, api_version: String },

    #[error("{place}: {kind} ({api_version}) is not a kind that vrouter reads; it is left out")]
    UnknownKind { place: Place, kind: String, api_version: String },
}

/// A folder of manifests and the last good state of each of its files.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, FileState>,
    revision: u64,
}

/// What is known of a file.
#[derive(Debug, Default)]
struct FileState {
    /// When it was written and how long it was when it was read; an equal one is not read again.
    stamp: Option<(SystemTime, u64)>,
    /// Its last good text, and the objects in it.
    text: String,
    objects: Vec<Sourced>,
    /// What is wrong with it now.
    problems: Vec<ManifestError>,
}

impl Folder {
    /// A folder that has not been read yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), files: BTreeMap::new(), revision: 0 }
    }

    /// The folder's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Grows whenever the objects in force may have changed.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Reads again what has changed in the folder, and returns what is wrong with all of it.
    ///
    /// A file that cannot be read keeps its last good state; a file that is gone takes its objects
    /// with it.
    pub fn reload(&mut self) -> Vec<ManifestError> {
        let paths = match list(&self.path) {
            Ok(paths) => paths,
            Err(error) => return vec![error],
        };
        let mut before = std::mem::take(&mut self.files);
        for path in paths {
            let mut state = before.remove(&path).unwrap_or_default();
            if state.reload(&path) {
                self.revision += 1;
            }
            self.files.insert(path, state);
        }
        self.revision += before.len() as u64;
        self.files.values().flat_map(|state| state.problems.clone()).collect()
    }

    /// All objects in force, in the order of file and line.
    pub fn objects(&self) -> impl Iterator<Item = &Sourced> {
        self.files.values().flat_map(|state| &state.objects)
    }

    /// The text of each file's last good state.
    pub fn texts(&self) -> impl Iterator<Item = (&Path, &str)> {
        let good = self.files.iter().filter(|(_, state)| !state.text.is_empty());
        good.map(|(path, state)| (path.as_path(), state.text.as_str()))
    }

    /// Makes `text` the last good state of a file of the folder, as if it had been read. Text that
    /// cannot be read is left out.
    pub fn seed(&mut self, file_name: &Path, text: &str) {
        let path = self.path.join(file_name);
        if let Ok(parsed) = parse_file(&path, text) {
            let (text, objects) = (text.to_owned(), parsed.objects);
            self.files.insert(path, FileState { text, objects, ..FileState::default() });
        }
    }

    /// The cluster that the objects in force describe, and which of them are refused.
    #[must_use]
    pub fn cluster(&self) -> (Cluster, Vec<Refusal>) {
        Cluster::from_manifests(self.objects())
    }
}

impl FileState {
    /// Reads the file if it has changed since. Tells whether its objects may have changed.
    fn reload(&mut self, path: &Path) -> bool {
        // Taken before the text: if it is written meanwhile, the next look finds a newer one.
        let stamp = stamp(path);
        if stamp.is_some() && stamp == self.stamp {
            return false;
        }
        self.stamp = stamp;
        match read(path).and_then(|text| Ok((parse_file(path, &text)?, text))) {
            Ok((parsed, text)) => {
                *self = Self { stamp, text, objects: parsed.objects, problems: parsed.left_out };
                true
            }
            Err(error) => {
                self.problems = vec![error];
                false
            }
        }
    }
}

/// When a file was written and how long it is; `None` while it is so new that another change might
/// not show.
fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let found = fs::metadata(path).ok()?;
    let written = found.modified().ok()?;
    // A time in the future is as good as one in the past: the next change will show another.
    let age = SystemTime::now().duration_since(written).unwrap_or_else(|ahead| ahead.duration());
    (age > STAMP_REST).then_some((written, found.len()))
}

/// Reads a folder once: the cluster it describes and everything that is wrong with it.
#[must_use]
pub fn load_folder(path: &Path) -> (Cluster, Vec<Problem>) {
    let mut folder = Folder::new(path);
    let mut problems: Vec<Problem> = folder.reload().into_iter().map(Problem::from).collect();
    let (cluster, refusals) = folder.cluster();
    problems.extend(refusals.into_iter().map(Problem::from));
    (cluster, problems)
}

/// The paths of the folder's manifests, in the order of their names.
fn list(folder: &Path) -> Result<Vec<PathBuf>, ManifestError> {
    let failed =
        |error: io::Error| ManifestError::Folder { folder: folder.into(), reason: error.kind() };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        let is_manifest = path.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        });
        // A file that vanishes meanwhile is a file that is not there: `is_file` follows links.
        if is_manifest && !is_hidden && path.is_file() {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            return Err(ManifestError::TooManyFiles { folder: folder.into(), max: FILES_MAX });
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(file: &Path) -> Result<String, ManifestError> {
    let failed = |error: io::Error| ManifestError::File { file: file.into(), reason: error.kind() };
    let bytes = fs::metadata(file).map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(ManifestError::FileTooLarge { file: file.into(), bytes, max: FILE_BYTES_MAX });
    }
    fs::read_to_string(file).map_err(failed)
}

#[cfg(test)]
mod tests;
