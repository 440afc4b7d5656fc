//! Files that change all at once: a fresh directory, then one link moved to it.
//!
//! The layout is the kubelet's, which programs rely on: `..data` links to a dated directory, and
//! each file of the volume is a link through `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

use super::place::give_to_group;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PayloadFile {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
}

/// All files of a volume, by path in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Payload(pub(super) BTreeMap<String, PayloadFile>);

impl Payload {
    /// Makes the volume at `root` hold these files.
    pub(super) fn write(&self, root: &Path, group: Option<u32>) -> io::Result<()> {
        let stamp = jiff::Timestamp::now()
            .strftime("..%Y_%m_%d_%H_%M_%S.%9f")
            .to_string();
        let fresh = root.join(&stamp);
        fs::create_dir(&fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        for (path, file) in &self.0 {
            let plain = |part| matches!(part, Component::Normal(_));
            if !Path::new(path).components().all(plain) {
                return Err(io::Error::other(format!(
                    "path {path:?} leads out of the volume"
                )));
            }
            let place = fresh.join(path);
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&place, &file.bytes)?;
            // A group that is to have the volume can read it.
            let mode = if group.is_some() {
                file.mode | 0o040
            } else {
                file.mode
            };
            fs::set_permissions(&place, fs::Permissions::from_mode(mode))?;
        }
        give_to_group(&fresh, group)?;
        let next = root.join(DATA_NEXT);
        let _leftover = fs::remove_file(&next);
        let old = fs::read_link(root.join(DATA)).ok();
        symlink(&stamp, &next)?;
        fs::rename(&next, root.join(DATA))?;
        self.link_names(root)?;
        if let Some(old) = old {
            fs::remove_dir_all(root.join(old))?;
        }
        Ok(())
    }

    /// Links the first part of each path, and unlinks what is no longer there.
    fn link_names(&self, root: &Path) -> io::Result<()> {
        let names: BTreeSet<&str> = self
            .0
            .keys()
            .filter_map(|path| path.split('/').next())
            .collect();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with("..") && !names.contains(name.as_ref()) {
                fs::remove_file(entry.path())?;
            }
        }
        for name in names {
            let place = root.join(name);
            if fs::symlink_metadata(&place).is_err() {
                symlink(Path::new(DATA).join(name), place)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Payload, PayloadFile};

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |(path, text): &(&str, &str)| {
            let bytes = text.as_bytes().to_vec();
            ((*path).to_owned(), PayloadFile { bytes, mode: 0o644 })
        };
        Payload(files.iter().map(file).collect())
    }

    #[test]
    fn files_change_together_and_leave_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        payload(&[("a", "1"), ("deep/b", "2")])
            .write(root.path(), None)
            .unwrap();
        assert_eq!(fs::read_to_string(root.path().join("deep/b")).unwrap(), "2");
        payload(&[("a", "3")]).write(root.path(), None).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("a")).unwrap(), "3");
        let mut names: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(
            names.iter().any(|name| name == "..data") && names[2] == "a",
            "{names:?}"
        );
    }
}
