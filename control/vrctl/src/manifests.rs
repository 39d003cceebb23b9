//! The manifests that an offline command works from.

use std::path::Path;

use control::{
    cluster::{Cluster, Refusal},
    manifests::{Folder, ManifestError},
};

/// A folder that was read: its objects, the cluster that they make, and what of them is refused.
#[derive(Debug)]
pub(crate) struct Manifests {
    pub(crate) folder: Folder,
    pub(crate) cluster: Cluster,
    pub(crate) refusals: Vec<Refusal>,
}

impl Manifests {
    /// Reads a folder. What is only left out is told on standard error.
    ///
    /// # Errors
    ///
    /// Fails if a file cannot be read as a whole: what it says is not known.
    pub(crate) fn load(path: &Path) -> Result<Self, ManifestError> {
        let mut folder = Folder::new(path);
        for error in folder.reload() {
            match error {
                ManifestError::UnknownKind { .. } => eprintln!("vrctl: {error}"),
                error => return Err(error),
            }
        }
        let (cluster, refusals) = folder.cluster();
        for refusal in &refusals {
            eprintln!("vrctl: {refusal}");
        }
        Ok(Self { folder, cluster, refusals })
    }
}
