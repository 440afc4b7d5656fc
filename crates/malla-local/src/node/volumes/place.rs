//! Places inside a volume: sub-paths and owners.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

/// The place `below` in the volume at `root`. A missing directory is made if `create`.
pub(super) fn inside(root: &Path, below: &str, create: bool) -> Result<PathBuf, &'static str> {
    let relative = Path::new(below);
    let plain = relative
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !plain {
        return Err("must be relative and without '..'");
    }
    let root = fs::canonicalize(root).map_err(|_| "is in a volume that is gone")?;
    let mut place = root.clone();
    for part in relative.components() {
        place.push(part);
        if fs::symlink_metadata(&place).is_err() {
            if !create {
                return Err("does not exist in the volume");
            }
            fs::create_dir(&place).map_err(|_| "cannot be made in the volume")?;
            fs::set_permissions(&place, fs::Permissions::from_mode(0o750))
                .map_err(|_| "cannot be made in the volume")?;
        }
        // Links may stay in the volume (as contents from the API do) but not lead out of it.
        place = fs::canonicalize(&place).map_err(|_| "is a broken link")?;
        if !place.starts_with(&root) {
            return Err("leads out of the volume");
        }
    }
    Ok(place)
}

/// Lets the group of `fsGroup` have everything below `path`.
pub(super) fn give_to_group(path: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else {
        return Ok(());
    };
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    chown(path, None, Some(group))?;
    if found.is_dir() {
        let mode = found.permissions().mode() | 0o2070;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), Some(group))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::inside;

    #[test]
    fn sub_paths_stay_in_their_volume() {
        let root = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(root.path()).unwrap();
        symlink("/etc", root.path().join("out")).unwrap();
        fs::create_dir(root.path().join("in")).unwrap();
        symlink("in", root.path().join("link")).unwrap();
        assert_eq!(inside(root.path(), "link", false), Ok(real.join("in")));
        assert_eq!(
            inside(root.path(), "new/deep", true),
            Ok(real.join("new/deep"))
        );
        for bad in ["out", "out/passwd", "../x", "/etc", "missing"] {
            assert!(inside(root.path(), bad, false).is_err(), "{bad}");
        }
    }
}
