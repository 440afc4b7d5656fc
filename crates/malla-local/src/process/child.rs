//! A container's init: builds the container around itself, starts the main command, reaps.
//!
//! Runs in a fresh child of pid 1. Invariant: never returns; what goes wrong before the command
//! runs is told over the status socket, in words a user can act on.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{
    Gid, Pid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, execve, fchown, isatty, setgroups,
    sethostname, setresgid, setresuid, setsid,
};

use super::message::{self, Progress};
use super::rootfs::{self, HOST};
use super::server::RequestFds;
use super::spec::{CommandSpec, ContainerSpec, Credentials};
use crate::sys::{self, Cloned};

/// What containerd reports for a container that could not be set up ("StartError").
pub(super) const EXIT_SETUP_FAILED: i32 = 128;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Builds the container and runs its main command to the end.
pub(super) fn run(fds: RequestFds) -> ! {
    let main = match prepare(&fds).and_then(|command| start_main(&fds, &command)) {
        Ok(main) => main,
        Err(error) => fail(&fds, &error),
    };
    // From here on this process only waits; holding the command's pipes would keep logs open.
    sys::close_everything();
    sys::exit_now(reap_until(main))
}

/// Runs `command` in this very process; returns only on failure.
pub(super) fn execute(fds: &RequestFds, command: &CommandSpec) -> io::Error {
    match become_command(fds, command) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Tells the node what went wrong, and ends.
pub(super) fn fail(fds: &RequestFds, error: &io::Error) -> ! {
    let error = error.to_string();
    let _node_gone = message::send(fds.status.as_fd(), &Progress::Failed { error }, &[]);
    sys::exit_now(EXIT_SETUP_FAILED)
}

fn prepare(fds: &RequestFds) -> io::Result<CommandSpec> {
    let spec: ContainerSpec = message::from_memory(&fds.spec)?;
    let _name = nix::sys::prctl::set_name(c"malla-pause");
    setns(&fds.place, CloneFlags::CLONE_NEWNET)
        .map_err(|error| context("join the pod's network namespace", error.into()))?;
    sethostname(&spec.hostname)?;
    rootfs::enter(&spec.root)?;
    Ok(spec.command)
}

fn start_main(fds: &RequestFds, command: &CommandSpec) -> io::Result<Pid> {
    match sys::clone_process(0)? {
        Cloned::Child => fail(fds, &execute(fds, command)),
        Cloned::Parent { pid, pidfd } => {
            message::send(fds.status.as_fd(), &Progress::Main, &[pidfd.as_fd()])?;
            Ok(pid)
        }
    }
}

/// Waits for every child, as pid 1 must, until the main one has ended.
fn reap_until(main: Pid) -> i32 {
    loop {
        match waitpid(None::<Pid>, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == main => return code,
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => return 128 + signal as i32,
            Err(nix::errno::Errno::ECHILD) => return EXIT_SETUP_FAILED,
            _ => {}
        }
    }
}

fn become_command(fds: &RequestFds, command: &CommandSpec) -> io::Result<std::convert::Infallible> {
    setsid()?;
    if command.terminal {
        use_terminal(&open_terminal(fds)?)?;
    } else {
        dup2_stdin(&fds.stdin)?;
        dup2_stdout(&fds.stdout)?;
        dup2_stderr(&fds.stderr)?;
    }
    umask(Mode::from_bits_truncate(0o022));
    give_streams(&command.credentials)?;
    enter_directory(&command.cwd)?;
    take_credentials(&command.credentials)?;
    sys::reset_signals()?;
    let path = find_program(command)?;
    let argv = c_strings(command.argv.iter().cloned(), "an argument")?;
    let pairs = command
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    let env = c_strings(pairs, "an environment variable")?;
    let program = c_string(path.to_string_lossy().into_owned(), "the program's path")?;
    execve(&program, &argv, &env)
        .map_err(|error| context(&format!("exec {}", path.display()), error.into()))
}

/// Opens a pseudo-terminal of the container and hands its other end to the node.
fn open_terminal(fds: &RequestFds) -> io::Result<OwnedFd> {
    let open = || -> io::Result<_> {
        let node_end = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&node_end)?;
        unlockpt(&node_end)?;
        let name = ptsname_r(&node_end)?;
        let terminal = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY)
            .open(name)?;
        Ok((node_end, terminal))
    };
    let (node_end, terminal) = open().map_err(|error| context("open a terminal", error))?;
    message::send(fds.status.as_fd(), &Progress::Terminal, &[node_end.as_fd()])?;
    Ok(terminal.into())
}

fn use_terminal(terminal: &OwnedFd) -> io::Result<()> {
    sys::set_controlling_terminal(terminal.as_fd())?;
    dup2_stdin(terminal)?;
    dup2_stdout(terminal)?;
    dup2_stderr(terminal)?;
    Ok(())
}

/// Gives the standard streams to the container's user, who else could not open `/dev/stdout` by
/// name. Devices of the machine, such as `/dev/null`, stay whose they are.
fn give_streams(credentials: &Credentials) -> io::Result<()> {
    let owner = (
        Some(Uid::from_raw(credentials.uid)),
        Some(Gid::from_raw(credentials.gid)),
    );
    for stream in [
        io::stdin().as_fd(),
        io::stdout().as_fd(),
        io::stderr().as_fd(),
    ] {
        let kind = SFlag::from_bits_truncate(fstat(stream)?.st_mode & SFlag::S_IFMT.bits());
        if kind == SFlag::S_IFIFO || isatty(stream)? {
            fchown(stream, owner.0, owner.1)
                .map_err(|error| context("own the standard streams", error.into()))?;
        }
    }
    Ok(())
}

fn enter_directory(path: &Path) -> io::Result<()> {
    if std::env::set_current_dir(path).is_ok() {
        return Ok(());
    }
    std::fs::create_dir_all(path)
        .and_then(|()| std::env::set_current_dir(path))
        .map_err(|error| context(&format!("enter workingDir {}", path.display()), error))
}

fn take_credentials(credentials: &Credentials) -> io::Result<()> {
    let wanted = credentials.capabilities.mask();
    sys::limit_bounding_capabilities(wanted)
        .map_err(|error| context("drop capabilities", error))?;
    let become_user = || -> nix::Result<()> {
        let groups: Vec<Gid> = credentials
            .groups
            .iter()
            .map(|gid| Gid::from_raw(*gid))
            .collect();
        setgroups(&groups)?;
        let gid = Gid::from_raw(credentials.gid);
        setresgid(gid, gid, gid)?;
        let uid = Uid::from_raw(credentials.uid);
        setresuid(uid, uid, uid)
    };
    become_user().map_err(|error| {
        let who = format!("become uid {} gid {}", credentials.uid, credentials.gid);
        context(&who, error.into())
    })?;
    if credentials.uid == 0 {
        sys::set_capabilities(wanted).map_err(|error| context("set capabilities", error))?;
    }
    if credentials.no_new_privileges {
        nix::sys::prctl::set_no_new_privs()?;
    }
    Ok(())
}

/// Looks the first word up in PATH, as a shell would.
fn find_program(command: &CommandSpec) -> io::Result<PathBuf> {
    let name = command.argv.first().map_or("", String::as_str);
    if name.contains('/') {
        return visible(Path::new(name));
    }
    let path = command
        .env
        .iter()
        .rev()
        .find(|(key, _)| key == "PATH")
        .map_or(DEFAULT_PATH, |(_, value)| value);
    path.split(':')
        .filter(|directory| !directory.is_empty())
        .map(|directory| Path::new(directory).join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("exec: {name:?}: executable file not found in PATH ({path})"),
            )
        })
}

/// Says so when a program of the machine is at a place that containers have for themselves.
fn visible(program: &Path) -> io::Result<PathBuf> {
    let on_host = Path::new(HOST).join(program.strip_prefix("/").unwrap_or(program));
    if program.is_absolute() && !program.exists() && on_host.exists() {
        let problem = format!(
            "{} is not visible in containers, which have /tmp, /run and /var/tmp for themselves: put it elsewhere",
            program.display()
        );
        return Err(io::Error::new(io::ErrorKind::NotFound, problem));
    }
    Ok(program.to_path_buf())
}

fn c_strings(
    texts: impl Iterator<Item = String>,
    what: &str,
) -> io::Result<Vec<std::ffi::CString>> {
    texts.map(|text| c_string(text, what)).collect()
}

fn c_string(text: String, what: &str) -> io::Result<std::ffi::CString> {
    std::ffi::CString::new(text)
        .map_err(|_| io::Error::other(format!("{what} contains a NUL byte")))
}

pub(super) fn context(doing: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing}: {error}"))
}
