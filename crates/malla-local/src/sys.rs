//! The few system calls that no safe wrapper offers.
//!
//! Invariant: this is the crate's only file with `unsafe`; each function takes and returns owned
//! or borrowed descriptors, never raw numbers.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;

/// What [`clone_process`] returns on either side.
#[derive(Debug)]
pub(crate) enum Cloned {
    Parent { pid: Pid, pidfd: OwnedFd },
    Child,
}

/// Terminal size as `TIOCSWINSZ` takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WindowSize {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// `fork` that also enters new namespaces (`CLONE_NEW*` flags) and yields a pidfd (clone3, Linux 5.3).
///
/// The caller must be single-threaded: the child goes on with a copy of its memory.
pub(crate) fn clone_process(namespaces: libc::c_int) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: an all-zero clone_args is valid: no stack, so the child runs on a copy of ours.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_PIDFD | namespaces) as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: args outlives the call and its size is passed along; without CLONE_VM the child's
    // memory is its own.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(Cloned::Child),
        _ => Ok(Cloned::Parent {
            pid: Pid::from_raw(pid as libc::pid_t),
            // SAFETY: on success the kernel stored a fresh descriptor of ours in pidfd.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// `fork`. Sound only while the process is single-threaded, which [`crate::sandbox`] checks.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the child may run any code because no other thread can hold a lock.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child)),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// A descriptor for a process of this PID namespace.
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: plain integers go in; a fresh descriptor comes out on success.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Signals the process behind a pidfd; a process that has ended is no error.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    // SAFETY: the siginfo pointer may be null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as libc::c_int,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ESRCH) => Ok(()),
        _ => Err(error),
    }
}

/// Makes the mount at `path` read-only, with every mount below it if `recursive` (Linux 5.12).
pub(crate) fn set_mount_read_only(path: &CStr, recursive: bool) -> io::Result<()> {
    // SAFETY: an all-zero mount_attr is valid.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = libc::MOUNT_ATTR_RDONLY;
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path is NUL-terminated, attributes outlives the call and its size is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw mut attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Drops every capability outside `keep` (a bit mask) from the bounding set, for good.
pub(crate) fn limit_bounding_capabilities(keep: u64) -> io::Result<()> {
    for capability in 0..64 {
        if keep & (1 << capability) != 0 {
            continue;
        }
        // SAFETY: integers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if result != 0 {
            let error = io::Error::last_os_error();
            // EINVAL: past the kernel's last capability.
            if error.raw_os_error() == Some(libc::EINVAL) {
                return Ok(());
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Sets the permitted and effective sets to `mask` and clears the inheritable one (capset, v3).
pub(crate) fn set_capabilities(mask: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522; // linux/capability.h
    let half = |word: u32| Data {
        effective: word,
        permitted: word,
        inheritable: 0,
    };
    let header = Header {
        version: LINUX_CAPABILITY_VERSION_3,
        pid: 0,
    };
    let data = [half(mask as u32), half((mask >> 32) as u32)];
    // SAFETY: version 3 takes one header and two data records; both outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Undoes what a parent may have left behind: ignored signals, handlers and a signal mask.
pub(crate) fn reset_signals() -> nix::Result<()> {
    for signal in Signal::iterator() {
        if matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            continue;
        }
        // SAFETY: the default disposition runs no code of ours.
        unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) }?;
    }
    SigSet::empty().thread_set_mask()
}

/// Makes `terminal` the controlling terminal of this session.
pub(crate) fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sets a terminal's size; its foreground processes get SIGWINCH.
pub(crate) fn set_window_size(terminal: impl AsFd, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    let result = unsafe {
        libc::ioctl(
            terminal.as_fd().as_raw_fd(),
            libc::TIOCSWINSZ,
            &raw const size,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes over a descriptor that `SCM_RIGHTS` just made for this process.
pub(crate) fn adopt(received: RawFd) -> OwnedFd {
    // SAFETY: recvmsg installed the descriptor for us and nothing else knows its number.
    unsafe { OwnedFd::from_raw_fd(received) }
}

/// Registers a descriptor with the runtime.
pub(crate) fn watch_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd always returns the same descriptor, and keeps it open.
    unsafe { AsyncFd::register(fd) }.map_err(Into::into)
}

/// Marks every descriptor from 3 on close-on-exec, so that no command inherits what its
/// ancestors left open.
pub(crate) fn close_on_exec_all() -> io::Result<()> {
    // SAFETY: integers only; no descriptor is closed before an exec.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Closes every descriptor; only for a process that will not return to code that owns one.
pub(crate) fn close_everything() {
    // SAFETY: the caller never drops an owned descriptor again: it ends by exit_now.
    unsafe { libc::syscall(libc::SYS_close_range, 0_u32, u32::MAX, 0) };
}

/// Ends this process at once: no destructors, no buffered output of the parent's.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: never returns; the kernel releases everything.
    unsafe { libc::_exit(code) }
}
