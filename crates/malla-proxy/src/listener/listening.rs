//! What a listener listens with: TCP or Unix sockets, one for each worker.
//!
//! Invariant: a Unix socket's permissions are set before anybody can connect.
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use malla_proxy_config::address::Address;
use malla_runtime::socket::canonical;
use socket2::{Domain, SockAddr, Socket as Raw, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::connection::End;
use crate::transport::{Socket, unix_name};

/// Connections to a Unix socket that wait to be accepted; the kernel has its own limit below.
const BACKLOG: i32 = 4096;

/// A listening socket between two threads.
#[derive(Debug)]
pub enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// A connection between two threads.
#[derive(Debug)]
pub enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A listening socket of a worker.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Arc<str>),
}

impl Listening {
    /// Listens on a Unix socket, in place of one that was left behind; `mode` is for its file, 0 leaves it.
    ///
    /// # Errors
    /// When the path is no socket's or cannot be written.
    pub fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        let left = fs::symlink_metadata(path).ok();
        if left.is_some_and(|file| file.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let socket = Raw::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(unix_name(path))?)?;
        if mode != 0 {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        socket.listen(BACKLOG)?;
        Ok(Self::Unix(socket.into()))
    }

    /// The same socket once more: whoever accepts first has the connection.
    ///
    /// # Errors
    /// When file descriptors run out.
    pub fn share(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }
}

/// Where a Unix socket listens, as connections show it.
pub fn unix_end(address: &Address) -> End {
    End::Unix(address.to_string().into())
}

impl Listener {
    /// Takes over `socket`, which listens at `end`, on this thread.
    ///
    /// # Errors
    /// When the runtime refuses it.
    pub fn new(socket: Listening, end: &End) -> io::Result<Self> {
        match socket {
            Listening::Tcp(socket) => TcpListener::from_std(socket).map(Self::Tcp),
            Listening::Unix(socket) => {
                let name = Arc::from(end.to_string());
                UnixListener::from_std(socket).map(|socket| Self::Unix(socket, name))
            }
        }
    }

    /// The next connection and who its client is: of a Unix socket, what the listener is called. Cancel-safe.
    ///
    /// # Errors
    /// The system's.
    pub async fn accept(&self) -> io::Result<(Socket, End)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((Socket::Tcp(stream), End::Ip(canonical(peer))))
            }
            Self::Unix(socket, name) => {
                let (stream, _) = socket.accept().await?;
                Ok((Socket::Unix(stream), End::Unix(Arc::clone(name))))
            }
        }
    }
}

impl Detached {
    /// Takes a connection off this thread's runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn of(socket: Socket) -> io::Result<Self> {
        match socket {
            Socket::Tcp(socket) => socket.into_std().map(Self::Tcp),
            Socket::Unix(socket) => socket.into_std().map(Self::Unix),
        }
    }

    /// Puts it on this thread's.
    ///
    /// # Errors
    /// The system's.
    pub fn attach(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(socket) => TcpStream::from_std(socket).map(Socket::Tcp),
            Self::Unix(socket) => UnixStream::from_std(socket).map(Socket::Unix),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::Listening;

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        drop(Listening::unix(&path, 0).unwrap());
        assert!(path.exists());
        let _again = Listening::unix(&path, 0o600).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let file = folder.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        Listening::unix(&file, 0).unwrap_err();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    }
}
