//! Listening sockets that another process opened for us (hot restart, socket activation).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use socket2::Socket;
use tokio::net::TcpListener;

use super::SocketError;

/// A listener on the socket behind `fd`, which an ancestor left open for us. The descriptor is
/// duplicated: `fd` itself stays open and stays the caller's.
///
/// # Errors
/// When `fd` is not open or is no listening socket.
pub fn listener_from_fd(fd: RawFd) -> Result<TcpListener, SocketError> {
    let refuse = |source| SocketError::Inherit { fd, source };
    if fd < 0 {
        return Err(refuse(io::ErrorKind::InvalidInput.into()));
    }
    // SAFETY: `fd` is not -1, and the borrow ends with the statement that duplicates it. Should `fd`
    // not be open, `dup` answers EBADF and nothing has been read or written.
    let duplicate = unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned();
    let socket = Socket::from(duplicate.map_err(refuse)?);
    if !socket.is_listener().map_err(refuse)? {
        return Err(refuse(io::ErrorKind::InvalidInput.into()));
    }
    socket.set_nonblocking(true).map_err(refuse)?;
    TcpListener::from_std(socket.into()).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[tokio::test]
    async fn a_listener_is_taken_over_and_other_files_are_refused() {
        let original = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inherited = listener_from_fd(original.as_raw_fd()).unwrap();
        assert_eq!(
            inherited.local_addr().unwrap(),
            original.local_addr().unwrap()
        );
        let file = tempfile::tempfile().unwrap();
        assert!(listener_from_fd(file.as_raw_fd()).is_err());
        assert!(listener_from_fd(-1).is_err());
        assert!(listener_from_fd(900_000).is_err());
    }
}
