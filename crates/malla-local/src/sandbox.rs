//! The sandbox of one local cluster: namespaces in which it may do as it likes, and that end with
//! its launcher.
//!
//! ```text
//! launcher ── helper ── pid 1 (reaps, forks containers) ── cluster process (tokio)
//!             waits     └─ new PID and mount namespace ──────────────────────────
//! ```
//! For an ordinary user a user namespace comes first, with the ranges of /etc/subuid and
//! /etc/subgid. The network namespace stays the host's, so that the cluster can listen on the
//! host's loopback; pods get network namespaces of their own.
//!
//! Invariant: when the launcher ends, by whatever means, every process of the cluster ends, and
//! with them their mounts, network namespaces and rules.

mod identity;
mod refusal;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid, setsid};

use crate::process::{Connection, server};
use crate::sys;

use self::identity::IdentityMaps;
pub use self::refusal::SandboxError;

/// What the cluster's code gets inside the sandbox.
#[derive(Debug)]
pub struct Inside {
    /// A stream to the launcher's [`Sandbox::control`]; it ends when the launcher does.
    pub control: UnixStream,
    pub(crate) spawner: Mutex<Connection>,
    /// Whether the sandbox is a user namespace of an ordinary user.
    pub rootless: bool,
}

/// The launcher's hold on a running sandbox. Dropping it ends the sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// A stream to the cluster's [`Inside::control`].
    pub control: UnixStream,
    helper: Pid,
    helper_fd: OwnedFd,
    cluster_fd: OwnedFd,
    ended: bool,
}

/// A thread has its creator's name until it first runs.
const THREADS_NAME_THEMSELVES: Duration = Duration::from_secs(1);

/// Starts a sandbox and runs `cluster` in it; its result is the sandbox's exit code.
///
/// Call this before the process has threads (so before tokio's runtime): it forks, and goes on in
/// the children. The sandbox ends with the calling thread, so call it from the main one.
pub fn enter(cluster: impl FnOnce(Inside) -> i32) -> Result<Sandbox, SandboxError> {
    refuse_threads()?;
    let maps = if Uid::effective().is_root() {
        None
    } else {
        Some(IdentityMaps::of_this_user()?)
    };
    let (control, control_inside) = UnixStream::pair().map_err(SandboxError::Io)?;
    let (mut sync, mut sync_inside) = UnixStream::pair().map_err(SandboxError::Io)?;
    let launcher = nix::unistd::getpid();
    let Some(helper) = sys::fork().map_err(SandboxError::Io)? else {
        drop((control, sync));
        let rootless = maps.is_some();
        let code = match helper(
            launcher,
            rootless,
            &mut sync_inside,
            control_inside,
            cluster,
        ) {
            Ok(code) => code,
            Err(error) => tell_failure(&mut sync_inside, &error),
        };
        sys::exit_now(code)
    };
    drop((control_inside, sync_inside));
    let mut sandbox = Sandbox {
        control,
        helper,
        helper_fd: sys::pidfd_open(helper).map_err(SandboxError::Io)?,
        cluster_fd: sys::pidfd_open(helper).map_err(SandboxError::Io)?,
        ended: false,
    };
    if let Some(maps) = maps {
        expect_step(&mut sync, Step::Unshared)?;
        maps.apply(helper)?;
        sync.write_all(&[Step::Mapped as u8])
            .map_err(SandboxError::Io)?;
    }
    expect_step(&mut sync, Step::Running)?;
    let mut pid = [0_u8; 4];
    sync.read_exact(&mut pid).map_err(|_| SandboxError::Died)?;
    let cluster = Pid::from_raw(i32::from_le_bytes(pid));
    sandbox.cluster_fd = sys::pidfd_open(cluster).map_err(SandboxError::Io)?;
    Ok(sandbox)
}

impl Sandbox {
    /// Asks the cluster to end (SIGTERM to the cluster process).
    pub fn terminate(&self) -> io::Result<()> {
        sys::pidfd_signal(self.cluster_fd.as_fd(), Signal::SIGTERM)
    }

    /// Waits for the end; returns the cluster's exit code. Blocks this thread.
    pub fn wait(mut self) -> io::Result<i32> {
        self.reap()
    }

    /// The cluster process's pid.
    pub fn cluster_pid(&self) -> Option<i32> {
        crate::process::host_pid(self.cluster_fd.as_fd())
    }

    fn reap(&mut self) -> io::Result<i32> {
        loop {
            match waitpid(self.helper, None) {
                Ok(WaitStatus::Exited(_, code)) => {
                    self.ended = true;
                    return Ok(code);
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    self.ended = true;
                    return Ok(128 + signal as i32);
                }
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if !self.ended {
            let _already_gone = sys::pidfd_signal(self.helper_fd.as_fd(), Signal::SIGKILL);
            let _already_reaped = self.reap();
        }
    }
}

/// Bytes by which launcher and helper keep step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Step {
    Unshared = 1,
    Mapped = 2,
    Running = 3,
    /// An error text follows.
    Failed = 4,
}

fn expect_step(sync: &mut UnixStream, wanted: Step) -> Result<(), SandboxError> {
    let mut step = [0_u8];
    if sync.read_exact(&mut step).is_err() {
        return Err(SandboxError::Died);
    }
    if step == [wanted as u8] {
        return Ok(());
    }
    let mut text = String::new();
    sync.read_to_string(&mut text).map_err(SandboxError::Io)?;
    Err(SandboxError::Inside(text))
}

fn tell_failure(sync: &mut UnixStream, error: &SandboxError) -> i32 {
    let mut message = vec![Step::Failed as u8];
    message.extend(error.to_string().bytes());
    let _launcher_gone = sync.write_all(&message);
    1
}

/// The helper: enters the namespaces, then waits for pid 1 in them.
fn helper(
    launcher: Pid,
    rootless: bool,
    sync: &mut UnixStream,
    control: UnixStream,
    cluster: impl FnOnce(Inside) -> i32,
) -> Result<i32, SandboxError> {
    // Ctrl-C in a terminal must reach the launcher only; it then ends us in order.
    setsid().map_err(SandboxError::from)?;
    sys::close_on_exec_all().map_err(SandboxError::Io)?;
    if rootless {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(refusal::explain)?;
        sync.write_all(&[Step::Unshared as u8])
            .map_err(SandboxError::Io)?;
        let mut mapped = [0_u8];
        sync.read_exact(&mut mapped).map_err(SandboxError::Io)?;
        become_root()?;
    }
    // Changing identity clears the death signal, so it comes after.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != launcher {
        return Err(SandboxError::Died);
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).map_err(refusal::explain)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(refusal::explain)?;
    let (mut alive, mut alive_inside) = UnixStream::pair().map_err(SandboxError::Io)?;
    let Some(first) = sys::fork().map_err(SandboxError::Io)? else {
        drop(alive);
        let code = first_process(rootless, sync, &mut alive_inside, control, cluster);
        sys::exit_now(code.unwrap_or_else(|error| tell_failure(sync, &error)))
    };
    drop((alive_inside, control));
    alive
        .write_all(&[Step::Running as u8])
        .map_err(SandboxError::Io)?;
    close_sync(sync);
    loop {
        match waitpid(first, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The launcher must see pid 1's end of `sync` alone.
fn close_sync(sync: &UnixStream) {
    let _closed = sync.shutdown(std::net::Shutdown::Read);
}

fn become_root() -> Result<(), SandboxError> {
    let (root, wheel) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[])?;
    setresgid(wheel, wheel, wheel)?;
    setresuid(root, root, root)?;
    Ok(())
}

/// Pid 1 of the sandbox: forks the cluster process, then serves it.
fn first_process(
    rootless: bool,
    sync: &mut UnixStream,
    alive: &mut UnixStream,
    control: UnixStream,
    cluster: impl FnOnce(Inside) -> i32,
) -> Result<i32, SandboxError> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // If the helper died before the line above, nobody writes this byte.
    let mut go = [0_u8];
    alive.read_exact(&mut go).map_err(SandboxError::Io)?;
    prctl::set_name(c"malla-init")?;
    allow_many_files()?;
    let (ours, spawner) = crate::process::packet_pair().map_err(SandboxError::Io)?;
    let Some(process) = sys::fork().map_err(SandboxError::Io)? else {
        drop(ours);
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        prctl::set_name(c"malla-cluster")?;
        tell_running(sync).map_err(SandboxError::Io)?;
        let inside = Inside {
            control,
            spawner: Mutex::new(Connection::Fresh(spawner)),
            rootless,
        };
        sys::exit_now(cluster(inside))
    };
    drop((spawner, control));
    server::serve(ours, process).map_err(SandboxError::Io)
}

/// A node holds some ten descriptors for each pod, and containers inherit the limit.
fn allow_many_files() -> Result<(), SandboxError> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}

/// Tells the launcher the cluster process's pid, as the launcher sees it: the mounted `/proc` is
/// still that of the launcher's PID namespace.
fn tell_running(sync: &mut UnixStream) -> io::Result<()> {
    let link = std::fs::read_link("/proc/self")?;
    let pid = link.to_str().and_then(|name| name.parse::<i32>().ok());
    let pid = pid.ok_or_else(|| io::Error::other("/proc/self does not name a process"))?;
    sync.write_all(&[Step::Running as u8])?;
    sync.write_all(&pid.to_le_bytes())
}

/// Forking goes on with one thread only; others would leave their locks held for ever.
fn refuse_threads() -> Result<(), SandboxError> {
    let deadline = Instant::now() + THREADS_NAME_THEMSELVES;
    loop {
        match own_threads().map_err(SandboxError::Io)? {
            0 | 1 => return Ok(()),
            _ if Instant::now() < deadline => std::thread::yield_now(),
            threads => return Err(SandboxError::Threads(threads)),
        }
    }
}

/// How many threads there are besides jemalloc's, which hold no lock over a fork: it registers
/// fork handlers.
fn own_threads() -> io::Result<usize> {
    let mut count = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let name = std::fs::read_to_string(task?.path().join("comm"));
        if !name.is_ok_and(|name| name.starts_with("jemalloc")) {
            count += 1;
        }
    }
    Ok(count)
}
