//! Where clusters of this user are, and which of them run.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use malla_local::RunDirectory;
use nix::unistd::{Pid, Uid};

/// In a cluster's folder: the process to tell when it is to end.
const LAUNCHER: &str = "launcher";
const KUBECONFIG: &str = "kubeconfig";

/// Claims the folder the user named, or a new one that goes with the cluster.
pub(crate) fn claim(data: Option<&Path>) -> Result<RunDirectory> {
    let directory = match data {
        Some(path) => {
            fs::create_dir_all(path)
                .with_context(|| format!("make the folder {}", path.display()))?;
            let path = path
                .canonicalize()
                .with_context(|| format!("find the folder {}", path.display()))?;
            RunDirectory::kept(&path)?
        }
        None => RunDirectory::temporary(&temporary_parent()?)?,
    };
    let file = directory.path().join(LAUNCHER);
    let pid = std::process::id().to_string();
    fs::write(&file, pid)
        .with_context(|| format!("write {} (is the disk full?)", file.display()))?;
    Ok(directory)
}

pub(crate) fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join(KUBECONFIG)
}

/// The folder of a running cluster and its launcher: the named one, or this user's only one.
pub(crate) fn running(data: Option<PathBuf>) -> Result<(PathBuf, Pid)> {
    let candidates = match data {
        Some(folder) => vec![folder],
        None => {
            let entries = fs::read_dir(temporary_parent()?).context("look for running clusters")?;
            entries
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect()
        }
    };
    let mut found = candidates
        .into_iter()
        .filter_map(|folder| launcher(&folder).map(|pid| (folder, pid)));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => bail!(
            "no cluster is running (start one with: malla local up, or malla demo; or name its folder with --data DIR)"
        ),
        (Some(_), Some(_)) => bail!(
            "several clusters are running: name the folder of the one you mean with --data DIR"
        ),
    }
}

/// The launcher of a cluster's folder, if it still runs.
fn launcher(folder: &Path) -> Option<Pid> {
    let text = fs::read_to_string(folder.join(LAUNCHER)).ok()?;
    let pid: i32 = text.trim().parse().ok().filter(|pid| *pid > 1)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    name.starts_with("malla").then(|| Pid::from_raw(pid))
}

/// Removes the folder of temporary clusters, unless there are others in it.
pub(crate) fn leave() {
    if let Ok(parent) = temporary_parent() {
        drop(fs::remove_dir(parent));
    }
}

/// A folder of this user's below the system's temporary one.
fn temporary_parent() -> Result<PathBuf> {
    let user = Uid::effective().as_raw();
    let parent = std::env::temp_dir().join(format!("malla-{user}"));
    fs::DirBuilder::new()
        .mode(0o711)
        .recursive(true)
        .create(&parent)
        .with_context(|| format!("make the folder {}", parent.display()))?;
    let metadata =
        fs::symlink_metadata(&parent).with_context(|| format!("look at {}", parent.display()))?;
    if !metadata.is_dir() || metadata.uid() != user {
        bail!(
            "{} belongs to somebody else: give a folder of your own with --data DIR",
            parent.display()
        );
    }
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_folder_is_claimed_once() {
        let base = std::env::temp_dir().join(format!("malla-home-test-{}", std::process::id()));
        let directory = claim(Some(&base)).unwrap();
        assert!(claim(Some(&base)).is_err());
        drop(directory);
        claim(Some(&base)).unwrap();
        fs::remove_dir_all(&base).unwrap();
    }

    #[test]
    fn a_folder_whose_launcher_has_gone_is_not_running() {
        let base = std::env::temp_dir().join(format!("malla-gone-test-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        fs::write(base.join(LAUNCHER), "1").unwrap();
        let error = running(Some(base.clone())).unwrap_err().to_string();
        assert!(error.contains("no cluster is running"), "{error}");
        fs::remove_dir_all(&base).unwrap();
    }
}
