//! Decides, before anything is mounted, which host directories must become groves.
//!
//! Pure but for reading the host's tree. Invariant: every mount target is resolved as the
//! container will see it, so `/var/run/secrets` is `/run/secrets` where `/var/run` is a link.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Directories that are the container's own, empty at first, with their modes.
pub(super) const PRIVATE: [(&str, u32); 6] = [
    ("/tmp", 0o1777),
    ("/run", 0o755),
    ("/var/tmp", 0o1777),
    ("/dev", 0o755),
    ("/proc", 0o555),
    ("/sys", 0o555),
];
/// Groves in every container: `/etc` for resolv.conf and its like, `/var` for `/var/tmp`.
const ALWAYS: [&str; 3] = ["/", "/etc", "/var"];
/// As in the kernel's path walk.
const MAX_LINKS: usize = 40;

/// Whether `path` is one of the private directories, or in one.
pub(super) fn is_private(path: &Path) -> bool {
    PRIVATE.iter().any(|(private, _)| path.starts_with(private))
}

/// Which directories become groves, and where each mount goes.
#[derive(Debug)]
pub(super) struct Plan {
    groves: BTreeSet<PathBuf>,
    targets: Vec<PathBuf>,
}

impl Plan {
    /// Plans mounts at `targets` (container paths) over the tree at `host`.
    pub(super) fn new<'a>(
        host: &Path,
        targets: impl Iterator<Item = &'a Path>,
    ) -> io::Result<Self> {
        let mut groves: BTreeSet<PathBuf> = ALWAYS.iter().map(PathBuf::from).collect();
        let mut resolved = Vec::new();
        for target in targets {
            let found = resolve(host, target)?;
            if !found.exists && !is_private(&found.path) {
                // Every ancestor the host has must become private for the rest to be made in it.
                groves.extend(ancestors(&found.path));
            }
            resolved.push(found.path);
        }
        // A target that exists on the host needs real directories above it if any of them is
        // reached through a grove, where it would otherwise be a link.
        loop {
            let more: Vec<PathBuf> = resolved
                .iter()
                .filter(|target| !is_private(target))
                .filter(|target| {
                    ancestors(target)
                        .any(|above| above != Path::new("/") && groves.contains(&above))
                })
                .flat_map(|target| ancestors(target))
                .filter(|above| !groves.contains(above))
                .collect();
            if more.is_empty() {
                break;
            }
            groves.extend(more);
        }
        Ok(Self {
            groves,
            targets: resolved,
        })
    }

    pub(super) fn is_grove(&self, path: &Path) -> bool {
        self.groves.contains(path)
    }

    pub(super) fn is_target(&self, path: &Path) -> bool {
        self.targets.iter().any(|target| target == path)
    }

    /// Resolved targets, in the order given.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Path> {
        self.targets.iter().map(PathBuf::as_path)
    }
}

struct Resolved {
    path: PathBuf,
    exists: bool,
}

/// Follows links of the host below `host` as if it were the root.
fn resolve(host: &Path, target: &Path) -> io::Result<Resolved> {
    let refuse = |why: &str| Err(io::Error::other(format!("{}: {why}", target.display())));
    if !target.is_absolute() {
        return refuse("a mount path must be absolute");
    }
    let mut todo: VecDeque<OsString> = names(target).collect();
    let mut path = PathBuf::from("/");
    let mut exists = true;
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            path.pop();
            continue;
        }
        path.push(&name);
        if !exists || is_private(&path) {
            continue;
        }
        match fs::symlink_metadata(host.join(path.strip_prefix("/").unwrap_or(&path))) {
            Ok(found) if found.is_symlink() => {
                links += 1;
                if links > MAX_LINKS {
                    return refuse("too many symbolic links on the host");
                }
                let link = fs::read_link(host.join(path.strip_prefix("/").unwrap_or(&path)))?;
                path.pop();
                if link.is_absolute() {
                    path = PathBuf::from("/");
                }
                for name in names(&link).rev() {
                    todo.push_front(name);
                }
            }
            Ok(found) if !found.is_dir() && !todo.is_empty() => {
                return refuse(&format!("{} is a file on the host", path.display()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => exists = false,
            Err(error) => return Err(error),
        }
    }
    match path.to_str() {
        Some("/" | "/proc" | "/sys" | "/dev") => refuse("this path cannot be mounted over"),
        _ => Ok(Resolved { path, exists }),
    }
}

fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

fn ancestors(path: &Path) -> impl Iterator<Item = PathBuf> {
    path.ancestors().skip(1).map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::Plan;

    /// A host with `/etc`, `/usr/local/bin`, `/opt/app/conf` and `/var/run -> /run`.
    fn check(targets: &[&str], resolved: &[&str], groves: &[&str]) {
        let host = tempfile::tempdir().unwrap();
        for directory in ["etc", "usr/local/bin", "opt/app/conf", "var/lib", "run"] {
            fs::create_dir_all(host.path().join(directory)).unwrap();
        }
        symlink("/run", host.path().join("var/run")).unwrap();
        let plan = Plan::new(host.path(), targets.iter().map(Path::new)).unwrap();
        let got: Vec<_> = plan.targets().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(got, resolved);
        for path in [
            "/usr",
            "/usr/local",
            "/opt",
            "/opt/app",
            "/var/lib",
            "/etc/istio",
        ] {
            let expected = groves.contains(&path);
            assert_eq!(plan.is_grove(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn links_of_the_host_are_followed_into_private_places() {
        check(
            &["/var/run/secrets/tokens", "/tmp/x"],
            &["/run/secrets/tokens", "/tmp/x"],
            &[],
        );
    }

    #[test]
    fn only_directories_that_gain_an_entry_become_groves() {
        check(
            &["/etc/istio/proxy"],
            &["/etc/istio/proxy"],
            &["/etc/istio"],
        );
        check(&["/opt/app/conf"], &["/opt/app/conf"], &[]);
        check(
            &["/usr/local/app"],
            &["/usr/local/app"],
            &["/usr", "/usr/local"],
        );
    }

    #[test]
    fn an_existing_target_below_a_grove_is_reached_through_real_directories() {
        check(
            &["/opt/new", "/opt/app/conf"],
            &["/opt/new", "/opt/app/conf"],
            &["/opt", "/opt/app"],
        );
    }

    #[test]
    fn places_that_make_a_container_are_refused() {
        for target in ["/", "/proc", "/dev", "relative", "/etc/../sys"] {
            let plan = Plan::new(Path::new("/"), [Path::new(target)].into_iter());
            assert!(plan.is_err(), "{target}");
        }
    }
}
