//! Pid 1 of the sandbox: forks for the cluster process and reaps for everyone.
//!
//! Invariants: single-threaded, and never blocks on a child; when the cluster process ends, this
//! ends, and the kernel ends all that is left in the PID namespace.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::child;
use super::enter;
use super::message::{self, MAX_FDS, Reply, Request};
use super::spec::ExitStatus;
use crate::sys::{self, Cloned};

/// Namespaces of its own that every container gets; the network's is the pod's.
const CONTAINER_NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;

/// The descriptors of one request, by name.
pub(super) struct RequestFds {
    pub(super) spec: OwnedFd,
    pub(super) status: OwnedFd,
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// The network namespace to join, or the pidfd of the container to enter.
    pub(super) place: OwnedFd,
}

/// Serves `socket` until the process `cluster` ends; returns that process's exit code.
pub(crate) fn serve(socket: OwnedFd, cluster: Pid) -> io::Result<i32> {
    let signals = SigSet::from(Signal::SIGCHLD);
    signals.thread_block()?;
    let children = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut server = Server {
        socket,
        own_pid_namespace: File::open("/proc/self/ns/pid")?.into(),
        cluster,
        running: HashMap::new(),
    };
    let mut connected = true;
    // A child may have ended before the signal was blocked.
    if let Some(code) = server.reap() {
        return Ok(code);
    }
    loop {
        let mut sources = vec![PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        if connected {
            sources.push(PollFd::new(server.socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |index: usize| sources.get(index).and_then(PollFd::any).unwrap_or(false);
        let (child_ended, asked) = (ready(0), ready(1));
        if child_ended {
            while let Ok(Some(_)) = children.read_signal() {}
            if let Some(code) = server.reap() {
                return Ok(code);
            }
        }
        if asked {
            connected = server.answer_one()?;
        }
    }
}

struct Server {
    socket: OwnedFd,
    own_pid_namespace: OwnedFd,
    cluster: Pid,
    running: HashMap<Pid, u64>,
}

impl Server {
    /// Collects every ended child; the cluster process's exit code if it was among them.
    fn reap(&mut self) -> Option<i32> {
        loop {
            let (pid, status) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid, ExitStatus::Signal(signal as i32))
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return None,
                Ok(_) => continue,
            };
            if pid == self.cluster {
                return Some(status.code());
            }
            if let Some(id) = self.running.remove(&pid) {
                self.reply(&Reply::Exited { id, status }, None);
            }
        }
    }

    /// Handles one request; false when the cluster process has closed its end.
    fn answer_one(&mut self) -> io::Result<bool> {
        let (request, fds) = match message::receive::<Request>(self.socket.as_fd()) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            // It closed its end with replies unread: it is ending.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
        };
        let id = match request {
            Request::Container { id } | Request::Exec { id } => id,
        };
        let started = name_fds(fds).and_then(|fds| match request {
            Request::Container { .. } => start_container(fds),
            Request::Exec { .. } => self.start_exec(fds),
        });
        match started {
            Ok((pid, pidfd)) => {
                self.running.insert(pid, id);
                self.reply(&Reply::Spawned { id }, Some(pidfd.as_fd()));
            }
            Err(error) => {
                let error = error.to_string();
                self.reply(&Reply::Failed { id, error }, None);
            }
        }
        Ok(true)
    }

    /// A child that is born into the container's PID namespace and goes on to enter the others.
    fn start_exec(&self, fds: RequestFds) -> io::Result<(Pid, OwnedFd)> {
        setns(fds.place.as_fd(), CloneFlags::CLONE_NEWPID)?;
        let cloned = sys::clone_process(0);
        if let Ok(Cloned::Child) = cloned {
            enter::run(fds);
        }
        setns(self.own_pid_namespace.as_fd(), CloneFlags::CLONE_NEWPID)?;
        match cloned? {
            Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
            Cloned::Child => sys::exit_now(child::EXIT_SETUP_FAILED),
        }
    }

    /// A reply that cannot be delivered means the cluster process is gone; its exit ends us.
    fn reply(&self, reply: &Reply, fd: Option<BorrowedFd<'_>>) {
        let fds: Vec<_> = fd.into_iter().collect();
        let _gone = message::send(self.socket.as_fd(), reply, &fds);
    }
}

fn start_container(fds: RequestFds) -> io::Result<(Pid, OwnedFd)> {
    match sys::clone_process(CONTAINER_NAMESPACES)? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child => child::run(fds),
    }
}

fn name_fds(fds: Vec<OwnedFd>) -> io::Result<RequestFds> {
    let got = fds.len();
    let [spec, status, stdin, stdout, stderr, place] = <[OwnedFd; MAX_FDS]>::try_from(fds)
        .map_err(|_| {
            io::Error::other(format!(
                "a request came with {got} of {MAX_FDS} descriptors"
            ))
        })?;
    Ok(RequestFds {
        spec,
        status,
        stdin,
        stdout,
        stderr,
        place,
    })
}
