//! The root file system of a container: the host's tree, read-only, with private places on top.
//!
//! The root is a memory file system. Top directories of the host are bound into it read-only;
//! a directory in which a mount point must appear that the host does not have becomes a *grove*:
//! a private directory whose entries are links to the host's. So `/etc/istio/proxy` can be mounted
//! without touching the host, and without overlayfs, which not every kernel and host file
//! system allow to ordinary users.
//!
//! Invariants: nothing of the host is written; `/tmp`, `/run`, `/var/tmp` and `/dev` are private
//! to the container; the node's own state is hidden; no symbolic link inside a volume is followed
//! while mounting.

mod plan;

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pivot_root;

use self::plan::Plan;
use super::child::context;
use super::spec::{Mount, MountKind, RootSpec};
use crate::sys;

/// Where the host's tree is inside a container; groves' links point into it.
pub(super) const HOST: &str = "/.host";
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// Kernel switches that a container must not turn (what runc makes read-only).
const READ_ONLY_PROC: [&str; 4] = ["sys", "sysrq-trigger", "irq", "bus"];

/// Builds the root file system in this process's mount namespace and makes it the root.
pub(super) fn enter(spec: &RootSpec) -> io::Result<()> {
    let plan = Plan::new(
        Path::new("/"),
        spec.mounts.iter().map(|m| m.target.as_path()),
    )?;
    let builder = Builder {
        root: &spec.scratch,
        plan: &plan,
    };
    builder.begin(&spec.hidden)?;
    builder.grove(Path::new("/"))?;
    builder.private_places()?;
    builder.devices()?;
    let targets: Vec<_> = plan.targets().collect();
    for (index, (mount, target)) in spec.mounts.iter().zip(&targets).enumerate() {
        let inner = targets.iter().skip(index + 1);
        let inner = inner.zip(spec.mounts.iter().skip(index + 1));
        let inner = inner.filter(|(other, _)| other.starts_with(target));
        builder
            .mount(
                mount,
                target,
                inner.map(|(target, mount)| (mount, &**target)),
            )
            .map_err(|error| context(&format!("mount {}", mount.target.display()), error))?;
    }
    builder.finish(spec.read_only)
}

struct Builder<'a> {
    root: &'a Path,
    plan: &'a Plan,
}

impl Builder<'_> {
    /// The place of a container path while the root is being built.
    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn begin(&self, hidden: &Path) -> io::Result<()> {
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(
            Some("tmpfs"),
            self.root,
            Some("tmpfs"),
            MsFlags::MS_NOSUID,
            Some("mode=0755"),
        )?;
        let host = self.at(Path::new(HOST));
        fs::create_dir(&host)?;
        bind(Path::new("/"), &host, true)?;
        let cover = host.join(hidden.strip_prefix("/").unwrap_or(hidden));
        mount(
            Some("tmpfs"),
            &cover,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=0000,size=0"),
        )
        .map_err(|error| context("hide the node's state", error.into()))?;
        sys::set_mount_read_only(&c_path(&host)?, true)
    }

    /// Fills the private directory `path` with what the host has there.
    fn grove(&self, path: &Path) -> io::Result<()> {
        let host = self
            .at(Path::new(HOST))
            .join(path.strip_prefix("/").unwrap_or(path));
        let top = path == Path::new("/");
        for entry in fs::read_dir(&host)? {
            let entry = entry?;
            let inside = path.join(entry.file_name());
            if plan::is_private(&inside) || inside == Path::new(HOST) {
                continue;
            }
            let place = self.at(&inside);
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                symlink(fs::read_link(entry.path())?, &place)?;
            } else if kind.is_dir() && self.plan.is_grove(&inside) {
                let mode = entry.metadata()?.permissions().mode();
                make_directory(&place, mode & 0o7777)?;
                self.grove(&inside)?;
            } else if self.plan.is_target(&inside) {
                make_mount_point(&place, kind.is_dir())?;
            } else if kind.is_dir() && top {
                make_directory(&place, 0o755)?;
                bind(&entry.path(), &place, true)?;
            } else {
                let link = Path::new(HOST).join(inside.strip_prefix("/").unwrap_or(&inside));
                symlink(link, &place)?;
            }
        }
        Ok(())
    }

    fn private_places(&self) -> io::Result<()> {
        for (path, mode) in plan::PRIVATE {
            let place = self.at(Path::new(path));
            fs::create_dir_all(&place)?;
            fs::set_permissions(&place, Permissions::from_mode(mode))?;
        }
        let run_lock = self.at(Path::new("/run/lock"));
        make_directory(&run_lock, 0o1777)?;
        bind(Path::new("/sys"), &self.at(Path::new("/sys")), true)?;
        sys::set_mount_read_only(&c_path(&self.at(Path::new("/sys")))?, true)?;
        let proc = self.at(Path::new("/proc"));
        mount(
            Some("proc"),
            &proc,
            Some("proc"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            None::<&str>,
        )
        .map_err(|error| {
            context(
                "mount /proc (is /proc partly hidden, as in an unprivileged container?)",
                error.into(),
            )
        })?;
        for name in READ_ONLY_PROC {
            let path = proc.join(name);
            if path.exists() {
                bind(&path, &path, true)?;
                sys::set_mount_read_only(&c_path(&path)?, true)?;
            }
        }
        Ok(())
    }

    fn devices(&self) -> io::Result<()> {
        let dev = self.at(Path::new("/dev"));
        for name in DEVICES {
            let place = dev.join(name);
            File::create(&place)?;
            bind(&Path::new("/dev").join(name), &place, false)?;
        }
        for (name, link) in DEVICE_LINKS {
            symlink(link, dev.join(name))?;
        }
        make_directory(&dev.join("shm"), 0o1777)?;
        make_directory(&dev.join("pts"), 0o755)?;
        let devpts = |options: &str| {
            mount(
                Some("devpts"),
                &dev.join("pts"),
                Some("devpts"),
                MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
                Some(options),
            )
        };
        // Group 5 is `tty`; a user namespace may not map it.
        devpts("newinstance,ptmxmode=0666,mode=0620,gid=5")
            .or_else(|_| devpts("newinstance,ptmxmode=0666,mode=0620"))
            .map_err(|error| context("mount /dev/pts", error.into()))
    }

    /// `inner` will be mounted within: their places are made while that is possible.
    fn mount<'m>(
        &self,
        wanted: &Mount,
        target: &Path,
        inner: impl Iterator<Item = (&'m Mount, &'m Path)>,
    ) -> io::Result<()> {
        let place = self.walk_to(target)?;
        make_mount_point(&place, is_directory(wanted)?)?;
        let MountKind::Bind { source } = &wanted.kind;
        bind(source, &place, true)?;
        if wanted.read_only {
            for (mount, target) in inner {
                make_mount_point(&self.walk_to(target)?, is_directory(mount)?)?;
            }
            sys::set_mount_read_only(&c_path(&place)?, true)?;
        }
        Ok(())
    }

    /// Makes the directories above `target`, refusing to walk through a link: inside a volume one
    /// could lead anywhere.
    fn walk_to(&self, target: &Path) -> io::Result<PathBuf> {
        let mut place = self.root.to_path_buf();
        let names: Vec<_> = target
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let Some((last, parents)) = names.split_last() else {
            return Err(io::Error::other("the mount path is the root directory"));
        };
        for name in parents {
            place.push(name);
            match fs::symlink_metadata(&place) {
                Ok(found) if found.is_dir() => {}
                Ok(_) => {
                    return Err(io::Error::other(format!(
                        "{} is not a directory",
                        Path::new("/")
                            .join(place.strip_prefix(self.root).unwrap_or(&place))
                            .display()
                    )));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_directory(&place, 0o755)?;
                }
                Err(error) => return Err(error),
            }
        }
        place.push(last);
        if fs::symlink_metadata(&place).is_ok_and(|found| found.is_symlink()) {
            return Err(io::Error::other("the mount path is a symbolic link"));
        }
        Ok(place)
    }

    fn finish(&self, read_only: bool) -> io::Result<()> {
        std::env::set_current_dir(self.root)?;
        // With both arguments ".", the old root is stacked under the new one (pivot_root(2)).
        pivot_root(".", ".").map_err(|error| context("pivot_root", error.into()))?;
        umount2(".", MntFlags::MNT_DETACH)?;
        std::env::set_current_dir("/")?;
        if read_only {
            sys::set_mount_read_only(c"/", false)?;
        }
        Ok(())
    }
}

fn bind(source: &Path, target: &Path, recursive: bool) -> io::Result<()> {
    let mut flags = MsFlags::MS_BIND;
    if recursive {
        flags |= MsFlags::MS_REC;
    }
    let none: Option<&str> = None;
    mount(Some(source), target, none, flags, none).map_err(|error| {
        context(
            &format!("bind {} on {}", source.display(), target.display()),
            error.into(),
        )
    })
}

/// An empty file or directory to mount over, unless there is one already.
fn make_mount_point(place: &Path, directory: bool) -> io::Result<()> {
    match (place.symlink_metadata(), directory) {
        (Ok(found), true) if !found.is_dir() => Err(io::Error::other(
            "a directory cannot be mounted over a file",
        )),
        (Ok(found), false) if found.is_dir() => Err(io::Error::other(
            "a file cannot be mounted over a directory",
        )),
        (Ok(_), _) => Ok(()),
        (Err(_), true) => make_directory(place, 0o755),
        (Err(_), false) => File::create(place).map(drop),
    }
}

fn make_directory(place: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(place)?;
    // The umask may have taken bits away.
    fs::set_permissions(place, Permissions::from_mode(mode))
}

fn is_directory(mount: &Mount) -> io::Result<bool> {
    let MountKind::Bind { source } = &mount.kind;
    let found = fs::metadata(source);
    let found = found.map_err(|error| context(&format!("source {}", source.display()), error))?;
    Ok(found.is_dir())
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::other("a path contains a NUL byte"))
}
