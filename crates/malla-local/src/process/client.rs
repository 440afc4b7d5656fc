//! The cluster process's side: asks pid 1 for processes and watches them.
//!
//! Invariants: no thread per process, and no signal by number: processes are held by pidfds, so a
//! reused pid can never be hit.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

use super::message::{self, Progress, Reply, Request, packet_pair};
use super::spec::{CommandSpec, ContainerSpec, ExitStatus};
use crate::sandbox::Inside;
use crate::sys;

/// Why a command is not running.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The container's own fault, in words for its status.
    #[error("{0}")]
    Start(String),
    #[error("ask the sandbox's init for a process")]
    Io(#[from] io::Error),
}

/// The three standard streams of a command.
#[derive(Debug)]
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// The cluster process's end of the socket to pid 1.
#[derive(Debug)]
pub(crate) enum Connection {
    Fresh(OwnedFd),
    Open(Arc<Spawner>),
}

/// Starts processes through pid 1.
#[derive(Debug)]
pub struct Spawner {
    shared: Arc<Shared>,
    _replies: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    slots: Mutex<HashMap<u64, Slot>>,
}

#[derive(Debug)]
struct Slot {
    spawned: Option<oneshot::Sender<Result<Outer, String>>>,
    exit: watch::Sender<Option<ExitStatus>>,
}

/// A process that pid 1 started. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    /// The container's init, or the command itself if it entered a container.
    outer: Outer,
    /// The command.
    main: OwnedFd,
    /// The node's end of the command's terminal.
    pub terminal: Option<OwnedFd>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

/// A pidfd whose process does not outlive it: a start that is given up leaves nothing behind.
#[derive(Debug)]
struct Outer(OwnedFd);

impl Drop for Outer {
    fn drop(&mut self) {
        let _already_gone = sys::pidfd_signal(self.0.as_fd(), Signal::SIGKILL);
    }
}

impl Spawner {
    /// Talks to the pid 1 of this sandbox; one connection for all who ask. Needs a tokio runtime,
    /// always the same.
    pub fn of(inside: &Inside) -> io::Result<Arc<Self>> {
        let mut shared = inside
            .spawner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let spawner = match &*shared {
            Connection::Open(spawner) => return Ok(Arc::clone(spawner)),
            Connection::Fresh(socket) => Arc::new(Self::connect(socket.try_clone()?)?),
        };
        *shared = Connection::Open(Arc::clone(&spawner));
        Ok(spawner)
    }

    /// Takes the cluster process's end of the socket to pid 1. Needs a tokio runtime.
    pub(crate) fn connect(socket: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&socket)?;
        let shared = Arc::new(Shared {
            socket: sys::watch_fd(socket)?,
            next: AtomicU64::new(1),
            slots: Mutex::default(),
        });
        let reader = Arc::clone(&shared);
        let replies = AbortOnDropHandle::new(tokio::spawn(async move { reader.dispatch().await }));
        Ok(Self {
            shared,
            _replies: replies,
        })
    }

    /// Starts a container in the network namespace `network`; returns when its command runs.
    pub async fn run(
        &self,
        spec: &ContainerSpec,
        stdio: Stdio,
        network: BorrowedFd<'_>,
    ) -> Result<Process, RunError> {
        let id = self.next_id();
        self.start(id, &Request::Container { id }, spec, stdio, network)
            .await
    }

    /// Starts a command in the container whose init is `container`.
    pub async fn exec(
        &self,
        spec: &CommandSpec,
        stdio: Stdio,
        container: &Process,
    ) -> Result<Process, RunError> {
        let id = self.next_id();
        let place = container.outer.0.as_fd();
        self.start(id, &Request::Exec { id }, spec, stdio, place)
            .await
    }

    fn next_id(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    async fn start<T: Serialize>(
        &self,
        id: u64,
        request: &Request,
        spec: &T,
        stdio: Stdio,
        place: BorrowedFd<'_>,
    ) -> Result<Process, RunError> {
        let memory = message::to_memory(spec)?;
        let (ours, theirs) = packet_pair()?;
        set_nonblocking(&ours)?;
        let (spawned, spawned_answer) = oneshot::channel();
        let (exit, exit_answer) = watch::channel(None);
        let slot = Slot {
            spawned: Some(spawned),
            exit,
        };
        self.shared.slots().insert(id, slot);
        let fds = [
            memory.as_fd(),
            theirs.as_fd(),
            stdio.stdin.as_fd(),
            stdio.stdout.as_fd(),
            stdio.stderr.as_fd(),
            place,
        ];
        if let Err(error) = self.shared.send(request, &fds).await {
            self.shared.slots().remove(&id);
            return Err(error.into());
        }
        // Our copies must go, or the ends of the pipes and of the status would never be seen.
        drop((stdio, theirs));
        let outer = match spawned_answer.await {
            Ok(Ok(pidfd)) => pidfd,
            Ok(Err(error)) => return Err(RunError::Start(error)),
            Err(_) => return Err(init_is_gone().into()),
        };
        follow_start(outer, ours, exit_answer).await
    }
}

/// Reads a child's progress until its command runs or has failed to.
async fn follow_start(
    outer: Outer,
    status: OwnedFd,
    exit: watch::Receiver<Option<ExitStatus>>,
) -> Result<Process, RunError> {
    let status = sys::watch_fd(status)?;
    let mut main = None;
    let mut terminal = None;
    while let Some((progress, mut fds)) = receive::<Progress>(&status).await? {
        match progress {
            Progress::Main => main = fds.pop(),
            Progress::Terminal => terminal = fds.pop(),
            Progress::Failed { error } => return Err(RunError::Start(error)),
        }
    }
    let main = match main {
        Some(main) => main,
        None => outer.0.try_clone()?,
    };
    Ok(Process {
        outer,
        main,
        terminal,
        exit,
    })
}

impl Process {
    /// Signals the command itself.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        sys::pidfd_signal(self.main.as_fd(), signal)
    }

    /// Ends the command, and with a container's init every process of the container.
    pub fn kill(&self) -> io::Result<()> {
        sys::pidfd_signal(self.outer.0.as_fd(), Signal::SIGKILL)
    }

    /// Waits for the end. May be called by several tasks, and after the end.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or(ExitStatus::Signal(libc::SIGKILL)),
            // Pid 1 is gone, and with it every process.
            Err(_) => ExitStatus::Signal(libc::SIGKILL),
        }
    }

    /// The command's pid as processes outside of the sandbox see it; `None` once it has ended.
    pub fn host_pid(&self) -> Option<i32> {
        host_pid(self.main.as_fd())
    }
}

/// The pid behind a pidfd in the PID namespace of the mounted `/proc`, which is the host's.
pub(crate) fn host_pid(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(info).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok().filter(|pid| *pid > 0)
}

impl Shared {
    fn slots(&self) -> MutexGuard<'_, HashMap<u64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut guard = self.socket.writable().await?;
            let sent = guard.try_io(|socket| message::send(socket.as_fd(), request, fds));
            if let Ok(result) = sent {
                return result;
            }
        }
    }

    /// Hands replies to those who wait; ends when pid 1 does.
    async fn dispatch(&self) {
        loop {
            match receive::<Reply>(&self.socket).await {
                Ok(Some((reply, fds))) => self.settle(reply, fds),
                Ok(None) | Err(_) => {
                    self.slots().clear();
                    return;
                }
            }
        }
    }

    fn settle(&self, reply: Reply, mut fds: Vec<OwnedFd>) {
        let mut slots = self.slots();
        match reply {
            Reply::Spawned { id } => {
                let waiting = slots.get_mut(&id).and_then(|slot| slot.spawned.take());
                if let (Some(waiting), Some(pidfd)) = (waiting, fds.pop()) {
                    let _caller_gone = waiting.send(Ok(Outer(pidfd)));
                }
            }
            Reply::Failed { id, error } => {
                let waiting = slots.remove(&id).and_then(|slot| slot.spawned);
                if let Some(waiting) = waiting {
                    let _caller_gone = waiting.send(Err(error));
                }
            }
            Reply::Exited { id, status } => {
                if let Some(slot) = slots.remove(&id) {
                    slot.exit.send_replace(Some(status));
                }
            }
        }
    }
}

async fn receive<T: DeserializeOwned>(
    socket: &AsyncFd<OwnedFd>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    loop {
        let mut guard = socket.readable().await?;
        if let Ok(result) = guard.try_io(|socket| message::receive(socket.as_fd())) {
            return result;
        }
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

fn init_is_gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the sandbox's init is gone")
}
