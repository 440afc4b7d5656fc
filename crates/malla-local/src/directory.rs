//! The directory of one cluster: its store, its pods' files, its lock.
//!
//! A directory is one cluster's as long as somebody holds the lock in it; the kernel lets go of the
//! lock with the last process of the cluster, also after a `kill -9`. What such a cluster left
//! behind is found by its free lock, and removed by the next one, inside its sandbox, because an
//! ordinary user may not remove files of pods' users from outside.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
/// Temporary directories have names that start like this.
const PREFIX: &str = "malla-";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("{0} is in use by another running cluster: stop that one, or name another directory")]
    InUse(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// A locked directory.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    temporary: bool,
    /// Unlocked by the kernel when the last process that has it open closes it: dropping one copy
    /// must not, since the launcher and the cluster share it.
    _lock: File,
}

impl RunDirectory {
    /// A directory that is kept: what the cluster stored is there again at its next start.
    pub fn kept(path: &Path) -> Result<Self, DirectoryError> {
        Self::claim(path, false)
    }

    /// A fresh directory below `parent`, for a cluster that leaves nothing behind.
    pub fn temporary(parent: &Path) -> Result<Self, DirectoryError> {
        let name = format!("{PREFIX}{}", uuid::Uuid::new_v4().simple());
        Self::claim(&parent.join(name), true)
    }

    fn claim(path: &Path, temporary: bool) -> Result<Self, DirectoryError> {
        let failed = |source| DirectoryError::Io {
            path: path.to_path_buf(),
            source,
        };
        fs::create_dir_all(path).map_err(failed)?;
        // Pods' users are others, and must not look in here.
        fs::set_permissions(path, Permissions::from_mode(0o711)).map_err(failed)?;
        let path = fs::canonicalize(path).map_err(failed)?;
        let lock = open_lock(&path).map_err(failed)?;
        lock.try_lock()
            .map_err(|_| DirectoryError::InUse(path.clone()))?;
        Ok(Self {
            path,
            temporary,
            _lock: lock,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The store's file.
    pub fn store(&self) -> PathBuf {
        self.path.join("store.redb")
    }

    /// Removes what earlier clusters left: files of pods in this directory, and temporary
    /// directories beside it that nobody has locked.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        for name in ["pods", "memory", "root"] {
            remove_tree(&self.path.join(name))?;
        }
        let Some(parent) = self.path.parent().filter(|_| self.temporary) else {
            return Ok(());
        };
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if !ours || entry.path() == self.path || !entry.file_type()?.is_dir() {
                continue;
            }
            if let Err(error) = remove_if_stale(&entry.path()) {
                tracing::warn!(%error, path = %entry.path().display(), "a stale directory stays");
            }
        }
        Ok(())
    }

    /// Removes a temporary directory with all that is in it.
    pub fn remove(&self) -> io::Result<()> {
        if self.temporary {
            remove_locked(&self.path)?;
        }
        Ok(())
    }
}

/// Another start may be about to lock the directory; then it stays.
fn remove_if_stale(path: &Path) -> io::Result<()> {
    let lock = match OpenOptions::new().write(true).open(path.join(LOCK)) {
        Ok(lock) => lock,
        // Just being made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    match lock.try_lock() {
        Ok(()) => remove_locked(path),
        Err(_) => Ok(()),
    }
}

/// The lock goes last: without it, what could not be removed would never be found again.
fn remove_locked(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    remove_tree(path)
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options.open(path.join(LOCK))
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{DirectoryError, RunDirectory};

    #[test]
    fn a_directory_has_one_cluster_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = RunDirectory::kept(&path).unwrap();
        assert!(matches!(
            RunDirectory::kept(&path),
            Err(DirectoryError::InUse(_))
        ));
        drop(first);
        fs::create_dir(path.join("pods")).unwrap();
        fs::write(path.join("store.redb"), "x").unwrap();
        let second = RunDirectory::kept(&path).unwrap();
        second.sweep().unwrap();
        assert!(!path.join("pods").exists() && second.store().exists());
    }

    #[test]
    fn stale_temporary_directories_are_removed_and_live_ones_stay() {
        let parent = tempfile::tempdir().unwrap();
        let stale = RunDirectory::temporary(parent.path())
            .unwrap()
            .path()
            .to_path_buf();
        let live = RunDirectory::temporary(parent.path()).unwrap();
        let own = RunDirectory::temporary(parent.path()).unwrap();
        own.sweep().unwrap();
        assert!(!stale.exists() && live.path().exists() && own.path().exists());
        own.remove().unwrap();
        assert!(!own.path().exists());
    }
}
