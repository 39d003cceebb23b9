//! The last good state of the manifests, kept across restarts.
//!
//! A file that is broken keeps its last good state in force. If control restarts meanwhile, that
//! state must not be lost with it: the engine would be told to forget nodes that are still there.
//! So each file that could be read is copied into the state folder, and the copy stands in for a
//! file that cannot be read.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use crate::manifests::Folder;

/// The folder within the state folder.
const FOLDER_NAME: &str = "manifests-last-good";

/// The copies.
#[derive(Debug)]
pub struct LastGood {
    folder: PathBuf,
    /// What is in the copies, by file name.
    saved: BTreeMap<PathBuf, String>,
}

impl LastGood {
    /// The copies within a state folder.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self { folder: state_dir.join(FOLDER_NAME), saved: BTreeMap::new() }
    }

    /// Gives `folder` the copies as the last good state of its files. A file that is gone by the
    /// next reading takes its objects with it, as ever.
    pub fn restore(&self, folder: &mut Folder) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            if let Ok(text) = fs::read_to_string(entry.path()) {
                folder.seed(Path::new(&entry.file_name()), &text);
            }
        }
    }

    /// Brings the copies in step with what is in force in `folder`.
    pub fn save(&mut self, folder: &Folder) {
        if let Err(error) = self.try_save(folder) {
            tracing::warn!(%error, folder = %self.folder.display(), "cannot keep copies");
        }
    }

    fn try_save(&mut self, folder: &Folder) -> io::Result<()> {
        let texts: BTreeMap<PathBuf, String> = folder
            .texts()
            .filter_map(|(path, text)| Some((path.file_name()?.into(), text.to_owned())))
            .collect();
        if texts == self.saved {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        for (name, text) in &texts {
            if self.saved.get(name) != Some(text) {
                // Renamed into place, so that a copy is whole or not there.
                let temporary = self.folder.join(".new");
                fs::write(&temporary, text)?;
                fs::rename(&temporary, self.folder.join(name))?;
            }
        }
        for entry in fs::read_dir(&self.folder)?.flatten() {
            if !texts.contains_key(Path::new::<OsStr>(&entry.file_name())) {
                fs::remove_file(entry.path())?;
            }
        }
        self.saved = texts;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_keeps_its_last_good_state_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (manifests, state) = (dir.path().join("manifests"), dir.path().join("state"));
        fs::create_dir(&manifests).unwrap();
        let file = manifests.join("ns.yaml");
        fs::write(&file, "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n").unwrap();
        fs::write(manifests.join("gone.yaml"), "apiVersion: v1\nkind: Pod\n").unwrap();
        let mut folder = Folder::new(&manifests);
        assert!(folder.reload().is_empty());
        LastGood::new(&state).save(&folder);

        fs::write(&file, "kind: [").unwrap();
        fs::remove_file(manifests.join("gone.yaml")).unwrap();
        let mut restarted = Folder::new(&manifests);
        let mut copies = LastGood::new(&state);
        copies.restore(&mut restarted);
        assert_eq!(restarted.reload().len(), 1);
        assert_eq!(restarted.objects().count(), 1);
        copies.save(&restarted);
        assert_eq!(fs::read_dir(state.join(FOLDER_NAME)).unwrap().count(), 1);
    }
}
