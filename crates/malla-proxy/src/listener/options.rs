//! `socket_options` and the backlog of listening sockets: what is set here is what accepted sockets start with.
#![allow(unsafe_code)]
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use malla_proxy_config::listener::{Listener, SocketOption, SocketValue};
use socket2::SockRef;

use super::listening::Listening;

/// Sets what the listener says on a socket that listens already.
///
/// # Errors
/// When the kernel refuses an option; the error names it.
pub(super) fn set(socket: &Listening, listener: &Listener) -> io::Result<()> {
    let socket = match socket {
        Listening::Tcp(socket) => socket.as_fd(),
        Listening::Unix(socket) => socket.as_fd(),
    };
    if let Some(backlog) = listener.backlog {
        // Listening again changes the length of the queue and nothing else.
        SockRef::from(&socket).listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    }
    set_all(socket, &listener.socket_options)
}

/// Sets every option.
///
/// # Errors
/// Likewise.
pub(crate) fn set_all(socket: BorrowedFd<'_>, options: &[SocketOption]) -> io::Result<()> {
    options.iter().try_for_each(|option| {
        set_one(socket, option).map_err(|error| {
            let (level, name) = (option.level, option.name);
            io::Error::other(format!("socket option {level}/{name}: {error}"))
        })
    })
}

fn set_one(socket: BorrowedFd<'_>, option: &SocketOption) -> io::Result<()> {
    let number;
    let bytes: &[u8] = match &option.value {
        SocketValue::Number(value) => {
            number = value.to_ne_bytes();
            &number
        }
        SocketValue::Bytes(bytes) => bytes,
    };
    let length = libc::socklen_t::try_from(bytes.len()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel reads `length` bytes of a slice that has as many.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            option.level,
            option.name,
            bytes.as_ptr().cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
