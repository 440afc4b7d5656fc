//! Tells when a file is moved into a directory: how configuration and certificates are replaced without half a file seen.
#![allow(unsafe_code)]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Moved {
    /// This was moved into the directory.
    Into(PathBuf, OsString),
    /// Too much at once: anything may have changed.
    Anything,
}

/// Watches directories.
#[derive(Debug)]
pub(super) struct Watcher {
    events: AsyncFd<Fd>,
}

/// Which directory each watch is of; the kernel knows one watch for each directory, whatever its name.
#[derive(Debug, Default)]
pub(super) struct Directories {
    by_watch: HashMap<WatchDescriptor, BTreeSet<PathBuf>>,
    known: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct Fd(Inotify);

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watcher {
    /// Needs a runtime with IO.
    pub(super) fn new() -> io::Result<Self> {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        let descriptor = Fd(Inotify::init(flags)?);
        // SAFETY: an `Inotify` owns one descriptor, always returns that one, and keeps it open for as long as it lives.
        let events = unsafe { AsyncFd::register(descriptor) }?;
        Ok(Self { events })
    }

    /// Starts watching; doing so twice changes nothing.
    pub(super) fn add(&self, directories: &mut Directories, path: &Path) -> io::Result<()> {
        if !directories.known.insert(path.to_owned()) {
            return Ok(());
        }
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        match self.events.get_ref().0.add_watch(path, flags) {
            Ok(watch) => {
                let names = directories.by_watch.entry(watch).or_default();
                names.insert(path.to_owned());
                Ok(())
            }
            Err(error) => {
                directories.known.remove(path);
                Err(error.into())
            }
        }
    }

    /// Waits for events; `directories` is looked at when they are there.
    pub(super) async fn ready(&self) -> io::Result<()> {
        self.events.readable().await?.retain_ready();
        Ok(())
    }

    /// The events that are there.
    pub(super) fn take(&self, directories: &mut Directories) -> HashSet<Moved> {
        let mut moved = HashSet::new();
        loop {
            let read = self.events.try_io(tokio::io::Interest::READABLE, |fd| {
                Ok(fd.0.read_events()?)
            });
            let Ok(events) = read else { return moved };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    moved.insert(Moved::Anything);
                }
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    // The directory is gone; whoever needs it asks for it again.
                    for path in directories.by_watch.remove(&event.wd).unwrap_or_default() {
                        directories.known.remove(&path);
                    }
                }
                let Some(name) = event.name else { continue };
                for path in directories.by_watch.get(&event.wd).into_iter().flatten() {
                    moved.insert(Moved::Into(path.clone(), name.clone()));
                }
            }
        }
    }
}

/// The directory a file is in; `.` for a bare name.
pub(super) fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

impl Moved {
    /// Whether it replaces `file`, or is anything at all in `watched`.
    pub(super) fn concerns(&self, file: &Path, watched: Option<&Path>) -> bool {
        match self {
            Self::Anything => true,
            Self::Into(directory, name) => match watched {
                Some(watched) => directory == watched,
                None => directory == parent(file) && file.file_name() == Some(name),
            },
        }
    }
}
