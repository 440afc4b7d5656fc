//! Moves bytes between two sockets through a pipe, without copying them to user space (splice(2)).
//!
//! Invariant: [`Pipe::held`] is what was put in and not yet taken out.
#![allow(unsafe_code)]
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

/// The kernel's default pipe size, bytes.
const CAPACITY: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

impl Pipe {
    /// Two file descriptors; fails where they run out.
    pub(super) fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self {
            read,
            write,
            held: 0,
        })
    }

    /// Bytes in the pipe.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes what `from` has; 0 is its end. Call only with an empty pipe, or `WouldBlock` could mean either side.
    pub(super) fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
        let count = splice(from, &self.write, CAPACITY)?;
        self.held += count;
        Ok(count)
    }

    /// Gives what it holds to `to`.
    pub(super) fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
        let count = splice(&self.read, to, self.held)?;
        self.held -= count;
        Ok(count)
    }
}

fn splice(from: &impl AsFd, to: &impl AsFd, count: usize) -> io::Result<usize> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: both descriptors are borrowed and so open for the call; null offsets mean "at the current position", which is
    // all that sockets and pipes have; no memory of ours is touched.
    let result = unsafe {
        libc::splice(
            from.as_raw_fd(),
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            count,
            flags,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
